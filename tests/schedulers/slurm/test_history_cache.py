"""What the database has said is used again only while nothing can have happened since."""

import time
from dataclasses import replace
from typing import Any

import pytest

from hpcgate.schedulers.base import Job, JobStatus, JobTime
from hpcgate.schedulers.slurm.history_cache import HistoryCache, agree
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.records import Record, Selection

MINE = Selection(user="alice", window=3600)


def record(raw: str, state: str) -> Record:
    job = Job(
        job_id=raw, name="job", status=JobStatus(state=state), time=JobTime(elapsed=1), allocation_nodes=1,
        cluster="demo", nodes="n1", partition="all",
        user="alice",
        working_directory="/",
    )  # fmt: skip
    return Record(job, raw)


RUNNING = [record("1", "RUNNING"), record("2", "PENDING")]
PAST = [*RUNNING, record("0", "COMPLETED")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_it_holds_while_the_queue_is_the_same(clock: list[float]) -> None:
    past = HistoryCache(2)
    assert not past.known("alice", MINE)
    past.put("alice", MINE, RUNNING, PAST)
    clock[0] += 1.5
    assert past.known("alice", MINE)
    assert past.get("alice", MINE, list(RUNNING)) == (PAST, 1.5)
    clock[0] += 0.6
    assert not past.known("alice", MINE)
    assert past.get("alice", MINE, RUNNING) is None


@pytest.mark.parametrize(
    "queue",
    [
        RUNNING[:1],
        [*RUNNING, record("3", "PENDING")],
        [record("1", "COMPLETED"), RUNNING[1]],
        [RUNNING[0], record("2", "RUNNING")],
    ],
    ids=["one has gone", "a new one", "one has ended", "one has begun"],
)
def test_whatever_the_queue_shows_ends_it(queue: list[Record], clock: list[float]) -> None:
    past = HistoryCache(2)
    past.put("alice", MINE, RUNNING, PAST)
    assert past.get("alice", MINE, queue) is None
    assert not past.known("alice", MINE), "even if the queue should look as before the next time"


def test_what_the_database_does_not_know_yet_is_not_kept(clock: list[float]) -> None:
    ended = [record("1", "COMPLETED")]
    assert agree(RUNNING, PAST)
    assert not agree(ended, [record("1", "RUNNING")]), "slurmdbd has not been told"
    assert not agree([], [record("1", "RUNNING")]), "the controller has forgotten it, and the database not heard"
    halved = record("1", "COMPLETED")
    nowhere: Any = None
    assert not agree(ended, [replace(halved, job=replace(halved.job, partition=nowhere))])
    past = HistoryCache(2)
    past.put("alice", MINE, ended, [record("1", "RUNNING")])
    assert not past.known("alice", MINE)


def test_users_and_selections_share_nothing_and_a_write_ends_all_of_a_user(clock: list[float]) -> None:
    past = HistoryCache(2)
    for user in ("alice", "bob"):
        past.put(user, MINE, RUNNING, PAST)
    assert not past.known("alice", Selection(user="bob", window=3600))
    past.forget("alice")
    assert not past.known("alice", MINE)
    assert past.known("bob", MINE)


def test_it_can_be_switched_off_and_is_bounded(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    off = HistoryCache(0)
    off.put("alice", MINE, RUNNING, PAST)
    assert not off.known("alice", MINE)
    single = HistoryCache(2)
    chosen = Selection(ids=(JobId("1"),))
    single.put("alice", chosen, RUNNING, PAST)
    assert not single.known("alice", chosen)
    monkeypatch.setattr("hpcgate.schedulers.slurm.history_cache.MAX", 3)
    past = HistoryCache(2)
    for number in range(10):
        past.put(f"user{number}", MINE, RUNNING, PAST)
    assert [past.known(f"user{number}", MINE) for number in range(10)] == [False] * 7 + [True] * 3


def test_nobody_pushes_out_what_is_kept_of_others(clock: list[float]) -> None:
    past = HistoryCache(60)
    past.put("alice\0standing", MINE, RUNNING, PAST)
    lists = [Selection(user="bob", account=f"account-{number}") for number in range(1000)]
    for number, selection in enumerate(lists):
        past.put(f"bob\0standing-{number % 3}", selection, RUNNING, PAST)
    assert past.known("alice\0standing", MINE)
    assert sum(past.known(f"bob\0standing-{number % 3}", one) for number, one in enumerate(lists)) == 50
    assert past.known("bob\0standing-0", lists[-1])
