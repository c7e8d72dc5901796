"""Refusals that are said late and a few at a time, and requests that are not even read, so that saying no is cheap."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from heapq import heappop, heappush
from typing import Protocol

HELD = 1000
"""As many refusals may be held at least, which takes some ten megabytes: one that is said early is not held back."""
HOLD = 1.0
"""Seconds for which a refusal is held back: who is refused at once comes back at once."""
SHARE = 0.02
"""The share of the event loop's time that each of three things takes: to say refusals, to read those requests that must
wait no longer, and to refuse those for which there is no room to be left unread."""

TURNS = 500
"""Callers in a row for none of whom there is room, after whom the others are looked at the next time."""


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
    def asker(self) -> Hashable:
        """Return who takes turns with others."""

    @property
    def late(self) -> bool:
        """Whether it has waited for as long as anybody may."""

    @property
    def stays(self) -> bool:
        """Whether there is no room for it yet."""

    def read(self) -> None:
        """Read it now."""

    def refuse(self) -> None:
        """Refuse it as it is: nobody reads it."""


class Lobby:
    """Connections that are left unread until their turn is near. They cost next to nothing, and wait as well.

    They are read callers in turn, of each the first to come first, once there is room, or once they have waited for as
    long as anybody may, to be refused.

    Args:
        most: The bytes that may lie unread; what is more is refused, late as well, and its connection is closed.
        clock: CPU seconds of the event loop, which is what reading for a refusal must not take.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.thread_time) -> None:
        self._most = most
        self._clock = clock
        self._bytes = 0
        self._unread: OrderedDict[Unread, None] = OrderedDict()
        self._turns: OrderedDict[Hashable, deque[Unread]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._unread)

    def add(self, unread: Unread) -> None:
        """Leave a connection unread."""
        if self._bytes + unread.size > self._most:
            unread.refuse()
            return
        self._bytes += unread.size
        self._unread[unread] = None
        queue = self._turns.get(unread.asker)
        if queue is None:
            queue = self._turns[unread.asker] = deque()
        queue.append(unread)

    def look(self, had: float) -> None:
        """Read as many as there is room for, and of those to be refused as many as there is time for.

        Args:
            had: Seconds that the event loop had since the last look.
        """
        late = self._read_late(self._clock() + SHARE * had)
        stayed: Unread | None = None
        stay = 0
        while self._turns and stay < TURNS:
            asker, queue = self._turns.popitem(last=False)
            first = queue[0]
            if not first.stays and not (late and first.late):
                self._read(asker, queue)
                stay = 0
                continue
            self._turns[asker] = queue
            if stay and first is stayed:
                return
            stayed = stayed if stay else first
            stay += 1

    def _read_late(self, until: float) -> bool:
        """Read those that have waited for too long, as far as there is time, and say whether there are more of them."""
        while self._unread and (first := next(iter(self._unread))).late:
            if self._clock() >= until:
                return True
            self._read(first.asker, self._turns.pop(first.asker))
        return False

    def clear(self) -> None:
        """Read all of them, for the process is about to end."""
        while self._turns:
            self._read(*self._turns.popitem(last=False))

    def _read(self, asker: Hashable, queue: deque[Unread]) -> None:
        """Read the first of a caller, who goes to the end of the row."""
        unread = queue.popleft()
        if queue:
            self._turns[asker] = queue
        del self._unread[unread]
        self._bytes -= unread.size
        unread.read()
