"""The Slurm scheduler."""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from hpcgate.auth import Principal
from hpcgate.errors import (
    CommandFailed,
    Forbidden,
    GatewayError,
    JobNotFound,
    SchedulerUnavailable,
    TimedOut,
)
from hpcgate.schedulers.base import (
    WINDOW_SECONDS,
    Account,
    JobDescription,
    JobMetadata,
    JobQuery,
    Jobs,
    Node,
    Partition,
    Reservation,
    Scheduler,
)
from hpcgate.schedulers.slurm.client import client
from hpcgate.schedulers.slurm.command_line import NoHistory
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.past import Past, who
from hpcgate.schedulers.slurm.records import Record, Selection, merged
from hpcgate.schedulers.slurm.rest.backend import Rest
from hpcgate.schedulers.slurm.scancel import Outcome
from hpcgate.schedulers.slurm.settings import SlurmSettings
from hpcgate.ssh.pool import Pool

_log = structlog.get_logger(__name__)

_DEGRADES = (SchedulerUnavailable, TimedOut, CommandFailed)
"""What one of two sources may raise without the answer failing."""

Answer = TypeVar("Answer")


class Slurm(Scheduler):
    """Slurm 21.08 to 26.05.

    What the controller knows now and what the accounting database remembers are read at the same time and made one
    list. If one of the two does not answer, the list has what the other knows, and says so in `Jobs.missing`; a site
    without an accounting database misses nothing.
    """

    Settings = SlurmSettings
    account_directive = "#SBATCH --account={account}"

    def __init__(self, system: str, settings: SlurmSettings, pool: Pool) -> None:
        self.system = system
        self._commands = client(system, settings, pool)
        self._past = Past(settings.history_cache)

    async def submit(self, principal: Principal, job: JobDescription) -> str:
        """Submit a job by sbatch, or by slurmrestd: https://slurm.schedmd.com/sbatch.html"""
        try:
            return await self._commands.submit(principal, job)
        finally:
            self._past.forget(principal.username)

    async def jobs(self, principal: Principal, query: JobQuery) -> Jobs:
        """List jobs, in the order of their ids."""
        window = WINDOW_SECONDS[query.window]
        selection = Selection(
            user=None if query.all_users else principal.username,
            account=query.account if _plain(query.account) else None,
            window=window,
        )
        jobs, missing, age = await self._both(principal, selection)
        since = time.time() - window
        chosen = tuple(
            job
            for job in (record.job for record in jobs)
            if (query.name is None or job.name == query.name)
            and (query.account is None or job.account == query.account)
            and (job.time.end is None or job.time.end >= since)
        )
        return Jobs(chosen, missing, age)

    async def job(self, principal: Principal, job_id: str) -> Jobs:
        """Return a job, the tasks of an array or the components of a heterogeneous job, whoever owns them."""
        records, missing = await self._find(principal, JobId.parse(job_id))
        if not records:
            raise JobNotFound(job_id)
        return Jobs(tuple(record.job for record in records), missing)

    async def several(self, principal: Principal, job_ids: tuple[str, ...]) -> Mapping[str, Jobs | GatewayError]:
        """Return several jobs, asked for in one go of each source."""
        found: dict[str, Jobs | GatewayError] = {}
        parsed: dict[str, JobId] = {}
        for job_id in job_ids:
            try:
                parsed[job_id] = JobId.parse(job_id)
            except JobNotFound as error:
                found[job_id] = error
        if parsed:
            records, missing, _ = await self._both(principal, Selection(ids=tuple(parsed.values())))
            for job_id, wanted in parsed.items():
                its = tuple(record.job for record in records if wanted.matches(record.job.job_id, record.raw))
                found[job_id] = Jobs(its, missing) if its else JobNotFound(job_id)
        return found

    async def metadata(self, principal: Principal, job_id: str) -> tuple[JobMetadata, ...]:
        """Return script and standard streams.

        The script is the controller's as long as it knows the job, then the database's if the site stores scripts
        (``AccountingStoreFlags=job_script``). The paths of a job that the controller has forgotten are known from 24.05
        on. What is not known is None.
        """
        records, _ = await self._find(principal, JobId.parse(job_id))
        if not records:
            raise JobNotFound(job_id)
        return await self._commands.metadata(principal, records)

    async def cancel(self, principal: Principal, job_id: str) -> None:
        """Cancel; a job that has ended already is a success, whether the controller still knows it or not.

        Raises:
            Forbidden: The job is another user's.
        """
        parsed = JobId.parse(job_id)
        self._past.forget(principal.username)
        if await self._commands.cancel(principal, parsed) is not Outcome.UNKNOWN:
            return
        records, _ = await self._find(principal, parsed)
        if not records:
            raise JobNotFound(job_id)
        if all(record.job.user not in (None, principal.username) for record in records):
            raise Forbidden(f"Access/permission denied: job {job_id} is another user's")

    async def attach(self, principal: Principal, job_id: str, command: str) -> None:
        """Run a shell command as one more task in the allocation of a running job, and wait for its end.

        Returning means that the command ran and succeeded. It runs on one node of the job, beside the job's own steps,
        with the environment of a step, no standard input, and what it prints is dropped. It may take as long as
        ``scheduler.timeout`` says; then it is ended and the answer is `TimedOut`. A step lives only as long as the
        srun that started it, so nothing outlives the request.

        Raises:
            BadRequest: The job is not running, or the command failed: with the words of either.
            Forbidden: The job is another user's.
        """
        try:
            await self._commands.attach(principal, JobId.parse(job_id), command)
        finally:
            self._past.forget(principal.username)

    async def nodes(self, principal: Principal) -> tuple[Node, ...]:
        """List the nodes."""
        return await self._commands.nodes(principal)

    async def partitions(self, principal: Principal, *, show_hidden: bool = False) -> tuple[Partition, ...]:
        """List the partitions."""
        return await self._commands.partitions(principal, show_hidden=show_hidden)

    async def reservations(self, principal: Principal) -> tuple[Reservation, ...]:
        """List the reservations."""
        return await self._commands.reservations(principal)

    async def accounts(self, principal: Principal) -> tuple[Account, ...] | None:
        """List the user's accounts; None where there is no accounting database, or where it does not answer."""
        return await self._commands.accounts(principal)

    async def ping(self, principal: Principal) -> None:
        """Ask the controllers."""
        await self._commands.ping(principal)

    async def installed_version(self, principal: Principal) -> str | None:
        """Ask the commands, or slurmrestd where there are none."""
        return await self._commands.installed_version(principal)

    async def close(self) -> None:
        """Close the connections to slurmrestd."""
        if isinstance(self._commands, Rest):
            await self._commands.close()

    async def _find(self, principal: Principal, job_id: JobId) -> tuple[list[Record], tuple[str, ...]]:
        records, missing, _ = await self._both(principal, Selection(ids=(job_id,)))
        return [record for record in records if job_id.matches(record.job.job_id, record.raw)], missing

    async def _both(self, principal: Principal, selection: Selection) -> tuple[list[Record], tuple[str, ...], float]:
        """Return the selected jobs of both sources, the names of those that did not answer, and the age of the answer.

        Raises:
            GatewayError: Neither answered; the controller's own error.
        """
        live, history, age = await self._ask_both(principal, selection)
        if isinstance(live, GatewayError) and not isinstance(live, _DEGRADES):
            raise live
        missing = []
        if isinstance(live, GatewayError):
            if isinstance(history, GatewayError | NoHistory):
                raise live
            _log.warning("slurm.degraded", system=self.system, missing="live", error=live.message)
            missing.append("live")
            live = []
        if isinstance(history, GatewayError):
            _log.warning("slurm.degraded", system=self.system, missing="history", error=history.message)
            missing.append("history")
        past = history if isinstance(history, list) else []
        now = await self._settled(principal, live if isinstance(live, list) else [], past)
        return merged(now, past), tuple(missing), age

    async def _ask_both(
        self, principal: Principal, selection: Selection
    ) -> tuple[list[Record] | GatewayError | NoHistory, list[Record] | GatewayError | NoHistory, float]:
        """Ask the controller, and the database at the same time unless what it said last may hold."""
        asker = who(principal)
        asking_live = _answer(self._commands.live(principal, selection))
        if self._past.known(asker, selection):
            live = await asking_live
            if isinstance(live, list) and (kept := self._past.get(asker, selection, live)) is not None:
                return live, *kept
            history = await _answer(self._commands.history(principal, selection))
        else:
            async with asyncio.TaskGroup() as group:
                first = group.create_task(asking_live)
                second = group.create_task(_answer(self._commands.history(principal, selection)))
            live, history = first.result(), second.result()
        if isinstance(live, list) and isinstance(history, list):
            self._past.put(asker, selection, live, history)
        return live, history, 0.0

    async def _settled(self, principal: Principal, live: list[Record], past: list[Record]) -> list[Record]:
        """Complete what the controller says, where the history does not say it: exit status, name of the cluster."""
        ended = {record.raw for record in past if record.ended and record.whole}
        unsettled = tuple(JobId(record.raw) for record in live if record.ended and record.raw not in ended)
        exits: dict[str, tuple[int | None, int | None]] = {}
        if unsettled:
            answer = await _answer(self._commands.exits(principal, Selection(ids=unsettled)))
            exits = answer if isinstance(answer, dict) else {}
        nameless = any(not record.job.cluster for record in live)
        cluster = await self._commands.cluster(principal) if nameless else ""
        return [_complete(record, cluster, exits.get(record.raw) if record.ended else None) for record in live]


def _complete(record: Record, cluster: str, exits: tuple[int | None, int | None] | None) -> Record:
    job = record.job
    if exits is not None:
        job = replace(job, status=replace(job.status, exit_code=exits[0], interrupt_signal=exits[1]))
    return replace(record, job=replace(job, cluster=job.cluster or cluster))


async def _answer(asked: Coroutine[Any, Any, Answer]) -> Answer | GatewayError | NoHistory:
    """Return the answer, or the error: a task group would wrap it."""
    try:
        return await asked
    except (GatewayError, NoHistory) as error:
        return error


def _plain(account: str | None) -> bool:
    """Return whether a name can stand in one of Slurm's comma-separated lists as it is."""
    return account is not None and account.replace("-", "").replace("_", "").replace(".", "").isalnum()
