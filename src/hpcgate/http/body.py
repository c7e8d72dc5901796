"""A request's body: shut until its sender's token is accepted, and from then on bounded in bytes and in time."""

import asyncio
import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpcgate.admission.bodies import Arrivals
from hpcgate.errors import GatewayError, TimedOut, TooLarge

SMALL = 64 * 1024
"""Bytes of a body that are worth reading past, unused, for the sake of the connection."""


class Shut(RuntimeError):
    """Something reads a body before the token is accepted: a fault of ours."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a body may take.

    Attributes:
        limit: Bytes, or None.
        patience: Seconds that the client may send nothing; those of all of the body, if `rate` is None.
        rate: Bytes a second that the client must send, on average, beyond `patience`.
        waits: Whether the request does nothing but wait while its body comes, and is not counted as a stream.
    """

    limit: int | None
    patience: float
    rate: int | None = None
    waits: bool = True


class Body:
    """The body of one request.

    Args:
        receive: Where it comes from.
        size: Its bytes, as announced; None if they come in chunks.
        awaited: Whether the client sends nothing before it is told to (RFC 9110, section 10.1.1).

    Attributes:
        size: As above.
        read: Whether all of it has been read.
    """

    __slots__ = (
        "_arrivals", "_arriving", "_awaited", "_bounds", "_failed", "_kept", "_receive", "_received", "_username",
        "_waited", "read", "size",
    )  # fmt: skip

    def __init__(self, receive: Receive, size: int | None, *, awaited: bool) -> None:
        self.size = size
        self.read = False
        self._receive = receive
        self._awaited = awaited
        self._bounds: Bounds | None = None
        self._arrivals: Arrivals | None = None
        self._username = ""
        self._arriving = False
        self._failed = False
        self._received = 0
        self._kept = 0
        self._waited = 0.0

    def __repr__(self) -> str:
        """Tell how far it is."""
        state = "shut" if self._bounds is None else "read" if self.read else "open"
        return f"<Body {state}, {self._received} of {'?' if self.size is None else self.size} bytes>"

    def open(self, bounds: Bounds, arrivals: Arrivals, username: str) -> None:
        """Let it be read: the token is accepted.

        Raises:
            TooLarge: It is announced to be over the limit.
        """
        if bounds.limit is not None and self.size is not None and self.size > bounds.limit:
            raise _too_large(bounds.limit)
        self._bounds, self._arrivals, self._username = bounds, arrivals, username

    async def receive(self) -> Message:
        """Return the next piece, as ASGI has it.

        Raises:
            Shut: The token is not accepted yet.
            TooLarge, TimedOut: It does not keep to its bounds.
            RateLimited: The user has too many bodies under way.
        """
        if self.read:
            return await self._receive()
        bounds = self._bounds
        if bounds is None or self._arrivals is None:
            raise Shut("The body of a request is read before its token is accepted, or by a route that takes none.")
        if not self._arriving:
            self._arrivals.begin(self._username, waits=bounds.waits)
            self._arriving = True
        message = await self._next(bounds)
        if message["type"] != "http.request":
            self._has_arrived()
            return message
        self._received += len(message.get("body", b""))
        if bounds.limit is not None and self._received > bounds.limit:
            raise self._failure(_too_large(bounds.limit))
        if not message.get("more_body", False):
            self.read = True
            self._has_arrived()
        return message

    async def _next(self, bounds: Bounds) -> Message:
        allowed = bounds.patience - self._waited
        if bounds.rate is not None:
            allowed = min(bounds.patience, allowed + self._received / bounds.rate)
        began = time.monotonic()
        try:
            async with asyncio.timeout(allowed):
                message = await self._receive()
        except TimeoutError:
            if bounds.rate is None:
                reason = f"The request body did not arrive within {bounds.patience:g} s."
            elif allowed == bounds.patience:
                reason = f"The client sent nothing for {bounds.patience:g} s."
            else:
                reason = f"The client sent fewer than {bounds.rate} bytes a second."
            raise self._failure(TimedOut(reason)) from None
        self._waited += time.monotonic() - began
        return message

    def keep(self, size: int) -> None:
        """Count bytes of it that are kept until the request ends.

        Raises:
            RateLimited, Unavailable: As `Arrivals.keep`.
        """
        if self._arrivals is not None:
            try:
                self._arrivals.keep(self._username, size)
            except GatewayError as error:
                raise self._failure(error) from None
            self._kept += size

    @property
    def ends_connection(self) -> bool:
        """Whether the answer is the connection's last: the client may send much more that nobody reads."""
        return not self.read and (self._failed or self._awaited or self.size is None or self.size > SMALL)

    def close(self) -> None:
        """Give back what it holds. The server's receive leads to the request and back here: let go of it."""
        self._has_arrived()
        if self._kept and self._arrivals is not None:
            self._arrivals.drop(self._username, self._kept)
            self._kept = 0
        self._receive = _gone

    def _failure(self, error: GatewayError) -> GatewayError:
        self._failed = True
        return error

    def _has_arrived(self) -> None:
        if self._arriving and self._arrivals is not None and self._bounds is not None:
            self._arrivals.end(self._username, waits=self._bounds.waits)
            # Nothing of it can come any more; what is asked of it now is whether the client has gone.
            self._arriving = False
            self.read = True


async def _gone() -> Message:
    return {"type": "http.disconnect"}


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The request body is larger than {limit} bytes.")


def body_in(scope: Scope, receive: Receive) -> Body | None:
    """Return the body of a request, None if it has none."""
    found = False
    size: int | None = None
    awaited = False
    for name, value in scope["headers"]:
        if name == b"content-length":
            if value != b"0":
                # A server lets digits through alone; from anything else nothing can be foretold.
                found, size = True, int(value) if value.isdigit() else None
        elif name == b"transfer-encoding":
            return Body(receive, None, awaited=False)
        elif name == b"expect":
            awaited = True
    return Body(receive, size, awaited=awaited) if found else None


def brings_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Say whether a request with these headers has a body."""
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ")):
            return True
    return False


def has_long_body(scope: Scope) -> bool:
    """Say whether a request brings more than a little, will not say how much, or waits to be asked for it."""
    body = body_in(scope, _gone)
    return body is not None and body.ends_connection


class Bodies:
    """Puts a `Body` into the state of each request that has one, between the server and all that could read it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle one request."""
        body = body_in(scope, receive) if scope["type"] == "http" else None
        if body is None:
            return self.app(scope, receive, send)
        return self._with(body, scope, send)

    async def _with(self, body: Body, scope: Scope, send: Send) -> None:
        scope["state"]["body"] = body

        async def send_and_close(message: Message) -> None:
            # The server would go on reading whatever a client may send.
            if message["type"] == "http.response.start" and body.ends_connection:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        try:
            await self.app(scope, body.receive, send_and_close)
        finally:
            body.close()
