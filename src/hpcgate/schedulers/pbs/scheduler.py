"""The OpenPBS scheduler."""

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from hpcgate.auth import Principal
from hpcgate.errors import BadRequest, GatewayError, JobNotFound, NotSupported
from hpcgate.schedulers.base import (
    WINDOW_SECONDS,
    Account,
    Allocation,
    Job,
    JobDescription,
    JobMetadata,
    JobQuery,
    Jobs,
    Node,
    Partition,
    Reservation,
    Scheduler,
)
from hpcgate.schedulers.bulk import Bulk
from hpcgate.schedulers.control import Action, JobChanges
from hpcgate.schedulers.directives import Directives
from hpcgate.schedulers.dry_run import DryRun
from hpcgate.schedulers.job_spec import NO_LAUNCHER
from hpcgate.schedulers.once import Fate, Submissions, Submitted
from hpcgate.schedulers.pbs import attributes, control, qstat
from hpcgate.schedulers.pbs.command_line import CommandLine
from hpcgate.schedulers.pbs.failures import ABOUT
from hpcgate.schedulers.pbs.job_ids import JobId
from hpcgate.schedulers.pbs.options import OPTIONS
from hpcgate.schedulers.pbs.settings import PbsSettings
from hpcgate.schedulers.receipts import Once
from hpcgate.schedulers.refusals import about, given, naming
from hpcgate.ssh.pool import Pool
from hpcgate.threads import off_loop

LAUNCHERS: Mapping[str, Sequence[str]] = MappingProxyType({NO_LAUNCHER: (), "mpirun": ("mpirun",)})
"""Those of a site that names none."""


