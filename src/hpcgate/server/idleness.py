"""How much time the event loop has, and how much of it it rests, whatever share of a core it gets."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass

LATE = 0.05
"""Seconds by which an event loop with too much to do is late."""
BUSY_SHARE = 0.3
"""The share of a core below which a late event loop slept, or was kept from the core."""


@dataclass(frozen=True, slots=True)
class Rest:
    """What an event loop did with some time.

    Attributes:
        idle: The share of the time for which it slept, between 0 and 1.
        had: Seconds that were its own: it ran or slept, and was not kept from the core.
    """

    idle: float
    had: float


class Idleness:
    """Tells how the thread that asks has spent the time since it last asked.

    A thread that wants to run and is not let by others, or by a quota, does not sleep: the kernel says how long it ran
    and how long it waited for a core (`/proc/<pid>/schedstat`, Documentation/scheduler/sched-stats). Without that the
    time on the core counts alone, and a timer that fires late as if there had been no rest.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._pid = 0
        self._then = (0.0, 0.0)

    def close(self) -> None:
        """Close the kernel's file."""
        if self._file is not None:
            os.close(self._file)
        self._file = None
        self._pid = 0

    def since(self, seconds: float, *, lag: float) -> Rest:
        """Return how it was spent.

        Args:
            seconds: How long ago it last was asked.
            lag: By how many seconds a timer of the event loop was late.
        """
        then, self._then = self._then, self._spent()
        ran, waited = self._then[0] - then[0], self._then[1] - then[1]
        share = min(1.0, max(0.0, (ran + waited) / seconds)) if seconds > 0 else 0.0
        if self._file is None and lag > LATE and share > BUSY_SHARE:
            return Rest(0.0, ran)
        return Rest(1.0 - share, min(seconds, max(0.0, seconds - waited)))

    def _spent(self) -> tuple[float, float]:
        """Return the seconds for which the thread ran, and for which it waited for a core as far as that is known."""
        if self._pid != os.getpid():
            self.close()
            self._pid = os.getpid()
            with suppress(OSError):
                self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        if self._file is not None:
            with suppress(OSError, ValueError):
                ran, waited, _ = os.pread(self._file, 100, 0).split()
                if int(ran):
                    return int(ran) / 1e9, int(waited) / 1e9
            # A kernel that does not count says nothing but noughts.
            os.close(self._file)
            self._file = None
        return time.thread_time(), 0.0
