"""Files of any size, read and written while they flow, with a few MiB of memory each.

Two implementations, as of `hpcgate.ssh.files.protocol.RemoteFiles`: `hpcgate.ssh.files.sftp_streams.SftpStreams` and
`hpcgate.ssh.files.command_streams.CommandStreams`. Both are lent by `hpcgate.ssh.session.Session.bulk`.
"""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.files.private_directory import PrivateDirectory
from hpcgate.ssh.files.protocol import Attributes, Entry, RemoteFiles, Replacing
from hpcgate.ssh.runner import Runner

PATIENCE = 120.0
"""Seconds without any progress after which a stream is given up."""
SYNC_PATIENCE = 900.0
"""Seconds that it may take to have a file on disk."""

Ready = Callable[[bytes], Awaitable[None]]
"""Is told the path of the whole temporary file just before it gets its name; refuses by raising. It is told of no path,
of an empty one, where the file's content is about to be written in place."""


class OpenFile(Protocol):
    """A regular file that is open for reading: the same file to the end, whatever its name comes to mean.

    Attributes:
        attributes: As they were when it was opened.
    """

    attributes: Attributes

    def blocks(self, offset: int, size: int | None) -> AsyncGenerator[bytes]:
        """Yield `size` bytes from `offset`, in order; None is all. Fewer come only if the file has become shorter."""


class Streams(RemoteFiles, Protocol):
    """The files of one system as one user sees them, for what streams. Errors are those of `RemoteFiles`."""

    def open(self, path: bytes) -> AbstractAsyncContextManager[OpenFile]:
        """Open a regular file for reading."""

    def scan(
        self, path: bytes, *, hidden: bool = True, recursive: bool = False, follow: bool = False, names: bool = True
    ) -> AsyncGenerator[list[Entry]]:
        """Yield what `RemoteFiles.listing` returns, a part at a time, however much it is."""

    async def replace(
        self,
        path: bytes,
        content: AsyncIterable[bytes],
        *,
        sync: bool = False,
        exclusive: bool = False,
        ready: Ready | None = None,
        how: Replacing = Replacing.auto,
    ) -> int:
        """Replace or create a file and return its size in bytes: atomically, as `RemoteFiles.write` does, if it may.

        What is written in place is first taken as a whole, so that a client who breaks off changes nothing.

        Args:
            path: The file.
            content: Its bytes. Whatever it raises leaves the old file as it was.
            sync: Have the content on disk before the file gets its name (fsync(2)).
            exclusive: Only make a new file; nobody else's is ever replaced.
            ready: Asked just before the file gets its name.
            how: Whether it may be written in place.

        Raises:
            AlreadyExists: There is a file, and `exclusive` is set.
        """

    async def extend(self, path: bytes, content: AsyncIterable[bytes], *, offset: int) -> int:
        """Write into an existing file from `offset` on and return where the content ends.

        Whatever fails: what was written has no gap, and the file ends with it. If the content's own source fails, that
        is all that it gave; if writing or closing does, nothing, for the file system may have lost what it had taken.
        """

    async def create(self, path: bytes, *, private: bool = False) -> None:
        """Make an empty file, with the mode that the user's umask leaves, or for nobody else to read if `private`.

        Raises:
            AlreadyExists: The path is taken.
        """

    async def truncate(self, path: bytes, size: int) -> None:
        """Cut a file to a size in bytes."""

    async def sync(self, path: bytes) -> None:
        """Have a file's content on disk (fsync(2))."""

    async def move(self, source: bytes, target: bytes, *, exclusive: bool = False) -> None:
        """Rename, replacing `target` if it exists, or failing then if `exclusive` is set.

        Raises:
            AlreadyExists: There is a target, and `exclusive` is set.
        """

    async def resolve(self, path: bytes) -> bytes:
        """Return a path with its links followed as far as they are for writing.

        Raises:
            PermissionDenied: A link on it is not followed for writing.
        """

    async def make_private(self, directory: bytes, name: bytes) -> PrivateDirectory:
        """Make a directory of the user's alone in another one.

        Raises:
            AlreadyExists: The name is taken.
            PermissionDenied: The user may not, or the file system keeps no owners.
        """

    async def private(self, directory: bytes, name: bytes) -> PrivateDirectory:
        """Return a directory that `make_private` has made.

        Raises:
            PathNotFound: There is none, or it is not the user's alone.
        """

    async def remove_private(self, directory: bytes, name: bytes) -> None:
        """Remove a directory that `make_private` has made, if it is empty, else leave it."""


class StreamRunner(Runner, Protocol):
    """Runs commands, those that stream too; a session."""

    def process(
        self, argv: Sequence[str | bytes], *, stall: float, env: dict[str, str] | None = None
    ) -> AbstractAsyncContextManager[Process]:
        """Start a command to feed and read while it runs."""


async def cut(content: AsyncIterable[bytes], size: int) -> AsyncIterator[bytes]:
    """Yield the same bytes in blocks of `size`, the last one shorter."""
    parts: list[bytes] = []
    held = 0
    async for part in content:
        parts.append(part)
        held += len(part)
        if held < size:
            continue
        joined = parts[0] if len(parts) == 1 else b"".join(parts)
        whole = held - held % size
        for start in range(0, whole, size):
            yield joined if held == size else joined[start : start + size]
        held -= whole
        parts = [joined[whole:]] if held else []
    if held:
        yield b"".join(parts)
