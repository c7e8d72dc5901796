"""Jobs by sbatch: what is run, and whether a job has come of it."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from hpcgate.auth import Principal
from hpcgate.errors import (
    BadAnswer,
    BadRequest,
    Conflict,
    Forbidden,
    GatewayError,
    SchedulerUnavailable,
    SubmissionRefused,
    TimedOut,
)
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.bulk import Plain
from hpcgate.schedulers.dry_run import DryRun
from hpcgate.schedulers.once import Doubt, Submitted
from hpcgate.schedulers.scripts import Scripts
from hpcgate.schedulers.slurm import sacct, sbatch, scancel, scontrol
from hpcgate.schedulers.slurm.delimiters import new_mark
from hpcgate.schedulers.slurm.failures import (
    BROKEN,
    BUSY,
    IN_DOUBT,
    NO_ACCOUNTING,
    NOT_RUN,
    OVER_LIMIT,
    TRANSIENT,
    UNREACHABLE,
    UNSURE,
    broken_off,
    failure,
    no_list,
    says,
)
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.records import Selection
from hpcgate.schedulers.slurm.tools import Tools, text_of
from hpcgate.schedulers.submitting import Printed, run_submission
from hpcgate.ssh.commands.quoting import Argv
from hpcgate.ssh.session import Session

_SLACK = 3600
"""Seconds by which the clocks of login node and database may differ when a job is looked for in the history."""

_LINGER = 1.0
"""Seconds for sbatch to end once it has printed the id: after that it waits for the job (``--wait``)."""


class Submitter:
    """Submits jobs of one system, and tells a job from a refusal and from a doubt by what sbatch has printed."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def submit(self, principal: Principal, job: JobDescription) -> Submitted:
        """Submit a job and return its id, and what sbatch has said besides.

        Raises:
            SubmissionRefused: With what was printed.
            SchedulerUnavailable: Nothing was submitted: the controller is down, or takes no more jobs now.
            TimedOut: Nobody knows whether the job was submitted.
            Conflict: It was submitted, and its id cannot be told.
        """
        tag = sbatch.Tag.new()
        argv, stdin = sbatch.command(job, tag, tagged=self._tools.settings.tag_jobs), sbatch.stdin(job)
        printed = await self._run_submission(principal, argv, stdin, tag)
        return await self._concluded(principal, job, tag, printed)

    # What `hpcgate.schedulers.bulk` asks of a scheduler's commands.

    async def plain(self, principal: Principal, job: JobDescription, scripts: Scripts) -> Plain | None:
        """Return the submission of a job; None if sbatch may wait for the job's end."""
        if job.script is not None and sbatch.waits(job.script):
            return None
        tag = sbatch.Tag.new()
        return Plain(
            sbatch.many_command(job, tag, tagged=self._tools.settings.tag_jobs),
            sbatch.script_of(job),
            lambda printed: self._concluded(principal, job, tag, printed),
        )

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
        killed, tagged = _killed(printed), self._tools.settings.tag_jobs
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
            done = await self._tools.run(principal, sbatch.head_command(job), controller=False)
            return done.stdout

        return text_of(await scripts.get(job.script_path, read))

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
        text = await self._tools.queue(principal, column)
        if mark in text:
            jobs = sbatch.parse_queue(text, column)
            found = next((job.base for job in jobs if mark in job.comment.split()), None)
            if found is None:
                raise BadAnswer("squeue: the login node's answer makes no sense")
            return found
        kept = await self._tools.parsed(principal, scontrol.CONFIG, scontrol.parse_kept)
        # A job is kept for that long after its end, which was not before the attempt began.
        elapsed = asyncio.get_running_loop().time() - began
        if elapsed < kept:
            return None
        return await self._marked_in_history(principal, mark, int(elapsed))

    async def _marked_in_history(self, principal: Principal, mark: str, elapsed: int) -> str | None:
        told = await self._tools.run(principal, ["sdiag"], retry=True)
        if told.ok and not scontrol.told_all(text_of(told.stdout)):
            raise SchedulerUnavailable("The accounting database has not been told all yet")
        column = new_mark()
        selection = Selection(user=principal.username, window=elapsed + _SLACK)
        argv = sacct.command(selection, column, ("JobID", *sacct.NAME_FIELDS[1:]), steps=False)
        done = await self._tools.run(principal, argv, env=sacct.ENVIRONMENT, controller=False)
        if not done.ok:
            if says(done.words, NO_ACCOUNTING):
                raise Conflict("Slurm may have forgotten the job, and keeps no records; look at what it has written")
            raise failure(done)
        if not sacct.answers(done.stdout, column):
            raise no_list(done)
        if not sacct.whole(done.stdout, column):
            raise broken_off(done)
        lines = await self._tools.reader.read(
            principal, "sacct", done.stdout, lambda output: sacct.parse_submit_lines(text_of(output), column)
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
            return None if not said.jobs else _LINGER if said.program else self._tools.settings.timeout / 2

        async def work(session: Session) -> Printed:
            return await run_submission(
                session,
                argv,
                stdin,
                env={**self._tools.settings.environment, **env},
                seconds=self._tools.settings.timeout,
                patience=patience,
            )

        return await self._tools.perform(principal, work, retry=False)

    async def _elsewhere(self, principal: Principal, said: sbatch.Said) -> tuple[str, str] | None:
        """Return id and cluster of a job that went to another cluster than this one."""
        clusters = [(job_id, cluster) for job_id, cluster in said.jobs if cluster is not None]
        if not clusters:
            return None
        here = await self._tools.cluster(principal)
        return next(((job_id, cluster) for job_id, cluster in clusters if cluster != here), None)

    async def _refused_elsewhere(self, principal: Principal, job_id: str, cluster: str) -> SubmissionRefused:
        """Cancel a job that went to another cluster, and return the refusal."""
        done = await self._tools.run(principal, scancel.elsewhere(job_id, cluster), controller=False, retry=False)
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
            text = await self._tools.queue(principal, mark)
        except GatewayError as error:
            return error
        return sbatch.chosen(sbatch.parse_queue(text, mark), said, tag, job)


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
