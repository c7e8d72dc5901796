"""Refusals that are said late and a few at a time, and requests that are not even read, so that saying no is cheap."""

import time
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Protocol

HELD = 1000
"""As many refusals may be held at least, which takes some ten megabytes: one that is said early is not held back."""
HOLD = 1.0
"""Seconds for which a refusal is held back: who is refused at once comes back at once."""
SHARE = 0.02
"""The share of the event loop's time that each of three things takes: to say refusals, to read those requests that must
wait no longer, and to refuse those for which there is no room to be left unread."""


class Refused(Protocol):
    """A request that is to be refused."""

    def say(self) -> bool:
        """Answer it; False if its client has gone."""


class Refusals:
    """Holds refusals back: meanwhile the connection is not read from, and its client waits.

    Attributes:
        said: How many were answered.

    Args:
        most: How many may be held; of more the oldest are said early, which costs less than a new connection.
        clock: CPU seconds of the event loop, which is what refusals must not take.
        now: Seconds of the clock on the wall, which is what a client waits by.
    """

    def __init__(
        self,
        most: float,
        clock: Callable[[], float] = time.thread_time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.said = 0
        self._most = most
        self._clock = clock
        self._now = now
        self._held: list[tuple[float, int, Refused]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, refused: Refused, came: float) -> None:
        """Refuse a request that came at this moment, not before `HOLD` seconds have passed since."""
        self._count += 1
        heappush(self._held, (max(self._now(), came + HOLD), self._count, refused))
        while len(self._held) > self._most:
            self.said += heappop(self._held)[2].say()

    def look(self, had: float) -> None:
        """Say those whose time has come, as far as there is time to; at least one. The others wait on.

        Args:
            had: Seconds that the event loop had since the last look.
        """
        now = self._now()
        until = self._clock() + SHARE * had
        while self._held and self._held[0][0] <= now:
            self.said += heappop(self._held)[2].say()
            if self._clock() >= until:
                return

    def clear(self) -> None:
        """Say all of them, for the process is about to end."""
        while self._held:
            self.said += heappop(self._held)[2].say()


class Unread(Protocol):
    """A connection whose request has come and is not read."""

    @property
    def size(self) -> int:
        """The bytes that have come."""

    @property
    def late(self) -> bool:
        """Whether it has waited for as long as anybody may."""

    def read(self) -> None:
        """Read it now."""

    def refuse(self) -> None:
        """Refuse it as it is: nobody reads it."""


class Lobby:
    """Connections that are left unread while no more requests may wait. They cost next to nothing, and wait as well.

    First come, first read: once there is room, or once they have waited for as long as anybody may, to be refused.

    Args:
        most: The bytes that may lie unread; what is more is refused, late as well, and its connection is closed.
        clock: CPU seconds of the event loop, which is what reading for a refusal must not take.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.thread_time) -> None:
        self._most = most
        self._clock = clock
        self._bytes = 0
        self._unread: deque[Unread] = deque()

    def __len__(self) -> int:
        return len(self._unread)

    def add(self, unread: Unread) -> None:
        """Leave a connection unread."""
        if self._bytes + unread.size > self._most:
            unread.refuse()
            return
        self._bytes += unread.size
        self._unread.append(unread)

    def look(self, had: float, filled: Callable[[], bool]) -> None:
        """Read as many as may wait, and of those to be refused as many as there is time for.

        Args:
            had: Seconds that the event loop had since the last look.
            filled: Says whether no more may wait.
        """
        until = self._clock() + SHARE * had
        while self._unread:
            late = self._unread[0].late
            if (late or filled()) and not (late and self._clock() < until):
                return
            self._read()

    def clear(self) -> None:
        """Read all of them, for the process is about to end."""
        while self._unread:
            self._read()

    def _read(self) -> None:
        unread = self._unread.popleft()
        self._bytes -= unread.size
        unread.read()
