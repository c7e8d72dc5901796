"""Small requests first: streams leave the event loop time while somebody waits for a small answer."""

import asyncio
from types import TracebackType

LATE = 0.0015
"""Seconds by which the event loop may be late before streams pause for longer; its timers count in milliseconds."""
LEAST = 0.0005
MAX = 0.05
"""Seconds of a pause. A stream pauses once a block, so that the longest still leaves it 5 MiB a second."""


class Pace:
    """Slows streams down as far as it takes to keep the event loop in time, and only while it matters.

    All streams of a process share one event loop with all small requests, whoever asks and whatever system they go
    to; so all pools of a process have the same one, over reloads, too.

    Attributes:
        waiting: How many small answers are waited for.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._pause = LEAST

    def small(self) -> "_Small":
        """Tell that somebody waits for a small answer, as long as the context lasts."""
        return _Small(self)

    async def turn(self) -> None:
        """Wait until a stream may move its next block."""
        if not self.waiting:
            return
        loop = asyncio.get_running_loop()
        began, pause = loop.time(), self._pause
        await asyncio.sleep(pause)
        if loop.time() - began - pause > LATE:
            self._pause = min(MAX, self._pause * 1.2)
        else:
            self._pause = max(LEAST, self._pause * 0.95)


class _Small:
    """One small answer that is waited for. A context manager by generator would cost several times as much."""

    __slots__ = ("_pace",)

    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    def __enter__(self) -> None:
        self._pace.waiting += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pace.waiting -= 1
