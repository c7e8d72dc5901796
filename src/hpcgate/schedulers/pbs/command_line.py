"""PBS by its commands on the login node, run as the user."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hpcgate.auth import Principal
from hpcgate.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    GatewayError,
    JobNotFound,
    SchedulerUnavailable,
    SubmissionRefused,
    TimedOut,
)
from hpcgate.schedulers.base import Job, JobDescription, JobMetadata, Node, Partition, Reservation
from hpcgate.schedulers.bulk import Commands, Plain
from hpcgate.schedulers.dry_run import DryRun
from hpcgate.schedulers.many import Command, each, not_begun
from hpcgate.schedulers.once import Doubt, Submitted
from hpcgate.schedulers.pbs import control, pbs_rstat, pbsnodes, qdel, qstat, qsub, script
from hpcgate.schedulers.pbs.documents import decoded
from hpcgate.schedulers.pbs.failures import (
    BROKEN,
    MALFORMED,
    NO_HISTORY,
    NOT_RUN,
    OVER_LIMIT,
    OVER_LIMIT_WORDS,
    TRANSIENT,
    UNAUTHORIZED,
    UNREACHABLE,
    UNSURE,
    document,
    failure,
    no_list,
    refused,
    says,
)
from hpcgate.schedulers.pbs.job_ids import JobId
from hpcgate.schedulers.pbs.settings import PbsSettings
from hpcgate.schedulers.pbs.variables import STEERING
from hpcgate.schedulers.reading import Findings, Reader
from hpcgate.schedulers.scripts import Scripts
from hpcgate.schedulers.submitting import Printed, run_submission
from hpcgate.ssh.commands.quoting import Argv, as_text
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.runner import Completed
from hpcgate.ssh.session import Session

_SENTENCE = 200
"""Bytes of output in which a sentence may stand in the place of a document."""

NO_HISTORY_REMEMBERED = 600.0
"""Seconds for which a server without history is not asked for it again."""

ONE_BY_ONE = 20
"""How many jobs are asked for singly where qstat leaves out some of several; for more the whole list is read."""

_LINGER = 1.0
"""Seconds for qsub to end once it has printed the id, where it may then wait for the job (``-W block=true``)."""

_KILLED = range(129, 144)
"""Exit statuses by which a shell says that a signal ended qsub; those of qsub itself begin at 153 (pbs_error.h)."""

Parsed = TypeVar("Parsed")
Row = TypeVar("Row", Job, qstat.Submitted, qstat.Waiting)


@dataclass(slots=True)
class _Server:
    """What one user's qstat has said of the server.

    Attributes:
        express: Whether it knows `qstat.EXPRESS`.
        no_history_until: Until when there is no history to be asked for, on the event loop's clock.
    """

    express: bool = True
    no_history_until: float = 0.0

    @property
    def history(self) -> bool:
        """Whether to ask for it."""
        return asyncio.get_running_loop().time() >= self.no_history_until


class CommandLine:
    """The client of one system. Its methods raise what `hpcgate.schedulers.base.Scheduler` says."""

    def __init__(self, system: str, settings: PbsSettings, pool: Pool) -> None:
        self.system = system
        self.settings = settings
        self.pool = pool
        self._findings = Findings(_Server)
        self._reader = Reader()
        self.many = Commands(pool, settings.timeout, settings.environment, settings.bulk_at_once)

    async def _run(
        self,
        principal: Principal,
        argv: Argv,
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        retry: bool = True,
        limit: int | None = None,
    ) -> Completed:
        variables = {**self.settings.environment, **(env or {})}

        async def work(session: Session) -> Completed:
            return await session.run(
                argv, stdin=stdin, timeout=self.settings.timeout, env=variables, limit=limit, without=STEERING
            )

        return await self.pool.perform(principal, work, retry=retry)

    async def submit(self, principal: Principal, job: JobDescription) -> str:
        """Submit a job and return its id.

        Raises:
            SubmissionRefused: With what was printed.
            TimedOut: Nobody knows whether the job was submitted.
            Conflict: It was submitted, and its id cannot be told.
        """
        content = await self._script(principal, job)
        tag = qsub.new_tag() if self.settings.tag_jobs else None
        argv, stdin = self._command(job, content, tag), script.composed(content, job)

        linger = _LINGER if script.waits(content) else self.settings.timeout / 2

        def patience(text: str) -> float | None:
            return None if qsub.parse(text) is None else linger

        async def work(session: Session) -> Printed:
            env, seconds = self.settings.environment, self.settings.timeout
            return await run_submission(session, argv, stdin, env=env, seconds=seconds, patience=patience)

        printed = await self.pool.perform(principal, work, retry=False)
        return await self._concluded(principal, tag, argv, printed)

    # What `hpcgate.schedulers.bulk` asks of a scheduler's commands.

    async def plain(self, principal: Principal, job: JobDescription, scripts: Scripts) -> Plain | None:
        """Return the submission of a job; None if qsub may wait for the job's end."""
        content = await self._shared_script(principal, job, scripts)
        if script.waits(content):
            return None
        tag = qsub.new_tag() if self.settings.tag_jobs else None
        argv = self._command(job, content, tag)

        async def conclude(printed: Printed) -> Submitted:
            return Submitted(await self._concluded(principal, tag, argv, printed))

        return Plain(argv, script.composed(content, job), conclude)

    async def cancel_many(self, principal: Principal, ids: Sequence[JobId]) -> list[GatewayError | None]:
        """Cancel jobs, and return the error of each that could not be."""
        many = [Command(qdel.command(job_id)) for job_id in ids]
        printed = await self.many.run(principal, many, STEERING)

        async def one(number: int) -> None:
            said = printed[number]
            if said is None:
                raise not_begun()
            if said.exit_status is None:
                raise TimedOut("Command qdel timed out")
            done = Completed(tuple(many[number].argv), said.exit_status, b"", said.text.encode())
            await self._cancelled(principal, ids[number], done)

        return await each(range(len(ids)), self.many.at_once, one)

    async def _concluded(self, principal: Principal, tag: str | None, argv: Argv, printed: Printed) -> str:
        """Return the id of a job from what was printed about it; raises what `submit` does."""
        job_id = qsub.parse(printed.text)
        if job_id is not None and qsub.is_plain(printed.text):
            return job_id
        try:
            found = None if tag is None else await self._tagged(principal, tag)
        except GatewayError:
            looked = False
        else:
            looked = tag is not None
            job_id = found or job_id
        if job_id is not None:
            return job_id
        raise self._unsubmitted(printed, argv, looked=looked)

    async def dry_run(self, principal: Principal, job: JobDescription) -> DryRun:
        """Return what would be submitted: qsub cannot be asked what would become of it."""
        content = await self._script(principal, job)
        argv = self._command(job, content, None)
        composed = script.composed(content, job).decode("utf-8", "replace")
        return DryRun(composed, tuple(map(as_text, argv[argv.index("-f", 5) + 1 :])))

    def _unsubmitted(self, printed: Printed, argv: Argv, *, looked: bool) -> GatewayError:
        """Return what a submission without an id is answered with.

        Args:
            printed: What came of it.
            argv: The command.
            looked: Whether the server was asked for the job, and knows none.
        """
        words = qsub.refusal(printed.text)
        if printed.timed_out or printed.exit_status is None:
            return TimedOut(
                f"Command qsub timed out; the job may have been submitted all the same: {words}".rstrip(": ")
            )
        if printed.exit_status == 0:
            said = words or "qsub printed nothing"
            return Conflict(f"The job may have been submitted, but its id cannot be told; look at your jobs: {said}")
        done = Completed(tuple(argv), printed.exit_status, b"", printed.text.encode())
        words = words or f"qsub ended with exit status {done.exit_status}"
        if says(words, UNSURE) or (done.exit_status < 0 and not looked):
            return TimedOut(f"The job may have been submitted all the same: {words}")
        if done.exit_status < 0:
            return SchedulerUnavailable(words)
        if done.exit_status in NOT_RUN or says(words, UNREACHABLE):
            return failure(done, "qsub")
        if done.exit_status in (UNAUTHORIZED, *OVER_LIMIT) or says(words, OVER_LIMIT_WORDS):
            return Forbidden(words)
        if says(words, BROKEN) or says(words.lower(), TRANSIENT):
            return SchedulerUnavailable(words)
        return SubmissionRefused(words)

    async def _tagged(self, principal: Principal, tag: str) -> str | None:
        """Return the id of a job just submitted as the server knows it, None for none.

        One that is not in the queue may have ended already.
        """
        for history in (False, True):
            if history and not self._findings.of(principal).history:
                break
            for job in await self._own(principal, qstat.parse_submitted, history=history):
                if tag in job.arguments.split(" "):
                    return job.job_id
        return None

    # What `hpcgate.schedulers.once` asks of a scheduler's commands.

    async def prepared(self, principal: Principal, job: JobDescription, mark: str) -> tuple[Argv, bytes]:
        """Return the command that submits a job with a mark, and its input."""
        content = await self._script(principal, job)
        return self._command(job, content, mark), script.composed(content, job)

    async def prepared_among_many(
        self, principal: Principal, job: JobDescription, mark: str, scripts: Scripts
    ) -> tuple[Argv, bytes]:
        """Return the same, of a script that is read once for many."""
        content = await self._shared_script(principal, job, scripts)
        return self._command(job, content, mark), script.composed(content, job)

    async def _shared_script(self, principal: Principal, job: JobDescription, scripts: Scripts) -> bytes:
        if job.script_path is None:
            return await self._script(principal, job)
        return await scripts.get(job.script_path, lambda: self._script(principal, job))

    def _command(self, job: JobDescription, content: bytes, tag: str | None) -> list[str | bytes]:
        return qsub.command(job, content, tag, gpus=self.settings.gpu_resource)

    def remarks(self, mark: str, text: str) -> tuple[str, ...]:
        """Return nothing: beside an id qsub says nothing of its own."""
        return ()

    async def judged(self, principal: Principal, mark: str, printed: Printed) -> str | GatewayError | Doubt:
        """Return what qsub has said of a submission."""
        job_id = qsub.parse(printed.text)
        if job_id is not None and qsub.is_plain(printed.text):
            return job_id
        words = qsub.refusal(printed.text)
        killed = printed.exit_status is not None and printed.exit_status in _KILLED
        if job_id is not None or printed.exit_status in (0, None) or killed:
            return Doubt(words, claims=printed.exit_status == 0, printed_id=job_id)
        refusal = self._unsubmitted(printed, ["qsub"], looked=False)
        return Doubt(words) if isinstance(refusal, TimedOut) else refusal

    async def marked(self, principal: Principal, mark: str, began: float) -> str | None:
        """Return the id of the job with a mark, as the server knows it.

        Raises:
            Conflict: The server keeps no history, and the job may have ended.
        """
        found = await self._tagged(principal, mark)
        if found is None and not self._findings.of(principal).history:
            raise Conflict("PBS keeps no history here, and the job may have ended; look at what it has written")
        return found

    async def _script(self, principal: Principal, job: JobDescription) -> bytes:
        if job.script_path is None:
            try:
                return (job.script or "").encode()
            except UnicodeEncodeError as error:
                raise SubmissionRefused(f"The script is not valid Unicode: {error.reason}") from None
        done = await self._run(principal, qsub.file_command(job), limit=script.MAX_SIZE)
        if not done.ok:
            raise SubmissionRefused(qsub.refusal(done.words) or f"{job.script_path.text} cannot be read")
        return done.stdout

    async def check_no_circle(self, principal: Principal, job_id: JobId, others: Iterable[JobId]) -> None:
        """Return if a job does not come to wait for itself by waiting for others; the server does not look.

        Only users' own jobs are followed: of another's nobody can have one wait.

        Raises:
            BadRequest: By the id by which it would.
        """
        waiting = {
            parsed.key: row.others
            for row in await self._own(principal, qstat.parse_waiting, history=False)
            if (parsed := JobId.read(row.job_id)) is not None
        }
        for first in others:
            reached, left = {first.key}, [first.key]
            while left:
                for other in waiting.get(left.pop(), ()):
                    if other.key not in reached:
                        reached.add(other.key)
                        left.append(other.key)
            if first.key == job_id.key:
                raise BadRequest(f"dependencies: the job {job_id.argument} would wait for itself")
            if job_id.key in reached:
                raise BadRequest(f"dependencies: {first.argument} waits for {job_id.argument} itself: a circle")

    async def own(self, principal: Principal) -> list[Job]:
        """Return the user's jobs, those of the history included."""
        return [job for job in await self._own(principal, qstat.parse_jobs) if job.user == principal.username]

    async def _own(self, principal: Principal, parse: Callable[[str], list[Row]], *, history: bool = True) -> list[Row]:
        done = await self._qstat(
            principal,
            lambda kept, express: qstat.own_command(principal.username, history=history and kept, express=express),
        )

        def read(output: bytes) -> tuple[list[Row], list[JobId]]:
            text = decoded(output)
            asked = (JobId.read(name) for name in qstat.parse_ids(text))
            return parse(text), [job_id for job_id in asked if job_id is not None]

        found, asked = await self._reader.read(principal, "qstat", done.stdout, read)
        if not self._complete(principal, done):
            found += await self._left_out(principal, asked, found, parse, subjobs=False)
        return found

    async def all(self, principal: Principal) -> list[Job]:
        """Return all jobs that the user may see, those of the history included."""
        return await self._all(principal, qstat.parse_jobs)

    async def _all(self, principal: Principal, parse: Callable[[str], list[Row]]) -> list[Row]:
        done = await self._qstat(principal, lambda history, _: qstat.all_command(history=history))
        return await self._jobs(principal, done, parse)

    async def named(self, principal: Principal, ids: Sequence[JobId]) -> list[Job]:
        """Return jobs by id, each once, in order; of an array all subjobs, too. Ids that nobody knows are left out."""
        found: list[Job] = []
        for subjobs in (False, True):
            asked = [job_id for job_id in ids if job_id.is_array is subjobs]
            if asked:
                found += await self._asked(principal, asked, subjobs=subjobs)
        return sorted({job.job_id: job for job in found}.values(), key=lambda job: JobId.parse(job.job_id).order)

    async def _asked(self, principal: Principal, ids: Sequence[JobId], *, subjobs: bool) -> list[Job]:
        done = await self._qstat(
            principal,
            lambda history, express: qstat.jobs_command(ids, history=history, express=express, subjobs=subjobs),
        )
        found = await self._jobs(principal, done, qstat.parse_jobs)
        unknown = qstat.parse_unknown(done.words)
        left = [job_id for job_id in ids if not any(job_id.matches(other) for other in unknown)]
        if len(ids) > 1 and not self._complete(principal, done):
            found += await self._left_out(principal, left, found, qstat.parse_jobs, subjobs=subjobs)
        return found

    async def metadata(self, principal: Principal, job_id: JobId) -> list[JobMetadata]:
        """Return what was submitted; PBS does not give the script to users."""
        done = await self._qstat(
            principal,
            lambda history, express: qstat.jobs_command(
                [job_id], history=history, express=express, subjobs=job_id.is_array
            ),
        )
        return await self._reader.read(
            principal, "qstat", done.stdout, lambda output: qstat.parse_metadata(decoded(output))
        )

    async def _left_out(
        self,
        principal: Principal,
        asked: Sequence[JobId],
        found: Sequence[Row],
        parse: Callable[[str], list[Row]],
        *,
        subjobs: bool,
    ) -> list[Row]:
        """Return the jobs that qstat was asked for and did not print: some releases print the first of several only."""
        shown = [JobId.parse(job.job_id) for job in found]
        known = {job_id.key for job_id in shown}
        missing = [
            job_id for job_id in asked if job_id.key not in known and not any(job_id.matches(other) for other in shown)
        ]
        if not missing:
            return []
        if len(missing) > ONE_BY_ONE and not subjobs and not any(job_id.indices for job_id in missing):
            wanted = {job_id.key for job_id in missing}
            return [job for job in await self._all(principal, parse) if JobId.parse(job.job_id).key in wanted]
        argv = qstat.each_command(history=self._findings.of(principal).history, subjobs=subjobs)
        stdin = "".join(f"{job_id.argument}\n" for job_id in missing).encode()
        done = await self._run(principal, argv, stdin=stdin, env=qstat.ENVIRONMENT)
        self._check(done)
        return await self._jobs(principal, done, parse)

    async def _jobs(self, principal: Principal, done: Completed, parse: Callable[[str], list[Row]]) -> list[Row]:
        return await self._reader.read(principal, "qstat", done.stdout, lambda output: parse(decoded(output)))

    async def _qstat(self, principal: Principal, command: Callable[[bool, bool], list[str]]) -> Completed:
        """Run qstat.

        Args:
            principal: Whose.
            command: Returns the command with or without the history, and with or without `qstat.EXPRESS`.
        """
        server = self._findings.of(principal)
        done = await self._run(principal, command(server.history, server.express), env=qstat.ENVIRONMENT)
        if done.exit_status == qstat.USAGE and server.express:
            server.express = False
            done = await self._run(principal, command(server.history, False), env=qstat.ENVIRONMENT)
        if says(done.words, NO_HISTORY) or says(decoded(done.stdout[:_SENTENCE]), NO_HISTORY):
            server.no_history_until = asyncio.get_running_loop().time() + NO_HISTORY_REMEMBERED
            done = await self._run(principal, command(False, server.express), env=qstat.ENVIRONMENT)
        self._check(done)
        return done

    def _complete(self, principal: Principal, done: Completed) -> bool:
        """Return whether qstat has shown all that it was asked for and the server knows.

        An id that qstat cannot read ends ``-E`` before the server is asked.
        """
        return self._findings.of(principal).express and not says(done.words, MALFORMED)

    def _check(self, done: Completed) -> None:
        if not done.ok and done.exit_status not in qstat.GONE and not says(done.words, MALFORMED):
            raise failure(done, "qstat")
        if document(done.stdout) is False or (done.ok and done.stdout.strip() and document(done.stdout) is None):
            raise no_list(done, "qstat")

    async def cancel(self, principal: Principal, job_id: JobId) -> None:
        """Cancel a job."""
        await self._cancelled(principal, job_id, await self._run(principal, qdel.command(job_id), retry=False))

    async def _cancelled(self, principal: Principal, job_id: JobId, done: Completed) -> None:
        """Return if a job was cancelled, or has ended."""
        match qdel.parse(done.exit_status, done.words):
            case qdel.Outcome.CANCELLED | qdel.Outcome.ENDED:
                return
            case qdel.Outcome.UNKNOWN:
                raise JobNotFound(job_id.argument)
            case qdel.Outcome.FORBIDDEN:
                raise Forbidden(done.words)
            case qdel.Outcome.ENDING:
                jobs = await self.named(principal, [job_id])
                if not all(job.status.state in qstat.ENDING for job in jobs):
                    raise refused(done, "qdel")
            case qdel.Outcome.FAILED:
                raise refused(done, "qdel")

    async def control(self, principal: Principal, argv: Sequence[str], job_id: JobId) -> None:
        """Run a command that does something to a job (`hpcgate.schedulers.pbs.control`)."""
        done = await self._run(principal, argv, retry=False)
        if not done.ok:
            raise control.refusal(done, argv[0], job_id)

    async def nodes(self, principal: Principal) -> tuple[Node, ...]:
        """List the nodes."""
        return await self._parsed(principal, pbsnodes.COMMAND, pbsnodes.parse)

    async def partitions(self, principal: Principal, *, show_hidden: bool) -> tuple[Partition, ...]:
        """List the queues."""
        return await self._parsed(
            principal, qstat.QUEUES, lambda output: qstat.parse_queues(output, show_hidden=show_hidden)
        )

    async def reservations(self, principal: Principal) -> tuple[Reservation, ...]:
        """List the reservations."""
        return await self._parsed(principal, pbs_rstat.COMMAND, pbs_rstat.parse)

    async def ping(self, principal: Principal) -> None:
        """Return if the server answers."""
        state = await self._parsed(principal, qstat.SERVER, qstat.parse_server)
        if state is None:
            raise SchedulerUnavailable("qstat -B shows no server")

    async def installed_version(self, principal: Principal) -> str | None:
        """Return the release of the commands: ``qstat --version`` prints ``pbs_version = 23.06.06``."""
        name, _, release = (await self._read(principal, ["qstat", "--version"])).partition("=")
        return release.strip() or None if name.strip() == "pbs_version" else None

    async def _parsed(self, principal: Principal, argv: Sequence[str], parse: Callable[[str], Parsed]) -> Parsed:
        """Run a command that only reads, and return what `parse` makes of what it printed."""
        done = await self._run(principal, argv, env=qstat.ENVIRONMENT)
        if not done.ok:
            raise failure(done, argv[0])
        if document(done.stdout) is False:
            raise no_list(done, argv[0])
        return await self._reader.read(principal, argv[0], done.stdout, lambda output: parse(decoded(output)))

    async def _read(self, principal: Principal, argv: Sequence[str]) -> str:
        done = await self._run(principal, argv, env=qstat.ENVIRONMENT)
        if not done.ok:
            raise failure(done, argv[0])
        return decoded(done.stdout)
