"""An accounting database that does not answer, and how it is asked again.

A frozen slurmdbd lets each question wait until its time-out. So after one that it let wait it is taken for silent: then
one request at a time, and not before a pause, asks it something small first; all others go without it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

PAUSE = 5.0
"""Seconds until the next attempt; twice as many after each that fails, for those who can do without the database."""
LONGEST = 30.0
"""Most seconds between two attempts."""


class Silence:
    """Whether the database is silent, and whose turn it is to ask.

    Args:
        clock: Seconds, of which only differences count.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._last: float | None = None
        self._pause = PAUSE
        self._trying = False

    def __repr__(self) -> str:
        return f"<Silence {'on' if self.on else 'off'}>"

    @property
    def on(self) -> bool:
        """Whether the database let somebody wait and has not answered since."""
        return self._last is not None

    def begin(self) -> None:
        """Note that the database has let somebody wait just now."""
        self._pause = PAUSE if self._last is None else min(LONGEST, 2 * self._pause)
        self._last = self._clock()

    def end(self) -> None:
        """Note that the database has answered."""
        self._last = None

    @contextmanager
    def turn(self, *, needed: bool) -> Iterator[bool]:
        """Yield whether the caller is the one to ask now; of all others none is, until the context is left.

        Args:
            needed: Whether the caller's job is known to nobody else.
        """
        since = 0.0 if self._last is None else self._clock() - self._last
        if self._trying or since < (PAUSE if needed else self._pause):
            yield False
            return
        self._trying = True
        try:
            yield True
        finally:
            self._trying = False
