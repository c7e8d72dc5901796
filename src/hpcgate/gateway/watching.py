"""Who wants to know what happens to jobs of a system, and the one query an interval that tells all of them.

Where the system's service account may see all jobs it asks for everybody; else each user with watchers asks for their
own. While nobody watches nothing is asked (docs/decisions/job_events.md).
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count

import structlog

from hpcgate.auth import Principal
from hpcgate.config import EventSettings
from hpcgate.errors import GatewayError
from hpcgate.gateway.background import Background
from hpcgate.gateway.ledger import Ledger
from hpcgate.schedulers.base import Scheduler
from hpcgate.schedulers.snapshot import Mark, Seen, Snapshot, number_of

log = structlog.stdlib.get_logger(__name__)

SHORTEST = 1.0
"""Least seconds from one query to the next, whatever happens."""
LIVELY = 1.5
"""Seconds between queries for a while after a submission or another change by the gateway's users."""
LIVELY_FOR = 10.0
"""Seconds for which that holds."""
CALM_AFTER = 12
"""Queries in a row that tell nothing new, after which they become fewer."""
CALMEST = 3
"""How many times the interval passes between them then."""
MAX_GAPS = 500
"""Most records that the database is asked for at a time."""
CLOSELY = 4
"""Most ids that are held against each of the jobs whose ids begin alike."""


class Watcher:
    """One who wants to know.

    Attributes:
        principal: Who.
        ready: Whether anything was read that was asked for after the watcher had come.
    """

    __slots__ = ("_poller", "_woken", "principal", "ready")

    def __init__(self, principal: Principal, poller: "Poller") -> None:
        self.principal = principal
        self.ready = False
        self._poller = poller
        self._woken = asyncio.Event()

    @property
    def jobs(self) -> Mapping[str, Seen]:
        """The user's own jobs by id, whatever else was read last."""
        snapshot = self._poller.snapshot
        return {} if snapshot is None or not self.ready else snapshot.jobs.get(self.principal.username, {})

    def family(self, number: str) -> Sequence[Seen]:
        """Return the user's own jobs whose ids begin with a number, such as the tasks of an array."""
        snapshot = self._poller.snapshot
        return (
            ()
            if snapshot is None or not self.ready
            else snapshot.families.get(self.principal.username, {}).get(number, ())
        )

    def named(self, ids: Iterable[str], names: Callable[[str, Seen], bool]) -> list[Seen]:
        """Return the user's own jobs that ids name; of more than a few of one array, all of its tasks.

        It takes no longer than going through ids and jobs once: each watcher does it each time that something happens.

        Args:
            ids: As a client gives them.
            names: Says whether an id names a job (`Scheduler.names`).
        """
        found: list[Seen] = []
        others: dict[str, list[str]] = {}
        jobs = self.jobs
        for job_id in ids:
            if (seen := jobs.get(job_id)) is not None:
                found.append(seen)
            elif number := number_of(job_id):
                others.setdefault(number, []).append(job_id)
        for number, wanted in others.items():
            family = self.family(number)
            if len(wanted) > CLOSELY:
                # Which of them it is is not told then: at worst the scheduler is asked in vain.
                found += family
            else:
                found += (seen for seen in family if any(names(job_id, seen) for job_id in wanted))
        return found

    def ledger(self, apart: Callable[[Seen], Sequence[Seen]]) -> Ledger:
        """Return the ledger of the user's jobs, which is kept for as long as anybody watches them."""
        return self._poller.ledgers.setdefault(self.principal.username, Ledger(apart))

    @property
    def trouble(self) -> GatewayError | None:
        """Why nothing could be read since what was read last."""
        return self._poller.trouble

    async def changed(self) -> None:
        """Wait until something has happened to a job of the user, or to what tells of it."""
        await self._woken.wait()
        self._woken.clear()

    def wake(self) -> None:
        """Have it look."""
        self._woken.set()


Examine = Callable[[Principal, Snapshot, Mapping[str, Ledger], float, float], Awaitable[None]]
"""Has ledgers, by user, take a snapshot, of which it is known when it was asked for and answered."""


