"""What is known of a file by the looks at it, and how it is known again."""

import zlib
from collections import deque
from dataclasses import dataclass
from typing import Self

from hpcgate.errors import BadRequest
from hpcgate.ssh.files.protocol import Look

REMEMBERED = 256 * 1024
"""Bytes of a file's end that are remembered for those who have not had them yet."""
BEFORE = 64
"""Bytes before a position by which a file is known again."""
MAX_OFFSET = 2**62


@dataclass(frozen=True, slots=True)
class Mark:
    """What was there before a position, so that a file that has been replaced meanwhile is known to be another one.

    Attributes:
        inode: Of the file.
        size: Bytes before the position that `checksum` is of.
        checksum: Their CRC-32.
    """

    inode: int
    size: int
    checksum: int

    def __str__(self) -> str:
        return f"{self.inode:x}.{self.size:x}.{self.checksum:x}"

    @classmethod
    def of(cls, inode: int, before: bytes) -> Self:
        """Return the mark of a position."""
        before = before[-BEFORE:]
        return cls(inode, len(before), zlib.crc32(before))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return a mark that was given out.

        Raises:
            BadRequest: It is none.
        """
        try:
            if len(text) > BEFORE:
                raise ValueError
            mark = cls(*(int(part, 16) for part in text.split(".")))
            if mark.size > BEFORE or min(mark.inode, mark.size, mark.checksum) < 0:
                raise ValueError
        except (ValueError, TypeError):
            raise BadRequest("mark is not one that was given out with an event") from None
        return mark


@dataclass(frozen=True, slots=True)
class Output:
    """A part of the file: `content` from `offset` on. A part that comes next begins where it ends."""

    offset: int
    content: bytes
    inode: int


class View:
    """What is known of a file by the looks at it. Looks are noted here; nothing is awaited.

    Attributes:
        generation: Rises when the file turns out to be shorter, or another one.
        inode: Of the file; 0 before it has been seen.
        end: Bytes of it that have been seen, from its beginning.
        before: The last of them, by which it is known again.
        missing: Whether it was not there when it was looked for last.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.inode = 0
        self.end = 0
        self.before = b""
        self.missing = False
        self._modified = (0, 0)
        self._remembered: deque[tuple[int, Output]] = deque()
        self._size = 0

    def __repr__(self) -> str:
        return f"<View generation {self.generation}, {self.end} bytes{', missing' if self.missing else ''}>"

    @property
    def start(self) -> int:
        """Where the next look is to begin, so that it shows whether the file is still the same."""
        return self.end - len(self.before)

    def begin(self, look: Look, start: int) -> None:
        """Note the first look, which was at the last bytes of the file, from `start` on."""
        self.inode = look.attributes.ino
        self.before = look.content
        self.end = start + len(look.content)
        self._modified = look.attributes.mtime, look.attributes.fraction

    def rewritten(self, look: Look) -> bool:
        """Say whether a file may have been written to that is as long as before."""
        attributes = look.attributes
        as_long = attributes.ino == self.inode and attributes.size == self.end
        return as_long and bool(self.before) and (attributes.mtime, attributes.fraction) != self._modified

    def note(self, look: Look) -> bool:
        """Note a look from `start` on, and say whether anything is new."""
        attributes, content, known = look.attributes, look.content, len(self.before)
        if attributes.ino != self.inode or attributes.size < self.end:
            self._replace(attributes.ino)
            return True
        if len(content) < known:
            # It was not read, for it is as long as before; or it has just become shorter, as the next look will show.
            return False
        if content[:known] != self.before:
            self._replace(attributes.ino)
            return True
        self._modified = attributes.mtime, attributes.fraction
        if len(content) == known:
            return False
        self._remember(content[known:])
        return True

    def piece(self, generation: int, offset: int) -> Output | None:
        """Return what is remembered from a position on, None if that is not."""
        for its, output in self._remembered:
            skip = offset - output.offset
            if its == generation and 0 <= skip < len(output.content):
                return Output(offset, output.content[skip:], output.inode) if skip else output
        return None

    def forget(self) -> None:
        """Remember nothing more of what has been seen: all who follow have had it."""
        self._remembered.clear()
        self._size = 0

    def _replace(self, inode: int) -> None:
        self.generation += 1
        self.inode, self.end, self.before = inode, 0, b""

    def _remember(self, content: bytes) -> None:
        self._remembered.append((self.generation, Output(self.end, content, self.inode)))
        self._size += len(content)
        while self._size > REMEMBERED and len(self._remembered) > 1:
            self._size -= len(self._remembered.popleft()[1].content)
        self.end += len(content)
        self.before = (self.before + content)[-BEFORE:]
