"""Files on a login node, whichever way they are reached.

Two implementations: `hpcgate.ssh.files.sftp_files.SftpFiles` and, for sites that forbid SFTP,
`hpcgate.ssh.files.command_files.CommandFiles`. Paths are bytes: a Unix file name is bytes without NUL and slash.
Every method raises `PathNotFound`, `PermissionDenied`, `NotADirectory`, `IsADirectory`, `AlreadyExists`, `NoSpace`,
`BadRequest` (a name too long, a loop of links, a FIFO where a file is wanted), `TimedOut`, `ConnectionLost` or
`CommandFailed`, with the words of the coreutils tool for the job, for example
``stat: cannot statx '/x': No such file or directory``.
"""

import re
import secrets
import stat
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self

from hpcgate.errors import BadRequest, TooLarge


class Replacing(StrEnum):
    """How a file gets new content.

    A new file that takes the old one's name does so at once: whoever opens it has the old content or the new. Written
    in place it stays the file that it is, with its owner, its hard links and all that it has besides, but a reader may
    see part of both; and so it goes where the directory does not let another file take its name.
    """

    auto = "auto"
    atomic = "atomic"
    in_place = "in-place"


PRIVATE = 0o600
"""The mode of a file whose content may be for nobody else."""
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
"""The bits of a mode that let others write."""


def without_group(mode: int) -> int:
    """Return the permission bits of a file of another group: those in it get no more than all others."""
    return mode & ~0o2070 | (mode & 0o7) << 3


_MODES = 1 << 32
_MAX_DIGITS = 25
"""Characters of a number of stat(2): 64 bits, a sign, and mtime's three decimals."""


@dataclass(slots=True)
class Attributes:
    """What stat(2) says of a file. Times are Unix seconds, sizes bytes; `fraction` is mtime's, in milliseconds.

    Not frozen: to make one then takes ten times as long, as each field is set by a call, and one is made a request.
    """

    mode: int
    ino: int
    dev: int
    nlink: int
    uid: int
    gid: int
    size: int
    atime: int
    ctime: int
    mtime: int
    fraction: int = 0

    @classmethod
    def of(cls, mode: int, numbers: Sequence[bytes]) -> Self:
        """Return them of the mode and the other fields as text, mtime as milliseconds or with three decimals.

        Raises:
            ValueError: They are none: there are too few or too many, or one is not a number that stat(2) has.
        """
        *others, modified = numbers
        if max(map(len, numbers)) > _MAX_DIGITS:
            raise ValueError("not numbers of stat(2)")
        ino, dev, nlink, uid, gid, size, atime, ctime = map(int, others)
        mtime, fraction = divmod(int(modified.replace(b".", b"")), 1000)
        # What takes a mode apart takes none below zero, and no file has less than no bytes.
        if not 0 <= mode < _MODES or size < 0:
            raise ValueError("not numbers of stat(2)")
        return cls(mode, ino, dev, nlink, uid, gid, size, atime, ctime, mtime, fraction)


