"""JSON bodies: read for those with a token only, and never more than a limit."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from hpcgate.api.dependencies import authenticate
from hpcgate.errors import TooLarge

MAX_BODY = 8 * 1024 * 1024
"""The most bytes of a JSON body: Slurm takes scripts of 4 MB (slurm.conf(5), max_script_size), escapes make it more."""


class BodyRoute(APIRoute):
    """A route with a JSON body.

    FastAPI reads a body of any size into memory, and complains of it, before it asks a dependency who sends it.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, called once the token is verified and the body is read.

        The handler raises:
            Unauthenticated, Forbidden, Unavailable: As `authenticate`.
            TooLarge: Over `MAX_BODY` bytes.
        """
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def guarded(request: Request) -> Response:
            await authenticate(request)
            return await handle(Request(request.scope, await _read(request)))

        return guarded


async def _read(request: Request) -> Receive:
    """Read the whole body and return what gives it once more."""
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > MAX_BODY:
            raise TooLarge(f"The request body is larger than {MAX_BODY} bytes.")
    message: Message = {"type": "http.request", "body": bytes(body), "more_body": False}

    async def receive() -> Message:
        return message

    return receive
