"""JSON bodies: read for those with a token only, never more than a limit, and not for ever."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from hpcgate.api.dependencies import authenticate
from hpcgate.errors import TimedOut, TooLarge

MAX_BODY = 8 * 1024 * 1024
"""The most bytes of a JSON body: Slurm takes scripts of 4 MB (slurm.conf(5), max_script_size), escapes make it more."""

PATIENCE = 60.0
"""Seconds that a JSON body may take to arrive."""


async def read_body(request: Request, limit: int, *, patience: float = PATIENCE) -> bytes:
    """Read a whole body.

    Args:
        request: The request.
        limit: The most bytes.
        patience: Seconds that it may take.

    Raises:
        TooLarge: It is over the limit.
        TimedOut: It did not arrive in time.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(patience):
            async for block in request.stream():
                body += block
                if len(body) > limit:
                    raise TooLarge(f"The request body is larger than {limit} bytes.")
    except TimeoutError:
        raise TimedOut(f"The request body did not arrive within {patience:g} s.") from None
    return bytes(body)


class BodyRoute(APIRoute):
    """A route with a JSON body.

    FastAPI reads a body of any size into memory, and complains of it, before it asks a dependency who sends it.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, called once the token is verified and the body is read.

        The handler raises:
            Unauthenticated, Forbidden, Unavailable: As `authenticate`.
            TooLarge, TimedOut: As `read_body` with `MAX_BODY`.
        """
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def guarded(request: Request) -> Response:
            await authenticate(request)
            return await handle(Request(request.scope, _once(await read_body(request, MAX_BODY))))

        return guarded


def _once(body: bytes) -> Receive:
    """Return what gives a body that has been read once more."""
    message: Message = {"type": "http.request", "body": body, "more_body": False}

    async def receive() -> Message:
        return message

    return receive
