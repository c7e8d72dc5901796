"""What a reload carries over from one gateway to the next: whatever the new settings say nothing else of."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from hpcgate.config import Settings, plugin
from hpcgate.credentials.base import CredentialSource
from hpcgate.gateway.system import System
from hpcgate.rates.limits import RateLimits
from hpcgate.ssh.pace import Pace
from hpcgate.telemetry.base import Telemetry

_T = TypeVar("_T")


class Shared(Generic[_T]):
    """What several gateways of one process use, one after the other; the last one to leave it closes it."""

    def __init__(self, value: _T, close: Callable[[], Awaitable[None]]) -> None:
        self.value = value
        self._close = close
        self._users = 0

    def join(self, stack: AsyncExitStack) -> _T:
        """Use it until the stack is left."""
        self._users += 1
        stack.push_async_callback(self._leave)
        return self.value

    async def _leave(self) -> None:
        self._users -= 1
        if not self._users:
            await self._close()


@dataclass(frozen=True, slots=True)
class CarriedOver:
    """What a gateway would leave to the next one: whatever that one's settings say nothing else of."""

    settings: Settings
    credentials: Shared[CredentialSource]
    systems: Mapping[str, Shared[System]]
    rates: Shared[RateLimits]
    pace: Pace

    @classmethod
    def of(cls, settings: Settings, telemetry: Telemetry, before: "CarriedOver | None") -> Self:
        """Take over what stays as it was, and make the rest; nothing is opened yet."""
        if before is None:
            before = cls(settings, _credentials(settings), {}, _rates(settings), Pace())
        old = before.settings
        credentials = before.credentials if settings.ssh_credentials == old.ssh_credentials else _credentials(settings)
        # A system's connections stand on the credentials, its calendar on the directory that is looked at.
        same = credentials is before.credentials and settings.state_directory == old.state_directory
        systems = {}
        for cluster in settings.clusters:
            name = cluster.name.casefold()
            kept = before.systems.get(name) if same else None
            if kept is None or kept.value.settings != cluster:
                system = System.from_settings(cluster, credentials.value, telemetry, before.pace)
                system.pool.warn()
                kept = Shared(system, system.close)
            systems[name] = kept
        return cls(
            settings,
            credentials,
            systems,
            before.rates if settings.rate_limits == old.rate_limits else _rates(settings),
            before.pace,
        )


def _credentials(settings: Settings) -> Shared[CredentialSource]:
    source: CredentialSource = plugin("hpcgate.credentials", settings.ssh_credentials.type)(settings.ssh_credentials)
    return Shared(source, source.close)


def _rates(settings: Settings) -> Shared[RateLimits]:
    rates = RateLimits(settings.rate_limits)
    return Shared(rates, rates.close)
