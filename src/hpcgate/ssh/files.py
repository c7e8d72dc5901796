"""Files on a login node, whichever way they are reached.

Two implementations: `hpcgate.ssh.sftp_files.SftpFiles` and, for sites that forbid SFTP,
`hpcgate.ssh.command_files.CommandFiles`. Paths are bytes: a Unix file name is bytes without NUL and slash.
Every method raises `PathNotFound`, `PermissionDenied`, `NotADirectory`, `IsADirectory`, `AlreadyExists`, `NoSpace`,
`TimedOut`, `ConnectionLost` or `CommandFailed`, with the words of the coreutils tool of that name, for example
``stat: cannot statx '/x': No such file or directory``.
"""

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat(2) says of a file. Times are Unix seconds, sizes bytes.

    The fields that may be None are those that SFTP version 3 does not carry.
    """

    mode: int
    uid: int
    gid: int
    size: int
    atime: int
    mtime: int
    ino: int | None = None
    dev: int | None = None
    nlink: int | None = None
    ctime: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One file in a directory listing.

    Attributes:
        name: The file's name in its directory.
        attributes: Of the file itself, a symbolic link not followed.
        user: The owner's name as the login node knows it, or None where the listing did not carry it.
        group: The group's name, likewise.
    """

    name: bytes
    attributes: Attributes
    user: str | None = None
    group: str | None = None


class RemoteFiles(Protocol):
    """The files of one system as one user sees them."""

    async def listdir(self, path: bytes) -> list[Entry]:
        """Return the entries of a directory, hidden ones too, without ``.`` and ``..``, in no order."""

    async def stat(self, path: bytes, *, follow: bool = True) -> Attributes:
        """Return the attributes of a file, of a symbolic link itself unless `follow`."""

    async def readlink(self, path: bytes) -> bytes:
        """Return what a symbolic link points to, as it stands."""

    async def realpath(self, path: bytes) -> bytes:
        """Return the absolute path with every symbolic link resolved."""

    async def read(self, path: bytes, *, offset: int = 0, size: int | None = None) -> bytes:
        """Return up to `size` bytes from `offset`; fewer at the end of the file. Open, read, close in one go."""

    def stream(self, path: bytes, *, offset: int = 0, size: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes of a file in blocks, with flat memory."""

    async def write(self, path: bytes, content: AsyncIterable[bytes], *, mode: int | None = None) -> int:
        """Replace or create a file atomically and return its size in bytes.

        The content goes to a temporary file in the same directory that is renamed over `path` once it is whole. An
        existing file keeps its mode; a new one gets `mode`, or the user's umask. A failure leaves the old file as it
        was and nothing else.
        """

    async def rename(self, source: bytes, target: bytes) -> None:
        """Rename, replacing `target` if it exists (rename(2))."""

    async def mkdir(self, path: bytes, *, parents: bool = False) -> None:
        """Make a directory; with `parents` those above it too, and an existing one is fine (``mkdir -p``)."""

    async def symlink(self, target: bytes, link: bytes) -> None:
        """Make `link` a symbolic link that holds `target`."""

    async def chmod(self, path: bytes, mode: int) -> None:
        """Set the permission bits (12 bits, with setuid, setgid and sticky)."""

    async def chown(self, path: bytes, uid: int | None, gid: int | None) -> None:
        """Set owner and group by number; None leaves one as it is."""

    async def remove(self, path: bytes) -> None:
        """Remove a file or a whole tree, never following symbolic links (``rm -r``)."""
