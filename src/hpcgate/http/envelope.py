"""What every request and answer carries: ids, the F7T-* headers, the access log, and an end when the client has gone.

Pure ASGI, so that bodies stream through untouched. What only looks at a request, or at a message, hands on what is to
be awaited instead of awaiting it: each coroutine between the server and a route costs every request something.
"""

import asyncio
import os
import random
import re
import time
from collections.abc import Awaitable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpcgate.auth.groups import Group, group_of
from hpcgate.telemetry.containment import FAULTS, contained, reaped
from hpcgate.telemetry.journal import Journal, current

log = structlog.get_logger("hpcgate.access")
trace_log = structlog.get_logger("f7t_v2_tracing_log")
audit_log = structlog.get_logger("hpcgate.audit")

Headers = tuple[tuple[bytes, bytes], ...]

WATCH_AFTER = 0.25
"""Seconds after which a running request begins to watch for its client hanging up.

Most are done by then, also where a hundred of them wait for each other. A watch is a task, which costs a quarter of
what all the rest of HTTP costs.
"""

CLIENT_GONE = 499
"""The status in the access log of a request whose client went away, as nginx writes it."""

MAX_ID_LENGTH = 128


def accepted_id(value: bytes | None) -> str | None:
    """Return a caller's request id if it is usable: up to 128 printable ASCII characters (contract, Conventions)."""
    if not value or len(value) > MAX_ID_LENGTH:
        return None
    text = value.decode("latin-1")
    return text if text.isascii() and text.isprintable() else None


_ids = random.Random(os.urandom(32))  # noqa: S311 (ids are no secrets)


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
        self._version = app_version.encode()
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
                    (b"f7t-appversion", self._version),
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
        names = {name for name, _ in present}
        if scope.get("scheme") != "https" and self._names.isdisjoint(names):
            present += self._plain
            return
        for name, value in self._extra:
            if name not in names and (name != _HSTS or scope.get("scheme") == "https"):
                present.append((name, value))


