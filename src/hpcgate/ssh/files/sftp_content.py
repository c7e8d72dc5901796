"""Reading files by SFTP: in one go with the closing, or by READs side by side."""

import asyncio
import stat
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar, cast

import asyncssh

from hpcgate.ssh.files.coreutils_errors import not_regular
from hpcgate.ssh.files.sftp_bulk import fair_block
from hpcgate.ssh.files.sftp_requests import CLEANING, SftpRequests

T = TypeVar("T")

WINDOW = 16
"""Requests for data under way at a time."""


class SftpContent:
    """Opens files and moves their bytes.

    Args:
        requests: The server.
    """

    def __init__(self, requests: SftpRequests) -> None:
        self._requests = requests
        self._sftp = sftp = requests.server.client
        self._ask = requests.ask
        self.read_block = fair_block(sftp.limits.max_read_len)
        self.write_block = fair_block(sftp.limits.max_write_len)

    async def check_regular(self, path: bytes, tool: str) -> int:
        """Return the length of a file, bytes; what is none is an error."""
        # First of all, and not pipelined with the opening: to open a FIFO blocks the whole server.
        attributes = await self._ask(self._sftp.stat, path)
        mode = attributes.permissions or 0
        if stat.S_ISDIR(mode):
            # Opening one for reading works, it is the reading that fails; a command has the words for it.
            raise asyncssh.SFTPFailure("Is a directory")
        if not stat.S_ISREG(mode):
            raise not_regular(tool, path)
        return attributes.size or 0

    async def fetch(self, path: bytes, offset: int, size: int, tool: str) -> bytes:
        """Return a part of a file, by STAT, OPEN, and READ together with CLOSE. It must not be interrupted."""
        length = await self.check_regular(path, tool)
        file = await self._ask(self._sftp.open, path, asyncssh.FXF_READ, encoding=None, block_size=0)
        if length:
            # The server takes requests in order, so the file may be closed in the same go.
            size = max(0, min(size, length - offset))
            content, closed = await asyncio.gather(
                self._read_once(file, offset, size), self._ask(file.close), return_exceptions=True
            )
        else:
            content = (await asyncio.gather(self._read_block(file, offset, size), return_exceptions=True))[0]
            closed = await self._ask(file.close)
        for result in (content, closed):
            if isinstance(result, BaseException):
                raise result
        return cast(bytes, content)

    @asynccontextmanager
    async def open(self, path: bytes, flags: int, mode: int | None = None) -> AsyncIterator[asyncssh.SFTPClientFile]:
        """Open a file, and close it in any case."""
        attributes = asyncssh.SFTPAttrs(permissions=mode)
        # block_size=0: every read and write is one request, the window is ours.
        opening = asyncio.ensure_future(self._sftp.open(path, flags, attributes, encoding=None, block_size=0))
        try:
            file = await self._ask(asyncio.shield, opening)
        except BaseException:
            await (cancel([opening]) if self._requests.abandoned else _discard(opening))
            raise
        try:
            yield file
        except BaseException:
            if self._requests.abandoned:
                raise
            with suppress(asyncssh.Error, OSError):
                async with asyncio.timeout(CLEANING):
                    await file.close()
            raise
        await self._ask(file.close)

    async def blocks(self, file: asyncssh.SFTPClientFile, offset: int, left: int | None) -> AsyncIterator[bytes]:
        """Yield a file's bytes, by up to `WINDOW` READs at a time; `left` is how many, None for all."""
        window: deque[tuple[asyncio.Task[bytes], int]] = deque()
        width = 1
        try:
            while True:
                while len(window) < width and (left is None or left > 0):
                    wanted = self.read_block if left is None else min(self.read_block, left)
                    window.append((asyncio.create_task(self._read_block(file, offset, wanted)), wanted))
                    offset += wanted
                    left = None if left is None else left - wanted
                if not window:
                    return
                task, wanted = window[0]
                block = await task
                window.popleft()
                if block:
                    yield block
                if len(block) < wanted:
                    return
                width = min(width * 2, WINDOW)
        finally:
            await cancel([task for task, _ in window])

    async def fill(self, file: asyncssh.SFTPClientFile, content: AsyncIterable[bytes]) -> int:
        """Write a file, by up to `WINDOW` WRITEs at a time; return its size."""
        window: deque[asyncio.Task[int]] = deque()
        offset = 0
        try:
            async for block in content:
                for start in range(0, len(block), self.write_block):
                    part = block[start : start + self.write_block]
                    while len(window) >= WINDOW:
                        await window[0]
                        window.popleft()
                    window.append(asyncio.create_task(self._ask(file.write, part, offset)))
                    offset += len(part)
            while window:
                await window[0]
                window.popleft()
        finally:
            await cancel(window)
        return offset

    async def _read_once(self, file: asyncssh.SFTPClientFile, offset: int, size: int) -> bytes:
        if not size:
            return b""
        content = cast(bytes, await self._ask(file.read, size, offset))
        if len(content) > size:
            self._requests.server.refuse("SFTP: more than was asked for")
            raise asyncssh.SFTPBadMessage("The SFTP server sent more than it was asked for")
        return content

    async def _read_block(self, file: asyncssh.SFTPClientFile, offset: int, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            part = await self._read_once(file, offset, min(size, self.read_block))
            if not part:
                break
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


async def cancel(tasks: Iterable[asyncio.Future[T]]) -> None:
    """End tasks and wait for their end."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _discard(opening: asyncio.Future[asyncssh.SFTPClientFile]) -> None:
    """Close a file whose opening nobody waits for any more."""
    with suppress(asyncssh.Error, OSError):
        async with asyncio.timeout(CLEANING):
            file = await opening
            await file.close()
