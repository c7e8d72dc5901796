"""The end of a job is waited for as jobs are watched. The scheduler is the tests' own: it tells and counts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import cast

import pytest

from hpcgate.auth import Principal
from hpcgate.config import EventSettings
from hpcgate.errors import GatewayError, JobNotFound, SchedulerUnavailable
from hpcgate.gateway import job_end, watching
from hpcgate.gateway.background import Background
from hpcgate.gateway.job_end import MAX_LOST, JobEnd
from hpcgate.gateway.watching import Watching
from hpcgate.schedulers.base import Job, Jobs, JobStatus, JobTime, Scheduler
from hpcgate.schedulers.snapshot import Seen, Snapshot

ALICE = Principal("alice", "token")
WAITS = Job("7", "n", JobStatus("PENDING"), JobTime(), 1, "c", "", "p", "alice", "/")
RUNS = replace(WAITS, status=JobStatus("RUNNING"), time=JobTime(start=1))
OVER = replace(WAITS, status=JobStatus("COMPLETED"), time=JobTime(start=1, end=2))
TOLD = replace(OVER, status=JobStatus("COMPLETED", exit_code=0))


class Telling:
    """A scheduler that lists one job, and tells of it what it has been given, the last of it from then on."""

    def __init__(self) -> None:
        self.listed: Job | GatewayError | None = RUNS
        self.answers: list[Job | GatewayError] = []
        self.besides: tuple[Job, ...] = ()
        self.lists = self.asked = 0

    async def snapshot(self, principal: Principal, *, user: str | None) -> Snapshot:
        self.lists += 1
        if isinstance(self.listed, GatewayError):
            raise self.listed
        return Snapshot.of([] if self.listed is None else [Seen(self.listed, self.listed.job_id)])

    def names(self, job_id: str, seen: Seen) -> bool:
        return job_id == seen.job.job_id

    async def job(self, principal: Principal, job_id: str) -> Jobs:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, GatewayError):
            raise answer
        return Jobs((*self.besides, answer))


@pytest.fixture
def scheduler() -> Telling:
    return Telling()


@pytest.fixture
async def watched(scheduler: Telling, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watching]:
    monkeypatch.setattr(job_end, "FASTEST", 0.001)
    monkeypatch.setattr(job_end, "SLOWEST", 0.01)
    monkeypatch.setattr(watching, "SHORTEST", 0.001)
    background = Background()
    yield Watching(cast(Scheduler, scheduler), EventSettings(interval=0.001), background)
    await background.close()


@pytest.fixture
def wait_for(scheduler: Telling, watched: Watching) -> Callable[[Job], JobEnd]:
    return lambda job: JobEnd(cast(Scheduler, scheduler), watched, ALICE, job)


Wait = Callable[[Job], JobEnd]


async def until_listed(scheduler: Telling, times: int = 3) -> None:
    """Return once there have been some more lists, the first of which may have been under way."""
    before = scheduler.lists
    while scheduler.lists < before + times:
        await asyncio.sleep(0)


async def test_a_job_is_read_when_watching_says_that_it_has_changed(scheduler: Telling, wait_for: Wait) -> None:
    scheduler.listed, scheduler.answers = WAITS, [RUNS, TOLD]
    with wait_for(WAITS) as end:
        assert (end.begun, end.over) == (False, False)
        changing = asyncio.ensure_future(end.change())
        await until_listed(scheduler)
        assert (scheduler.asked, changing.done()) == (0, False)
        scheduler.listed = RUNS
        await changing
        assert (end.begun, end.over) == (True, False)
        scheduler.listed = OVER
        await end.change()
        assert (end.job, end.over, end.lost) == (TOLD, True, False)
        await end.change()
    assert scheduler.asked == 2


async def test_all_who_wait_share_what_watches(scheduler: Telling, watched: Watching, wait_for: Wait) -> None:
    scheduler.answers = [TOLD]
    with ExitStack() as stack:
        waiting = [stack.enter_context(wait_for(RUNS)) for _ in range(50)]
        changing = [asyncio.ensure_future(end.change()) for end in waiting]
        await until_listed(scheduler)
        assert repr(watched) == "<Watching 50 by 1>"
        scheduler.listed = OVER
        await asyncio.gather(*changing)
        assert all(end.over for end in waiting)


async def test_nothing_is_asked_before_anybody_waits_and_once_nobody_does(
    scheduler: Telling, watched: Watching, wait_for: Wait
) -> None:
    with wait_for(RUNS) as end:
        await asyncio.sleep(0.01)
        assert (scheduler.lists, watched.watchers) == (0, 0)
        changing = asyncio.ensure_future(end.change())
        await until_listed(scheduler)
        changing.cancel()
        await asyncio.gather(changing, return_exceptions=True)
    assert watched.watchers == 0


@pytest.mark.parametrize("what", ["the list", "the job"])
async def test_a_scheduler_that_does_not_answer_is_told_of_and_asked_again(
    scheduler: Telling, wait_for: Wait, what: str
) -> None:
    down = SchedulerUnavailable("down")
    scheduler.listed = down if what == "the list" else OVER
    scheduler.answers = [down, down, TOLD]
    with wait_for(RUNS) as end:
        await end.change()
        assert (end.trouble, end.over) == (down, False)
        await end.change()
        assert (end.job, end.over, end.lost) == (TOLD, True, False)


async def test_who_is_told_what_was_read_before_the_change_asks_again(scheduler: Telling, wait_for: Wait) -> None:
    """Reads are shared: one that was under way, or is kept for `read_cache`, is older than what is watched."""
    scheduler.listed, scheduler.answers = OVER, [RUNS, RUNS, TOLD]
    with wait_for(RUNS) as end:
        await end.change()
        assert (end.job, scheduler.asked) == (TOLD, 3)


async def test_jobs_that_are_told_of_besides_are_passed_over(scheduler: Telling, wait_for: Wait) -> None:
    scheduler.listed, scheduler.answers = OVER, [RUNS, TOLD]
    scheduler.besides = (replace(WAITS, job_id="8"),)
    with wait_for(RUNS) as end:
        await end.change()
        assert (end.job, end.lost) == (TOLD, False)


@pytest.mark.parametrize(("missed", "lost"), [(MAX_LOST - 1, False), (MAX_LOST, True)])
async def test_a_job_that_is_forgotten_is_over(scheduler: Telling, wait_for: Wait, missed: int, lost: bool) -> None:
    """Not for one answer without it: the controller may have forgotten it before the database knows."""
    scheduler.listed, scheduler.answers = None, [*[JobNotFound("7")] * missed, TOLD]
    with wait_for(RUNS) as end:
        await end.change()
        assert (end.over, end.lost) == (True, lost)
