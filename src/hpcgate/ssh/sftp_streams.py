"""Files that stream, by SFTP: many requests under way at a time, each as large as the server takes."""

import asyncio
import errno
import stat
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace

import asyncssh

from hpcgate.errors import AlreadyExists, CommandFailed, GatewayError, TimedOut
from hpcgate.ssh.command_streams import create_by_command
from hpcgate.ssh.errors import translate
from hpcgate.ssh.files import Attributes, temporary_name
from hpcgate.ssh.sftp_files import CLEANING, SftpFiles
from hpcgate.ssh.streams import SYNC_PATIENCE, OpenFile, Ready, cut
from hpcgate.ssh.words import failure, not_regular, quote, unreadable

MOST = 16
"""Requests of one stream under way at a time at most; with 255 KiB each, that is 4 MiB."""
LEAST = 4
"""Requests under way once the stream has got going, even where others stand in line too."""
QUEUE = 0.03
"""Seconds that a stream's own requests may add to each other's time, so that those of others need not wait long."""
_ATTEMPTS = 5


class SftpStreams(SftpFiles):
    """`hpcgate.ssh.streams.Streams` by SFTP."""

    @asynccontextmanager
    async def open(self, path: bytes) -> AsyncIterator[OpenFile]:
        """Open, by OPEN and FSTAT, with the inode number from ``stat`` before and after."""
        async with AsyncExitStack() as stack:
            try:
                opened = await self._open_same(path, stack)
            except asyncssh.SFTPError as error:
                raise await self._why_not_read(path, error) from error
            yield opened

    async def _open_same(self, path: bytes, stack: AsyncExitStack) -> "_Open":
        before = await self.stat(path)
        for _ in range(_ATTEMPTS):
            if stat.S_ISDIR(before.mode):
                raise unreadable("cat", path, errno.EISDIR)
            if not stat.S_ISREG(before.mode):
                raise not_regular("cat", path)
            async with AsyncExitStack() as attempt:
                file = await attempt.enter_async_context(self._open(path, asyncssh.FXF_READ))
                inside, after = await asyncio.gather(self._patiently(file.stat), self.stat(path))
                if (before.dev, before.ino) == (after.dev, after.ino):
                    attributes = replace(after, size=inside.size or 0, mtime=inside.mtime or 0)
                    stack.push_async_exit(attempt.pop_all())
                    return _Open(self, path, file, attributes)
            before = after
        raise CommandFailed(f"cat: {quote(path)}: the file is replaced too often to be read")

    async def _why_not_read(self, path: bytes, error: asyncssh.SFTPError) -> GatewayError:
        self._connected(error, path)
        await self._commands.read(path, size=0)
        return translate(error, f"cat: {quote(path)}")

    async def _read_from(
        self, path: bytes, file: asyncssh.SFTPClientFile, offset: int, left: int | None
    ) -> AsyncGenerator[bytes]:
        window: deque[tuple[asyncio.Task[_Block], int]] = deque()
        width = _Width()
        try:
            while True:
                while len(window) < width.now and (left is None or left > 0):
                    wanted = self._block if left is None else min(self._block, left)
                    window.append((asyncio.create_task(self._timed_block(file, offset, wanted)), wanted))
                    offset += wanted
                    left = None if left is None else left - wanted
                if not window:
                    return
                task, wanted = window[0]
                block = await task
                window.popleft()
                width.learn(block.seconds)
                if block.content:
                    yield block.content
                if len(block.content) < wanted:
                    return
        except asyncssh.SFTPError as error:
            self._connected(error, path)
            raise translate(error, f"cat: {quote(path)}") from error
        finally:
            for task, _ in window:
                task.cancel()
            await asyncio.gather(*(task for task, _ in window), return_exceptions=True)

    async def _timed_block(self, file: asyncssh.SFTPClientFile, offset: int, size: int) -> "_Block":
        loop = asyncio.get_running_loop()
        started = loop.time()
        content = await self._read_block(file, offset, size)
        return _Block(content, loop.time() - started)

    async def replace(
        self,
        path: bytes,
        content: AsyncIterable[bytes],
        *,
        sync: bool = False,
        exclusive: bool = False,
        ready: Ready | None = None,
    ) -> int:
        """Write atomically, by WRITEs side by side, fsync@openssh.com and posix-rename@openssh.com."""
        target, old_mode = await self._target(path)
        if exclusive and old_mode is not None:
            raise failure(f"cp: cannot create regular file {quote(path)}", errno.EEXIST)
        temporary = target[: target.rindex(b"/") + 1] + temporary_name()
        flags = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
        try:
            try:
                async with self._open(temporary, flags) as file:
                    writer = _Writer(self, file, 0)
                    try:
                        await writer.write(content)
                    finally:
                        await writer.stop()
                    if old_mode is not None:
                        attributes = asyncssh.SFTPAttrs(permissions=stat.S_IMODE(old_mode))
                        await self._patiently(file.setstat, attributes)
                    if sync:
                        await self._sync(file, temporary)
                if ready is not None:
                    await ready(temporary)
                await self.move(temporary, target, exclusive=exclusive)
            except asyncssh.SFTPError as error:
                self._connected(error, path)
                raise await self._why_not_written(path, temporary) from error
        except BaseException:
            await self._sweep(temporary)
            raise
        return writer.end

    async def extend(self, path: bytes, content: AsyncIterable[bytes], *, offset: int) -> int:
        """Write in place, by WRITEs side by side; SETSTAT cuts off what lies behind one that failed."""
        try:
            async with self._open(path, asyncssh.FXF_WRITE) as file:
                writer = _Writer(self, file, offset)
                try:
                    await writer.write(content)
                except BaseException:
                    await asyncio.shield(self._settle(writer))
                    raise
        except asyncssh.SFTPError as error:
            self._connected(error, path)
            await self.stat(path)
            # Never on the file itself: it would grow.
            probe = path[: path.rindex(b"/") + 1] + temporary_name()
            try:
                raise await self._why_not_written(path, probe) from error
            finally:
                await self._sweep(probe)
        return writer.end

    async def _settle(self, writer: "_Writer") -> None:
        """Wait for what is under way; if a write failed, cut off those behind it that did not."""
        with suppress(TimeoutError, asyncssh.SFTPError, GatewayError):
            async with asyncio.timeout(2 * CLEANING):
                if not await writer.settle():
                    await writer.file.setstat(asyncssh.SFTPAttrs(size=writer.end))

    async def create(self, path: bytes) -> None:
        """Make an empty file, by OPEN."""
        flags = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
        try:
            async with self._open(path, flags):
                pass
        except asyncssh.SFTPError as error:
            self._connected(error, path)
            await create_by_command(self._runner, path)

    async def truncate(self, path: bytes, size: int) -> None:
        """Cut, by SETSTAT."""
        try:
            await self._patiently(self._sftp.setstat, path, asyncssh.SFTPAttrs(size=size))
        except asyncssh.SFTPError as error:
            self._connected(error, path)
            await self._commands.command("truncate", "-s", str(size), "--", path)

    async def sync(self, path: bytes) -> None:
        """Have a file on disk, by fsync@openssh.com."""
        try:
            async with self._open(path, asyncssh.FXF_WRITE) as file:
                await self._sync(file, path)
        except asyncssh.SFTPError as error:
            self._connected(error, path)
            await self._commands.command("sync", "--", path)

    async def _sync(self, file: asyncssh.SFTPClientFile, path: bytes) -> None:
        try:
            async with asyncio.timeout(SYNC_PATIENCE):
                await file.fsync()
        except asyncssh.SFTPOpUnsupported:
            await self._commands.command("sync", "--", path)
        except TimeoutError:
            raise TimedOut(f"sync: {quote(path)}: not done in {SYNC_PATIENCE:g} s") from None

    async def move(self, source: bytes, target: bytes, *, exclusive: bool = False) -> None:
        """Rename, by posix-rename@openssh.com, or by RENAME, which replaces nothing."""
        if not exclusive:
            await self.rename(source, target)
            return
        try:
            await self._patiently(self._sftp.rename, source, target)
        except asyncssh.SFTPError as error:
            self._connected(error, target)
            with suppress(asyncssh.SFTPError):
                await self._patiently(self._sftp.lstat, target)
                raise failure(f"cp: cannot create regular file {quote(target)}", errno.EEXIST) from error
            await self._commands.command("ln", "-T", "--", source, target, otherwise=AlreadyExists)
            await self._sweep(source)


