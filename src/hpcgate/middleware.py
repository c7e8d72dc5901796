"""What every request and answer carries: ids, the F7T-* headers, the access log, and an end when the client has gone.

Pure ASGI, so that bodies stream through untouched.
"""

import asyncio
import time
from collections.abc import MutableMapping
from typing import Any
from uuid import uuid4

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger("hpcgate.access")

WATCH_AFTER = 0.25
"""Seconds after which a running request begins to watch for its client hanging up.

Most are done by then, also where a hundred of them wait for each other. A watch is a task, which costs a quarter of
what all the rest of HTTP costs.
"""

CLIENT_GONE = 499
"""The status in the access log of a request whose client went away, as nginx writes it."""

MAX_ID_LENGTH = 128

_FEW_DIGITS = 5
"""Digits in the length of a body that is not worth a new connection."""


def accepted_id(value: bytes | None) -> str | None:
    """Return a caller's request id if it is usable: up to 128 printable ASCII characters (contract, Conventions)."""
    if not value or len(value) > MAX_ID_LENGTH:
        return None
    text = value.decode("latin-1")
    return text if text.isascii() and text.isprintable() else None


def new_id() -> str:
    """Return a new request id, a random UUID."""
    return str(uuid4())


class Envelope:
    """Gives each request its ids and each answer its headers, and writes the access log."""

    def __init__(self, app: ASGIApp, *, app_version: str) -> None:
        self.app = app
        self.app_version = app_version

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
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["F7T-Timestamp"] = repr(time.time())
                headers["F7T-AppVersion"] = self.app_version
                if state["username"]:
                    headers["F7T-AuthUsername"] = state["username"]
                headers["X-Request-ID"] = request_id
                headers["X-Correlation-ID"] = correlation_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            log.info(
                "http.request",
                method=scope["method"],
                path=scope["path"],
                status=status or CLIENT_GONE,
                seconds=round(time.perf_counter() - started, 6),
                user=state["username"],
                client=scope["client"][0] if scope.get("client") else None,
                request_id=request_id,
                correlation_id=correlation_id,
            )


class TrailingSlash:
    """Lets every path answer with and without a trailing slash, without a redirect that loses the token."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["path"].endswith("/") and scope["path"].strip("/"):
            scope = {**scope, "path": scope["path"].rstrip("/")}
        await self.app(scope, receive, send)


class HangUp:
    """Cancels a request whose client has gone, so that what it started on a login node ends too.

    A request is watched only once its body has been read (the body's reader notices by itself) and only after
    `WATCH_AFTER` seconds.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (an ASGI server calls within a task)
        watch = _Watch(task, receive, has_body=_has_body(scope))
        timer = asyncio.get_running_loop().call_later(WATCH_AFTER, watch.start)

        async def send_and_close(message: Message) -> None:
            # Refused before the body was read: the server would go on reading whatever a client may send.
            if message["type"] == "http.response.start" and not watch.body_read:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        try:
            await self.app(scope, watch.receive, send_and_close if _has_long_body(scope) else send)
        except asyncio.CancelledError:
            if not watch.hung_up or task.uncancel() > 0:
                raise
        finally:
            timer.cancel()
            await watch.stop()


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") and value != b"0" for name, value in scope["headers"])


def _has_long_body(scope: Scope) -> bool:
    for name, value in scope["headers"]:
        if name == b"transfer-encoding" or (name == b"content-length" and len(value) > _FEW_DIGITS):
            return True
    return False


class _Watch:
    """Waits for the end of one client's connection."""

    def __init__(self, task: asyncio.Task[Any], receive: Receive, *, has_body: bool) -> None:
        self.hung_up = False
        self._task = task
        self._receive = receive
        self._body_read = asyncio.Event()
        self._kept: list[Message] = []
        self._watcher: asyncio.Task[None] | None = None
        if not has_body:
            self._body_read.set()

    @property
    def body_read(self) -> bool:
        """Whether all of the request has been read."""
        return self._body_read.is_set()

    def start(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        await self._body_read.wait()
        while (message := await self._receive())["type"] != "http.disconnect":
            self._kept.append(message)
        self.hung_up = True
        self._task.cancel()

    async def receive(self) -> Message:
        if self._watcher is not None and self._body_read.is_set():
            # The watcher is the one reader now: it has kept an empty body, or there is only the hang-up to wait for.
            await asyncio.sleep(0)
            if self._kept:
                return self._kept.pop(0)
            await asyncio.shield(self._watcher)
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._body_read.set()
        return message

    async def stop(self) -> None:
        if self._watcher is not None and not self._watcher.done():
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
