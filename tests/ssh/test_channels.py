from __future__ import annotations

import asyncio

import pytest

from hpcgate.errors import ConnectionLost
from hpcgate.ssh.channels import Channels


def channels(limit: int | None = None) -> Channels:
    return Channels(limit, lambda: None)


async def test_a_fixed_limit_holds_and_the_queue_is_in_order() -> None:
    taken = channels(2)
    slots = [await taken.acquire(), await taken.acquire()]
    for slot in slots:
        slot.opened()
    order: list[int] = []

    async def take(number: int) -> None:
        slot = await taken.acquire()
        order.append(number)
        slot.opened()
        await asyncio.sleep(0)
        assert taken.open <= 2
        slot.release()

    waiting = [asyncio.create_task(take(number)) for number in range(5)]
    await asyncio.sleep(0.01)
    assert (taken.waiting, order) == (5, [])
    waiting[1].cancel()
    for slot in slots:
        slot.release()
        slot.release()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == [0, 2, 3, 4]
    assert (taken.open, taken.opening, taken.waiting) == (0, 0, 0)


async def test_the_limit_is_learned_from_a_refusal() -> None:
    learning = channels()
    slots = [await learning.acquire() for _ in range(10)]
    late = asyncio.create_task(learning.acquire())
    await asyncio.sleep(0)
    assert learning.waiting == 1, "ten is sshd's default, so no more are tried at first"
    for slot in slots[:3]:
        slot.opened()
    retry = asyncio.create_task(learning.again(slots[3], 60))
    await asyncio.sleep(0)
    assert learning.limit == 3
    for slot in slots[4:]:
        slot.release()
    await asyncio.sleep(0)
    assert not retry.done()
    slots[0].release()
    await asyncio.sleep(0.01)
    assert retry.done()
    assert not late.done(), "who was refused goes first"
    slots[3].opened()
    slots[1].release()
    (await late).release()
    assert learning.limit == 3


async def test_a_refusal_below_what_was_open_before_does_not_shrink_the_limit() -> None:
    learning = channels()
    slots = [await learning.acquire() for _ in range(5)]
    for slot in slots:
        slot.opened()
    for slot in slots:
        slot.release()
    slot = await learning.acquire()
    await learning.again(slot, 0.01)
    assert learning.limit == 5
    slot.opened()
    slot.release()
    assert (learning.open, learning.opening) == (0, 0)


async def test_the_loss_of_the_connection_ends_every_wait() -> None:
    taken = channels(1)
    slot = await taken.acquire()
    waiting = [asyncio.create_task(taken.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    taken.lose(ConnectionLost("gone"))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ConnectionLost] * 3
    with pytest.raises(ConnectionLost):
        await taken.acquire()
    slot.release()
    assert repr(taken) == "<Channels open=0 opening=0 limit=1 waiting=0>"


async def test_who_waits_is_reported_again_and_again() -> None:
    calls = 0

    def short() -> None:
        nonlocal calls
        calls += 1

    taken = Channels(1, short)
    slot = await taken.acquire()
    waiting = asyncio.create_task(taken.acquire())
    async with asyncio.timeout(120):
        while calls < 2:
            await asyncio.sleep(0.01)
    slot.release()
    (await waiting).release()
    await asyncio.sleep(0.25)
    seen = calls
    await asyncio.sleep(0.25)
    assert calls == seen
