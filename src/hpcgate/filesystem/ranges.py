"""Parts of a file as a request asks for them: the Range header and its answers (RFC 9110, section 14)."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from hpcgate.errors import RangeNotSatisfiable

MAX_RANGES = 64
"""Parts that one answer has at most. Who asks for more gets the whole file (RFC 9110, section 14.2)."""

_SPEC = re.compile(r"(\d{1,19})-(\d{0,19})|-(\d{1,19})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A part of a file: `size` bytes from `offset`, at least one."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        return self.offset + self.size

    def content_range(self, total: int) -> str:
        """Return the value of Content-Range for a file of `total` bytes."""
        return f"bytes {self.offset}-{self.end - 1}/{total}"


def parse_range(header: str | None, total: int) -> list[ByteRange] | None:
    """Return the parts that a Range header asks for, or None where the whole file is the answer.

    Parts that touch or overlap become one, in the place of the first of them.

    Args:
        header: Its value. One that is malformed or of another unit is passed over.
        total: The size of the file in bytes.

    Raises:
        RangeNotSatisfiable: None of the parts lies in the file; with the Content-Range of RFC 9110, section 15.5.17.
    """
    unit, separator, text = (header or "").partition("=")
    if not separator or unit.strip().lower() != "bytes":
        return None
    specs = [spec.strip(" \t") for spec in text.split(",")]
    found: list[ByteRange] = []
    asked = 0
    for spec in specs:
        if not spec:
            continue
        match = _SPEC.fullmatch(spec)
        if match is None:
            return None
        asked += 1
        first, last, suffix = match.groups()
        if suffix is not None:
            size = min(int(suffix), total)
            part = ByteRange(total - size, size)
            if int(suffix) and not total:
                # All of an empty file, which Content-Range has no way to say.
                return None
        else:
            if last and int(last) < int(first):
                return None
            end = min(int(last) + 1 if last else total, total)
            part = ByteRange(int(first), end - int(first))
        if part.size > 0:
            _add(found, part)
            if len(found) > MAX_RANGES:
                # Not only of what is left in the end: to join thousands would keep all others waiting.
                return None
    if not asked:
        return None
    if not found:
        raise RangeNotSatisfiable(
            f"The file has {total} bytes; what was asked for lies behind its end.",
            headers={"Content-Range": f"bytes */{total}"},
        )
    return found


def _add(found: list[ByteRange], part: ByteRange) -> None:
    place = len(found)
    for index in reversed(range(len(found))):
        other = found[index]
        if part.offset <= other.end and other.offset <= part.end:
            offset = min(part.offset, other.offset)
            part = ByteRange(offset, max(part.end, other.end) - offset)
            place = index
            del found[index]
    found.insert(place, part)


@dataclass(frozen=True, slots=True)
class MultipartRanges:
    """The frame of a multipart/byteranges body (RFC 9110, section 14.6).

    Args:
        parts: The parts of the file.
        total: The size of the file in bytes.
        content_type: Of each part.
        boundary: What separates them; random unless given.
    """

    parts: Sequence[ByteRange]
    total: int
    content_type: str
    boundary: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def media_type(self) -> str:
        """The value of Content-Type."""
        return f"multipart/byteranges; boundary={self.boundary}"

    @property
    def length(self) -> int:
        """The size of the whole body in bytes."""
        return sum(len(self.head(part)) + part.size for part in self.parts) + len(self.tail)

    def head(self, part: ByteRange) -> bytes:
        """Return what goes before a part."""
        return (
            f"\r\n--{self.boundary}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Range: {part.content_range(self.total)}\r\n\r\n"
        ).encode()

    @property
    def tail(self) -> bytes:
        """What goes behind the last part."""
        return f"\r\n--{self.boundary}--\r\n".encode()
