"""The gateway's systems, and what opens and closes with the process."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from hpcgate.auth import Principal
from hpcgate.auth.authorizer import Authorizer, Everyone
from hpcgate.auth.jwks import Jwks
from hpcgate.auth.openfga import OpenFga
from hpcgate.auth.tokens import TokenVerifier
from hpcgate.config import Cluster, Settings, plugin
from hpcgate.credentials.base import CredentialSource
from hpcgate.errors import BadRequest, SystemNotFound
from hpcgate.filesystem.base import Limits, Operation
from hpcgate.schedulers.base import Scheduler
from hpcgate.ssh.pool import Pool


@dataclass(frozen=True, slots=True)
class System:
    """One configured system: its settings, its connections and its scheduler."""

    settings: Cluster
    pool: Pool
    scheduler: Scheduler
    limits: Limits
    _roots: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_roots", tuple(fs.path.rstrip("/") for fs in self.settings.file_systems))

    @property
    def name(self) -> str:
        """The name as it is configured."""
        return self.settings.name

    @classmethod
    def from_settings(cls, settings: Cluster, credentials: CredentialSource) -> Self:
        """Make a system; nothing is opened yet."""
        pool = Pool(settings.name, settings.ssh, credentials)
        scheduler = plugin("hpcgate.schedulers", settings.scheduler.type)(settings.name, settings.scheduler, pool)
        return cls(settings, pool, scheduler, Limits(max_ops_file_size=settings.data_operation.max_ops_file_size))

    def admit(self, path: str) -> None:
        """Check a path against the system's file systems (contract, Statuses, 400).

        Raises:
            BadRequest: The path lies outside of them.
        """
        if not self._roots or not (self.settings.restrict_paths or self.settings.probing.services):
            return
        # `..` is not resolved here: on the login node it may lead elsewhere than the text suggests.
        if not any(path == root or path.startswith(f"{root}/") for root in self._roots):
            raise BadRequest(f"Unsupported path: {path!r} is not in a file system of {self.name}.")

    async def perform(self, principal: Principal, operation: Operation) -> Any:
        """Run a filesystem operation as the user; one that only reads is tried again on a lost connection."""
        for path in operation.paths():
            self.admit(path)
        return await self.pool.perform(principal, operation.run, retry=not operation.writes)

    async def close(self) -> None:
        """Close the scheduler's client and every connection."""
        await self.scheduler.close()
        await self.pool.close()


class Gateway:
    """All that a route can reach.

    Use `Gateway.open` as an async context manager: what it opens is closed in reverse order.
    """

    def __init__(
        self,
        settings: Settings,
        systems: Mapping[str, System],
        tokens: TokenVerifier,
        jwks: Jwks,
        authorizer: Authorizer,
    ) -> None:
        self.settings = settings
        self.systems = systems
        self.tokens = tokens
        self.jwks = jwks
        self.authorizer = authorizer

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Self]:
        """Open the parts of the gateway and close them at the end. Neither the IdP nor a system need be up."""
        async with AsyncExitStack() as stack:
            authentication = settings.auth.authentication
            jwks = Jwks(authentication)
            await stack.enter_async_context(jwks)
            authorizer: Authorizer = Everyone()
            if settings.auth.authorization is not None:
                authorizer = OpenFga(settings.auth.authorization)
            stack.push_async_callback(authorizer.close)
            credentials: CredentialSource = plugin("hpcgate.credentials", settings.ssh_credentials.type)(
                settings.ssh_credentials
            )
            stack.push_async_callback(credentials.close)
            systems = {}
            for cluster in settings.clusters:
                system = System.from_settings(cluster, credentials)
                system.pool.warn()
                stack.push_async_callback(system.close)
                systems[cluster.name.casefold()] = system
            yield cls(settings, systems, TokenVerifier(authentication, jwks), jwks, authorizer)

    def system(self, name: str) -> System:
        """Return a system by name, in any case.

        Raises:
            SystemNotFound: There is none.
        """
        try:
            return self.systems[name.casefold()]
        except KeyError:
            raise SystemNotFound from None
