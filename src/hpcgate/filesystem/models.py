"""The wire models that operations share. Their names and fields are the contract's components."""

import stat
from datetime import tzinfo
from enum import StrEnum
from typing import Self

from pydantic import Field

from hpcgate.filesystem.base import Result
from hpcgate.ssh.files.coreutils_errors import shown
from hpcgate.ssh.files.login_node import local_time
from hpcgate.ssh.files.protocol import Attributes, Entry
from hpcgate.ssh.session import Session


class ContentUnit(StrEnum):
    """What positions in a file count."""

    lines = "lines"
    bytes = "bytes"


class CompressionType(StrEnum):
    """How an archive is compressed."""

    none = "none"
    bzip2 = "bzip2"
    gzip = "gzip"
    xz = "xz"

    @property
    def option(self) -> str:
        """The option of tar."""
        return {"none": "", "bzip2": "-j", "gzip": "-z", "xz": "-J"}[self.value]


class File(Result):
    """One file of a listing.

    The size of a device is ``0``: ls shows its numbers in that place, which are not a size. Access control lists are
    marked (``+``) only where files are reached by commands; SFTP does not tell of them.
    """

    name: str
    type: str
    link_target: str | None = Field(None, json_schema_extra={"nullable": True})
    user: str
    group: str
    permissions: str
    last_modified: str
    size: str

    @classmethod
    def of(cls, entry: Entry, zone: tzinfo, *, numeric: bool = False) -> Self:
        """Return an entry as it goes over the wire, its time in the login node's zone."""
        letters = stat.filemode(entry.mode)
        target = entry.link_target
        # What the class itself calls: a directory has many entries, and this takes two thirds of the time.
        made: Self = cls.__pydantic_validator__.validate_python(
            {
                "name": shown(entry.name),
                "type": letters[0],
                "link_target": None if target is None else shown(target),
                "user": str(entry.uid) if numeric else entry.user,
                "group": str(entry.gid) if numeric else entry.group,
                "permissions": letters[1:] + entry.mark,
                "last_modified": local_time(entry.mtime, zone),
                "size": str(entry.size),
            }
        )
        return made


class FileContent(Result):
    """A part of a file. What is not UTF-8 is replaced by U+FFFD."""

    content: str
    content_type: ContentUnit
    start_position: int
    end_position: int


class FileStat(Result):
    """What stat(2) says of a file. Times are Unix seconds, the size is bytes."""

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

    @classmethod
    def of(cls, found: Attributes) -> Self:
        """Return attributes as they go over the wire."""
        # What the class itself calls, as above.
        made: Self = cls.__pydantic_validator__.validate_python(
            {
                "mode": found.mode,
                "ino": found.ino,
                "dev": found.dev,
                "nlink": found.nlink,
                "uid": found.uid,
                "gid": found.gid,
                "size": found.size,
                "atime": found.atime,
                "ctime": found.ctime,
                "mtime": found.mtime,
            }
        )
        return made


class FileChecksum(Result):
    """A file's checksum in hexadecimal digits."""

    algorithm: str = "SHA-256"
    checksum: str


async def zone_of(session: Session) -> tzinfo:
    """Return the time zone of the session's login node."""
    return await session.node.view(session.username).time_zone(session)


async def file_at(session: Session, path: bytes, zone: tzinfo) -> File:
    """Return the one file as ``ls -ld`` shows it.

    Args:
        session: The user's.
        path: The file.
        zone: That of the login node, which whoever changes the file asks for first: where no command can tell it,
            nothing is to be changed and then told to have failed.
    """
    files = await session.files()
    return File.of(await files.entry(path), zone)
