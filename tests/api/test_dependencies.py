"""What jobs are to wait for: unknown jobs are refused by their names, and only if they are certain to be unknown."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hpcgate.api.dependencies import MOST, SHOWN, check, unknown
from hpcgate.errors import BadRequest, GatewayError, JobNotFound, SchedulerUnavailable, TimedOut
from hpcgate.schedulers.base import Jobs
from hpcgate.schedulers.job_spec import Dependency
from hpcgate.schedulers.once import Fate


class Known:
    """Stands for a scheduler that knows the jobs below 100.

    Args:
        error: What it says instead.
        fate: What has become of a submission.
    """

    def __init__(self, error: GatewayError | None = None, fate: Fate | GatewayError | None = None) -> None:
        self.error, self.fate = error, fate or Fate("not_submitted")
        self.queries: list[tuple[str, ...]] = []

    async def several(self, principal: object, ids: tuple[str, ...]) -> dict[str, Jobs | GatewayError]:
        self.queries.append(ids)
        if self.error is not None and not isinstance(self.error, SchedulerUnavailable):
            raise self.error
        return {one: Jobs(()) if len(one) < 3 else self.error or JobNotFound(one) for one in ids}

    async def unknown(self, principal: object, ids: tuple[str, ...]) -> frozenset[str]:
        found = await self.several(principal, ids)
        return frozenset(one for one, answer in found.items() if isinstance(answer, JobNotFound))

    async def submission(self, principal: object, once: object) -> Fate:
        if isinstance(self.fate, GatewayError):
            raise self.fate
        return self.fate


def access(scheduler: Known) -> Any:
    return SimpleNamespace(principal=None, system=SimpleNamespace(scheduler=scheduler))


def after(*ids: str) -> tuple[Dependency, ...]:
    return (Dependency("afterok", ids), Dependency("singleton"))


async def test_jobs_are_looked_up_together_and_those_that_are_unknown_are_named() -> None:
    scheduler = Known()
    errors = await unknown(access(scheduler), [after("1", "2"), (), after("100", "1", "200"), after("200")])
    assert [error and error.message for error in errors] == [
        None,
        None,
        "dependencies: the scheduler knows no job 100, 200",
        "dependencies: the scheduler knows no job 200",
    ]
    assert scheduler.queries == [("1", "2", "100", "200")]


async def test_a_job_that_waits_for_none_costs_no_query() -> None:
    scheduler = Known()
    await check(access(scheduler), ())
    await check(access(scheduler), (Dependency("singleton"),))
    assert scheduler.queries == []


async def test_so_many_are_named_and_so_many_taken() -> None:
    with pytest.raises(BadRequest, match="and 5 more"):
        await check(access(Known()), after(*(str(1000 + number) for number in range(SHOWN + 5))))
    with pytest.raises(BadRequest, match=f"^dependencies: .* at most {MOST} "):
        await check(access(Known()), after(*(str(number) for number in range(MOST + 1))))
    scheduler = Known()
    await check(access(scheduler), after(*(str(number % 100) for number in range(MOST))))


@pytest.mark.parametrize("error", [SchedulerUnavailable("the database is down"), BadRequest("no list")], ids=repr)
async def test_what_cannot_be_looked_up_is_left_to_the_scheduler(error: GatewayError) -> None:
    await check(access(Known(error)), after("100"))


async def test_a_scheduler_that_does_not_answer_is_waited_for_once() -> None:
    with pytest.raises(TimedOut):
        await check(access(Known(TimedOut("squeue"))), after("100"))


@pytest.mark.parametrize(
    ("fate", "refused"),
    [
        (Fate("not_submitted"), True),
        (Fate("submitted", "7"), False),
        (Fate("under_way"), False),
        (Fate("unknown"), False),
        (SchedulerUnavailable("down"), False),
    ],
    ids=repr,
)
async def test_a_job_that_was_submitted_is_answered_as_then(fate: Fate | GatewayError, refused: bool) -> None:
    """What it waited for may have been forgotten meanwhile: the answer to its key stays the same."""
    once: Any = object()
    if refused:
        with pytest.raises(BadRequest):
            await check(access(Known(fate=fate)), after("100"), once)
    else:
        await check(access(Known(fate=fate)), after("100"), once)
