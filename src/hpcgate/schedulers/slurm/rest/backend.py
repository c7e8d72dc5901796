"""Slurm by slurmrestd, and by slurmrestd together with commands on the login node."""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import quote

import structlog

from hpcgate.auth import Principal
from hpcgate.errors import (
    CommandFailed,
    Forbidden,
    GatewayError,
    NotSupported,
    SchedulerUnavailable,
    SubmissionRefused,
    TimedOut,
)
from hpcgate.outbound.wording import clipped
from hpcgate.schedulers.base import (
    Account,
    Job,
    JobDescription,
    JobMetadata,
    JobStatus,
    Node,
    Partition,
    Reservation,
)
from hpcgate.schedulers.dry_run import DryRun
from hpcgate.schedulers.once import Submitted
from hpcgate.schedulers.reading import Findings
from hpcgate.schedulers.slurm import sbatch
from hpcgate.schedulers.slurm.command_line import NO_ACCOUNTING_REMEMBERED, CommandLine, NoHistory
from hpcgate.schedulers.slurm.controls import Controls, EitherControls
from hpcgate.schedulers.slurm.failures import NO_ACCOUNTING, says
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.records import Record, Selection
from hpcgate.schedulers.slurm.rest import cancellation, cluster, history, jobs, submission, values
from hpcgate.schedulers.slurm.rest.client import RestClient
from hpcgate.schedulers.slurm.rest.control import RestControls
from hpcgate.schedulers.slurm.rest.problems import (
    NOTHING_FOUND,
    UNKNOWN_JOB,
    Unclear,
    failure,
    numbers,
    problems,
    words,
)
from hpcgate.schedulers.slurm.rest.versions import api_version
from hpcgate.schedulers.slurm.scancel import Outcome
from hpcgate.schedulers.slurm.settings import SlurmSettings
from hpcgate.schedulers.slurm.states import ENDED
from hpcgate.schedulers.slurm.version import release
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.runner import Completed
from hpcgate.ssh.session import Session

_log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

_PATH = re.compile(r"/slurm/v0\.0\.(\d{1,4})/")

SINGLY = 16
"""Up to so many jobs are asked for one by one; for more the whole listing is read."""


@dataclass(slots=True)
class _Database:
    """What has been answered to one user of the accounting database; what makes it answer so may be the user's doing.

    Attributes:
        no_history_until: Until when there is none to be asked, on the event loop's clock.
        states: Whether it takes states in the query of a listing.
    """

    no_history_until: float = 0.0
    states: bool = True


