"""Where an upload lies on the login node: its directory, its state and its lock."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from pydantic import ValidationError

from hpcgate.errors import AlreadyExists, BadRequest, NotFound, PathNotFound
from hpcgate.filesystem.tus.scripts import SWEEP
from hpcgate.filesystem.tus.state import State
from hpcgate.ssh.files.private_directory import PrivateDirectory
from hpcgate.ssh.files.streams import Streams
from hpcgate.ssh.session import Session

MAX_STATE = 64 * 1024
"""Bytes of a state file."""
CONTENT = b".hpcgate-content"
STATE = b".hpcgate-state"
LOCK = b".hpcgate-lock"
_PREFIX = b".hpcgate-upload-"
_ID = re.compile(r"[0-9a-f]{32}")


class UploadStore:
    """The directories of uploads in one directory.

    Args:
        session: The user's session.
        streams: Its files, as `Session.bulk` lends them.
        directory: The directory.
    """

    def __init__(self, session: Session, streams: Streams, directory: bytes) -> None:
        self.session = session
        self.streams = streams
        self.directory = directory
        self.root = directory.rstrip(b"/") + b"/"

    def __repr__(self) -> str:
        return f"<UploadStore {self.directory!r}>"

    async def make(self, upload_id: str) -> PrivateDirectory:
        """Make the directory of an upload."""
        return await self.streams.make_private(self.directory, self.name(upload_id))

    async def find(self, upload_id: str) -> PrivateDirectory:
        """Return the directory of an upload.

        Raises:
            PathNotFound: There is none.
        """
        return await self.streams.private(self.directory, self.name(upload_id))

    async def load(self, place: PrivateDirectory) -> State:
        """Return what is kept of an upload.

        Raises:
            PathNotFound: Nothing is.
            BadRequest: It makes no sense.
        """
        try:
            return State.model_validate_json(await self._read(place, STATE, MAX_STATE))
        except ValidationError:
            raise BadRequest("The state of the upload is damaged.") from None

    async def save(self, place: PrivateDirectory, state: State) -> None:
        """Keep something of an upload."""
        await place.streams.write(place.inside + STATE, _once(state.model_dump_json().encode()))

    async def lock(self, place: PrivateDirectory, token: bytes) -> bool:
        """Make the lock and return True, or return False if there is one: the login node says which of two is first."""
        try:
            await place.streams.replace(place.inside + LOCK, _once(token), exclusive=True)
        except AlreadyExists:
            return False
        return True

    async def relock(self, place: PrivateDirectory, token: bytes) -> None:
        """Take the lock over; who has had it looks now and then."""
        await place.streams.write(place.inside + LOCK, _once(token))

    async def token(self, place: PrivateDirectory) -> bytes | None:
        """Return whose the lock is, None if there is none."""
        try:
            return await self._read(place, LOCK, 100)
        except PathNotFound:
            return None

    async def unlock(self, place: PrivateDirectory) -> None:
        """Remove the lock."""
        await _remove(place, LOCK)

    async def forget(
        self, upload_id: str, place: PrivateDirectory, names: Sequence[bytes] = (STATE, CONTENT, LOCK)
    ) -> None:
        """Remove an upload."""
        # State without content is that of an upload which has got its name: the state goes first.
        for name in names:
            await _remove(place, name)
        await self.streams.remove_private(self.directory, self.name(upload_id))

    async def sweep(self, lifetime: float) -> None:
        """Remove what has rested for longer than so many seconds, and what a process left that ended."""
        minutes = max(1, round(lifetime / 60))
        await self.session.run(["sh", "-c", SWEEP, "find", self.directory, str(minutes)])

    def name(self, upload_id: str) -> bytes:
        """Return the name of the directory of an upload.

        Raises:
            NotFound: No upload has that id.
        """
        if not _ID.fullmatch(upload_id):
            raise NotFound("There is no such upload.")
        return _PREFIX + upload_id.encode()

    async def _read(self, place: PrivateDirectory, name: bytes, size: int) -> bytes:
        # The helper reads in one exchange, but knows whole paths only.
        files = await self.session.files() if place.has_path else place.streams
        return await files.read(place.inside + name, size=size)


async def _remove(place: PrivateDirectory, name: bytes) -> None:
    with suppress(PathNotFound):
        await place.streams.remove(place.inside + name)


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
