"""What every request and answer carries: ids, the F7T-* headers, the access log, and an end when the client has gone.

Pure ASGI, so that bodies stream through untouched. What only looks at a request, or at a message, hands on what is to
be awaited instead of awaiting it: each coroutine between the server and a route costs every request something.
"""

import os
import random
import re
import time
from collections.abc import Awaitable, MutableMapping
from operator import itemgetter
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpcgate.http.disconnect import _ON_GONE, CLIENT_GONE, CONNECTED
from hpcgate.http.request_log import Ended, RequestLines
from hpcgate.telemetry.containment import FAULTS

log = structlog.get_logger("hpcgate.access")

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
        self.lines = RequestLines() if lines is None else lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = dict(scope["headers"])
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        request_id = accepted_id(asked.get(b"x-request-id")) or new_id()
        correlation_id = accepted_id(asked.get(b"x-correlation-id")) or new_id()
        state["request_id"] = request_id
        state["correlation_id"] = correlation_id
        state["username"] = None
        notes = self.lines.begin(request_id, correlation_id)
        started = time.perf_counter()
        status = 0
        whole = False

        def send_with_headers(message: Message) -> Awaitable[None]:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [
                    *message.get("headers", ()),
                    (b"f7t-timestamp", repr(time.time()).encode()),
                    self._version,
                    (b"x-request-id", request_id.encode()),
                    (b"x-correlation-id", correlation_id.encode()),
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
                    log.error("http.header_replaced", path=scope["path"], request_id=request_id)
                    headers = [(name, _UNSAFE.sub(b"?", value)) for name, value in headers]
                if self._extra:
                    self._add(headers, scope)
                message = {**message, "headers": headers}
            elif not message.get("more_body", False):
                whole = True
            return send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            ended = Ended(scope, asked, status or CLIENT_GONE, time.perf_counter() - started, whole=whole)
            self.lines.end(notes, ended)

    def _add(self, present: list[tuple[bytes, bytes]], scope: Scope) -> None:
        """Add the headers of every answer, those apart that it has by itself."""
        if scope.get("scheme") != "https" and self._names.isdisjoint(map(_NAME, present)):
            present += self._plain
            return
        names = set(map(_NAME, present))
        for name, value in self._extra:
            if name not in names and (name != _HSTS or scope.get("scheme") == "https"):
                present.append((name, value))


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
        if scope["type"] == "http" and scope["path"].endswith("/") and scope["path"].strip("/"):
            scope = {**scope, "path": scope["path"].rstrip("/")}
        if self._root and scope["type"] == "http" and scope["path"] == self._root:
            scope = {**scope, "path": f"{self._root}/"}
        return self.app(scope, receive, send)


def tell_gone(state: MutableMapping[str, Any]) -> None:
    """Tell a request, by its state, that its client has gone."""
    state[CONNECTED] = False
    on_gone = state.get(_ON_GONE)
    if on_gone is not None:
        on_gone()
