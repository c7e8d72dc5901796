"""The bookkeeping of the pool, without a connection."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from hpcgate.ssh.places import BULK, Place, Places


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ([], "login"),
        (["enter"], "in use"),
        (["enter", "rest"], "idle"),
        (["enter", "rest", "warm"], "in use"),
        (["enter", "retire"], "retired"),
        (["enter", "retire", "close"], "closing"),
        (["enter", "rest", "close"], "closing"),
        (["enter", "lose"], "lost"),
        (["enter", "retire", "lose"], "lost"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "new",
)
def test_a_place_tells_its_state(steps: list[str], state: str) -> None:
    connection: Any = SimpleNamespace(alive=True, spent=False, expires_at=None, wake=lambda: None)
    places, place = Places(2), Place("alice" + BULK, "alice")
    places.current[place.key] = place
    for step in steps:
        match step:
            case "enter":
                place.connection, place.leases = connection, 1
            case "rest":
                place.leases = 0
                places.idle[place] = None
            case "warm":
                assert places.warm(place.key) is place
            case "lose":
                connection.alive = False
            case _:
                getattr(places, step)(place)
    assert place.state == state
    assert repr(place) == f"<Place alice bulk {state} leases={place.leases} waiting=0>"


def test_a_place_that_is_freed_goes_to_who_waits_longest() -> None:
    places = Places(2)
    first, second, third = Place("a", "a"), Place("b", "b"), Place("c", "c")
    assert places.admit(first)
    assert places.admit(second)
    assert not places.admit(third)
    loop = asyncio.new_event_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    places.wait(third, waiter)
    assert places.evictable() is None
    places.idle[second] = None
    places.idle[first] = None
    assert places.evictable() is second
    places.close(second)
    assert places.evictable() is None, "one closing is enough for one waiting"
    assert not waiter.done()
    places.closed(second)
    assert waiter.done()
    assert third.counted
    assert places.taken == 2
    places.free(second)
    assert places.taken == 2, "freed once"
    assert repr(places) == "<Places taken=2/2 idle=1 queue=0>"
    loop.close()
