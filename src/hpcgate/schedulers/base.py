"""What every scheduler offers, and the nouns that they share.

Times are Unix seconds, durations seconds; None means unknown, or unlimited for a limit.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from hpcgate.auth import Principal
from hpcgate.config import SchedulerSettings
from hpcgate.errors import GatewayError, JobNotFound, NotSupported
from hpcgate.schedulers.control import Action, JobChanges
from hpcgate.schedulers.directives import Directives
from hpcgate.schedulers.dry_run import DryRun
from hpcgate.schedulers.job_spec import NO_LAUNCHER, JobAttributes, Program
from hpcgate.schedulers.many import each
from hpcgate.schedulers.once import Fate, Submitted
from hpcgate.schedulers.reach import reach, with_script
from hpcgate.schedulers.receipts import Once
from hpcgate.schedulers.snapshot import Seen, Snapshot
from hpcgate.schedulers.watched import Watched
from hpcgate.ssh.files.remote_path import RemotePath
from hpcgate.ssh.pool import Pool

AT_ONCE = 4
"""How many of several jobs are asked for, submitted or cancelled at a time, where nothing else is configured."""

TimeWindow = Literal["1h", "8h", "24h", "3d", "7d"]

WINDOW_SECONDS: Mapping[TimeWindow, int] = {"1h": 3600, "8h": 28_800, "24h": 86_400, "3d": 259_200, "7d": 604_800}


@dataclass(frozen=True, slots=True)
class JobStatus:
    """State names are the scheduler's own (PENDING, RUNNING, ...; PBS letters)."""

    state: str
    state_reason: str | None = None
    exit_code: int | None = None
    interrupt_signal: int | None = None


@dataclass(frozen=True, slots=True)
class JobTime:
    """When a job or a step ran. `limit` is None if there is none or it is unknown."""

    elapsed: int | None = None
    start: int | None = None
    end: int | None = None
    suspended: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class JobTask:
    """A step of a job (``123.batch``, ``123.0``)."""

    id: str
    name: str
    status: JobStatus
    time: JobTime


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job has cost so far, as far as it is recorded.

    Attributes:
        cpu_seconds: Of all its processes.
        memory_peak: Bytes of the task, or of the job where that is what is recorded, that held most.
        node_hours: Of the nodes that it had.
        energy: Joules.
    """

    cpu_seconds: float | None = None
    memory_peak: int | None = None
    node_hours: float | None = None
    energy: int | None = None


def usage_of(
    *,
    cpu_seconds: float | None = None,
    memory_peak: int | None = None,
    nodes: int | None = None,
    elapsed: int | None = None,
    energy: int | None = None,
) -> Usage | None:
    """Return what was recorded; None if nothing was. A zero says that nobody has measured, or not yet.

    Args:
        cpu_seconds: As in `Usage`.
        memory_peak: As in `Usage`.
        nodes: How many nodes the job had.
        elapsed: For how many seconds.
        energy: As in `Usage`.
    """
    if not nodes or elapsed is None:
        return None
    return Usage(cpu_seconds or None, memory_peak or None, round(nodes * elapsed / 3600, 4), energy or None)


@dataclass(frozen=True, slots=True)
class Job:
    """One job, live or from the accounting history; its usage only where it was asked for by its id."""

    job_id: str
    name: str
    status: JobStatus
    time: JobTime
    allocation_nodes: int
    cluster: str
    nodes: str
    partition: str
    user: str | None
    working_directory: str
    account: str | None = None
    group: str | None = None
    kill_request_user: str | None = None
    priority: int | None = None
    tasks: tuple[JobTask, ...] | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class JobMetadata:
    """What was submitted; the paths are absolute and expanded."""

    job_id: str
    script: str | None = None
    standard_input: str | None = None
    standard_output: str | None = None
    standard_error: str | None = None


@dataclass(frozen=True, slots=True)
class JobDescription:
    """What to submit. Exactly one of `script` and `script_path` is set.

    Attributes:
        working_directory, script_path: As the bytes that name them.
        program: What `script` was written to run, where a request names a program (`hpcgate.schedulers.rendering`).
        attributes: What is asked of the scheduler besides.
        environment: Variables that were asked for: the job has them whatever its script says of its environment.
        default_environment: Variables that nobody asked for: the job has them if its script lets it.
    """

    working_directory: RemotePath
    script: str | None = None
    script_path: RemotePath | None = None
    name: str | None = None
    account: str | None = None
    reservation: str | None = None
    partition: str | None = None
    constraints: str | None = None
    standard_input: str | None = None
    standard_output: str | None = None
    standard_error: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    default_environment: Mapping[str, str] = field(default_factory=dict)
    program: Program | None = None
    attributes: JobAttributes = field(default_factory=JobAttributes)


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs to list: pending and running ones always, finished ones within the window."""

    all_users: bool = False
    account: str | None = None
    name: str | None = None
    window: TimeWindow = "24h"


