"""Whichever way a connection is closed, who goes on sending has its answers whole, and then an end instead of a reset.

A socket that is closed with something unread is reset, and what was sent before may be lost.
"""

import asyncio
import math
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from hpcgate.admission.line import Caller
from hpcgate.admission.queue import Admission
from hpcgate.config.http import HttpSettings
from hpcgate.http.body import Bodies
from hpcgate.server.front import Front
from hpcgate.server.http_protocol import Http
from hpcgate.server.probes import AT_ONCE, Probes
from hpcgate.server.refusals import Refusals
from hpcgate.server.sink import LINGER, LINGER_BYTES, TURN, Ends, Sink
from hpcgate.telemetry.containment import FAULTS
from tests.server.test_front import self_signed

LONG = 700_000
"""Bytes that are more than the server reads in one go, and less than it reads at once from who is refused."""
MUCH = 16 * LINGER_BYTES
"""Bytes of which it reads a portion at a time, and which no buffers on the way hold."""
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
ANNOUNCED = POST + b"Content-Length: %d\r\n\r\n" % LONG + b"x" * LONG
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % LONG + b"x" * LONG + b"\r\n0\r\n\r\n"


class Full:
    """An admission that lets nobody in."""

    waiting, busy, ample, now, refused = 0, True, False, 0.0, 0

    def full(self, running: int) -> bool:
        return True

    def must_wait(self, asker: object, running: int) -> bool:
        return True

    def wait(self, caller: Caller, running: int) -> None:
        # A refusal is held back: by then all has come that was sent with it.
        asyncio.get_running_loop().call_soon(caller.turn_away)

    def grow(self, caller: Caller, size: int) -> bool:
        return True


class Overflowing(Full):
    """One who finds that there is no room even to be left unread."""

    ample = True

    def stays_unread(self, asker: object) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Parting:
    """What a client sends, and the statuses that it is answered.

    Attributes:
        sent: What the client sends.
        statuses: Those of the answers, all of which come.
        admission: Decides who is served.
        stopping: Whether the process is about to end.
    """

    sent: bytes
    statuses: tuple[int, ...]
    admission: type[Full] | None = None
    stopping: bool = False


