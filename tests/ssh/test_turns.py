"""A connection that brings much leaves the event loop to the others after each read."""

import asyncio
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import uvloop

from hpcgate.ssh.turns import IDLE_BYTES, LONG, PORTION, Turns, take_turns

SENT = 16 * 1024 * 1024


class Connection(asyncio.Protocol):
    """Stands in for asyncssh's: busy with what it gets for a while."""

    def __init__(self, ended: "asyncio.Future[None]", busy: float = 0.002) -> None:
        self.ended = ended
        self.busy = busy
        self.sizes: list[int] = []
        self.turns: list[int] = []
        self.turn = 0
        self.eof = False
        self._recv_seq = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.sizes.append(len(data))
        self.turns.append(self.turn)
        time.sleep(self.busy)

    def eof_received(self) -> None:
        self.eof = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


async def flood(guarded: bool) -> Connection:
    """Have a socket bring more than can be read at once, and count the event loop's turns meanwhile."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * LONG)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT)
    connection = Connection(loop.create_future())
    await loop.create_connection(lambda: connection, sock=near)
    if guarded:
        ssh: Any = connection
        take_turns(ssh, lambda: None)

    def send() -> None:
        with far:
            far.sendall(bytes(SENT))

    def turn() -> None:
        connection.turn += 1
        loop.call_soon(turn)

    loop.call_soon(turn)
    sender = threading.Thread(target=send)
    sender.start()
    async with asyncio.timeout(300):
        await connection.ended
    sender.join()
    return connection


def at_once(connection: Connection) -> int:
    """Return the most bytes of one turn."""
    turns = Counter[int]()
    for turn, size in zip(connection.turns, connection.sizes, strict=True):
        turns[turn] += size
    return max(turns.values())


def test_no_more_a_turn_than_the_time_of_one_allows() -> None:
    connection = uvloop.run(flood(guarded=True))
    assert sum(connection.sizes) == SENT
    assert connection.eof
    # Each portion takes longer than a turn may.
    assert at_once(connection) < LONG


def test_a_loop_left_alone_reads_on() -> None:
    assert at_once(uvloop.run(flood(guarded=False))) > LONG


async def spoken_to(resting: bool) -> tuple[int, bool]:
    """Have a connection that nobody asks for anything bring more than it may; return how much it took, and its end."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    connection = Connection(loop.create_future(), busy=0)
    transport, _ = await loop.create_connection(lambda: connection, sock=near)
    ssh: Any = connection
    turns = take_turns(ssh, transport.abort)
    assert turns is not None
    if resting:
        turns.rest()

    def send() -> None:
        with far, suppress(OSError):
            far.sendall(bytes(2 * IDLE_BYTES))

    sender = threading.Thread(target=send)
    sender.start()
    async with asyncio.timeout(300):
        await connection.ended
    sender.join()
    return sum(connection.sizes), connection.eof


def test_a_flood_that_nobody_asked_for_ends_the_connection() -> None:
    taken, ended_by_itself = uvloop.run(spoken_to(resting=True))
    assert taken <= IDLE_BYTES
    assert not ended_by_itself
    assert uvloop.run(spoken_to(resting=False)) == (2 * IDLE_BYTES, True)


async def test_crumbs_that_nobody_asked_for_end_the_connection_however_few_bytes_they_are() -> None:
    """Each is a packet to decrypt, and a turn of the event loop."""
    flooded: list[None] = []
    connection: Any = Connection(asyncio.get_running_loop().create_future(), busy=0)
    turns = Turns(connection, Any, lambda: flooded.append(None))
    began = time.monotonic()
    turns.rest()
    for _ in range(100_000):
        turns.data_received(b"x")
        if flooded:
            break
    assert flooded
    assert len(connection.sizes) <= 1000 + 10 * (time.monotonic() - began) + 1
    turns.wake()
    for _ in range(2000):
        turns.data_received(b"x")
    assert len(flooded) == 1


async def closed_meanwhile() -> list[dict[str, Any]]:
    """Have a connection close as soon as something comes, and return what the event loop complains of."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, complaint: complaints.append(complaint))

    class Closing(Connection):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            transport: Any = self._transport
            transport.abort()

    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * LONG)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT)
    with far:
        far.setblocking(False)
        connection = Closing(loop.create_future(), busy=0)
        await loop.create_connection(lambda: connection, sock=near)
        ssh: Any = connection
        take_turns(ssh, lambda: None)
        far.send(bytes(2 * LONG))
        async with asyncio.timeout(300):
            await connection.ended
        await asyncio.sleep(0.01)
    assert connection.sizes == [PORTION]
    return complaints


def test_a_connection_that_closes_on_what_comes_is_left_alone() -> None:
    assert uvloop.run(closed_meanwhile()) == []


async def test_a_connection_through_a_jump_host_stays_as_it_is() -> None:
    class Tunnelled:
        _transport = object()
        _recv_seq = 0

    ssh: Any = Tunnelled()
    assert take_turns(ssh, lambda: None) is None
    assert type(ssh._transport) is object
