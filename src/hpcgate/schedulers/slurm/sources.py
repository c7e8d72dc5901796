"""The two who know jobs of Slurm, asked together: the controller what is now, the accounting database what was."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import structlog

from hpcgate.auth import Principal
from hpcgate.errors import CommandFailed, GatewayError, JobNotFound, SchedulerUnavailable, TimedOut, TooLarge
from hpcgate.schedulers.base import LIVE
from hpcgate.schedulers.slurm.client import Client
from hpcgate.schedulers.slurm.command_line import NoHistory
from hpcgate.schedulers.slurm.history_cache import HistoryCache, who
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.records import Record, Selection, merged
from hpcgate.schedulers.slurm.silence import Silences
from hpcgate.threads import off_loop

_log = structlog.get_logger(__name__)

_DEGRADES = (SchedulerUnavailable, TimedOut, CommandFailed)
"""What one of two sources may raise without the answer failing."""

Answer = TypeVar("Answer")

Told = list[Record] | GatewayError | NoHistory
"""What a source said, or why it said nothing."""

_SMALL = Selection(ids=(JobId("1"),))
"""A question that costs the database next to nothing."""

SILENT = "slurmdbd does not answer"


@dataclass(slots=True)
class Absent:
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
class Both:
    """What both sources say together."""

    records: list[Record]
    absent: Absent
    age: float


class Sources:
    """Asks both, and makes one list of what they say. One that does not answer is missing from it.

    Args:
        system: The system's name.
        client: How the two are reached.
        past: What the database said last.
        patience: Seconds after which a database that has not answered is asked something small.
    """

    def __init__(self, system: str, client: Client, past: HistoryCache, patience: float) -> None:
        self.system = system
        self._client = client
        self._past = past
        self._patience = patience
        self._silences = Silences()

    async def find(self, principal: Principal, job_id: JobId) -> tuple[list[Record], Absent]:
        """Return the jobs that an id names, and what is missing from the answer."""
        both = await self.by_ids(principal, (job_id,))
        return named(both.records, job_id), both.absent

    async def by_ids(self, principal: Principal, ids: tuple[JobId, ...]) -> Both:
        """Return the jobs that the ids name.

        Tasks that never began have one row together, ``33_[0-9]``, which the database gives to those who ask for the
        array, not for the task. So a task that nobody knows by itself is looked for among all of its array.
        """
        both = await self.both(principal, Selection(ids=ids))
        alone = [job_id for job_id in ids if job_id.task is not None and not named(both.records, job_id)]
        if not alone:
            return both
        arrays = tuple(dict.fromkeys(JobId(job_id.base) for job_id in alone))
        whole = await self.both(principal, Selection(ids=arrays, steps=False))
        together = [
            record
            for record in whole.records
            if _together(record) and any(job_id.matches(record.job.job_id, record.raw) for job_id in alone)
        ]
        absent = Absent(both.absent.sources | whole.absent.sources, [*both.absent.partial, *whole.absent.partial])
        return Both([*both.records, *together], absent, max(both.age, whole.age))

    async def both(self, principal: Principal, selection: Selection) -> Both:
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
        absent = Absent()
        if isinstance(live, GatewayError):
            if isinstance(history, GatewayError) and ids and live.status == GatewayError.status:
                # Either may know the jobs, and one that makes no sense now is no better than one that says nothing.
                raise SchedulerUnavailable(f"the controller did not answer: {live.message}; {history.message}")
            if isinstance(history, GatewayError | NoHistory):
                raise live
            _log.warning("slurm.degraded", system=self.system, missing=LIVE, error=live.message)
            absent.sources[LIVE] = f"the controller did not answer: {live.message}"
            live = []
        if isinstance(history, GatewayError):
            _log.warning("slurm.degraded", system=self.system, missing="history", error=history.message)
            absent.sources["history"] = f"the accounting database did not answer: {history.message}"
        now = live if isinstance(live, list) else []
        told = history if isinstance(history, list) else []
        count = len(now) + len(told)
        past, absent.partial = await off_loop(count, lambda: _known_whole(now, told))
        settled = await self._settled(principal, now, past)
        return Both(await off_loop(count, lambda: merged(settled, past)), absent, age)

    async def _ask_both(self, principal: Principal, selection: Selection) -> tuple[Told, Told, float]:
        """Ask the controller, and the database at the same time unless what it said last may hold, or it is silent."""
        asker = who(principal)
        asking_live = _answer(self._client.live(principal, selection))
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

    async def _ask_history(self, principal: Principal, selection: Selection, *, needed: bool) -> Told:
        """Ask the database for jobs; one that was silent only if it is this request's turn."""
        history = await self.ask_database(principal, lambda: self._client.history(principal, selection), needed=needed)
        return SchedulerUnavailable(SILENT) if history is None else history

    async def ask_database(
        self, principal: Principal, asking: Callable[[], Coroutine[Any, Any, Answer]], *, needed: bool
    ) -> Answer | GatewayError | NoHistory | None:
        """Return what the database answers; None if it was silent, and still is or is somebody else's turn to ask.

        Args:
            principal: Who asks.
            asking: The question, begun only if it is to be asked.
            needed: Whether nobody else may know the answer.
        """
        silence = self._silences.of(principal.username)
        if silence.on:
            with silence.turn(needed=needed) as mine:
                if not mine or not await self._speaks(principal):
                    return None
        return await self._patiently(principal, asking())

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
                answer = await _answer(self._client.history(principal, _SMALL))
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
            answer = await _answer(self._client.exits(principal, Selection(ids=unsettled)))
            exits = answer if isinstance(answer, dict) else {}
        nameless = any(not record.job.cluster for record in live)
        cluster = await self._client.cluster(principal) if nameless else ""

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


def _needs_history(live: Told, selection: Selection) -> bool:
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


def named(records: Sequence[Record], job_id: JobId) -> list[Record]:
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