class Poller:
    """Asks for the jobs of one user, or of everybody, as long as somebody watches.

    Args:
        ask: Reads a snapshot, for the one given who may have it read.
        interval: Seconds between queries while jobs change.
        examine: Has ledgers take what was read.

    Attributes:
        watchers: By user.
        ledgers: What becomes of the jobs of those users whose jobs somebody follows.
        snapshot: What was read last.
        trouble: Why nothing could be read since.
        polls: How many queries there were.
    """

    def __init__(
        self, ask: Callable[[Principal], Awaitable[Snapshot]], interval: float, examine: Examine | None = None
    ) -> None:
        self._ask = ask
        self._interval = interval
        self.watchers: dict[str, set[Watcher]] = {}
        self.snapshot: Snapshot | None = None
        self.trouble: GatewayError | None = None
        self.polls = 0
        self.ledgers: dict[str, Ledger] = {}
        self._examine = examine
        self._nudged = asyncio.Event()
        self._lively_until = 0.0
        self._unchanged = 0

    def nudge(self) -> None:
        """Have it ask soon, and more often for a while: something is about to change."""
        self._lively_until = asyncio.get_running_loop().time() + LIVELY_FOR
        self._nudged.set()

    def add(self, watcher: Watcher) -> None:
        """Take on one who watches, and ask soon."""
        self.watchers.setdefault(watcher.principal.username, set()).add(watcher)
        self._nudged.set()

    def remove(self, watcher: Watcher) -> None:
        """Let one go."""
        user = watcher.principal.username
        self.watchers[user].discard(watcher)
        if not self.watchers[user]:
            del self.watchers[user]

    async def run(self) -> None:
        """Ask until nobody watches."""
        loop = asyncio.get_running_loop()
        while self.watchers:
            began = loop.time()
            self._nudged.clear()
            present = list(self._all())
            try:
                self.polls += 1
                principal = _longest(present)
                snapshot = await self._ask(principal)
                if self.ledgers and self._examine is not None:
                    await self._examine(principal, snapshot, dict(self.ledgers), began, loop.time())
                    if any(ledger.unsettled for ledger in self.ledgers.values()):
                        self._lively_until = max(self._lively_until, loop.time() + LIVELY)
            except GatewayError as error:
                self._failed(error)
            else:
                self._take(snapshot, present)
            took = loop.time() - began
            pause = max(self._pause(loop.time()), took)
            try:
                async with asyncio.timeout(pause):
                    await self._nudged.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(max(0.0, began + max(SHORTEST, took) - loop.time()))

    def _all(self) -> Iterator[Watcher]:
        return chain.from_iterable(self.watchers.values())

    def _pause(self, now: float) -> float:
        if self.trouble is None and now < self._lively_until:
            return min(LIVELY, self._interval)
        calm = max(0, self._unchanged - CALM_AFTER) / CALM_AFTER
        return self._interval * min(CALMEST, 1 + calm)

    def _failed(self, error: GatewayError) -> None:
        if self.trouble is None:
            log.warning("events.degraded", error=error.message)
            for watcher in self._all():
                watcher.wake()
        self.trouble = error
        for ledger in self.ledgers.values():
            ledger.trouble = error
            ledger.tell()

    def _take(self, snapshot: Snapshot, present: list[Watcher]) -> None:
        """Have those look for whom there is anything new. Who came while it was read waits for the next one."""
        before, self.snapshot = self.snapshot, snapshot
        recovered, self.trouble = self.trouble is not None, None
        known: Mapping[str, Mapping[str, Mark]] = {} if before is None else before.marks
        users = {user for user in (*known, *snapshot.marks) if known.get(user) != snapshot.marks.get(user)}
        self._unchanged = 0 if users else self._unchanged + 1
        for watcher in present:
            if recovered or not watcher.ready or watcher.principal.username in users:
                watcher.ready = True
                watcher.wake()


def _longest(watchers: list[Watcher]) -> Principal:
    """Return the principal whose token lasts longest."""
    return max((watcher.principal for watcher in watchers), key=lambda one: one.expires_at or float("inf"))


