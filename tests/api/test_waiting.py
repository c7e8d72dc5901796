"""When what is waited for has happened, told from how the jobs were and how they are."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hpcgate.api import waiting
from hpcgate.api.access import Access
from hpcgate.api.waiting import CLOSELY, Wait, WaitParameters, is_over, wait_for
from hpcgate.auth import Principal
from hpcgate.config import EventSettings
from hpcgate.errors import GatewayError, JobNotFound, SchedulerUnavailable, Unauthenticated
from hpcgate.gateway.streams import Streams
from hpcgate.gateway.watching import Watcher
from hpcgate.schedulers.base import Job, Jobs, JobStatus, JobTime
from hpcgate.schedulers.snapshot import Seen, Snapshot


def job(state: str, reason: str | None = None, start: int | None = None, end: int | None = None) -> Jobs:
    one = Job("1", "name", JobStatus(state, reason), JobTime(start=start, end=end), 1, "c", "n1", "p", "alice", "/")
    return Jobs((one,))


PENDING, HELD = job("PENDING", "Priority"), job("PENDING", "JobHeldUser")
RUNNING, COMPLETING = job("RUNNING", start=1), job("COMPLETING", start=1)
DONE, CANCELLED = job("COMPLETED", start=1, end=2), job("CANCELLED", end=2)
UNKNOWN, DOWN = JobNotFound("1"), SchedulerUnavailable("down")
ARRAY = Jobs((*DONE.jobs, *RUNNING.jobs))

CASES: list[tuple[Jobs | GatewayError, Jobs | GatewayError, set[Wait]]] = [
    (PENDING, PENDING, set()),
    (PENDING, HELD, {Wait.CHANGED}),
    (PENDING, RUNNING, {Wait.STARTED, Wait.CHANGED}),
    (RUNNING, RUNNING, {Wait.STARTED}),
    (RUNNING, COMPLETING, {Wait.STARTED, Wait.CHANGED}),
    (RUNNING, DONE, {Wait.STARTED, Wait.ENDED, Wait.CHANGED}),
    (PENDING, CANCELLED, {Wait.STARTED, Wait.ENDED, Wait.CHANGED}),
    (DONE, DONE, {Wait.STARTED, Wait.ENDED}),
    (ARRAY, ARRAY, {Wait.STARTED}),
    (UNKNOWN, UNKNOWN, {Wait.STARTED, Wait.ENDED, Wait.CHANGED}),
    (RUNNING, UNKNOWN, {Wait.STARTED, Wait.ENDED, Wait.CHANGED}),
    (RUNNING, DOWN, set()),
]


@pytest.mark.parametrize(("before", "now", "over"), CASES)
def test_a_wait_is_over_when_it_has_happened(
    before: Jobs | GatewayError, now: Jobs | GatewayError, over: set[Wait]
) -> None:
    """Nothing happens any more to a job that nobody knows, and nobody knows of one while the scheduler is down."""
    assert {wait for wait in Wait if is_over(wait, {"1": before}, {"1": now})} == over


def test_of_several_all_have_to_end_and_one_to_change() -> None:
    before = {"1": PENDING, "2": RUNNING}
    assert not is_over(Wait.ENDED, before, {"1": PENDING, "2": DONE})
    assert is_over(Wait.CHANGED, before, {"1": PENDING, "2": DONE})
    assert is_over(Wait.ENDED, before, {"1": CANCELLED, "2": DONE})


def seen(job_id: str, state: str = "RUNNING") -> Seen:
    return Seen(Job(job_id, "name", JobStatus(state), JobTime(), 1, "c", "n1", "p", "alice", "/"), job_id, 1)


class Naming:
    """Says which jobs an id names, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def names(self, job_id: str, one: Seen) -> bool:
        self.asked += 1
        return one.job.job_id.startswith(f"{job_id}_")


class Watched:
    """One who watches these jobs."""

    def __init__(self, *jobs: Seen) -> None:
        snapshot = Snapshot.of(jobs)
        self.jobs: Mapping[str, Seen] = snapshot.jobs.get("alice", {})
        self._families = snapshot.families.get("alice", {})

    def family(self, number: str) -> Sequence[Seen]:
        return self._families.get(number, ())


def marks(naming: Naming, watched: Watched, *ids: str) -> list[object]:
    access = cast("Access", SimpleNamespace(system=SimpleNamespace(scheduler=naming)))
    return [mark[2] for mark in waiting._marks(access, cast("Watcher", watched), ids)]


MANY = tuple(f"7_[{number}]" for number in range(1000))
FOUND: dict[str, tuple[tuple[str, ...], int]] = {
    # which ids, and how many of the jobs 7_0 to 7_999, 70 and 700 they find
    "none": ((), 0),
    "a job": (("70",), 1),
    "a job that is not there": (("71",), 0),
    "one whose number another begins with": (("7",), 1000),
    "tasks": (("7_1", "7_2"), 2),
    "what is no id": (("abc", ""), 0),
    "a few that name none": (("7_[1]", "7_[2]"), 0),
    "so many that nobody looks which": (MANY, 1000),
    "all of it": (("7", "70", "700", "1", *MANY), 1002),
}


@pytest.mark.parametrize("kind", FOUND)
def test_whom_a_wait_is_for_is_found_by_going_through_ids_and_jobs_once(kind: str) -> None:
    """A thousand ids were held against each of a user's jobs, for seconds in which nobody else was served."""
    ids, count = FOUND[kind]
    naming = Naming()
    jobs = [seen(f"7_{number}") for number in range(1000)]
    assert len(marks(naming, Watched(*jobs, seen("70"), seen("700")), *ids)) == count
    assert naming.asked <= CLOSELY * len(jobs)


@pytest.mark.parametrize("reason", ["expired", "revoked", "stop"])
async def test_nobody_is_told_by_a_token_that_counts_no_more(reason: str) -> None:
    streams, alice = Streams(9, 9), Principal("alice", "token")

    class Watching:
        settings = EventSettings()

        @contextmanager
        def watch(self, _: Principal) -> Iterator[Any]:
            yield SimpleNamespace(changed=asyncio.Event().wait, jobs={}, family=lambda _: ())

    class Busy(Naming):
        async def several(self, _: Principal, ids: Sequence[str]) -> Mapping[str, Jobs]:
            for stream in streams._open:
                stream.close(reason)
            return dict.fromkeys(ids, RUNNING)

    system = SimpleNamespace(watching=Watching(), scheduler=Busy())
    access = SimpleNamespace(
        system=system, principal=alice, stream=lambda kind, **how: streams.hold(kind, alice, "demo", **how)
    )
    asking = wait_for(cast("Access", access), ("1",), WaitParameters(wait=Wait.ENDED))
    if reason == "stop":
        await asking
    else:
        with pytest.raises(Unauthenticated):
            await asking
