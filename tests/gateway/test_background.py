"""What goes on by itself has an owner that ends it, and survives its own faults."""

import asyncio
from collections.abc import Callable
from typing import Any

from hpcgate.config import Settings
from hpcgate.gateway.background import Background
from hpcgate.gateway.gateway import Gateway
from hpcgate.gateway.reload import Gateways
from hpcgate.telemetry.base import SILENT
from hpcgate.telemetry.containment import FAULTS
from tests.gateway.test_reload import settings, until

__all__ = ["settings"]


async def test_a_job_has_one_task_and_ends_with_its_owner() -> None:
    began: list[str] = []
    ended: list[str] = []

    async def poll() -> None:
        began.append("poll")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("poll")

    background = Background()
    background.start("test.poller", poll)
    background.start("test.poller", poll)
    await until(lambda: began == ["poll"])
    assert background.running == ["test.poller"]
    await background.stop("test.poller")
    assert (ended, background.running) == (["poll"], [])
    background.start("test.poller", poll)
    await until(lambda: len(began) == 2)
    await background.close()
    background.start("test.poller", poll)
    assert (len(began), len(ended), background.running) == (2, 2, [])


async def test_a_job_that_fails_is_counted_and_begins_again() -> None:
    began = 0

    async def fail_once() -> None:
        nonlocal began
        began += 1
        if began == 1:
            raise RuntimeError("no luck")

    before = FAULTS.counts.get("test.failing", 0)
    background = Background()
    background.start("test.failing/demo", fail_once)
    await until(lambda: began == 2)
    await background.close()
    assert FAULTS.counts["test.failing"] == before + 1


async def test_a_job_of_a_system_goes_on_over_a_reload_that_leaves_the_system_as_it_is(
    settings: Callable[..., Settings],
) -> None:
    """It may log in by the service account as the gateway that serves verifies it; with its system it ends."""
    served: list[Gateway] = []
    accounts: set[int] = set()

    async def forever() -> None:
        await asyncio.Event().wait()

    async def reload(gateways: Gateways, **changes: Any) -> None:
        assert await gateways.reload(lambda: settings(**changes), list)
        await until(lambda: "0 before" in repr(gateways))

    async with Gateways(settings(), SILENT, served.append) as gateways:
        first = served[0].systems["daint"]
        first.background.start("test.poller", forever)
        accounts.add(id(first.background.account))
        assert served[0].running["test.poller"] == 1
        await reload(gateways, rate_limits={"per_user": {"status:read": {"rate": 1, "burst": 20}}})
        assert served[1].systems["daint"] is first
        assert first.background.running == ["test.poller"]
        accounts.add(id(first.background.account))
        await reload(gateways, clusters=[])
        assert first.background.running == []
    assert len(accounts) == 2
