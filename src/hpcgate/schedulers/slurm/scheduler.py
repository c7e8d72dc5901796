"""The Slurm scheduler."""

import time
from collections.abc import Awaitable, Mapping, Sequence
from types import MappingProxyType

import structlog

from hpcgate.auth import Principal
from hpcgate.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    GatewayError,
    JobNotFound,
    NotSupported,
    TimedOut,
    TooLarge,
)
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
from hpcgate.schedulers.receipts import Once
from hpcgate.schedulers.refusals import about, given, naming
from hpcgate.schedulers.slurm import attributes, runs, sbatch
from hpcgate.schedulers.slurm.client import client, commands_of
from hpcgate.schedulers.slurm.command_line import CommandLine, NoHistory
from hpcgate.schedulers.slurm.failures import ABOUT
from hpcgate.schedulers.slurm.history_cache import HistoryCache
from hpcgate.schedulers.slurm.job_ids import JobId, given_out
from hpcgate.schedulers.slurm.options import OPTIONS
from hpcgate.schedulers.slurm.records import Selection
from hpcgate.schedulers.slurm.rest.backend import Rest
from hpcgate.schedulers.slurm.scancel import Outcome
from hpcgate.schedulers.slurm.settings import SlurmSettings
from hpcgate.schedulers.slurm.sources import Sources, named
from hpcgate.schedulers.slurm.states import STATES
from hpcgate.schedulers.snapshot import Seen, Snapshot
from hpcgate.ssh.pool import Pool
from hpcgate.threads import off_loop

_log = structlog.get_logger(__name__)

LAUNCHERS: Mapping[str, Sequence[str]] = MappingProxyType({NO_LAUNCHER: (), "srun": ("srun",), "mpirun": ("mpirun",)})
"""Those of a site that names none."""


