"""Bytes that stream by SFTP: many requests under way at a time, in files that end up closed."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import asyncssh

from hpcgate.errors import GatewayError, TimedOut
from hpcgate.ssh.files.protocol import Attributes
from hpcgate.ssh.files.sftp_bulk import BulkSftp
from hpcgate.ssh.files.sftp_requests import SftpRequests
from hpcgate.ssh.files.streams import PATIENCE
from hpcgate.ssh.pace import Pace
from hpcgate.telemetry.containment import contained

T = TypeVar("T")
Why = Callable[[asyncssh.SFTPError, int], Awaitable[GatewayError]]
"""Tells why a file cannot be read at some place."""

MAX = 16
"""Requests of one stream under way at a time at most; with 255 KiB each, that is 4 MiB."""
LEAST = 4
"""Requests under way once the stream has got going, even where others stand in line too."""
QUEUE = 0.03
"""Seconds that a stream's own requests may add to each other's time, so that those of others need not wait long."""
SMALL = 64 * 1024
"""Pieces of content below this are put together: a request costs more than to copy them."""


class BulkContent:
    """Moves the bytes of files by a channel that is for bytes.

    Args:
        bulk: The client of that channel.
        requests: The server of small requests.
        pace: Has the blocks wait while somebody else waits for a small answer.
        give_up: Closes the channel for bytes, whose server did not answer in time.
    """

    def __init__(self, bulk: BulkSftp, requests: SftpRequests, pace: Pace, give_up: Callable[[], None]) -> None:
        self.bulk = bulk
        self.pace = pace
        self._requests = requests
        self._give_up = give_up

    @asynccontextmanager
    async def open(
        self, path: bytes, flags: int, mode: int | None = None, settle: Callable[[], Awaitable[None]] | None = None
    ) -> AsyncIterator[bytes]:
        """Open a file, and have it closed in any case; if something fails meanwhile, by `settle`, if it is given."""
        opening = asyncio.ensure_future(self.bulk.open(path, flags, mode))
        try:
            handle = await self.wait(asyncio.shield(opening), self._requests.server.timeout)
        except BaseException:
            # Nobody else would close it.
            opening.add_done_callback(self._close_late)
            raise
        try:
            yield handle
        except BaseException:
            if settle is None:
                self._close_soon(handle)
            else:
                await asyncio.shield(settle())
            raise
        await self.wait(self.bulk.close_file(handle))

    async def read(self, handle: bytes, offset: int, left: int | None, why: Why) -> AsyncGenerator[bytes]:
        """Yield bytes of an open file, by READs side by side; `left` is how many, None for all."""
        begin = offset
        bulk, loop = self.bulk, asyncio.get_running_loop()
        window: deque[tuple[asyncio.Future[tuple[int, bytes]], int, int, float]] = deque()
        width = _Width()
        try:
            while True:
                while len(window) < width.now and (left is None or left > 0):
                    wanted = bulk.read_block if left is None else min(bulk.read_block, left)
                    window.append((bulk.read(handle, offset, wanted), offset, wanted, loop.time()))
                    offset += wanted
                    left = None if left is None else left - wanted
                if not window:
                    return
                await self.pace.turn()
                answer, begin, wanted, asked = window.popleft()
                if not answer.done():
                    await self.wait(answer)
                    width.learn(loop.time() - asked)
                content = bulk.content(answer.result())
                while content and len(content) < wanted:
                    yield content
                    begin, wanted = begin + len(content), wanted - len(content)
                    content = bulk.content(await self.wait(bulk.read(handle, begin, wanted)))
                if not content:
                    return
                yield content
        except asyncssh.SFTPError as error:
            raise await why(error, begin) from error
        finally:
            for answer, *_ in window:
                answer.cancel()

    async def wait(self, asked: Awaitable[T], patience: float = PATIENCE) -> T:
        """Wait for an answer, for so many seconds.

        Raises:
            TimedOut: None came; the server is given up.
        """
        try:
            async with asyncio.timeout(patience):
                return await asked
        except TimeoutError:
            # The server answers in order: behind this one nothing would be answered either.
            self._give_up()
            raise TimedOut("The login node's SFTP server did not answer in time.") from None

    @contained("ssh.sftp.close_late")
    def _close_late(self, opening: "asyncio.Future[bytes]") -> None:
        if not opening.cancelled() and opening.exception() is None:
            self._close_soon(opening.result())

    def _close_soon(self, handle: bytes) -> None:
        """Have the server close a file, without waiting: it answers in order, and nobody asks for this answer."""
        with suppress(asyncssh.SFTPError):
            self.bulk.close_unheard(handle)


class _Width:
    """How many requests a stream has under way: as many as make it fast, not more than keep the line short."""

    __slots__ = ("_best", "now")

    def __init__(self) -> None:
        self.now = 1
        self._best = float("inf")

    def learn(self, seconds: float) -> None:
        """Take note of the time from a request to its answer."""
        self._best = min(self._best, seconds)
        if seconds <= self._best + QUEUE:
            self.now = min(MAX, self.now * 2 if self.now < LEAST else self.now + 1)
        elif self.now > LEAST:
            self.now -= 1


class Opened:
    """`hpcgate.ssh.files.streams.OpenFile` by SFTP."""

    __slots__ = ("_content", "_handle", "_why", "attributes")

    def __init__(self, content: BulkContent, handle: bytes, attributes: Attributes, why: Why) -> None:
        self.attributes = attributes
        self._content = content
        self._handle = handle
        self._why = why

    def blocks(self, offset: int, size: int | None) -> AsyncGenerator[bytes]:
        """Read, by READs side by side."""
        return self._content.read(self._handle, offset, size, self._why)


class Writer:
    """WRITEs side by side.

    Attributes:
        handle: Where they go.
        end: Up to where everything is written.
    """

    def __init__(self, content: BulkContent, handle: bytes, offset: int) -> None:
        self.handle = handle
        self.end = offset
        self._content = content
        self._bulk = content.bulk
        self._offset = offset
        self._window: deque[tuple[asyncio.Future[tuple[int, bytes]], int]] = deque()

    async def write(self, content: AsyncIterable[bytes]) -> None:
        """Write all of it."""
        small: list[bytes] = []
        held = 0
        async for piece in content:
            if held or len(piece) < SMALL:
                small.append(piece)
                held += len(piece)
                if held < SMALL:
                    continue
                piece, small, held = b"".join(small), [], 0
            await self._send(piece)
        if held:
            await self._send(b"".join(small))
        while self._window:
            await self._oldest()

    async def _send(self, piece: bytes) -> None:
        most = self._bulk.write_block
        view = memoryview(piece)
        for start in range(0, len(piece), most):
            while len(self._window) >= MAX or (self._window and self._window[0][0].done()):
                await self._oldest()
            await self._content.wait(self._bulk.room())
            await self._content.pace.turn()
            part = view[start : start + most]
            answer = self._bulk.write(self.handle, self._offset, part)
            self._offset += len(part)
            self._window.append((answer, self._offset))

    async def _oldest(self) -> None:
        answer, end = self._window[0]
        if not answer.done():
            await self._content.wait(asyncio.shield(answer))
        self._bulk.written(answer.result())
        self._window.popleft()
        self.end = end

    async def settle(self) -> bool:
        """Wait for all that is under way and say whether all of it was written."""
        answers = await asyncio.gather(*(answer for answer, _ in self._window), return_exceptions=True)
        for answer, (_, end) in zip(answers, self._window, strict=True):
            if isinstance(answer, BaseException):
                return False
            try:
                self._bulk.written(answer)
            except asyncssh.SFTPError:
                return False
            self.end = end
        return True
