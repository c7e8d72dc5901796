"""Watchers of jobs: one query for all of them, none while there are none, and each hears of own jobs alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hpcgate.auth import Principal
from hpcgate.config import EventSettings
from hpcgate.errors import SchedulerUnavailable
from hpcgate.gateway import watching
from hpcgate.gateway.background import Background
from hpcgate.gateway.watching import CALM_AFTER, CALMEST, CLOSELY, LIVELY, Poller, Watcher, Watching
from hpcgate.schedulers.base import Job, JobStatus, JobTime, Scheduler
from hpcgate.schedulers.snapshot import Seen, Snapshot

HOUR = 3600.0
"""An interval that no test lives to see the end of: who is asked is asked for a reason."""


def seen(job_id: str, user: str, state: str = "PENDING", **times: int) -> Seen:
    job = Job(job_id, "name", JobStatus(state), JobTime(**times), 1, "c", "n1", "p", user, "/")
    return Seen(job, job_id, 1)


class Cluster:
    """Tells what it is told to; counts who asks for whom."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.jobs: list[Seen] = []
        self.error: SchedulerUnavailable | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def snapshot(self, principal: Principal, *, user: str | None) -> Snapshot:
        self.asked.append((principal.username, user))
        found = list(self.jobs)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return Snapshot.of(found)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def background() -> AsyncIterator[Background]:
    made = Background()
    yield made
    await made.close()


Make = Callable[..., Watching]


