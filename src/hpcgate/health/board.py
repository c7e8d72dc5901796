"""What the probes of one system have found, and what follows for requests."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpcgate.config.probing import ServiceName
from hpcgate.errors import Unhealthy

RECHECK = 10.0
"""Seconds after which an unhealthy service is probed again, where the ordinary interval is longer."""


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """What the last probe of a service found.

    Attributes:
        service: The service, or ``exception`` where probing itself failed.
        healthy: Whether it did what it is there for.
        checked_at: When the probe ended, Unix seconds.
        latency: Seconds that it took; None if there was no probe.
        message: What is wrong, fit to be shown to users.
        path: The file system, for the service ``filesystem``.
    """

    service: ServiceName
    healthy: bool
    checked_at: float
    latency: float | None = None
    message: str | None = None
    path: str | None = None


class HealthBoard:
    """The last result of each probe of one system.

    A service that no probe has found healthy yet is refused only once `grace` seconds have gone by since the start: a
    gateway that comes up before its network does refuses nobody.

    Args:
        system: The system's name.
        grace: Seconds.
        roots: The paths of its file systems.
    """

    def __init__(self, system: str, grace: float = 0, roots: Iterable[str] = ()) -> None:
        self.system = system
        self.last_round: float | None = None
        self._grace_ends = time.monotonic() + grace
        self._roots = sorted((root.rstrip("/") for root in roots), key=len, reverse=True)
        self._results: dict[tuple[str, str | None], ServiceHealth] = {}
        self._was_healthy: set[tuple[str, str | None]] = set()
        self._ill: set[tuple[str, str | None]] = set()
        self._problem: ServiceHealth | None = None

    def __repr__(self) -> str:
        return f"<HealthBoard {self.system} ill={sorted(map(str, self._ill))}>"

    @property
    def results(self) -> tuple[ServiceHealth, ...]:
        """The last result of each probe, and what kept the probes from running if something did."""
        results = tuple(self._results.values())
        return results if self._problem is None else (*results, self._problem)

    @property
    def well(self) -> bool:
        """Whether every probe ran and found its service healthy."""
        return not self._ill and self._problem is None

    def record(self, result: ServiceHealth) -> bool:
        """Take down a result, which counts from now on; return whether the service's health has changed."""
        key = (result.service, result.path)
        before = self._results.get(key)
        self._results[key] = result
        if result.healthy:
            self._was_healthy.add(key)
            self._ill.discard(key)
        else:
            self._ill.add(key)
        return before.healthy != result.healthy if before is not None else not result.healthy

    def failed(self, message: str) -> bool:
        """Take down that the probes could not run; what they found before stands. Return whether that is news."""
        news = self._problem is None or self._problem.message != message
        self._problem = ServiceHealth("exception", False, time.time(), message=message)
        return news

    def finished(self) -> None:
        """Take down that a round of probes has run."""
        self.last_round = time.time()

    def works(self) -> None:
        """Take down that the probes could run again."""
        self._problem = None

    def require(self, services: Sequence[ServiceName]) -> None:
        """Check services before they are used.

        Raises:
            Unhealthy: The first one that the last probe found unhealthy.
        """
        if not self._ill:
            return
        for service in services:
            self._check((service, None))

    def require_path(self, path: str) -> None:
        """Check the file system that a normalised path is on.

        Raises:
            Unhealthy: The last probe found it so.
        """
        if not self._ill:
            return
        for root in self._roots:
            if path == root or path.startswith(f"{root}/"):
                self._check(("filesystem", root or "/"))
                return

    def _check(self, key: tuple[ServiceName, str | None]) -> None:
        if key not in self._ill:
            return
        if key not in self._was_healthy and time.monotonic() < self._grace_ends:
            return
        raise Unhealthy(key[0], self.system, retry_after=round(RECHECK))
