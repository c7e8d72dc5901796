"""Slurm by its commands on the login node, run as the user."""

import asyncio
from collections.abc import Sequence

import structlog

from hpcgate.auth import Principal
from hpcgate.errors import (
    BadAnswer,
    BadRequest,
    CommandFailed,
    Forbidden,
    GatewayError,
    JobNotFound,
    SchedulerUnavailable,
    TimedOut,
)
from hpcgate.outbound.wording import clipped
from hpcgate.schedulers.base import Account, Allocation, JobDescription, JobMetadata, Node, Partition, Reservation
from hpcgate.schedulers.bulk import Commands
from hpcgate.schedulers.dry_run import DryRun
from hpcgate.schedulers.many import Command, not_begun
from hpcgate.schedulers.once import Submitted
from hpcgate.schedulers.slurm import assoc_mgr, sacct, sacctmgr, scancel, scontrol, squeue, srun
from hpcgate.schedulers.slurm.controls import CommandControls, Controls
from hpcgate.schedulers.slurm.delimiters import new_mark
from hpcgate.schedulers.slurm.failures import (
    DENIED,
    NO_ACCOUNTING,
    NOT_RUN,
    UNKNOWN_JOB,
    UNREACHABLE,
    broken_off,
    failure,
    no_list,
    refused,
    says,
    unreadable,
)
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.metadata import Submissions
from hpcgate.schedulers.slurm.records import Record, Selection, portions
from hpcgate.schedulers.slurm.settings import SlurmSettings
from hpcgate.schedulers.slurm.submitter import Submitter
from hpcgate.schedulers.slurm.tools import Tools, text_of
from hpcgate.schedulers.slurm.variables import ASKING
from hpcgate.schedulers.slurm.version import release, version
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.runner import Completed

_log = structlog.get_logger(__name__)

NO_ACCOUNTING_REMEMBERED = 600.0
"""Seconds for which a site without slurmdbd is not asked for its history again."""


class NoHistory(Exception):
    """The site keeps no accounting: nothing is missing, there is just no history."""