@dataclass(frozen=True, slots=True)
class _Block:
    content: bytes
    seconds: float


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
            self.now = min(MOST, self.now * 2 if self.now < LEAST else self.now + 1)
        elif self.now > LEAST:
            self.now -= 1


class _Open:
    """`hpcgate.ssh.streams.OpenFile` by SFTP."""

    __slots__ = ("_file", "_path", "_streams", "attributes")

    def __init__(
        self, streams: SftpStreams, path: bytes, file: asyncssh.SFTPClientFile, attributes: Attributes
    ) -> None:
        self.attributes = attributes
        self._streams = streams
        self._path = path
        self._file = file

    def blocks(self, offset: int, size: int | None) -> AsyncGenerator[bytes]:
        """Read, by READs side by side."""
        return self._streams._read_from(self._path, self._file, offset, size)


class _Writer:
    """WRITEs side by side.

    Attributes:
        file: Where they go.
        end: Up to where everything is written.
    """

    def __init__(self, streams: SftpStreams, file: asyncssh.SFTPClientFile, offset: int) -> None:
        self.file = file
        self.end = offset
        self._streams = streams
        self._offset = offset
        self._window: deque[tuple[asyncio.Task[int], int]] = deque()

    async def write(self, content: AsyncIterable[bytes]) -> None:
        """Write all of it."""
        streams = self._streams
        async for block in cut(content, streams._write_block):
            while len(self._window) >= MOST or (self._window and self._window[0][0].done()):
                await self._oldest()
            task = asyncio.create_task(streams._patiently(self.file.write, block, self._offset))
            self._offset += len(block)
            self._window.append((task, self._offset))
        while self._window:
            await self._oldest()

    async def _oldest(self) -> None:
        await asyncio.shield(self._window[0][0])
        self.end = self._window.popleft()[1]

    async def settle(self) -> bool:
        """Wait for all that is under way and say whether all of it was written."""
        await asyncio.gather(*(task for task, _ in self._window), return_exceptions=True)
        while self._window:
            task, end = self._window.popleft()
            if task.cancelled() or task.exception() is not None:
                self._window.clear()
                return False
            self.end = end
        return True

    async def stop(self) -> None:
        """Wait for nothing that is under way."""
        for task, _ in self._window:
            task.cancel()
        await asyncio.gather(*(task for task, _ in self._window), return_exceptions=True)
        self._window.clear()
