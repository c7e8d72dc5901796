"""Lines on their way to a file: a thread writes them, so that a disk or a pipe that hangs holds nobody else."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from hpcgate.telemetry.containment import FAULTS

T = TypeVar("T")
Item = TypeVar("Item", contravariant=True)

LINES = 100_000
"""Lines that may wait, as a rule."""
BYTES = 16 * 1024 * 1024
"""Bytes of all that wait, as a rule."""
AT_ONCE = 1_000
"""Lines of one write, at most."""
PAUSE = 0.01
"""Seconds between two writes: what comes meanwhile goes out together."""
AGAIN = 1.0
"""Seconds until what could not be written is tried again."""
PATIENCE = 1.0
"""Seconds that somebody waits who has nothing else to do, such as the end of the process."""


class Write(Protocol[Item]):
    """Writes lines; it may hang."""

    def __call__(self, lines: Sequence[Item], /) -> int:
        """Return how many of them, from the first one on, are written; the others are tried again."""


class Writer(Generic[T]):
    """Lines that a thread of its own writes, in order. What is over a bound is dropped, counted, and told afterwards.

    Args:
        name: Of the thread, and in metrics.
        write: Writes some of them.
        most_lines: As many may wait.
        most_bytes: Of all that wait.
        on_dropped: Called in the thread with how many were dropped, once something was written again.
        on_lost: Called with how many were left at the end.

    Attributes:
        dropped: Lines that were dropped.
    """

    def __init__(
        self,
        name: str,
        write: Write[T],
        *,
        most_lines: int = LINES,
        most_bytes: int = BYTES,
        on_dropped: Callable[[int], None] = lambda _: None,
        on_lost: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.dropped = 0
        self._write = write
        self._most_lines = most_lines
        self._most_bytes = most_bytes
        self._on_dropped = on_dropped
        self._on_lost = on_lost
        self._told = 0
        self._lines: deque[tuple[T, int]] = deque()
        self._bytes = 0
        # Reentrant: a collected object may log while its thread is in here.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._rests = False
        self._over = False
        self._lost = 0
        self._hangs = False

    def __repr__(self) -> str:
        return f"<Writer {self.name} {len(self._lines)} waiting, {self.dropped} dropped>"

    @property
    def waiting(self) -> int:
        """Lines that are not written yet."""
        return len(self._lines)

    def filled(self, share: float) -> bool:
        """Say whether so great a share of what may wait does."""
        return len(self._lines) >= share * self._most_lines or self._bytes >= share * self._most_bytes

    def put(self, line: T, size: int) -> None:
        """Have a line written soon. The main thread, outside of an event loop, waits for it for `PATIENCE` seconds.

        Args:
            line: The line.
            size: Its bytes, about.
        """
        # Which is the condition's: to enter that takes two calls more.
        with self._lock:
            if len(self._lines) >= self._most_lines or self._bytes + size > self._most_bytes:
                self.dropped += 1
                return
            self._lines.append((line, size))
            self._bytes += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"{self.name}-writer", daemon=True)
                self._thread.start()
            if self._rests:
                self._changed.notify_all()
        if asyncio._get_running_loop() is None and threading.current_thread() is threading.main_thread():
            self.drain()

    def drain(self, seconds: float = PATIENCE) -> bool:
        """Wait until all is written, unless it has not come to that the last time. False: something is left."""
        with self._changed:
            if not self._hangs:
                self._hangs = not self._changed.wait_for(lambda: not self._lines, seconds)
            return not self._lines

    def close(self, seconds: float = PATIENCE) -> int:
        """Write what is left, for so many seconds, and end the thread. Return how many lines are not written.

        Of each line that is lost is told once, however often this is called.
        """
        with self._changed:
            self._over = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._lines, seconds)
            lost, told = len(self._lines), self._lost
            self._lost = max(lost, told)
        if lost > told:
            self._on_lost(lost - told)
        return lost

    def _run(self) -> None:
        while True:
            with self._changed:
                self._rests = True
                self._changed.wait_for(lambda: self._lines or self._over)
                self._rests = False
                if not self._lines:
                    # What comes after the end has a thread of its own.
                    self._thread = None
                    return
                lines = [line for line, _ in islice(self._lines, AT_ONCE)]
            try:
                written = self._write(lines)
            except Exception:  # a fault of ours must not end the thread; the lines may be what causes it
                FAULTS.count("log")
                written = len(lines)
            with self._changed:
                for _ in range(written):
                    self._bytes -= self._lines.popleft()[1]
                if not self._lines:
                    self._hangs = False
                    self._changed.notify_all()
            if written and (dropped := self.dropped - self._told):
                self._told += dropped
                self._on_dropped(dropped)
            time.sleep(PAUSE if written == len(lines) else AGAIN)


class Writers:
    """The writers of the process, by name. One of the same name takes the place of the one before."""

    def __init__(self) -> None:
        self._by_name: dict[str, Writer[object]] = {}

    def __iter__(self) -> Iterator[Writer[object]]:
        return iter(list(self._by_name.values()))

    def add(self, writer: Writer[T]) -> Writer[T]:
        """Take one in and return it."""
        before, self._by_name[writer.name] = self._by_name.get(writer.name), writer  # type: ignore[assignment]
        if before is not None:
            before.close()
        return writer

    def close(self) -> None:
        """Have all of them write what is left, the latest first: what it has to say goes to those before it."""
        for writer in reversed(list(self)):
            writer.close()


WRITERS: Final = Writers()
"""Those of this process."""
FAULTS.register("log")
