"""The short way from the server to a direct route: one coroutine instead of a layer for each thing that may be.

A request that is as most are (a GET without a body, whose path has one spelling, to a direct route) needs of the layers
around the door no more than their beginning and their end. Those that need more, and those for which more is set up,
go through the layers. The door is the same for both, and so is what each layer does at its beginning and end.
"""

import asyncio
from collections.abc import Awaitable

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from hpcgate.api import errors
from hpcgate.api.fast_path import Found
from hpcgate.api.routing import SAID_AT_ONCE, Door
from hpcgate.http.disconnect import CLIENT_GONE, Presence
from hpcgate.http.envelope import WHOLE, Envelope
from hpcgate.http.heads import may_be_odd
from hpcgate.http.metrics import RequestMetrics

_SPECIAL = (b"content-length", b"transfer-encoding", b"expect", b"origin")
"""Headers of requests that need a layer: those with a body, and those from a page of another origin."""


class ShortWay:
    """Takes usual requests to the door, and all others to the layers around it.

    Args:
        layers: What all other requests go through.
        door: Lets requests in.
        envelope: The outermost of the layers.
        metrics: Counts requests, or None.
    """

    def __init__(self, layers: ASGIApp, door: Door, envelope: Envelope, metrics: RequestMetrics | None) -> None:
        self._layers = layers
        self._door = door
        self._envelope = envelope
        self._metrics = metrics

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle one request."""
        if scope["method"] == "GET" and WHOLE in scope.get("extensions", ()) and not may_be_odd(scope["raw_path"]):
            found = self._door.find(scope)
            if found is not None:
                asked = dict(scope["headers"])
                if not any(map(asked.__contains__, _SPECIAL)):
                    return self._serve(scope, receive, send, found, asked)
        return self._layers(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, found: Found, asked: dict[bytes, bytes]) -> None:
        one = self._envelope.open(scope, send, asked)
        presence = Presence(scope["state"])
        try:
            request = Request(scope, receive, one.send)
            try:
                answer = await self._door.answer(request, found)
                if type(answer) in SAID_AT_ONCE and (sending := one.send_whole(answer)) is not None:
                    await sending
                else:
                    await answer(scope, receive, one.send)
            except Exception as error:
                if one.status:
                    raise  # the server cuts the answer off, so that it cannot pass for a whole one
                await errors.answer_to(request, error)(scope, receive, one.send)
        except asyncio.CancelledError:
            if not presence.has_gone():
                raise
        finally:
            presence.over()
            seconds = one.close()
            if self._metrics is not None:
                self._metrics.record(scope, one.status or CLIENT_GONE, seconds, 0, one.sent)
