"""A command that is fed and read while it runs."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

from hpcgate.errors import GatewayError, TimedOut, TooLarge
from hpcgate.ssh.channels import Slot
from hpcgate.ssh.commands.command import MAX_ERRORS, Command
from hpcgate.ssh.commands.quoting import WORD

_MAX_WAITING = 1024 * 1024
"""Bytes of output that are kept for a reader; then the login node has to wait, and the command with it."""
_NO_LIMIT = 1 << 62
MAX_SILENCE = 30.0
"""Seconds without output, once the command has ended, after which it is something else that keeps its output open.

What the command wrote is on its way by then, which takes as long only where the network stands still.
"""


class Process(Command):
    """A command under way whose output and input are streams. Memory is bounded: neither side runs ahead of the other.

    Args:
        slot: The channel's place.
        name: The program, for messages.
        stall: Seconds that the command may neither write, nor read what it is given, nor end.
        lost: Makes the error for a connection that broke.
        word: What the command says first.
    """

    def __init__(self, slot: Slot, name: str, stall: float, lost: Callable[[], GatewayError], word: str = WORD) -> None:
        super().__init__(slot, _NO_LIMIT, word, feeds=True)
        self.name = name
        self.stall = stall
        self._lost = lost
        self._blocks: deque[bytes] = deque()
        self._waiting = 0
        self._taking = False
        self._deadlines: set[asyncio.Timeout] = set()
        self._left_open = False
        self._arrived = asyncio.Event()
        self._sought = b""
        self._searched = b""
        self.said = False

    def listen_for(self, words: bytes) -> None:
        """Set `said` once the command has written this on standard error, however much else it writes there."""
        self._sought = words

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Keep output for the reader; have the login node wait if there is much."""
        if datatype is not None:
            self._complain(data)
            if self.done.done():
                self._arrived.set()
            if self._sought and not self.said:
                self._searched += data
                self.said = self._sought in self._searched
                self._searched = self._searched[-len(self._sought) :]
            return
        if not self.stdout.fed:
            self.stdout.feed(data)
            if self.stdout.drowned:
                self._finish()
                self._arrived.set()
                return
            data = self._take_over()
        if data:
            self._blocks.append(data)
            self._waiting += len(data)
            self._arrived.set()
            self._hold_back()

    def exit_status_received(self, status: int) -> None:
        """The command has ended; its output comes to an end too, unless something else has it."""
        self._wait_no_longer()

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        """A signal has ended the command."""
        self._wait_no_longer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The command has ended, or the connection."""
        super().connection_lost(exc)
        if rest := self._take_over():
            self._blocks.append(rest)
        self._arrived.set()

    @property
    def words(self) -> str:
        """What the command has said on standard error so far, at most 64 KiB of it."""
        return self.stderr.written.decode("utf-8", "replace").strip()

    async def output(self) -> AsyncGenerator[bytes]:
        """Yield what the command writes until it ends.

        Raises:
            TimedOut: It wrote nothing for too long.
            NeverReached: Start-up files print without end in its place.
            NeverBegan: Its input is not what is sent to it.
            TooLarge: It writes on standard error without end.
        """
        while True:
            while self._blocks:
                block = self._blocks.popleft()
                self._waiting -= len(block)
                yield block
            self._take_more()
            if self._blocks:
                continue
            self._check_flood()
            if self.closed:
                self.check_input()
                return
            self._arrived.clear()
            if not await self._within(self._arrived.wait()):
                return

    async def feed_block(self, block: bytes) -> bool:
        """Write to the command's input, waiting until it keeps up; False if it has ended.

        Raises:
            TimedOut: It took nothing for too long.
        """
        if self.channel is None or self.closed or self.unheard is not None:
            return False
        return await self._within(self._write(self.channel, block)) and not self.closed

    def feed_end(self) -> None:
        """End the command's input."""
        if self.channel is not None and not self.closed and not self.channel.is_closing():
            self.channel.write_eof()

    async def ended(self) -> int:
        """Wait for the end of the command, whose output must have been read, and return its exit status.

        Raises:
            TimedOut: It did not end.
            ConnectionLost: The connection broke first.
            LoginNodeError: The user's login shell ended before it came to the command.
            TooLarge: It writes on standard error without end.
        """
        if not self._left_open:
            await self._within(asyncio.shield(self.done))
        self._check_flood()
        status = self.exit_status
        if status is None:
            raise self._lost() from self.error
        self.check_begun()
        return status

    def _listen(self, seconds: float) -> None:
        super()._listen(seconds)
        self._arrived.set()

    def _check_flood(self) -> None:
        if self.unheard is not None:
            self.check_input()
        if self.stdout.drowned:
            raise self.stdout.flood()
        if self.complains:
            raise TooLarge(f"Command {self.name} wrote more than {MAX_ERRORS} bytes on standard error")

    def _hold_back(self) -> None:
        if self._waiting >= _MAX_WAITING and self.channel is not None and not self._taking:
            self.channel.pause_reading()

    def _take_more(self) -> None:
        """Take all that has come while reading was paused.

        asyncssh allows the login node another whole window with the first of it: if the rest stayed where it is, there
        would be more of it each time.
        """
        if self.channel is None:
            return
        self._taking = True
        self.channel.resume_reading()
        self._taking = False
        self._hold_back()

    def _take_over(self) -> bytes:
        """Take over what came with the mark of the beginning."""
        if not self.stdout.started:
            return b""
        self._begin()
        if not self.stdout.fed:
            return b""
        self._hear()
        content = bytes(self.stdout.content)
        self.stdout.content.clear()
        return content

    async def _within(self, waiting: Awaitable[object]) -> bool:
        """Wait; False if nothing came and the command has ended, but something else has not let go of its output."""
        most = self.stall if self.exit_status is None else min(self.stall, MAX_SILENCE)
        deadline = asyncio.timeout(most)
        try:
            async with deadline:
                self._deadlines.add(deadline)
                await waiting
        except TimeoutError:
            if self.exit_status is None:
                raise TimedOut(f"Command {self.name} made no progress for {self.stall:g} s") from None
            self._left_open = True
            return False
        finally:
            self._deadlines.discard(deadline)
        return True

    def _wait_no_longer(self) -> None:
        sooner = asyncio.get_running_loop().time() + min(self.stall, MAX_SILENCE)
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(min(sooner, deadline.when() or sooner))
