"""One system, and what a route does on it."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

from hpcgate.auth import Principal
from hpcgate.config import Cluster, plugin
from hpcgate.credentials.base import CredentialSource
from hpcgate.errors import BadRequest, NoSuchTransfer, UnderWay
from hpcgate.filesystem.base import Limits, Operation, naming
from hpcgate.filesystem.following.registry import Following
from hpcgate.gateway.background import Background
from hpcgate.gateway.watching import Watching
from hpcgate.health.board import HealthBoard
from hpcgate.health.maintenance import Calendar, Window
from hpcgate.schedulers.base import JobDescription, Scheduler
from hpcgate.schedulers.once import RETRY_AFTER
from hpcgate.schedulers.reads import SharedReads
from hpcgate.schedulers.receipts import Once
from hpcgate.ssh.pace import Pace
from hpcgate.ssh.pool import Pool
from hpcgate.telemetry.base import SILENT, Telemetry
from hpcgate.telemetry.journal import note_path
from hpcgate.transfers.base import BatchJob, Transfer, TransferContext
from hpcgate.transfers.jobs import TransferJobs
from hpcgate.transfers.work_directory import check_owner


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
    background: Background = field(default_factory=Background)
    name: str = field(init=False)
    """The name as it is configured."""
    transfers: Mapping[str, Transfer] = field(init=False)
    watching: Watching = field(init=False)
    """Who wants to know what happens to its jobs."""
    following: Following = field(init=False)
    """The files that are followed."""
    _roots: frozenset[bytes] = field(init=False)
    _within: tuple[bytes, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.settings.name)
        roots = tuple(fs.path.rstrip("/").encode() for fs in self.settings.file_systems)
        object.__setattr__(self, "_roots", frozenset(roots))
        object.__setattr__(self, "_within", tuple(root + b"/" for root in roots))
        watching = Watching(self.scheduler, self.settings.events, self.background)
        object.__setattr__(self, "watching", watching)
        if isinstance(self.scheduler, SharedReads):
            self.scheduler.on_write = watching.nudge
        object.__setattr__(self, "following", Following(self.pool, self.limits))
        around = TransferContext(self.name, self.pool, self.jobs.run)
        methods = [
            plugin("hpcgate.transfers", settings.service_type)(settings, around)
            for settings in self.settings.data_operation.data_transfer
        ]
        object.__setattr__(self, "transfers", {method.method: method for method in methods})

    @property
    def scheduler_by_ssh(self) -> bool:
        """Whether the scheduler is reached through the login node."""
        return getattr(self.settings.scheduler, "connection_mode", "ssh") != "rest"

    @classmethod
    def from_settings(
        cls,
        settings: Cluster,
        credentials: CredentialSource,
        telemetry: Telemetry = SILENT,
        pace: Pace | None = None,
    ) -> Self:
        """Make a system; nothing is opened yet."""
        pool = Pool(settings.name, settings.ssh, credentials, telemetry, pace)
        make = plugin("hpcgate.schedulers", settings.scheduler.type)
        scheduler = SharedReads(
            make(settings.name, settings.scheduler, pool),
            settings.scheduler.read_cache,
            system=settings.name,
            telemetry=telemetry,
        )
        operation = settings.data_operation
        return cls(
            settings,
            pool,
            scheduler,
            Limits(max_ops_file_size=operation.max_ops_file_size),
            TransferJobs(
                settings.name,
                _work_root(settings),
                operation.datatransfer_jobs_directives,
                partial(_submit_transfer, scheduler, telemetry, settings.name),
                operation.transfer_log_lifetime,
                partial(_check_directory, pool, settings.scheduler.timeout),
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
        if transfer.service is not None:
            self.board.require((transfer.service.name,))
        return transfer

    def admit(self, path: bytes) -> None:
        """Check a path against the system's file systems (contract, Statuses, 400 and 503).

        Raises:
            BadRequest: The path lies outside of them.
            Unhealthy: The file system that it is on is.
        """
        note_path(path)
        if not self._roots or not (self.settings.restrict_paths or self.settings.probing.services):
            return
        # By `in` it would take ten times as long, as Python takes the bytes for a number first.
        plain = path if path.find(b"/.") < 0 and path.find(b"//") < 0 else posixpath.normpath(path)
        if not self._inside(path) or (plain is not path and not self._inside(plain)):
            given = path.decode("utf-8", "surrogateescape")
            raise BadRequest(f"Unsupported path: {given!r} is not in a file system of {self.name}.")
        if not self.board.well:
            self.board.require_path(plain.decode("utf-8", "surrogateescape"))

    def _inside(self, path: bytes) -> bool:
        return path.startswith(self._within) or path in self._roots

    async def perform(self, principal: Principal, operation: Operation) -> Any:
        """Run a filesystem operation as the user, its paths admitted; one that only reads is tried again on a lost
        connection."""
        with naming(operation):
            return await self.pool.perform(principal, operation.run, retry=not operation.writes)

    async def close(self) -> None:
        """End what goes on by itself, close the clients of transfer methods and scheduler, and every connection."""
        await self.background.close()
        await self.following.close()
        for transfer in self.transfers.values():
            await transfer.close()
        await self.scheduler.close()
        await self.pool.close()


async def _check_directory(pool: Pool, patience: float, principal: Principal, directory: str) -> None:
    await pool.perform(principal, partial(check_owner, directory=directory, timeout=patience), retry=True)


def _work_root(settings: Cluster) -> str | None:
    for file_system in settings.file_systems:
        if file_system.default_work_dir:
            return file_system.path
    return None


async def _submit_transfer(
    scheduler: SharedReads, telemetry: Telemetry, system: str, principal: Principal, job: BatchJob
) -> str:
    """Submit a transfer's job, once if it has a key, and return its id."""
    description = JobDescription(
        job.working_directory,
        job.script,
        name=job.name,
        account=job.account,
        standard_output=job.standard_output,
        standard_error=job.standard_error,
    )
    if isinstance(job.key, Once):
        submitted = await scheduler.submit_once(principal, description, replace(job.key, memo=job.memo))
        if submitted.replayed:
            # What was prepared here is not what its job has: whoever asks again is told that one's.
            raise UnderWay(RETRY_AFTER)
        job_id = submitted.job_id
    else:
        job_id = await scheduler.submit(principal, description)
    telemetry.transfer_job(system, job.name.removeprefix("transfer-"))
    return job_id
