"""Maintenance windows: those of the configuration, and those that operators leave in a directory.

One file a system, ``maintenance/NAME.json`` below the state directory, written whole by `Notices.put` and read by every
gateway that shares the directory. A directory that several machines share tells nobody of changes, so it is looked at
every `EVERY` seconds.
"""

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog
from pydantic import ValidationError

from hpcgate.config import MaintenanceWindow
from hpcgate.config.watched import Watched
from hpcgate.errors import UnderMaintenance
from hpcgate.threads import alone

log = structlog.stdlib.get_logger(__name__)

PATIENCE = 10.0
"""Seconds that a start waits for what operators have said."""
EVERY = 1.0
"""Seconds between looks at the directory."""
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which a system is not served.

    Attributes:
        start: Unix seconds; None is already.
        until: Unix seconds; None is until somebody says so.
        reason: What users are told; may be empty.
    """

    start: float | None = None
    until: float | None = None
    reason: str = ""

    @classmethod
    def of(cls, settings: MaintenanceWindow) -> "Window":
        """Return the window that settings describe."""
        return cls(
            None if settings.start is None else settings.start.timestamp(),
            None if settings.until is None else settings.until.timestamp(),
            settings.reason,
        )

    def active(self, now: float) -> bool:
        """Say whether it is on."""
        return (self.start is None or self.start <= now) and not self.over(now)

    def over(self, now: float) -> bool:
        """Say whether it is over."""
        return self.until is not None and self.until <= now


class Calendar:
    """The windows of one system."""

    def __init__(self, system: str, planned: Iterable[Window] = ()) -> None:
        """Keep the windows of the configuration."""
        self.system = system
        self._planned = tuple(planned)
        self._noted: tuple[Window, ...] = ()
        self._all = self._planned

    def note(self, windows: Iterable[Window]) -> None:
        """Replace the windows that operators have left word of."""
        self._noted = tuple(windows)
        self._all = self._planned + self._noted

    def windows(self, now: float) -> tuple[Window, ...]:
        """Return the windows that are not over, the earliest first."""
        return tuple(sorted((one for one in self._all if not one.over(now)), key=lambda one: one.start or 0.0))

    def current(self, now: float) -> Window | None:
        """Return what is on: of several windows that meet, one from now to the last one's end."""
        active = [window for window in self._all if window.active(now)]
        if not active:
            return None
        first = min(active, key=lambda one: one.start or 0.0)
        until = None if any(one.until is None for one in active) else max(one.until or 0.0 for one in active)
        return replace(first, until=until)

    def check(self) -> None:
        """Let a request pass, or not.

        Raises:
            UnderMaintenance: A window is on.
        """
        if not self._all:
            return
        now = time.time()
        window = self.current(now)
        if window is not None:
            retry = None if window.until is None else max(1, round(window.until - now))
            raise UnderMaintenance(self.system, until=iso(window.until), reason=window.reason, retry_after=retry)


def iso(moment: float | None) -> str | None:
    """Return a moment as ISO 8601 in UTC, or None."""
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Notices:
    """The files by which an operator tells the gateways of maintenance.

    Args:
        state: The state directory.
    """

    def __init__(self, state: Path) -> None:
        self.directory = state / "maintenance"

    def path(self, system: str) -> Path:
        """Return the file of a system."""
        return self.directory / f"{quote(system.casefold(), safe='')}.json"

    def put(self, system: str, window: MaintenanceWindow) -> None:
        """Write a system's notice in place of what there was, whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        document = {"system": system, "windows": [window.model_dump(mode="json")]}
        handle, name = tempfile.mkstemp(dir=self.directory, prefix=".", suffix=".new")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(document, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            # Gateways may run as another user than the operator.
            os.chmod(name, 0o644)
            os.replace(name, self.path(system))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise

    def remove(self, system: str) -> bool:
        """Take a system's notice away; return whether there was one.

        Raises:
            OSError: It cannot be removed.
        """
        try:
            self.path(system).unlink()
        except FileNotFoundError:
            return False
        return True

    def read(self, system: str) -> tuple[Window, ...]:
        """Return the windows of a system's notice; none if there is no notice.

        Raises:
            ValueError: The file is damaged.
            OSError: It cannot be read.
        """
        try:
            return self.watched(system).read()
        except FileNotFoundError:
            return ()

    def watched(self, system: str) -> Watched[tuple[Window, ...]]:
        """Return the file of a system, to be looked at."""
        path = self.path(system)

        def windows(content: bytes) -> tuple[Window, ...]:
            try:
                document: Any = json.loads(content)
                return tuple(Window.of(MaintenanceWindow.model_validate(item)) for item in document["windows"])
            except (ValueError, KeyError, TypeError, ValidationError):
                raise ValueError(f"{path} is damaged") from None

        return Watched("maintenance.notice", windows, path, most=_MAX_BYTES)


class NoticeWatch:
    """Reads the notices again whenever they change, until cancelled.

    Args:
        notices: Where they are.
        calendars: The calendar of each system.
    """

    def __init__(self, notices: Notices, calendars: Mapping[str, Calendar]) -> None:
        self._notices = notices
        self._calendars = calendars
        self._files = {system: notices.watched(calendar.system) for system, calendar in calendars.items()}
        self._versions = dict.fromkeys(calendars, 0)
        self._trouble: dict[str, str] = {}
        self._looking: asyncio.Future[dict[str, tuple[Window, ...] | Exception]] | None = None

    async def begin(self) -> None:
        """Look for the first time, for `PATIENCE` seconds at most; `run` goes on with that look."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self.look()
        except TimeoutError:
            log.error("maintenance.unreadable", error=f"{self._notices.directory}: nothing came within {PATIENCE:g} s")

    async def run(self) -> None:
        """Look now, and again every `EVERY` seconds."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """Read what has changed. A notice that cannot be read leaves what it said before."""
        for system, result in (await self._looked()).items():
            calendar = self._calendars[system]
            if isinstance(result, Exception):
                if self._trouble.get(system) != str(result):
                    log.error("maintenance.unreadable", system=calendar.system, error=str(result))
                self._trouble[system] = str(result)
                continue
            self._trouble.pop(system, None)
            calendar.note(result)
            log.info(
                "maintenance.changed",
                system=calendar.system,
                windows=[{"start": iso(one.start), "until": iso(one.until), "reason": one.reason} for one in result],
            )

    async def _looked(self) -> Mapping[str, tuple[Window, ...] | Exception]:
        """Look at the files. On a file system that hangs it is one look, and one thread, until it goes on."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(alone(self._changes))
        looking = self._looking
        try:
            return await asyncio.shield(looking)
        finally:
            if looking.done():
                self._looking = None

    def _changes(self) -> dict[str, tuple[Window, ...] | Exception]:
        """Return what the notices say that have changed since the last look, by system; not on the event loop."""
        changes: dict[str, tuple[Window, ...] | Exception] = {}
        for system, file in self._files.items():
            try:
                windows, version = file.read(), file.version
            except FileNotFoundError:
                windows, version = (), 0
            except (OSError, ValueError) as error:
                changes[system] = error
                continue
            if version != self._versions[system]:
                changes[system] = windows
            self._versions[system] = version
        return changes
