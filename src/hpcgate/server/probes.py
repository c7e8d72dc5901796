"""Questions that are answered whatever the load: whether the process lives and is ready, and its metrics."""

import time
from collections import Counter
from collections.abc import Callable, Hashable

AT_ONCE = 5
"""So many such questions of one asker are answered in `EVERY` seconds. Load balancers and monitors ask less often; who
asks more takes turns with others: a stranger who asked without end had the whole of the event loop."""
EVERY = 1.0


class Probes:
    """Counts the questions of each asker.

    Args:
        clock: Gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._asked: Counter[Hashable] = Counter()

    def __repr__(self) -> str:
        return f"<Probes of {len(self._asked)}>"

    def allow(self, asker: Hashable) -> bool:
        """Say whether one more question is answered whatever the load."""
        now = self._clock()
        if now - self._since >= EVERY:
            self._since = now
            self._asked.clear()
        return self._asked[asker] < AT_ONCE

    def take(self, asker: Hashable) -> bool:
        """Say the same, and count the question."""
        allowed = self.allow(asker)
        if allowed:
            self._asked[asker] += 1
        return allowed