class Watching:
    """What is watched on one system.

    Args:
        scheduler: Tells of the jobs.
        settings: How often it is asked, and by whom.
        background: Keeps the queries going.
    """

    def __init__(self, scheduler: Scheduler, settings: EventSettings, background: Background) -> None:
        self._scheduler = scheduler
        self._settings = settings
        self._background = background
        self._pollers: dict[str, Poller] = {}
        self._numbers = count()
        self._past_polls = 0

    def __repr__(self) -> str:
        return f"<Watching {self.watchers} by {len(self._pollers)}>"

    @property
    def polls(self) -> int:
        """How many queries there were since the start."""
        return self._past_polls + sum(poller.polls for poller in self._pollers.values())

    @property
    def watchers(self) -> int:
        """How many watch."""
        return sum(len(own) for poller in self._pollers.values() for own in poller.watchers.values())

    @property
    def settings(self) -> EventSettings:
        """How it is watched."""
        return self._settings

    @contextmanager
    def watch(self, principal: Principal) -> Iterator[Watcher]:
        """Have somebody know what happens to their own jobs for as long as the context lasts."""
        # What one token may see another may not.
        key = "" if self._for_all else f"{principal.username}\0{principal.standing}"
        poller = self._pollers.get(key)
        new = poller is None
        if poller is None:
            poller = self._pollers[key] = Poller(self._read, self._settings.interval, self._examine)
        watcher = Watcher(principal, poller)
        poller.add(watcher)
        if new:
            # One that nobody watched any more may still be asking: each has a name of its own.
            self._background.start(f"events.poller/{next(self._numbers)}", poller.run)
        try:
            yield watcher
        finally:
            poller.remove(watcher)
            if principal.username not in poller.watchers:
                poller.ledgers.pop(principal.username, None)
            if not poller.watchers and self._pollers.get(key) is poller:
                del self._pollers[key]
                self._past_polls += poller.polls
                poller.nudge()

    @contextmanager
    def follow(self, principal: Principal) -> Iterator[Ledger]:
        """Have what becomes of the user's jobs written down for as long as the context lasts."""
        with self.watch(principal) as watcher:
            yield watcher.ledger(self._scheduler.apart)

    async def history(self, principal: Principal, since: int) -> Sequence[Seen] | None:
        """Return the recorded runs of a user's jobs of which something happened since then; None without records."""
        asker, _ = await self._asker(principal)
        return await self._scheduler.runs(asker, user=principal.username, since=since)

    def nudge(self, username: str | None = None) -> None:
        """Ask soon for what concerns a user, or everybody: something is about to change."""
        for poller in self._pollers.values():
            if username is None or username in poller.watchers:
                poller.nudge()

    @property
    def _for_all(self) -> bool:
        return self._settings.by_service_account and self._background.account is not None

    async def _asker(self, principal: Principal) -> tuple[Principal, str | None]:
        """Return who asks for a principal, and for whose jobs: None for everybody's."""
        account = self._background.account
        if self._settings.by_service_account and account is not None:
            return await account.principal(), None
        return principal, principal.username

    async def _read(self, principal: Principal) -> Snapshot:
        asker, user = await self._asker(principal)
        return await self._scheduler.snapshot(asker, user=user)

    async def _examine(
        self, principal: Principal, snapshot: Snapshot, ledgers: Mapping[str, Ledger], asked: float, answered: float
    ) -> None:
        """Look up what a snapshot does not tell, and have ledgers take it all."""
        asker, user = await self._asker(principal)
        if any(ledger.since is None for ledger in ledgers.values()):
            time = await self._scheduler.clock(asker)
            passed = math.ceil(asyncio.get_running_loop().time() - asked)
            for ledger in ledgers.values():
                if ledger.since is None and time is not None:
                    ledger.set_clock(time - passed, asked)
        found = {owner: dict(snapshot.jobs.get(owner, {})) for owner in ledgers}
        new = [seen for owner, ledger in ledgers.items() for seen in ledger.new(found[owner].values())]
        for seen in await self._scheduler.closer(asker, new, user=user) if new else ():
            found[seen.job.user or ""][seen.job.job_id] = seen
        gaps = {raw for owner, ledger in ledgers.items() for raw in ledger.gaps(found[owner])}
        past: dict[str, list[Seen]] | None = {}
        trouble: GatewayError | None = None
        if gaps:
            try:
                runs = await self._scheduler.runs(asker, user=user, records=sorted(gaps)[:MAX_GAPS])
                past = None if runs is None else {}
                for run in runs or ():
                    if past is not None:
                        past.setdefault(run.raw, []).append(run)
            except GatewayError as error:
                trouble = error
        for owner, ledger in ledgers.items():
            ledger.trouble = trouble
            ledger.take(found[owner], past, asked, answered)
