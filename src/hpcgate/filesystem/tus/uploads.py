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
import hashlib
import hmac
import secrets
import stat
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from hpcgate.errors import (
    BadRequest,
    ChecksumMismatch,
    Conflict,
    GatewayError,
    Gone,
    IsADirectory,
    NotADirectory,
    NotFound,
    PathNotFound,
    PermissionDenied,
    TooLarge,
)
from hpcgate.filesystem.tus.headers import ExpectedDigest
from hpcgate.filesystem.tus.lock import Writer, locked
from hpcgate.filesystem.tus.registry import Interruption, UploadRegistry
from hpcgate.filesystem.tus.scripts import ADOPT_NEW, JOIN
from hpcgate.filesystem.tus.state import State, TusUpload
from hpcgate.filesystem.tus.store import CONTENT, LOCK, STATE, UploadStore
from hpcgate.ssh.files.coreutils_errors import error_from_stderr, naming, quote
from hpcgate.ssh.files.footing import untrusted
from hpcgate.ssh.files.private_directory import PrivateDirectory
from hpcgate.ssh.files.streams import SYNC_PATIENCE, Streams
from hpcgate.ssh.session import Session

MAX_PARTS = 1000
"""Uploads that one file may be made of."""


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
        self.store = store = UploadStore(session, streams, directory)
        self._session = session
        self._streams = streams
        self._root = store.root
        self._registry = registry
        self._lifetime = lifetime

    async def create(self, name: bytes, length: int | None, metadata: str, *, partial: bool = False) -> TusUpload:
        """Begin an upload.

        Raises:
            NotADirectory, PathNotFound: There is no such directory.
            IsADirectory: The file that is to be is one.
            PermissionDenied: The file that is there keeps its name: nothing is to be sent for nothing.
        """
        await self.store.sweep(self._lifetime)
        # What replaces a file is not for others to read before it has that file's mode; a part never is.
        private = partial or await self._exists(self._root + name)
        upload_id = secrets.token_hex(16)
        state = State.of(name, length, metadata, partial=partial)
        try:
            with naming(self._root + name):
                place = await self.store.make(upload_id)
                if private and not partial:
                    await self._refuse_held(self._root + name, self._root + self.store.name(upload_id))
                await self.store.save(place, state)
                await place.streams.create(place.inside + CONTENT, private=private)
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
        return (await self.look_up(upload_id))[0]

    async def look_up(self, upload_id: str) -> tuple[TusUpload, PrivateDirectory | None]:
        """Return an upload, and where it lies unless it is complete."""
        try:
            place = await self.store.find(upload_id)
            return await self._look_at(upload_id, place), place
        except PathNotFound:
            completed = self._registry.completed((self._root, self._key(upload_id)))
            if completed is not None:
                return completed, None
            if await self._outdated(upload_id):
                raise Gone("The upload was begun with an earlier version of the gateway; begin it anew.") from None
            raise NotFound("There is no such upload.") from None

    async def _outdated(self, upload_id: str) -> bool:
        """Say whether an upload lies there as files, as earlier versions had it; they are swept once they are old."""
        try:
            return stat.S_ISREG((await self._streams.stat(self._root + self.store.name(upload_id), follow=False)).mode)
        except PathNotFound:
            return False

    async def _look_at(self, upload_id: str, place: PrivateDirectory) -> TusUpload:
        state = await self.store.load(place)
        try:
            content = await place.streams.stat(place.inside + CONTENT, follow=False)
        except PathNotFound:
            # A process ended between the last two steps of `_publish`, or the content was removed.
            if state.length is None or state.partial or not await self._published(state):
                raise NotFound("There is no such upload.") from None
            return TusUpload(upload_id, state, state.length, None)
        if not stat.S_ISREG(content.mode):
            raise NotFound("There is no such upload.")
        expires = int(content.mtime + self._lifetime)
        if expires < time.time():
            await self.store.forget(upload_id, place)
            raise Gone("The upload has expired.")
        offset = content.size if state.unverified is None else min(content.size, state.unverified)
        return TusUpload(upload_id, state, offset, expires)

    async def settle(self, upload_id: str) -> TusUpload:
        """Return an upload as it stands, and give a whole one its name if the process that should have has ended.

        Raises:
            NotFound, Gone: As `find`.
        """
        upload = await self.find(upload_id)
        if not upload.unsettled:
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
                await self.store.save(writer.place, state)
            room = None if state.length is None else state.length - offset
            if room is not None and size is not None and size > room:
                raise TooLarge(f"The upload has room for {room} more bytes.")
            state, end = await self._extend(writer, state, offset, _within(content, room), checksum)
            upload = replace(upload, state=state, offset=end, expires=int(time.time() + self._lifetime))
            return await self._finish(upload, writer) if upload.complete else upload

    async def terminate(self, upload_id: str) -> None:
        """Remove an upload and all of its state.

        Raises:
            NotFound: There is none.
        """
        async with self._writing(upload_id) as writer:
            await self.find(upload_id)
            await self.store.forget(upload_id, writer.place)
            writer.over = True

    async def discard(self, upload_id: str) -> None:
        """Remove an upload that nobody has been told of, as far as that is possible, even if cancelled meanwhile."""
        with suppress(GatewayError):
            await asyncio.shield(self._discard(upload_id))

    async def _discard(self, upload_id: str) -> None:
        await self.store.forget(upload_id, await self.store.find(upload_id))

    async def join(
        self, name: bytes, metadata: str, parts: Sequence[tuple["Uploads", str]], *, most: int | None = None
    ) -> TusUpload:
        """Make a file of several partial uploads, which are gone then.

        Args:
            name: The file's.
            metadata: What the client said of it.
            parts: Where each lies, and its id.
            most: The most bytes that the file may have; None is any number.

        Raises:
            BadRequest: One is not a partial upload, or not complete.
            TooLarge: They are more together than a file may be.
        """
        if len(parts) > MAX_PARTS:
            raise BadRequest(f"A file may be made of {MAX_PARTS} uploads.")
        private = "private" if await self._exists(self._root + name) else ""
        length = 0
        words: list[str | bytes] = []
        found: list[tuple[Uploads, str, PrivateDirectory]] = []
        for uploads, part_id in parts:
            part, there = await uploads.look_up(part_id)
            if there is None or not part.state.partial or not part.complete:
                raise BadRequest(f"Upload-Concat: {part_id} is not a complete partial upload.")
            length += part.offset
            if most is not None and length > most:
                raise TooLarge(f"The upload is larger than {most} bytes.")
            words += (uploads.store.directory, uploads.store.name(part_id))
            found.append((uploads, part_id, there))
        upload_id = secrets.token_hex(16)
        upload = TusUpload(upload_id, State.of(name, length, metadata, partial=False), length, None)
        try:
            with naming(self._root + name):
                place = await self.store.make(upload_id)
                argv = ["sh", "-c", JOIN, "cat", private, place.inside + CONTENT, *words]
                done = await place.runner.run(argv, timeout=SYNC_PATIENCE)
                if not done.ok:
                    raise untrusted(done.stderr) or error_from_stderr(done.stderr, "cat")
                await self._publish(upload, place)
            await self.store.forget(upload_id, place, ())
        except BaseException:
            await self.discard(upload_id)
            raise
        self._registry.remember((self._root, self._key(upload_id)), upload)
        for uploads, part_id, there in found:
            await uploads.store.forget(part_id, there)
        return upload

    async def _extend(
        self,
        writer: Writer,
        state: State,
        offset: int,
        content: AsyncIterable[bytes],
        checksum: ExpectedDigest | None,
    ) -> tuple[State, int]:
        """Write on, and return what is kept of the upload then, and where it stands."""
        place = writer.place
        if state.unverified is not None or checksum is not None:
            state = await self._unverified(place, state, offset, checksum)
        watched = writer.interruption.watch(content)
        if checksum is None:
            return state, await place.streams.extend(place.inside + CONTENT, watched, offset=offset)
        end = await self._verified(place, watched, offset, checksum, writer.interruption)
        state = state.model_copy(update={"unverified": None})
        await self.store.save(place, state)
        return state, end

    async def _unverified(
        self, place: PrivateDirectory, state: State, offset: int, checksum: ExpectedDigest | None
    ) -> State:
        """Drop what an earlier request left unverified, and note what this one may."""
        if state.unverified is not None:
            await place.streams.truncate(place.inside + CONTENT, offset)
        state = state.model_copy(update={"unverified": None if checksum is None else offset})
        await self.store.save(place, state)
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
        path = place.inside + CONTENT

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

    async def _finish(self, upload: TusUpload, writer: Writer) -> TusUpload:
        if upload.state.partial or upload.expires is None:
            return upload
        await writer.place.streams.sync(writer.place.inside + CONTENT)
        if writer.interruption.error is not None:
            raise writer.interruption.error
        await self._publish(upload, writer.place)
        await self.store.forget(upload.id, writer.place, (STATE, LOCK))
        writer.over = True
        upload = replace(upload, expires=None)
        self._registry.remember((self._root, self._key(upload.id)), upload)
        return upload

    async def _publish(self, upload: TusUpload, place: PrivateDirectory) -> None:
        """Give the content its name. With that the upload is complete, whatever becomes of the rest."""
        path = place.inside + CONTENT
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

    async def _refuse_held(self, target: bytes, own: bytes) -> None:
        """Refuse to replace somebody else's file in a sticky directory: it could only be written in place (unlink(2)).

        Args:
            target: The file.
            own: Something of the user's in the same directory.
        """
        directory = await self._streams.stat(self._root)
        if not directory.mode & stat.S_ISVTX:
            return
        user = (await self._streams.stat(own, follow=False)).uid
        if user and user not in (directory.uid, (await self._streams.stat(target, follow=False)).uid):
            raise PermissionDenied(
                f"{quote(target)} is somebody else's in a sticky directory, and a resumable upload is not written in"
                " place: Operation not permitted"
            )

    @asynccontextmanager
    async def _writing(self, upload_id: str) -> AsyncIterator[Writer]:
        """Be the only one who writes to an upload, here and, as far as that can be, anywhere."""
        async with self._registry.write(self._key(upload_id)) as interruption:
            upload, place = await self.look_up(upload_id)
            if place is None:
                raise NotFound("There is no such upload.")
            with naming(self._root + (upload.state.name_there or b"")):
                try:
                    async with locked(self.store, place, interruption) as writer:
                        yield writer
                except (NotFound, Gone):
                    # Whoever ended it could not remove the directory, for the lock was in it that is gone now.
                    with suppress(GatewayError):
                        await self.store.forget(upload_id, place, ())
                    raise

    def _key(self, upload_id: str) -> Hashable:
        return (self._session.system, self._session.username, upload_id)


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


async def _within(content: AsyncIterable[bytes], room: int | None) -> AsyncIterator[bytes]:
    async for block in content:
        if room is not None:
            if len(block) > room:
                raise TooLarge("The chunk is larger than what the upload has room for.")
            room -= len(block)
        yield block
