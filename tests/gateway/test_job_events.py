"""Events of jobs against a scheduler that is made up: what it does at random is told, and what is told is what it did.

Its lists have what Slurm's have, and its records are as late as Slurm's are (docs/decisions/job_events.md).
"""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from hpcgate.api.server_sent_events import MAX_ID
from hpcgate.errors import BadRequest, GatewayError, Gone, SchedulerUnavailable, Unavailable
from hpcgate.gateway import job_events, ledger
from hpcgate.gateway.job_changes import Change, Kind, Position, changes_of
from hpcgate.gateway.job_events import Degraded, JobEvents, State, Told
from hpcgate.gateway.ledger import Ledger
from hpcgate.schedulers.base import Job, JobStatus, JobTime
from hpcgate.schedulers.snapshot import Seen

PENDING = Job("", "n", JobStatus("PENDING", "None"), JobTime(), 0, "c", "", "p", "alice", "/")
BEGAN = 1_800_000_000
"""When it all begins, in Unix seconds."""


@dataclass
class Run:
    job_id: str
    submitted: int
    state: str = "PENDING"
    start: int | None = None
    end: int | None = None
    known_from: int = 0
    start_known_from: int = 0

    def seen(self, *, restarts: int = 0, late: int | None = None) -> Seen:
        """Return it as the controller tells of it, or as the records do at a time."""
        start = None if late is not None and late < self.start_known_from else self.start
        between = self.state == "COMPLETING"
        job = replace(
            PENDING,
            job_id=self.job_id,
            status=JobStatus(self.state),
            time=JobTime(start=start, end=None if between else self.end),
            allocation_nodes=0 if self.start is None else 1,
        )
        return Seen(job, self.job_id, self.submitted, restarts, between)


@dataclass
class Slurm:
    """Jobs that are submitted, start, end, are requeued and cancelled, by a clock of its own."""

    dice: random.Random
    now: int = BEGAN
    runs: dict[str, list[Run]] = field(default_factory=dict)
    forgets: int = 40
    down: bool = False

    def step(self) -> None:
        """Let something happen, within the second or later."""
        self.now += self.dice.choice([0, 0, 0, 1, 1, 3])
        jobs = [its for its in self.runs.values() if its[-1].state != "ENDED"]
        act = self.dice.choice(["submit", "start", "start", "complete", "end", "end", "requeue", "cancel"])
        if act == "submit" or not jobs:
            job_id = str(len(self.runs) + 1)
            self.runs[job_id] = [Run(job_id, self.now)]
            return
        its = self.dice.choice(jobs)
        last = its[-1]
        match act, last.state:
            case "start", "PENDING":
                last.state, last.start = "RUNNING", self.now
                last.start_known_from = self.now + self.dice.choice([0, 3, 9])
            case "complete", "RUNNING":
                last.state, last.end = "COMPLETING", self.now
            case "end", "RUNNING" | "COMPLETING":
                last.state, last.end = "ENDED", last.end if last.end is not None else self.now
            case "cancel", "PENDING":
                last.state, last.end = "ENDED", self.now
            case "requeue", "RUNNING":
                again = self.now + 1 if last.submitted == self.now else self.now
                last.state, last.end = "REQUEUED", self.now
                last.known_from = self.now + self.dice.choice([0, 2, 6])
                its.append(Run(last.job_id, again))

    def listed(self) -> dict[str, Seen]:
        """Return what the controller knows."""
        return {
            job_id: its[-1].seen(restarts=len(its) - 1)
            for job_id, its in self.runs.items()
            if its[-1].state != "ENDED" or (its[-1].end or 0) > self.now - self.forgets
        }

    def recorded(self, records: Sequence[str] | None = None) -> list[Seen]:
        """Return what the records know by now."""
        if self.down:
            raise SchedulerUnavailable("slurmdbd is down")
        found = [run for its in self.runs.values() for run in its if records is None or run.job_id in records]
        return [run.seen(late=self.now) for run in found if run.known_from <= self.now]

    def happened(self) -> dict[str, list[tuple[str, int]]]:
        """Return what has happened to each job, in order."""
        return {
            job_id: [(change.name, change.time) for change in changes_of([run.seen() for run in its])]
            for job_id, its in self.runs.items()
        }