@dataclass(slots=True)
class Entry:
    """One file in a listing, as ``ls -l`` shows it.

    Attributes:
        name: The file's name: in its directory, relative to the listed directory, or the path as it was given.
        mode: st_mode, the kind of file included.
        uid: The owner's number.
        gid: The group's number.
        size: Bytes; 0 for a device.
        mtime: Unix seconds.
        user: The owner's name as the login node knows it, else the number as text.
        group: The group's name, likewise.
        link_target: What a symbolic link holds, None for anything else.
        mark: What ls puts behind the permissions: ``+`` for an access control list, ``.`` for a security context.
    """

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    user: str = ""
    group: str = ""
    link_target: bytes | None = None
    mark: str = ""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look into a regular file has found: both are of the same file, whatever its name comes to mean.

    Attributes:
        attributes: As they were before the content was read.
        content: A part of it.
    """

    attributes: Attributes
    content: bytes


class RemoteFiles(Protocol):
    """The files of one system as one user sees them."""

    async def listing(
        self,
        path: bytes,
        *,
        hidden: bool = True,
        recursive: bool = False,
        follow: bool = False,
        names: bool = True,
        limit: int | None = None,
    ) -> list[Entry]:
        """List a directory without ``.`` and ``..``, or one file, in no order, as ``ls -lAU`` does.

        A symbolic link to a directory is listed itself unless `path` ends in a slash or `follow` is set. A directory
        below that cannot be read is listed, its content left out.

        Args:
            path: What to list.
            hidden: Show the names that begin with a dot, and descend into such directories.
            recursive: Descend; names are then relative to `path`.
            follow: Show what links point to instead of the links; a dangling one is shown itself.
            names: Look up the names of owners and groups.
            limit: The most bytes that the listing may take: `ROW` for each entry, its name, and what a link holds.

        Raises:
            TooLarge: It takes more.
        """

    async def entry(self, path: bytes) -> Entry:
        """Return one file as ``ls -ld`` does: a link or a directory itself, named by the path as given."""

    async def stat(self, path: bytes, *, follow: bool = True) -> Attributes:
        """Return the attributes of a file, of a symbolic link itself unless `follow`."""

    async def realpath(self, path: bytes) -> bytes:
        """Return the absolute path with every symbolic link resolved; its last component need not exist."""

    async def read(self, path: bytes, *, offset: int = 0, size: int | None = None, tool: str = "cat") -> bytes:
        """Return up to `size` bytes of a regular file from `offset`; fewer only at its end.

        Args:
            path: The file.
            offset: Bytes to skip.
            size: The most bytes to return; None is all of them, which the caller has to bound.
            tool: In whose words to fail: cat, head, tail or dd.
        """

    async def look(self, path: bytes, *, start: int, above: int, size: int, inode: int = 0) -> Look:
        """Open a regular file and return its attributes and, if it is longer than `above`, a part of its content.

        The way of access may hold the file until `release`: then the file that was looked at last goes first for as
        long as it has more than `above`, even if its name stands for another one by now, or for none.

        Args:
            path: The file.
            start: Bytes to skip.
            above: The most bytes that the file may have for none of its content to be read.
            size: The most bytes to return.
            inode: Of the file that was looked at last, 0 for none.
        """

    async def release(self, path: bytes) -> None:
        """Hold a file no longer that has been looked at."""

    def stream(self, path: bytes, *, offset: int = 0, size: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes of a regular file in blocks, in order, with flat memory."""

    async def write(self, path: bytes, content: AsyncIterable[bytes], *, mode: int | None = None) -> int:
        """Replace or create a file atomically and return its size in bytes.

        The content goes to a hidden temporary file in the same directory that is renamed over `path` once it is
        whole. A symbolic link is followed: the file that it points to is replaced. An existing file keeps its mode; a
        new one gets `mode`, or what the user's umask leaves. A failure, of `content` too, leaves the old file as it
        was and nothing else, unless the connection itself breaks: then a hidden ``.hpcgate-*`` file may stay behind.
        """

    async def rename(self, source: bytes, target: bytes) -> None:
        """Rename, replacing `target` if it exists (rename(2))."""

    async def mkdir(self, path: bytes, *, parents: bool = False) -> None:
        """Make a directory; with `parents` those above it too, and an existing one is fine (``mkdir -p``)."""

    async def symlink(self, target: bytes, link: bytes) -> None:
        """Make `link` a symbolic link that holds `target`."""

    async def chmod(self, path: bytes, mode: int) -> None:
        """Set the permission bits (12 bits, with setuid, setgid and sticky)."""

    async def remove(self, path: bytes) -> None:
        """Remove a file or a whole tree, never following symbolic links (``rm -r``), never asking.

        Raises:
            BadRequest: It is the root, or ends in ``.`` or ``..``.
        """


ROW = 64
"""Bytes that a row of a listing takes besides its name and what a link holds."""


class ListingSize:
    """Counts the bytes of a listing.

    Args:
        limit: The most, or None.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._count = 0

    def add(self, names: int, rows: int = 1) -> None:
        """Count rows whose names, and what links hold, have so many bytes.

        Raises:
            TooLarge: The listing is over the limit.
        """
        self._count += names + rows * ROW
        if self._limit is not None and self._count > self._limit:
            raise too_large(self._limit)

    def add_all(self, entries: Iterable["Entry"]) -> None:
        """Count the rows of entries, but not of one file that was asked for by its path; as `add`."""
        for entry in entries:
            if not entry.name.startswith(b"/"):
                self.add(len(entry.name) + len(entry.link_target or b""))


def too_large(limit: int) -> TooLarge:
    """Return the error of a listing that is over the limit."""
    return TooLarge(
        f"The listing is larger than {limit} bytes. Ask for pages (limit, cursor) or for lines "
        "(Accept: application/x-ndjson)."
    )


def temporary_name() -> bytes:
    """Return a new name for a file that is to be renamed once it is whole."""
    return b".hpcgate-" + secrets.token_hex(8).encode()


def refuse_root(path: bytes) -> None:
    """Refuse to remove what rm itself refuses: the root, ``.`` and ``..``.

    Raises:
        BadRequest: In rm's words.
    """
    if not path.strip(b"/"):
        raise BadRequest("rm: it is dangerous to operate recursively on '/'")
    if _DOTS.search(path):
        name = path.decode("utf-8", "replace")
        raise BadRequest(f"rm: refusing to remove '.' or '..' directory: skipping '{name}'")


_DOTS = re.compile(rb"(?:^|/)\.\.?/*$")
