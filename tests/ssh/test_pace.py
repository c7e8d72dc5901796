"""Streams give way to small requests, and to nobody else."""

import asyncio
from types import SimpleNamespace

import pytest

from hpcgate.ssh import pace as pace_module
from hpcgate.ssh.pace import LATE, LEAST, MAX, Pace


async def test_nobody_waits_nobody_pauses() -> None:
    pace = Pace()
    turn = asyncio.ensure_future(pace.turn())
    await asyncio.sleep(0)
    assert turn.done()


async def test_streams_pause_while_somebody_waits() -> None:
    pace = Pace()
    with pace.small(), pace.small():
        turn = asyncio.ensure_future(pace.turn())
        await asyncio.sleep(0)
        assert not turn.done()
        await turn
    await asyncio.gather(pace.turn(), pace.turn())
    assert pace.waiting == 0


async def test_a_late_event_loop_makes_longer_pauses_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    now, late = 1000.0, 0.005
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds + late

    # A loop whose lateness is the test's, whatever the machine has to do.
    loop = SimpleNamespace(time=lambda: now)
    monkeypatch.setattr(pace_module, "asyncio", SimpleNamespace(get_running_loop=lambda: loop, sleep=sleep))
    pace = Pace()
    with pace.small():
        for _ in range(40):
            await pace.turn()
        assert slept[0] == LEAST
        assert slept == sorted(slept)
        assert slept[-1] == MAX
        late = LATE / 2
        for _ in range(200):
            await pace.turn()
    assert slept[-1] == LEAST