LIVE = "live"
"""The source of jobs that tells of those that wait or run."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """An answer about jobs.

    Attributes:
        missing: The sources that did not answer (``history`` or ``live``): the list may lack some jobs.
        age: Seconds since the data were read from the scheduler.
    """

    jobs: tuple[Job, ...]
    missing: tuple[str, ...] = ()
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class Node:
    """A compute node. Memory is in MiB; `state` holds names of the contract's NodeState."""

    name: str
    cpus: int
    state: tuple[str, ...]
    address: str | None = None
    hostname: str | None = None
    sockets: int | None = None
    cores: int | None = None
    threads: int | None = None
    cpu_load: float | None = None
    alloc_cpus: int | None = None
    idle_cpus: int | None = None
    alloc_memory: int | None = None
    free_memory: int | None = None
    features: str | Sequence[str] | None = None
    partitions: tuple[str, ...] | None = None
    weight: int | None = None


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition or queue."""

    name: str
    state: str | Sequence[str]
    cpus: int | None = None
    total_nodes: int | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation; `state` is lower case (active, inactive)."""

    name: str
    node_list: str
    start_time: int
    end_time: int
    state: str | None = None
    features: str | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """An account that the user may charge."""

    name: str
    default: bool


@dataclass(frozen=True, slots=True)
class AllocatedResource:
    """How much of a resource an account may use, in minutes of one of it.

    Attributes:
        resource: The scheduler's name: ``cpu``, ``node``, ``gres/gpu``, ``billing``.
        scope: Whose limit it is: ``account``, of all its users together, or ``user``.
        limit: None where there is none.
        left: None where there is no limit.
    """

    resource: str
    scope: str
    limit: int | None
    used: int
    left: int | None


@dataclass(frozen=True, slots=True)
class Allocation:
    """An account that the user may charge, with what is limited or has been used of it."""

    account: str
    default: bool
    resources: tuple[AllocatedResource, ...]


