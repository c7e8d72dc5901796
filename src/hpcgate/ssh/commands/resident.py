"""A long-lived process on the login node that answers requests one after the other."""

import asyncio
from collections import deque
from collections.abc import Callable

import asyncssh

from hpcgate.errors import (
    BadAnswer,
    ConnectionLost,
    GatewayError,
    NeverReached,
    NotSupported,
    TimedOut,
    TooLarge,
)
from hpcgate.ssh.channels import Slot
from hpcgate.ssh.commands.command import MAX_NOISE, MAX_STDERR, Output, ended_early, last_words, out_of_time, unread
from hpcgate.telemetry.containment import contained

_END = b"\0"
_MAX_ASIDE = 256 * 1024
"""Bytes that the process may write on standard error once it runs: a complaint about a locale, not a flood."""


class Worker(asyncssh.SSHClientSession[bytes]):
    """The process, as asyncssh's callbacks see it. Requests and answers end with a NUL byte each.

    Attributes:
        leaving: Whether it is about to end, and not to be asked any more.
        refusal: Why it was ended, if it was for what it said.

    Args:
        slot: The channel's place.
        name: The program, for messages.
        limit: The most bytes of one answer.
        patience: Seconds that one answer may take.
        start_up: Seconds until the process must have begun.
        word: What it says first.
        crowded: Says whether others wait for the channel.
        began: Is told when the process has begun and reads what it is asked.
        kill: Kills it.
        refused: Is told why the process was ended, if it was for what it said.
    """

    def __init__(
        self,
        slot: Slot,
        name: str,
        limit: int,
        patience: float,
        *,
        start_up: float,
        word: str,
        crowded: Callable[[], bool],
        began: Callable[[], None],
        kill: "Callable[[Worker], None]",
        refused: Callable[[GatewayError], None],
    ) -> None:
        self.leaving = False
        self.refusal: GatewayError | None = None
        self.closed = False
        self.pid: int | None = None
        self.channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._slot = slot
        self._name = name
        self._limit = limit
        self._patience = patience
        self._start_up = start_up
        self._crowded = crowded
        self._began = began
        self._kill = kill
        self._refused = refused
        self._noise: Output | None = Output(limit, word, feeds=True)
        self._errors = Output(MAX_STDERR, word, follows=False)
        self._aside = 0
        self._buffer = bytearray()
        self._answered = 0
        self._loop = asyncio.get_running_loop()
        self._pending: deque[tuple[asyncio.Future[bytes], float]] = deque()
        self._unsent: list[bytes] = []
        self._word = word
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return not self._pending

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return its answer, both without the NUL byte.

        Raises:
            NotSupported: The process, or the login shell before it came to it, ended without answering anything.
            NeverReached: The user's login shell does not come to it.
            ConnectionLost: It ended, or the connection did.
            TimedOut: The answer took too long; the process was killed.
            TooLarge: The answer went over the limit; the process was killed.
            BadAnswer: It said more than it was asked; the process was killed.
        """
        if self.refusal is not None:
            # It may have been ended before anything was asked of it.
            raise type(self.refusal)(self.refusal.message)
        if self.channel is None or self.closed:
            raise self._gone()
        # One that is about to close has not said yet how it ended.
        answer: asyncio.Future[bytes] = self._loop.create_future()
        now = self._loop.time()
        self._pending.append((answer, now))
        # Those who ask in the same turn of the event loop share a packet, and the process answers them in one go.
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append(request)
        if self._timer is None:
            self._timer = self._loop.call_at(now + self._allowance, self._look)
        return await answer

    @contained("ssh.worker.send")
    def _send(self) -> None:
        if self._noise is not None and (self._noise.shared or not self._noise.started):
            return  # until it is sure who reads it
        unsent, self._unsent = self._unsent, []
        if unsent and self.channel is not None and not self.channel.is_closing():
            self.channel.write(_END.join((*unsent, b"")))

    def _go(self) -> None:
        """The process has begun: what was asked meanwhile is sent."""
        self._count_anew()
        if self.channel is not None and not self.channel.is_closing():
            self.channel.write(self._word.encode() + b"\n")
        self._send()

    def _count_anew(self) -> None:
        """Have the time of what is asked count from now on."""
        now = self._loop.time()
        self._pending = deque((waiter, now) for waiter, _ in self._pending)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop.call_at(now + self._allowance, self._look)

    @property
    def _allowance(self) -> float:
        """Seconds that the oldest request may take."""
        return self._patience if self._noise is None else self._start_up

    @contained("ssh.worker.look")
    def _look(self) -> None:
        """See whether the oldest request has been waiting for too long. One timer for all costs next to nothing."""
        self._timer = None
        if not self._pending:
            return
        oldest, since = self._pending[0]
        allowance = self._allowance
        if self._loop.time() < since + allowance:
            self._timer = self._loop.call_at(since + allowance, self._look)
        elif self._noise is not None:
            early = not self._noise.started
            words = out_of_time(allowance, last_words(self._errors, self._noise)) if early else unread(allowance)
            self._fail(NeverReached(words))
            self.abandon()
        else:
            if not oldest.done():
                oldest.set_exception(TimedOut(f"Command {self._name} timed out after {allowance:g} s"))
            self.abandon()

    def leave(self) -> None:
        """End the process as soon as nothing is under way any more."""
        self.leaving = True
        if self.idle and self.channel is not None and not self.channel.is_closing():
            self.channel.write_eof()
            self.channel.close()

    def abandon(self) -> None:
        """Kill the process, whatever is under way."""
        self.leaving = True
        self._fail(self._gone())
        if self.channel is not None and not self.channel.is_closing():
            self._kill(self)

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """The login node opened the channel."""
        self.channel = chan
        self._slot.opened()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Take what the process writes; its standard error is of no use."""
        if self.leaving and self.idle:
            return
        if datatype is not None:
            self._aside += len(data)
            if self._noise is not None:
                self._errors.feed(data)
            if self._aside > (_MAX_ASIDE if self._noise is None else MAX_NOISE):
                self._refuse(BadAnswer(f"{self._name} on the login node writes errors without end"))
            return
        if self._noise is not None:
            early = not self._noise.started
            self._noise.feed(data)
            if self._noise.drowned:
                self._refuse(self._noise.flood())
                return
            if early and self._noise.started:
                self.pid = self._noise.pid
                self._aside = 0
                self._go()
            if not self._noise.fed:
                return
            data = bytes(self._noise.content)
            self._noise = None
            self._began()
            self._count_anew()
            self._send()
        # Counted before they are taken apart: 64 KiB of NUL bytes would be as many answers.
        count = data.count(_END)
        if count > len(self._pending) or (count == len(self._pending) and data and not data.endswith(_END)):
            self._refuse(BadAnswer(f"{self._name} on the login node says more than it was asked"))
            return
        if count:
            *answers, rest = data.split(_END)
            if self._buffer:
                answers[0] = bytes(self._buffer) + answers[0]
                self._buffer.clear()
            self._buffer += rest
            for answer in answers:
                self._answer(answer)
        else:
            self._buffer += data
        if len(self._buffer) > self._limit:
            self._refuse(TooLarge(f"{self._name}: the answer is over {self._limit} bytes"))
        elif self.leaving or (self.idle and self._crowded()):
            self.leave()

    def eof_received(self) -> bool:
        """A process that writes no more is of no use."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has ended, or the connection."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._slot.release()
        self._fail(self._gone())

    def _refuse(self, error: GatewayError) -> None:
        """End a process that is not what it should be, on the login node too."""
        self._buffer.clear()
        self.refusal = error
        self._fail(error)
        self._refused(error)
        self.abandon()

    def _answer(self, answer: bytes) -> None:
        self._answered += 1
        if self._pending:
            waiter, _ = self._pending.popleft()
            if not waiter.done():
                waiter.set_result(answer)

    def _fail(self, error: GatewayError) -> None:
        pending, self._pending = self._pending, deque()
        for waiter, _ in pending:
            if not waiter.done():
                waiter.set_exception(type(error)(error.message))

    def _gone(self) -> GatewayError:
        status = None if self.channel is None else self.channel.get_exit_status()
        if self._noise is not None and status is not None:
            return NotSupported(ended_early(status, last_words(self._errors, self._noise)))
        if self._answered == 0 and status is not None:
            return NotSupported(f"{self._name} cannot be run on the login node")
        return ConnectionLost(f"{self._name} on the login node has ended")
