"""WebSockets come through the same front as all else: ids, token, policy, problems, bounds, metrics and an end."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import uvicorn
from starlette.websockets import WebSocketDisconnect
from uvicorn.server import ServerState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from hpcgate.admission.askers import Asker, Stranger, User
from hpcgate.admission.queue import Admission, Turn
from hpcgate.api.sockets import _closing, converse
from hpcgate.errors import PathNotFound
from hpcgate.gateway.streams import Stream
from hpcgate.server import front as server_front
from hpcgate.server.http_protocol import Http
from hpcgate.server.refusals import HOLD, Refusals
from hpcgate.server.sockets import MAX_LINE, MAX_MESSAGE, PORTION, Sockets
from tests.auth.idp import claims, jwk, token
from tests.front import Front, write_config
from tests.transfers.servers import free_port, wait_for_port

PATH = "/filesystem/demo/echo"
SETTINGS: dict[str, Any] = {
    "clusters": [
        {
            "name": "demo",
            "ssh": {"host": "127.0.0.1", "port": 9},
            "scheduler": {"type": "slurm", "version": "22.05.8"},
        }
    ],
    "metrics": {"path": "/metrics"},
    "streams": {"max_streams_per_user": 2},
    "auth": {
        "policy": {
            "default": "allow",
            "rules": [{"name": "no-bob", "effect": "deny", "users": ["bob"], "operations": ["fs:read"]}],
        }
    },
}


def token_of(name: str, **further: Any) -> str:
    return token(payload=claims(username=name, preferred_username=name, **further))


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with echoing(tmp_path_factory.mktemp("sockets")) as running:
        yield running


@contextmanager
def echoing(tmp_path: Path, **further: Any) -> Iterator[Front]:
    """Start a gateway with the socket, and end it again."""
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": [jwk("RSA", kid="RSA-0")]}))
    authentication = {"token_url": "http://127.0.0.1:9/token", "public_certs": [f"file://{keys}"]}
    settings = SETTINGS | {"auth": SETTINGS["auth"] | {"authentication": authentication}}
    config, port, log = write_config(tmp_path, **settings | further), free_port(), tmp_path / "front.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.echoing", str(config), str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_for_port(port, process)
        yield Front(port, log, process)
    finally:
        process.terminate()
        process.wait(120)


def speaking(front: Front, name: str = "alice", path: str = PATH, **options: Any) -> connect:
    shown = options.pop("token", None) or token_of(name)
    headers = {"Authorization": f"Bearer {shown}", **options.pop("headers", {})}
    return connect(f"ws://127.0.0.1:{front.port}{path}", additional_headers=headers, proxy=None, **PATIENT, **options)


PATIENT: dict[str, Any] = {"open_timeout": 120, "ping_interval": None}
"""Options of a client that a busy machine does not take for one that has gone."""


async def ready(front: Front) -> None:
    async with asyncio.timeout(120), httpx.AsyncClient(trust_env=False, timeout=600) as client:
        while (await client.get(f"http://127.0.0.1:{front.port}/status/readiness")).status_code != 200:
            await asyncio.sleep(0.05)


async def refused(front: Front, status: int, **options: Any) -> dict[str, Any]:
    """See that a socket is refused, in the shape of every other refusal; return the body."""
    with pytest.raises(InvalidStatus) as caught:
        async with speaking(front, **options):
            pass
    response = caught.value.response
    body: dict[str, Any] = json.loads(response.body or b"")
    assert (response.status_code, body["errorType"]) == (status, "error")
    assert response.headers["X-Request-ID"]
    return body


async def ended(socket: ClientConnection) -> tuple[int, str]:
    """Return the code and the words by which the server closes."""

    async def to_the_end() -> None:
        async with asyncio.timeout(120):
            while True:
                await socket.recv()

    with pytest.raises(ConnectionClosed) as caught:
        await to_the_end()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


def metric(front: Front, line: str) -> float:
    text = httpx.get(f"http://127.0.0.1:{front.port}/metrics", trust_env=False, timeout=600).text
    found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
    return 0 if found is None else float(found[1])


async def until(front: Front, line: str, value: float) -> None:
    async with asyncio.timeout(120):
        while await asyncio.to_thread(metric, front, line) != value:
            await asyncio.sleep(0.05)


DONE = 'hpcgate_streams_ended_total{kind="socket",outcome="done"}'
ROUTE = 'route="/filesystem/{system_name}/echo"'
REQUESTS = f'hpcgate_http_requests_total{{method="GET",{ROUTE},status="101",system="demo"}}'


async def test_a_socket_has_what_every_request_has(front: Front) -> None:
    await ready(front)
    done, requests = metric(front, DONE), metric(front, REQUESTS)
    async with speaking(front, headers={"X-Request-ID": "mine"}) as one:
        assert one.response is not None
        assert one.response.headers["X-Request-ID"] == "mine"
        assert one.response.headers["F7T-AuthUsername"] == "alice"
        for said in ("hello", "who", "x" * 100_000):
            await one.send(said)
            assert await one.recv() == ("alice on demo" if said == "who" else said)
        await until(front, "hpcgate_streams", 1)
        async with speaking(front) as other:
            # Bounds of a user.
            assert "streams under way" in (await refused(front, 429))["message"]
            await other.send("leave")
            assert (await ended(other))[0] == 1000
    await until(front, DONE, done + 2)
    await until(front, REQUESTS, requests + 2)
    log = front.log.read_text()
    assert '"stream.begin"' in log
    assert '"stream.end"' in log
    assert token_of("alice") not in log


async def test_who_takes_nothing_is_left(tmp_path: Path) -> None:
    stalled = 'hpcgate_streams_ended_total{kind="socket",outcome="stalled"}'
    # By a gateway of its own: all others have all the time that they need.
    with echoing(tmp_path, streams={"stall_timeout": 0.5}) as front:
        await ready(front)
        # The client reads no further than this, and the kernel's buffers are full some time.
        async with speaking(front, max_queue=1) as one:
            await one.send("flood")
            await until(front, stalled, 1)
            assert one.transport is not None
            one.transport.abort()
        await until(front, "hpcgate_streams", 0)


async def test_who_may_not_come_is_refused_before_the_handshake(front: Front) -> None:
    await ready(front)
    assert (await refused(front, 401, headers={"Authorization": "Bearer x"}))["message"]
    assert (await refused(front, 403, name="bob"))["data"]["rule"] == "no-bob"
    await refused(front, 403, path="/filesystem/demo/undeclared")
    await refused(front, 404, path="/filesystem/elsewhere/echo")
    assert "No such file" in (await refused(front, 404, path=f"{PATH}?missing=1"))["message"]
    await until(front, "hpcgate_streams", 0)


@pytest.mark.parametrize(
    "odd",
    [{"headers": {"X-A": "a" * MAX_LINE}}, {"headers": {"Authorization": f"Bearer {'a' * MAX_LINE}"}},
     {"path": f"{PATH}?a={'a' * MAX_LINE}"}],
    ids=["header", "token", "target"],
)  # fmt: skip
async def test_a_head_that_the_library_cannot_read_has_an_answer(front: Front, odd: dict[str, Any]) -> None:
    await ready(front)
    await refused(front, 431, **odd)


class Wire(asyncio.Transport):
    """The server's end of a connection, by which nothing goes."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.reading = True
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def can_write_eof(self) -> bool:
        return False


