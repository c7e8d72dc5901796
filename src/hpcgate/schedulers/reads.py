"""Reads of the scheduler that cost its controller little: shared, gathered, and never older than one's own last write.

- Identical reads of one user that are under way at the same time are one query.
- Single jobs that one user asks for while a query for others is under way are gathered into the next one.
- After a submission, a cancellation or an attachment of that user nothing that began before is given out any more: a
  new generation begins, and nobody reads a state older than their own last write.
- A tool that fails or refuses is a scheduler that cannot be read (503, with the tool's words), whichever backend asks.
- For `read_cache` seconds an answer may be given out again; none by default.

Users share nothing: what one may see, another may not. Nor do a user's tokens that stand for different things: the
scheduler may answer them differently. A write by any of them counts for all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from hpcgate.auth import Principal
from hpcgate.errors import CommandFailed, GatewayError, JobNotFound, SchedulerUnavailable, Unavailable
from hpcgate.schedulers.base import (
    Account,
    Allocation,
    JobDescription,
    JobMetadata,
    JobQuery,
    Jobs,
    Node,
    Partition,
    Reservation,
    Scheduler,
)
from hpcgate.schedulers.control import Action, JobChanges
from hpcgate.schedulers.directives import Directives
from hpcgate.schedulers.dry_run import DryRun
from hpcgate.schedulers.once import Fate, Submitted
from hpcgate.schedulers.receipts import Once
from hpcgate.schedulers.snapshot import Seen, Snapshot
from hpcgate.sharing.tasks import Tasks
from hpcgate.ssh.errors import fresh_copy
from hpcgate.ssh.files.remote_path import RemotePath
from hpcgate.telemetry.base import SILENT, Telemetry
from hpcgate.telemetry.containment import contained
from hpcgate.telemetry.journal import note_job, note_jobs

PATIENCE = 0.2
"""Seconds that jobs are gathered for the next query while one is under way; then they no longer wait for it."""
MAX_GATHERED = 100
"""Most jobs in one query."""
MAX_KEPT = 50_000
"""Most jobs in all answers that are kept for `read_cache`; one takes some 2 KiB."""

T = TypeVar("T")


@dataclass(slots=True)
class ReadStats:
    """How many reads were asked for, and how many queries they cost, since the start."""

    asked: int = 0
    queries: int = 0


@dataclass(slots=True, eq=False)
class _Flight(Generic[T]):
    """A read under way, or one whose answer is kept.

    Attributes:
        task: Gives the answer.
        since: When it began, by the loop's clock.
        waiting: How many wait for it.
    """

    task: "asyncio.Task[T]"
    since: float
    waiting: int = 0


@dataclass(slots=True, eq=False)
class _Batch:
    """Jobs that one query will ask for, or asks for."""

    wanted: "dict[str, asyncio.Future[Jobs]]" = field(default_factory=dict)
    task: "asyncio.Task[None] | None" = None

    def deserted(self) -> bool:
        return all(future.done() for future in self.wanted.values())


@dataclass(slots=True, eq=False)
class _Generation:
    """What one user has read since the last write."""

    flights: dict[Hashable, _Flight[Any]] = field(default_factory=dict)
    gathering: dict[str, _Batch] = field(default_factory=dict)
    leaving: dict[str, _Batch] = field(default_factory=dict)


def _nobody(username: str) -> None:
    """Tell nobody of a write."""


class SharedReads(Scheduler):
    """A scheduler whose reads are shared; all else goes straight to the backend.

    Args:
        backend: Does the work.
        read_cache: Seconds for which an answer about jobs may be given out again.
        system: The name of the system.
        telemetry: Who is told what takes how long.

    Attributes:
        on_write: Is told the name of each user who has changed, or may have changed, something.
    """

    def __init__(
        self, backend: Scheduler, read_cache: float = 0, *, system: str = "", telemetry: Telemetry = SILENT
    ) -> None:
        self.backend = backend
        self._system = system
        self._telemetry = telemetry
        self.stats = ReadStats()
        self._cache = read_cache
        self._users: dict[str, _Generation] = {}
        self._kept = 0
        self._tasks = Tasks("schedulers")
        self.on_write: Callable[[str], None] = _nobody

    def __repr__(self) -> str:
        return f"<SharedReads of {self.backend!r} {self.stats}>"

    def directives(self) -> Directives | None:
        """Return what the backend's scripts may hold."""
        return self.backend.directives()

    def reach(self, job: JobDescription) -> tuple[RemotePath, ...]:
        """Return what the backend says that a submission names."""
        return self.backend.reach(job)

    def with_script(self, job: JobDescription, script: str) -> JobDescription:
        """Return a submission with its script, as the backend would take it."""
        return self.backend.with_script(job, script)

    async def dry_run(self, principal: Principal, job: JobDescription) -> DryRun:
        """Return what the backend would submit."""
        with self._telemetry.stage("scheduler", self._system, "dry_run"):
            return await self.backend.dry_run(principal, job)

    def fields(self) -> frozenset[str]:
        """Return which fields of a job the backend looks at."""
        return self.backend.fields()

    def states(self) -> frozenset[str]:
        """Return the backend's states of jobs."""
        return self.backend.states()

    def launchers(self) -> Mapping[str, Sequence[str]]:
        """Return what starts programs in the backend's jobs."""
        return self.backend.launchers()

    async def submit(self, principal: Principal, job: JobDescription) -> str:
        """Submit a job by the backend."""
        return (await self.submit_and_tell(principal, job)).job_id

    async def submit_and_tell(self, principal: Principal, job: JobDescription) -> Submitted:
        """Submit a job by the backend."""
        submitted = await self._write("submit", principal, self.backend.submit_and_tell(principal, job))
        note_job(submitted.job_id)
        return submitted

    @property
    def submits_once(self) -> bool:
        """Whether the backend does."""
        return self.backend.submits_once

    async def submit_once(self, principal: Principal, job: JobDescription, once: Once) -> Submitted:
        """Submit a job once by the backend."""
        submitted = await self._write("submit", principal, self.backend.submit_once(principal, job, once))
        note_job(submitted.job_id)
        return submitted

    async def submission(self, principal: Principal, once: Once) -> Fate:
        """Return what has become of a submission; never shared."""
        return await self._query("submission", self.backend.submission(principal, once))

    async def submit_many(
        self, principal: Principal, wanted: Sequence[tuple[JobDescription, Once | None]]
    ) -> list[Submitted | GatewayError]:
        """Submit jobs by the backend."""
        found = await self._write("submit", principal, self.backend.submit_many(principal, wanted))
        note_jobs(one.job_id for one in found if isinstance(one, Submitted))
        return found

    async def cancel_many(self, principal: Principal, job_ids: Sequence[str]) -> list[GatewayError | None]:
        """Cancel jobs by the backend."""
        note_jobs(job_ids)
        return await self._write("cancel", principal, self.backend.cancel_many(principal, job_ids))

    async def cancel(self, principal: Principal, job_id: str) -> None:
        """Cancel a job by the backend."""
        await self._write("cancel", principal, self.backend.cancel(principal, job_id))

    async def attach(self, principal: Principal, job_id: str, command: str) -> None:
        """Run a command in a job's allocation by the backend."""
        await self._write("attach", principal, self.backend.attach(principal, job_id, command))

    async def act(self, principal: Principal, job_id: str, action: Action) -> None:
        """Do something to a job by the backend."""
        await self._write(action.value, principal, self.backend.act(principal, job_id, action))

    async def signal(self, principal: Principal, job_id: str, number: int) -> None:
        """Send a signal to a job by the backend."""
        await self._write("signal", principal, self.backend.signal(principal, job_id, number))

    async def change(self, principal: Principal, job_id: str, changes: JobChanges) -> None:
        """Change a job by the backend."""
        await self._write("change", principal, self.backend.change(principal, job_id, changes))

    async def jobs(self, principal: Principal, query: JobQuery) -> Jobs:
        """List jobs; `Jobs.age` tells how long ago the scheduler was asked."""
        return await self._jobs(
            principal, ("jobs", query), lambda: self._query("jobs", self.backend.jobs(principal, query))
        )

    async def job(self, principal: Principal, job_id: str) -> Jobs:
        """Return a job, asked for together with others; `Jobs.age` tells how long ago the scheduler was asked."""
        return await self._jobs(principal, ("job", job_id), lambda: self._gather(principal, job_id))

    async def several(self, principal: Principal, job_ids: tuple[str, ...]) -> Mapping[str, Jobs | GatewayError]:
        """Return several jobs by the backend."""
        return await self._query("several", self.backend.several(principal, job_ids))

    async def unknown(self, principal: Principal, job_ids: tuple[str, ...]) -> frozenset[str]:
        """Return which ids the backend is certain that there is no job of."""
        return await self._query("unknown", self.backend.unknown(principal, job_ids))

    async def snapshot(self, principal: Principal, *, user: str | None) -> Snapshot:
        """Return the jobs of a user, or of everybody; those who wait share it (`hpcgate.gateway.watching`)."""
        return await self._query("snapshot", self.backend.snapshot(principal, user=user))

    @property
    def tells_events(self) -> bool:
        """Whether the backend does."""
        return self.backend.tells_events

    def apart(self, seen: Seen) -> Sequence[Seen]:
        """Return tasks that wait together one by one, as the backend does."""
        return self.backend.apart(seen)

    async def clock(self, principal: Principal) -> int | None:
        """Return the backend's time."""
        return await self._query("clock", self.backend.clock(principal))

    async def closer(self, principal: Principal, found: Sequence[Seen], *, user: str | None) -> Sequence[Seen]:
        """Return jobs with more of what has become of them; those who wait share it."""
        return await self._query("closer", self.backend.closer(principal, found, user=user))

    async def runs(
        self, principal: Principal, *, user: str | None, since: int | None = None, records: Sequence[str] = ()
    ) -> Sequence[Seen] | None:
        """Return the runs of the backend's history."""
        return await self._query("runs", self.backend.runs(principal, user=user, since=since, records=records))

    def names(self, job_id: str, seen: Seen) -> bool:
        """Return whether an id names a job, as the backend says."""
        return self.backend.names(job_id, seen)

    async def metadata(self, principal: Principal, job_id: str) -> tuple[JobMetadata, ...]:
        """Return the script and the standard streams of a job."""
        return await self._shared(
            principal, ("metadata", job_id), lambda: self._query("metadata", self.backend.metadata(principal, job_id))
        )

    async def nodes(self, principal: Principal) -> tuple[Node, ...]:
        """List the compute nodes."""
        return await self._shared(principal, "nodes", lambda: self._query("nodes", self.backend.nodes(principal)))

    async def partitions(self, principal: Principal, *, show_hidden: bool = False) -> tuple[Partition, ...]:
        """List the partitions or queues."""
        return await self._shared(
            principal,
            ("partitions", show_hidden),
            lambda: self._query("partitions", self.backend.partitions(principal, show_hidden=show_hidden)),
        )

    async def reservations(self, principal: Principal) -> tuple[Reservation, ...]:
        """List the reservations."""
        return await self._shared(
            principal, "reservations", lambda: self._query("reservations", self.backend.reservations(principal))
        )

    async def accounts(self, principal: Principal) -> tuple[Account, ...] | None:
        """List the accounts of the user."""
        return await self._shared(
            principal, "accounts", lambda: self._query("accounts", self.backend.accounts(principal))
        )

    async def allocations(self, principal: Principal) -> tuple[Allocation, ...]:
        """Return how much of the user's accounts is left."""
        return await self._shared(
            principal, "allocations", lambda: self._query("allocations", self.backend.allocations(principal))
        )

    async def ping(self, principal: Principal) -> None:
        """Ask whether the scheduler answers; never shared."""
        await self.backend.ping(principal)

    async def installed_version(self, principal: Principal) -> str | None:
        """Ask."""
        return await self.backend.installed_version(principal)

    async def close(self) -> None:
        """End what is under way and close the backend."""
        self._users.clear()
        await self._tasks.close()
        await self.backend.close()

    async def _write(self, operation: str, principal: Principal, doing: Awaitable[T]) -> T:
        try:
            with self._telemetry.stage("scheduler", self._system, operation):
                return await doing
        finally:
            # Also after a failure: a submission that timed out may have gone through.
            self._users.pop(principal.username, None)
            self.on_write(principal.username)

    async def _query(self, operation: str, asking: Awaitable[T]) -> T:
        self.stats.queries += 1
        with self._telemetry.stage("scheduler", self._system, operation):
            try:
                return await asking
            except CommandFailed as error:
                # Whatever a tool has against it: the scheduler cannot be read, and the request changes nothing.
                raise SchedulerUnavailable(error.message) from error

    async def _jobs(self, principal: Principal, key: Hashable, ask: Callable[[], Awaitable[Jobs]]) -> Jobs:
        flight = self._join(principal, key, ask, self._cache)
        jobs = await self._land(principal, key, flight)
        return replace(jobs, age=jobs.age + asyncio.get_running_loop().time() - flight.since)

    async def _shared(self, principal: Principal, key: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        return await self._land(principal, key, self._join(principal, key, ask, 0))

    def _join(self, principal: Principal, key: Hashable, ask: Callable[[], Awaitable[T]], keep: float) -> _Flight[T]:
        """Return the flight that answers the read: one under way, one whose answer is kept, or a new one."""
        self.stats.asked += 1
        user, key = principal.username, (principal.standing, key)
        generation = self._users.setdefault(user, _Generation())
        flight = generation.flights.get(key)
        if flight is None:

            async def fly() -> T:
                return await ask()

            flight = _Flight(self._tasks.spawn(fly()), asyncio.get_running_loop().time())
            generation.flights[key] = flight
            landed = flight
            flight.task.add_done_callback(
                contained("schedulers.landed")(lambda task: self._landed(user, generation, key, landed, keep))
            )
        flight.waiting += 1
        return flight

    async def _land(self, principal: Principal, key: Hashable, flight: _Flight[T]) -> T:
        """Wait for a flight. The last one who gives up ends it."""
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if flight.task.cancelled() and not (task is not None and task.cancelling()):
                raise Unavailable("The gateway is being stopped") from None
            raise
        except GatewayError as error:
            raise fresh_copy(error) from error.__cause__
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                generation = self._users.get(principal.username)
                key = (principal.standing, key)
                if generation is not None and generation.flights.get(key) is flight:
                    self._forget(principal.username, generation, key)
                flight.task.cancel()

    @contained("schedulers.landed")
    def _landed(self, user: str, generation: _Generation, key: Hashable, flight: _Flight[Any], keep: float) -> None:
        if generation.flights.get(key) is not flight:
            return
        loop = asyncio.get_running_loop()
        rest = flight.since + keep - loop.time()
        if rest > 0 and not flight.task.cancelled() and flight.task.exception() is None:
            size = 1 + len(flight.task.result().jobs)
            # The largest list is worth most; it is kept if it is the only one.
            if not self._kept or self._kept + size <= MAX_KEPT:
                self._kept += size
                loop.call_later(rest, self._expire, user, generation, key, flight, size)
                return
        self._forget(user, generation, key)

    @contained("schedulers.expire")
    def _expire(self, user: str, generation: _Generation, key: Hashable, flight: _Flight[Jobs], size: int) -> None:
        self._kept -= size
        if generation.flights.get(key) is flight:
            self._forget(user, generation, key)

    def _forget(self, user: str, generation: _Generation, key: Hashable) -> None:
        del generation.flights[key]
        if not generation.flights and self._users.get(user) is generation:
            del self._users[user]

    async def _gather(self, principal: Principal, job_id: str) -> Jobs:
        """Ask for one job along with whatever other jobs of the user are wanted."""
        generation = self._users.setdefault(principal.username, _Generation())
        batch = generation.gathering.get(principal.standing)
        if batch is None or len(batch.wanted) >= MAX_GATHERED:
            batch = generation.gathering[principal.standing] = _Batch()
            batch.task = self._tasks.spawn(self._depart(principal, generation, batch))
        future: asyncio.Future[Jobs] = asyncio.get_running_loop().create_future()
        batch.wanted[job_id] = future
        try:
            return await future
        finally:
            future.cancel()
            if batch.task is not None and batch.deserted():
                batch.task.cancel()
                # Whoever comes next is not to gather where nobody departs any more.
                if generation.gathering.get(principal.standing) is batch:
                    del generation.gathering[principal.standing]

    async def _depart(self, principal: Principal, generation: _Generation, batch: _Batch) -> None:
        """Gather while a query is under way, then ask for all at once."""
        standing = principal.standing
        ahead = generation.leaving.get(standing)
        if ahead is not None and ahead.task is not None and not ahead.task.done():
            await asyncio.wait({ahead.task}, timeout=PATIENCE)
        else:
            await asyncio.sleep(0)
        if generation.gathering.get(standing) is batch:
            del generation.gathering[standing]
        generation.leaving[standing] = batch
        try:
            found = await self.several(principal, tuple(batch.wanted))
        except GatewayError as error:
            found = dict.fromkeys(batch.wanted, error)
        except Exception as error:
            for future in batch.wanted.values():
                if not future.done():
                    future.set_exception(error)
            return
        finally:
            if generation.leaving.get(standing) is batch:
                del generation.leaving[standing]
            for future in batch.wanted.values():
                if not future.done() and batch.task is not None and batch.task.cancelling():
                    future.cancel()
        for job_id, future in batch.wanted.items():
            if future.done():
                continue
            answer = found.get(job_id) or JobNotFound(job_id)
            if isinstance(answer, Jobs):
                future.set_result(answer)
            else:
                future.set_exception(fresh_copy(answer))
