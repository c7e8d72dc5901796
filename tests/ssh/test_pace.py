"""Streams give way to small requests, and to nobody else."""

import asyncio
import time

from hpcgate.ssh.pace import LEAST, MOST, Pace


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
    assert (await asyncio.gather(pace.turn(), pace.turn())) == [None, None]
    assert pace._small == 0


async def test_a_late_event_loop_makes_longer_pauses_within_bounds() -> None:
    pace = Pace()
    with pace.small():
        for _ in range(40):
            asyncio.get_running_loop().call_soon(time.sleep, 0.005)
            await pace.turn()
        assert LEAST * 4 < pace._pause <= MOST
        for _ in range(200):
            await pace.turn()
    assert pace._pause < MOST
