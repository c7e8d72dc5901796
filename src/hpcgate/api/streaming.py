"""Bodies that stream: answers that are made while their lease lasts, and uploads that must keep coming."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from urllib.parse import quote

import structlog
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from hpcgate.api.responses import fields
from hpcgate.errors import BadRequest, GatewayError, TooLarge

log = structlog.stdlib.get_logger(__name__)

OCTETS = "application/octet-stream"
LINES = "application/x-ndjson"
"""JSON texts, one a line (jsonlines.org, github.com/ndjson/ndjson-spec)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered once everything that can fail early has succeeded.

    Attributes:
        status: The HTTP status.
        headers: The headers; a body without Content-Length is sent in chunks.
        body: The body's blocks, or None.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: AsyncIterator[bytes] | None = None


class StreamingAnswer(Response):
    """An answer made within a context, such as a lease, that ends with the answer.

    An error before the answer has begun is an error like any other. One that comes later cuts the connection, so that
    the answer cannot pass for a whole one.

    Args:
        opening: The context that gives the answer.
        stall: Seconds that the client may take nothing.
    """

    def __init__(self, opening: AbstractAsyncContextManager[Answer], *, stall: float) -> None:
        super().__init__()
        self._opening = opening
        self._stall = stall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open what is streamed, and send it."""
        async with self._opening as answer:
            headers = [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in fields(answer.headers).items()
            ]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            if answer.body is not None and scope["method"] != "HEAD":
                try:
                    async for block in answer.body:
                        async with asyncio.timeout(self._stall):
                            await send({"type": "http.response.body", "body": block, "more_body": True})
                except (GatewayError, TimeoutError) as error:
                    log.warning("stream.cut", path=scope["path"], reason=str(error) or "the client takes nothing")
                    raise Cut from error
            await send({"type": "http.response.body", "body": b""})


class Cut(Exception):
    """An answer that has begun cannot be finished. The server closes the connection."""


async def body_of(request: Request, *, limit: int | None) -> AsyncIterator[bytes]:
    """Yield the body of a request.

    Args:
        request: The request.
        limit: The most bytes, or None.

    Raises:
        TimedOut: The client sends too slowly, or nothing.
        TooLarge: The body is over the limit.
        ClientDisconnect: The client went away before it was whole.
    """
    received = 0
    async with aclosing(request.stream()) as stream:
        async for block in stream:
            received += len(block)
            if limit is not None and received > limit:
                raise TooLarge(f"The upload is larger than {limit} bytes.")
            if block:
                yield block


async def whole(content: AsyncIterator[bytes], size: int | None) -> AsyncIterator[bytes]:
    """Yield the content of a request.

    Raises:
        BadRequest: It ends before it has the size that was announced.
    """
    received = 0
    async for block in content:
        received += len(block)
        yield block
    if size is not None and received != size:
        raise BadRequest(f"The body ended after {received} of {size} bytes.")


def announced_size(request: Request, limit: int | None) -> int | None:
    """Return the size of a request's body, None if it comes in chunks.

    Raises:
        BadRequest: Content-Length is not a number.
        TooLarge: It is over the limit.
    """
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal():
        raise BadRequest("Content-Length must be a number.")
    size = int(text)
    if limit is not None and size > limit:
        raise TooLarge(f"The upload is larger than {limit} bytes.")
    return size


def attachment(name: bytes) -> str:
    """Return a Content-Disposition that names a file, in plain ASCII and in full (RFC 6266, RFC 8187)."""
    text = name.decode("utf-8", "replace")
    plain = "".join(char if " " <= char <= "~" and char not in '"\\%' else "_" for char in text)
    full = quote(name, safe="")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{full}"
