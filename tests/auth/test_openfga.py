"""Authorisation by a real HTTP service that answers in every way it can."""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from hpcgate.auth import Authorizer, Everyone, OpenFga, Principal
from hpcgate.auth import openfga as openfga_module
from hpcgate.config import OpenFgaSettings
from hpcgate.errors import Forbidden, Unavailable
from hpcgate.sharing import recent as recent_module

from .conftest import Serve, eventually

ALICE = Principal("alice", "alices-secret-token", request_id="r-1", correlation_id="c-1")
Logs = list[MutableMapping[str, Any]]


class Service:
    """The check endpoint."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.body = b'{"allowed": true}'
        self.headers: dict[str, str] = {}
        self.delay = 0.0
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.under_way = 0
        self.most_under_way = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((f"{request.method} {request.path_qs}", dict(request.headers), await request.json()))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.delay)
        finally:
            self.under_way -= 1
        return web.Response(status=self.status, body=self.body, headers=self.headers)


@pytest.fixture
async def service(serve: Serve) -> Service:
    service = Service()
    service.url = str((await serve(service.answer)).make_url("/stores/1/check?x=y"))
    return service


@pytest.fixture
async def openfga(service: Service) -> AsyncIterator[Callable[..., OpenFga]]:
    async with AsyncExitStack() as stack:

        def make(**changes: Any) -> OpenFga:
            openfga = OpenFga(OpenFgaSettings(**{"url": service.url, **changes}))
            stack.push_async_callback(openfga.close)
            return openfga

        yield make


async def test_the_request_is_the_one_of_the_contract(service: Service, openfga: Callable[..., OpenFga]) -> None:
    await openfga().authorize(ALICE, "daint")
    ((line, headers, body),) = service.requests
    assert line == "POST /stores/1/check?x=y"
    assert body == {"user": "user:alice", "relation": "member", "object": "vcluster:daint"}
    assert headers["Authorization"] == "Bearer alices-secret-token"
    assert headers["Content-Type"] == "application/json"
    assert (headers["X-Request-ID"], headers["X-Correlation-ID"]) == ("r-1", "c-1")


async def test_ids_that_are_unknown_are_not_sent(service: Service, openfga: Callable[..., OpenFga]) -> None:
    await openfga().authorize(Principal("alice", "t"), "daint")
    assert not {"X-Request-ID", "X-Correlation-ID"} & set(service.requests[0][1])


@pytest.mark.parametrize(
    "body",
    [
        b'{"allowed": true}',
        b'{"allowed": true, "resolution": ""}',
        b"",
        b"{}",
        b"[]",
        b"ok",
        b"null",
        b"\xff",
        b"[" * 9999,
    ],
)
async def test_answers_that_mean_yes(service: Service, openfga: Callable[..., OpenFga], body: bytes) -> None:
    service.body = body
    await openfga().authorize(ALICE, "daint")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"allowed": false}'),
        (200, b'{"allowed": null}'),
        (200, b'{"allowed": "true"}'),
        (200, b'{"allowed": 1}'),
        (401, b""),
        (403, b'{"allowed": true}'),
    ],
)
async def test_answers_that_mean_no(
    service: Service, openfga: Callable[..., OpenFga], status: int, body: bytes
) -> None:
    service.status, service.body = status, body
    with pytest.raises(Forbidden) as caught:
        await openfga().authorize(ALICE, "daint")
    assert caught.value.status == 403
    assert caught.value.message == "The user alice is not authorized for the system daint"


@pytest.mark.parametrize(
    "body",
    [
        b'{"allowed": fal',
        b' {"allowed": true',
        b'{"allowed": NaN}',
        b"{" * 9999,
        b'{"\xff": 1}',
        b'\xef\xbb\xbf{"allowed": false}',
        '{"allowed": false}'.encode("utf-16"),
        '{"allowed": false}'.encode("utf-16-be"),
        '{"allowed": false}'.encode("utf-32"),
        b'[{"allowed": false}]',
        b'{"result": {"1": {"allowed": false}}}',
        b'{"Allowed": false}',
        b'"allowed: no"',
        b"allowed=false",
        b'{"allowed": false, "allowed": true}',
        b')]}\', {"allowed": false}',
    ],
)
async def test_an_answer_that_was_to_say_it_and_cannot_be_read_is_neither(
    service: Service, openfga: Callable[..., OpenFga], body: bytes
) -> None:
    service.body = body
    with pytest.raises(Unavailable):
        await openfga(cache=60).authorize(ALICE, "daint")
    service.body = b'{"allowed": true}'
    await openfga(cache=60).authorize(ALICE, "daint")


@pytest.mark.parametrize("status", [201, 204, 301, 307, 400, 404, 422, 429, 500, 502, 503])
async def test_answers_that_mean_neither(
    service: Service, openfga: Callable[..., OpenFga], logs: Logs, status: int
) -> None:
    service.status = status
    service.headers = {"Location": service.url}
    with pytest.raises(Unavailable) as caught:
        await openfga(cache=60).authorize(ALICE, "daint")
    assert caught.value.status == 503
    assert "Retry-After" in caught.value.headers
    assert len(service.requests) == 1
    assert [(event["event"], event["reason"]) for event in logs] == [("openfga.failed", f"HTTP status {status}")]


async def test_an_answer_without_end_is_none(serve: Serve, openfga: Callable[..., OpenFga]) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    url = str((await serve(endless)).make_url("/"))
    with pytest.raises(Unavailable):
        await openfga(url=url, timeout=30).authorize(ALICE, "daint")


async def test_an_answer_that_breaks_off_is_none(serve: Serve, openfga: Callable[..., OpenFga]) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b'{"allow')
        assert request.transport is not None
        request.transport.close()
        return response

    url = str((await serve(broken)).make_url("/"))
    with pytest.raises(Unavailable):
        await openfga(url=url, cache=60).authorize(ALICE, "daint")


async def test_a_service_that_is_down_or_hangs_is_unavailable(
    service: Service, openfga: Callable[..., OpenFga], closed_port: int, logs: Logs
) -> None:
    with pytest.raises(Unavailable):
        await openfga(url=f"http://127.0.0.1:{closed_port}/").authorize(ALICE, "daint")
    service.delay = 300
    hanging = openfga(timeout=1)
    async with asyncio.timeout(300):
        with pytest.raises(Unavailable) as caught:
            await hanging.authorize(ALICE, "daint")
    assert [event["reason"] for event in logs] == ["ClientConnectorError", "no answer within its time-out"]
    service.delay = 0
    async with asyncio.timeout(300):
        while True:
            with contextlib.suppress(Unavailable):
                await hanging.authorize(ALICE, "daint")
                break
    assert "0 under way" in repr(hanging)
    for text in (repr(logs), repr(caught.value), caught.value.message):
        assert ALICE.token not in text
        assert str(closed_port) not in text


async def test_no_time_out_waits_a_minute(service: Service, openfga: Callable[..., OpenFga]) -> None:
    assert openfga_module.DEFAULT_TIMEOUT == 60
    service.delay = 0.2
    await openfga(timeout=None).authorize(ALICE, "daint")


async def test_decisions_are_asked_for_each_time_unless_cached(
    service: Service, openfga: Callable[..., OpenFga]
) -> None:
    asked = openfga()
    for _ in range(3):
        await asked.authorize(ALICE, "daint")
    assert len(service.requests) == 3
    assert "0 decided" in repr(asked)


@pytest.mark.parametrize("allowed", [True, False])
async def test_decisions_are_kept_as_long_as_configured(
    service: Service, openfga: Callable[..., OpenFga], monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 1000.0)
    for module in (openfga_module, recent_module):
        monkeypatch.setattr(module, "time", clock)
    service.body = json.dumps({"allowed": allowed}).encode()
    cached = openfga(cache=5)

    async def answer(principal: Principal = ALICE, system: str = "daint") -> bool:
        try:
            await cached.authorize(principal, system)
        except Forbidden:
            return False
        return True

    for number in range(3):
        # Another request of the same user is the same question.
        assert await answer(dataclasses.replace(ALICE, request_id=f"r-{number}")) is allowed
    assert len(service.requests) == 1
    # Another system, user or token is another question.
    assert await answer(system="eiger") is allowed
    assert await answer(dataclasses.replace(ALICE, username="bob")) is allowed
    assert await answer(dataclasses.replace(ALICE, token="other")) is allowed
    assert len(service.requests) == 4
    service.body = json.dumps({"allowed": not allowed}).encode()
    clock.monotonic = lambda: 1004.9
    assert await answer() is allowed
    clock.monotonic = lambda: 1005.0
    assert await answer() is not allowed
    assert len(service.requests) == 5


async def test_failures_are_not_kept(service: Service, openfga: Callable[..., OpenFga]) -> None:
    service.status = 500
    cached = openfga(cache=60)
    with pytest.raises(Unavailable):
        await cached.authorize(ALICE, "daint")
    service.status = 200
    await cached.authorize(ALICE, "daint")


async def test_the_longest_unused_decision_is_forgotten_first(
    service: Service, openfga: Callable[..., OpenFga], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openfga_module, "MAX_CACHED", 2)
    cached = openfga(cache=60)
    for system in ("a", "b", "a", "c", "a", "b"):
        await cached.authorize(ALICE, system)
    assert [body["object"] for _, _, body in service.requests] == [f"vcluster:{name}" for name in "abcb"]


async def test_identical_questions_at_a_time_are_one(service: Service, openfga: Callable[..., OpenFga]) -> None:
    service.delay = 0.1
    shared = openfga()
    await asyncio.gather(*(shared.authorize(ALICE, "daint") for _ in range(100)))
    assert len(service.requests) == 1
    service.body = b'{"allowed": false}'
    refusals = await asyncio.gather(*(shared.authorize(ALICE, "daint") for _ in range(10)), return_exceptions=True)
    assert len(service.requests) == 2
    assert len({id(refusal) for refusal in refusals}) == 10
    assert all(type(refusal) is Forbidden for refusal in refusals)


async def test_whoever_is_cancelled_leaves_the_answer_to_the_others(
    service: Service, openfga: Callable[..., OpenFga]
) -> None:
    service.delay = 0.1
    shared = openfga()
    first, second = (asyncio.create_task(shared.authorize(ALICE, "daint")) for _ in range(2))
    await eventually(lambda: len(service.requests) == 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert len(service.requests) == 1


@pytest.mark.parametrize(("limit", "most"), [(2, 2), (0, 20)])
async def test_connections_are_bounded(
    service: Service, openfga: Callable[..., OpenFga], limit: int, most: int
) -> None:
    """No more questions are under way than connections are allowed."""
    service.delay = 0.05
    bounded = openfga(max_connections=limit, timeout=30)
    await asyncio.gather(*(bounded.authorize(ALICE, f"system-{number}") for number in range(20)))
    assert len(service.requests) == 20
    assert service.most_under_way == most


async def test_closing_ends_what_is_under_way(service: Service, openfga: Callable[..., OpenFga]) -> None:
    service.delay = 30
    closed = openfga(timeout=30)
    asking: Awaitable[None] = asyncio.create_task(closed.authorize(ALICE, "daint"))
    await eventually(lambda: len(service.requests) == 1)
    await closed.close()
    with pytest.raises(Unavailable):
        await asking
    with pytest.raises(Unavailable):
        await closed.authorize(ALICE, "daint")
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "openfga-check"]


async def test_everyone_is_let_in_where_nothing_is_configured() -> None:
    everyone: Authorizer = Everyone()
    await everyone.authorize(ALICE, "daint")
    await everyone.close()


def test_openfga_is_an_authorizer() -> None:
    authorizer: Authorizer = OpenFga(OpenFgaSettings(url="http://127.0.0.1/"))
    assert "0 decided" in repr(authorizer)
