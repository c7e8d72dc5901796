"""Reference cycles: looked for often enough that none stands, and for no more than a share of the time.

Python looks for them as objects grow in number. It does so here among the youngest only: where thousands of requests
wait, to look through all of them again and again takes a fifth of the time. All objects are looked through from time to
time instead (docs/decisions/garbage.md).
"""

import gc
import sys
import time

REST = 100
"""Seconds of the event loop between two looks at everything, for each that the first one took."""

SOONEST = 2.0
"""Seconds of the event loop between two looks, at least."""

_NEVER = 2**31 - 1


def set_up() -> None:
    """Begin, once everything is loaded: what is there stays, and to look through it even once costs time.

    What is garbage by now stays, too: some 3,000 of 230,000 objects.
    """
    gc.freeze()
    gc.enable()
    youngest, *_ = gc.get_threshold()
    gc.set_threshold(youngest, _NEVER, _NEVER)


class Garbage:
    """Looks through all objects for garbage, from time to time.

    A look takes as long as there are objects. Where many have come since the last one, as when thousands of requests
    have begun to wait, it is put off until what it will take is a hundredth of the time, too. The blocks of memory that
    are taken beyond those of what was loaded stand for objects: to count these, Python makes a list of all of them.
    """

    def __init__(self) -> None:
        self._had = 0.0
        self._due = 0.0
        self._took = 0.0
        self._loaded = sys.getallocatedblocks()
        self._blocks = 0

    def tick(self, had: float) -> None:
        """Look, if it is time. Until it is done nothing else goes on.

        Args:
            had: Seconds since the last tick that were the event loop's own: others may use the core as well.
        """
        self._had += had
        if self._had < self._due:
            return
        self._due = max(SOONEST, REST * self._expected())
        if self._had < self._due:
            return
        busy = time.thread_time()
        gc.collect()
        self._took = time.thread_time() - busy
        self._blocks = self._taken()
        self._had, self._due = 0.0, max(SOONEST, REST * self._took)

    def _expected(self) -> float:
        """Return the seconds that a look would take now, by what the last one took for each block."""
        return self._took * max(1.0, self._taken() / max(1, self._blocks))

    def _taken(self) -> int:
        return sys.getallocatedblocks() - self._loaded