ALIVE = b"GET /status/liveness HTTP/1.1\r\nHost: a\r\n\r\n"
PARTINGS = {
    "overloaded, with a body": Parting(ANNOUNCED, (503,), Full),
    "overloaded, with a body in chunks": Parting(CHUNKED, (503,), Full),
    "overloaded, with requests in a row": Parting(GET * 20_000, (503,), Full),
    "overloaded, and the last request is followed by more": Parting(LAST + b"x" * LONG, (503,), Full),
    "overloaded, and not even read": Parting(ANNOUNCED, (503,), Overflowing),
    "overloaded, and asked more often whether it lives than anybody has to know": Parting(
        ALIVE * (AT_ONCE + 2), (*[200] * AT_ONCE, 503), Full
    ),
    "stopping, with a body": Parting(ANNOUNCED, (200,), stopping=True),
    "stopping, with requests in a row": Parting(GET * 20_000, (200,), stopping=True),
    "the last request is followed by more": Parting(LAST + b"x" * LONG, (200,)),
    "the last request is followed by others": Parting(LAST + GET * 20_000, (200,)),
    "HTTP/1.0 is followed by more": Parting(b"GET / HTTP/1.0\r\n\r\n" + b"\r\n" * (LONG // 2), (200,)),
    "an answer before the body": Parting(ANNOUNCED, (200,)),
    "an answer before the body in chunks": Parting(CHUNKED, (200,)),
    "not HTTP": Parting(b"\0" * LONG, (400,)),
    "not HTTP after a request": Parting(GET + b"\0" * LONG, (200, 400)),
    "a chunk that is none, after the answer": Parting(
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n" + b"zz" * (LONG // 2), (400,)
    ),
    "not HTTP, and much of it": Parting(b"\0" * MUCH, (400,)),
    "overloaded, with much of a body": Parting(
        POST + b"Content-Length: %d\r\n\r\n" % MUCH + b"x" * MUCH, (503,), Overflowing
    ),
    "an answer before much of a body": Parting(POST + b"Content-Length: %d\r\n\r\n" % MUCH + b"x" * MUCH, (200,)),
    "a last request with a body, and then not HTTP": Parting(
        POST + b"Connection: close\r\nContent-Length: 1\r\n\r\nx" + b"\0" * LONG, (200,)
    ),
    "a body that waits to be asked for, and is none": Parting(
        POST.replace(b"/", b"/read", 1) + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n" + b"zz" * LONG,
        (400,),
    ),
    "a head without end": Parting(GET[:-2] + b"X: " + b"x" * LONG, (431,)),
    "an offer of HTTP/2, and what follows": Parting(
        GET[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + b"x" * LONG, (200,)
    ),
}


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] != "/":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a part", "more_body": True})
        if scope["path"] == "/cut":
            raise ValueError
        await send({"type": "http.response.body", "body": b" and the rest"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def reading(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body", False):
        pass
    await answering({**scope, "path": "/"}, receive, send)


@asynccontextmanager
async def serving(
    parting: Parting, context: ssl.SSLContext | None, patience: float = 3600, ends_after: float | None = None
) -> AsyncIterator[int]:
    """Serve in this process and yield the port.

    `patience` is the seconds that a client may be silent, `ends_after` those that TLS gives it to say its end.
    """
    app = reading if b" /read " in parting.sent else Bodies(answering)
    config = uvicorn.Config(app, interface="asgi3", log_config=None, timeout_keep_alive=cast("int", patience))
    config.load()
    state = ServerState()
    front = Front(
        HttpSettings(header_timeout=patience),
        cast("Admission | None", None if parting.admission is None else parting.admission()),
        overflow=Refusals(0),
        sink=Sink(LINGER_BYTES),
        probes=Probes(lambda: 0.0),
        stopping=parting.stopping,
    )
    server = await asyncio.get_running_loop().create_server(
        lambda: Http(config=config, server_state=state, app_state={}, front=front),
        "127.0.0.1",
        0,
        ssl=context,
        ssl_shutdown_timeout=ends_after,
    )
    async with server:
        yield server.sockets[0].getsockname()[1]
        async with asyncio.timeout(300):
            while state.connections:
                await asyncio.sleep(0.01)


async def told(port: int, sent: bytes, context: ssl.SSLContext | None) -> bytes:
    """Send all of it, and only then read what comes until the end."""
    async with asyncio.timeout(300):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="127.0.0.1" if context else None, limit=2**24
        )
        writer.write(sent)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


def statuses(answer: bytes) -> tuple[int, ...]:
    return tuple(int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:])


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's end, and the client's."""
    certificate = self_signed(tmp_path_factory.mktemp("tls") / "tls.pem", 1)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    return server, ssl.create_default_context(cafile=certificate)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("name", PARTINGS)
def test_who_goes_on_sending_has_the_answer_and_an_end(
    name: str, secure: bool, tls: tuple[ssl.SSLContext, ssl.SSLContext], caplog: pytest.LogCaptureFixture
) -> None:
    parting = PARTINGS[name]
    server, client = tls if secure else (None, None)

    async def come() -> bytes:
        async with serving(parting, server) as port:
            return await told(port, parting.sent, client)

    faults = dict(FAULTS.counts)
    with caplog.at_level("ERROR"):
        answer = uvloop.run(come())
    assert faults == FAULTS.counts
    assert not caplog.records
    assert statuses(answer) == parting.statuses, answer[:1000]
    assert answer.endswith((b"ok", b"}"))
    assert b"onnection: close\r\n" in answer


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_an_answer_of_unknown_length_has_no_chunks_in_http_1_0(
    secure: bool, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Its end is the connection's, so one that is cut off must not end in good order."""
    server, client = tls if secure else (None, None)

    async def come(path: bytes) -> bytes:
        async with serving(Parting(b"", ()), server) as port:
            return await told(port, b"GET " + path + b" HTTP/1.0\r\n\r\n", client)

    head, _, body = uvloop.run(come(b"/stream")).partition(b"\r\n\r\n")
    assert body == b"a part and the rest"
    assert b"chunked" not in head
    with pytest.raises((ConnectionResetError, ssl.SSLError)):
        uvloop.run(come(b"/cut"))


class Standstill(asyncio.Protocol):
    """Has the loop stand still once something comes: after its look at sockets, before that at timers.

    Args:
        act: What is done before.
        seconds: For how long it stands.
    """

    def __init__(self, act: Callable[[], object], seconds: float) -> None:
        self._act = act
        self._seconds = seconds

    def data_received(self, data: bytes) -> None:
        self._act()
        time.sleep(self._seconds)


@pytest.mark.parametrize("before", [b"", GET], ids=["first", "next"])
def test_who_asks_while_the_loop_has_no_time_is_answered(before: bytes) -> None:
    """A machine may stand still for longer than a client may be silent: what it sent meanwhile has come in time."""
    patience = 1.0

    async def come() -> bytes:
        async with serving(Parting(b"", ()), None, patience) as port, asyncio.timeout(300):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            connection: socket.socket = writer.get_extra_info("socket")
            if before:
                writer.write(before)
                await reader.readuntil(b"ok")
            else:
                await asyncio.sleep(0.1)  # the connection is made, and its time runs
            ours, theirs = socket.socketpair()
            ask = partial(os.write, connection.fileno(), GET)
            standstill, _ = await asyncio.get_running_loop().create_connection(
                lambda: Standstill(ask, 2 * patience), sock=theirs
            )
            try:
                ours.send(b"x")
                return await reader.readuntil(b"ok")
            finally:
                ours.close()
                standstill.close()
                writer.close()

    assert statuses(uvloop.run(come())) == (200,)


class Turns(Sink):
    """One whose turns come when the test says so."""

    def turn(self) -> None:
        self._look()


async def endless(port: int) -> None:
    """Send a request and then a body without end, and read nothing of the answer."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


CROWD = 20
"""Clients who send without end: more than have a turn at a time."""
BUFFER = 256 * 1024
"""Bytes that the event loop takes off a connection at a time, whatever is asked of it."""


def test_all_who_send_without_end_are_read_so_much_in_a_turn_and_users_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hpcgate.server.sink.PAUSE", 3600.0)
    monkeypatch.setattr("hpcgate.server.http_protocol.LINGER", 3600.0)
    read = 0

    class Counting(Http):
        def data_received(self, data: bytes) -> None:
            nonlocal read
            read += len(data)
            super().data_received(data)

    monkeypatch.setattr(f"{__name__}.Http", Counting)
    sink = Turns(LINGER_BYTES)
    monkeypatch.setattr(f"{__name__}.Sink", lambda least: sink)

    async def come() -> list[int]:
        amounts: list[int] = []
        seen = 0
        async with serving(Parting(b"", ()), None) as port, asyncio.timeout(120):
            crowd = [asyncio.create_task(endless(port)) for _ in range(CROWD)]
            try:
                for _ in range(4):
                    # Each has sent all that is read of it, and waits.
                    while len(sink) < CROWD:
                        await asyncio.sleep(0.01)
                    amounts.append(read - seen)
                    assert statuses(await told(port, LAST, None)) == (200,)
                    seen = read
                    sink.turn()
            finally:
                for one in crowd:
                    one.cancel()
                await asyncio.gather(*crowd, return_exceptions=True)
                while len(sink):
                    sink.turn()
                    await asyncio.sleep(0.01)
        return amounts

    first, *turns = uvloop.run(come())
    assert first <= CROWD * (LINGER_BYTES + 2 * BUFFER)
    assert len(turns) == 3
    assert max(turns) <= TURN + TURN // LINGER_BYTES * 2 * BUFFER, turns


def test_who_sends_without_end_is_read_for_a_while_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a turn comes or not: the connections end by themselves."""
    monkeypatch.setattr("hpcgate.server.sink.PAUSE", 3600.0)
    monkeypatch.setattr("hpcgate.server.http_protocol.LINGER", 0.2)

    async def come() -> None:
        async with serving(Parting(b"", ()), None) as port, asyncio.timeout(120):
            await asyncio.gather(*(endless(port) for _ in range(CROWD)))

    uvloop.run(come())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def deaf(port: int, context: ssl.SSLContext) -> None:
    """Do the same over TLS, where whoever reads would answer the other side's end."""
    with (
        suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=600) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")


@pytest.mark.parametrize("reason", ["bytes", "time"])
def test_over_tls_who_sends_without_end_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, tls: tuple[ssl.SSLContext, ssl.SSLContext], reason: str
) -> None:
    """There it is the library that reads after the end, by itself and for half a minute."""
    connections: set[Any] = set()
    cut: set[Any] = set()
    few = 3

    class Noting(Http):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            connections.add(self)
            super().connection_made(transport)

        def cut(self) -> None:
            cut.add(self)
            super().cut()

    monkeypatch.setattr(f"{__name__}.Http", Noting)
    monkeypatch.setattr("hpcgate.server.sink.BURST", MUCH if reason == "bytes" else math.inf)
    clock = Clock()
    ends = Ends(LINGER_BYTES, LINGER, clock)

    async def come() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(few))
        async with serving(Parting(b"", ()), tls[0], ends_after=3600) as port, asyncio.timeout(120):
            crowd = [asyncio.create_task(asyncio.to_thread(deaf, port, tls[1])) for _ in range(few)]
            while sum(one.left_at is not None for one in connections) < few:
                await asyncio.sleep(0.01)
            theirs = set(connections)
            if reason == "time":
                # However much they send.
                for _ in range(3):
                    ends.look(connections)
                    assert statuses(await told(port, LAST, tls[1])) == (200,)
                assert not any(one.done() for one in crowd)
                clock.now += LINGER
            while not all(one.done() for one in crowd):
                # No time goes by on this clock: it is what they have sent that ends them, or all the time they had.
                ends.look(connections)
                assert statuses(await told(port, LAST, tls[1])) == (200,)
            await asyncio.gather(*crowd)
        assert theirs <= cut

    uvloop.run(come())
