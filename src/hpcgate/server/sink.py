"""What clients still send after they were refused: it is read past, so that they come to read the answer."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from hpcgate.telemetry.containment import contained

LINGER = 10.0
"""Seconds for which a refused client may go on sending, so that it comes to read the answer: a socket that is closed
with something unread resets the connection, and the answer may be lost."""
LINGER_BYTES = 1024 * 1024
"""Bytes that it may send meanwhile before it has to take turns with others who do, for the rest of that time."""
PAUSE = 0.1
"""Seconds between two turns."""
TURN = 8 * 1024 * 1024
"""Bytes that are read in a turn of all of them: reading 80 MiB a second takes a few hundredths of a core."""

BURST = 8 * TURN
"""Bytes that all those together may have sent at once whom nothing but their end can stop."""

_SINK = contained("http.sink")


class Sending(Protocol):
    """A connection that is not read from for now, and is closed after a while."""

    def is_over(self) -> bool:
        """Say whether it has ended meanwhile."""

    def go_on(self, portion: int) -> None:
        """Read so many bytes."""


class Sink:
    """Gives turns to those who send without end, so that all of them together take little of the event loop.

    Args:
        least: Bytes that one reads in its turn; those who are alone read more.
    """

    def __init__(self, least: int) -> None:
        self._at_a_time = max(1, TURN // least)
        self._waiting: deque[Sending] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sending: Sending) -> None:
        """Have a connection wait for its turn."""
        self._waiting.append(sending)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE, self._look)

    @contained("http.sink")
    def _look(self) -> None:
        # The timer first: whatever happens below, it goes on for the others.
        self._timer = asyncio.get_running_loop().call_later(PAUSE, self._look) if self._waiting else None
        turn: list[Sending] = []
        while self._waiting and len(turn) < self._at_a_time:
            sending = self._waiting.popleft()
            if not sending.is_over():
                turn.append(sending)
        for sending in turn:
            with _SINK:
                sending.go_on(TURN // len(turn))


class Ending(Protocol):
    """A connection over TLS, which is read by itself after its end, until the other side has said its own."""

    left_at: int | None
    """Bytes that had come when it was left, if it was noted."""

    def is_over(self) -> bool:
        """Say whether it was closed from here."""

    def received(self) -> int:
        """Return the bytes that have come since it began."""

    def cut(self) -> None:
        """End it at once."""


@dataclass(frozen=True, slots=True)
class _End:
    since: float
    first: int
    seen: int


class Ends:
    """Cuts off those who go on sending after the end of their TLS connections, whose reading cannot be put off.

    All of them together have what a `Sink` reads, and `BURST` at once.

    Args:
        least: Bytes that each may send, however much others do.
        patience: Seconds that each has.
        clock: Gives seconds.
    """

    def __init__(self, least: int, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._least = least
        self._patience = patience
        self._clock = clock
        self._then = clock()
        self._allowance = float(BURST)
        self._ends: dict[Ending, _End] = {}

    def look(self, connections: Iterable[Ending]) -> None:
        """See what has come of those that were closed, and cut off who is over the bounds."""
        now = self._clock()
        self._allowance = min(BURST, self._allowance + TURN / PAUSE * (now - self._then))
        self._then = now
        known, self._ends = self._ends, {}
        for one in connections:
            if not one.is_over():
                continue
            received = one.received()
            before = known.get(one)
            if before is None:
                first = received if one.left_at is None else one.left_at
                before = _End(now, first, first)
            self._allowance -= max(0, received - before.seen)
            self._ends[one] = _End(before.since, before.first, received)
        for one, end in self._ends.items():
            if now - end.since >= self._patience or (self._allowance < 0 and end.seen - end.first > self._least):
                with _SINK:
                    one.cut()
