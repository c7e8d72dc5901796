"""The end of a job is asked for once, however many wait for it. The scheduler is the tests' own: it counts."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import cast

import pytest

from hpcgate.auth import Principal
from hpcgate.errors import GatewayError, JobNotFound, SchedulerUnavailable
from hpcgate.gateway import job_ends
from hpcgate.gateway.job_ends import MAX_LOST, JobEnds
from hpcgate.schedulers.base import Job, Jobs, JobStatus, JobTime, Scheduler

ALICE = Principal("alice", "token")
WAITS = Job("7", "n", JobStatus("PENDING"), JobTime(), 1, "c", "", "p", "alice", "/")
RUNS = replace(WAITS, status=JobStatus("RUNNING"), time=JobTime(start=1))
OVER = replace(WAITS, status=JobStatus("COMPLETED", exit_code=0), time=JobTime(start=1, end=2))


class Answers:
    """Answers with what it has been given, one after the other, and with the last of them from then on."""

    def __init__(self, *answers: Job | GatewayError) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.besides: tuple[Job, ...] = ()

    async def job(self, principal: Principal, job_id: str) -> Jobs:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, GatewayError):
            raise answer
        return Jobs((*self.besides, answer))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_ends, "FASTEST", 0.001)
    monkeypatch.setattr(job_ends, "SLOWEST", 0.01)


async def test_a_job_is_asked_for_once_for_all_who_wait() -> None:
    scheduler = Answers(WAITS, RUNS, RUNS, OVER)
    ends = JobEnds(cast(Scheduler, scheduler))
    async with AsyncExitStack() as stack:
        waiting = [await stack.enter_async_context(ends.of(ALICE, WAITS)) for _ in range(50)]
        assert (len(ends), len(set(map(id, waiting)))) == (1, 1)
        assert (waiting[0].begun, waiting[0].over) == (False, False)
        await waiting[0].change()
        assert (waiting[0].begun, waiting[0].over) == (True, False)
        await asyncio.gather(*(end.change() for end in waiting))
        assert all(end.over for end in waiting)
    assert scheduler.asked == 4
    assert len(ends) == 0


async def test_nobody_is_asked_once_nobody_waits() -> None:
    scheduler = Answers(RUNS)
    ends = JobEnds(cast(Scheduler, scheduler))
    async with ends.of(ALICE, RUNS) as end:
        while not scheduler.asked:
            await asyncio.sleep(0)
    assert end.task is not None
    await asyncio.wait([end.task])
    asked = scheduler.asked
    await asyncio.sleep(0.05)
    assert scheduler.asked == asked
    await ends.close()


async def test_a_scheduler_that_does_not_answer_is_told_of_and_asked_again() -> None:
    down = SchedulerUnavailable("down")
    ends = JobEnds(cast(Scheduler, Answers(down, down, OVER)))
    async with ends.of(ALICE, RUNS) as end:
        await end.change()
        assert (end.trouble, end.over) == (down, False)
        await end.change()
        assert (end.trouble, end.over, end.lost) == (None, True, False)


async def test_jobs_that_are_told_of_besides_are_passed_over() -> None:
    scheduler = Answers(RUNS, OVER)
    scheduler.besides = (replace(WAITS, job_id="8"),)
    async with JobEnds(cast(Scheduler, scheduler)).of(ALICE, RUNS) as end, asyncio.timeout(300):
        await end.change()
        assert (end.job, end.lost) == (OVER, False)


@pytest.mark.parametrize(("missed", "lost"), [(MAX_LOST - 1, False), (MAX_LOST, True)])
async def test_a_job_that_is_forgotten_is_over(missed: int, lost: bool) -> None:
    """Not for one answer without it: the controller may have forgotten it before the database knows."""
    ends = JobEnds(cast(Scheduler, Answers(*[JobNotFound("7")] * missed, OVER)))
    async with ends.of(ALICE, RUNS) as end:
        await end.change()
        assert (end.over, end.lost) == (True, lost)
