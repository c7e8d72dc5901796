"""A client that leaves while nothing is read from it: its request ends, and with it what it has started."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from hpcgate.config.http import HttpSettings
from hpcgate.http.body import Bodies
from hpcgate.http.disconnect import HangUp
from hpcgate.server.absence import KEEP_ALIVE, Absences, ask_whether_there
from hpcgate.server.front import Front
from hpcgate.server.http_protocol import Http

PATIENCE = 600
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UNHEARD: dict[str, bytes] = {
    # What a client sends of which more lies unread than may be read ahead.
    "requests in a row": GET * 3,
    "a body that nobody reads": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 100_000,
}


def end(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


async def found(sent: bytes, leave: Callable[[socket.socket], None] | None) -> str:
    """Return what becomes of a request that never ends, whose client sends this and then leaves."""
    begun = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await asyncio.Event().wait()

    config = uvicorn.Config(Bodies(HangUp(endless)), interface="asgi3", log_config=None)
    config.load()
    state = ServerState()
    connections = cast("set[Http]", state.connections)
    front = Front(HttpSettings(header_timeout=PATIENCE))
    server = await asyncio.get_running_loop().create_server(
        lambda: Http(config=config, server_state=state, app_state={}, front=front), "127.0.0.1", 0
    )
    absences = Absences()
    async with server, asyncio.timeout(PATIENCE):
        client = socket.create_connection(server.sockets[0].getsockname(), timeout=PATIENCE)
        await asyncio.to_thread(client.sendall, sent)
        await begun.wait()
        await until(lambda: any(one.unheard() for one in connections))
        (connection,) = connections
        for _ in range(3):
            absences.look(connections)
        assert connection in connections
        if leave is None:
            ends = "stays"
        else:
            leave(client)
            await until(connection.has_left)
            absences.look(connections)
            assert not connection.is_over()
            absences.look(connections)
            await until(lambda: not connections)
            ends = "has gone"
        client.close()
        for one in list(connections):
            one.cut()
        await until(lambda: not state.tasks)
    return ends


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("leave", [end, reset])
@pytest.mark.parametrize("name", UNHEARD)
def test_who_leaves_unheard_is_found(name: str, leave: Callable[[socket.socket], None]) -> None:
    """A stream of a file at rest had gone on for a day: nothing was written to who had left, nor read from."""
    assert uvloop.run(found(UNHEARD[name], leave)) == "has gone"


@pytest.mark.parametrize("name", UNHEARD)
def test_who_stays_unheard_is_left_alone(name: str) -> None:
    assert uvloop.run(found(UNHEARD[name], None)) == "stays"


def test_the_kernel_asks_whether_clients_are_there() -> None:
    """Each connection has it of the socket that it came by: one that lost its way would hold a stream for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ask_whether_there(listener)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as taken:
            assert taken.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for name, value in KEEP_ALIVE.items():
                assert taken.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
