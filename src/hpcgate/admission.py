"""How many requests are served at a time: fewer while the event loop falls behind, so that none waits without bound."""

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

FLOOR = 32
"""As few as this are always served."""
START = 128
LATE = 0.05
"""Seconds by which an event loop with too much to do is late."""
BUSY = 0.9
"""The share of a core from which on the event loop is taken to be at its limit."""
CALM = 1.0
"""Seconds for which the loop must not have been at its limit before more are served again."""
_MEMORY = 0.5
"""Seconds over which the rate of what is done is averaged."""


class Caller(Protocol):
    """A request that waits."""

    def let_in(self) -> bool:
        """Begin to serve it; False if its client has gone."""

    def turn_away(self) -> None:
        """Refuse it."""


class Admission:
    """Decides which requests are served, which wait, and which are refused. Plain and synchronous.

    While the event loop is at its limit, time goes by in queueing. Then, by Little's law, so many are served at a time
    as are done within half of `max_delay`, and as many wait as are done within all of it. Once it has not been for a
    while, what is under way waits for login nodes and costs nothing: the limit doubles with every look.

    Args:
        most: Requests at a time, those that wait included, those set aside apart.
        max_delay: Seconds that a request waits to be served at most.
        aside: Returns how many of the requests under way do not count: streams, which last and cost little in between,
            and those that wait for a login. Can be set anew.
    """

    def __init__(self, most: int, max_delay: float, aside: Callable[[], int] = lambda: 0) -> None:
        self.most = most
        self.limit = min(START, most)
        self.running = 0
        self.refused = 0
        self.queue: deque[tuple[float, Caller]] = deque()
        self._max_delay = max_delay
        self.count_aside = aside
        self._aside = 0
        self._calm = CALM
        self._rate = 0.0
        self._told = 0

    def __repr__(self) -> str:
        return f"<Admission limit={self.limit}/{self.most} queue={len(self.queue)} refused={self.refused}>"

    def full(self, running: int) -> bool:
        """Say whether so many requests, those aside included, leave no room for one more."""
        return running - self._aside >= self.limit

    def wait(self, caller: Caller, running: int) -> None:
        """Have a request wait for room, or refuse it if it would wait in vain."""
        most = self.most - (running - self._aside)
        if self._calm < CALM:
            most = min(most, max(FLOOR, int(self._rate * self._max_delay)))
        if len(self.queue) < most:
            self.queue.append((time.monotonic(), caller))
        else:
            self._refuse(caller)

    def feed(self, running: int) -> None:
        """Let in who waits while there is room."""
        while self.queue and not self.full(running):
            running += self.queue.popleft()[1].let_in()

    def look(self, *, lag: float, busy: float, seconds: float, running: int, done: int) -> None:
        """Take note of what went on since the last look, and let in or refuse those who wait.

        Args:
            lag: How late the event loop was, in seconds.
            busy: Which share of a core it took.
            seconds: How long ago the last look was.
            running: How many requests are served now, those aside included.
            done: How many were answered, those refused apart.
        """
        self._aside = self.count_aside()
        self.running = running - self._aside
        rate = done / seconds
        self._rate += min(1.0, seconds / _MEMORY) * (rate - self._rate)
        if self._calm >= CALM:
            # After a rest the average says nothing.
            self._rate = max(self._rate, rate)
        if lag > LATE or busy > BUSY:
            self._calm = 0.0
            self.limit = min(self.most, max(FLOOR, int(self._rate * self._max_delay / 2)))
        else:
            self._calm += seconds
            if self._calm >= CALM and self.running >= self.limit // 2:
                self.limit = min(self.most, self.limit * 2)
        self.feed(running)
        since = time.monotonic() - self._max_delay
        while self.queue and self.queue[0][0] < since:
            self._refuse(self.queue.popleft()[1])

    def news(self) -> int:
        """Return how many were refused since the last call."""
        fresh, self._told = self.refused - self._told, self.refused
        return fresh

    def _refuse(self, caller: Caller) -> None:
        self.refused += 1
        caller.turn_away()
