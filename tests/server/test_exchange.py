"""The head of an answer: byte for byte what uvicorn writes, or fails with."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from hpcgate.server.exchange import Exchange

LOGGER = logging.getLogger(__name__)
NAMES = st.sampled_from(
    [b"content-type", b"Content-Type", b"content-length", b"x-a", b"x b", b"x\r", b"connection", b"transfer-encoding",
     b"set-cookie", b"etag", "naïve".encode()]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        [b"", b"0", b"2", b"02", b"-1", b"x", b"close", b"chunked", b"a\tb", b"a\r\nb: c", b"\x00", b"\x7f"]
    ),
    st.binary(max_size=8),
)


def exchanged(
    kind: type[RequestResponseCycle], messages: list[dict[str, Any]], *, method: str, keep_alive: bool
) -> tuple[bytes, str, dict[str, Any]]:
    """Return what is written, what it fails with, and what is known of the answer then."""
    written: list[bytes] = []
    transport = SimpleNamespace(write=written.append, close=lambda: written.append(b"closed"))
    cycle = kind(
        scope=cast("Any", {"method": method, "http_version": "1.1"}),
        transport=cast("Any", transport),
        flow=cast("Any", SimpleNamespace(write_paused=False)),
        logger=LOGGER,
        access_logger=LOGGER,
        access_log=False,
        default_headers=[(b"date", b"today")],
        message_event=asyncio.Event(),
        expect_100_continue=True,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )

    async def send() -> str:
        try:
            for message in messages:
                await cycle.send(cast("Any", message))
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    failure = asyncio.run(send())
    left_out = ("scope", "transport", "flow", "message_event", "on_response")
    # What uvicorn has begun when it fails it does not write, and the server ends the connection.
    known = {} if failure else {name: value for name, value in vars(cycle).items() if name not in left_out}
    return b"".join(written), failure, known


@given(
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=5),
    length=st.sampled_from([None, b"2", b"3"]),
    status=st.sampled_from([200, 204, 304, 404, 507]),
    method=st.sampled_from(["GET", "HEAD"]),
    keep_alive=st.booleans(),
)
def test_an_answer_is_written_as_uvicorn_writes_it(
    headers: list[tuple[bytes, bytes]], length: bytes | None, status: int, method: str, keep_alive: bool
) -> None:
    if length is not None:
        headers = [*headers, (b"content-length", length)]
    messages: list[dict[str, Any]] = [
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": b"{}"},
    ]
    found, expected = (
        exchanged(kind, messages, method=method, keep_alive=keep_alive) for kind in (Exchange, RequestResponseCycle)
    )
    assert found == expected


def test_a_usual_answer_is_not_left_to_uvicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(RequestResponseCycle, "send", never)
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    written, failure, _ = exchanged(Exchange, [start], method="GET", keep_alive=True)
    assert (written, failure) == (b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\n\r\n", "")