class Pbs(Scheduler):
    """OpenPBS 23.06 and its relatives.

    States are PBS's letters; a job that has ended is known as long as the server keeps its history. A status of 256 or
    more is 256 and a signal's number, a negative one PBS's own reason, as ``qstat -x -f`` shows them.
    """

    Settings = PbsSettings

    def __init__(self, system: str, settings: PbsSettings, pool: Pool) -> None:
        self.system = system
        self._commands = CommandLine(system, settings, pool)
        self._launchers = settings.launchers or LAUNCHERS
        self._submissions = Submissions(pool, self._commands, settings.timeout, dict(settings.environment))

    def directives(self) -> Directives:
        """Return which options a job's script may hold, and which of them name files."""
        return OPTIONS

    async def dry_run(self, principal: Principal, job: JobDescription) -> DryRun:
        """Return the script that would be submitted, with the arguments of qsub."""
        return await self._commands.dry_run(principal, job)

    def fields(self) -> frozenset[str]:
        """Return which fields of a job are looked at, those that PBS refuses among them."""
        return attributes.FIELDS | {"extra.slurm"}

    def states(self) -> frozenset[str]:
        """Return the states of jobs."""
        return qstat.STATES

    def launchers(self) -> Mapping[str, Sequence[str]]:
        """Return what starts programs in jobs."""
        return self._launchers

    async def submit(self, principal: Principal, job: JobDescription) -> str:
        """Submit a job by qsub.

        It begins in its working directory. ``reservation`` is the name of a reservation's queue and goes before
        ``partition``; ``constraints`` is a resource list for ``-l``.
        """
        with naming(given(job), ABOUT):
            return await self._commands.submit(principal, job)

    @property
    def submits_once(self) -> bool:
        """Jobs are."""
        return True

    async def submit_once(self, principal: Principal, job: JobDescription, once: Once) -> Submitted:
        """Submit a job by qsub, unless it was submitted before. The job has a mark in its ``Submit_arguments``."""
        with naming(given(job), ABOUT):
            return await self._submissions.submit(principal, job, once)

    async def submission(self, principal: Principal, once: Once) -> Fate:
        """Return what has become of a submission, by its receipt or by its mark."""
        return await self._submissions.find(principal, once)

    async def submit_many(
        self, principal: Principal, wanted: Sequence[tuple[JobDescription, Once | None]]
    ) -> list[Submitted | GatewayError]:
        """Submit jobs by one command on the login node."""
        bulk = Bulk(self._commands.many, self._commands, self._submissions, self.submit_and_tell)
        told = await bulk.submit(principal, wanted)
        return [
            about(one, given(job), ABOUT) if isinstance(one, BadRequest) else one
            for one, (job, _) in zip(told, wanted, strict=True)
        ]

    async def cancel_many(self, principal: Principal, job_ids: Sequence[str]) -> list[GatewayError | None]:
        """Cancel jobs by one command on the login node."""
        parsed = {job_id: found for job_id in job_ids if (found := JobId.read(job_id)) is not None}
        errors = dict(zip(parsed, await self._commands.cancel_many(principal, tuple(parsed.values())), strict=True))
        return [errors[job_id] if job_id in errors else JobNotFound(job_id) for job_id in job_ids]

    async def jobs(self, principal: Principal, query: JobQuery) -> Jobs:
        """List jobs, in the order of their ids; an array is one job."""
        found = await (self._commands.all(principal) if query.all_users else self._commands.own(principal))
        since = time.time() - WINDOW_SECONDS[query.window]

        def chosen() -> tuple[Job, ...]:
            return tuple(
                job
                for job in sorted(found, key=lambda job: JobId.parse(job.job_id).order)
                if (query.name is None or job.name == query.name)
                and (query.account is None or job.account == query.account)
                and (job.time.end is None or job.time.end >= since)
            )

        return Jobs(await off_loop(len(found), chosen))

    async def job(self, principal: Principal, job_id: str) -> Jobs:
        """Return a job, whoever owns it; of an array (``123[]``) the array and then its subjobs."""
        answer = (await self.several(principal, (job_id,)))[job_id]
        if isinstance(answer, Jobs):
            return answer
        raise answer

    async def several(self, principal: Principal, job_ids: tuple[str, ...]) -> Mapping[str, Jobs | GatewayError]:
        """Return several jobs, asked for by one qstat; arrays, which take an option of their own, by another."""
        parsed = {job_id: JobId.read(job_id) for job_id in job_ids}
        wanted = list(dict.fromkeys(job_id for job_id in parsed.values() if job_id is not None))
        jobs = await self._commands.named(principal, wanted) if wanted else []
        shown = [(JobId.parse(job.job_id), job) for job in jobs]
        found: dict[str, Jobs | GatewayError] = {}
        for name, job_id in parsed.items():
            its = () if job_id is None else tuple(job for other, job in shown if job_id.matches(other))
            found[name] = Jobs(its) if its else JobNotFound(name)
        return found

    async def metadata(self, principal: Principal, job_id: str) -> tuple[JobMetadata, ...]:
        """Return the standard streams; PBS gives the script to nobody but its administrators."""
        found = await self._commands.metadata(principal, JobId.parse(job_id))
        if not found:
            raise JobNotFound(job_id)
        return tuple(found)

    async def cancel(self, principal: Principal, job_id: str) -> None:
        """Cancel by qdel; a job that has ended already is a success.

        Raises:
            Forbidden: The job is another user's.
        """
        await self._commands.cancel(principal, JobId.parse(job_id))

    async def attach(self, principal: Principal, job_id: str, command: str) -> None:
        """Not to be had: PBS starts nothing in a running job from the login node.

        Raises:
            NotSupported: Always.
        """
        raise NotSupported("PBS cannot attach a command to a running job.")

    async def act(self, principal: Principal, job_id: str, action: Action) -> None:
        """Hold, release, requeue, suspend or resume a job by qhold, qrls, qrerun and qsig.

        PBS lets its managers and operators only requeue, suspend and resume.
        """
        parsed = JobId.parse(job_id)
        await self._commands.control(principal, control.action_command(action, parsed), parsed)

    async def signal(self, principal: Principal, job_id: str, number: int) -> None:
        """Send a signal to a job by qsig."""
        parsed = JobId.parse(job_id)
        await self._commands.control(principal, control.signal_command(parsed, number), parsed)

    async def change(self, principal: Principal, job_id: str, changes: JobChanges) -> None:
        """Change a job by qalter, its queue by qmove after that."""
        parsed = JobId.parse(job_id)
        commands = control.change_commands(parsed, changes)
        others = [other for one in changes.dependencies or () for name in one.job_ids if (other := JobId.read(name))]
        if others:
            await self._commands.check_no_circle(principal, parsed, others)
        for command in commands:
            await self._commands.control(principal, command, parsed)

    async def nodes(self, principal: Principal) -> tuple[Node, ...]:
        """List the nodes by ``pbsnodes -a``."""
        return await self._commands.nodes(principal)

    async def partitions(self, principal: Principal, *, show_hidden: bool = False) -> tuple[Partition, ...]:
        """List the queues by ``qstat -Q``; those of reservations are hidden."""
        return await self._commands.partitions(principal, show_hidden=show_hidden)

    async def reservations(self, principal: Principal) -> tuple[Reservation, ...]:
        """List the reservations by ``pbs_rstat``."""
        return await self._commands.reservations(principal)

    async def accounts(self, principal: Principal) -> tuple[Account, ...] | None:
        """PBS has no list of accounts: None."""
        return None

    async def allocations(self, principal: Principal) -> tuple[Allocation, ...]:
        """Refuse: PBS limits what runs at a time, not what is used in all."""
        raise NotSupported("PBS does not record how much of an account is used or left")

    async def ping(self, principal: Principal) -> None:
        """Ask the server by ``qstat -B``."""
        await self._commands.ping(principal)

    async def installed_version(self, principal: Principal) -> str | None:
        """Ask the server."""
        return await self._commands.installed_version(principal)
