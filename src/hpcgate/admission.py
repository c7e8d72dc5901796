"""How many requests are served at a time: fewer while the event loop falls behind, so that none waits without bound."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

FLOOR = 32
"""As few as this are always served."""
START = 128
SETTLING = 10
"""So many times as long requests may wait while many users log in at once, as after a restart."""
SETTLED = 2.0
"""Seconds for which that still holds when they have: what has come meanwhile must be done first."""
LATE = 0.05
"""Seconds by which an event loop with too much to do is late."""
BUSY = 0.9
"""The share of a core from which on the event loop is taken to be at its limit."""
HARD = 0.3
"""The share of a core below which a late event loop was kept from the core, or slept: it has not too much to do."""
CALM = 1.0
"""Seconds for which the loop must not have been at its limit before more are served again."""
SHARE = 6
"""As many requests of one caller are begun between two looks, while the loop is at its limit, before others' turn."""
ALONE = 32
"""As many if there has been no other caller lately: many at a time share packets, and nobody waits behind them."""
LATELY = 100
"""Looks for which a caller is remembered, once or twice."""
_MEMORY = 0.5
"""Seconds over which the rate of what is done is averaged."""


class Caller(Protocol):
    """A request that waits."""

    @property
    def key(self) -> bytes:
        """Whose it is: all with the same one share a turn."""

    def let_in(self) -> bool:
        """Begin to serve it; False if its client has gone."""

    def turn_away(self) -> None:
        """Refuse it."""


class Admission:
    """Decides which requests are served, which wait, and which are refused. Plain and synchronous.

    While the event loop is at its limit, time goes by in queueing. Then, by Little's law, so many are served at a time
    as are done within half of `max_delay`, and as many wait as are done within all of it. Once it has not been for a
    while, what is under way waits for login nodes and costs nothing: the limit doubles with every look.

    While many users log in at once, as after a restart, and until what has come meanwhile is done, the loop is at its
    limit for a good reason and for seconds only: nobody is refused for that.

    At the limit callers take turns: of one only `SHARE` requests run at a time, as far as they are no longer than the
    time between two looks, those of others who wait come first, and who has the most waiting is refused first. So one
    who asks for five hundred things at once waits for himself.

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
        self.waiting = 0
        self._queues: OrderedDict[bytes, deque[tuple[float, Caller]]] = OrderedDict()
        self._held: dict[bytes, int] = {}
        self._generation = 0
        self._callers: set[bytes] = set()
        self._callers_before: set[bytes] = set()
        self._max_delay = max_delay
        self.count_aside = aside
        self.settling: Callable[[], bool] = lambda: False
        self._aside = 0
        self._settled = SETTLED
        self._calm = CALM
        self._rate = 0.0
        self._told = 0

    def __repr__(self) -> str:
        return f"<Admission limit={self.limit}/{self.most} waiting={self.waiting} refused={self.refused}>"

    @property
    def busy(self) -> bool:
        """Whether callers take turns."""
        return self._calm < CALM

    def begin(self, key: bytes) -> int:
        """Take note that a request of a caller begins, and return what `end` wants to know."""
        self._held[key] = self._held.get(key, 0) + 1
        self._callers.add(key)
        return self._generation

    def end(self, key: bytes, begun: int) -> None:
        """Take note that it has ended."""
        if begun == self._generation:
            self._held[key] -= 1

    def must_wait(self, key: bytes, running: int) -> bool:
        """Say whether a request of this caller cannot be served at once."""
        return self._has_share(key) or key in self._queues or self.full(running)

    def _has_share(self, key: bytes) -> bool:
        held = self._held.get(key, 0)
        return held >= SHARE and self.busy and (held >= ALONE or not self._alone(key))

    def _alone(self, key: bytes) -> bool:
        return self._callers <= {key} and self._callers_before <= {key}

    def full(self, running: int) -> bool:
        """Say whether so many requests, those aside included, leave no room for one more."""
        return running - self._aside >= self.limit

    def wait(self, caller: Caller, running: int) -> None:
        """Have a request wait for room, or refuse it if it would wait in vain."""
        most = self.most - (running - self._aside)
        if self._calm < CALM:
            most = min(most, max(FLOOR, int(self._rate * self._max_delay)))
        if self.waiting >= most and not self._make_room(len(self._queues.get(caller.key, ()))):
            self._refuse(caller)
            return
        self._queues.setdefault(caller.key, deque()).append((time.monotonic(), caller))
        self.waiting += 1

    def _make_room(self, own: int) -> bool:
        """Refuse somebody who has more waiting than so many."""
        if not self._queues:
            return False
        key, longest = max(self._queues.items(), key=lambda item: len(item[1]))
        if len(longest) <= own + 1:
            return False
        self._refuse(self._take(key, newest=True))
        return True

    def _take(self, key: bytes, *, newest: bool = False) -> Caller:
        queue = self._queues[key]
        _, caller = queue.pop() if newest else queue.popleft()
        if not queue:
            del self._queues[key]
        self.waiting -= 1
        return caller

    def feed(self, running: int) -> None:
        """Let in who waits while there is room, each caller in turn."""
        passed = 0
        while passed < len(self._queues) and not self.full(running):
            key = next(iter(self._queues))
            self._queues.move_to_end(key)
            if self._has_share(key):
                passed += 1
                continue
            passed = 0
            running += self._take(key).let_in()

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
        self._settled = 0.0 if self.settling() else self._settled + seconds
        settling = self._settled < SETTLED
        if (busy > BUSY or (lag > LATE and busy > HARD)) and not settling:
            self._calm = 0.0
            self.limit = min(self.most, max(FLOOR, int(self._rate * self._max_delay / 2)))
        else:
            self._calm += seconds
            if self._calm >= CALM and self.running >= self.limit // 2:
                self.limit = min(self.most, self.limit * 2)
        # What has not ended by now waits for something else than the loop.
        self._held.clear()
        self._generation += 1
        if self._generation % LATELY == 0:
            self._callers, self._callers_before = set(), self._callers
        self.feed(running)
        self._squeeze_in()
        since = time.monotonic() - self._max_delay * (SETTLING if settling else 1)
        for key, queue in list(self._queues.items()):
            while queue and queue[0][0] < since:
                self._refuse(self._take(key))

    def _squeeze_in(self) -> None:
        """Let in a few callers behind whom another has far more waiting, though there is no room.

        When the limit falls it is below what runs already, which is that one's: the others would wait until all of it
        has ended, and be refused meanwhile.
        """
        most = max(map(len, self._queues.values()), default=0)
        modest = [key for key, queue in self._queues.items() if len(queue) + 1 < most and not self._has_share(key)]
        for key in modest[:SHARE]:
            self._queues.move_to_end(key)
            self._take(key).let_in()

    def news(self) -> int:
        """Return how many were refused since the last call."""
        fresh, self._told = self.refused - self._told, self.refused
        return fresh

    def _refuse(self, caller: Caller) -> None:
        self.refused += 1
        caller.turn_away()
