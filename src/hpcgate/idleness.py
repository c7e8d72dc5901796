"""How much of its time the event loop rests, whatever share of a core it gets."""

import os
import time
from contextlib import suppress

LATE = 0.05
"""Seconds by which an event loop with too much to do is late."""
HARD = 0.3
"""The share of a core below which a late event loop slept, or was kept from the core."""


class Idleness:
    """Tells for which share of the time the thread that asks has slept since it last asked.

    A thread that wants to run and is not let by others, or by a quota, does not sleep: the kernel says how long it ran
    and how long it waited for a core (`/proc/<pid>/schedstat`, Documentation/scheduler/sched-stats). Without that the
    time on the core counts alone, and a timer that fires late as if there had been no rest.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._pid = 0
        self._then = 0.0

    def close(self) -> None:
        """Close the kernel's file."""
        if self._file is not None:
            os.close(self._file)
        self._file = None
        self._pid = 0

    def since(self, seconds: float, *, lag: float) -> float:
        """Return the share, between 0 and 1.

        Args:
            seconds: How long ago it last was asked.
            lag: By how many seconds a timer of the event loop was late.
        """
        wanted, exact = self._wanted()
        then, self._then = self._then, wanted
        share = min(1.0, (wanted - then) / seconds) if seconds > 0 else 0.0
        if not exact and lag > LATE and share > HARD:
            return 0.0
        return 1.0 - max(0.0, share)

    def _wanted(self) -> tuple[float, bool]:
        """Return the seconds for which the thread ran or wanted to, and whether waiting is part of it."""
        if self._pid != os.getpid():
            self.close()
            self._pid = os.getpid()
            with suppress(OSError):
                self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        if self._file is not None:
            with suppress(OSError, ValueError):
                ran, waited, _ = os.pread(self._file, 100, 0).split()
                if int(ran):
                    return (int(ran) + int(waited)) / 1e9, True
        return time.thread_time(), False
