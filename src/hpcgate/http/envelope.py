"""What every request and answer carries: ids, the F7T-* headers, the access log, and an end when the client has gone.

Pure ASGI, so that bodies stream through untouched. What only looks at a request, or at a message, hands on what is to
be awaited instead of awaiting it: each coroutine between the server and a route costs every request something.
"""

import os
import random
import re
import time
from collections.abc import Awaitable, Iterable, MutableMapping, Sequence
from operator import itemgetter
from typing import Any

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpcgate.http.disconnect import _ON_GONE, CLIENT_GONE, CONNECTED
from hpcgate.http.request_log import Ended, RequestLines
from hpcgate.telemetry.containment import FAULTS
from hpcgate.telemetry.journal import Journal

log = structlog.get_logger(__name__)

Headers = tuple[tuple[bytes, bytes], ...]


MAX_ID_LENGTH = 128


def accepted_id(value: bytes | None) -> str | None:
    """Return a caller's request id if it is usable: up to 128 printable ASCII characters (contract, Conventions)."""
    if not value or len(value) > MAX_ID_LENGTH:
        return None
    text = value.decode("latin-1")
    return text if text.isascii() and text.isprintable() else None


_ids = random.Random(os.urandom(32))  # noqa: S311 (ids are not secrets)


def new_id() -> str:
    """Return a new request id, a random UUID (RFC 9562, version 4)."""
    digits = f"{_ids.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


HEADS = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})
"""The messages that bring the head of an answer; that of a WebSocket that is accepted has no status."""
SWITCHING = 101