REMARKS = "remarks"
"""In the state of a request: what of it is not used, as sentences in ASCII."""
_WARNING = b"x-hpcgate-warning"

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


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that has ended.

    Attributes:
        scope: Its ASGI scope.
        asked: Its headers.
        status: The status of the answer, or `CLIENT_GONE`.
        seconds: How long it took.
        whole: Whether the answer was sent to its end.
    """

    scope: Scope
    asked: Mapping[bytes, bytes]
    status: int
    seconds: float
    whole: bool


class RequestLines:
    """The lines that one request leaves in the logs.

    Args:
        access: Whether there is an access line.
        tracing: Whether there is a tracing line, as FirecREST has it.
        tracing_headers: Request headers of the tracing line, each with the name of its field.
        audit: Whether actions are recorded.
        audit_reads: Whether those are that only read.
    """

    def __init__(
        self,
        *,
        access: bool = True,
        tracing: bool = False,
        tracing_headers: Sequence[tuple[str, str]] = (),
        audit: bool = False,
        audit_reads: bool = True,
    ) -> None:
        self._access = access
        self._tracing = tracing
        self._tracing_headers = [(name.lower().encode("latin-1"), field) for name, field in tracing_headers]
        self._audit = audit
        self._audit_reads = audit_reads

    def begin(self, request_id: str, correlation_id: str) -> Journal:
        """Open the journal of a request, for all that is logged from here on."""
        notes = Journal(request_id, correlation_id, [] if self._audit else None, [] if self._tracing else None)
        current.set(notes)
        return notes

    def end(self, notes: Journal, ended: Ended) -> None:
        """Write the lines and close the journal."""
        scope = ended.scope
        state = scope["state"]
        if self._access:
            log.info(
                "http.request",
                method=scope["method"],
                path=scope["path"],
                status=ended.status,
                seconds=round(ended.seconds * 1e6) / 1e6,
                user=state["username"],
                client=scope["client"][0] if scope.get("client") else None,
                request_id=notes.request_id,
                correlation_id=notes.correlation_id,
            )
        if self._tracing:
            trace_log.info("http.trace", **self._trace(notes, ended))
        if notes.operation is not None:
            self._record(notes, notes.operation, ended)
        notes.open = False

    def _trace(self, notes: Journal, ended: Ended) -> dict[str, Any]:
        scope = ended.scope
        state = scope["state"]
        fields: dict[str, Any] = {
            "username": state["username"],
            "system_name": state.get("system"),
            "endpoint": scope["path"],
            "resource": scope["path"].strip("/").partition("/")[0],
            "status_code": ended.status,
            "user_agent": _text(ended.asked.get(b"user-agent")),
        }
        for name, key in self._tracing_headers:
            fields.setdefault(key, "***" if name in _SECRET_HEADERS else _text(ended.asked.get(name)))
        if notes.backend:
            fields["backend"] = notes.backend[0] if len(notes.backend) == 1 else notes.backend
        return {name: value for name, value in fields.items() if value is not None}

    def _record(self, notes: Journal, operation: tuple[str, str], ended: Ended) -> None:
        method, route = operation
        group = group_of(method, route)
        if group in _READS and not self._audit_reads:
            return
        audit_log.info(
            "action",
            **notes.who,
            system=ended.scope["state"].get("system"),
            operation=f"{method} {route}",
            group=group,
            paths=notes.paths or None,
            job_id=notes.job_id,
            outcome=_outcome(ended),
            status=ended.status,
            seconds=round(ended.seconds, 6),
        )


_READS = frozenset({Group.STATUS_READ, Group.COMPUTE_READ, Group.FS_READ})
_SECRET_HEADERS = frozenset({b"authorization", b"cookie", b"proxy-authorization", b"x-api-key"})


def _outcome(ended: Ended) -> str:
    if not ended.whole:
        return "aborted"
    if ended.status in (401, 403):
        return "denied"
    return "success" if ended.status < 400 else "failure"


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


_HANG_UP = contained("http.hang_up")

CONNECTED = "connected"
"""In the state of a request: whether its client is there. A server that says so tells when the client goes."""
_ON_GONE = "on_gone"


def tell_gone(state: MutableMapping[str, Any]) -> None:
    """Tell a request, by its state, that its client has gone."""
    state[CONNECTED] = False
    on_gone = state.get(_ON_GONE)
    if on_gone is not None:
        on_gone()


class HangUp:
    """Cancels a request whose client has gone, so that what it started on a login node ends too.

    That is only done once its body has been read: the body's reader notices by itself. The gateway's own server tells
    (`tell_gone`), at no cost to those who stay. With any other a request is watched after `WATCH_AFTER` seconds, at
    most twice as many: one timer looks after all of them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._young: set[_Watch] = set()
        self._older: set[_Watch] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (an ASGI server calls within a task)
        state = scope["state"]
        watch = _Watch(task, receive, has_body="body" in state)
        connected = state.get(CONNECTED)
        if connected is None:
            self._young.add(watch)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._look)
        else:
            state[_ON_GONE] = watch.gone
            if not connected:
                watch.gone()
        try:
            await self.app(scope, watch.receive, send)
        except asyncio.CancelledError:
            if not watch.hung_up or task.uncancel() > 0:
                raise
        finally:
            if connected is None:
                self._young.discard(watch)
                self._older.discard(watch)
                if watch.watching:
                    await watch.stop()
            else:
                # It leads back here.
                del state[_ON_GONE]

    @contained("http.hang_up")
    def _look(self) -> None:
        """Watch those that were running at the last look already."""
        due, self._older, self._young = self._older, self._young, set()
        # The timer first: whatever happens below, it goes on for the others.
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._look) if self._older else None
        for watch in due:
            with _HANG_UP:
                watch.start()


class _Watch:
    """Waits for the end of one client's connection."""

    __slots__ = ("_body_read", "_kept", "_receive", "_task", "_waiter", "_watcher", "hung_up")

    def __init__(self, task: asyncio.Task[Any], receive: Receive, *, has_body: bool) -> None:
        self.hung_up = False
        self._task = task
        self._receive = receive
        self._body_read = not has_body
        self._waiter: asyncio.Event | None = None
        self._kept: list[Message] = []
        self._watcher: asyncio.Task[None] | None = None

    @property
    def watching(self) -> bool:
        """Whether it has begun to watch."""
        return self._watcher is not None

    def start(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        if not self._body_read:
            self._waiter = asyncio.Event()
            await self._waiter.wait()
        while (message := await self._receive())["type"] != "http.disconnect":
            self._kept.append(message)
        self.gone()

    def gone(self) -> None:
        """Cancel the request, unless its body is still being read. It may be told several times."""
        if self._body_read and not self.hung_up:
            self.hung_up = True
            self._task.cancel()

    async def receive(self) -> Message:
        if self._watcher is not None and self._body_read:
            # The watcher is the one reader now: it has kept an empty body, or there is only the hang-up to wait for.
            await asyncio.sleep(0)
            if self._kept:
                return self._kept.pop(0)
            await asyncio.shield(self._watcher)
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] != "http.request":
            # The application knows now, and may still have to put away what it was sent: it is not cut off.
            return message
        if not message.get("more_body", False):
            self._body_read = True
            if self._waiter is not None:
                self._waiter.set()
        return message

    async def stop(self) -> None:
        if self._watcher is not None and not self._watcher.done():
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        elif self._watcher is not None:
            reaped(self._watcher, "http.hang_up")
        # It leads back here.
        self._watcher = None
