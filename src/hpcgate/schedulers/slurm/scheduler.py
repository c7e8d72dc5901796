"""The Slurm scheduler."""

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

import structlog

from hpcgate.auth import Principal
from hpcgate.errors import (
    BadRequest,
    CommandFailed,
    Conflict,
    Forbidden,
    GatewayError,
    JobNotFound,
    NotSupported,
    SchedulerUnavailable,
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
from hpcgate.schedulers.slurm import attributes, sbatch
from hpcgate.schedulers.slurm.client import client, commands_of
from hpcgate.schedulers.slurm.command_line import NoHistory
from hpcgate.schedulers.slurm.failures import ABOUT
from hpcgate.schedulers.slurm.history_cache import HistoryCache, who
from hpcgate.schedulers.slurm.job_ids import JobId, given_out
from hpcgate.schedulers.slurm.options import OPTIONS
from hpcgate.schedulers.slurm.records import Record, Selection, merged
from hpcgate.schedulers.slurm.rest.backend import Rest
from hpcgate.schedulers.slurm.scancel import Outcome
from hpcgate.schedulers.slurm.settings import SlurmSettings
from hpcgate.schedulers.slurm.silence import Silences
from hpcgate.schedulers.snapshot import Seen, Snapshot
from hpcgate.ssh.pool import Pool
from hpcgate.threads import off_loop

_log = structlog.get_logger(__name__)

_DEGRADES = (SchedulerUnavailable, TimedOut, CommandFailed)
"""What one of two sources may raise without the answer failing."""

Answer = TypeVar("Answer")

_Told = list[Record] | GatewayError | NoHistory
"""What a source said, or why it said nothing."""

LAUNCHERS: Mapping[str, Sequence[str]] = MappingProxyType({NO_LAUNCHER: (), "srun": ("srun",), "mpirun": ("mpirun",)})
"""Those of a site that names none."""

_SMALL = Selection(ids=(JobId("1"),))
"""A question that costs the database next to nothing."""

SILENT = "slurmdbd does not answer"


@dataclass(slots=True)
class _Absent:
    """What is missing from an answer.

    Attributes:
        sources: The sources that did not answer, with the reason.
        partial: Jobs of which the database has been told only a part.
    """

    sources: dict[str, str] = field(default_factory=dict)
    partial: Sequence[Record] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of `Jobs.missing`."""
        return tuple(dict.fromkeys([*self.sources, *(["history"] if self.partial else [])]))

    def of(self, job_id: JobId, shown: str) -> GatewayError:
        """Return the error for a job that is in no answer: unknown only if everybody who could know it answered."""
        reasons = list(self.sources.values())
        # Of an array the number alone may be all that the database has been told.
        if any(job_id.matches(record.job.job_id, record.raw) or record.raw == job_id.base for record in self.partial):
            reasons.append("the accounting database has been told only a part of it")
        if reasons:
            return SchedulerUnavailable(f"Job {shown} cannot be looked up now: {'; '.join(reasons)}")
        return JobNotFound(shown)


@dataclass(frozen=True, slots=True)
class _Both:
    """What both sources say together."""

    records: list[Record]
    absent: _Absent
    age: float


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
            None if commands is None else Submissions(pool, commands, settings.timeout, dict(settings.environment))
        )
        self._launchers = settings.launchers or LAUNCHERS
        self._past = HistoryCache(settings.history_cache)
        self._silences = Silences()
        # A third of it for an answer, the rest for something small.
        self._patience = min(settings.history_timeout, settings.timeout) / 3

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
                commands,
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
        found = (Seen(record.job, record.raw, record.submitted) for record in records)
        return await off_loop(len(records), lambda: Snapshot.of(found))

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
        both = await self._both(principal, selection)
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
        records, absent = await self._find(principal, parsed)
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
            both = await self._by_ids(principal, tuple(wanted.values()))
        except TooLarge:
            if len(wanted) == 1:
                raise
            pairs = list(wanted.items())
            half = len(pairs) // 2
            first = await self._look_up(principal, dict(pairs[:half]))
            return first | await self._look_up(principal, dict(pairs[half:]))
        found: dict[str, Jobs | GatewayError] = {}
        for shown, job_id in wanted.items():
            its = tuple(record.job for record in _named(both.records, job_id))
            found[shown] = Jobs(its, both.absent.names) if its else both.absent.of(job_id, shown)
        return found

    async def metadata(self, principal: Principal, job_id: str) -> tuple[JobMetadata, ...]:
        """Return script and standard streams.

        The script is the controller's as long as it knows the job, then the database's if the site stores scripts
        (``AccountingStoreFlags=job_script``). The paths of a job that the controller has forgotten are known from 24.05
        on. What is not known is None.
        """
        parsed = JobId.parse(job_id)
        records, absent = await self._find(principal, parsed)
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
        records, absent = await self._find(principal, parsed)
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
        live = _named(await self._commands.live(principal, Selection(ids=(parsed,))), parsed)
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
            records, absent = await self._find(principal, parsed)
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
        silence = self._silences.of(principal.username)
        if silence.on:
            with silence.turn(needed=False) as mine:
                if not mine or not await self._speaks(principal):
                    return None
        accounts = await self._patiently(principal, self._commands.accounts(principal))
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

    async def _find(self, principal: Principal, job_id: JobId) -> tuple[list[Record], "_Absent"]:
        both = await self._by_ids(principal, (job_id,))
        return _named(both.records, job_id), both.absent

    async def _by_ids(self, principal: Principal, ids: tuple[JobId, ...]) -> "_Both":
        """Return the jobs that the ids name.

        Tasks that never began have one row together, ``33_[0-9]``, which the database gives to those who ask for the
        array, not for the task. So a task that nobody knows by itself is looked for among all of its array.
        """
        both = await self._both(principal, Selection(ids=ids))
        alone = [job_id for job_id in ids if job_id.task is not None and not _named(both.records, job_id)]
        if not alone:
            return both
        arrays = tuple(dict.fromkeys(JobId(job_id.base) for job_id in alone))
        whole = await self._both(principal, Selection(ids=arrays, steps=False))
        together = [
            record
            for record in whole.records
            if _together(record) and any(job_id.matches(record.job.job_id, record.raw) for job_id in alone)
        ]
        absent = _Absent(both.absent.sources | whole.absent.sources, [*both.absent.partial, *whole.absent.partial])
        return _Both([*both.records, *together], absent, max(both.age, whole.age))

    async def _both(self, principal: Principal, selection: Selection) -> "_Both":
        """Return the selected jobs of both sources.

        Raises:
            GatewayError: Neither answered; the controller's own error, but for an answer that makes no sense to a
                question for single jobs, which is `SchedulerUnavailable`.
            TooLarge: One source has more to say of several single jobs than is read.
        """
        live, history, age = await self._ask_both(principal, selection)
        ids = selection.ids or ()
        if len(ids) > 1 and (large := next((one for one in (live, history) if isinstance(one, TooLarge)), None)):
            raise large
        degrades = (*_DEGRADES, TooLarge) if ids else _DEGRADES
        if isinstance(live, GatewayError) and not isinstance(live, degrades):
            raise live
        absent = _Absent()
        if isinstance(live, GatewayError):
            if isinstance(history, GatewayError) and ids and live.status == GatewayError.status:
                # Either may know the jobs, and one that makes no sense now is no better than one that says nothing.
                raise SchedulerUnavailable(f"the controller did not answer: {live.message}; {history.message}")
            if isinstance(history, GatewayError | NoHistory):
                raise live
            _log.warning("slurm.degraded", system=self.system, missing="live", error=live.message)
            absent.sources["live"] = f"the controller did not answer: {live.message}"
            live = []
        if isinstance(history, GatewayError):
            _log.warning("slurm.degraded", system=self.system, missing="history", error=history.message)
            absent.sources["history"] = f"the accounting database did not answer: {history.message}"
        now = live if isinstance(live, list) else []
        told = history if isinstance(history, list) else []
        count = len(now) + len(told)
        past, absent.partial = await off_loop(count, lambda: _known_whole(now, told))
        settled = await self._settled(principal, now, past)
        return _Both(await off_loop(count, lambda: merged(settled, past)), absent, age)

    async def _ask_both(self, principal: Principal, selection: Selection) -> tuple[_Told, _Told, float]:
        """Ask the controller, and the database at the same time unless what it said last may hold, or it is silent."""
        asker = who(principal)
        asking_live = _answer(self._commands.live(principal, selection))
        if self._past.known(asker, selection) or self._silences.of(principal.username).on:
            live = await asking_live
            if isinstance(live, list) and (kept := self._past.get(asker, selection, live)) is not None:
                return live, *kept
            history = await self._ask_history(principal, selection, needed=_needs_history(live, selection))
        else:
            async with asyncio.TaskGroup() as group:
                first = group.create_task(asking_live)
                second = group.create_task(self._ask_history(principal, selection, needed=False))
            live, history = first.result(), second.result()
        if isinstance(live, list) and isinstance(history, list):
            self._past.put(asker, selection, live, history)
        return live, history, 0.0

    async def _ask_history(self, principal: Principal, selection: Selection, *, needed: bool) -> _Told:
        """Ask the database; one that was silent only if it is this request's turn."""
        silence = self._silences.of(principal.username)
        if silence.on:
            with silence.turn(needed=needed) as mine:
                if not mine or not await self._speaks(principal):
                    return SchedulerUnavailable(SILENT)
        return await self._patiently(principal, self._commands.history(principal, selection))

    async def _patiently(
        self, principal: Principal, asked: Coroutine[Any, Any, Answer]
    ) -> Answer | GatewayError | NoHistory:
        """Return what the database answers, or `TimedOut` as soon as it is found silent.

        While it takes long it is asked something small, by which a slow answer is told from none.
        """
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(_answer(asked))
            await asyncio.wait({asking}, timeout=self._patience)
            if not asking.done() and not await self._speaks(principal) and not asking.done():
                asking.cancel()
                return TimedOut(SILENT)
            return await asking

    async def _speaks(self, principal: Principal) -> bool:
        """Return whether the database answers something small, and remember it."""
        try:
            async with asyncio.timeout(2 * self._patience):
                answer = await _answer(self._commands.history(principal, _SMALL))
        except TimeoutError:
            answer = TimedOut(SILENT)
        if isinstance(answer, TimedOut):
            self._silences.begin(principal.username)
            return False
        self._silences.end(principal.username)
        return True

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

        def completed() -> list[Record]:
            return [_complete(record, cluster, exits.get(record.raw) if record.ended else None) for record in live]

        return await off_loop(len(live), completed)


def _complete(record: Record, cluster: str, exits: tuple[int | None, int | None] | None) -> Record:
    job = record.job
    if exits is not None and exits[0] is not None:
        job = replace(job, status=replace(job.status, exit_code=exits[0], interrupt_signal=exits[1]))
    return replace(record, job=replace(job, cluster=job.cluster or cluster))


async def _answer(asked: Coroutine[Any, Any, Answer]) -> Answer | GatewayError | NoHistory:
    """Return the answer, or the error: a task group would wrap it."""
    try:
        return await asked
    except (GatewayError, NoHistory) as error:
        return error


def _needs_history(live: _Told, selection: Selection) -> bool:
    """Return whether the database may know what the controller did not say."""
    if not isinstance(live, list):
        return True
    return any(not any(job_id.matches(job.job.job_id, job.raw) for job in live) for job_id in selection.ids or ())


def _known_whole(live: Sequence[Record], past: list[Record]) -> tuple[list[Record], list[Record]]:
    """Tell apart what the database knows whole, and jobs of which it has only a part and the controller nothing.

    It has been told of a step or of the end before it was told of the start, and makes up the rest: the name
    ``allocation``, the state PENDING.
    """
    alive = {record.raw for record in live}
    partial = [record for record in past if not record.whole and record.raw not in alive]
    return [record for record in past if record.whole or record.raw in alive], partial


def _named(records: Sequence[Record], job_id: JobId) -> list[Record]:
    """Return the jobs that an id names; one task of an array whose tasks wait together is shown by itself."""
    found = [record for record in records if job_id.matches(record.job.job_id, record.raw)]
    if job_id.task is None:
        return found
    return [_as_task(record, job_id.argument) for record in found]


def _as_task(record: Record, shown: str) -> Record:
    return replace(record, job=replace(record.job, job_id=shown)) if _together(record) else record


def _together(record: Record) -> bool:
    """Return whether a record is that of the tasks of an array that have not begun."""
    return "_[" in record.job.job_id


def _read(job_id: str) -> JobId | None:
    try:
        return JobId.parse(job_id)
    except JobNotFound:
        return None


def _plain(account: str | None) -> bool:
    """Return whether a name can stand in one of Slurm's comma-separated lists as it is."""
    return account is not None and account.replace("-", "").replace("_", "").replace(".", "").isalnum()