class Rest:
    """Slurm by the endpoints of slurmrestd.

    It cannot run a command in a job's allocation, tell a job's script, or submit a script that lies on the cluster:
    these answer `NotSupported`.
    """

    def __init__(self, system: str, settings: SlurmSettings, pool: Pool) -> None:
        """Keep the settings, which have ``api_url`` and ``api_version``, and the pool; nothing is opened."""
        self.system = system
        self._settings = settings
        self._pool = pool
        self.version = api_version(settings.api_version or "")
        self.client = RestClient(system, settings.api_url or "", self.version, settings.timeout)
        self._cluster = ""
        self._findings = Findings(_Database)
        self.control: Controls = RestControls(self.client)

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    async def submit(self, principal: Principal, job: JobDescription) -> Submitted:
        """Submit a job, and return what Slurm warns of. The script's directives become fields of the request.

        Raises:
            NotSupported: The script lies on the cluster, or has a directive that a request cannot carry.
            SubmissionRefused: With Slurm's own words, or the working directory cannot be entered.
        """
        return await self._post(principal, job, submission.body(job, principal.username, self.version))

    async def dry_run(self, principal: Principal, job: JobDescription) -> DryRun:
        """Return the request that would be sent: slurmrestd cannot be asked what would become of it."""
        body = submission.body(job, principal.username, self.version)
        fields = {name: value for name, value in body["job"].items() if name != "environment"}
        return DryRun(job.script, tuple(f"{name}={json.dumps(value)}" for name, value in fields.items()))

    async def _post(self, principal: Principal, job: JobDescription, body: Mapping[str, Any]) -> Submitted:
        """Submit a job once its working directory is seen to exist.

        slurmrestd takes any directory, and a job that cannot enter its own runs in /tmp, or fails without a word. So
        the login node is asked, as it is where jobs are submitted there; one that does not answer keeps nobody from
        submitting.
        """

        async def work(session: Session) -> Completed:
            return await session.run(sbatch.entering_command(job.working_directory), timeout=self._settings.timeout)

        try:
            done = await self._pool.perform(principal, work, retry=True)
        except GatewayError as error:
            _log.warning("slurm.directory_unknown", system=self.system, words=clipped(error.message, 400))
        else:
            if done.exit_status == sbatch.NO_DIRECTORY:
                raise SubmissionRefused(done.stdout.decode("utf-8", "replace").strip())
        return await self.client.controller(principal, "POST", "job/submit", submission.submitted, body=body)

    async def live(self, principal: Principal, selection: Selection) -> list[Record]:
        """Return the selected jobs that the controller knows, ended ones that it still remembers included.

        No version has a listing of one user's jobs: all that the user may see are read, and sorted out here.
        """
        # Of an array always the whole: v0.0.38 knows no task by its id, and later ones answer with all of them.
        ids = tuple(dict.fromkeys(quote(job_id.base, safe="") for job_id in selection.ids or ()))
        if selection.ids is None or len(ids) > SINGLY:

            def listed(status: int, answer: Any) -> list[Record]:
                found = [] if status == 304 else jobs.parse(_checked(status, answer, "jobs"), selection)
                if selection.ids is None:
                    return found
                return [record for record in found if _among(record, selection.ids)]

            query = {"flags": "ALL"} if self.version.listing_flags else None
            records = await self.client.controller(principal, "GET", "jobs", listed, query=query)
        else:

            def one(status: int, answer: Any) -> list[Record]:
                if status != 200 and _unknown(answer):
                    return []
                found = jobs.parse(_checked(status, answer, "jobs"), selection)
                return [record for record in found if _among(record, selection.ids or ())]

            records = await _each(ids, lambda path: self.client.controller(principal, "GET", f"job/{path}", one))
        self._cluster = next((record.job.cluster for record in records if record.job.cluster), self._cluster)
        return records

    async def history(self, principal: Principal, selection: Selection) -> list[Record]:
        """Return the selected jobs of the accounting database.

        From v0.0.39 on the database itself chooses by user. For v0.0.38 it cannot: then everybody's jobs of the time
        window are read, of the one account if one is asked for, and sorted out here.

        Raises:
            NoHistory: The site has none.
        """
        clock = asyncio.get_running_loop().time
        found = self._findings.of(principal)
        if clock() < found.no_history_until:
            raise NoHistory

        def parse(status: int, answer: Any) -> list[Record]:
            if _no_accounting(status, answer):
                raise NoHistory
            return history.parse(_checked(status, answer, "jobs", NOTHING_FOUND), selection)

        try:
            if selection.ids is not None:
                paths = tuple(dict.fromkeys(job_path(job_id) for job_id in selection.ids))
                return await _each(paths, lambda path: self.client.database(principal, f"job/{path}", parse))
            return await self._listed(principal, selection, parse)
        except NoHistory:
            found.no_history_until = clock() + NO_ACCOUNTING_REMEMBERED
            raise

    async def _listed(
        self, principal: Principal, selection: Selection, parse: Callable[[int, Any], list[Record]]
    ) -> list[Record]:
        """List the history by states; a slurmrestd that cannot read them is asked without from then on."""
        refusal = None
        found = self._findings.of(principal)
        if found.states:
            try:
                query = history.query(selection, self.version)
                return await self.client.database(principal, "jobs", parse, query=query)
            except CommandFailed as error:
                if isinstance(error, Unclear):
                    raise
                refusal = error
        query = history.query(selection, self.version, states=False)
        records = await self.client.database(principal, "jobs", parse, query=query)
        if refusal is not None:
            found.states = False
            _log.warning("slurm.states_refused", system=self.system, words=clipped(refusal.message, 400))
        return records

    async def cluster(self, principal: Principal) -> str:
        """Return the cluster's name, which jobs tell; the system's name until one did."""
        return self._cluster or self.system

    async def exits(self, principal: Principal, selection: Selection) -> dict[str, tuple[int | None, int | None]]:
        """Return nothing: the jobs themselves tell how they ended."""
        return {}

    async def metadata(self, principal: Principal, records: Sequence[Record]) -> tuple[JobMetadata, ...]:
        """Refuse.

        Raises:
            NotSupported: Always.
        """
        raise NotSupported("The metadata of jobs is not supported over slurmrestd (connection_mode: rest)")

    async def cancel(self, principal: Principal, job_id: JobId) -> Outcome:
        """Cancel a job and return what became of it; of several array tasks each by itself.

        Raises:
            Forbidden: It is another user's.
        """
        outcomes = await _each(
            tuple(quote(path, safe="") for path in cancelled_ids(job_id)),
            lambda path: self.client.controller(principal, "DELETE", f"job/{path}", _outcomes),
        )
        for outcome, said in outcomes:
            if outcome is Outcome.FORBIDDEN:
                raise Forbidden(said)
        found = {outcome for outcome, _ in outcomes}
        return next((one for one in (Outcome.CANCELLED, Outcome.ENDED) if one in found), Outcome.UNKNOWN)

    async def attach(self, principal: Principal, job_id: JobId, shell_command: str) -> None:
        """Refuse.

        Raises:
            NotSupported: Always.
        """
        raise NotSupported("Attaching a command to a job is not supported over slurmrestd (connection_mode: rest)")

    async def nodes(self, principal: Principal) -> tuple[Node, ...]:
        """List the nodes."""

        def parse(status: int, answer: Any) -> tuple[Node, ...]:
            return cluster.nodes(_checked(status, answer, "nodes"))

        return await self.client.controller(principal, "GET", "nodes", parse)

    async def partitions(self, principal: Principal, *, show_hidden: bool) -> tuple[Partition, ...]:
        """List the partitions. Before v0.0.42 those are hidden here that are flagged so."""

        def parse(status: int, answer: Any) -> tuple[Partition, ...]:
            return cluster.partitions(_checked(status, answer, "partitions"), show_hidden=show_hidden)

        query = {"flags": "ALL"} if show_hidden and self.version.listing_flags else None
        return await self.client.controller(principal, "GET", "partitions", parse, query=query)

    async def reservations(self, principal: Principal) -> tuple[Reservation, ...]:
        """List the reservations."""

        def parse(status: int, answer: Any) -> tuple[Reservation, ...]:
            return cluster.reservations(_checked(status, answer, "reservations"))

        return await self.client.controller(principal, "GET", "reservations", parse)

    async def accounts(self, principal: Principal) -> tuple[Account, ...] | None:
        """List the user's accounts; None where there is no slurmdbd, or none that answers."""

        def parse(status: int, answer: Any) -> tuple[Account, ...] | None:
            if _no_accounting(status, answer):
                return None
            return cluster.accounts(_checked(status, answer, "associations", NOTHING_FOUND), principal.username)

        try:
            return await self.client.database(principal, "associations", parse, query={"user": principal.username})
        except (SchedulerUnavailable, TimedOut, CommandFailed) as error:
            _log.warning("slurm.accounts_unavailable", system=self.system, words=clipped(error.message, 400))
            return None

    async def ping(self, principal: Principal) -> None:
        """Return if at least one controller is up."""

        def parse(status: int, answer: Any) -> None:
            up, said = cluster.controllers(_checked(status, answer, "pings"))
            if up:
                return
            if "Protocol authentication error" in said:
                raise Forbidden(f"Slurm does not accept the token: {said}")
            raise SchedulerUnavailable(said or "slurmrestd names no controller")

        await self.client.controller(principal, "GET", "ping", parse)

    async def offered(self, principal: Principal) -> tuple[str, ...]:
        """Return the data versions that slurmrestd says that it offers, the oldest first; none if it does not say."""

        def parse(status: int, answer: Any) -> tuple[str, ...]:
            if status != 200:
                raise failure(status, answer)
            found = {match[1] for path in values.row(values.row(answer).get("paths")) if (match := _PATH.match(path))}
            return tuple(f"0.0.{number}" for number in sorted(map(int, found)))

        return await self.client.ask(principal, "GET", "openapi/v3", parse)

    async def installed_version(self, principal: Principal) -> str | None:
        """Return the release of slurmrestd."""

        def parse(status: int, answer: Any) -> str | None:
            meta = values.row(values.row(answer).get("meta"))
            return release(values.row(meta.get("slurm", meta.get("Slurm"))).get("release"))

        return await self.client.controller(principal, "GET", "ping", parse)