class Site:
    """The scheduler, and a gateway that asks it."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.slurm = Slurm(self.dice)
        self.clock = 0.0
        self.start()

    def start(self) -> None:
        """Begin with a new gateway."""
        self.ledger = Ledger(lambda seen: (seen,))
        self.ledger.set_clock(self.slurm.now, float(self.slurm.now - BEGAN))
        self.poll()

    def poll(self) -> None:
        asked = float(self.slurm.now - BEGAN)
        found = self.slurm.listed()
        past: dict[str, list[Seen]] = {}
        self.ledger.trouble = None
        try:
            for run in self.slurm.recorded(gaps) if (gaps := self.ledger.gaps(found)) else ():
                past.setdefault(run.raw, []).append(run)
        except GatewayError as error:
            self.ledger.trouble = error
        self.ledger.take(found, past, asked, asked)

    async def history(self, since: int) -> Sequence[Seen]:
        return self.slurm.recorded()


@dataclass
class Client:
    site: Site
    told: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    last: str | None = None
    events: AsyncGenerator[Told, None] | None = None
    coming: asyncio.Future[Told] | None = None

    async def read(self, most: int) -> None:
        """Read some events, as many as there are."""
        for _ in range(most):
            if self.events is None:
                after = None if self.last is None else Position.parse(self.last)
                self.events = JobEvents(self.site.ledger, self.site.history, lambda _: True, after=after).events()
            if self.coming is None:
                self.coming = asyncio.ensure_future(anext(self.events))
            for _ in range(30):
                await asyncio.sleep(0)
            if not self.coming.done():
                return
            told = self.coming.result()
            self.coming = None
            if told.position is not None:
                self.last = str(told.position)
            if isinstance(told.what, Change):
                self.told.setdefault(told.what.job.job_id, []).append((told.what.name, told.what.time))

    async def drop(self) -> None:
        """Lose the connection."""
        if self.coming is not None:
            self.coming.cancel()
            await asyncio.gather(self.coming, return_exceptions=True)
            self.coming = None
        if self.events is not None:
            await self.events.aclose()
            self.events = None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_events, "AGAIN", 0.0)


@pytest.mark.parametrize("seed", range(60))
async def test_what_happens_is_told_once_and_in_order_whatever_breaks(seed: int) -> None:
    site = Site(seed)
    clients = [Client(site) for _ in range(3)]
    for client in clients:
        await client.read(1)
    for _ in range(300):
        site.slurm.step()
        if site.dice.random() < 0.3:
            site.poll()
        if site.dice.random() < 0.02:
            site.slurm.down = not site.slurm.down
        restart = site.dice.random() < 0.02
        for client in clients:
            await client.read(site.dice.choice([0, 1, 3, 50]))
            if restart or site.dice.random() < 0.05:
                await client.drop()
        if restart:
            site.start()
    site.slurm.down = False
    for _ in range(40):
        site.slurm.now += 5
        site.poll()
        for client in clients:
            await client.read(200)
    for client in clients:
        await client.drop()
        assert client.told == site.slurm.happened()


@pytest.mark.parametrize(
    "position",
    [
        Position.at(BEGAN),
        Position((BEGAN, "4_17", BEGAN - 5, 2)),
        Position((BEGAN, "5+1", BEGAN, 0), {"4_1": (BEGAN, 1), "12": (0, -1)}),
    ],
)
def test_a_position_is_what_it_was_when_it_comes_back(position: Position) -> None:
    text = str(position)
    assert Position.parse(text) == position
    assert text.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize("text", ["", "1", "abc", "é", "x" * 1000, "MTIz", str(Position.at(BEGAN))[:-3], "====", "\0"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        Position.parse(text)


@pytest.mark.parametrize("name", ["{}", "1234567890_{}", "{}+1"])
def test_a_position_that_can_be_sent_is_no_longer_than_an_id_may_be(name: str) -> None:
    apart: dict[str, tuple[int, int]] = {}
    place = (BEGAN, "1234567890_1234567890", BEGAN, 2)
    while Position(place, apart).fits:
        longest = str(Position(place, dict(apart)))
        apart[name.format(10 + len(apart))] = (BEGAN, -1)
    assert len(longest) <= MAX_ID
    assert len(apart) > 15


async def all_of(events: AsyncIterator[Told]) -> list[Told]:
    return [told async for told in events]


def a_run(state: str, start: int | None = None, end: int | None = None, job_id: str = "1") -> Seen:
    return Run(job_id, BEGAN, state, start, end).seen()


async def no_records(_: int) -> None:
    return None


async def test_one_job_is_told_of_to_its_end() -> None:
    """Not to the second of its end, in which it may be requeued."""
    book = Ledger(lambda seen: (seen,))
    waits, runs = a_run("PENDING"), a_run("RUNNING", BEGAN + 5)
    ended, other = a_run("ENDED", BEGAN + 5, BEGAN + 9), a_run("PENDING", job_id="2")
    book.take({"1": waits, "2": other}, {}, 0, 0)
    telling = JobEvents(book, no_records, lambda job: job.job_id == "1", known=[waits])
    reading = asyncio.ensure_future(all_of(telling.events()))
    for after, seen in ((5, runs), (9, ended), (9, ended)):
        await asyncio.sleep(0)
        book.take({"1": seen, "2": other}, {}, after, after)
        await asyncio.sleep(0.01)
    assert not reading.done()
    book.take({"1": ended, "2": other}, {}, 20, 20)
    told = await asyncio.wait_for(reading, 300)
    assert [type(one.what) for one in told] == [State, Change, Change]
    assert [(one.what.name, one.what.time) for one in told if isinstance(one.what, Change)] == [
        ("job.started", BEGAN + 5),
        ("job.ended", BEGAN + 9),
    ]


async def test_of_a_job_that_is_over_the_end_is_told_at_once() -> None:
    book = Ledger(lambda seen: (seen,))
    book.take({}, {}, 0, 0)
    known = [a_run("ENDED", BEGAN, BEGAN + 1)]
    told = await all_of(JobEvents(book, no_records, lambda job: job.job_id == "1", known=known).events())
    assert [getattr(one.what, "name", "jobs") for one in told] == ["jobs", "job.ended"]


async def test_a_scheduler_that_is_down_is_told_of_once() -> None:
    book = Ledger(lambda seen: (seen,))
    events = JobEvents(book, no_records, lambda _: True).events()
    coming = asyncio.ensure_future(anext(events))
    for _ in range(3):
        await asyncio.sleep(0)
        book.trouble = SchedulerUnavailable("down")
        book.tell()
    assert (await coming).what == Degraded("down")
    coming = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    book.trouble = None
    book.take({}, {}, 0, 0)
    assert isinstance((await coming).what, State)
    await events.aclose()


async def test_who_comes_back_too_late_begins_anew_where_there_are_no_records() -> None:
    book = Ledger(lambda seen: (seen,))
    book.take({"1": a_run("PENDING")}, None, 0, 0)
    with pytest.raises(Gone):
        await all_of(JobEvents(book, no_records, lambda _: True, after=Position.at(BEGAN - 100_000_000)).events())


async def test_who_is_too_slow_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MAX_KEPT", 10)
    book = Ledger(lambda seen: (seen,))
    book.take({}, {}, 0, 0)
    events = JobEvents(book, no_records, lambda _: True).events()
    assert isinstance((await anext(events)).what, State)
    book.take({str(number): a_run("PENDING", job_id=str(number)) for number in range(11)}, {}, 0, 0)
    with pytest.raises(Unavailable):
        await anext(events)


async def test_without_records_a_requeue_is_told_as_it_is_seen() -> None:
    book = Ledger(lambda seen: (seen,))
    first, again = a_run("PENDING"), Run("1", BEGAN + 7).seen(restarts=1)
    book.take({"1": first}, None, 0, 0)
    book.take({"1": again}, None, 7, 7)
    told = [one for one in book.after(0) or () if isinstance(one, Change)]
    assert [(one.name, one.time, one.cut) for one in told] == [
        ("job.started", BEGAN + 7, False),
        ("job.ended", BEGAN + 7, True),
        ("job.requeued", BEGAN + 7, False),
    ]


async def test_what_no_record_tells_the_end_of_is_told_as_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a task that is cancelled while it waits with others of its array; not before the records had time."""
    monkeypatch.setattr(ledger, "SETTLING", 50)
    book = Ledger(lambda seen: (seen,))
    book.take({"1": a_run("PENDING")}, {}, 0, 0)
    book.take({}, {}, 1, 1)
    assert (book.end, book.behind) == (0, {"1": (BEGAN, Kind.SUBMITTED)})
    book.take({}, {}, 60, 60)
    (told,) = book.after(0) or ()
    assert isinstance(told, Change)
    assert (told.kind, told.job.status.state, book.behind) == (Kind.ENDED, "UNKNOWN", {})


