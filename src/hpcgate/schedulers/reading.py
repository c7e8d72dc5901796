"""Reading what a scheduler's tool has printed. It may be a program of the user's own, and print anything."""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, Generic, TypeVar
from weakref import WeakValueDictionary

import structlog

from hpcgate.auth import Principal
from hpcgate.errors import BadAnswer
from hpcgate.outbound.wording import clipped
from hpcgate.sharing.recent import Recent
from hpcgate.ssh.runner import understanding
from hpcgate.telemetry.containment import contained

_log = structlog.get_logger(__name__)

Row = TypeVar("Row")
Parsed = TypeVar("Parsed")
Found = TypeVar("Found")

LARGE: Final = 256 * 1024
"""Bytes from which on an answer is read in a thread, so that the event loop serves others meanwhile."""
AT_A_TIME: Final = 2
"""Large answers that are read at a time, no two of them of the same user."""
MAX_SKIPPED: Final = 1000
"""Rows that may be skipped of an answer; beyond that, one of which less could be read than not makes no sense."""
MAX_TOLD: Final = 10
"""Rows of an answer that are logged."""
_MAX_USERS: Final = 10_000
"""How many users' findings are remembered."""
_MAX_SHOWN: Final = 400
"""Characters of a row in the log."""


class Findings(Generic[Found]):
    """What each user's own commands have said of a system. They may be the user's own doing, so it is nobody else's.

    Args:
        make: Makes what is known of the system by somebody who has not asked yet.
    """

    def __init__(self, make: Callable[[], Found]) -> None:
        self._make = make
        self._users = Recent[str, Found](_MAX_USERS)

    def of(self, principal: Principal) -> Found:
        """Return a user's, to look at and to change."""
        found = self._users.get(principal.username)
        if found is None:
            found = self._make()
            self._users.keep(principal.username, found)
        return found


class Reader:
    """Reads the answers of one system's tools, the large ones in threads."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(AT_A_TIME)
        self._users: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def read(
        self, principal: Principal, tool: str, output: bytes, parse: Callable[[bytes], Parsed], *, large: int = LARGE
    ) -> Parsed:
        """Return what `parse` makes of an answer.

        Args:
            principal: Who asked. Who has one answer read waits with the next; others go ahead.
            tool: What printed it.
            output: What it printed.
            parse: Runs in a thread if the answer is large.
            large: Bytes from which on it is.

        Raises:
            BadAnswer: `parse` cannot make anything of it.
        """

        def understood() -> Parsed:
            with understanding(tool):
                return parse(output)

        if len(output) < large:
            return understood()
        own = self._users.setdefault(principal.username, asyncio.Lock())
        await own.acquire()
        try:
            await self._slots.acquire()
        except BaseException:
            own.release()
            raise
        reading = asyncio.get_running_loop().run_in_executor(None, understood)
        # A thread cannot be stopped: whoever leaves it does not free its place.
        reading.add_done_callback(partial(self._done, own))
        return await asyncio.shield(reading)

    @contained("schedulers.reading")
    def _done(self, own: asyncio.Lock, reading: "asyncio.Future[Any]") -> None:
        self._slots.release()
        own.release()


def rows(
    event: str,
    tool: str,
    found: Iterable[Row],
    parse: Callable[[Row], Parsed],
    shown: Callable[[Row], str] = repr,
) -> list[Parsed]:
    """Parse each row; one that cannot be parsed is skipped, and the first of them are logged.

    Args:
        event: The name of the log event.
        tool: What printed the rows, for the log.
        found: The rows.
        parse: What makes something of one; a ValueError or a KeyError means that it cannot.
        shown: What the log shows of one.

    Raises:
        BadAnswer: Hardly any can be parsed.
    """
    parsed: list[Parsed] = []
    skipped = 0
    for row in found:
        try:
            parsed.append(parse(row))
        except (ValueError, KeyError) as error:
            skipped += 1
            if skipped <= MAX_TOLD:
                words = clipped(str(error), _MAX_SHOWN)
                _log.warning(event, tool=tool, row=clipped(shown(row), _MAX_SHOWN), error=words)
            elif skipped > MAX_SKIPPED and skipped > len(parsed):
                raise BadAnswer(f"{tool}: the login node's answer makes no sense") from None
    if skipped > MAX_TOLD:
        _log.warning(event, tool=tool, more=skipped - MAX_TOLD)
    return parsed
