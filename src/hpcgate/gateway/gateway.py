"""The gateway's systems, and what opens and closes with the process."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Self

import structlog

from hpcgate.admission.bodies import Arrivals
from hpcgate.admission.queue import FLOOR, Admission
from hpcgate.auth.api_keys import ApiKeys
from hpcgate.auth.authorizer import Authorizer, Everyone
from hpcgate.auth.jwks import Jwks
from hpcgate.auth.openfga import OpenFga
from hpcgate.auth.policy import Policy
from hpcgate.auth.service_account import ServiceLogin
from hpcgate.auth.tokens import TokenVerifier
from hpcgate.config import Settings
from hpcgate.credentials.base import CredentialSource
from hpcgate.errors import SystemNotFound
from hpcgate.filesystem.slots import PathLocks
from hpcgate.filesystem.tus.registry import UploadRegistry
from hpcgate.gateway.background import Background, Job
from hpcgate.gateway.carry_over import CarriedOver
from hpcgate.gateway.rechecks import Rechecks
from hpcgate.gateway.streams import Bound, Streams
from hpcgate.gateway.system import System
from hpcgate.health.maintenance import Notices, NoticeWatch
from hpcgate.health.prober import Prober
from hpcgate.telemetry.base import SILENT, Telemetry

log = structlog.stdlib.get_logger(__name__)


class Gateway:
    """All that a route can reach.

    Use `Gateway.open` as an async context manager: what it opens is closed in reverse order.

    Attributes:
        carried_over: What the next gateway of the process may take over.
        stopping: Whether the process is about to end, so that requests should go elsewhere.
        asked_ready_at: When somebody last asked whether it is ready, by the monotonic clock.
    """

    def __init__(
        self,
        carried_over: CarriedOver,
        tokens: TokenVerifier,
        jwks: Jwks,
        authorizer: Authorizer,
        probers: Mapping[str, Prober],
        accounts: Mapping[str, ServiceLogin],
        background: Background,
        telemetry: Telemetry,
    ) -> None:
        self.carried_over = carried_over
        self.settings = settings = carried_over.settings
        self.systems = {name: shared.value for name, shared in carried_over.systems.items()}
        self.tokens = tokens
        self.api_keys = (
            ApiKeys(settings.auth.api_keys, tokens.local, settings.auth.authentication.required_scopes)
            if settings.auth.api_keys
            else None
        )
        self.jwks = jwks
        self.authorizer = authorizer
        self.policy = Policy(settings.auth.policy)
        self.probers = probers
        self.telemetry = telemetry
        self.arrivals = Arrivals(settings.http.max_bodies_per_user, settings.http.max_body_memory)
        self.streams = Streams(
            settings.streams.max_streams,
            settings.streams.max_streams_per_user,
            leeway=settings.auth.authentication.leeway,
            apart={"follow": Bound(settings.streams.max_followers, settings.streams.max_followers_per_user)},
        )
        self.admission = Admission(settings.http.max_requests, settings.http.max_delay, self.uncounted)
        self.admission.settling = self.settling
        self.rates = carried_over.rates.value
        self.locks = PathLocks()
        self.uploads = UploadRegistry()
        self.stopping = False
        self.asked_ready_at: float | None = None
        self._accounts = accounts
        self._background = background
        self._serving = asyncio.Event()

    def caller(self, shown: str, source: Callable[[], str | None]) -> str | None:
        """Return whom a token was last found to speak for, or whose API key it is; None if nobody's.

        Args:
            shown: The token or the key.
            source: Returns the client's IP address, None if it has none.
        """
        name = None if self.api_keys is None else self.api_keys.caller(shown, source)
        return name or self.tokens.caller(shown)

    def settling(self) -> bool:
        """Say whether many users log in at once."""
        return sum(system.pool.waiting for system in self.systems.values()) >= FLOOR

    def uncounted(self, *others: "Gateway") -> int:
        """Return how many of the requests under way cost little: streams, and those that wait for a body or a login.

        Args:
            others: Gateways of the same process to count with this one.
        """
        gateways = (self, *others)
        pools = {id(system.pool): system.pool for gateway in gateways for system in gateway.systems.values()}
        streams = sum(gateway.streams.taken for gateway in gateways)
        return streams + self.arrivals.waiting + sum(pool.waiting for pool in pools.values())

    @property
    def ready(self) -> bool:
        """Whether requests can be served: the IdP's keys are here, and the process is to go on."""
        return self.tokens.ready and not self.stopping

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, telemetry: Telemetry = SILENT, before: "Gateway | None" = None
    ) -> AsyncIterator[Self]:
        """Open the parts of the gateway and close them at the end. Neither the IdP nor a system need be up.

        Args:
            settings: The configuration.
            telemetry: Who is told of what it does.
            before: The gateway that it is to follow, which is open at least until this one is.
        """
        async with AsyncExitStack() as stack:
            authentication = settings.auth.authentication
            jwks = Jwks(authentication)
            await stack.enter_async_context(jwks)
            asked = settings.auth.authorization
            authorizer: Authorizer = Everyone() if asked is None else OpenFga(asked)
            stack.push_async_callback(authorizer.close)
            carried_over = CarriedOver.of(settings, telemetry, None if before is None else before.carried_over)
            credentials = carried_over.credentials.join(stack)
            carried_over.rates.join(stack)
            systems = {name: shared.join(stack) for name, shared in carried_over.systems.items()}
            tokens = TokenVerifier(authentication, jwks, settings.http.max_header_size)
            stack.push_async_callback(tokens.close)
            accounts = {
                name: ServiceLogin(system.settings.service_account, authentication, tokens)
                for name, system in systems.items()
                if system.settings.service_account is not None
            }
            probers = _probers(stack, systems, credentials, accounts)
            serving = asyncio.Event()
            background = Background()
            stack.push_async_callback(background.close)
            # The boards may be those of the gateway that serves, which may go on to.
            for name, prober in probers.items():
                background.start(f"health.prober/{name}", partial(_once, serving, prober.run))
            if settings.state_directory is not None:
                calendars = {name: system.calendar for name, system in systems.items()}
                watch = NoticeWatch(Notices(Path(settings.state_directory)), calendars)
                await watch.begin()
                background.start("health.maintenance", partial(_once, serving, watch.run))
            opened = cls(carried_over, tokens, jwks, authorizer, probers, accounts, background, telemetry)
            opened._serving = serving
            rechecks = Rechecks(opened.streams, tokens, authorizer, spared=authentication.min_token_ttl or 0)
            background.start("gateway.rechecks", partial(_once, serving, rechecks.run))
            if before is None:
                opened._serve()
            yield opened

    def _serve(self) -> None:
        """Begin what goes on by itself, and have systems log in by the accounts that are verified here."""
        self._serving.set()
        for name, system in self.systems.items():
            system.background.account = self._accounts.get(name)

    @property
    def running(self) -> Counter[str]:
        """How many jobs go on by themselves, by name: the gateway's own and those of its systems."""
        owners = (self._background, *(system.background for system in self.systems.values()))
        return Counter(name.partition("/")[0] for owner in owners for name in owner.running)

    def follow(self, before: "Gateway") -> None:
        """Take over from the gateway that served so far what holds for all requests of the process, whichever serves.

        Those that still run there and those that come here may change the same file. The probes begin.
        """
        self._serve()
        self.locks = before.locks
        self.uploads = before.uploads
        self.arrivals = before.arrivals
        self.admission = before.admission
        self.admission.settling = self.settling
        self.asked_ready_at = before.asked_ready_at
        self.streams.follow(before.streams)

    def rest(self) -> None:
        """Stop what goes on by itself: the probes, looking for words of operators, streams without an end."""
        self.streams.wind_up("reload")
        self._background.rest()

    def system(self, name: str) -> System:
        """Return a system by name, in any case.

        Raises:
            SystemNotFound: There is none.
        """
        system = self.systems.get(name.casefold())
        # Case folding finds "ss" in a sharp s, and other letters in more: no rule of a proxy's thinks of that.
        if system is None or name.isascii() != system.name.isascii():
            raise SystemNotFound
        return system


async def _once(event: asyncio.Event, job: Job) -> None:
    await event.wait()
    await job()


def _probers(
    stack: AsyncExitStack,
    systems: Mapping[str, System],
    credentials: CredentialSource,
    accounts: Mapping[str, ServiceLogin],
) -> dict[str, Prober]:
    """Return what looks after the health of systems, of each that is to be looked at; closed with the stack."""
    probers = {}
    for name, system in systems.items():
        prober = Prober(system.settings, credentials, accounts.get(name), system.jobs.run, system.board)
        if not prober.idle:
            probers[name] = prober
        stack.push_async_callback(prober.close)
    return probers