PING, CLOSE, TEXT, MORE, LAST = 0x89, 0x88, 0x01, 0x00, 0x80


def frame(head: int, data: bytes = b"") -> bytes:
    return bytes([head, 0x80 | len(data)]) + bytes(4) + data


class Heard:
    """A socket that has been accepted, and what its route has been told."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.may_take = asyncio.Event()
        self.wire = Wire()
        config = uvicorn.Config(self.serve, interface="asgi3", log_config=None, ws_max_size=MAX_MESSAGE)
        self.state = ServerState()
        self.protocol = Sockets(config, self.state, {})
        self.protocol.connection_made(self.wire)
        head = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        self.protocol.data_received(f"{head}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while True:
            await self.may_take.wait()
            self.messages.append(await receive())
            if self.messages[-1]["type"] == "websocket.disconnect":
                return

    async def accepted(self) -> None:
        while not self.wire.written:
            await asyncio.sleep(0)
        assert self.wire.written.pop().startswith(b"HTTP/1.1 101 ")

    async def end(self) -> None:
        """Leave, and see that the route has ended."""
        self.may_take.set()
        self.protocol.data_received(frame(CLOSE))
        await asyncio.gather(*self.state.tasks)
        self.protocol.connection_lost(None)


async def test_what_comes_at_once_is_taken_in_portions_and_in_order() -> None:
    heard = Heard()
    await heard.accepted()
    many = 40_000
    heard.protocol.data_received(b"".join(frame(TEXT | LAST, b"%d" % number) for number in range(many)))
    assert not heard.wire.reading
    for _ in range(100):
        await asyncio.sleep(0)
    assert 0 < heard.protocol.queue.qsize() <= PORTION // 6, "what the route does not take is not parsed either"
    await heard.end()
    assert [one["text"] for one in heard.messages[:-1]] == [str(number) for number in range(many)]
    assert heard.messages[-1]["type"] == "websocket.disconnect"


async def test_a_message_of_many_pieces_is_one_piece_meanwhile() -> None:
    heard = Heard()
    await heard.accepted()
    pieces = b"".join(frame(MORE, piece) for piece in (b"", b"b") * 20_000)
    heard.protocol.data_received(frame(TEXT, b"a") + frame(PING) + pieces)
    heard.may_take.set()
    while not heard.wire.reading:
        await asyncio.sleep(0)
    assert len(heard.protocol.frames) == 1
    heard.protocol.data_received(frame(MORE | LAST, b"c") + frame(TEXT | LAST, b"next"))
    await heard.end()
    assert [one.get("text") for one in heard.messages[:-1]] == ["a" + "b" * 20_000 + "c", "next"]


async def test_pings_of_who_takes_nothing_leave_little() -> None:
    heard = Heard()
    await heard.accepted()
    heard.protocol.pause_writing()
    for number in range(2000):
        heard.protocol.data_received(frame(PING, b"%d" % number))
    assert heard.wire.written == []
    heard.protocol.resume_writing()
    assert heard.wire.written == [b"\x8a\x041999"], "the last one is answered"
    heard.protocol.data_received(frame(PING, b"!"))
    assert heard.wire.written.pop() == b"\x8a\x01!"
    await heard.end()


async def test_a_browser_sends_its_token_as_a_protocol(front: Front) -> None:
    await ready(front)
    shown = token_of("alice")
    offered = [Subprotocol("hpcgate"), Subprotocol(f"hpcgate.bearer.{shown}")]
    address = f"ws://127.0.0.1:{front.port}{PATH}"
    async with connect(address, subprotocols=offered, proxy=None, **PATIENT) as one:
        assert one.subprotocol == "hpcgate"
        await one.send("who")
        assert await one.recv() == "alice on demo"
    await until(front, "hpcgate_streams", 0)
    assert shown not in front.log.read_text()


BEARER, PROTOCOL = "Authorization: Bearer ", "Sec-WebSocket-Protocol: hpcgate, hpcgate.bearer."


@pytest.mark.parametrize(
    ("shown", "waits", "status"),
    [
        (f"{BEARER}good", False, b"101"),
        (f"{PROTOCOL}good", False, b"101"),
        (f"{BEARER}good", True, b"503"),
        (f"{BEARER}bad", False, b"101"),
        (f"{BEARER}bad", True, b"503"),
        (f"{PROTOCOL}bad", True, b"503"),
        ("X-None: x", False, b"101"),
        ("X-None: x", True, b"503"),
    ],
)
async def test_a_socket_is_refused_only_where_a_request_of_its_caller_would_wait(
    shown: str, waits: bool, status: bytes
) -> None:
    """That others wait, or have of late, is not a reason: whoever has them wait would keep all sockets away."""
    asked: list[Asker] = []

    class Turns(Admission):
        busy = property(lambda self: True)

        def must_wait(self, asker: Asker, running: int) -> bool:
            asked.append(asker)
            return waits

    async def accept(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})

    shared = server_front.Front(
        admission=Turns(9, 9, lambda: 0),
        speaks=lambda path: True,
        caller=lambda token, source: "alice" if token == "good" else None,
    )
    config = uvicorn.Config(accept, http=Http, ws=Sockets, interface="asgi3", log_config=None)
    config.load()
    wire, state = Wire(), ServerState()
    protocol = Http(config=config, server_state=state, app_state={}, front=shared)
    protocol.connection_made(wire)
    head = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    key = f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{shown}\r\n\r\n"
    protocol.data_received(f"{head}{key}".encode())
    await asyncio.gather(*state.tasks)
    assert b"".join(wire.written).startswith(b"HTTP/1.1 " + status)
    assert [isinstance(asker, User) for asker in asked] == [shown.endswith("good")]
    protocol.connection_lost(None)


@pytest.mark.parametrize("verified", [False, True])
async def test_what_a_stranger_costs_by_a_socket_is_counted_until_it_is_a_user(verified: bool) -> None:
    """In a calm moment, too: whoever asks for sockets without a token is one of those who share a tenth."""
    seen: list[tuple[str, object]] = []

    class Counting(Admission):
        def begin(self, asker: Asker) -> Turn:
            seen.append(("begin", type(asker)))
            return super().begin(asker)

        def end(self, turn: Turn, cost: float = 0.0) -> None:
            seen.append(("end", type(turn.asker)))
            super().end(turn, cost)

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if verified:
            scope["state"]["username"] = "alice"
        await asyncio.sleep(0)
        await send({"type": "websocket.close"})

    admission = Counting(9, 9, lambda: 0)
    shared = server_front.Front(admission=admission, speaks=lambda path: True)
    config = uvicorn.Config(refuse, http=Http, ws=Sockets, interface="asgi3", log_config=None)
    config.load()
    wire, state = Wire(), ServerState()
    protocol = Http(config=config, server_state=state, app_state={}, front=shared)
    protocol.connection_made(wire)
    protocol.data_received(OFFER)
    await asyncio.gather(*state.tasks)
    assert seen == [("begin", Stranger), ("end", User if verified else Stranger)]
    assert admission._strangers_running == 0
    # One that the library refuses never begins.
    other = Http(config=config, server_state=state, app_state={}, front=shared)
    other.connection_made(Wire())
    other.data_received(OFFER.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"none"))
    await asyncio.gather(*state.tasks)
    assert admission._strangers_running == 0
    protocol.connection_lost(None)
    other.connection_lost(None)


OFFER = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize(
    ("asked", "status"),
    [(OFFER, 503), (b"GET / HTTP/1.1\r\n\r\n", 400), (b"\0\r\n\r\n", 400), (b"GET /" + b"a" * 70_000, 431)],
    ids=["a socket", "no Host", "no HTTP", "a long head"],
)
@pytest.mark.parametrize("gone", [False, True], ids=["who waits", "who has gone"])
async def test_all_is_refused_as_late_as_a_request(gone: bool, asked: bytes, status: int) -> None:
    """Who is refused at once comes back at once: two hundred who asked without a Host left users a tenth."""
    now = 0.0

    class Full(Admission):
        busy = property(lambda self: True)

        def must_wait(self, asker: Asker, running: int) -> bool:
            return True

    refusals = Refusals(9, now=lambda: now)
    shared = server_front.Front(admission=Full(9, 9, lambda: 0), refusals=refusals, speaks=lambda path: True)
    config = uvicorn.Config(lambda *_: None, http=Http, ws=Sockets, interface="asgi3", log_config=None)
    config.load()
    wire = Wire()
    protocol = Http(config=config, server_state=ServerState(), app_state={}, front=shared)
    protocol.connection_made(wire)
    protocol.data_received(asked)
    assert not protocol.resting()
    refusals.look(1.0)
    assert wire.written == []
    if gone:
        wire.close()
        protocol.connection_lost(None)
    now = time.monotonic() + HOLD
    refusals.look(1.0)
    assert b"".join(wire.written).startswith(b"" if gone else b"HTTP/1.1 %d " % status)
    assert bool(wire.written) is not gone
    assert (len(refusals), refusals.said) == (0, 0 if gone else 1)
    protocol.connection_lost(None)


async def test_two_tokens_are_no_token(front: Front) -> None:
    """Of a header and of protocols that a client offers, one reader takes the first token and another the last."""
    await ready(front)
    alice, bob = (Subprotocol(f"hpcgate.bearer.{token_of(name)}") for name in ("alice", "bob"))
    address = f"ws://127.0.0.1:{front.port}{PATH}"
    for offered, headers in (([alice, bob], {}), ([alice], {"Authorization": f"Bearer {token_of('alice')}"})):
        with pytest.raises(InvalidStatus) as caught:
            async with connect(address, subprotocols=offered, additional_headers=headers, proxy=None, **PATIENT):
                pass
        assert caught.value.response.status_code == 401


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [("fail", 4404, "No such file or directory"), ("crash", 1011, "Internal server error"), ("", 1009, "")],
)
async def test_what_goes_wrong_later_ends_it_with_a_code(front: Front, said: str, code: int, words: str) -> None:
    await ready(front)
    async with speaking(front) as one:
        await one.send(said or "x" * (1024 * 1024 + 1))
        found, reason = await ended(one)
        assert (found, reason if words else "") == (code, words)


async def test_a_path_without_a_socket_answers_as_if_none_were_offered(front: Front) -> None:
    await ready(front)
    head = (
        "GET /status/liveness HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )

    def asked() -> bytes:
        with socket.create_connection(("127.0.0.1", front.port), timeout=600) as connection:
            connection.sendall(head.encode())
            return connection.recv(65536)

    assert (await asyncio.to_thread(asked)).startswith(b"HTTP/1.1 200 ")


async def test_a_socket_is_told_when_the_gateway_reloads_or_stops(tmp_path: Path) -> None:
    """Who stays keeps neither the gateway of before a reload nor the process, and may come again at once."""
    with echoing(tmp_path) as front:
        await ready(front)
        async with speaking(front) as one:
            front.process.send_signal(signal.SIGHUP)
            assert await ended(one) == (1012, "reload")
        async with asyncio.timeout(120):
            while "config.old_gateway_closed" not in front.log.read_text():
                await asyncio.sleep(0.05)
        async with speaking(front) as again:
            await again.send("who")
            assert await again.recv() == "alice on demo"
            front.process.send_signal(signal.SIGTERM)
            assert await ended(again) == (1012, "stop")
        await asyncio.to_thread(front.process.wait, 120)


@pytest.mark.parametrize("said", ["", "flood"], ids=["that listens", "that only speaks"])
async def test_a_socket_ends_with_its_token(front: Front, said: str) -> None:
    """It is closed with a code of its own when the token would not be accepted any more, and the log says so."""
    await ready(front)
    async with await with_little_left(front) as one:
        if said:
            await one.send(said)
        assert await ended(one) == (4401, "Token expired")
    async with asyncio.timeout(120):
        while not any('"stream.end"' in line and '"expired"' in line for line in front.log.read_text().splitlines()):
            await asyncio.sleep(0.05)


async def with_little_left(front: Front) -> ClientConnection:
    """Return a socket by a token that expires in a moment, for as long as a moment is here."""
    for seconds in (0.5, 4, 32, 110):
        # The leeway is 5 s.
        expiring = token_of("alice", exp=time.time() - 5 + seconds)
        with suppress(InvalidStatus):
            return await speaking(front, token=expiring)
    raise AssertionError("a socket takes minutes to open")


@pytest.mark.parametrize(
    ("reason", "close"),
    [
        ("", (1000, "")),
        ("stop", (1012, "stop")),
        ("expired", (4401, "Token expired")),
        ("revoked", (4401, "Not let in any more")),
    ],
)
async def test_the_code_of_a_close_says_whether_to_come_again(reason: str, close: tuple[int, str]) -> None:
    stream = Stream("socket", "alice", "demo", endless=True)
    stream.close(reason)
    assert _closing(stream) == close


@pytest.mark.parametrize("reason", ["", "reload"], ids=["fails", "reloads"])
async def test_who_does_not_even_take_the_close_is_left_without_a_fault(reason: str) -> None:
    """Whether the route has failed, or the gateway reloads: the server would take it for a crash of its own."""
    stream = Stream("socket", "alice", "demo", endless=True)

    async def handle(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        if not reason:
            raise PathNotFound("No such file or directory")
        stream.close(reason)
        assert (await receive())["type"] == "websocket.disconnect"
        raise WebSocketDisconnect

    async def send(message: Any) -> None:
        if message["type"] != "websocket.accept":
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    await converse(cast("Any", SimpleNamespace(handle=handle)), stream, impatient(), receive, send)
    assert stream.reason == (reason or "stalled")


async def test_an_endpoint_that_neither_listens_nor_speaks_is_ended_in_the_end() -> None:
    """A stream that is to close does not wait for the endpoint to take note for longer than for a client."""
    stream = Stream("socket", "alice", "demo", endless=True)
    sent: list[Any] = []

    async def handle(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        stream.close("expired")
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    async with asyncio.timeout(120):
        await converse(cast("Any", SimpleNamespace(handle=handle)), stream, impatient(), receive, send)
    assert sent[-1] == {"type": "websocket.close", "code": 4401, "reason": "Token expired"}


def impatient() -> dict[str, Any]:
    """Return the scope of a socket of a gateway that has no patience."""
    settings = SimpleNamespace(streams=SimpleNamespace(stall_timeout=0))
    app = SimpleNamespace(state=SimpleNamespace(gateway=SimpleNamespace(settings=settings)))
    return {"type": "websocket", "app": app, "path": "/", "headers": []}