class CommandLine:
    """The client of one system. Its methods raise what `hpcgate.schedulers.base.Scheduler` says."""

    def __init__(self, system: str, settings: SlurmSettings, pool: Pool) -> None:
        self.system = system
        self.version = version(settings.version)
        self.tools = Tools(system, settings, pool)
        self.submitter = Submitter(self.tools)
        self.control: Controls = CommandControls(self.tools.run)
        self.many = Commands(pool, settings.timeout, settings.environment, settings.bulk_at_once)
        self._submitted = Submissions(self.tools, self.version)

    async def submit(self, principal: Principal, job: JobDescription) -> Submitted:
        """Submit a job and return its id, and what sbatch has said besides; raises what `Submitter.submit` does."""
        return await self.submitter.submit(principal, job)

    async def dry_run(self, principal: Principal, job: JobDescription) -> DryRun:
        """Return what sbatch expects of a job; what a script in its place does is not tried."""
        return await self.submitter.dry_run(principal, job)

    async def cluster(self, principal: Principal) -> str:
        """Return the cluster's name, asked for once; the system's name if it cannot be had."""
        return await self.tools.cluster(principal)

    async def ping(self, principal: Principal) -> None:
        """Return if at least one controller is up."""
        await self.tools.ping(principal)

    async def live(self, principal: Principal, selection: Selection) -> list[Record]:
        """Return the selected jobs that the controller knows, ended ones that it still remembers included."""
        mark = new_mark()
        done = await self.tools.run(principal, squeue.command(selection, mark), env=squeue.ENVIRONMENT)
        if not done.ok:
            if says(done.words, UNKNOWN_JOB) and selection.ids is not None and not squeue.lists(done.stdout, mark):
                return []
            raise failure(done, mark)
        if not squeue.answers(done.stdout, mark):
            raise no_list(done)
        if not squeue.whole(done.stdout, mark):
            raise broken_off(done)
        cluster = self.tools.findings.of(principal).name
        records = await self.tools.reader.read(
            principal, "squeue", done.stdout, lambda output: squeue.parse(text_of(output), mark, cluster)
        )
        if not records and squeue.lists(done.stdout, mark):
            raise unreadable(done)
        return records

    async def next_id(self, principal: Principal) -> int:
        """Return the id that the controller gives to the next job."""
        return await self.tools.parsed(principal, scontrol.CONFIG, scontrol.parse_next_id)

    async def exits(self, principal: Principal, selection: Selection) -> dict[str, tuple[int | None, int | None]]:
        """Return exit status and signal of jobs that have ended but are not history yet, by raw id."""
        mark = new_mark()
        argv = squeue.exit_command(selection, mark)
        return await self.tools.parsed(principal, argv, lambda text: squeue.parse_exits(text, mark))

    async def history(self, principal: Principal, selection: Selection) -> list[Record]:
        """Return the selected jobs of the accounting database.

        Raises:
            NoHistory: The site has none.
        """
        clock = asyncio.get_running_loop().time
        known = self.tools.findings.of(principal)
        if clock() < known.no_history_until:
            raise NoHistory
        mark = new_mark()
        columns = sacct.columns(selection)
        argv = sacct.command(selection, mark, columns, steps=selection.steps)
        done = await self.tools.run(principal, argv, env=sacct.ENVIRONMENT, controller=False)
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
        records = await self.tools.reader.read(
            principal, "sacct", done.stdout, lambda output: sacct.parse(text_of(output), mark, columns)
        )
        if not records and sacct.lists(done.stdout, mark):
            raise unreadable(done)
        if records:
            known.name = records[0].job.cluster or known.name
        return await self._with_quoted_names(principal, records)

    async def _keeps_history(self, principal: Principal) -> bool:
        """Return whether the controller has a database to write to, where sacct cannot be asked."""
        try:
            return await self.tools.parsed(principal, scontrol.CONFIG, scontrol.parse_accounting)
        except (BadAnswer, CommandFailed, SchedulerUnavailable, TimedOut):
            return True

    async def _with_quoted_names(self, principal: Principal, records: list[Record]) -> list[Record]:
        """Give jobs the double quotes back that the database stores as backticks."""
        odd = [record for record in records if "`" in record.job.name]
        if not odd:
            return records
        mark = new_mark()
        lines: dict[str, str] = {}
        for some in portions([record.raw for record in odd]):
            argv = sacct.command(some, mark, sacct.NAME_FIELDS, steps=False)
            done = await self.tools.run(principal, argv, controller=False)
            if not done.ok:
                break
            lines |= await self.tools.reader.read(
                principal, "sacct", done.stdout, lambda output: sacct.parse_submit_lines(text_of(output), mark)
            )
        return [sacct.renamed(record, lines.get(record.raw, "")) for record in records]

    async def metadata(self, principal: Principal, records: Sequence[Record]) -> tuple[JobMetadata, ...]:
        """Return what was submitted, of the jobs given; raises what `Submissions.metadata` does."""
        return await self._submitted.metadata(principal, records)

    async def cancel(self, principal: Principal, job_id: JobId) -> scancel.Outcome:
        """Cancel a job and return what became of it.

        Raises:
            Forbidden: It is another user's.
        """
        outcome = _cancelled(await self.tools.run(principal, scancel.command(job_id), retry=False))
        if isinstance(outcome, GatewayError):
            raise outcome
        return outcome

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

    async def attach(self, principal: Principal, job_id: JobId, shell_command: str) -> None:
        """Run a shell command as a step and wait for its end, at most the scheduler's time-out."""
        if "\0" in shell_command:
            raise BadRequest("A command cannot contain a NUL character")
        done = await self.tools.run(principal, srun.command(job_id, shell_command, self.version), retry=False)
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
        return await self.tools.parsed(
            principal, scontrol.NODES, lambda text: scontrol.answered(text, scontrol.parse_nodes)
        )

    async def partitions(self, principal: Principal, *, show_hidden: bool) -> tuple[Partition, ...]:
        """List the partitions."""
        argv = scontrol.partitions_command(show_hidden=show_hidden)
        return await self.tools.parsed(principal, argv, lambda text: scontrol.answered(text, scontrol.parse_partitions))

    async def reservations(self, principal: Principal) -> tuple[Reservation, ...]:
        """List the reservations."""
        return await self.tools.parsed(
            principal,
            scontrol.RESERVATIONS,
            lambda text: scontrol.answered(text, scontrol.parse_reservations),
            env=scontrol.ENVIRONMENT,
        )

    async def accounts(self, principal: Principal) -> tuple[Account, ...] | None:
        """List the user's accounts; None where there is no slurmdbd, none that answers, or no sacctmgr for users."""
        done = await self.tools.run(principal, sacctmgr.command(principal.username), controller=False)
        if done.ok:
            return await self.tools.reader.read(
                principal, "sacctmgr", done.stdout, lambda output: sacctmgr.parse(text_of(output))
            )
        words = done.words + done.stdout.decode("utf-8", "replace")
        if not says(words, NO_ACCOUNTING):
            _log.warning("slurm.accounts_unavailable", system=self.system, words=clipped(words, 400))
        return None

    async def allocations(self, principal: Principal) -> tuple[Allocation, ...]:
        """Return how much of the user's accounts is left, as the controller counts it; none without accounting."""
        user = principal.username
        own = await self.tools.parsed(principal, assoc_mgr.command(user=user), assoc_mgr.parse)
        accounts = tuple(dict.fromkeys(one.account for one in own if one.user == user and "," not in one.account))
        if not accounts:
            return ()
        shared = await self.tools.parsed(principal, assoc_mgr.command(accounts=accounts), assoc_mgr.parse)
        return assoc_mgr.allocations(user, own, shared)

    async def installed_version(self, principal: Principal) -> str | None:
        """Return the release of the commands."""
        done = await self.tools.run(principal, ["sinfo", "--version"], controller=False)
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
