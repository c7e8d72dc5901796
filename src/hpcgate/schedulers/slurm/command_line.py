"""Slurm by its commands on the login node, run as the user."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

import structlog

from hpcgate.auth import Principal
from hpcgate.errors import (
    BadAnswer,
    BadRequest,
    CommandFailed,
    Conflict,
    Forbidden,
    GatewayError,
    JobNotFound,
    SchedulerUnavailable,
    SubmissionRefused,
    TimedOut,
)
from hpcgate.outbound.wording import clipped
from hpcgate.schedulers.base import Account, Allocation, JobDescription, JobMetadata, Node, Partition, Reservation
from hpcgate.schedulers.bulk import Commands, Plain
from hpcgate.schedulers.dry_run import DryRun
from hpcgate.schedulers.many import Command, not_begun
from hpcgate.schedulers.once import Doubt, Submitted
from hpcgate.schedulers.reading import Findings, Reader
from hpcgate.schedulers.scripts import Scripts
from hpcgate.schedulers.slurm import assoc_mgr, sacct, sacctmgr, sbatch, scancel, scontrol, squeue, srun
from hpcgate.schedulers.slurm.controls import CommandControls, Controls
from hpcgate.schedulers.slurm.delimiters import new_mark
from hpcgate.schedulers.slurm.doubts import Doubts
from hpcgate.schedulers.slurm.failures import (
    BROKEN,
    BUSY,
    DENIED,
    IN_DOUBT,
    NO_ACCOUNTING,
    NOT_RUN,
    OVER_LIMIT,
    TRANSIENT,
    UNKNOWN_JOB,
    UNREACHABLE,
    UNSURE,
    broken_off,
    failure,
    no_list,
    refused,
    says,
    unreadable,
)
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.records import Record, Selection
from hpcgate.schedulers.slurm.settings import SlurmSettings
from hpcgate.schedulers.slurm.streams import StreamNames, expanded, first_node
from hpcgate.schedulers.slurm.variables import ASKING
from hpcgate.schedulers.slurm.version import release, version
from hpcgate.schedulers.submitting import Printed, run_submission
from hpcgate.ssh.commands.quoting import Argv, called
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.runner import Completed
from hpcgate.ssh.session import Session

_log = structlog.get_logger(__name__)

NO_ACCOUNTING_REMEMBERED = 600.0
"""Seconds for which a site without slurmdbd is not asked for its history again."""


DOUBT = 30.0
"""Seconds for which a controller that did not answer is first asked by ping, which says so at once.

