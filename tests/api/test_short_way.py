"""What goes the short way is answered, logged and counted as by all the layers, byte for byte."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from prometheus_client import generate_latest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import LogCapture

from hpcgate.api import errors, short_way
from hpcgate.api.plain_paths import PlainPaths
from hpcgate.api.remarks import remark
from hpcgate.api.responses import json_bytes
from hpcgate.api.routing import Door
from hpcgate.api.short_way import ShortWay
from hpcgate.api.streaming import Answer, StreamingAnswer
from hpcgate.api.terms import Terms, on
from hpcgate.auth import Principal
from hpcgate.errors import PathNotFound, Unauthenticated
from hpcgate.http import request_log
from hpcgate.http.body import Bodies
from hpcgate.http.disconnect import CONNECTED, HangUp
from hpcgate.http.envelope import WHOLE, Envelope, TrailingSlash, security_headers, tell_gone
from hpcgate.http.metrics import Measured, RequestMetrics
from hpcgate.server.exchange import Exchange
from hpcgate.telemetry.metrics import Metrics

TIMED = re.compile(rb"(_seconds_(?:sum|bucket|created).*) [0-9.e-]+")
LOGGER = logging.getLogger(__name__)


class Gateway:
    """A gateway to which everybody has a token but for those whose token is bad."""

    def __init__(self) -> None:
        self.telemetry = self.tokens = self.rates = self.policy = self.authorizer = self.calendar = self.board = self
        self.api_keys = None
        self.on = False
        self.free = self.well = True
        self.name = "demo"

    def system(self, name: str) -> "Gateway":
        return self

    async def authorize(self, principal: Principal, system: str) -> None: ...

    def check(self) -> None: ...

    def token(self, outcome: str) -> None: ...

    async def principal(self, token: str) -> Principal:
        if token == "bad":
            raise Unauthenticated("no")
        return Principal(token, token)

    async def take(self, principal: Principal, group: Any) -> dict[str, str]:
        return {"RateLimit-Limit": "5"}


@asynccontextmanager
async def streamed() -> AsyncIterator[Answer]:
    async def blocks() -> AsyncIterator[bytes]:
        yield b"123"
        yield b"45"

    yield Answer(200, {"Content-Length": "5"}, blocks())


@asynccontextmanager
async def broken(*, early: bool) -> AsyncIterator[Answer]:
    async def blocks() -> AsyncIterator[bytes]:
        yield b"123"
        raise OSError("gone")

    if early:
        raise PathNotFound("No such file or directory")
    yield Answer(200, {"Content-Length": "5"}, blocks())


def crash() -> Response:
    raise RuntimeError("a fault")


def lost() -> Response:
    raise PathNotFound("No such file or directory")


ANSWERS: dict[str, Any] = {
    "json": lambda: json_bytes(b"{}"),
    "json-507": lambda: json_bytes(b"{}", 507),
    "with-headers": lambda: json_bytes(b"{}", 200, {"Etag": '"1"', "X-Own": "a: b"}),
    "own-cache-control": lambda: Response(b"{}", headers={"Cache-Control": "max-age=1"}),
    "unfit-header": lambda: Response(b"{}", headers={"X-Own": "a\rb"}),
    "content": lambda: Response(b"123"),
    "long": lambda: Response(b"x" * 200_000),
    "empty": lambda: Response(),
    "none": lambda: Response(status_code=204),
    "text": lambda: PlainTextResponse("text"),
    "stream": lambda: StreamingAnswer(streamed(), stall=1),
    "fails-early": lambda: StreamingAnswer(broken(early=True), stall=1),
    "fails-late": lambda: StreamingAnswer(broken(early=False), stall=1),
    "crash": crash,
    "error": lost,
}


@dataclass(frozen=True)
class Case:
    """A request; `short` is whether it goes the short way."""

    answer: str = "json"
    path: str = ""
    method: str = "GET"
    query: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    token: bytes = b"alice"
    scheme: str = "http"
    scope: dict[str, Any] = field(default_factory=dict)
    keep_alive: bool = True
    rates: bool = False
    remarks: tuple[str, ...] = ()
    drained: bool = True
    short: bool = True


CASES: dict[str, Case] = {
    **{name: Case(name) for name in ANSWERS},
    "its own ids": Case(headers=((b"x-request-id", b"mine"), (b"x-correlation-id", b"yours"))),
    "over TLS": Case(scheme="https"),
    "last of its connection": Case(keep_alive=False),
    "client takes nothing": Case(drained=False),
    "client takes nothing long": Case("long", drained=False, keep_alive=False),
    "bad token": Case(token=b"bad"),
    "no token": Case(token=b""),
    "name beyond latin-1": Case(token="łucja".encode()),
    "name with a line end": Case(token=b"a\nb"),
    "rates": Case(rates=True),
    "remarks": Case(remarks=("a",)),
    "unknown parameter": Case(query=b"other=1"),
    "with a slash at the end": Case(path="/test/demo/json/", short=False),
    "two slashes": Case(path="/test/demo//json", short=False),
    "dots": Case(path="/test/demo/./json", short=False),
    "encoded": Case(path="/test/d%65mo/json", short=False),
    "no such route": Case(path="/test/demo/missing", short=False),
    "HEAD": Case(method="HEAD", short=False),
    "POST": Case(method="POST", short=False),
    "with a body": Case(headers=((b"content-length", b"3"),), short=False),
    "with a body in chunks": Case(headers=((b"transfer-encoding", b"chunked"),), short=False),
    "from a page": Case(headers=((b"origin", b"https://portal.example"),), short=False),
}


@dataclass(frozen=True)
class Seen:
    """What one request has led to."""

    written: bytes
    lines: tuple[dict[str, Any], ...]
    metrics: bytes
    failure: str
    short: bool


class Ways:
    """One application, reached by the layers or with the short way around them."""

    def __init__(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        self.case = case
        self.metrics = Metrics()
        self.fast = False
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        self.gateway = app.state.gateway = Gateway()
        self.gateway.on = case.rates
        errors.install(app)
        for name in ANSWERS:
            app.router.routes.append(self._route(name))
        door = Door(app, app)
        requests = RequestMetrics(self.metrics)
        layers: ASGIApp = TrailingSlash(HangUp(Measured(PlainPaths(door), requests=requests)))
        envelope = Envelope(Bodies(layers), app_version="1", extra=security_headers(hsts_max_age=60))
        self.app = app
        self.layers = envelope
        self.around = ShortWay(envelope, door, envelope, requests)
        served = ShortWay._serve

        async def noted(*args: Any) -> None:
            self.fast = True
            await served(*args)

        monkeypatch.setattr(ShortWay, "_serve", noted)

    def _route(self, name: str) -> APIRoute:
        @on(Terms(direct=True))
        async def endpoint(request: Request, system_name: str) -> Response:
            remark(request.scope, self.case.remarks)
            answer: Response = ANSWERS[name]()
            return answer

        return APIRoute(f"/test/{{system_name}}/{name}", endpoint, methods=["GET"], response_model=None)

    async def ask(self, app: ASGIApp) -> Seen:
        case = self.case
        captured = LogCapture()
        written: list[bytes] = []
        path = case.path or f"/test/demo/{case.answer}"
        scope: Scope = {
            "type": "http", "http_version": "1.1", "method": case.method, "scheme": case.scheme, "path": path,
            "raw_path": path.encode(), "query_string": case.query, "client": ("192.0.2.1", 1), "app": self.app,
            "headers": [
                (b"x-request-id", b"1"), (b"x-correlation-id", b"2"), *case.headers,
                *([(b"authorization", b"Bearer " + case.token)] if case.token else []),
            ],
            "state": {CONNECTED: True}, "extensions": {WHOLE: {}},
        }  # fmt: skip
        flow = SimpleNamespace(write_paused=not case.drained, drain=lambda: asyncio.sleep(0))
        exchange = Exchange(
            scope=cast("Any", scope),
            transport=cast("Any", SimpleNamespace(write=written.append, close=lambda: written.append(b"closed"))),
            flow=cast("Any", flow),
            logger=LOGGER,
            access_logger=LOGGER,
            access_log=False,
            default_headers=[(b"date", b"today")],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=case.keep_alive,
            on_response=lambda: written.append(b"over"),
        )

        async def receive() -> Any:
            await asyncio.Event().wait()

        failure = ""
        with pytest.MonkeyPatch.context() as patched:
            lines = structlog.wrap_logger(None, processors=[captured])
            patched.setattr(request_log, "log", lines)
            try:
                await app(scope, receive, cast("Any", exchange.send))
            except Exception as error:
                failure = repr(error)
        for line in captured.entries:
            line["seconds"] = None
        return Seen(
            re.sub(rb"(f7t-timestamp: )[0-9.]+", rb"\1now", b"".join(written)),
            tuple(dict(line) for line in captured.entries),
            re.sub(
                rb"(_seconds_(?:sum|bucket|created).*) [0-9.e-]+", rb"\1 some", generate_latest(self.metrics.registry)
            ),
            failure,
            self.fast,
        )


@pytest.mark.parametrize("name", CASES)
async def test_both_ways_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_layers = await (ways := Ways(CASES[name], monkeypatch)).ask(ways.layers)
    by_short_way = await (ways := Ways(CASES[name], monkeypatch)).ask(ways.around)
    assert not by_layers.short
    assert by_short_way.short == CASES[name].short
    for one in ("written", "lines", "metrics", "failure"):
        assert getattr(by_short_way, one) == getattr(by_layers, one), one
    assert by_layers.written
    assert len(by_layers.lines) == 1


def test_each_header_that_needs_a_layer_has_a_case() -> None:
    shown = {name for case in CASES.values() if not case.short for name, _ in case.headers}
    assert shown >= set(short_way._SPECIAL) - {b"expect"}


@pytest.mark.parametrize("by", ["layers", "around"])
@pytest.mark.parametrize("when", ["before", "meanwhile", "cancelled"])
async def test_who_has_gone_is_cancelled(when: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation by somebody else goes on."""
    ways = Ways(Case(), monkeypatch)
    app: ASGIApp = getattr(ways, by)
    begun = asyncio.Event()

    async def endpoint(request: Request, system_name: str) -> Response:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    route: Any = next(route for route in ways.app.routes if getattr(route, "path", "").endswith("/json"))
    monkeypatch.setattr(route, "endpoint", endpoint)
    states: list[Any] = []

    async def kept(scope: Scope, receive: Receive, send: Send) -> None:
        states.append(scope["state"])
        if when == "before":
            scope["state"][CONNECTED] = False
        await app(scope, receive, send)

    task = asyncio.create_task(ways.ask(kept))
    if when != "before":
        await begun.wait()
    if when == "meanwhile":
        tell_gone(states[0])
        tell_gone(states[0])
    if when == "cancelled":
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        seen = await task
        assert seen.written == b""
        assert [line["status"] for line in seen.lines] == [499]
    assert "on_gone" not in states[0]