class Hybrid(Rest):
    """Slurm by slurmrestd, and by commands on the login node for what slurmrestd cannot do."""

    def __init__(self, system: str, settings: SlurmSettings, pool: Pool) -> None:
        """Keep the settings and the pool; nothing is opened."""
        super().__init__(system, settings, pool)
        self.commands = CommandLine(system, settings, pool)
        self.control = EitherControls(self.control, self.commands.control)

    async def dry_run(self, principal: Principal, job: JobDescription) -> DryRun:
        """Return what sbatch expects of a job."""
        return await self.commands.dry_run(principal, job)

    async def submit(self, principal: Principal, job: JobDescription) -> Submitted:
        """Submit by slurmrestd; by sbatch what a request cannot carry. The one or the other, never both."""
        try:
            body = submission.body(job, principal.username, self.version)
        except NotSupported:
            return await self.commands.submit(principal, job)
        return await self._post(principal, job, body)

    async def history(self, principal: Principal, selection: Selection) -> list[Record]:
        """Return the selected jobs of the accounting database; how they ended by sacct where slurmrestd cannot tell.

        slurmrestd is asked for each job by itself; sacct is asked for all together.
        """
        if selection.ids is not None and len(selection.ids) > SINGLY:
            return await self.commands.history(principal, selection)
        records = await super().history(principal, selection)
        unknown = tuple(JobId(record.raw) for record in records if _ended_somehow(record))
        if not unknown:
            return records
        asked = Selection(ids=unknown) if len(unknown) <= MAX_IDS else selection
        try:
            known = await self.commands.history(principal, asked)
        except (GatewayError, NoHistory):
            return records
        found = {(record.raw, record.submitted): record.job for record in known}
        return [_as_ended(record, found.get((record.raw, record.submitted))) for record in records]

    async def metadata(self, principal: Principal, records: Sequence[Record]) -> tuple[JobMetadata, ...]:
        """Return what was submitted, by commands."""
        return await self.commands.metadata(principal, records)

    async def attach(self, principal: Principal, job_id: JobId, shell_command: str) -> None:
        """Run a shell command as a step, by srun."""
        await self.commands.attach(principal, job_id, shell_command)