class Slurm(Scheduler):
    """Slurm 21.08 to 26.05.

    What the controller knows now and what the accounting database remembers are read at the same time and made one
    list. If one of the two does not answer, the list has what the other knows, and says so in `Jobs.missing`; a site
    without an accounting database misses nothing.
    """

    Settings = SlurmSettings

    def __init__(self, system: str, settings: SlurmSettings, pool: Pool) -> None:
        self.system = system
        self._commands = client(system, settings, pool)
        commands = commands_of(self._commands)
        self._submissions = (
            None
            if commands is None
            else Submissions(pool, commands.submitter, settings.timeout, dict(settings.environment))
        )
        self._launchers = settings.launchers or LAUNCHERS
        self._past = HistoryCache(settings.history_cache)
        # A third of it for an answer, the rest for something small.
        patience = min(settings.history_timeout, settings.timeout) / 3
        self._sources = Sources(system, self._commands, self._past, patience)

    def directives(self) -> Directives:
        """Return which options a job's script may hold, and which of them name files."""
        return OPTIONS

    async def dry_run(self, principal: Principal, job: JobDescription) -> DryRun:
        """Return what ``sbatch --test-only`` says of a job; over slurmrestd alone, the request that would be sent."""
        with naming(given(job), ABOUT):
            return await self._commands.dry_run(principal, job)

    def fields(self) -> frozenset[str]:
        """Return which fields of a job are looked at."""
        return attributes.FIELDS | {"extra.pbs"}

    def states(self) -> frozenset[str]:
        """Return the states of jobs."""
        return STATES

    def launchers(self) -> Mapping[str, Sequence[str]]:
        """Return what starts programs in jobs."""
        return self._launchers

    async def submit(self, principal: Principal, job: JobDescription) -> str:
        """Submit a job by sbatch, or by slurmrestd: https://slurm.schedmd.com/sbatch.html"""
        return (await self.submit_and_tell(principal, job)).job_id

    async def submit_and_tell(self, principal: Principal, job: JobDescription) -> Submitted:
        """Submit a job, and return with its id what sbatch or slurmrestd has warned of."""
        try:
            with naming(given(job), ABOUT):
                return await self._commands.submit(principal, job)
        finally:
            self._past.forget(principal.username)

    @property
    def submits_once(self) -> bool:
        """Whether jobs are, or can be, submitted on the login node, where the receipts are."""
        return self._submissions is not None

    async def submit_once(self, principal: Principal, job: JobDescription, once: Once) -> Submitted:
        """Submit a job by sbatch, unless it was submitted before; in hybrid mode by sbatch, too.

        The job has a mark in its comment. A script in sbatch's place that drops ``--comment`` takes that away.
        """
        try:
            with naming(given(job), ABOUT):
                return await self._marking().submit(principal, job, once)
        finally:
            self._past.forget(principal.username)

    async def submission(self, principal: Principal, once: Once) -> Fate:
        """Return what has become of a submission, by its receipt or by its mark."""
        return await self._marking().find(principal, once)

    async def submit_many(
        self, principal: Principal, wanted: Sequence[tuple[JobDescription, Once | None]]
    ) -> list[Submitted | GatewayError]:
        """Submit jobs by one command on the login node; by slurmrestd alone each by itself."""
        commands = commands_of(self._commands)
        try:
            if commands is None or self._submissions is None:
                return await super().submit_many(principal, wanted)
            told = await Bulk(
                commands.many,
                commands.submitter,
                self._submissions,
                commands.submit,
                prelude=sbatch.PRELUDE,
                direct=sbatch.DIRECT,
            ).submit(principal, wanted)
            return [
                about(one, given(job), ABOUT) if isinstance(one, BadRequest) else one
                for one, (job, _) in zip(told, wanted, strict=True)
            ]
        finally:
            self._past.forget(principal.username)

    async def cancel_many(self, principal: Principal, job_ids: Sequence[str]) -> list[GatewayError | None]:
        """Cancel jobs by one command on the login node; by slurmrestd alone each by itself."""
        commands = commands_of(self._commands)
        if commands is None:
            return await super().cancel_many(principal, job_ids)
        self._past.forget(principal.username)
        parsed = {job_id: found for job_id in job_ids if (found := _read(job_id)) is not None}
        outcomes = dict(zip(parsed, await commands.cancel_many(principal, tuple(parsed.values())), strict=True))
        unknown = tuple(job_id for job_id, outcome in outcomes.items() if outcome is Outcome.UNKNOWN)
        known = await self.several(principal, unknown) if unknown else {}
        return [self._uncancelled(principal, job_id, outcomes.get(job_id), known.get(job_id)) for job_id in job_ids]

    def _uncancelled(
        self,
        principal: Principal,
        job_id: str,
        outcome: Outcome | GatewayError | None,
        known: Jobs | GatewayError | None,
    ) -> GatewayError | None:
        """Return why a job was not cancelled: one that the controller has forgotten has ended, or is another user's."""
        if outcome is None:
            return JobNotFound(job_id)
        if isinstance(outcome, GatewayError):
            return outcome
        if isinstance(known, Jobs):
            foreign = all(job.user not in (None, principal.username) for job in known.jobs)
            return Forbidden(f"Access/permission denied: job {job_id} is another user's") if foreign else None
        return known

    def _marking(self) -> Submissions[JobDescription]:
        if self._submissions is None:
            raise NotSupported("An Idempotency-Key is not supported over slurmrestd alone (connection_mode: rest)")
        return self._submissions

    async def snapshot(self, principal: Principal, *, user: str | None) -> Snapshot:
        """Return the jobs that the controller knows; the database is not asked."""
        records = await self._commands.live(principal, Selection(user=user))
        return await off_loop(len(records), lambda: Snapshot.of(map(runs.seen_of, records)))

    @property
    def tells_events(self) -> bool:
        """Whether the controller is asked by commands."""
        return isinstance(self._commands, CommandLine)

    def apart(self, seen: Seen) -> Sequence[Seen]:
        """Return the tasks of an array that wait together one by one."""
        return runs.apart(seen)

    async def clock(self, principal: Principal) -> int | None:
        """Return the controller's time by sdiag."""
        commands = commands_of(self._commands)
        return None if commands is None else await runs.clock(commands, principal)

    async def closer(self, principal: Principal, found: Sequence[Seen], *, user: str | None) -> Sequence[Seen]:
        """Return jobs with exit status and restarts."""
        commands = commands_of(self._commands)
        return found if commands is None else await runs.closer(commands, principal, found, user)

    async def runs(
        self, principal: Principal, *, user: str | None, since: int | None = None, records: Sequence[str] = ()
    ) -> Sequence[Seen] | None:
        """Return runs of the accounting database."""
        commands = commands_of(self._commands)
        return None if commands is None else await runs.runs(commands, principal, user, since, records)

    def names(self, job_id: str, seen: Seen) -> bool:
        """Return whether an id names a job: of an array, or a heterogeneous job, its tasks and components, too."""
        parsed = _read(job_id)
        return parsed is not None and parsed.matches(seen.job.job_id, seen.raw)

    async def jobs(self, principal: Principal, query: JobQuery) -> Jobs:
        """List jobs, in the order of their ids."""
        window = WINDOW_SECONDS[query.window]
        # Slurm makes names of accounts lower case, and squeue compares letter by letter.
        account = None if query.account is None else query.account.lower()
        selection = Selection(
            user=None if query.all_users else principal.username,
            account=account if _plain(account) else None,
            window=window,
        )
        both = await self._sources.both(principal, selection)
        since = time.time() - window

        def chosen() -> tuple[Job, ...]:
            return tuple(
                job
                for job in (record.job for record in both.records)
                if (query.name is None or job.name == query.name)
                and (account is None or (job.account or "").lower() == account)
                and (job.time.end is None or job.time.end >= since)
            )

        return Jobs(await off_loop(len(both.records), chosen), both.absent.names, both.age)

    async def job(self, principal: Principal, job_id: str) -> Jobs:
        """Return a job, the tasks of an array or the components of a heterogeneous job, whoever owns them."""
        parsed = JobId.parse(job_id)
        records, absent = await self._sources.find(principal, parsed)
        if not records:
            raise absent.of(parsed, job_id)
        return Jobs(tuple(record.job for record in records), absent.names)

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
            found |= await self._look_up(principal, parsed)
        return found

    async def unknown(self, principal: Principal, job_ids: tuple[str, ...]) -> frozenset[str]:
        """Return which ids have not been given out yet.

        Of an older one that is not shown, the job has been forgotten (``MinJobAge``, no slurmdbd) or is hidden
        (``PrivateData``): Slurm itself takes that. slurmrestd does not tell which id is the next.
        """
        missing = await super().unknown(principal, job_ids)
        commands = commands_of(self._commands)
        if not missing or commands is None:
            return missing
        upcoming = await commands.next_id(principal)
        parsed = {shown: JobId.read(shown) for shown in missing}
        older = {shown: one for shown, one in parsed.items() if one is not None and given_out(one, upcoming)}
        parts = {shown: one.base for shown, one in older.items() if one.argument != one.base or one.tasks is not None}
        # A job that is shown has no other tasks than those that are.
        wholes = await self.several(principal, tuple(set(parts.values()))) if parts else {}
        none = {shown for shown, base in parts.items() if isinstance(wholes[base], Jobs)}
        return missing - (older.keys() - none)

    async def _look_up(self, principal: Principal, wanted: Mapping[str, JobId]) -> dict[str, Jobs | GatewayError]:
        """Return jobs by the ids as they were asked for; where that is too much at once, in two halves."""
        try:
            both = await self._sources.by_ids(principal, tuple(wanted.values()))
        except TooLarge:
            if len(wanted) == 1:
                raise
            pairs = list(wanted.items())
            half = len(pairs) // 2
            first = await self._look_up(principal, dict(pairs[:half]))
            return first | await self._look_up(principal, dict(pairs[half:]))
        found: dict[str, Jobs | GatewayError] = {}
        for shown, job_id in wanted.items():
            its = tuple(record.job for record in named(both.records, job_id))
            found[shown] = Jobs(its, both.absent.names) if its else both.absent.of(job_id, shown)
        return found

    async def metadata(self, principal: Principal, job_id: str) -> tuple[JobMetadata, ...]:
        """Return script and standard streams.

        The script is the controller's as long as it knows the job, then the database's if the site stores scripts
        (``AccountingStoreFlags=job_script``). The paths of a job that the controller has forgotten are known from 24.05
        on. What is not known is None.
        """
        parsed = JobId.parse(job_id)
        records, absent = await self._sources.find(principal, parsed)
        if not records:
            raise absent.of(parsed, job_id)
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
        records, absent = await self._sources.find(principal, parsed)
        if not records:
            raise absent.of(parsed, job_id)
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
        except JobNotFound:
            # slurmctld forgets a job soon after its end (slurm.conf(5), MinJobAge), the records know it for longer.
            known = await self.job(principal, job_id)
            raise BadRequest(f"Job {job_id} has no allocation, its state is {known.jobs[0].status.state}") from None
        finally:
            self._past.forget(principal.username)

    async def act(self, principal: Principal, job_id: str, action: Action) -> None:
        """Hold, release, requeue, suspend or resume a job by scontrol; slurmrestd can hold and release.

        Slurm lets operators only suspend and resume; users have the signals STOP and CONT.
        """
        parsed = JobId.parse(job_id)
        await self._controlled(principal, job_id, self._commands.control.act(principal, parsed, action))

    async def signal(self, principal: Principal, job_id: str, number: int) -> None:
        """Send a signal to all processes of a job, its batch script included, by scancel or slurmrestd."""
        parsed = JobId.parse(job_id)
        # For a job that waits scancel would try for a minute and a half; of one that has ended slurmrestd says nothing.
        live = named(await self._commands.live(principal, Selection(ids=(parsed,))), parsed)
        if live and all(record.job.user in (None, principal.username) for record in live):
            if all(record.job.status.state == "PENDING" for record in live):
                raise Conflict(f"Job is pending execution: {job_id}")
            if all(record.ended for record in live):
                raise Conflict(f"Job {job_id} has ended, its state is {live[0].job.status.state}")
        await self._controlled(principal, job_id, self._commands.control.signal(principal, parsed, number))

    async def change(self, principal: Principal, job_id: str, changes: JobChanges) -> None:
        """Change a job by scontrol or slurmrestd. A new comment keeps the mark by which a submission is found."""
        parsed = JobId.parse(job_id)
        with naming(changes.given(), ABOUT):
            await self._controlled(principal, job_id, self._commands.control.change(principal, parsed, changes))

    async def _controlled(self, principal: Principal, job_id: str, doing: Awaitable[None]) -> None:
        """Do something to a job; one that the controller does not know may be one that has ended.

        Raises:
            Conflict: It has.
            Forbidden: It was another user's.
        """
        try:
            await doing
        except JobNotFound:
            parsed = JobId.parse(job_id)
            records, absent = await self._sources.find(principal, parsed)
            if not records:
                raise absent.of(parsed, job_id) from None
            if all(record.job.user not in (None, principal.username) for record in records):
                raise Forbidden(f"Access/permission denied: job {job_id} is another user's") from None
            state = records[0].job.status.state
            raise Conflict(f"Job {job_id} has ended, its state is {state}") from None
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
        accounts = await self._sources.ask_database(principal, lambda: self._commands.accounts(principal), needed=False)
        if isinstance(accounts, TimedOut):
            _log.warning("slurm.accounts_unavailable", system=self.system, words=accounts.message)
            return None
        if isinstance(accounts, GatewayError | NoHistory):
            raise accounts
        return accounts

    async def allocations(self, principal: Principal) -> tuple[Allocation, ...]:
        """Return how much of the user's accounts is left, by ``scontrol show assoc_mgr``."""
        commands = commands_of(self._commands)
        if commands is None:
            raise NotSupported("Allocations are not supported over slurmrestd alone (connection_mode: rest)")
        return await commands.allocations(principal)

    async def ping(self, principal: Principal) -> None:
        """Ask the controllers."""
        await self._commands.ping(principal)

    async def installed_version(self, principal: Principal) -> str | None:
        """Ask the commands, or slurmrestd where there are none."""
        return await self._commands.installed_version(principal)

    async def offered(self, principal: Principal) -> tuple[str, ...] | None:
        """Return the data versions that slurmrestd offers, the oldest first."""
        return await self._commands.offered(principal) if isinstance(self._commands, Rest) else None

    async def close(self) -> None:
        """Close the connections to slurmrestd."""
        if isinstance(self._commands, Rest):
            await self._commands.close()


def _read(job_id: str) -> JobId | None:
    try:
        return JobId.parse(job_id)
    except JobNotFound:
        return None


def _plain(account: str | None) -> bool:
    """Return whether a name can stand in one of Slurm's comma-separated lists as it is."""
    return account is not None and account.replace("-", "").replace("_", "").replace(".", "").isalnum()