@pytest.fixture
def make(cluster: Cluster, background: Background, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr(watching, "SHORTEST", 0.0)

    def made(**settings: Any) -> Watching:
        return Watching(cast("Scheduler", cluster), EventSettings(**({"interval": HOUR} | settings)), background)

    return made


def user(name: str, until: float | None = None) -> Principal:
    return Principal(name, "", expires_at=until)


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def is_woken(watcher: Watcher) -> bool:
    return watcher._woken.is_set()


async def test_all_watchers_of_a_user_share_a_query_and_without_any_there_is_none(
    make: Make, cluster: Cluster, background: Background
) -> None:
    shared = make()
    cluster.jobs = [seen("1", "alice"), seen("2", "bob")]
    assert cluster.asked == []
    with ExitStack() as stack:
        watchers = [stack.enter_context(shared.watch(user("alice"))) for _ in range(100)]
        await asyncio.gather(*(watcher.changed() for watcher in watchers))
        assert cluster.asked == [("alice", "alice")]
        assert all(list(watcher.jobs) == ["1"] for watcher in watchers)
        assert repr(shared) == "<Watching 100 by 1>"
        assert background.running == ["events.poller/0"]
    await settle()
    assert (len(cluster.asked), background.running, shared.watchers, shared.polls) == (1, [], 0, 1)


async def test_a_service_account_asks_once_for_everybody_and_nobody_sees_anothers_jobs(
    make: Make, cluster: Cluster, background: Background
) -> None:
    async def principal() -> Principal:
        return user("service")

    background.account = cast("Any", SimpleNamespace(principal=principal))
    shared = make(by_service_account=True)
    cluster.jobs = [seen("1", "alice"), seen("2", "bob")]
    with shared.watch(user("alice")) as alice, shared.watch(user("bob")) as bob, shared.watch(user("carol")) as carol:
        await asyncio.gather(*(one.changed() for one in (alice, bob, carol)))
        assert cluster.asked == [("service", None)]
        assert (list(alice.jobs), list(bob.jobs), list(carol.jobs)) == (["1"], ["2"], [])
        cluster.jobs[1] = seen("2", "bob", "RUNNING", start=5)
        shared.nudge("bob")
        await bob.changed()
        await settle()
        assert not is_woken(alice)


async def test_without_a_service_account_that_may_each_user_asks_for_own_jobs(make: Make, cluster: Cluster) -> None:
    shared = make(by_service_account=True)
    with shared.watch(user("alice")) as alice, shared.watch(user("bob")) as bob:
        await asyncio.gather(alice.changed(), bob.changed())
        assert sorted(cluster.asked) == [("alice", "alice"), ("bob", "bob")]


CHANGES = {
    "its state": seen("1", "alice", "RUNNING"),
    "its start": seen("1", "alice", start=7),
    "its end": seen("1", "alice", end=9),
    "its requeue": replace(seen("1", "alice"), submitted=2),
    "another job": seen("2", "alice"),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_who_watches_is_woken_by_a_change(make: Make, cluster: Cluster, what: str) -> None:
    shared = make()
    cluster.jobs = [seen("1", "alice")]
    with shared.watch(user("alice")) as alice:
        await alice.changed()
        cluster.jobs = [CHANGES[what]]
        shared.nudge()
        await alice.changed()
        assert list(alice.jobs.values()) == [CHANGES[what]]


async def test_a_job_that_runs_on_wakes_nobody(make: Make, cluster: Cluster) -> None:
    shared = make()
    cluster.jobs = [seen("1", "alice", "RUNNING", start=1, elapsed=1)]
    with shared.watch(user("alice")) as alice:
        await alice.changed()
        cluster.jobs = [seen("1", "alice", "RUNNING", start=1, elapsed=2)]
        shared.nudge()
        await settle()
        assert len(cluster.asked) == 2
        assert not is_woken(alice)


async def test_who_comes_while_a_query_is_under_way_is_answered_by_the_next(make: Make, cluster: Cluster) -> None:
    """What was begun before may be older than what the one who comes has just done."""
    shared = make()
    cluster.go.clear()
    with shared.watch(user("alice")) as first:
        await settle()
        cluster.jobs = [seen("1", "alice")]
        with shared.watch(user("alice")) as second:
            cluster.go.set()
            await first.changed()
            assert (second.ready, dict(second.jobs)) == (False, {})
            await second.changed()
            assert list(second.jobs) == ["1"]
            assert len(cluster.asked) == 2


async def test_a_scheduler_that_is_down_is_asked_again_and_all_look_once_it_is_back(
    make: Make, cluster: Cluster
) -> None:
    shared = make()
    cluster.jobs = [seen("1", "alice")]
    with shared.watch(user("alice")) as alice:
        await alice.changed()
        cluster.error = SchedulerUnavailable("down")
        shared.nudge()
        await alice.changed()
        assert list(alice.jobs) == ["1"]
        cluster.error = None
        shared.nudge()
        await alice.changed()


async def test_the_next_to_come_has_a_query_of_its_own_while_the_last_one_s_is_under_way(
    make: Make, cluster: Cluster, background: Background
) -> None:
    shared = make()
    cluster.go.clear()
    with shared.watch(user("alice")):
        await settle()
    with shared.watch(user("alice")) as again:
        await settle()
        assert len(cluster.asked) == 2
        cluster.go.set()
        await again.changed()
        await settle()
        assert background.running == ["events.poller/1"]


async def test_the_token_that_lasts_longest_is_asked_with(make: Make, cluster: Cluster) -> None:
    async def ask(principal: Principal) -> Snapshot:
        asked.append(principal.expires_at)
        return Snapshot.of([])

    asked: list[float | None] = []
    poller = Poller(ask, HOUR)
    for until in (5.0, 9.0, 7.0):
        poller.add(Watcher(user("alice", until=until), poller))
    running = asyncio.ensure_future(poller.run())
    await settle()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert asked == [9.0]


async def test_queries_become_fewer_while_nothing_happens_and_more_after_a_write() -> None:
    async def ask(principal: Principal) -> Snapshot:
        pytest.fail("nothing is asked here")

    poller = Poller(ask, 5)
    now = asyncio.get_running_loop().time()
    assert poller._pause(now) == 5
    for _ in range(10 * CALM_AFTER):
        poller._take(Snapshot.of([]), [])
    assert poller._pause(now) == 5 * CALMEST
    poller._take(Snapshot.of([seen("1", "alice")]), [])
    assert poller._pause(now) == 5
    poller.nudge()
    assert poller._pause(now) == LIVELY
    poller._failed(SchedulerUnavailable("down"))
    assert poller._pause(now) == 5


class Naming:
    """Says which jobs an id names, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, job_id: str, one: Seen) -> bool:
        self.asked += 1
        return one.job.job_id.startswith(f"{job_id}_")


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
async def test_what_ids_name_is_found_by_going_through_ids_and_jobs_once(
    make: Make, cluster: Cluster, kind: str
) -> None:
    """A thousand ids were held against each of a user's jobs, for seconds in which nobody else was served."""
    ids, count = FOUND[kind]
    naming = Naming()
    cluster.jobs = [seen(name, "alice") for name in (*(f"7_{number}" for number in range(1000)), "70", "700")]
    with make().watch(user("alice")) as alice:
        await alice.changed()
        assert len(alice.named(ids, naming)) == count
    assert naming.asked <= CLOSELY * 1000
