"""Tasks have an owner that ends them and takes note of their errors."""

import asyncio

import pytest

from hpcgate.errors import BadRequest
from hpcgate.sharing.tasks import Tasks
from hpcgate.telemetry.containment import FAULTS


async def test_an_owner_waits_for_tasks_that_tasks_begin() -> None:
    tasks = Tasks("test")
    done: list[str] = []

    async def second() -> None:
        await asyncio.sleep(0)
        done.append("second")

    async def first() -> None:
        tasks.spawn(second())
        done.append("first")

    tasks.spawn(first())
    await tasks.finish()
    assert done == ["first", "second"]
    assert len(tasks) == 0


async def test_closing_ends_all() -> None:
    """Whoever closes the owner ends all of its tasks."""
    tasks = Tasks("test")
    task = tasks.spawn(asyncio.Event().wait())
    await tasks.finish(0)
    assert not task.done()
    await tasks.close()
    assert task.cancelled()


@pytest.mark.parametrize(
    ("error", "expected", "counted"),
    [(BadRequest("x"), (), 0), (ValueError("x"), (), 1), (ValueError("x"), (ValueError,), 0)],
    ids=["the gateway's own", "a fault", "expected"],
)
async def test_an_error_is_a_fault_unless_somebody_may_wait_for_it(
    error: Exception, expected: tuple[type[Exception], ...], counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FAULTS, "counts", {})
    tasks = Tasks("test", *expected)

    async def fail() -> None:
        raise error

    task = tasks.spawn(fail())
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert FAULTS.counts["test"] == counted
