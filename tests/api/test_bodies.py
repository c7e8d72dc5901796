"""JSON bodies that are large, late or cut off."""

import asyncio
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from hpcgate.api.bodies import read_body
from hpcgate.errors import TimedOut, TooLarge


def request(*blocks: bytes | None) -> Request:
    """A request whose body comes in blocks; None is a client that sends no more, no last block one that has gone."""
    left = list(blocks)

    async def receive() -> dict[str, Any]:
        if not left:
            return {"type": "http.disconnect"}
        block = left.pop(0)
        if block is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": block, "more_body": block != b""}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


async def test_a_body_of_exactly_the_limit() -> None:
    assert await read_body(request(b"123", b"45", b""), 5) == b"12345"


async def test_one_byte_more() -> None:
    with pytest.raises(TooLarge):
        await read_body(request(b"123", b"456", None), 5)


async def test_a_client_that_sends_no_more() -> None:
    with pytest.raises(TimedOut):
        await read_body(request(b"123", None), 5, patience=0.05)


async def test_a_client_that_has_gone() -> None:
    with pytest.raises(ClientDisconnect):
        await read_body(request(b"123"), 5)
