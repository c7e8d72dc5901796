"""An accounting database that does not answer, and how it is asked again.

A frozen slurmdbd lets each question wait until its time-out. So after one that it let wait it is taken for silent: then
one request at a time, and not before a pause, asks it something small first; all others go without it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from hpcgate.schedulers.slurm.doubts import MAX_USERS, Doubts
from hpcgate.sharing.recent import Recent

PAUSE = 5.0
"""Seconds until the next attempt; twice as many after each that fails, for those who can do without the database."""
LONGEST = 30.0
"""Most seconds between two attempts."""
WITNESS = 2 * LONGEST
"""Seconds for which it counts for others that somebody has found the database silent."""


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


class Silences:
    """For whom the database is silent: for who has found it so, and for all once two users have.

    Args:
        clock: Seconds, of which only differences count.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._doubts = Doubts(WITNESS, clock)
        self._shared = Silence(clock)
        self._own = Recent[str, Silence](MAX_USERS)

    def __repr__(self) -> str:
        return f"<Silences of {len(self._own)}, for all: {self._shared!r}>"

    def of(self, username: str) -> Silence:
        """Return the one that counts for a user."""
        own = self._own.get(username)
        return self._shared if self._shared.on or own is None else own

    def begin(self, username: str) -> None:
        """Note that the database has let a user wait just now."""
        self._doubts.begin(username)
        if self._shared.on or self._doubts.shared:
            self._shared.begin()
            return
        own = self._own.get(username)
        if own is None:
            self._own.keep(username, own := Silence(self._clock))
        own.begin()

    def end(self, username: str) -> None:
        """Note that the database has answered a user."""
        self._doubts.end(username)
        self._shared.end()
        self._own.forget(username)
