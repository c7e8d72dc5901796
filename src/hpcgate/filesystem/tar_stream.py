"""Tar archives while they flow: members are read from blocks of any size and written again one by one.

Read are the old, the ustar, the GNU and the pax format (POSIX.1-2017, pax, "ustar Interchange Format" and "pax
Interchange Format"; GNU tar manual, "Basic Tar Format"), as far as they name files, directories and links. Written is
the GNU format, by tarfile.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hpcgate.errors import BadRequest

BLOCK = 512
MAX_EXTRA = 1024 * 1024
"""Bytes of a long name or of a pax header."""

Kind = Literal["file", "directory", "symlink", "hardlink", "other"]

_KINDS: dict[bytes, Kind] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hardlink",
}
_TYPES = {
    "file": tarfile.REGTYPE,
    "directory": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
}
_WITHOUT_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_EXTRA = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_MAX_NUMBER = 2**63 - 1
"""What a size or a time can be on any file system; what a header cannot say is far beyond."""
_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an archive; its content follows it.

    Attributes:
        name: Its name, without a slash at the end.
        kind: What it is.
        size: Bytes of content.
        mode: The permission bits.
        mtime: Unix seconds.
        link: Where a link leads.
    """

    name: bytes
    kind: Kind
    size: int = 0
    mode: int = 0o644
    mtime: int = 0
    link: bytes = b""

    def header(self) -> bytes:
        """Return what stands before the content in an archive of GNU format."""
        info = tarfile.TarInfo(self.name.decode("utf-8", "surrogateescape"))
        info.type = _TYPES[self.kind]
        info.size = self.size
        info.mode = self.mode
        info.mtime = self.mtime
        info.linkname = self.link.decode("utf-8", "surrogateescape")
        return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")

    @property
    def padding(self) -> bytes:
        """What stands behind the content."""
        return bytes(-self.size % BLOCK)


END = bytes(2 * BLOCK)
"""What an archive ends with."""


class TarReader:
    """Takes an archive apart.

    Attributes:
        whole: Whether the end of the archive has been seen. What comes behind it is passed over.
    """

    def __init__(self) -> None:
        self.whole = False
        self._buffer = bytearray()
        self._content = 0
        self._padding = 0
        self._extra_type: bytes | None = None
        self._name: bytes | None = None
        self._link: bytes | None = None
        self._size: int | None = None
        self._mtime: int | None = None

    def feed(self, block: bytes) -> Iterator[Member | bytes]:
        """Take the next bytes and yield what they complete: a member, then its content in one or more pieces.

        Raises:
            BadRequest: That is not a tar archive, or one of a kind that is not read.
        """
        self._buffer += block
        while not self.whole:
            if self._extra_type is None and self._content:
                piece = bytes(self._buffer[: self._content])
                if not piece:
                    return
                del self._buffer[: len(piece)]
                self._content -= len(piece)
                yield piece
            elif self._extra_type is not None and len(self._buffer) >= self._content + self._padding:
                self._take_extra(bytes(self._buffer[: self._content]))
                del self._buffer[: self._content + self._padding]
                self._content = self._padding = 0
            elif self._extra_type is not None:
                return
            elif self._padding:
                passed = min(self._padding, len(self._buffer))
                if not passed:
                    return
                del self._buffer[:passed]
                self._padding -= passed
            elif len(self._buffer) >= BLOCK:
                header = bytes(self._buffer[:BLOCK])
                del self._buffer[:BLOCK]
                member = self._header(header)
                if member is not None:
                    yield member
            else:
                return
        self._buffer.clear()

    def _header(self, header: bytes) -> Member | None:
        if not any(header):
            self.whole = True
            return None
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise BadRequest("The archive is not a tar archive, or is damaged.", caused_by=[str(error)]) from None
        if info.size < 0:
            raise BadRequest("The archive has a member of negative size.")
        if info.type in _EXTRA:
            if info.size > MAX_EXTRA:
                raise BadRequest("The archive has a name that is too long.")
            self._extra_type = info.type
            self._content, self._padding = info.size, -info.size % BLOCK
            return None
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise BadRequest("The archive has sparse members; make it without --sparse.")
        size = 0 if info.type in _WITHOUT_DATA else info.size if self._size is None else self._size
        member = Member(
            name=(_encoded(info.name) if self._name is None else self._name).rstrip(b"/") or b"/",
            kind=_KINDS.get(info.type, "other"),
            size=size,
            mode=info.mode & 0o7777,
            mtime=int(info.mtime) if self._mtime is None else self._mtime,
            link=_encoded(info.linkname) if self._link is None else self._link,
        )
        self._name = self._link = self._size = self._mtime = None
        self._content, self._padding = size, -size % BLOCK
        return member

    def _take_extra(self, content: bytes) -> None:
        kind, self._extra_type = self._extra_type, None
        if kind == tarfile.GNUTYPE_LONGNAME:
            self._name = content.partition(b"\0")[0]
        elif kind == tarfile.GNUTYPE_LONGLINK:
            self._link = content.partition(b"\0")[0]
        else:
            for key, value in _records(content):
                self._take_record(key, value, everywhere=kind == tarfile.XGLTYPE)

    def _take_record(self, key: bytes, value: bytes, *, everywhere: bool) -> None:
        if key.startswith(b"GNU.sparse."):
            raise BadRequest("The archive has sparse members; make it without --sparse.")
        if key in (b"path", b"linkpath", b"size", b"mtime") and everywhere:
            raise BadRequest("The archive has a global header that names files.")
        try:
            if key == b"path":
                self._name = value
            elif key == b"linkpath":
                self._link = value
            elif key == b"size":
                self._size = int(value)
                if not 0 <= self._size <= _MAX_NUMBER:
                    raise ValueError
            elif key == b"mtime":
                self._mtime = int(float(value))
                if abs(self._mtime) > _MAX_NUMBER:
                    raise ValueError
        except (ValueError, OverflowError):
            raise BadRequest("The archive has a damaged pax header.") from None


def _records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position < len(content):
        match = _RECORD.match(content, position)
        end = position + int(match[1]) if match else 0
        if match is None or end > len(content) or end <= match.end() or content[end - 1] != 0x0A:
            raise BadRequest("The archive has a damaged pax header.")
        yield match[2], content[match.end() : end - 1]
        position = end


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
