"""The gateway's systems, and what opens and closes with the process."""

import asyncio
import posixpath
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import structlog

from hpcgate.admission import FLOOR, Admission
from hpcgate.arrivals import Arrivals
from hpcgate.auth import Principal
from hpcgate.auth.api_keys import ApiKeys
from hpcgate.auth.authorizer import Authorizer, Everyone
from hpcgate.auth.jwks import Jwks
from hpcgate.auth.openfga import OpenFga
from hpcgate.auth.policy import Policy
from hpcgate.auth.tokens import TokenVerifier
from hpcgate.config import Cluster, Settings, plugin
from hpcgate.credentials.base import CredentialSource
from hpcgate.errors import BadRequest, NoSuchTransfer, SystemNotFound
from hpcgate.filesystem.base import Limits, Operation, naming
from hpcgate.filesystem.slots import PathLocks, StreamSlots
from hpcgate.filesystem.tus import UploadDesk
from hpcgate.health.account import ProbeAccount
from hpcgate.health.board import HealthBoard
from hpcgate.health.maintenance import Calendar, Notices, Watch, Window
from hpcgate.health.prober import Prober
from hpcgate.rates.limits import RateLimits
from hpcgate.schedulers.base import JobDescription, Scheduler
from hpcgate.schedulers.reads import SharedReads
from hpcgate.ssh.pool import Pool
from hpcgate.telemetry.base import SILENT, Telemetry
from hpcgate.telemetry.containment import kept
from hpcgate.telemetry.journal import note_path
from hpcgate.transfers.base import BatchJob, Surroundings, Transfer
from hpcgate.transfers.jobs import TransferJobs

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class System:
    """One configured system: its settings, its connections and its scheduler."""

    settings: Cluster
    pool: Pool
    scheduler: Scheduler
    limits: Limits
    jobs: TransferJobs
    board: HealthBoard
    calendar: Calendar
    telemetry: Telemetry = SILENT
    transfers: Mapping[str, Transfer] = field(init=False)
    _roots: frozenset[str] = field(init=False)
    _within: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        roots = tuple(fs.path.rstrip("/") for fs in self.settings.file_systems)
        object.__setattr__(self, "_roots", frozenset(roots))
        object.__setattr__(self, "_within", tuple(f"{root}/" for root in roots))
        around = Surroundings(self.name, self.pool, self.jobs.run)
        methods = [
            plugin("hpcgate.transfers", settings.service_type)(settings, around)
            for settings in self.settings.data_operation.data_transfer
        ]
        object.__setattr__(self, "transfers", {method.method: method for method in methods})

    @property
    def name(self) -> str:
        """The name as it is configured."""
        return self.settings.name

    @property
    def scheduler_by_ssh(self) -> bool:
        """Whether the scheduler is reached through the login node."""
        return getattr(self.settings.scheduler, "connection_mode", "ssh") != "rest"

    @classmethod
    def from_settings(cls, settings: Cluster, credentials: CredentialSource, telemetry: Telemetry = SILENT) -> Self:
        """Make a system; nothing is opened yet."""
        pool = Pool(settings.name, settings.ssh, credentials, telemetry)
        make = plugin("hpcgate.schedulers", settings.scheduler.type)
        scheduler = SharedReads(
            make(settings.name, settings.scheduler, pool),
            settings.scheduler.read_cache,
            system=settings.name,
            telemetry=telemetry,
        )
        operation = settings.data_operation

        async def submit(principal: Principal, job: BatchJob) -> str:
            job_id = await scheduler.submit(principal, JobDescription(**asdict(job)))
            telemetry.transfer_job(settings.name, job.name.removeprefix("transfer-"))
            return job_id

        return cls(
            settings,
            pool,
            scheduler,
            Limits(max_ops_file_size=operation.max_ops_file_size),
            TransferJobs(
                settings.name,
                _work_root(settings),
                operation.datatransfer_jobs_directives,
                submit,
                operation.transfer_log_lifetime,
            ),
            HealthBoard(
                settings.name,
                settings.probing.startup_grace_period,
                [file_system.path for file_system in settings.file_systems],
            ),
            Calendar(settings.name, map(Window.of, settings.maintenance)),
            telemetry,
        )

    def transfer(self, method: str) -> Transfer:
        """Return a transfer method that the system offers.

        Raises:
            NoSuchTransfer: It does not.
            Unhealthy: What it stands on is unhealthy.
        """
        try:
            transfer = self.transfers[method]
        except KeyError:
            raise NoSuchTransfer(self.name, tuple(self.transfers)) from None
        if method == "s3":
            self.board.require(("s3",))
        return transfer

    def admit(self, path: str) -> None:
        """Check a path against the system's file systems (contract, Statuses, 400 and 503).

        Raises:
            BadRequest: The path lies outside of them.
            Unhealthy: The file system that it is on is.
        """
        note_path(path)
        if not self._roots or not (self.settings.restrict_paths or self.settings.probing.services):
            return
        plain = path if "/." not in path and "//" not in path else posixpath.normpath(path)
        if not self._inside(path) or not self._inside(plain):
            raise BadRequest(f"Unsupported path: {path!r} is not in a file system of {self.name}.")
        self.board.require_path(plain)

    def _inside(self, path: str) -> bool:
        return path.startswith(self._within) or path in self._roots

    async def perform(self, principal: Principal, operation: Operation) -> Any:
        """Run a filesystem operation as the user; one that only reads is tried again on a lost connection."""
        for path in operation.paths():
            self.admit(path)
        with naming(operation):
            return await self.pool.perform(principal, operation.run, retry=not operation.writes)

    async def close(self) -> None:
        """Close the clients of the transfer methods and of the scheduler, and every connection."""
        for transfer in self.transfers.values():
            await transfer.close()
        await self.scheduler.close()
        await self.pool.close()