class Envelope:
    """Gives each request its ids and each answer its headers, and writes the lines of the request to the logs.

    Args:
        app: What answers.
        app_version: What ``F7T-AppVersion`` says.
        extra: Headers of every answer that does not have them by itself, lower case.
        lines: What is logged of a request.
    """

    def __init__(
        self, app: ASGIApp, *, app_version: str, extra: Headers = (), lines: "RequestLines | None" = None
    ) -> None:
        self.app = app
        self._version = (b"f7t-appversion", app_version.encode())
        self._extra = extra
        # What goes out over HTTP, which is all but one of them.
        self._plain = tuple(header for header in extra if header[0] != _HSTS)
        self._names = frozenset(name for name, _ in extra)
        self._app_version = app_version
        self._lines_plain, self._lines_tls = (_lines(headers) for headers in (self._plain, extra))
        self._fit = _are_fit(self._lines_tls, len(extra))
        self.lines = RequestLines() if lines is None else lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        one = self.open(scope, send, dict(scope["headers"]))
        try:
            await self.app(scope, receive, one.send)
        finally:
            one.close()

    def open(self, scope: Scope, send: Send, asked: dict[bytes, bytes]) -> "Enveloped":
        """Begin a request, which is to be closed.

        Args:
            scope: Its own.
            send: Takes the messages of its answer.
            asked: Its headers.
        """
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        request_id = state["request_id"] = accepted_id(asked.get(b"x-request-id")) or new_id()
        correlation_id = state["correlation_id"] = accepted_id(asked.get(b"x-correlation-id")) or new_id()
        state["username"] = None
        return Enveloped(self, scope, send, asked, self.lines.begin(request_id, correlation_id))

    def headers(self, scope: Scope, notes: Journal, given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the headers of an answer.

        Args:
            scope: That of its request.
            notes: The journal of it.
            given: The headers that the answer has by itself.
        """
        state = scope["state"]
        headers = [
            *given,
            (b"f7t-timestamp", repr(time.time()).encode()),
            self._version,
            (b"x-request-id", notes.request_id.encode()),
            (b"x-correlation-id", notes.correlation_id.encode()),
        ]
        if state["username"]:
            headers.append((b"f7t-authusername", state["username"].encode("latin-1", "replace")))
        if REMARKS in state:
            headers.append((_WARNING, "; ".join(state[REMARKS]).encode()))
        if "rate_headers" in state:
            headers += [(name.encode(), value.encode()) for name, value in state["rate_headers"].items()]
        values = b"".join([value for _, value in headers])
        # A search would take six times as long.
        if len(values.translate(None, _UNSAFE_BYTES)) != len(values):
            FAULTS.count("http.header")
            log.error("http.header_replaced", path=scope["path"], request_id=notes.request_id)
            headers = [(name, _UNSAFE.sub(b"?", value)) for name, value in headers]
        if self._extra:
            self._add(headers, scope)
        return headers

    def head(self, scope: Scope, notes: Journal, given: Sequence[tuple[bytes, bytes]]) -> bytes | None:
        """Return the lines of what `headers` returns, made at a fifth of its price; None if it takes that.

        Args:
            scope, notes, given: As of `headers`.
        """
        state = scope["state"]
        if REMARKS in state or not self._fit or not self._names.isdisjoint(map(_NAME, given)):
            return None
        text = (
            f"f7t-timestamp: {time.time()!r}\r\nf7t-appversion: {self._app_version}\r\n"
            f"x-request-id: {notes.request_id}\r\nx-correlation-id: {notes.correlation_id}\r\n"
        )
        count = len(given) + 4
        if username := state["username"]:
            text += f"f7t-authusername: {username}\r\n"
            count += 1
        if rates := state.get("rate_headers"):
            text += "".join([f"{name.lower()}: {value}\r\n" for name, value in rates.items()])
            count += len(rates)
        lines = b"".join(map(_LINE, given)) + text.encode("latin-1", "replace")
        if not _are_fit(lines, count):
            return None
        return lines + (self._lines_tls if scope.get("scheme") == "https" else self._lines_plain)

    def _add(self, present: list[tuple[bytes, bytes]], scope: Scope) -> None:
        """Add the headers of every answer, those apart that it has by itself."""
        if scope.get("scheme") != "https" and self._names.isdisjoint(map(_NAME, present)):
            present += self._plain
            return
        names = set(map(_NAME, present))
        for name, value in self._extra:
            if name not in names and (name != _HSTS or scope.get("scheme") == "https"):
                present.append((name, value))


class Enveloped:
    """One request: its ids, its answer's headers and its lines in the logs.

    Attributes:
        status: That of the answer once it has begun, 0 until then.
        sent: Bytes of the answer's body.
    """

    __slots__ = ("_asked", "_envelope", "_notes", "_scope", "_send", "_started", "_whole", "sent", "status")

    def __init__(self, envelope: Envelope, scope: Scope, send: Send, asked: dict[bytes, bytes], notes: Journal) -> None:
        self.status = 0
        self.sent = 0
        self._envelope = envelope
        self._scope = scope
        self._send = send
        self._asked = asked
        self._notes = notes
        self._whole = False
        self._started = time.perf_counter()

    def send(self, message: Message) -> Awaitable[None]:
        """Send a part of the answer, the first with its headers."""
        if message["type"] in HEADS:
            self.status = message.get("status", SWITCHING)
            headers = self._envelope.headers(self._scope, self._notes, message.get("headers", ()))
            message = {**message, "headers": headers}
        else:
            self.sent += len(message.get("body", b""))
            if not message.get("more_body", False):
                self._whole = True
        return self._send(message)

    def send_whole(self, answer: Response) -> Awaitable[None] | None:
        """Send an answer in one go to a server that takes it (`WHOLE`); None, and nothing is sent, if it is unusual."""
        head = self._envelope.head(self._scope, self._notes, answer.raw_headers)
        if head is None:
            return None
        self.status = answer.status_code
        self.sent = len(answer.body)
        self._whole = True
        return self._send({"type": WHOLE, "status": answer.status_code, "head": head, "body": answer.body})

    def close(self) -> float:
        """End the request and write its lines; return the seconds that it took."""
        seconds = time.perf_counter() - self._started
        ended = Ended(self._scope, self._asked, self.status or CLIENT_GONE, seconds, whole=self._whole)
        self._envelope.lines.end(self._notes, ended)
        return seconds


_LINE = b"%b: %b\r\n".__mod__


def _lines(headers: Headers) -> bytes:
    return b"".join(map(_LINE, headers))


def _are_fit(lines: bytes, count: int) -> bool:
    """Say whether so many lines of a head hold nothing that no header may; CR and LF are those at the lines' ends."""
    return len(lines) - len(lines.translate(None, _UNSAFE_BYTES)) == 2 * count


WHOLE = "hpcgate.response.whole"
"""The ASGI extension of a server that takes an answer as one message of this type: its status, the lines of its head
and its body. No two lines have one name, one says how long the body is, and none is for the connection alone."""

REMARKS = "remarks"
"""In the state of a request: what of it is not used, as sentences in ASCII."""
_WARNING = b"x-hpcgate-warning"

_NAME = itemgetter(0)
_UNSAFE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""What no header may hold (RFC 9110, section 5.5): the server would drop the connection without an answer."""
_UNSAFE_BYTES = bytes(filter(lambda byte: _UNSAFE.match(bytes([byte])), range(256)))
FAULTS.register("http.header")


_POLICY = b"content-security-policy"
_HSTS = b"strict-transport-security"


def security_headers(*, hsts_max_age: int) -> Headers:
    """Return the headers that keep a browser from guessing, framing, running or keeping what the API answers.

    Args:
        hsts_max_age: Seconds for Strict-Transport-Security, which goes out over TLS only; 0 is none.
    """
    headers = [
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (_POLICY, b"default-src 'none'; frame-ancestors 'none'"),
        (b"cache-control", b"no-store"),
    ]
    if hsts_max_age:
        headers.append((_HSTS, f"max-age={hsts_max_age}".encode()))
    return tuple(headers)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


class TrailingSlash:
    """Lets every path answer with and without a trailing slash, without a redirect that loses the token.

    Args:
        app: What answers.
        root: A path before all others; what it leads to is its own slash.
    """

    def __init__(self, app: ASGIApp, root: str = "") -> None:
        self.app = app
        self._root = root

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle one request."""
        if scope["type"] != "lifespan" and scope["path"].endswith("/") and scope["path"].strip("/"):
            scope = {**scope, "path": scope["path"].rstrip("/")}
        if self._root and scope["type"] != "lifespan" and scope["path"] == self._root:
            scope = {**scope, "path": f"{self._root}/"}
        return self.app(scope, receive, send)


def tell_gone(state: MutableMapping[str, Any]) -> None:
    """Tell a request, by its state, that its client has gone."""
    state[CONNECTED] = False
    on_gone = state.get(_ON_GONE)
    if on_gone is not None:
        on_gone()
