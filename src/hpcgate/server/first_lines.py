"""The first lines of heads, as they came: the parser reads more into them than HTTP/1.1 has (RFC 9112, section 3)."""

import re

_BLANK = re.compile(rb"[\r\n]*")


class FirstLines:
    """Follows what one connection is sent, so that the first line of each head can be held against what was parsed."""

    __slots__ = ("_at", "_block", "_end", "_line", "_lined")

    def __init__(self) -> None:
        self._block = b""
        """What is being parsed."""
        self._at: int | None = 0
        """Where in it the next head or body begins; None behind a body in chunks, for the parser does not say."""
        self._line = b""
        """What came before it of a head whose first line was not whole."""
        self._lined = False
        self._end = b""
        """The last bytes before it, if they belong to a head."""

    def take(self, block: bytes, *, chunked: bool) -> None:
        """Begin with a block, which goes on with a body in chunks or not."""
        self._block, self._at = block, None if chunked else 0

    def drop(self) -> None:
        """Let go of the block, which has been parsed."""
        self._block = b""

    def pass_over(self, size: int) -> None:
        """Note that so many bytes of a body have been parsed."""
        if self._at is not None:
            self._at += size

    def lose(self) -> None:
        """Note that a body in chunks begins."""
        self._at = None

    def keep(self) -> None:
        """Keep the first line of a head of which more is to come."""
        if not self._lined:
            block = self._block
            begins = block.rfind(b"\r\n\r\n") + 4 if self._at is None and b"\r\n\r\n" in block else self._at or 0
            self._line += block[begins:]
            self._lined = b"\n" in self._line.lstrip(b"\r\n")
        self._end = (self._end + self._block)[-3:]

    def is_plain(self, method: bytes, url: bytes, version: str) -> bool:
        """Say whether the first line of the head that is whole now was what the parser has read in it.

        It reads two blanks as one, and the names of other protocols as HTTP's.
        """
        block, at = self._block, self._at
        line = b"%b %b HTTP/%b\r\n" % (method, url, version.encode())
        if self._end:
            # The line that ends the head begins three bytes before the block at most.
            plain = (self._line + block[: len(line)]).lstrip(b"\r\n").startswith(line)
            self._at = (self._end + block).find(b"\r\n\r\n") + 4 - len(self._end)
            self._line, self._lined, self._end = b"", False, b""
            return plain
        if at is None:
            at = block.find(b"\n" + line)
            plain = at >= 0
        else:
            begins = _BLANK.match(block, at)
            at = at if begins is None else begins.end()
            plain = block.startswith(line, at)
        self._at = block.find(b"\r\n\r\n", at) + 4
        return plain