MAX_IDS = 100
"""Up to so many jobs sacct is asked for by id; for more it is asked for the same as slurmrestd."""


def _ended_somehow(record: Record) -> bool:
    """Return whether it is not told how a job, or a step of it, has ended."""
    ends = [record.job.status, *(task.status for task in record.job.tasks or ())]
    return any(status.state in ENDED and status.exit_code is None for status in ends)


def _as_ended(record: Record, known: Job | None) -> Record:
    """Return the record with the exit statuses that are known of the same job, where it has none itself."""
    if known is None:
        return record
    steps = {task.id: task.status for task in known.tasks or ()}
    tasks = tuple(replace(task, status=_or_known(task.status, steps.get(task.id))) for task in record.job.tasks or ())
    job = replace(record.job, status=_or_known(record.job.status, known.status), tasks=tasks or record.job.tasks)
    return replace(record, job=job)


def _or_known(status: JobStatus, known: JobStatus | None) -> JobStatus:
    if status.exit_code is not None or known is None or known.state != status.state:
        return status
    return replace(status, exit_code=known.exit_code, interrupt_signal=known.interrupt_signal)


def job_path(job_id: JobId) -> str:
    """Return a job's id for a path, quoted: of one component the whole job, of several array tasks the whole array."""
    return quote(job_id.base if job_id.offset is not None else job_id.argument, safe="")


MAX_TASKS = 1000
"""Most array tasks that are cancelled by one request each."""


def cancelled_ids(job_id: JobId) -> tuple[str, ...]:
    """Return the ids to cancel: a path names one job, one array or one task of it.

    Raises:
        NotSupported: More tasks than are cancelled one by one.
    """
    if job_id.tasks is None or job_id.task is not None:
        return (job_id.argument,)
    if sum(len(tasks) for tasks in job_id.tasks) > MAX_TASKS:
        raise NotSupported(f"Cancelling more than {MAX_TASKS} tasks of an array is not supported over slurmrestd")
    return tuple(f"{job_id.base}_{task}" for tasks in job_id.tasks for task in tasks)


def _among(record: Record, ids: Sequence[JobId]) -> bool:
    return any(job_id.matches(record.job.job_id, record.raw) for job_id in ids)


def _outcomes(status: int, answer: Any) -> list[tuple[Outcome, str]]:
    return [cancellation.outcome(status, answer)]


def _unknown(answer: Any) -> bool:
    met = numbers(problems(answer))
    return bool(met) and met <= UNKNOWN_JOB


def _checked(status: int, answer: Any, name: str, fine: frozenset[int] = frozenset()) -> Any:
    """Return an answer that has what was asked for; one whose errors are all fine has nothing.

    Raises:
        GatewayError: It is a failure, be it with status 200.
    """
    met = numbers(problems(answer))
    if met and met <= fine:
        return {}
    if status == 200 and not met and isinstance(values.row(answer).get(name), list):
        return answer
    if status == 404 and not met:
        raise CommandFailed(f"slurmrestd does not know the path; check api_version: {clipped(str(answer), 200)}")
    raise failure(status, answer)


def _no_accounting(status: int, answer: Any) -> bool:
    """Return whether the site has no slurmdbd: its paths do not exist, or the answer names another storage."""
    if status == 404 and not problems(answer):
        return True
    storage = values.row(values.row(values.row(answer).get("meta")).get("plugin")).get("accounting_storage")
    if isinstance(storage, str) and storage and storage != "accounting_storage/slurmdbd":
        return True
    return says(words(problems(answer)), NO_ACCOUNTING)


async def _each(paths: Sequence[str], ask: Callable[[str], Coroutine[Any, Any, list[Answer]]]) -> list[Answer]:
    """Ask for each path at the same time and return all answers; the first error ends it."""
    if len(paths) == 1:
        return await ask(paths[0])

    async def caught(path: str) -> list[Answer] | GatewayError | NoHistory:
        try:
            return await ask(path)
        except (GatewayError, NoHistory) as error:
            return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(caught(path)) for path in paths]
    found: list[Answer] = []
    for task in tasks:
        result = task.result()
        if isinstance(result, GatewayError | NoHistory):
            raise result
        found += result
    return found
