"""Resumable uploads: the tus protocol 1.0 (https://tus.io/protocols/resumable-upload), without its HTTP.

All state lies on the login node beside the file that is to be, in the directory ``.hpcgate-upload-<id>``: the content
so far in ``.hpcgate-content``, what the client said of it in ``.hpcgate-state``. So any process can go on with any
upload, and the offset is what the login node says that the file's size is. Who writes has made ``.hpcgate-lock`` with
its token in it and looks now and then whether it is still there: another process that finds the lock taken and wants to
write overwrites it and waits until that has been noticed.

The directory is the user's alone (`hpcgate.ssh.files.private_directory`), for the one that it lies in may be one that
others write, who would plant links there. The files are the user's, who may write anything into them: nothing in them
is a path.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import secrets
import stat
import time
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpcgate.errors import (
    AlreadyExists,
    BadRequest,
    ChecksumMismatch,
    Conflict,
    GatewayError,
    Gone,
    IsADirectory,
    Locked,
    NotADirectory,
    NotFound,
    PathNotFound,
    TooLarge,
)
from hpcgate.ssh.files.command_files import ADOPT
from hpcgate.ssh.files.coreutils_errors import error_from_stderr, naming, quote
from hpcgate.ssh.files.footing import OWN, untrusted
from hpcgate.ssh.files.private_directory import PrivateDirectory
from hpcgate.ssh.files.streams import SYNC_PATIENCE, Streams
from hpcgate.ssh.session import Session

CHECKSUMS = tuple(name for name in ("sha1", "sha256", "sha512", "md5") if name in hashlib.algorithms_available)
"""The algorithms of the checksum extension; sha1 is the one that every server has to know."""
MAX_STATE = 64 * 1024
"""Bytes of a state file."""
MAX_METADATA = 16 * 1024
"""Characters of a client's metadata."""
MAX_PARTS = 1000
"""Uploads that one file may be made of."""
LOOK = 1.0
"""Seconds between a writer's looks at its lock."""
GRACE = 3.0
"""Seconds until a writer of another process must have noticed that its lock is taken."""
GIVE_WAY = 15.0
"""Seconds that an earlier request of the same process has to let go of an upload."""
REMEMBERED = 10_000
"""Uploads just completed that are remembered, for clients that did not get the answer."""

_ID = re.compile(r"[0-9a-f]{32}")
_HEADER_TEXT = r"^[\t\x20-\x7e\u00a0-\u00ff]*$"
"""What a header can carry: the metadata is told in one."""
_PREFIX = b".hpcgate-upload-"
_CONTENT = b".hpcgate-content"
_STATE = b".hpcgate-state"
_LOCK = b".hpcgate-lock"
# $1 the directory, $2 minutes. Uploads that have rested for too long, and those without content, which a process left
# that ended between two steps. Earlier versions kept an upload in files of that name, not in a directory.
SWEEP = (
    OWN
    + """\
follow "$1"; enter "$real"
for d in .hpcgate-upload-????????????????????????????????; do
  [ -d "$d" ] && [ ! -L "$d" ] && [ -O "$d" ] || continue
  if [ -f "$d/.hpcgate-content" ]; then old=$(find "$d/.hpcgate-content" -mmin "+$2")
  else old=$(find "$d" -prune -mmin +60)
  fi
  if [ -n "$old" ]; then ( own . "$d"; rm -f -- ./.hpcgate-* ) && rmdir -- "$d"; fi
done 2>/dev/null
find . -maxdepth 1 -type f -user "$(id -u)" -name '.hpcgate-upload-*' -mmin "+$2" -exec rm -f -- {} + 2>/dev/null
exit 0
"""
)
# $1 whether it is for nobody else to read yet, $2 the new file, then the parts, each as the directory and the name of a
# directory in it; what the disk does not take is not left there.
JOIN = (
    OWN
    + """\
[ -z "$1" ] || umask 077
new=$2
shift 2
parts() {
  while [ $# -gt 0 ]; do
    ( own "$1" "$2"; exec cat -- ./.hpcgate-content ) || return
    shift 2
  done
}
set -C
parts "$@" >"$new" && sync -- "$new" || { rm -f -- "$new"; exit 1; }
"""
)

ADOPT_NEW = f'{ADOPT}adopt "$@"'


