"""What has become of the jobs of one user since somebody began to follow them, in the order in which it was found."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from hpcgate.errors import GatewayError
from hpcgate.gateway.job_changes import NOTHING, Change, Kind, Position, Step, changes_of, started
from hpcgate.schedulers.base import Job, JobStatus
from hpcgate.schedulers.snapshot import Seen, number_of

MAX_KEPT = 20_000
"""Changes that are kept for those who come back, and for those who are slow."""
MAX_APART = 20_000
"""Tasks that wait together and are told of one by one, of all arrays of a user; others are told of once they begin."""
SETTLING = 60.0
"""Seconds after which what the records have not told by then is taken for what they never will."""
TRUSTED = 600.0
"""Seconds for which the gateway's clock is taken to go as the controller's does."""
FRESH = 15
"""Seconds after the end of a run that was requeued within which the records may still be told of its start."""


@dataclass(frozen=True, slots=True)
class Passing:
    """What has no time in any record: why a job waits, that it was suspended, that it is being cleaned up."""

    name: str
    job: Job


@dataclass(slots=True)
class _Known:
    """A job.

    Attributes:
        seen: Its run, as it was seen last.
        told: How far it was told.
        restarts: How often it had been requeued then.
    """

    seen: Seen
    told: Step
    restarts: int


class Ledger:
    """The changes of one user's jobs.

    Args:
        apart: Returns tasks of an array that wait together as jobs of their own.

    Attributes:
        complete: Everything up to this second has been found, but for the jobs that are behind; Unix seconds.
        behind: Jobs of which more has happened than can be told yet, and how far they were told.
        trouble: Why something could not be read the last time.
        since: The latest that had happened when it began; None before the first list.
        dropped: How many changes have been found and are not kept any more.
    """

    def __init__(self, apart: Callable[[Seen], Sequence[Seen]]) -> None:
        self._apart = apart
        self._known: dict[str, _Known] = {}
        self._tasks: dict[str, tuple[Seen, Sequence[Seen]]] = {}
        self._log: list[Change | Passing] = []
        self.complete = 0
        self.behind: dict[str, Step] = {}
        self.trouble: GatewayError | None = None
        self.since: int | None = None
        self.dropped = 0
        self._clock: tuple[int, float] | None = None
        self._missing: dict[str, float] = {}
        self._base: dict[str, Step] = {}
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Ledger {len(self._known)} jobs, {self.end} changes>"

    @property
    def end(self) -> int:
        """How many changes have been found."""
        return self.dropped + len(self._log)

    @property
    def unsettled(self) -> bool:
        """Whether more is about to be known soon."""
        return bool(self.behind) or any(
            isinstance(one, Change) and one.time > self.complete for one in self._log[-100:]
        )

    def after(self, number: int) -> Sequence[Change | Passing] | None:
        """Return the changes behind the first ones; None if they are not kept any more."""
        return None if number < self.dropped else self._log[number - self.dropped :]

    def now(self) -> Sequence[tuple[Seen, Step, int]]:
        """Return the jobs as they are, how far they were told, and how often they were requeued."""
        return [(one.seen, one.told, one.restarts) for one in self._known.values()]

    def changed(self) -> Coroutine[Any, Any, object]:
        """Return what waits until there is something new, counted from this call on."""
        return self._changed.wait()

    def set_clock(self, time: int, at: float) -> None:
        """Take note of what the controller's clock showed at least at a time by the loop's clock."""
        self._clock = time, at

    def tell(self) -> None:
        """Wake those who wait."""
        self._changed.set()
        self._changed = asyncio.Event()

    def new(self, found: Iterable[Seen]) -> list[Seen]:
        """Return of what was found what is to be asked for in more detail: what is new, and what has ended."""
        wanted = []
        for seen in found:
            one = self._parts(seen)
            known = self._known.get(one[0].job.job_id) if one else None
            if known is None or known.seen.mark != seen.mark or one[0].job.job_id in self.behind:
                wanted.append(seen)
        return wanted

    def gaps(self, found: Mapping[str, Seen]) -> list[str]:
        """Return the records of which earlier runs have to be looked up."""
        jobs = self._jobs(found.values())
        gone = [one.seen.raw for job_id, one in self._known.items() if job_id not in jobs and not _ended(one)]
        return [*(seen.raw for seen in jobs.values() if self._needs_past(seen)), *gone]

    def _jobs(self, found: Iterable[Seen]) -> dict[str, Seen]:
        jobs: dict[str, Seen] = {}
        room = MAX_APART
        for seen in found:
            parts = self._parts(seen)
            if len(parts) > 1:
                room -= len(parts)
                if room < 0:
                    continue
            jobs.update((one.job.job_id, one) for one in parts)
        return jobs

    def _parts(self, seen: Seen) -> Sequence[Seen]:
        """Return the tasks of an array that wait together, the same objects as long as nothing happens to them."""
        kept = self._tasks.get(seen.raw)
        if kept is not None and kept[0] == seen:
            return kept[1]
        parts = self._apart(seen)
        if len(parts) > 1:
            self._tasks[seen.raw] = seen, parts
        else:
            self._tasks.pop(seen.raw, None)
        return parts

    def _told_of(self, job_id: str) -> _Known | None:
        """Return what is known of a job of which something has been told."""
        known = self._known.get(job_id)
        return None if known is None or known.told == NOTHING else known

    def _needs_past(self, seen: Seen) -> bool:
        known = self._told_of(seen.job.job_id)
        if self.since is None:
            return False
        if known is None:
            return bool(seen.restarts)
        return (seen.submitted or 0) > (known.seen.submitted or 0) and (
            not _ended(known) or (seen.restarts or 0) - known.restarts != 1
        )

    def take(
        self,
        found: Mapping[str, Seen],
        past: Mapping[str, Sequence[Seen]] | None,
        asked: float,
        answered: float,
    ) -> None:
        """Find what has changed.

        Args:
            found: What the controller knows, by id.
            past: The runs in the database of the records that were asked for, None if there is no database.
            asked: When the controller was asked, by the loop's clock.
            answered: When it had answered.
        """
        jobs = self._jobs(found.values())
        self._advance(jobs.values(), asked, answered)
        behind: dict[str, Step] = {}
        whole = self._wholes(jobs)
        for job_id, seen in jobs.items():
            before = self._known.get(job_id)
            if before is not None and before.seen is seen and job_id not in self.behind and not seen.between:
                continue  # a task that still waits with others
            if self.since is None or job_id in whole:
                self._known[job_id] = _Known(seen, step_of(seen), seen.restarts or 0)
            elif not self._follow(seen, past, answered):
                known = self._known.get(job_id)
                behind[job_id] = NOTHING if known is None else known.told
            if seen.between:
                behind.setdefault(job_id, self._known[job_id].told if job_id in self._known else NOTHING)
        for job_id in [job_id for job_id in self._known if job_id not in jobs]:
            if (end := whole.get(number_of(job_id))) is not None:
                self._end_with(job_id, end)
            elif not self._bury(job_id, past, answered):
                behind[job_id] = self._known[job_id].told
        self.behind = behind
        if self.since is None:
            self.since = max((time for seen in jobs.values() for time in _times(seen)), default=self.complete)
            self._base = {job_id: one.told for job_id, one in self._known.items()}
        present = {seen.raw for seen in found.values()}
        self._tasks = {raw: kept for raw, kept in self._tasks.items() if raw in present}
        surplus = len(self._log) - MAX_KEPT
        if surplus > 0:
            del self._log[:surplus]
            self.dropped += surplus
        self.tell()

    def has_all_since(self, position: Position) -> bool:
        """Return whether all that happened behind a position is among the changes that are kept."""
        if self.since is None or self.dropped or position.place[0] <= self.since:
            return False
        return all(step >= self._base.get(job_id, NOTHING) for job_id, step in position.apart.items())

    def _wholes(self, jobs: Mapping[str, Seen]) -> dict[str, Seen]:
        """Return arrays, by number, whose tasks were all cancelled together: each of them is shown as one job then."""
        tasks = {one.seen.raw for job_id, one in self._known.items() if job_id not in jobs and job_id != one.seen.raw}
        return {
            job_id: seen
            for job_id, seen in jobs.items()
            if job_id not in self._known and job_id == seen.raw in tasks and step_of(seen)[1] == Kind.ENDED
        }

    def _end_with(self, job_id: str, array: Seen) -> None:
        """Tell that a task has ended with its whole array."""
        known = self._known.pop(job_id)
        if not _ended(known) and array.job.time.end is not None:
            job = replace(array.job, job_id=job_id)
            self._log.append(Change(array.job.time.end, job, known.seen.submitted or 0, Kind.ENDED))

    def _advance(self, jobs: Iterable[Seen], asked: float, answered: float) -> None:
        """Find a second that was over by the controller's clock when it was asked."""
        # A job that is requeued in the second of its submission has the next one for the new run.
        latest = max((time for seen in jobs for time in _times(seen)), default=1) - 1
        bound = latest
        if self._clock is not None and answered - self._clock[1] < TRUSTED:
            bound = max(latest, self._clock[0] + int(asked - self._clock[1]))
        self.complete = max(self.complete, bound - 1)
        if self._clock is None or latest >= self._clock[0] + int(answered - self._clock[1]):
            self._clock = latest, answered

    def _follow(self, seen: Seen, past: Mapping[str, Sequence[Seen]] | None, now: float) -> bool:
        """Tell what has become of a job; return whether all that has could be told."""
        job_id = seen.job.job_id
        known = self._told_of(job_id)
        runs, first = [seen], known is None and not seen.restarts
        if self._needs_past(seen):
            earlier = self._earlier(seen, known, past, settled=self._has_waited(job_id, now))
            if earlier is None:
                self._known.setdefault(job_id, _Known(seen, NOTHING, 0))
                return False
            runs, first = [*earlier, seen], known is None and bool(earlier)
        self._missing.pop(job_id, None)
        told = NOTHING if known is None else known.told
        before = told
        for change in changes_of(runs, first=first):
            if change.step > told:
                self._log.append(change)
                told = change.step
        if known is not None and told == before and (name := _passing(known.seen.job, seen.job)):
            self._log.append(Passing(name, seen.job))
        restarts = (0 if known is None else known.restarts) if seen.restarts is None else seen.restarts
        self._known[job_id] = _Known(seen, told, restarts)
        return True

    def _earlier(
        self, seen: Seen, known: _Known | None, past: Mapping[str, Sequence[Seen]] | None, *, settled: bool
    ) -> list[Seen] | None:
        """Return the runs before this one that have not been told to their ends; None if they are not known yet.

        Args:
            settled: Whether what the database does not know by now it never will.
        """
        run = seen.submitted or 0
        if past is None:
            return [] if known is None else [_cut_short(known.seen, run)]
        begin = 0 if known is None else known.seen.submitted or 0
        rows = [row for row in past.get(seen.raw, ()) if begin <= (row.submitted or 0) < run]
        needed = max(1, (seen.restarts or 0) - (0 if known is None else known.restarts))
        if not settled and (len(rows) < needed or self.lacks(rows)):
            return None
        if known is not None and (not rows or rows[0].submitted != known.seen.submitted):
            rows = [_cut_short(known.seen, run), *rows]
        return rows

    def lacks(self, runs: Iterable[Seen]) -> bool:
        """Return whether the records are about to be told more of runs that were requeued: their ends, or starts."""
        times = [run.job.time for run in runs]
        return any(one.end is None or (one.start is None and one.end > self.complete - FRESH) for one in times)

    def _bury(self, job_id: str, past: Mapping[str, Sequence[Seen]] | None, now: float) -> bool:
        """Forget a job that the controller has forgotten; return False if it is not known yet how it has ended."""
        known = self._known[job_id]
        if not _ended(known):
            rows = [row for row in (past or {}).get(known.seen.raw, ()) if row.job.job_id == job_id]
            begin = 0 if known.told == NOTHING else known.seen.submitted or 0
            rows = [row for row in rows if (row.submitted or 0) >= begin]
            unknown = not rows or rows[-1].job.time.end is None
            if (unknown or self.lacks(rows)) and past is not None and not self._has_waited(job_id, now):
                return False
            if unknown:
                # Such as a task that was cancelled while it waited with others of its array: it is in no record.
                lost = replace(known.seen.job, status=JobStatus("UNKNOWN"))
                self._log.append(Change(self.complete, lost, known.seen.submitted or 0, Kind.ENDED))
            else:
                self._log += [change for change in changes_of(rows) if change.step > known.told]
        self._missing.pop(job_id, None)
        del self._known[job_id]
        return True

    def _has_waited(self, job_id: str, now: float) -> bool:
        """Return whether the database has had its time to be told of a job."""
        if self.trouble is not None:
            self._missing.pop(job_id, None)
            return False
        return now - self._missing.setdefault(job_id, now) >= SETTLING