class Scheduler(Watched, ABC):
    """The scheduler of one system. Found by the entry points ``hpcgate.schedulers``, by the key ``type``.

    Every method may raise `TimedOut`, `LoginNodeError`, `SchedulerUnavailable` or, for what the backend cannot do,
    `NotSupported`. A method that names a job raises `JobNotFound` for an unknown or malformed id.
    """

    Settings: ClassVar[type[SchedulerSettings]]

    @abstractmethod
    def __init__(self, system: str, settings: Any, pool: Pool) -> None:
        """Keep the system's name, the settings (an instance of ``Settings``) and the pool; open nothing."""

    @abstractmethod
    async def submit(self, principal: Principal, job: JobDescription) -> str:
        """Submit a job and return its id. Never tried twice: a submission that timed out may have gone through.

        Raises:
            SubmissionRefused: With the scheduler's own words.
            Forbidden: A quota or QOS limit is reached.
        """

    async def submit_and_tell(self, principal: Principal, job: JobDescription) -> Submitted:
        """Submit a job as `submit` does, and return with its id what the scheduler has warned of."""
        return Submitted(await self.submit(principal, job))

    async def dry_run(self, principal: Principal, job: JobDescription) -> DryRun:
        """Return what `submit` would submit; nothing is submitted.

        Raises:
            GatewayError: As `submit`, where that can be told.
        """
        return DryRun(job.script)

    def fields(self) -> frozenset[str]:
        """Return which of `job_spec.FIELDS` `submit` looks at; a request with others is refused by their names.

        None by default, so that a scheduler that was written before there were any passes none of them over.
        """
        return frozenset()

    def launchers(self) -> Mapping[str, Sequence[str]]:
        """Return the words that start a program in a job, by the launcher's name; the first is the default."""
        return {NO_LAUNCHER: ()}

    def states(self) -> frozenset[str]:
        """Return the states that jobs may have, by its own names; none if they are not known, and any name is taken."""
        return frozenset()

    @property
    def submits_once(self) -> bool:
        """Whether there are `submit_once` and `submission`."""
        return False

    async def submit_once(self, principal: Principal, job: JobDescription, once: Once) -> Submitted:
        """Submit a job, unless it was submitted before: however often it is asked for, by whomever, there is one job.

        Raises:
            NotSupported: This scheduler cannot promise it.
            KeyReused: It was another job.
            UnderWay: It is being submitted.
            SchedulerUnavailable: It may have been submitted, and it cannot be told now.
            Conflict: It was submitted, and its id cannot be told.
            GatewayError: As `submit`; nothing was submitted, and the next one may be.
        """
        raise NotSupported("An Idempotency-Key is not supported by this scheduler")

    async def submission(self, principal: Principal, once: Once) -> Fate:
        """Return what has become of what `submit_once` was asked for.

        Raises:
            NotSupported: As there.
        """
        raise NotSupported("An Idempotency-Key is not supported by this scheduler")

    async def submit_many(
        self, principal: Principal, wanted: Sequence[tuple[JobDescription, Once | None]]
    ) -> list[Submitted | GatewayError]:
        """Submit jobs, those with a key as `submit_once` does, and return what became of each, in order.

        A backend that can submit many by one command does so here; one that cannot submits each.
        """

        async def one(pair: tuple[JobDescription, Once | None]) -> Submitted:
            job, once = pair
            if once is None:
                return await self.submit_and_tell(principal, job)
            return await self.submit_once(principal, job, once)

        return await each(wanted, AT_ONCE, one)

    async def cancel_many(self, principal: Principal, job_ids: Sequence[str]) -> list[GatewayError | None]:
        """Cancel jobs as `cancel` does, and return the error of each that could not be, in order."""
        return await each(job_ids, AT_ONCE, lambda job_id: self.cancel(principal, job_id))

    @abstractmethod
    async def jobs(self, principal: Principal, query: JobQuery) -> Jobs:
        """List jobs: live ones merged with the history, own ones unless ``query.all_users``."""

    @abstractmethod
    async def job(self, principal: Principal, job_id: str) -> Jobs:
        """Return the one job, or the tasks of an array."""

    async def snapshot(self, principal: Principal, *, user: str | None) -> Snapshot:
        """Return the jobs that have not ended, or not long ago, by one query as cheap as there is.

        The default is a list by `jobs`.

        Args:
            principal: Who asks.
            user: Whose; None for everybody's.
        """
        found = await self.jobs(principal, JobQuery(all_users=user is None, window="1h"))
        return Snapshot.of(Seen(job, job.job_id) for job in found.jobs)

    def names(self, job_id: str, seen: Seen) -> bool:
        """Return whether an id that a user gives names a job; that of an array names its tasks, too."""
        return job_id in (seen.job.job_id, seen.raw)

    async def several(self, principal: Principal, job_ids: tuple[str, ...]) -> Mapping[str, Jobs | GatewayError]:
        """Return several jobs by id, each as `job` does, or the error that `job` would raise.

        A backend that can ask for many jobs in one query does so here; one that cannot asks for each.
        """

        async def one(job_id: str) -> Jobs | GatewayError:
            try:
                return await self.job(principal, job_id)
            except GatewayError as error:
                return error

        return dict(zip(job_ids, await asyncio.gather(*map(one, job_ids)), strict=True))

    async def unknown(self, principal: Principal, job_ids: tuple[str, ...]) -> frozenset[str]:
        """Return which of these ids no job can be meant by that another one could wait for.

        A backend that takes an id of which it does not know any more what it was says so here.
        """
        found = await self.several(principal, job_ids)
        return frozenset(job_id for job_id, answer in found.items() if isinstance(answer, JobNotFound))

    @abstractmethod
    async def metadata(self, principal: Principal, job_id: str) -> tuple[JobMetadata, ...]:
        """Return the script and the standard streams of a job."""

    @abstractmethod
    async def cancel(self, principal: Principal, job_id: str) -> None:
        """Cancel a job; one that has already finished is a success."""

    @abstractmethod
    async def attach(self, principal: Principal, job_id: str, command: str) -> None:
        """Run a shell command as a step inside the allocation of a running job."""

    async def act(self, principal: Principal, job_id: str, action: Action) -> None:
        """Hold, release, requeue, suspend or resume a job.

        Raises:
            NotSupported: This scheduler cannot do it.
            Forbidden: The job is another user's, or this is not for users.
            Conflict: The job has ended, or its state does not allow it.
        """
        raise NotSupported(f"This scheduler does not support the action {action.value}")

    async def signal(self, principal: Principal, job_id: str, number: int) -> None:
        """Send a signal to all processes of a running job.

        Raises:
            NotSupported, Forbidden, Conflict: As `act`.
        """
        raise NotSupported("This scheduler does not support signals")

    async def change(self, principal: Principal, job_id: str, changes: JobChanges) -> None:
        """Change a job that has not ended.

        Raises:
            NotSupported: This scheduler cannot do it, or not one of the changes; nothing was changed.
            BadRequest: It refuses a value, in its own words.
            Forbidden, Conflict: As `act`.
        """
        raise NotSupported("This scheduler does not support changes of a job")

    @abstractmethod
    async def nodes(self, principal: Principal) -> tuple[Node, ...]:
        """List the compute nodes."""

    @abstractmethod
    async def partitions(self, principal: Principal, *, show_hidden: bool = False) -> tuple[Partition, ...]:
        """List the partitions or queues."""

    @abstractmethod
    async def reservations(self, principal: Principal) -> tuple[Reservation, ...]:
        """List the reservations."""

    @abstractmethod
    async def accounts(self, principal: Principal) -> tuple[Account, ...] | None:
        """List the accounts of the user, or None where the scheduler has no such thing."""

    async def allocations(self, principal: Principal) -> tuple[Allocation, ...]:
        """Return how much of each of the user's accounts there is, is used, and is left.

        Raises:
            NotSupported: This scheduler does not know.
        """
        raise NotSupported("This scheduler does not tell of allocations")

    @abstractmethod
    async def ping(self, principal: Principal) -> None:
        """Return if the scheduler answers; raise `SchedulerUnavailable` if not. A backup that is down is fine."""

    def directives(self) -> Directives | None:
        """Return which options a job's script may hold, and which of them name files.

        None, the default, says that it is not known: users who may reach some paths only can submit nothing.
        """
        return None

    def reach(self, job: JobDescription) -> tuple[RemotePath, ...]:
        """Return the absolute paths that a submission names, its own and those of its script's directives.

        The default reads them by `directives`.

        Raises:
            Unchecked: It cannot be told; who may reach some paths only may not submit it.
        """
        return reach(job, self.directives())

    def with_script(self, job: JobDescription, script: str) -> JobDescription:
        """Return a submission with a script in the place of the path where it was read; else it stays as it was.

        Raises:
            Unchecked: It cannot be told how.
        """
        return with_script(job, script, self.directives())

    async def installed_version(self, principal: Principal) -> str | None:
        """Return the version that the scheduler itself names, or None where it cannot be asked."""
        return None

    async def offered(self, principal: Principal) -> tuple[str, ...] | None:
        """Return the versions of its interface that a service before the scheduler offers, None where there is none."""
        return None

    async def close(self) -> None:
        """Close what is open."""
