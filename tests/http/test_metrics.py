"""What is counted of requests, on bare ASGI, and what their labels can be."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpcgate.http.metrics import Measured, RequestMetrics
from hpcgate.telemetry.metrics import Metrics


def scope(method: str = "GET", path: str = "/x") -> Scope:
    return {"type": "http", "method": method, "path": path, "headers": [], "state": {}}


def answering(status: int = 200, system: str | None = None, route: str | None = None, *blocks: bytes) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if route is not None:
            scope["route"] = SimpleNamespace(path=route)
        scope["state"]["system"] = system
        while scope["method"] == "POST" and (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": status, "headers": []})
        for block in blocks:
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body"})

    return app


async def call(app: ASGIApp, asked: Scope, *body: bytes) -> None:
    parts = list(body)

    async def receive() -> Message:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(_: Message) -> None:
        pass

    await app(asked, receive, send)


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


async def test_one_request() -> None:
    """One request is counted once, with its time and bytes, by route and system."""
    metrics = Metrics()
    app = Measured(
        answering(201, "daint", "/filesystem/{system_name}/ops/upload", b"abc", b"de"), requests=RequestMetrics(metrics)
    )
    await call(app, scope("POST"), b"1234", b"567")
    route = "/filesystem/{system_name}/ops/upload"
    assert samples(metrics, "hpcgate_http_requests_total") == {(route, "POST", "201", "daint"): 1}
    assert samples(metrics, "hpcgate_http_request_seconds_count") == {(route, "POST", "daint"): 1}
    assert samples(metrics, "hpcgate_http_request_body_bytes_total") == {(route, "daint"): 7}
    assert samples(metrics, "hpcgate_http_response_body_bytes_total") == {(route, "daint"): 5}


async def test_callers_make_up_no_labels() -> None:
    metrics = Metrics()
    app = Measured(answering(404), requests=RequestMetrics(metrics))
    for number in range(20):
        await call(app, scope(f"VERB{number}", f"/nonsense/{number}"))
    assert samples(metrics, "hpcgate_http_requests_total") == {("other", "other", "404", ""): 20}


async def test_a_client_that_went_away_and_a_crash_are_counted() -> None:
    async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def crash(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    metrics = Metrics()
    task = asyncio.create_task(call(Measured(stuck, requests=RequestMetrics(metrics)), scope()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert samples(metrics, "hpcgate_http_requests_total") == {("other", "GET", "499", ""): 1}
    with pytest.raises(ZeroDivisionError):
        await call(Measured(crash, requests=RequestMetrics(metrics)), scope())
    assert samples(metrics, "hpcgate_http_request_seconds_count") == {("other", "GET", ""): 2}


async def test_what_is_no_request_passes() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    metrics = Metrics()
    await Measured(app, requests=RequestMetrics(metrics))({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]
    assert samples(metrics, "hpcgate_http_requests_total") == {}
