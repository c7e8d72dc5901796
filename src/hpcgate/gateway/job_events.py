"""What one client is told of jobs: the state now, or what it has missed, then what follows; each change once."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from hpcgate.errors import GatewayError, Gone, Unavailable
from hpcgate.gateway.job_changes import Change, Key, Kind, Position, Step, changes_of
from hpcgate.gateway.ledger import SETTLING, Ledger, Passing
from hpcgate.schedulers.base import Job
from hpcgate.schedulers.snapshot import Seen

AGAIN = 2.0
"""Seconds until the database is asked again for what it does not know yet."""
MARGIN = 3600
"""Seconds before the cursor from which on the database is asked: what is told late happened before."""
REMEMBERED = 300
"""Seconds for which a controller remembers a job that has ended (Slurm's MinJobAge), where there is no database."""


_NEVER: Key = (sys.maxsize, "", 0, 0)


@dataclass(frozen=True, slots=True)
class State:
    """The jobs as they are when a client begins."""

    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Degraded:
    """The scheduler cannot be asked now."""

    message: str


@dataclass(frozen=True, slots=True)
class Told:
    """What a client is told, and where it goes on that has been told this."""

    what: Change | Passing | State | Degraded
    position: Position | None = None


History = Callable[[int], Awaitable[Sequence[Seen] | None]]
"""Returns the runs in the database of which anything happened since a time; None where there is no database."""


class JobEvents:
    """Tells one client.

    Args:
        ledger: What has become of the user's jobs.
        history: Asks the database.
        wants: Whether a job is one of those that are followed.
        after: What the client has been told; None if it begins.
        known: The jobs that are followed until they are over, as they were read; None if it is not for single jobs.
    """

    def __init__(
        self,
        ledger: Ledger,
        history: History,
        wants: Callable[[Job], bool],
        *,
        after: Position | None = None,
        known: Sequence[Seen] | None = None,
    ) -> None:
        self._ledger = ledger
        self._history = history
        self._wants = wants
        self._after = after
        self._known = known
        self._number = 0
        self._pending: list[Change] = []
        self._place: Key = (0, "", 0, 0)
        self._apart: dict[str, Step] = {}
        self._ahead: dict[str, Key] = {}
        self._over: set[str] = {one.job.job_id for one in known or () if one.job.time.end is not None}
        self._trouble: GatewayError | None = None

    @property
    def _position(self) -> Position:
        return Position(self._place, MappingProxyType(dict(self._apart)))

    async def events(self) -> AsyncGenerator[Told]:
        """Yield what the client is told, without an end unless it is about single jobs.

        Raises:
            Gone: The cursor is older than what is remembered.
            Unavailable: The client was too slow.
        """
        while self._ledger.since is None:
            if (trouble := self._degraded()) is not None:
                yield trouble
            await self._ledger.changed()
        beginning = self._begin() if self._after is None else self._replay(self._after)
        async for told in beginning:
            yield told
        while True:
            if (trouble := self._degraded()) is not None:
                yield trouble
            # What comes while the client takes what it is told is for the next time.
            changed = asyncio.ensure_future(self._ledger.changed())
            try:
                # Nothing may be found in between.
                found = [*map(Told, self._collect()), *self._tell()]
                for told in found:
                    yield told
                if self._is_over():
                    return
                await changed
            finally:
                changed.cancel()

    def _degraded(self) -> Told | None:
        trouble, before = self._ledger.trouble, self._trouble
        self._trouble = trouble
        return None if trouble is None or before is not None else Told(Degraded(trouble.message))

    async def _begin(self) -> AsyncGenerator[Told]:
        """Yield the state now."""
        while True:
            ledger, jobs = self._ledger, [one for one in self._ledger.now() if self._wants(one[0].job)]
            self._number, self._place = ledger.end, Position.at(ledger.complete).place
            self._apart, self._ahead = {}, {}
            for seen, told, _ in jobs:
                latest = max(changes_of([seen]), key=lambda change: change.step)
                if seen.job.job_id in ledger.behind or latest.time > ledger.complete:
                    self._apart[seen.job.job_id] = told
                    self._ahead[seen.job.job_id] = latest.key
            if self._position.fits:
                break
            await ledger.changed()
        found = {one.job.job_id: one.job for one in self._known or ()} | {
            seen.job.job_id: seen.job for seen, *_ in jobs
        }
        # Who knows no time has no place to come back to, and begins anew.
        yield Told(State(tuple(found.values())), self._position if self._ledger.complete else None)
        if self._known is None:
            return
        ended = [seen for seen, told, _ in jobs if told[1] == Kind.ENDED]
        here = {seen.job.job_id for seen, *_ in jobs}
        ended += [one for one in self._known if one.job.job_id not in here and one.job.time.end is not None]
        for seen in ended:
            *_, last = changes_of([seen])
            yield Told(last, self._position)
            self._over.add(seen.job.job_id)

    async def _replay(self, after: Position) -> AsyncGenerator[Told]:
        """Take up what has happened since a position."""
        self._place, self._apart = after.place, dict(after.apart)
        self._ahead = dict.fromkeys(self._apart, _NEVER)
        for seen, *_ in self._ledger.now():
            self._recognize(changes_of([seen]))
        if self._ledger.has_all_since(after):
            self._number = self._ledger.dropped
            return
        until = asyncio.get_running_loop().time() + SETTLING
        while True:
            try:
                runs = await self._history(after.place[0] - MARGIN)
            except GatewayError as error:
                if self._trouble is None:
                    self._trouble = error
                    yield Told(Degraded(error.message))
                until = asyncio.get_running_loop().time() + SETTLING
            else:
                late = asyncio.get_running_loop().time() > until
                if runs is None and after.place[0] < time.time() - REMEMBERED:
                    raise Gone("The cursor is older than what is remembered; begin anew without one")
                if self._take(after, runs or (), settled=late or runs is None):
                    return
            await asyncio.sleep(AGAIN)

    def _take(self, after: Position, runs: Sequence[Seen], *, settled: bool) -> bool:
        """Take what the database and the controller know together; return False if the database lacks something."""
        jobs: dict[str, list[Seen]] = {}
        for run in runs:
            jobs.setdefault(run.job.job_id, []).append(run)
        limits: dict[str, Step] = {}
        for seen, told, restarts in self._ledger.now():
            earlier = [run for run in jobs.get(seen.job.job_id, ()) if (run.submitted or 0) < (seen.submitted or 0)]
            if not settled and (len(earlier) < restarts or self._ledger.lacks(earlier)):
                return False
            jobs[seen.job.job_id] = [*earlier, seen]
            limits[seen.job.job_id] = min(told, self._ledger.behind.get(seen.job.job_id, told))
        limits |= {job_id: step for job_id, step in self._ledger.behind.items() if job_id not in limits}
        complete = self._ledger.complete
        for job_id, its in jobs.items():
            its.sort(key=lambda run: run.submitted or 0)
            self._recognize(changes_of(its))
            for change in changes_of(its):
                limit = limits.get(job_id)
                known = change.time <= complete if limit is None else change.step <= limit
                if known and self._wants(change.job) and not after.covers(change):
                    self._pending.append(change)
        self._number = self._ledger.end
        return True

    def _recognize(self, changes: Iterable[Change]) -> None:
        """Find out when it was that a job came as far as it was told."""
        for change in changes:
            job_id = change.job.job_id
            if self._ahead.get(job_id) == _NEVER and change.step == self._apart.get(job_id):
                self._ahead[job_id] = change.key

    def _collect(self) -> list[Passing]:
        """Take what has been found since, and return what is only told while it is seen."""
        entries = self._ledger.after(self._number)
        if entries is None:
            raise Unavailable("You are too far behind; come back with the id of the last event")
        self._number = self._ledger.end
        passing = []
        for entry in entries:
            if not self._wants(entry.job):
                continue
            if isinstance(entry, Passing):
                passing.append(entry)
            elif self._after is None or not self._after.covers(entry):
                self._pending.append(entry)
            else:
                self._recognize((entry,))
        return passing

    def _tell(self) -> list[Told]:
        """Return what can be told now, each with the position behind it."""
        ledger, told = self._ledger, []
        self._pending.sort(key=lambda change: change.key)
        first: dict[str, Change] = {}
        for change in self._pending:
            job_id = change.job.job_id
            if job_id not in first or change.step < first[job_id].step:
                first[job_id] = change
        for job_id, step in ledger.behind.items():
            if job_id not in self._apart:
                pending = first.get(job_id)
                self._apart[job_id] = step if pending is None else (pending.run, pending.kind - 1)
        if not self._position.fits:
            return []
        ready = [change for change in self._pending if change.time <= ledger.complete]
        fresh = [change for change in self._pending if change.time > ledger.complete]
        for change in ready:
            job_id = change.job.job_id
            self._place = max(self._place, change.key)
            if job_id in self._apart:
                self._apart[job_id] = change.step
            told.append(Told(change, self._position))
            self._note(change)
        self._place = max(self._place, Position.at(ledger.complete).place)
        self._drop()
        held: set[str] = set()
        self._pending = []
        for change in fresh:
            job_id = change.job.job_id
            before = self._apart.get(job_id)
            self._apart[job_id] = change.step
            if job_id not in held and self._position.fits:
                self._ahead[job_id] = change.key
                told.append(Told(change, self._position))
                self._note(change)
                continue
            held.add(job_id)
            self._pending.append(change)
            if before is None:
                del self._apart[job_id]
            else:
                self._apart[job_id] = before
        return told

    def _note(self, change: Change) -> None:
        """Remember whether a job is over."""
        if change.kind == Kind.ENDED and not change.cut:
            self._over.add(change.job.job_id)
        else:
            self._over.discard(change.job.job_id)

    def _drop(self) -> None:
        """Forget jobs that are no longer apart from the others."""
        for job_id in list(self._apart):
            if job_id not in self._ledger.behind and self._ahead.get(job_id, self._place) <= self._place:
                del self._apart[job_id]
                self._ahead.pop(job_id, None)

    def _is_over(self) -> bool:
        """Return whether all single jobs that are followed are over, and the second in which the last one ended."""
        if self._known is None or self._pending:
            return False
        ledger = self._ledger
        here = {seen.job.job_id: (seen.job.time.end, told) for seen, told, _ in ledger.now() if self._wants(seen.job)}
        gone = {one.job.job_id for one in self._known} - here.keys()
        return gone <= self._over and all(
            told[1] == Kind.ENDED and (end or 0) < ledger.complete and job_id not in ledger.behind
            for job_id, (end, told) in here.items()
        )
