"""The one error shape of the contract, for every error there is."""

import inspect
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from hpcgate import errors
from hpcgate.api import errors as problems
from hpcgate.http.envelope import Envelope


def made(kind: type[errors.GatewayError]) -> errors.GatewayError:
    arguments: dict[str, list[Any]] = {
        "JobNotFound": ["7"],
        "SystemNotFound": [],
        "Unhealthy": ["ssh", "daint"],
        "NoSuchTransfer": ["daint", ["s3"]],
    }
    return kind(*arguments.get(kind.__name__, ["words"]))


KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.GatewayError)]


async def ask(app: FastAPI, method: str = "GET", path: str = "/", **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.request(method, path, **options)


def raising(raised: BaseException) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def fail() -> None:
        raise raised

    problems.install(app)
    app.add_middleware(problems.LastResort)
    app.add_middleware(Envelope, app_version="2.5.7")
    return app


def shaped(body: dict[str, Any]) -> bool:
    return set(body) == {"errorType", "message", "causedBy", "data", "user"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_every_error_has_the_shape(kind: type[errors.GatewayError]) -> None:
    error = made(kind)
    answer = await ask(raising(error))
    assert answer.status_code == kind.status
    body = answer.json()
    assert body.pop("reason", None) == kind.reason
    assert shaped(body)
    assert body["errorType"] == "error"
    assert body["message"] == error.message
    assert "x-request-id" in answer.headers


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.__name__ in ("CommandFailed", "LoginNodeError")])
async def test_what_others_say_makes_no_long_message(kind: type[errors.GatewayError]) -> None:
    said = "words " * 100_000
    answer = await ask(raising(kind(f"tool: {said}", caused_by=[said] * 1000)))
    assert answer.json()["message"].startswith("tool: words")
    assert len(answer.content) < 25 * errors.MAX_MESSAGE


def test_what_tells_itself_by_a_reason() -> None:
    assert {kind.__name__: kind.reason for kind in KINDS if kind.reason} == {"UnderMaintenance": "maintenance"}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    listed = [line.split() for line in (errors.__doc__ or "").splitlines() if line.strip()[-3:].isdigit()]
    assert {name: int(status) for name, status in listed} == {kind.__name__: kind.status for kind in KINDS}


async def test_details_and_headers() -> None:
    """An error carries its causes, data and headers into the answer."""
    error = errors.RateLimited("slower", caused_by=["a", "b"], data={"x": 1}, headers={"Retry-After": "3"})
    answer = await ask(raising(error))
    assert answer.json()["causedBy"] == ["a", "b"]
    assert answer.json()["data"] == {"x": 1}
    assert answer.headers["retry-after"] == "3"


async def test_bytes_that_are_no_utf8_are_replaced() -> None:
    answer = await ask(raising(errors.PathNotFound(b"no \xff".decode("utf-8", "surrogateescape"))))
    assert answer.json()["message"] == "no �"


async def test_a_bug_says_nothing_of_the_inside() -> None:
    answer = await ask(raising(RuntimeError("secret inside")))
    assert answer.status_code == 500
    assert shaped(answer.json())
    assert "secret" not in answer.text
    assert "f7t-appversion" in answer.headers


async def test_no_such_route_and_method() -> None:
    app = raising(RuntimeError())
    for answer, status in ((await ask(app, path="/none"), 404), (await ask(app, "POST"), 405)):
        assert answer.status_code == status
        assert shaped(answer.json())


async def test_validation_is_400_with_fields() -> None:
    app = FastAPI()

    @app.get("/")
    async def route(number: int) -> None: ...

    problems.install(app)
    answer = await ask(app, params={"number": "x"})
    assert answer.status_code == 400
    body = json.loads(answer.text)
    assert body["errorType"] == "validation"
    assert body["data"]["fields"][0]["location"] == "query"
    assert body["data"]["fields"][0]["name"] == "number"
