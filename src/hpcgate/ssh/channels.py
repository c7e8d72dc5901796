"""How many channels one connection has open, and who waits for one.

sshd refuses a channel beyond its ``MaxSessions`` (10 by default, sshd_config(5)) and tells nobody the number. It is
learned from the first refusal; whoever was refused waits at the head of the queue.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from hpcgate.errors import ConnectionLost, LoginNodeError, PoolExhausted
from hpcgate.telemetry.containment import contained

_FIRST_GUESS = 10
MAX_WAIT = 30.0
"""Seconds that a command waits for a channel at most."""
_REMIND = 0.2
"""Seconds between calls of `on_short` while somebody waits."""


class NoChannel(Exception):
    """The login node did not open a channel: it has none to spare, maybe."""


class ChannelRefused(LoginNodeError):
    """The login node opened a channel but refused what was asked of it: the command or the subsystem."""


class Channels:
    """The channels of one connection. Plain bookkeeping; only `acquire` and `again` wait.

    Args:
        limit: How many there may be at a time, or None to learn it.
        on_short: Called whenever somebody starts to wait for a channel, and again while it lasts.
    """

    def __init__(self, limit: int | None, on_short: Callable[[], None]) -> None:
        self.limit = limit
        self.open = 0
        self.opening = 0
        self._fixed = limit is not None
        self._peak = 0
        self._on_short = on_short
        self._queue: deque[asyncio.Future[None]] = deque()
        self._lost: ConnectionLost | None = None
        self._reminder: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Channels open={self.open} opening={self.opening} limit={self.limit} waiting={len(self._queue)}>"

    @property
    def waiting(self) -> int:
        """How many wait for a channel."""
        return len(self._queue)

    async def acquire(self) -> "Slot":
        """Wait for leave to open a channel, in the order of arrival.

        Raises:
            PoolExhausted: None came free in time.
            ConnectionLost: The connection ended.
        """
        if self._lost is not None:
            raise ConnectionLost(self._lost.message)
        if self._queue or not self._room():
            try:
                async with asyncio.timeout(MAX_WAIT):
                    await self._wait(first=False)
            except TimeoutError:
                raise self.exhausted() from None
        else:
            self.opening += 1
        return Slot(self)

    async def again(self, slot: "Slot", patience: float) -> None:
        """Wait after a refusal until a channel closes, `patience` seconds at most, before the next attempt."""
        slot.refused()
        if self._lost is not None:
            raise ConnectionLost(self._lost.message)
        try:
            async with asyncio.timeout(patience):
                await self._wait(first=True)
        except TimeoutError:
            self.opening += 1
        slot.retried()

    @staticmethod
    def exhausted() -> PoolExhausted:
        """Return the error for who waited in vain."""
        return PoolExhausted("Too many commands of this user run on the login node", headers={"Retry-After": "1"})

    def lose(self, error: ConnectionLost) -> None:
        """End every wait: the connection is gone."""
        self._lost = error
        if self._reminder is not None:
            self._reminder.cancel()
            self._reminder = None
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_exception(ConnectionLost(error.message))

    def wake(self) -> None:
        """Let those go on for whom there is room."""
        while self._queue and self._room():
            waiter = self._queue.popleft()
            if not waiter.done():
                self.opening += 1
                waiter.set_result(None)

    async def _wait(self, *, first: bool) -> None:
        waiter = asyncio.get_running_loop().create_future()
        if first:
            self._queue.appendleft(waiter)
        else:
            self._queue.append(waiter)
        self._on_short()
        if self._reminder is None:
            self._reminder = asyncio.get_running_loop().call_later(_REMIND, self._remind)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.opening -= 1
            elif waiter in self._queue:
                self._queue.remove(waiter)
            self.wake()
            raise

    @contained("ssh.channels.remind")
    def _remind(self) -> None:
        self._reminder = None
        if self._queue:
            self._reminder = asyncio.get_running_loop().call_later(_REMIND, self._remind)
            self._on_short()

    def _room(self) -> bool:
        taken = self.open + self.opening
        if self.limit is not None:
            return taken < self.limit
        return taken < max(_FIRST_GUESS, 2 * self._peak)

    def opened(self) -> None:
        """A channel that was being opened is open."""
        self.opening -= 1
        self.open += 1
        self._peak = max(self._peak, self.open)
        if self.limit is not None and not self._fixed:
            self.limit = max(self.limit, self._peak)
        self.wake()

    def learn(self, limit: int) -> None:
        """Take note of how many channels the login node allows, unless the settings say so."""
        if not self._fixed:
            self.limit = limit

    def refused(self) -> None:
        """The login node refused to open a channel."""
        self.opening -= 1
        # sshd frees a slot a moment after its channel has closed, so a refusal may come below the true limit: what was
        # open at once before is certain.
        self.learn(max(1, self._peak, self.open))


class Slot:
    """One channel's place among the channels of its connection."""

    __slots__ = ("_channels", "_state")

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._state = "opening"

    def opened(self) -> None:
        """The channel is open."""
        if self._state == "opening":
            self._state = "open"
            self._channels.opened()

    def refused(self) -> None:
        """The login node refused to open it."""
        if self._state == "opening":
            self._state = "refused"
            self._channels.refused()

    def retried(self) -> None:
        """Another attempt is made."""
        self._state = "opening"

    def release(self) -> None:
        """The channel is closed, or was never opened."""
        if self._state == "opening":
            self._channels.opening -= 1
        elif self._state == "open":
            self._channels.open -= 1
        else:
            return
        self._state = "released"
        self._channels.wake()
