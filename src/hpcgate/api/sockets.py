"""WebSockets: served by routes as all else is, on the same terms, and ended by whoever ends long-lived responses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import structlog
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from hpcgate.api import errors
from hpcgate.api.access import Access, gateway
from hpcgate.errors import GatewayError, Unauthenticated
from hpcgate.gateway.streams import Stream
from hpcgate.outbound.wording import without
from hpcgate.telemetry.containment import FAULTS

log = structlog.stdlib.get_logger(__name__)

PROTOCOL = "hpcgate"
"""What a client offers beside its token, for a browser wants one of what it offers to be chosen."""
RESTARTS = 1012
"""The code of a close by a server that stops or has a changed configuration: the client may come again at once
(IANA, WebSocket Close Code Number Registry)."""
CRASHED = 1011
REFUSED = 4000
"""With the HTTP status of an error added: what ends a conversation that has begun (RFC 6455, section 7.4.2)."""
MAX_REASON = 123
"""Bytes (RFC 6455, section 5.5)."""


def hold(connection: HTTPConnection, stack: ExitStack) -> Stream:
    """Count a socket as a stream of its user until the stack is left.

    Raises:
        RateLimited, Unavailable: As `Streams.hold`.
    """
    state = connection.scope["state"]
    access: Access | None = state.get("access")
    streams = gateway(connection).streams
    system = "" if access is None else access.system.name
    return stack.enter_context(streams.hold("socket", state.get("principal"), system, endless=True))


async def converse(route: BaseRoute, stream: Stream, scope: Scope, receive: Receive, send: Send) -> None:
    """Have a route's endpoint speak with a client that the door has let in, until one of them ends it.

    To the endpoint a stream that is to close looks like a client that leaves, whether it listens or speaks; one that
    does neither for as long as `streams.stall_timeout` then is ended. A client that takes nothing for as long is one
    that has gone.
    """
    connection = HTTPConnection(scope)
    stall = gateway(connection).settings.streams.stall_timeout
    accepted = closed = False

    async def heard() -> Message:
        nonlocal closed
        message = await _unless_closing(stream, receive)
        closed = closed or (message["type"] == "websocket.disconnect" and not stream.reason)
        return message

    async def say(message: Message) -> None:
        nonlocal accepted, closed
        if stream.closing.is_set() and message["type"] == "websocket.send":
            raise WebSocketDisconnect(_closing(stream)[0], stream.reason)
        if message["type"] == "websocket.accept":
            accepted = True
            if not message.get("subprotocol") and PROTOCOL in scope.get("subprotocols", ()):
                message = {**message, "subprotocol": PROTOCOL}
        elif message["type"] == "websocket.close":
            closed = True
        try:
            async with asyncio.timeout(stall):
                await send(message)
        except TimeoutError:
            raise _Stalled from None

    try:
        async with _ending(stream, stall):
            await route.handle(scope, heard, say)
        code, reason = _closing(stream)
    except WebSocketDisconnect:
        code, reason = _closing(stream)
        if not stream.reason:
            return
    except _Deaf:
        code, reason = _closing(stream)
    except _Stalled:
        _cut(stream, scope)
        return
    except Exception as error:
        if not accepted:
            await errors.answer_to(connection, error)(scope, receive, send)
            return
        code, reason = _problem(connection, error)
    if accepted and not closed:
        try:
            await say({"type": "websocket.close", "code": code, "reason": reason})
        except _Stalled:
            _cut(stream, scope)


def _closing(stream: Stream) -> tuple[int, str]:
    """Return the code and the words of a close, by what the stream is to end for."""
    if stream.reason == "expired":
        return REFUSED + Unauthenticated.status, "Token expired"
    if stream.reason == "revoked":
        return REFUSED + Unauthenticated.status, "Not let in any more"
    return (RESTARTS if stream.reason else 1000), stream.reason


@asynccontextmanager
async def _ending(stream: Stream, patience: float) -> AsyncIterator[None]:
    """End what goes on for so many seconds after its stream was told to close.

    Raises:
        _Deaf: It had to be ended.
    """
    limit = asyncio.timeout(None)

    async def wait() -> None:
        await stream.closing.wait()
        limit.reschedule(asyncio.get_running_loop().time() + patience)

    try:
        async with limit:
            waiting = asyncio.create_task(wait())
            try:
                yield
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
    except TimeoutError:
        if not limit.expired():
            raise
        raise _Deaf from None


class _Deaf(Exception):
    """The endpoint neither listens nor speaks."""


def _cut(stream: Stream, scope: Scope) -> None:
    stream.close("stalled")
    log.warning("stream.cut", path=scope["path"], reason="the client takes nothing")


class _Stalled(Exception):
    """The client takes nothing."""


async def _unless_closing(stream: Stream, receive: Receive) -> Message:
    """Return the next message of a client, or that it is over as soon as the stream is to close."""
    message = asyncio.ensure_future(receive())
    closing = asyncio.ensure_future(stream.closing.wait())
    try:
        await asyncio.wait((message, closing), return_when=asyncio.FIRST_COMPLETED)
        if stream.closing.is_set() or not message.done():
            return {"type": "websocket.disconnect", "code": RESTARTS, "reason": stream.reason}
        return message.result()
    finally:
        for task in (message, closing):
            task.cancel()
        await asyncio.gather(message, closing, return_exceptions=True)


def _problem(connection: HTTPConnection, error: Exception) -> tuple[int, str]:
    if isinstance(error, GatewayError):
        # Masked before it is cut: the beginning of a token is a part of it.
        message = without(error.message, *errors.secrets_of(connection))
        return REFUSED + error.status, message.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore")
    FAULTS.count("socket")
    log.error("socket.crashed", exc_info=error)
    return CRASHED, "Internal server error"


FAULTS.register("socket")
