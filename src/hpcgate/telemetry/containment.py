"""What goes wrong where no request waits for it: contained, counted, and logged once with its cause.

A callback, a timer, a part of a tick or a background task of one connection must neither end nor delay what is
another's. Whatever the event loop calls is a function that is `contained`; what runs for ever is `kept` running; a task
that nobody awaits is `reaped`. tests/telemetry/test_containment.py scans the source for what is none of these.

A transport that has been closed meanwhile is normal, not a fault.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar

import structlog

from hpcgate.errors import GatewayError

log = structlog.stdlib.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

QUIET = 60.0
"""Seconds for which a fault of the same kind in the same place is counted, but not logged again."""
FIRST_PAUSE = 1.0
"""Seconds until what is kept running begins again after a fault; twice as many each time, up to `LONGEST_PAUSE`."""
LONGEST_PAUSE = 60.0

_CLOSED = ("the handler is closed", "Transport is closed")


class Faults:
    """Counts faults by place, and logs each kind of them once in a while.

    Attributes:
        counts: Faults since the process began, by place.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._told: dict[tuple[str, type[BaseException]], tuple[float, int]] = {}

    def __repr__(self) -> str:
        return f"<Faults {self.counts}>"

    def register(self, place: str) -> None:
        """Have a place in the metrics before anything happens there."""
        self.counts.setdefault(place, 0)

    def count(self, place: str) -> None:
        """Count a fault without a line in the log."""
        self.counts[place] = self.counts.get(place, 0) + 1

    def note(self, place: str, error: BaseException, **fields: Any) -> None:
        """Count a fault and log it, unless the same kind was logged within the last `QUIET` seconds. Never raises.

        Args:
            place: Where.
            error: Its cause. A transport that was closed meanwhile does not count.
            fields: What else belongs into the log line.
        """
        if is_closed(error):
            return
        self.count(place)
        kind = (place, type(error))
        now = time.monotonic()
        since, unsaid = self._told.get(kind, (-QUIET, 0))
        if now - since < QUIET:
            self._told[kind] = since, unsaid + 1
            return
        self._told[kind] = now, 0
        try:
            log.error("internal.error", where=place, not_logged=unsaid, exc_info=error, **fields)
        except Exception:  # the log itself is what fails: the count must do
            self.count("log")


FAULTS: Final = Faults()
"""Those of this process."""


def is_closed(error: BaseException) -> bool:
    """Say whether an error only means that the other side of a connection has gone."""
    if isinstance(error, ConnectionError):
        return True
    # uvloop has no class for it.
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CLOSED)


class Contained:
    """A context that no error leaves, for code that does not await; and a decorator of functions that do not.

    A decorated function returns None where it failed.

    Args:
        place: Where, for the metrics and the log.
    """

    __slots__ = ("_place",)

    def __init__(self, place: str) -> None:
        self._place = place
        FAULTS.register(place)

    def __enter__(self) -> None:
        """Nothing to be done."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Contain an error."""
        # Nothing is awaited, so that this is not a cancellation of ours but the result of another task.
        if isinstance(error, Exception | asyncio.CancelledError):
            FAULTS.note(self._place, error)
            return True
        return False

    def __call__(self, function: Callable[P, T]) -> Callable[P, T | None]:
        """Return the function, contained."""
        place = self._place

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T | None:
            try:
                return function(*args, **kwargs)
            except (Exception, asyncio.CancelledError) as error:
                FAULTS.note(place, error)
                return None

        call.contained_in = place  # type: ignore[attr-defined]  # for the tests, which have each of them fail
        return call


contained = Contained


def reaped(task: "asyncio.Future[Any]", place: str, *expected: type[BaseException]) -> None:
    """Take note of how a task ended that nobody may be waiting for: call it when the task is done.

    Args:
        task: A task, which is done.
        place: Where, for the metrics and the log.
        expected: What may happen besides errors of the gateway's own, which belong to those who wait.
    """
    if not task.cancelled():
        error = task.exception()
        if error is not None and not isinstance(error, (GatewayError, *expected)):
            FAULTS.note(place, error)


async def kept(place: str, run: Callable[[], Awaitable[None]], pause: float = FIRST_PAUSE) -> None:
    """Run what goes on until it is cancelled, and again if it fails.

    Args:
        place: Where, for the metrics and the log.
        run: What goes on. If it returns, it is done.
        pause: Seconds until the second attempt.
    """
    FAULTS.register(place)
    while True:
        started = time.monotonic()
        try:
            await run()
            return
        except Exception as error:  # whatever it was, the next attempt may go well
            FAULTS.note(place, error)
        if time.monotonic() - started > LONGEST_PAUSE:
            pause = FIRST_PAUSE
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def on_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handle what the event loop caught by itself: the last net, for callbacks of libraries and forgotten tasks."""
    message = str(context.get("message", ""))
    error = context.get("exception")
    if error is None:
        error = RuntimeError(message)
    FAULTS.note("loop", error, message=message)


FAULTS.register("loop")
