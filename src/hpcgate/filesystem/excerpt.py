"""Parts of a file by bytes or lines, read no further than they reach: what head and tail share."""

from typing import NoReturn, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from hpcgate.errors import GatewayError, TooLarge
from hpcgate.filesystem.base import Limits, Parameters, Path
from hpcgate.filesystem.models import ContentUnit
from hpcgate.ssh.files.coreutils_errors import shown
from hpcgate.ssh.files.protocol import RemoteFiles

FIRST_BLOCK = 64 * 1024
"""Bytes that are read at first in search of lines; each further block is twice as long."""
LARGEST_BLOCK = 4 * 1024 * 1024
MAX_SEARCHED = 4 * 1024**3
"""Bytes that are gone through in search of a line: a file may be nothing but a hole, and as long as a number tells."""
FAR = 2**40
"""Offsets beyond this are compared with the file's length first: file systems refuse those that no file can have."""
DEFAULT_LINES = 10


class ExcerptParameters(Parameters):
    """A file and how much of it: bytes or lines, not both; ten lines without either."""

    path: Path
    bytes: int | None = None
    lines: int | None = None

    @model_validator(mode="after")
    def _one_count(self) -> Self:
        if self.bytes is not None and self.lines is not None:
            raise PydanticCustomError("excerpt", "bytes and lines exclude each other")
        if (self.bytes or 0) < 0 or (self.lines or 0) < 0:
            raise PydanticCustomError("excerpt", "a number of bytes or lines must not be negative")
        return self

    @property
    def unit(self) -> ContentUnit:
        """What `count` counts."""
        return ContentUnit.lines if self.bytes is None else ContentUnit.bytes

    @property
    def count(self) -> int | None:
        """How many, None if the request does not say."""
        return self.lines if self.bytes is None else self.bytes


class Excerpt:
    """A file that is read in parts.

    Args:
        files: Where it is.
        path: Its path.
        tool: In whose words to fail: head or tail.
        limits: No part may be larger than `max_ops_file_size`.
    """

    def __init__(self, files: RemoteFiles, path: bytes, tool: str, limits: Limits) -> None:
        self._files = files
        self._path = path
        self._tool = tool
        self._most = limits.max_ops_file_size

    async def span(self, offset: int, size: int | None = None) -> bytes:
        """Return `size` bytes from `offset`, all to the end without `size`.

        Raises:
            TooLarge: That is more than is allowed.
        """
        wanted = self._most + 1 if size is None else min(size, self._most + 1)
        if wanted <= 0:
            # Nothing is wanted, but a file that is not there is still an error.
            await self._read(0, 0)
            return b""
        offset = await within(self._files, self._path, offset, self._tool)
        content = await self._read(offset, wanted)
        if len(content) > self._most:
            self._too_large()
        return content

    async def first_lines(self, count: int) -> bytes:
        """Return the first lines, with the newline of the last."""
        if count == 0:
            return await self.span(0, 0)
        content = bytearray()
        found = 0
        size = FIRST_BLOCK
        while True:
            block = await self._read(len(content), size)
            lines = block.count(b"\n")
            if found + lines >= count:
                content += block[: _after_newline(block, count - found)]
                break
            found += lines
            content += block
            if len(content) > self._most or len(block) < size:
                break
            size = min(size * 2, LARGEST_BLOCK)
        if len(content) > self._most:
            self._too_large()
        return bytes(content)

    async def start_of_line(self, number: int) -> int:
        """Return the offset of the line with this number, counted from 1; of the end if there are fewer.

        Raises:
            TooLarge: It begins further on than is searched.
        """
        offset = 0
        skip = number - 1
        size = FIRST_BLOCK
        while skip > 0:
            block = await self._read(offset, size)
            lines = block.count(b"\n")
            if lines >= skip:
                return offset + _after_newline(block, skip)
            skip -= lines
            offset += len(block)
            if len(block) < size:
                break
            if offset > MAX_SEARCHED:
                raise TooLarge(f"{self._tool}: {shown(self._path)}: line {number} is not in the first {offset} bytes")
            size = min(size * 2, LARGEST_BLOCK)
        return offset

    async def start_of_last_lines(self, count: int) -> int:
        """Return the offset of the last lines. A last line without a newline counts.

        Raises:
            TooLarge: They begin further before the end than is allowed to be read.
        """
        return (await self._search_back(count))[0]

    async def last_lines(self, count: int) -> bytes:
        """Return the last lines. A last line without a newline counts.

        Raises:
            TooLarge: That is more than is allowed.
        """
        content = (await self._search_back(count))[1]
        if len(content) > self._most:
            self._too_large()
        return content

    async def size(self) -> int:
        """Return the file's length in bytes; of one of the kernel's, which claims to have none, by reading it."""
        try:
            length = (await self._files.stat(self._path)).size
        except GatewayError:
            await self._read(0, 0)
            raise
        return length or len(await self.span(0))

    async def _search_back(self, count: int) -> tuple[int, bytes]:
        """Return the offset of the last lines and all from there on."""
        end = position = await self.size()
        if count == 0:
            await self._read(0, 0)
            return end, b""
        found: list[bytes] = []
        size = FIRST_BLOCK
        wanted = count
        while position > 0:
            start = max(0, position - size)
            block = await self._read(start, position - start)
            # The newline that ends the file begins no line.
            cut = len(block) - (position == end)
            lines = block.count(b"\n", 0, cut)
            if lines >= wanted:
                for _ in range(wanted):
                    cut = block.rfind(b"\n", 0, cut)
                found.append(block[cut + 1 :])
                return start + cut + 1, b"".join(reversed(found))
            found.append(block)
            wanted -= lines
            position = start
            if end - position > self._most:
                self._too_large()
            size = min(size * 2, LARGEST_BLOCK)
        return 0, b"".join(reversed(found))

    async def _read(self, offset: int, size: int) -> bytes:
        return await self._files.read(self._path, offset=offset, size=size, tool=self._tool)

    def _too_large(self) -> NoReturn:
        raise TooLarge(f"{self._tool}: {shown(self._path)}: the content is larger than {self._most} bytes")


async def within(files: RemoteFiles, path: bytes, offset: int, tool: str) -> int:
    """Return an offset to read from, the file's end for one that lies far beyond it (lseek(2), EINVAL)."""
    if offset <= FAR:
        return offset
    await files.read(path, size=0, tool=tool)
    return min(offset, (await files.stat(path)).size)


def _after_newline(block: bytes, number: int) -> int:
    """Return the index behind the newline with this number, counted from 1."""
    index = 0
    for _ in range(number):
        index = block.index(b"\n", index) + 1
    return index
