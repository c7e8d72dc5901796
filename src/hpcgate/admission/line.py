"""Requests that wait for their turn, by who asks."""

from collections import OrderedDict
from typing import Protocol

from hpcgate.admission.askers import Asker

_STEADY = 2.0
"""Seconds over which the rate is averaged at which a queue is served."""


class Caller(Protocol):
    """A request that waits."""

    size: int
    """The bytes that it holds."""

    @property
    def since(self) -> float:
        """The moment since when it waits, on the admission's clock."""

    @property
    def asker(self) -> Asker:
        """Return who sends the request."""

    def let_in(self) -> bool:
        """Begin to serve it; False if its client has gone."""

    def turn_away(self) -> None:
        """Answer the request with a refusal."""


Queue = OrderedDict[Caller, None]
"""Requests of one caller, in the order in which they came."""


class Line:
    """Those of a kind that wait: users, or strangers. Each step takes the same time however many there are.

    Attributes:
        queues: What waits of each caller who may have a turn, in the order of turns.
        blocked: What waits of callers whose share runs already.
        waiting: How many requests wait.
        most: How many may wait.
        ahead: From how many on further requests are left unread, unless their callers have fewer waiting than others.
        rate: How many are let in a second, as an average since the line stands.
        stood: Seconds for which it has stood.
    """

    def __init__(self, most: int) -> None:
        self.queues: OrderedDict[Asker, Queue] = OrderedDict()
        self.blocked: OrderedDict[Asker, Queue] = OrderedDict()
        self.waiting = 0
        self.most = most
        self.ahead = most
        self.let_in = 0
        self.rate = 0.0
        self.stood = 0.0
        self._by_length: dict[int, dict[Asker, None]] | None = None
        self._longest = 0

    @property
    def filled(self) -> bool:
        """Whether no more may wait."""
        return self.waiting >= self.most

    def of(self, asker: Asker) -> Queue | None:
        """Return what waits of a caller."""
        return self.queues.get(asker) or self.blocked.get(asker)

    def add(self, caller: Caller) -> None:
        """Put a request at its caller's end."""
        queue = self.of(caller.asker)
        if queue is None:
            queue = self.queues[caller.asker] = OrderedDict()
        queue[caller] = None
        self.waiting += 1
        if self._by_length is not None:
            self._count(self._by_length, caller.asker, len(queue) - 1, len(queue))

    def remove(self, caller: Caller) -> bool:
        """Take a request out, wherever it is; False if it does not wait."""
        queue = self.of(caller.asker)
        if queue is None or caller not in queue:
            return False
        del queue[caller]
        self._shortened(caller.asker, queue)
        return True

    def take(self, asker: Asker, *, newest: bool = False) -> Caller:
        """Take a caller's oldest request, or the newest."""
        queue = self.of(asker)
        assert queue is not None  # noqa: S101 (there are no empty queues)
        caller, _ = queue.popitem(last=newest)
        self._shortened(asker, queue)
        return caller

    def _shortened(self, asker: Asker, queue: Queue) -> None:
        self.waiting -= 1
        if self._by_length is not None:
            if self.waiting < min(self.most, self.ahead) // 2:
                self._by_length = None
            else:
                self._count(self._by_length, asker, len(queue) + 1, len(queue))
        if not queue:
            self.queues.pop(asker, None)
            self.blocked.pop(asker, None)

    def _lengths(self) -> dict[int, dict[Asker, None]]:
        """Return who has how many waiting, which is kept up to date only while the line is full, or nearly so."""
        if self._by_length is None:
            self._by_length = {}
            self._longest = 0
            for group in (self.queues, self.blocked):
                for asker, queue in group.items():
                    self._count(self._by_length, asker, 0, len(queue))
        return self._by_length

    def _count(self, by_length: dict[int, dict[Asker, None]], asker: Asker, before: int, after: int) -> None:
        if before:
            del by_length[before][asker]
            if not by_length[before]:
                del by_length[before]
        if after:
            by_length.setdefault(after, {})[asker] = None
        if after > self._longest or (before == self._longest and before not in by_length):
            self._longest = after

    def block(self, asker: Asker) -> None:
        """Give a caller no turn for now."""
        self.blocked[asker] = self.queues.pop(asker)

    def unblock(self, asker: Asker) -> None:
        """Give a caller turns again."""
        queue = self.blocked.pop(asker, None)
        if queue is not None:
            self.queues[asker] = queue

    def longest(self) -> tuple[Asker, int]:
        """Return a caller of whom most wait, and how many."""
        lengths = self._lengths()
        return next(iter(lengths[self._longest])), self._longest

    def crowded(self, asker: Asker) -> bool:
        """Say whether there is no room for one more of this caller, for no other has more waiting."""
        return self.waiting >= self.most and self.has_most(asker)

    def has_most(self, asker: Asker) -> bool:
        """Say whether no other caller would have more waiting than this one with one more."""
        self._lengths()
        return self._longest <= len(self.of(asker) or ()) + 1

    def late(self, since: float) -> list[Caller]:
        """Take and return those who came before that."""
        found = []
        for group in (self.queues, self.blocked):
            for asker in list(group):
                while (queue := group.get(asker)) and next(iter(queue)).since < since:
                    found.append(self.take(asker))
        return found

    def look(self, seconds: float) -> None:
        """Take note of how fast the line moved since the last look."""
        if not self.waiting:
            self.stood = 0.0
        else:
            rate = self.let_in / seconds
            self.rate += (rate - self.rate) * (min(1.0, seconds / _STEADY) if self.stood else 1.0)
            self.stood += seconds
        self.let_in = 0
