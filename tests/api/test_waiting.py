"""When what is waited for has happened, told from how the jobs were and how they are."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hpcgate.api.access import Access
from hpcgate.api.waiting import Wait, WaitParameters, is_over, wait_for
from hpcgate.auth import Principal
from hpcgate.config import EventSettings
from hpcgate.errors import GatewayError, JobNotFound, SchedulerUnavailable, Unauthenticated
from hpcgate.gateway.streams import Streams
from hpcgate.schedulers.base import Job, Jobs, JobStatus, JobTime


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


@pytest.mark.parametrize("reason", ["expired", "revoked", "stop"])
async def test_nobody_is_told_by_a_token_that_counts_no_more(reason: str) -> None:
    streams, alice = Streams(9, 9), Principal("alice", "token")

    class Watching:
        settings = EventSettings()

        @contextmanager
        def watch(self, _: Principal) -> Iterator[Any]:
            yield SimpleNamespace(changed=asyncio.Event().wait, named=lambda ids, names: [])

    class Busy:
        names = None

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
