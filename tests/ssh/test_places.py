"""The bookkeeping of the pool, without a connection."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from hpcgate.auth import Principal
from hpcgate.config import SshSettings
from hpcgate.credentials.base import Credential, CredentialSource
from hpcgate.errors import CredentialRefused
from hpcgate.ssh.places import BULK, Place, Places
from hpcgate.ssh.pool import Pool


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


class Quiet:
    """A connection that does nothing."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.alive = True
        self.spent = False
        self.expires_at = None
        self.on_lost: object = None
        self.channels = SimpleNamespace(open=0, waiting=0)
        self.closed = 0

    def wake(self) -> None:
        """Somebody has it."""

    def rest(self) -> None:
        """Nobody has it."""

    async def close(self) -> None:
        """Count it."""
        self.closed += 1
        self.alive = False


class Nothing(CredentialSource):
    """Nobody logs in here."""

    def __init__(self) -> None:
        """Hold nothing."""

    async def credential(self, principal: Principal) -> Credential:
        raise CredentialRefused("no")


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    """A pool that two connections fill."""
    pool = Pool("demo", SshSettings.model_validate({"host": "127.0.0.1", "max_clients": 2}), Nothing())
    yield pool
    await pool.close()


def stand(pool: Pool, key: str, node: str, *, leases: int = 0) -> tuple[Place, Quiet]:
    """Give a user a place in a pool."""
    connection: Any = Quiet(node)
    place = Place(key, key.removesuffix(BULK), connection=connection, leases=leases)
    assert pool._places.admit(place)
    pool._places.current[key] = place
    if not leases:
        pool._places.idle[place] = None
    return place, connection


def queue(pool: Pool, username: str) -> "asyncio.Future[None]":
    """Have a user wait for a place."""
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    pool._places.wait(Place(username, username), waiter)
    return waiter


async def test_a_place_that_is_evicted_when_its_last_lease_ends_is_closed_once(pool: Pool) -> None:
    """A second connection to another login node than the first is of no use, and somebody waits for its place."""
    stand(pool, "alice", "one:22", leases=1)
    _, second = stand(pool, "alice" + BULK, "other:22")
    bob = queue(pool, "bob")
    assert pool._second.warm("alice") is None
    assert pool._places.closing == 1
    async with asyncio.timeout(60):
        await bob
    await pool._tasks.finish()
    assert (second.closed, pool._places.closing, pool._places.taken) == (1, 0, 2)


async def test_whoever_waits_has_an_idle_place_although_a_closing_made_no_room(pool: Pool) -> None:
    """The connection is lost, and its place taken, in the moment before it is closed."""
    place, lost = stand(pool, "alice", "one:22")
    stand(pool, "bob", "one:22")
    first = queue(pool, "carol")
    pool._evict()
    lost.alive = False
    pool._on_lost(place)
    assert first.done()
    second = queue(pool, "dave")
    pool._evict()
    async with asyncio.timeout(60):
        await second
    assert pool._places.taken == 2
