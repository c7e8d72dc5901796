"""First lines of requests: the parser does not say where one begins, and odd ones are told apart however they come."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from hpcgate.server.answers import LINE, PADDED
from hpcgate.server.http_protocol import Http

GOOD = b"GET /x?y=z HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = {
    # A last request, and whether it is served.
    "plain": (GOOD, True),
    "HTTP/1.0": (GOOD.replace(b"1.1", b"1.0"), True),
    "an offer and a body": (
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
        True,
    ),
    "two blanks before the target": (GOOD.replace(b" /", b"  /"), False),
    "two blanks before the version": (GOOD.replace(b" HTTP", b"  HTTP"), False),
    "another protocol": (GOOD.replace(b"HTTP/1.1", b"RTSP/1.0"), False),
}
BEFORE = {
    # What comes before it, and how many requests that are.
    "nothing": (b"", 0),
    "empty lines": (b"\r\n\r\n", 0),
    "another": (GOOD, 1),
    "an empty line between": (GOOD + b"\r\n", 1),
    "a body": (POST + b"Content-Length: 2\r\n\r\n{}", 1),
    "a body that is a request": (POST + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD, 1),
    "chunks": (CHUNKED + b"2\r\n{}\r\n1;a=b\r\n\n\r\n0\r\n\r\n", 1),
    "no chunk": (CHUNKED + b"0\r\n\r\n", 1),
    "fields behind chunks": (CHUNKED + b"4\r\n\r\n\r\n\r\n0\r\nX: y\r\n\r\n", 1),
}


class Wire(asyncio.Transport):
    """The gateway's end of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.out = b""
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.1", 1), "sockname": ("192.0.2.2", 80)}.get(name, default)

    def write(self, data: Any) -> None:
        self.out += bytes(data)

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


async def served(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


async def answer_to(config: uvicorn.Config, pieces: Iterator[bytes]) -> bytes:
    """Return all that is answered to what comes in these pieces."""
    state = ServerState()
    wire, protocol = Wire(), Http(config=config, server_state=state, app_state={})
    protocol.connection_made(wire)
    for piece in pieces:
        if not wire.closed:
            protocol.data_received(piece)
    while state.tasks:
        await asyncio.gather(*state.tasks)
        await asyncio.sleep(0)
    wire.closed = True
    protocol.connection_lost(None)
    return wire.out


def splits(content: bytes) -> Iterator[Iterator[bytes]]:
    """Give what is sent whole, in two pieces of every size, and byte by byte."""
    for at in range(len(content)):
        yield iter((content[:at], content[at:]) if at else (content,))
    yield (content[at : at + 1] for at in range(len(content)))


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("before", BEFORE)
def test_an_odd_first_line_is_refused_and_a_plain_one_served(before: str, last: str) -> None:
    config = uvicorn.Config(served, http=Http, log_config=None)
    config.load()
    (first, count), (content, plain) = BEFORE[before], LAST[last]

    async def look() -> None:
        for pieces in splits(first + content):
            out = await answer_to(config, pieces)
            assert out.count(b"HTTP/1.1 200") == count + plain, out
            assert out.count(LINE.message.encode()) == (not plain), out

    asyncio.run(look())


def test_a_chunk_s_padding_has_an_end() -> None:
    """Whoever waits for the body would wait for ever, and hold what the body holds."""
    config = uvicorn.Config(served, http=Http, log_config=None)
    config.load()

    async def look() -> None:
        state = ServerState()
        wire, protocol = Wire(), Http(config=config, server_state=state, app_state={})
        protocol.connection_made(wire)
        protocol.data_received(CHUNKED + b"1;")
        for _ in range(2 * protocol.front.settings.max_header_size // 4096 + 2):
            protocol.data_received(b"x" * 4096)
        wire.closed = True
        protocol.connection_lost(None)
        assert PADDED.message.encode() in wire.out

    asyncio.run(look())


def test_what_the_head_says_later_is_not_its_first_line() -> None:
    config = uvicorn.Config(served, http=Http, log_config=None)
    config.load()
    odd = GOOD.replace(b" /", b"  /")
    content = odd.replace(b"Host: a", b"Host: a\r\nX: " + GOOD.partition(b"\r")[0])
    out = asyncio.run(answer_to(config, iter((content + GOOD,))))
    assert out.startswith(b"HTTP/1.1 400")
    assert b"200" not in out.partition(b"\r\n")[0]