Other commands try for as long as slurm.conf's MessageTimeout, 10 s by default, before they give up.
"""


MAX_IDS = 1000
"""Ids on one command line: of 11 characters at most with a comma, where `hpcgate.ssh.commands.quoting` has 120 KiB."""

_SLACK = 3600
"""Seconds by which the clocks of login node and database may differ when a job is looked for in the history."""

_LINGER = 1.0
"""Seconds for sbatch to end once it has printed the id: after that it waits for the job (``--wait``)."""

Ran = TypeVar("Ran", Completed, Printed)


Parsed = TypeVar("Parsed")


@dataclass(slots=True)
class _Cluster:
    """What one user's commands have said of the cluster.

    Attributes:
        name: The name of the cluster, empty until it is known.
        no_history_until: Until when there is no accounting to be asked, on the event loop's clock.
    """

    name: str = ""
    no_history_until: float = 0.0


class NoHistory(Exception):
    """The site keeps no accounting: nothing is missing, there is just no history."""


class CommandLine:
    """The client of one system. Its methods raise what `hpcgate.schedulers.base.Scheduler` says."""

    def __init__(self, system: str, settings: SlurmSettings, pool: Pool) -> None:
        self.system = system
        self.settings = settings
        self.pool = pool
        self.version = version(settings.version)
        self._reader = Reader()
        self._findings = Findings(_Cluster)
        self._doubts = Doubts(DOUBT)
        self.control: Controls = CommandControls(self._run)
        self.many = Commands(pool, settings.timeout, settings.environment, settings.bulk_at_once)

    async def _run(
        self,
        principal: Principal,
        argv: Argv,
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        retry: bool = True,
        controller: bool = True,
    ) -> Completed:
        """Run a command.

        Args:
            principal: Whose.
            argv: The command.
            stdin: What it reads.
            env: Environment variables for it.
            retry: For one that only reads: run it again if the connection was found dead.
            controller: Whether it asks slurmctld, whose silence is then remembered for `DOUBT`.

        Raises:
            SchedulerUnavailable: The controller was silent a moment ago and still is.
        """

        variables = {**self.settings.environment, **(env or {})}

        async def work(session: Session) -> Completed:
            return await session.run(argv, stdin=stdin, timeout=self.settings.timeout, env=variables, without=ASKING)

        return await self._perform(principal, work, retry=retry, controller=controller)

    async def _perform(
        self,
        principal: Principal,
        work: Callable[[Session], Awaitable[Ran]],
        *,
        retry: bool,
        controller: bool = True,
    ) -> Ran:
        """Do the work on a session, and remember for `DOUBT` that slurmctld was silent."""
        if controller and self._doubts.hold(principal.username):
            await self.ping(principal)
        try:
            done = await self.pool.perform(principal, work, retry=retry)
        except TimedOut:
            if controller:
                self._doubts.begin(principal.username)
            raise
        if controller:
            words = done.words if isinstance(done, Completed) else done.text
            timed_out = isinstance(done, Printed) and done.timed_out
            silent = timed_out or (done.exit_status != 0 and says(words, UNREACHABLE))
            (self._doubts.begin if silent else self._doubts.end)(principal.username)
        return done

    async def _queue(self, principal: Principal, mark: str) -> str:
        """Return the user's jobs as `sbatch.parse_queue` reads them."""
        done = await self._run(principal, sbatch.queue_command(principal.username, mark), env=squeue.ENVIRONMENT)
        if not done.ok:
            raise failure(done, mark)
        if not squeue.answers(done.stdout, mark):
            raise no_list(done)
        if not squeue.whole(done.stdout, mark):
            raise broken_off(done)
        return _text(done.stdout)

    async def _parsed(
        self,
        principal: Principal,
        argv: Argv,
        parse: Callable[[str], Parsed],
        *,
        env: Mapping[str, str] | None = None,
    ) -> Parsed:
        """Run a command that only reads, and return what `parse` makes of what it printed."""
        done = await self._run(principal, argv, env=env)
        if not done.ok:
            raise failure(done)
        return await self._reader.read(principal, called(argv), done.stdout, lambda output: parse(_text(output)))

    async def submit(self, principal: Principal, job: JobDescription) -> Submitted:
        """Submit a job and return its id, and what sbatch has said besides.

        Raises:
            SubmissionRefused: With what was printed.
            SchedulerUnavailable: Nothing was submitted: the controller is down, or takes no more jobs now.
            TimedOut: Nobody knows whether the job was submitted.
            Conflict: It was submitted, and its id cannot be told.
        """
        tag = sbatch.Tag.new()
        argv, stdin = sbatch.command(job, tag, tagged=self.settings.tag_jobs), sbatch.stdin(job)
        printed = await self._run_submission(principal, argv, stdin, tag)
        return await self._concluded(principal, job, tag, printed)

    # What `hpcgate.schedulers.bulk` asks of a scheduler's commands.

    async def plain(self, principal: Principal, job: JobDescription, scripts: Scripts) -> Plain | None:
        """Return the submission of a job; None if sbatch may wait for the job's end."""
        if job.script is not None and sbatch.waits(job.script):
            return None
        tag = sbatch.Tag.new()
        return Plain(
            sbatch.many_command(job, tag, tagged=self.settings.tag_jobs),
            sbatch.script_of(job),
            lambda printed: self._concluded(principal, job, tag, printed),
        )

    async def cancel_many(self, principal: Principal, ids: Sequence[JobId]) -> list[scancel.Outcome | GatewayError]:
        """Cancel jobs and return what became of each."""
        many = [Command(scancel.command(job_id)) for job_id in ids]
        found: list[scancel.Outcome | GatewayError] = []
        for command, printed in zip(many, await self.many.run(principal, many, ASKING), strict=True):
            if printed is None:
                found.append(not_begun())
            elif printed.exit_status is None:
                found.append(TimedOut("Command scancel timed out"))
            else:
                found.append(
                    _cancelled(Completed(tuple(command.argv), printed.exit_status, b"", printed.text.encode()))
                )
        return found

    async def _concluded(
        self, principal: Principal, job: JobDescription, tag: sbatch.Tag, printed: Printed
    ) -> Submitted:
        """Return a job from what was printed about it; raises what `submit` does."""
        said = sbatch.parse(printed.text, tag)
        return Submitted(await self._submitted(principal, job, tag, printed, said), warnings=said.remarks)

    async def dry_run(self, principal: Principal, job: JobDescription) -> DryRun:
        """Return what sbatch expects of a job; what a script in its place does is not tried."""
        tag = sbatch.Tag.new()
        argv, stdin = sbatch.test_command(job, tag), sbatch.stdin(job)
        printed = await self._run_submission(principal, argv, stdin, tag, env=sbatch.TEST_ENVIRONMENT)
        if printed.exit_status == sbatch.NO_PROGRAM:
            return DryRun(job.script, sbatch.options(job))
        said = sbatch.parse(printed.text, tag)
        if printed.exit_status == 0:
            return sbatch.parse_test(said, job)
        if printed.timed_out:
            raise TimedOut(f"Command sbatch --test-only timed out: {said.words}".rstrip(": "))
        raise _refusal(printed, said) or SubmissionRefused(said.words or "sbatch --test-only printed nothing")

    async def _submitted(
        self, principal: Principal, job: JobDescription, tag: sbatch.Tag, printed: Printed, said: sbatch.Said
    ) -> str:
        foreign = await self._elsewhere(principal, said)
        if not foreign and said.program and printed.exit_status in (0, None) and len(said.jobs) == 1:
            return said.jobs[0][0]
        refusal = _refusal(printed, said)
        killed, tagged = _killed(printed), self.settings.tag_jobs
        refused = isinstance(refusal, BadRequest | Forbidden | SchedulerUnavailable) and printed.exit_status is not None
        if refused and not foreign and not said.jobs:
            if refusal is not None and not killed and (said.program or not said.began or not tagged):
                raise refusal
            # Others may fail after the job is in. They do not claim that it is, so the tag alone counts.
            said = replace(said, since=None)
        found = await self._tagged(principal, job, said, tag)
        if isinstance(found, str):
            return found
        if foreign:
            raise await self._refused_elsewhere(principal, *foreign)
        if isinstance(found, GatewayError) and len(said.jobs) == 1 and printed.exit_status in (0, None):
            return said.jobs[0][0]
        if killed and (isinstance(found, GatewayError) or not tagged):
            raise TimedOut(
                f"sbatch was killed; the job may have been submitted all the same: {said.words}".rstrip(": ")
            )
        if refusal is not None and not (
            type(refusal) is SubmissionRefused and isinstance(found, GatewayError) and said.jobs
        ):
            raise refusal
        words = said.words or "sbatch printed nothing"
        if isinstance(found, GatewayError) or said.jobs or "submitted" in words.lower():
            raise Conflict(f"The job may have been submitted, but its id cannot be told; look at your jobs: {words}")
        raise SubmissionRefused(words)

    # What `hpcgate.schedulers.once` asks of a scheduler's commands.

    async def prepared(self, principal: Principal, job: JobDescription, mark: str) -> tuple[Argv, bytes]:
        """Return the command that submits a job with a mark, and its input."""
        script = await self._head(principal, job, Scripts())
        return sbatch.command(job, sbatch.Tag.marked(mark), script=script), sbatch.stdin(job)

    async def prepared_among_many(
        self, principal: Principal, job: JobDescription, mark: str, scripts: Scripts
    ) -> tuple[Argv, bytes]:
        """Return what does the same behind `sbatch.PRELUDE`."""
        script = await self._head(principal, job, scripts)
        return sbatch.many_command(job, sbatch.Tag.marked(mark), script=script), sbatch.script_of(job)

    async def _head(self, principal: Principal, job: JobDescription, scripts: Scripts) -> str | None:
        if job.script_path is None:
            return None

        async def read() -> bytes:
            # What cannot be read here sbatch cannot read either, and says so.
            done = await self._run(principal, sbatch.head_command(job), controller=False)
            return done.stdout

        return _text(await scripts.get(job.script_path, read))

    async def judged(self, principal: Principal, mark: str, printed: Printed) -> str | GatewayError | Doubt:
        """Return what sbatch has said of a submission."""
        said = sbatch.parse(printed.text, sbatch.Tag.marked(mark))
        foreign = await self._elsewhere(principal, said)
        if foreign:
            return await self._refused_elsewhere(principal, *foreign)
        if said.program and printed.exit_status in (0, None) and len(said.jobs) == 1:
            return said.jobs[0][0]
        claims = bool(said.jobs) or (printed.exit_status == 0 and said.began)
        # A script in sbatch's place may fail after the job is in, and a shell may be killed before it says so.
        certain = printed.exit_status is not None and not _killed(printed) and (said.program or not said.began)
        certain = certain and not says(said.words, IN_DOUBT)
        refusal = _refusal(printed, said) if certain and not claims else None
        if isinstance(refusal, BadRequest | Forbidden | SchedulerUnavailable):
            return refusal
        return Doubt(said.words, claims)

    def remarks(self, mark: str, text: str) -> tuple[str, ...]:
        """Return what sbatch has said of a job that it has submitted."""
        return sbatch.parse(text, sbatch.Tag.marked(mark)).remarks

    async def marked(self, principal: Principal, mark: str, began: float) -> str | None:
        """Return the id of the job with a mark: as the controller knows it, or the database if that may have forgotten.

        Raises:
            Conflict: There is no database, and the controller may have forgotten it.
        """
        column = new_mark()
        text = await self._queue(principal, column)
        if mark in text:
            jobs = sbatch.parse_queue(text, column)
            found = next((job.base for job in jobs if mark in job.comment.split()), None)
            if found is None:
                raise BadAnswer("squeue: the login node's answer makes no sense")
            return found
        kept = await self._parsed(principal, scontrol.CONFIG, scontrol.parse_kept)
        # A job is kept for that long after its end, which was not before the attempt began.
        elapsed = asyncio.get_running_loop().time() - began
        if elapsed < kept:
            return None
        return await self._marked_in_history(principal, mark, int(elapsed))

    async def _marked_in_history(self, principal: Principal, mark: str, elapsed: int) -> str | None:
        told = await self._run(principal, ["sdiag"], retry=True)
        if told.ok and not scontrol.told_all(_text(told.stdout)):
            raise SchedulerUnavailable("The accounting database has not been told all yet")
        column = new_mark()
        selection = Selection(user=principal.username, window=elapsed + _SLACK)
        argv = sacct.command(selection, column, ("JobID", *sacct.NAME_FIELDS[1:]), steps=False)
        done = await self._run(principal, argv, env=sacct.ENVIRONMENT, controller=False)
        if not done.ok:
            if says(done.words, NO_ACCOUNTING):
                raise Conflict("Slurm may have forgotten the job, and keeps no records; look at what it has written")
            raise failure(done)
        if not sacct.answers(done.stdout, column):
            raise no_list(done)
        if not sacct.whole(done.stdout, column):
            raise broken_off(done)
        lines = await self._reader.read(
            principal, "sacct", done.stdout, lambda output: sacct.parse_submit_lines(_text(output), column)
        )
        found = next((shown for shown, line in lines.items() if mark in line), None)
        return None if found is None else JobId.parse(found).base

    async def _run_submission(
        self,
        principal: Principal,
        argv: Argv,
        stdin: bytes,
        tag: sbatch.Tag,
        *,
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> Printed:
        """Run sbatch until it has ended or said enough."""

        def patience(text: str) -> float | None:
            said = sbatch.parse(text, tag)
            if said.program and says(said.words, BUSY):
                return 0
            return None if not said.jobs else _LINGER if said.program else self.settings.timeout / 2

        async def work(session: Session) -> Printed:
            return await run_submission(
                session,
                argv,
                stdin,
                env={**self.settings.environment, **env},
                seconds=self.settings.timeout,
                patience=patience,
            )

        return await self._perform(principal, work, retry=False)

    async def _elsewhere(self, principal: Principal, said: sbatch.Said) -> tuple[str, str] | None:
        """Return id and cluster of a job that went to another cluster than this one."""
        clusters = [(job_id, cluster) for job_id, cluster in said.jobs if cluster is not None]
        if not clusters:
            return None
        here = await self.cluster(principal)
        return next(((job_id, cluster) for job_id, cluster in clusters if cluster != here), None)

    async def _refused_elsewhere(self, principal: Principal, job_id: str, cluster: str) -> SubmissionRefused:
        """Cancel a job that went to another cluster, and return the refusal."""
        done = await self._run(principal, scancel.elsewhere(job_id, cluster), controller=False, retry=False)
        became = "it was cancelled there" if done.ok else f"it could not be cancelled there: {done.words}"
        return SubmissionRefused(
            f"The job was submitted to another cluster, {cluster}, as {job_id}; {became}. A request goes to one cluster"
        )

    async def _tagged(
        self, principal: Principal, job: JobDescription, said: sbatch.Said, tag: sbatch.Tag
    ) -> str | GatewayError | None:
        """Return the id of a job just submitted as the controller knows it, None for none, or why it did not tell."""
        mark = new_mark()
        try:
            text = await self._queue(principal, mark)
        except GatewayError as error:
            return error
        return sbatch.chosen(sbatch.parse_queue(text, mark), said, tag, job)

    async def live(self, principal: Principal, selection: Selection) -> list[Record]:
        """Return the selected jobs that the controller knows, ended ones that it still remembers included."""
        mark = new_mark()
        done = await self._run(principal, squeue.command(selection, mark), env=squeue.ENVIRONMENT)
        if not done.ok:
            if says(done.words, UNKNOWN_JOB) and selection.ids is not None and not squeue.lists(done.stdout, mark):
                return []
            raise failure(done, mark)
        if not squeue.answers(done.stdout, mark):
            raise no_list(done)
        if not squeue.whole(done.stdout, mark):
            raise broken_off(done)
        cluster = self._findings.of(principal).name
        records = await self._reader.read(
            principal, "squeue", done.stdout, lambda output: squeue.parse(_text(output), mark, cluster)
        )
        if not records and squeue.lists(done.stdout, mark):
            raise unreadable(done)
        return records

    async def cluster(self, principal: Principal) -> str:
        """Return the cluster's name, asked for once; the system's name if it cannot be had."""
        known = self._findings.of(principal)
        if not known.name:
            try:
                known.name = await self._parsed(principal, scontrol.CONFIG, scontrol.parse_cluster)
            except (BadAnswer, CommandFailed, SchedulerUnavailable, TimedOut):
                return self.system
        return known.name or self.system

    async def next_id(self, principal: Principal) -> int:
        """Return the id that the controller gives to the next job."""
        return await self._parsed(principal, scontrol.CONFIG, scontrol.parse_next_id)

    async def exits(self, principal: Principal, selection: Selection) -> dict[str, tuple[int | None, int | None]]:
        """Return exit status and signal of jobs that have ended but are not history yet, by raw id."""
        mark = new_mark()
        argv = squeue.exit_command(selection, mark)
        return await self._parsed(principal, argv, lambda text: squeue.parse_exits(text, mark))

    async def history(self, principal: Principal, selection: Selection) -> list[Record]:
        """Return the selected jobs of the accounting database.

        Raises:
            NoHistory: The site has none.
        """
        clock = asyncio.get_running_loop().time
        known = self._findings.of(principal)
        if clock() < known.no_history_until:
            raise NoHistory
        mark = new_mark()
        columns = sacct.columns(selection)
        argv = sacct.command(selection, mark, columns, steps=selection.steps)
        done = await self._run(principal, argv, env=sacct.ENVIRONMENT, controller=False)
        if not done.ok:
            none = done.exit_status in NOT_RUN and not await self._keeps_history(principal)
            if none or says(done.words, NO_ACCOUNTING):
                known.no_history_until = clock() + NO_ACCOUNTING_REMEMBERED
                raise NoHistory
            raise failure(done, mark)
        if not sacct.answers(done.stdout, mark):
            raise no_list(done)
        if not sacct.whole(done.stdout, mark):
            raise broken_off(done)
        records = await self._reader.read(
            principal, "sacct", done.stdout, lambda output: sacct.parse(_text(output), mark, columns)
        )
        if not records and sacct.lists(done.stdout, mark):
            raise unreadable(done)
        if records:
            known.name = records[0].job.cluster or known.name
        return await self._with_quoted_names(principal, records)

    async def _keeps_history(self, principal: Principal) -> bool:
        """Return whether the controller has a database to write to, where sacct cannot be asked."""
        try:
            return await self._parsed(principal, scontrol.CONFIG, scontrol.parse_accounting)
        except (BadAnswer, CommandFailed, SchedulerUnavailable, TimedOut):
            return True

    async def _with_quoted_names(self, principal: Principal, records: list[Record]) -> list[Record]:
        """Give jobs the double quotes back that the database stores as backticks."""
        odd = [record for record in records if "`" in record.job.name]
        if not odd:
            return records
        mark = new_mark()
        lines: dict[str, str] = {}
        for some in _portions([record.raw for record in odd]):
            argv = sacct.command(some, mark, sacct.NAME_FIELDS, steps=False)
            done = await self._run(principal, argv, controller=False)
            if not done.ok:
                break
            lines |= await self._reader.read(
                principal, "sacct", done.stdout, lambda output: sacct.parse_submit_lines(_text(output), mark)
            )
        return [sacct.renamed(record, lines.get(record.raw, "")) for record in records]

    async def metadata(self, principal: Principal, records: Sequence[Record]) -> tuple[JobMetadata, ...]:
        """Return what was submitted, of the jobs given.

        Raises:
            SchedulerUnavailable: The one source that could know the script did not answer.
        """
        streams, alive = await self._streams(principal, records)
        scripts: dict[str, str | None] = {}
        found = []
        for record in records:
            job = record.job
            parsed = JobId.read(job.job_id) or JobId(record.raw)
            if parsed.base not in scripts:
                scripts[parsed.base] = await self._script(principal, record, alive=record.raw in alive)
            batch = _batch(record)
            names = StreamNames(
                raw=batch,
                array=parsed.base if parsed.tasks is not None else None,
                task=parsed.task,
                user=job.user or "",
                name=job.name,
                node=first_node(job.nodes) if job.allocation_nodes else None,
                directory=job.working_directory,
            )
            known = streams.get(batch, (None, None, None))
            found.append(JobMetadata(job.job_id, scripts[parsed.base], *(expanded(path, names) for path in known)))
        return tuple(found)

    async def _streams(
        self, principal: Principal, records: Sequence[Record]
    ) -> tuple[dict[str, tuple[str | None, str | None, str | None]], frozenset[str]]:
        """Return the paths of the standard streams by raw id, and of which jobs the controller knows.

        They are the controller's; the database is asked only for those that it does not know.
        """
        mark = new_mark()
        streams: dict[str, tuple[str | None, str | None, str | None]] = {}
        asked = tuple(dict.fromkeys(raw for record in records for raw in (record.raw, _batch(record))))
        for some in _portions(asked):
            done = await self._run(principal, squeue.streams_command(some, mark))
            if says(done.words, UNREACHABLE):
                break
            if not done.ok:
                # It knows none of these.
                continue
            for live in await self._reader.read(
                principal, "squeue", done.stdout, lambda output: squeue.parse_streams(_text(output), mark)
            ):
                streams[live.raw] = (live.stdin, live.stdout, live.stderr or live.stdout)
        alive = frozenset(streams)
        rest = [raw for raw in asked if raw not in alive]
        fields = sacct.stream_fields(self.version)
        for some in _portions(rest) if fields else ():
            argv = sacct.command(some, mark, fields, steps=False)
            done_past = await self._ask_database(principal, argv)
            if done_past is not None and done_past.ok:
                for row in await self._reader.read(
                    principal, "sacct", done_past.stdout, lambda output: sacct.parse_streams(_text(output), mark)
                ):
                    streams[row.raw] = (row.stdin, row.stdout, row.stderr or row.stdout)
        return streams, alive

    async def _script(self, principal: Principal, record: Record, *, alive: bool) -> str | None:
        """Return a job's script, None if there is none to be had.

        Raises:
            SchedulerUnavailable: Somebody who could have it did not answer.
        """
        done = await self._run(principal, scontrol.script_command(record.raw))
        if done.ok and done.stdout:
            return done.stdout.decode("utf-8", "replace")
        silent = says(done.words, UNREACHABLE)
        past = await self._ask_database(principal, sacct.script_command(_one(record)))
        script = sacct.parse_script(past.stdout, self.version) if past is not None and past.ok else None
        if script is not None:
            return script.decode("utf-8", "replace")
        # The controller has the script of each batch job that it knows.
        if silent:
            raise failure(done)
        if past is not None and not past.ok and not alive and not says(past.words, NO_ACCOUNTING):
            raise SchedulerUnavailable(f"The script cannot be looked up now: {past.words}")
        return None

    async def _ask_database(self, principal: Principal, argv: Sequence[str]) -> Completed | None:
        """Run a command that asks the database; None where there is none."""
        if asyncio.get_running_loop().time() < self._findings.of(principal).no_history_until:
            return None
        try:
            return await self._run(principal, argv, controller=False)
        except TimedOut as error:
            return Completed(tuple(argv), -1, b"", error.message.encode())

    async def cancel(self, principal: Principal, job_id: JobId) -> scancel.Outcome:
        """Cancel a job and return what became of it.

        Raises:
            Forbidden: It is another user's.
        """
        outcome = _cancelled(await self._run(principal, scancel.command(job_id), retry=False))
        if isinstance(outcome, GatewayError):
            raise outcome
        return outcome

    async def attach(self, principal: Principal, job_id: JobId, shell_command: str) -> None:
        """Run a shell command as a step and wait for its end, at most the scheduler's time-out."""
        if "\0" in shell_command:
            raise BadRequest("A command cannot contain a NUL character")
        done = await self._run(principal, srun.command(job_id, shell_command, self.version), retry=False)
        if done.ok:
            return
        words = done.words or f"the command ended with exit status {done.exit_status}"
        if says(words, UNKNOWN_JOB):
            raise JobNotFound(job_id.argument)
        if says(words, UNREACHABLE):
            raise SchedulerUnavailable(words)
        if says(words, DENIED):
            raise Forbidden(words)
        raise BadRequest(words)

    async def nodes(self, principal: Principal) -> tuple[Node, ...]:
        """List the nodes."""
        return await self._parsed(principal, scontrol.NODES, lambda text: scontrol.answered(text, scontrol.parse_nodes))

    async def partitions(self, principal: Principal, *, show_hidden: bool) -> tuple[Partition, ...]:
        """List the partitions."""
        argv = scontrol.partitions_command(show_hidden=show_hidden)
        return await self._parsed(principal, argv, lambda text: scontrol.answered(text, scontrol.parse_partitions))

    async def reservations(self, principal: Principal) -> tuple[Reservation, ...]:
        """List the reservations."""
        return await self._parsed(
            principal,
            scontrol.RESERVATIONS,
            lambda text: scontrol.answered(text, scontrol.parse_reservations),
            env=scontrol.ENVIRONMENT,
        )

    async def accounts(self, principal: Principal) -> tuple[Account, ...] | None:
        """List the user's accounts; None where there is no slurmdbd, none that answers, or no sacctmgr for users."""
        done = await self._run(principal, sacctmgr.command(principal.username), controller=False)
        if done.ok:
            return await self._reader.read(
                principal, "sacctmgr", done.stdout, lambda output: sacctmgr.parse(_text(output))
            )
        words = done.words + done.stdout.decode("utf-8", "replace")
        if not says(words, NO_ACCOUNTING):
            _log.warning("slurm.accounts_unavailable", system=self.system, words=clipped(words, 400))
        return None

    async def allocations(self, principal: Principal) -> tuple[Allocation, ...]:
        """Return how much of the user's accounts is left, as the controller counts it; none without accounting."""
        user = principal.username
        own = await self._parsed(principal, assoc_mgr.command(user=user), assoc_mgr.parse)
        accounts = tuple(dict.fromkeys(one.account for one in own if one.user == user and "," not in one.account))
        if not accounts:
            return ()
        shared = await self._parsed(principal, assoc_mgr.command(accounts=accounts), assoc_mgr.parse)
        return assoc_mgr.allocations(user, own, shared)

    async def ping(self, principal: Principal) -> None:
        """Return if at least one controller is up."""
        done = await self._run(principal, scontrol.PING, controller=False)
        answer = done.stdout.decode("utf-8", "replace")
        if not scontrol.parse_ping(answer):
            raise SchedulerUnavailable(answer.strip() or done.words or "scontrol ping said nothing")

    async def installed_version(self, principal: Principal) -> str | None:
        """Return the release of the commands."""
        done = await self._run(principal, ["sinfo", "--version"], controller=False)
        if not done.ok:
            raise failure(done)
        # ``slurm 22.05.8``, or ``slurm-wlm 22.05.8`` where Debian made it.
        return release(done.stdout.decode("utf-8", "replace").strip().rpartition(" ")[2])


def _cancelled(done: Completed) -> scancel.Outcome | GatewayError:
    """Return what became of a cancellation, or why it failed."""
    outcome = scancel.parse(done.exit_status, done.words)
    if outcome is scancel.Outcome.FORBIDDEN:
        return Forbidden(done.words)
    return refused(done) if outcome is scancel.Outcome.FAILED else outcome


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")


def _batch(record: Record) -> str:
    """Return the raw id of the job whose batch script writes: of a heterogeneous job its leader's alone does."""
    parsed = JobId.read(record.job.job_id)
    return record.raw if parsed is None or parsed.offset is None else parsed.base


def _one(record: Record) -> str:
    """Return the id by which the database knows this job alone: a number may be that of a whole array, too."""
    parsed = JobId.read(record.job.job_id)
    return record.raw if parsed is None or (parsed.task is None and parsed.offset is None) else parsed.argument


def _portions(raws: Sequence[str]) -> Iterator[Selection]:
    """Yield selections of the jobs with these raw ids, each of as many as one command line has room for."""
    for start in range(0, len(raws), MAX_IDS):
        yield Selection(ids=tuple(map(JobId, raws[start : start + MAX_IDS])))


def _killed(printed: Printed) -> bool:
    """Return whether a signal ended sbatch, or a shell says that one did."""
    status = printed.exit_status
    return status is not None and (status < 0 or 128 < status < 160)


def _refusal(printed: Printed, said: sbatch.Said) -> GatewayError | None:
    """Return what a submission that gave no job is answered with; None if nothing says that it gave none."""
    words = said.words
    if printed.timed_out:
        return TimedOut(f"Command sbatch timed out; the job may have been submitted all the same: {words}".rstrip(": "))
    if says(words, BUSY):
        return SchedulerUnavailable(words)
    if printed.exit_status in (0, None):
        return None
    if says(words, UNSURE):
        return TimedOut(f"The job may have been submitted all the same: {words}")
    if "Argument list too long" in words:
        return BadRequest(f"The environment of the job is too large: {words}")
    if printed.exit_status in NOT_RUN or _killed(printed) or says(words, (*UNREACHABLE, *BROKEN, *TRANSIENT)):
        return SchedulerUnavailable(words or f"sbatch ended with exit status {printed.exit_status}")
    if says(words, OVER_LIMIT):
        return Forbidden(words)
    return SubmissionRefused(words or f"sbatch ended with exit status {printed.exit_status}")
