"""A connection that brings much leaves the event loop to the others after each read."""

import asyncio
import socket
import threading
import time
from typing import Any

import uvloop

from hpcgate.ssh.connection import _LONG, _take_turns

SENT = 16 * 1024 * 1024


class Connection(asyncio.Protocol):
    """Stands in for asyncssh's: busy with what it gets for a while."""

    def __init__(self, ended: "asyncio.Future[None]") -> None:
        self.ended = ended
        self.sizes: list[int] = []
        self.turns: list[int] = []
        self.turn = 0
        self.eof = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.sizes.append(len(data))
        self.turns.append(self.turn)
        time.sleep(0.002)

    def eof_received(self) -> None:
        self.eof = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


async def flood(guarded: bool) -> Connection:
    """Have a socket bring more than can be read at once, and count the event loop's turns meanwhile."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * _LONG)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT)
    connection = Connection(loop.create_future())
    await loop.create_connection(lambda: connection, sock=near)
    if guarded:
        ssh: Any = connection
        _take_turns(ssh)

    def send() -> None:
        with far:
            far.sendall(bytes(SENT))

    def turn() -> None:
        connection.turn += 1
        loop.call_soon(turn)

    loop.call_soon(turn)
    sender = threading.Thread(target=send)
    sender.start()
    async with asyncio.timeout(30):
        await connection.ended
    sender.join()
    return connection


def at_once(connection: Connection) -> int:
    """Return the most long reads of one turn."""
    long = [turn for turn, size in zip(connection.turns, connection.sizes, strict=True) if size >= _LONG]
    return max(long.count(turn) for turn in set(long))


def test_one_long_read_a_turn() -> None:
    connection = uvloop.run(flood(guarded=True))
    assert sum(connection.sizes) == SENT
    assert connection.eof
    assert at_once(connection) == 1


def test_a_loop_left_alone_reads_on() -> None:
    assert at_once(uvloop.run(flood(guarded=False))) > 1


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
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * _LONG)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT)
    with far:
        far.setblocking(False)
        far.send(bytes(2 * _LONG))
        connection = Closing(loop.create_future())
        await loop.create_connection(lambda: connection, sock=near)
        ssh: Any = connection
        _take_turns(ssh)
        async with asyncio.timeout(10):
            await connection.ended
        await asyncio.sleep(0.01)
    assert connection.sizes[0] >= _LONG
    return complaints


def test_a_connection_that_closes_on_what_comes_is_left_alone() -> None:
    assert uvloop.run(closed_meanwhile()) == []


async def test_a_connection_through_a_jump_host_stays_as_it_is() -> None:
    class Tunnelled:
        _transport = object()

    ssh: Any = Tunnelled()
    _take_turns(ssh)
    assert type(ssh._transport) is object
