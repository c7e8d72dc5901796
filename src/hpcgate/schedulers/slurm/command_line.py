"""Slurm by its commands on the login node, run as the user."""

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from hpcgate.auth import Principal
from hpcgate.errors import (
    BadRequest,
    CommandFailed,
    Forbidden,
    JobNotFound,
    SchedulerUnavailable,
    SubmissionRefused,
    TimedOut,
)
from hpcgate.schedulers.base import Account, JobDescription, JobMetadata, Node, Partition, Reservation
from hpcgate.schedulers.slurm import sacct, sacctmgr, sbatch, scancel, scontrol, squeue, srun
from hpcgate.schedulers.slurm.failures import (
    DENIED,
    NO_ACCOUNTING,
    OVER_LIMIT,
    UNKNOWN_JOB,
    UNREACHABLE,
    failure,
    says,
)
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.marks import new_mark
from hpcgate.schedulers.slurm.records import Record, Selection
from hpcgate.schedulers.slurm.settings import SlurmSettings
from hpcgate.schedulers.slurm.streams import StreamNames, expanded, first_node
from hpcgate.schedulers.slurm.version import release, version
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


class NoHistory(Exception):
    """The site keeps no accounting: nothing is missing, there is just no history."""


class CommandLine:
    """The client of one system. Its methods raise what `hpcgate.schedulers.base.Scheduler` says."""

    def __init__(self, system: str, settings: SlurmSettings, pool: Pool) -> None:
        self.system = system
        self.settings = settings
        self.pool = pool
        self.version = version(settings.version)
        self._cluster = ""
        self._no_history_until = 0.0
        self._doubt_until = 0.0

    async def _run(
        self,
        principal: Principal,
        argv: Sequence[str],
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

        async def work(session: Session) -> Completed:
            return await session.run(argv, stdin=stdin, timeout=self.settings.timeout, env=dict(env) if env else None)

        clock = asyncio.get_running_loop().time
        if controller and clock() < self._doubt_until:
            await self.ping(principal)
        try:
            done = await self.pool.perform(principal, work, retry=retry)
        except TimedOut:
            if controller:
                self._doubt_until = clock() + DOUBT
            raise
        if controller:
            silent = not done.ok and says(done.words, UNREACHABLE)
            self._doubt_until = clock() + DOUBT if silent else 0.0
        return done

    async def _read(self, principal: Principal, argv: Sequence[str], env: Mapping[str, str] | None = None) -> str:
        done = await self._run(principal, argv, env=env)
        if not done.ok:
            raise failure(done)
        return done.stdout.decode("utf-8", "replace")

    async def submit(self, principal: Principal, job: JobDescription) -> str:
        """Submit a job and return its id."""
        done = await self._run(principal, sbatch.command(job), stdin=sbatch.stdin(job), retry=False)
        output = done.stdout.decode("utf-8", "replace")
        if done.ok:
            job_id = sbatch.parse(output)
            if job_id is None:
                raise CommandFailed(f"sbatch printed no job id: {output.strip() or done.words}")
            return job_id
        words = sbatch.refusal(done.words)
        if done.exit_status in (126, 127) or done.exit_status < 0 or says(words, UNREACHABLE):
            raise failure(done)
        if says(words, OVER_LIMIT):
            raise Forbidden(words)
        raise SubmissionRefused(words or output.strip() or f"sbatch ended with exit status {done.exit_status}")

    async def live(self, principal: Principal, selection: Selection) -> list[Record]:
        """Return the selected jobs that the controller knows, ended ones that it still remembers included."""
        mark = new_mark()
        done = await self._run(principal, squeue.command(selection, mark), env=squeue.ENVIRONMENT)
        if not done.ok:
            if says(done.words, UNKNOWN_JOB):
                return []
            raise failure(done)
        return squeue.parse(done.stdout.decode("utf-8", "replace"), mark, self._cluster)

    async def cluster(self, principal: Principal) -> str:
        """Return the cluster's name, asked for once; the system's name if it cannot be had."""
        if not self._cluster:
            try:
                self._cluster = scontrol.parse_cluster(await self._read(principal, scontrol.CONFIG))
            except (CommandFailed, SchedulerUnavailable):
                return self.system
        return self._cluster or self.system

    async def exits(self, principal: Principal, selection: Selection) -> dict[str, tuple[int | None, int | None]]:
        """Return exit status and signal of jobs that have ended but are no history yet, by raw id."""
        mark = new_mark()
        return squeue.parse_exits(await self._read(principal, squeue.exit_command(selection, mark)), mark)

    async def history(self, principal: Principal, selection: Selection) -> list[Record]:
        """Return the selected jobs of the accounting database.

        Raises:
            NoHistory: The site has none.
        """
        clock = asyncio.get_running_loop().time
        if clock() < self._no_history_until:
            raise NoHistory
        mark = new_mark()
        done = await self._run(principal, sacct.command(selection, mark), env=sacct.ENVIRONMENT, controller=False)
        if not done.ok:
            if says(done.words, NO_ACCOUNTING):
                self._no_history_until = clock() + NO_ACCOUNTING_REMEMBERED
                raise NoHistory
            raise failure(done)
        records = sacct.parse(done.stdout.decode("utf-8", "replace"), mark)
        if records:
            self._cluster = records[0].job.cluster or self._cluster
        return await self._with_quoted_names(principal, records)

    async def _with_quoted_names(self, principal: Principal, records: list[Record]) -> list[Record]:
        """Give jobs the double quotes back that the database stores as backticks."""
        odd = [record for record in records if "`" in record.job.name]
        if not odd:
            return records
        mark = new_mark()
        ids = tuple(JobId(record.raw) for record in odd)
        argv = sacct.command(Selection(ids=ids), mark, sacct.NAME_FIELDS, steps=False)
        done = await self._run(principal, argv, controller=False)
        if not done.ok:
            return records
        lines = sacct.parse_submit_lines(done.stdout.decode("utf-8", "replace"), mark)
        return [sacct.renamed(record, lines.get(record.raw, "")) for record in records]

    async def metadata(self, principal: Principal, records: Sequence[Record]) -> tuple[JobMetadata, ...]:
        """Return what was submitted, of the jobs given."""
        streams = await self._streams(principal, records)
        scripts: dict[str, str | None] = {}
        found = []
        for record in records:
            job = record.job
            parsed = JobId.read(job.job_id) or JobId(record.raw)
            if parsed.base not in scripts:
                scripts[parsed.base] = await self._script(principal, record.raw)
            names = StreamNames(
                raw=record.raw,
                array=parsed.base if parsed.tasks is not None else None,
                task=parsed.task,
                user=job.user or "",
                name=job.name,
                node=first_node(job.nodes) if job.allocation_nodes else None,
                directory=job.working_directory,
            )
            known = streams.get(record.raw, (None, None, None))
            found.append(JobMetadata(job.job_id, scripts[parsed.base], *(expanded(path, names) for path in known)))
        return tuple(found)

    async def _streams(
        self, principal: Principal, records: Sequence[Record]
    ) -> dict[str, tuple[str | None, str | None, str | None]]:
        """Return the paths of the standard streams by raw id: the controller's, else the database's."""
        selection = Selection(ids=tuple(JobId(record.raw) for record in records))
        mark = new_mark()
        streams: dict[str, tuple[str | None, str | None, str | None]] = {}
        fields = sacct.stream_fields(self.version)
        if fields and asyncio.get_running_loop().time() >= self._no_history_until:
            done = await self._run(principal, sacct.command(selection, mark, fields, steps=False), controller=False)
            if done.ok:
                for row in sacct.parse_streams(done.stdout.decode("utf-8", "replace"), mark):
                    streams[row.raw] = (row.stdin, row.stdout, row.stderr or row.stdout)
        done = await self._run(principal, squeue.streams_command(selection, mark))
        if done.ok:
            for live in squeue.parse_streams(done.stdout.decode("utf-8", "replace"), mark):
                streams[live.raw] = (live.stdin, live.stdout, live.stderr or live.stdout)
        return streams

    async def _script(self, principal: Principal, raw: str) -> str | None:
        done = await self._run(principal, scontrol.script_command(raw))
        if done.ok and done.stdout:
            return done.stdout.decode("utf-8", "replace")
        if asyncio.get_running_loop().time() < self._no_history_until:
            return None
        done = await self._run(principal, sacct.script_command(raw), controller=False)
        script = sacct.parse_script(done.stdout) if done.ok else None
        return None if script is None else script.decode("utf-8", "replace")

    async def cancel(self, principal: Principal, job_id: JobId) -> scancel.Outcome:
        """Cancel a job and return what became of it.

        Raises:
            Forbidden: It is another user's.
        """
        done = await self._run(principal, scancel.command(job_id), retry=False)
        outcome = scancel.parse(done.exit_status, done.words)
        if outcome is scancel.Outcome.FORBIDDEN:
            raise Forbidden(done.words)
        if outcome is scancel.Outcome.FAILED:
            raise failure(done)
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
        return scontrol.parse_nodes(await self._read(principal, scontrol.NODES))

    async def partitions(self, principal: Principal, *, show_hidden: bool) -> tuple[Partition, ...]:
        """List the partitions."""
        argv = scontrol.partitions_command(show_hidden=show_hidden)
        return scontrol.parse_partitions(await self._read(principal, argv))

    async def reservations(self, principal: Principal) -> tuple[Reservation, ...]:
        """List the reservations."""
        text = await self._read(principal, scontrol.RESERVATIONS, scontrol.ENVIRONMENT)
        return scontrol.parse_reservations(text)

    async def accounts(self, principal: Principal) -> tuple[Account, ...] | None:
        """List the user's accounts; None where there is no slurmdbd, or none that answers."""
        done = await self._run(principal, sacctmgr.command(principal.username), controller=False)
        if done.ok:
            return sacctmgr.parse(done.stdout.decode("utf-8", "replace"))
        words = done.words + done.stdout.decode("utf-8", "replace")
        if says(words, NO_ACCOUNTING):
            return None
        if says(words, UNREACHABLE):
            _log.warning("slurm.accounts_unavailable", system=self.system, words=words[:400])
            return None
        raise failure(done)

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