async def test_tasks_end_with_their_array_though_it_is_shown_as_one_job_then() -> None:
    """As it is by Slurm when ``scancel --user`` ends it before any task begins."""

    def task(number: int) -> Seen:
        return replace(a_run("PENDING", job_id=f"7_{number}"), raw="7")

    book = Ledger(lambda seen: [task(1), task(2)] if "[" in seen.job.job_id else [seen])
    book.take({}, {}, 0, 0)
    book.take({"7_[1-2]": replace(a_run("PENDING", job_id="7_[1-2]"), raw="7")}, {}, 1, 1)
    book.take({"7": Run("7", BEGAN, "CANCELLED", None, BEGAN + 3).seen()}, {}, 5, 5)
    told = [(one.job.job_id, one.name, one.time) for one in book.after(0) or () if isinstance(one, Change)]
    assert told == [
        ("7_1", "job.submitted", BEGAN),
        ("7_2", "job.submitted", BEGAN),
        ("7_1", "job.ended", BEGAN + 3),
        ("7_2", "job.ended", BEGAN + 3),
    ]
    assert not book.behind


async def test_who_has_no_jobs_can_come_back_all_the_same() -> None:
    book = Ledger(lambda seen: (seen,))
    book.set_clock(BEGAN, 3)
    book.take({}, {}, 5, 6)
    events = JobEvents(book, no_records, lambda _: True).events()
    assert (await anext(events)).position == Position.at(BEGAN + 1)
    await events.aclose()