class State(BaseModel):
    """What is kept of an upload besides its content.

    Attributes:
        name: The name of the file that is to be, in its directory, in base64.
        length: How many bytes it will have; None if the client has not said yet.
        metadata: The client's own, as it was sent.
        partial: Whether it is only there to become a part of another.
        unverified: From where on a checksum has not been compared yet.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(max_length=400)
    length: int | None = Field(default=None, ge=0, lt=2**63)
    metadata: str = Field(default="", max_length=MAX_METADATA, pattern=_HEADER_TEXT)
    partial: bool = False
    unverified: int | None = Field(default=None, ge=0, lt=2**63)

    @classmethod
    def of(cls, name: bytes, length: int | None, metadata: str, *, partial: bool) -> "State":
        """Make the state of a new upload."""
        return cls(name=base64.b64encode(name).decode(), length=length, metadata=metadata, partial=partial)

    @property
    def filename(self) -> bytes:
        """The name of the file that is to be.

        Raises:
            BadRequest: It is none.
        """
        name = self.name_there
        if name is None:
            raise BadRequest("The state of the upload is damaged.")
        return name

    @property
    def name_there(self) -> bytes | None:
        """The same, None if it is none."""
        try:
            name = base64.b64decode(self.name, validate=True)
        except (binascii.Error, ValueError):
            return None
        return None if not name or b"/" in name or b"\0" in name or name in (b".", b"..") else name


@dataclass(frozen=True, slots=True)
class TusUpload:
    """An upload as it stands.

    Attributes:
        id: Its id.
        state: What is kept of it.
        offset: How many bytes there are.
        expires: When it expires if nothing comes, Unix seconds; None for a complete one.
    """

    id: str
    state: State
    offset: int
    expires: int | None

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return self.offset == self.state.length


@dataclass(frozen=True, slots=True)
class ExpectedDigest:
    """What a chunk must have.

    Attributes:
        algorithm: By hashlib's name.
        value: The digest.
    """

    algorithm: str
    value: bytes

    @classmethod
    def parse(cls, header: str) -> "ExpectedDigest":
        """Read the header Upload-Checksum.

        Raises:
            BadRequest: It is malformed, or the algorithm is not known.
        """
        algorithm, _, text = header.strip().partition(" ")
        if algorithm not in CHECKSUMS:
            raise BadRequest(f"Upload-Checksum: the algorithms are {', '.join(CHECKSUMS)}.")
        try:
            return cls(algorithm, base64.b64decode(text.strip(), validate=True))
        except (binascii.Error, ValueError):
            raise BadRequest("Upload-Checksum: the checksum must be base64.") from None


def parse_metadata(header: str) -> dict[str, bytes]:
    """Read the header Upload-Metadata.

    Raises:
        BadRequest: It is malformed.
    """
    if len(header) > MAX_METADATA:
        raise BadRequest(f"Upload-Metadata: more than {MAX_METADATA} characters.")
    found: dict[str, bytes] = {}
    for pair in header.split(",") if header.strip() else ():
        key, _, text = pair.strip().partition(" ")
        try:
            value = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise BadRequest("Upload-Metadata: values must be base64.") from None
        if not key or not key.isascii() or key in found:
            raise BadRequest("Upload-Metadata: keys must be ASCII, not empty and unique.")
        found[key] = value
    return found


class Interruption:
    """Ends a stream of content from outside."""

    def __init__(self) -> None:
        self._error: GatewayError | None = None
        self._deadline: asyncio.Timeout | None = None

    @property
    def error(self) -> GatewayError | None:
        """Why it was interrupted."""
        return self._error

    def interrupt(self, error: GatewayError) -> None:
        """Let the stream fail with `error` as soon as it waits for its source."""
        self._error = self._error or error
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def watch(self, content: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """Yield the same content until interrupted."""
        source = aiter(content)
        while True:
            try:
                async with asyncio.timeout(None) as self._deadline:
                    if self._error is not None:
                        raise self._error
                    block = await anext(source, None)
            except TimeoutError:
                if self._error is None:
                    raise
                raise self._error from None
            finally:
                self._deadline = None
            if block is None:
                return
            yield block


class UploadRegistry:
    """What one process knows of the uploads that pass through it: who writes to which, and which it has completed."""

    def __init__(self) -> None:
        self._writers: dict[Hashable, tuple[Interruption, asyncio.Event]] = {}
        self._completed: OrderedDict[Hashable, TusUpload] = OrderedDict()

    @asynccontextmanager
    async def write(self, key: Hashable) -> AsyncIterator[Interruption]:
        """Become the writer of an upload; the one before is interrupted: its client has lost patience with it.

        Raises:
            Locked: It does not give way.
        """
        mine = (Interruption(), asyncio.Event())
        give_up = asyncio.get_running_loop().time() + GIVE_WAY
        while (other := self._writers.get(key)) is not None:
            other[0].interrupt(Locked("A later request took over the upload."))
            try:
                async with asyncio.timeout_at(give_up):
                    await other[1].wait()
            except TimeoutError:
                raise Locked("Another request writes to the upload.", headers={"Retry-After": "2"}) from None
        self._writers[key] = mine
        try:
            yield mine[0]
        finally:
            del self._writers[key]
            mine[1].set()

    def remember(self, key: Hashable, upload: TusUpload) -> None:
        """Remember a completed upload."""
        self._completed[key] = upload
        if len(self._completed) > REMEMBERED:
            self._completed.popitem(last=False)

    def completed(self, key: Hashable) -> TusUpload | None:
        """Return an upload that has been completed here not long ago."""
        return self._completed.get(key)


class Uploads:
    """The uploads in one directory.

    Args:
        session: The user's session.
        streams: Its files, as `Session.bulk` lends them.
        directory: The directory.
        registry: What the process knows.
        lifetime: Seconds that an upload may rest before it expires.
    """

    def __init__(
        self, session: Session, streams: Streams, directory: bytes, registry: UploadRegistry, lifetime: float
    ) -> None:
        self._session = session
        self._streams = streams
        self._directory = directory
        self._root = directory.rstrip(b"/") + b"/"
        self._desk = registry
        self._lifetime = lifetime

    async def create(self, name: bytes, length: int | None, metadata: str, *, partial: bool = False) -> TusUpload:
        """Begin an upload.

        Raises:
            NotADirectory, PathNotFound: There is no such directory.
            IsADirectory: The file that is to be is one.
        """
        await self._sweep()
        # What replaces a file is not for others to read before it has that file's mode; a part never is.
        private = partial or await self._exists(self._root + name)
        upload_id = secrets.token_hex(16)
        state = State.of(name, length, metadata, partial=partial)
        try:
            with naming(self._root + name):
                place = await self._streams.make_private(self._directory, self._name(upload_id))
                await self._save(place, state)
                await place.streams.create(place.inside + _CONTENT, private=private)
        except BaseException:
            await self.discard(upload_id)
            raise
        return TusUpload(upload_id, state, 0, int(time.time() + self._lifetime))

    async def find(self, upload_id: str) -> TusUpload:
        """Return an upload as it stands.

        Raises:
            NotFound: There is none.
            Gone: It has expired.
        """
        return (await self._find(upload_id))[0]

    async def _find(self, upload_id: str) -> tuple[TusUpload, PrivateDirectory | None]:
        """Return an upload, and where it lies unless it is complete."""
        try:
            place = await self._streams.private(self._directory, self._name(upload_id))
            return await self._look_at(upload_id, place), place
        except PathNotFound:
            completed = self._desk.completed((self._root, self._key(upload_id)))
            if completed is not None:
                return completed, None
            if await self._outdated(upload_id):
                raise Gone("The upload was begun with an earlier version of the gateway; begin it anew.") from None
            raise NotFound("There is no such upload.") from None

    async def _outdated(self, upload_id: str) -> bool:
        """Say whether an upload lies there as files, as earlier versions had it; they are swept once they are old."""
        try:
            return stat.S_ISREG((await self._streams.stat(self._root + self._name(upload_id), follow=False)).mode)
        except PathNotFound:
            return False

    async def _look_at(self, upload_id: str, place: PrivateDirectory) -> TusUpload:
        state = await self._load(place)
        try:
            content = await place.streams.stat(place.inside + _CONTENT, follow=False)
        except PathNotFound:
            # A process ended between the last two steps of `_publish`, or the content was removed.
            if state.length is None or state.partial or not await self._published(state):
                raise NotFound("There is no such upload.") from None
            return TusUpload(upload_id, state, state.length, None)
        if not stat.S_ISREG(content.mode):
            raise NotFound("There is no such upload.")
        expires = int(content.mtime + self._lifetime)
        if expires < time.time():
            await self._forget(upload_id, place)
            raise Gone("The upload has expired.")
        offset = content.size if state.unverified is None else min(content.size, state.unverified)
        return TusUpload(upload_id, state, offset, expires)

    async def settle(self, upload_id: str) -> TusUpload:
        """Return an upload as it stands, and give a whole one its name if the process that should have has ended.

        Raises:
            NotFound, Gone: As `find`.
        """
        upload = await self.find(upload_id)
        if not upload.complete or upload.state.partial or upload.expires is None:
            return upload
        return await self.append(upload_id, upload.offset, _nothing())

    async def append(
        self,
        upload_id: str,
        offset: int,
        content: AsyncIterable[bytes],
        *,
        length: int | None = None,
        size: int | None = None,
        checksum: ExpectedDigest | None = None,
    ) -> TusUpload:
        """Write on, and give the file its name if that was all of it.

        Args:
            upload_id: The upload.
            offset: Where the content begins, which must be where the upload stands.
            content: The content.
            length: How many bytes the whole will have, if that was left open.
            size: How many bytes the content has, if known.
            checksum: What the content must have.

        Raises:
            Conflict: The upload stands elsewhere.
            TooLarge: That is more than the whole will have.
            ChecksumMismatch: The content does not have the checksum; the upload is as it was.
            Locked: Somebody else writes, or has taken over.
        """
        async with self._writing(upload_id) as writer:
            place, interruption = writer.place, writer.interruption
            upload = await self.find(upload_id)
            state = upload.state
            if offset != upload.offset:
                raise Conflict(f"The upload stands at {upload.offset}, not at {offset}.")
            if upload.complete:
                return await self._finish(upload, writer)
            if length is not None and length != state.length:
                if state.length is not None or length < offset:
                    raise BadRequest("Upload-Length cannot be changed.")
                state = state.model_copy(update={"length": length})
                await self._save(place, state)
            room = None if state.length is None else state.length - offset
            if room is not None and size is not None and size > room:
                raise TooLarge(f"The upload has room for {room} more bytes.")
            if state.unverified is not None or checksum is not None:
                state = await self._unverified(place, state, offset, checksum)
            watched = interruption.watch(_within(content, room))
            if checksum is None:
                end = await place.streams.extend(place.inside + _CONTENT, watched, offset=offset)
            else:
                end = await self._verified(place, watched, offset, checksum, interruption)
                state = state.model_copy(update={"unverified": None})
                await self._save(place, state)
            upload = replace(upload, state=state, offset=end, expires=int(time.time() + self._lifetime))
            return await self._finish(upload, writer) if upload.complete else upload

    async def terminate(self, upload_id: str) -> None:
        """Remove an upload and all of its state.

        Raises:
            NotFound: There is none.
        """
        async with self._writing(upload_id) as writer:
            await self.find(upload_id)
            await self._forget(upload_id, writer.place)
            writer.over = True

    async def discard(self, upload_id: str) -> None:
        """Remove an upload that nobody has been told of, as far as that is possible, even if cancelled meanwhile."""
        with suppress(GatewayError):
            await asyncio.shield(self._discard(upload_id))

    async def _discard(self, upload_id: str) -> None:
        await self._forget(upload_id, await self._streams.private(self._directory, self._name(upload_id)))

    async def join(self, name: bytes, metadata: str, parts: Sequence[tuple["Uploads", str]]) -> TusUpload:
        """Make a file of several partial uploads, which are gone then.

        Raises:
            BadRequest: One is not a partial upload, or not complete.
        """
        if len(parts) > MAX_PARTS:
            raise BadRequest(f"A file may be made of {MAX_PARTS} uploads.")
        private = "private" if await self._exists(self._root + name) else ""
        length = 0
        words: list[str | bytes] = []
        found: list[tuple[Uploads, str, PrivateDirectory]] = []
        for uploads, part_id in parts:
            part, there = await uploads._find(part_id)
            if there is None or not part.state.partial or not part.complete:
                raise BadRequest(f"Upload-Concat: {part_id} is not a complete partial upload.")
            length += part.offset
            words += (uploads._directory, uploads._name(part_id))
            found.append((uploads, part_id, there))
        upload_id = secrets.token_hex(16)
        upload = TusUpload(upload_id, State.of(name, length, metadata, partial=False), length, None)
        try:
            with naming(self._root + name):
                place = await self._streams.make_private(self._directory, self._name(upload_id))
                argv = ["sh", "-c", JOIN, "cat", private, place.inside + _CONTENT, *words]
                done = await place.runner.run(argv, timeout=SYNC_PATIENCE)
                if not done.ok:
                    raise untrusted(done.stderr) or error_from_stderr(done.stderr, "cat")
                await self._publish(upload, place)
            await self._forget(upload_id, place, ())
        except BaseException:
            await self.discard(upload_id)
            raise
        self._desk.remember((self._root, self._key(upload_id)), upload)
        for uploads, part_id, there in found:
            await uploads._forget(part_id, there)
        return upload

    # The steps

    async def _unverified(
        self, place: PrivateDirectory, state: State, offset: int, checksum: ExpectedDigest | None
    ) -> State:
        """Drop what an earlier request left unverified, and note what this one may."""
        if state.unverified is not None:
            await place.streams.truncate(place.inside + _CONTENT, offset)
        state = state.model_copy(update={"unverified": None if checksum is None else offset})
        await self._save(place, state)
        return state

    async def _verified(
        self,
        place: PrivateDirectory,
        content: AsyncIterable[bytes],
        offset: int,
        checksum: ExpectedDigest,
        interruption: Interruption,
    ) -> int:
        digest = hashlib.new(checksum.algorithm, usedforsecurity=False)
        path = place.inside + _CONTENT

        async def hashed() -> AsyncIterator[bytes]:
            async for block in content:
                digest.update(block)
                yield block
            if not hmac.compare_digest(digest.digest(), checksum.value):
                raise ChecksumMismatch("The chunk does not have the checksum that was sent with it.")

        try:
            return await place.streams.extend(path, hashed(), offset=offset)
        except Exception:
            if interruption.error is None:
                await place.streams.truncate(path, offset)
            raise

    async def _finish(self, upload: TusUpload, writer: "_Writer") -> TusUpload:
        if upload.state.partial or upload.expires is None:
            return upload
        await writer.place.streams.sync(writer.place.inside + _CONTENT)
        if writer.interruption.error is not None:
            raise writer.interruption.error
        await self._publish(upload, writer.place)
        await self._forget(upload.id, writer.place, (_STATE, _LOCK))
        writer.over = True
        upload = replace(upload, expires=None)
        self._desk.remember((self._root, self._key(upload.id)), upload)
        return upload

    async def _publish(self, upload: TusUpload, place: PrivateDirectory) -> None:
        """Give the content its name. With that the upload is complete, whatever becomes of the rest."""
        path = place.inside + _CONTENT
        target = place.beside + upload.state.filename
        with suppress(PathNotFound):
            if stat.S_ISDIR((await place.streams.stat(target)).mode):
                shown = quote(self._root + upload.state.filename)
                raise IsADirectory(f"cp: cannot create regular file {shown}: Is a directory")
            done = await place.runner.run(["sh", "-c", ADOPT_NEW, "chmod", target, path])
            if not done.ok:
                raise error_from_stderr(done.stderr, "chmod")
        await place.streams.move(path, target)

    async def _published(self, state: State) -> bool:
        try:
            return (await self._streams.stat(self._root + state.filename)).size == state.length
        except PathNotFound:
            return False

    async def _exists(self, target: bytes) -> bool:
        """Say whether there is a file to replace; one that cannot be is refused."""
        try:
            found = await self._streams.stat(target)
        except PathNotFound:
            if not stat.S_ISDIR((await self._streams.stat(self._root)).mode):
                raise NotADirectory(f"{quote(self._root)}: Not a directory") from None
            return False
        if stat.S_ISDIR(found.mode):
            raise IsADirectory(f"cp: cannot create regular file {quote(target)}: Is a directory")
        return True

    @asynccontextmanager
    async def _writing(self, upload_id: str) -> AsyncIterator["_Writer"]:
        """Be the only one who writes to an upload, here and, as far as that can be, anywhere."""
        async with self._desk.write(self._key(upload_id)) as interruption:
            upload, place = await self._find(upload_id)
            if place is None:
                raise NotFound("There is no such upload.")
            with naming(self._root + (upload.state.name_there or b"")):
                async with self._locked(place, interruption) as writer:
                    yield writer

    @asynccontextmanager
    async def _locked(self, place: PrivateDirectory, interruption: Interruption) -> AsyncIterator["_Writer"]:
        token = secrets.token_hex(16).encode()
        if not await self._first(place, token):
            await place.streams.write(place.inside + _LOCK, _once(token))
            await asyncio.sleep(GRACE)
            if await self._token(place) != token:
                raise Locked("Another request took over the upload.", headers={"Retry-After": "2"})
        writer = _Writer(place, interruption)
        looking = asyncio.create_task(self._look(place, token, interruption))
        try:
            yield writer
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            if not writer.over:
                with suppress(GatewayError):
                    if interruption.error is None or await self._token(place) == token:
                        await _remove(place, _LOCK)

    async def _first(self, place: PrivateDirectory, token: bytes) -> bool:
        """Make the lock and return True, or return False if there is one: the login node says which of two is first."""
        try:
            await place.streams.replace(place.inside + _LOCK, _once(token), exclusive=True)
        except AlreadyExists:
            return False
        return True

    async def _look(self, place: PrivateDirectory, token: bytes, interruption: Interruption) -> None:
        while True:
            await asyncio.sleep(LOOK)
            if await self._token(place) != token:
                interruption.interrupt(Locked("Another request took over the upload."))
                return

    async def _token(self, place: PrivateDirectory) -> bytes | None:
        try:
            return await self._read(place, _LOCK, 100)
        except PathNotFound:
            return None

    async def _read(self, place: PrivateDirectory, name: bytes, size: int) -> bytes:
        # The helper reads in one exchange, but knows whole paths only.
        files = await self._session.files() if place.has_path else place.streams
        return await files.read(place.inside + name, size=size)

    async def _load(self, place: PrivateDirectory) -> State:
        try:
            return State.model_validate_json(await self._read(place, _STATE, MAX_STATE))
        except ValidationError:
            raise BadRequest("The state of the upload is damaged.") from None

    async def _save(self, place: PrivateDirectory, state: State) -> None:
        await place.streams.write(place.inside + _STATE, _once(state.model_dump_json().encode()))

    async def _forget(
        self, upload_id: str, place: PrivateDirectory, names: Sequence[bytes] = (_STATE, _CONTENT, _LOCK)
    ) -> None:
        # State without content is that of an upload which has got its name: the state goes first.
        for name in names:
            await _remove(place, name)
        await self._streams.remove_private(self._directory, self._name(upload_id))

    async def _sweep(self) -> None:
        minutes = max(1, round(self._lifetime / 60))
        await self._session.run(["sh", "-c", SWEEP, "find", self._directory, str(minutes)])

    def _key(self, upload_id: str) -> Hashable:
        return (self._session.system, self._session.username, upload_id)

    def _name(self, upload_id: str) -> bytes:
        if not _ID.fullmatch(upload_id):
            raise NotFound("There is no such upload.")
        return _PREFIX + upload_id.encode()


@dataclass(slots=True)
class _Writer:
    """Who writes to an upload.

    Attributes:
        place: Where it lies.
        interruption: Ends the writing.
        over: Whether nothing is left of the upload.
    """

    place: PrivateDirectory
    interruption: Interruption
    over: bool = False


async def _remove(place: PrivateDirectory, name: bytes) -> None:
    with suppress(PathNotFound):
        await place.streams.remove(place.inside + name)


async def place(streams: Streams, target: bytes, admit: Callable[[bytes], None]) -> tuple[bytes, bytes]:
    """Return the directory and the name of the file that is written when `target` is: links are followed.

    Raises:
        BadRequest: That lies where the user's requests must not go.
    """
    try:
        if stat.S_ISLNK((await streams.stat(target, follow=False)).mode):
            target = await streams.resolve(target)
            admit(target)
    except PathNotFound:
        pass
    directory, _, name = target.rpartition(b"/")
    return directory or b"/", name


async def _nothing() -> AsyncIterator[bytes]:
    empty: tuple[bytes, ...] = ()
    for block in empty:
        yield block


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _within(content: AsyncIterable[bytes], room: int | None) -> AsyncIterator[bytes]:
    async for block in content:
        if room is not None:
            if len(block) > room:
                raise TooLarge("The chunk is larger than what the upload has room for.")
            room -= len(block)
        yield block