def step_of(seen: Seen) -> Step:
    """Return how far a job has come."""
    *_, last = changes_of([seen])
    return last.step


def _ended(known: _Known) -> bool:
    return known.told == (known.seen.submitted or 0, Kind.ENDED)


def _times(seen: Seen) -> Iterator[int]:
    times = seen.submitted, started(seen), seen.job.time.end
    return (time for time in times if time is not None)


def _cut_short(seen: Seen, end: int) -> Seen:
    """Return a run as it is known of one that was requeued at some time, if nobody says more: it must have started."""
    time = seen.job.time
    job = replace(
        seen.job,
        status=JobStatus("REQUEUED"),
        time=replace(time, start=end if started(seen) is None else time.start, end=end),
        allocation_nodes=seen.job.allocation_nodes or 1,
    )
    return replace(seen, job=job)


def _passing(before: Job, now: Job) -> str | None:
    """Return the name of the event of what has no time in any record, if there is one."""
    state = now.status.state
    if state == "PENDING" and before.status.state == state and before.status.state_reason != now.status.state_reason:
        return "job.pending"
    return _PASSING.get(state) if before.status.state != state else None


_PASSING: Mapping[str, str] = MappingProxyType({"SUSPENDED": "job.suspended", "COMPLETING": "job.completing"})