async def test_who_knows_no_time_has_no_cursor() -> None:
    book = Ledger(lambda seen: (seen,))
    book.take({}, {}, 5, 6)
    events = JobEvents(book, no_records, lambda _: True).events()
    assert (await anext(events)).position is None
    await events.aclose()


def test_a_run_that_ends_in_the_second_before_its_submission_ends_with_it() -> None:
    """Slurm gives a run that is requeued in the second of its submission the next one."""
    runs = [Run("1", BEGAN, "REQUEUED", BEGAN, BEGAN).seen(), Run("1", BEGAN + 1, "ENDED", None, BEGAN).seen()]
    told = list(changes_of(runs))
    assert [(one.name, one.time - BEGAN) for one in told] == [
        ("job.submitted", 0),
        ("job.started", 0),
        ("job.ended", 0),
        ("job.requeued", 1),
        ("job.ended", 1),
    ]
    assert sorted(told, key=lambda one: one.key) == told


def waiting_array(number: int, tasks: int, reason: str = "Priority") -> Seen:
    job = replace(PENDING, job_id=f"{number}_[0-{tasks - 1}]", status=JobStatus("PENDING", reason))
    return Seen(job, str(number), BEGAN, 0)


def expand(seen: Seen) -> Sequence[Seen]:
    """Return the tasks of an array as Slurm's client does, and those of any other job as they are."""
    base, wait, last = seen.job.job_id.partition("_[0-")
    if not wait:
        return (seen,)
    tasks = range(int(last.rstrip("]")) + 1)
    return tuple(replace(seen, job=replace(seen.job, job_id=f"{base}_{task}")) for task in tasks)


async def test_an_array_that_waits_is_taken_apart_once_for_as_long_as_nothing_happens() -> None:
    """It takes everybody's time: a list comes every few seconds, and an array may have ten thousand tasks."""
    counted: list[str] = []

    def counting(seen: Seen) -> Sequence[Seen]:
        counted.append(seen.job.job_id)
        return expand(seen)

    changes = Ledger(counting)
    for _ in range(3):
        found = {"7": waiting_array(7, 1000)}
        changes.new(found.values())
        changes.gaps(found)
        changes.take(found, {}, 0.0, 0.0)
    assert counted == ["7_[0-999]"]
    assert len(changes.now()) == 1000
    changes.take({"7": waiting_array(7, 1000, "Resources")}, {}, 0.0, 0.0)
    assert len(counted) == 2
    assert changes.end == 1000  # each task waits for something else now


async def test_of_more_tasks_than_are_told_of_one_by_one_others_are_told_of_once_they_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger, "MAX_APART", 100)
    changes = Ledger(expand)
    changes.take({str(number): waiting_array(number, 40) for number in (7, 8, 9)}, {}, 0.0, 0.0)
    assert {seen.raw for seen, *_ in changes.now()} == {"7", "8"}
    running = Run("9_0", BEGAN, "RUNNING", start=BEGAN + 5).seen()
    changes.take({"9": running}, {}, 0.0, 0.0)
    names = [one.name for one in changes.after(0) or () if one.job.job_id == "9_0"]
    assert names == ["job.submitted", "job.started"]


async def test_nothing_is_missed_between_a_look_and_the_wait_for_more() -> None:
    changes = Ledger(expand)
    waiting = asyncio.ensure_future(changes.changed())
    changes.tell()
    async with asyncio.timeout(600):
        await waiting