def _work_root(settings: Cluster) -> str | None:
    for file_system in settings.file_systems:
        if file_system.default_work_dir:
            return file_system.path
    return None


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
class Holdings:
    """What a gateway would leave to the next one: whatever that one's settings say nothing else of."""

    settings: Settings
    credentials: Shared[CredentialSource]
    systems: Mapping[str, Shared[System]]
    rates: Shared[RateLimits]

    @classmethod
    def of(cls, settings: Settings, telemetry: Telemetry, before: "Holdings | None") -> Self:
        """Take over what stays as it was, and make the rest; nothing is opened yet."""
        if before is None:
            before = cls(settings, _credentials(settings), {}, _rates(settings))
        old = before.settings
        credentials = before.credentials if settings.ssh_credentials == old.ssh_credentials else _credentials(settings)
        # A system's connections stand on the credentials, its calendar on the directory that is looked at.
        same = credentials is before.credentials and settings.state_directory == old.state_directory
        systems = {}
        for cluster in settings.clusters:
            name = cluster.name.casefold()
            kept = before.systems.get(name) if same else None
            if kept is None or kept.value.settings != cluster:
                system = System.from_settings(cluster, credentials.value, telemetry)
                system.pool.warn()
                kept = Shared(system, system.close)
            systems[name] = kept
        return cls(
            settings,
            credentials,
            systems,
            before.rates if settings.rate_limits == old.rate_limits else _rates(settings),
        )


def _credentials(settings: Settings) -> Shared[CredentialSource]:
    source: CredentialSource = plugin("hpcgate.credentials", settings.ssh_credentials.type)(settings.ssh_credentials)
    return Shared(source, source.close)


def _rates(settings: Settings) -> Shared[RateLimits]:
    rates = RateLimits(settings.rate_limits)
    return Shared(rates, rates.close)


class Gateway:
    """All that a route can reach.

    Use `Gateway.open` as an async context manager: what it opens is closed in reverse order.

    Attributes:
        holdings: What the next gateway of the process may take over.
        stopping: Whether the process is about to end, so that requests should go elsewhere.
        asked_ready_at: When somebody last asked whether it is ready, by the monotonic clock.
    """

    def __init__(
        self,
        holdings: Holdings,
        tokens: TokenVerifier,
        jwks: Jwks,
        authorizer: Authorizer,
        probers: Mapping[str, Prober],
        telemetry: Telemetry,
    ) -> None:
        self.holdings = holdings
        self.settings = settings = holdings.settings
        self.systems = {name: shared.value for name, shared in holdings.systems.items()}
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
        self.streams = StreamSlots(settings.streams.max_streams, settings.streams.max_streams_per_user)
        self.admission = Admission(settings.http.max_requests, settings.http.max_delay, self.aside)
        self.admission.settling = self.settling
        self.rates = holdings.rates.value
        self.locks = PathLocks()
        self.uploads = UploadDesk()
        self.stopping = False
        self.asked_ready_at: float | None = None
        self._background: Iterable[asyncio.Task[None]] = ()
        self._serving = asyncio.Event()

    def caller(self, shown: str) -> str | None:
        """Return whom a token was last found to speak for, or whose API key it is; None if nobody's."""
        name = None if self.api_keys is None else self.api_keys.caller(shown)
        return name or self.tokens.caller(shown)

    def settling(self) -> bool:
        """Say whether many users log in at once."""
        return sum(system.pool.waiting for system in self.systems.values()) >= FLOOR

    def aside(self, *others: "Gateway") -> int:
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
            authorizer: Authorizer = Everyone()
            if settings.auth.authorization is not None:
                authorizer = OpenFga(settings.auth.authorization)
            stack.push_async_callback(authorizer.close)
            holdings = Holdings.of(settings, telemetry, None if before is None else before.holdings)
            credentials = holdings.credentials.join(stack)
            holdings.rates.join(stack)
            systems = {name: shared.join(stack) for name, shared in holdings.systems.items()}
            tokens = TokenVerifier(authentication, jwks, settings.http.max_header_size)
            stack.push_async_callback(tokens.close)
            probers = {}
            for name, system in systems.items():
                prober = _prober(system, settings, credentials, tokens)
                if not prober.idle:
                    probers[name] = prober
                stack.push_async_callback(prober.close)
            serving = asyncio.Event()
            if before is None:
                serving.set()
            # The boards may be those of the gateway that serves, which may go on to.
            jobs: list[tuple[str, Job]] = [
                ("health.prober", partial(_once, serving, prober.run)) for prober in probers.values()
            ]
            if settings.state_directory is not None:
                calendars = {name: system.calendar for name, system in systems.items()}
                watch = Watch(Notices(Path(settings.state_directory)), calendars)
                await watch.look()
                jobs.append(("health.maintenance", watch.run))
            background = await stack.enter_async_context(_background(jobs))
            opened = cls(holdings, tokens, jwks, authorizer, probers, telemetry)
            opened._background = background
            opened._serving = serving
            yield opened

    def follow(self, before: "Gateway") -> None:
        """Take over from the gateway that served so far what holds for all requests of the process, whichever serves.

        Those that still run there and those that come here may change the same file. The probes begin.
        """
        self._serving.set()
        self.locks = before.locks
        self.uploads = before.uploads
        self.arrivals = before.arrivals
        self.admission = before.admission
        self.admission.settling = self.settling
        self.asked_ready_at = before.asked_ready_at

    def rest(self) -> None:
        """Stop what goes on by itself: the probes, and looking for words of operators."""
        for task in self._background:
            task.cancel()

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


def _prober(system: System, settings: Settings, credentials: CredentialSource, tokens: TokenVerifier) -> Prober:
    account = system.settings.service_account
    return Prober(
        system.settings,
        credentials,
        None if account is None else ProbeAccount(account, settings.auth.authentication, tokens),
        system.jobs.run,
        system.board,
    )


Job = Callable[[], Awaitable[None]]


async def _once(event: asyncio.Event, job: Job) -> None:
    await event.wait()
    await job()


@asynccontextmanager
async def _background(jobs: Iterable[tuple[str, Job]]) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Keep jobs running, each with the name of its place, until the context is left."""
    tasks = [asyncio.create_task(kept(place, job)) for place, job in jobs]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
