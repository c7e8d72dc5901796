"""The short way finds the same routes as FastAPI does, and only those."""

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from hpcgate.api.direct import Direct, DirectRoute
from hpcgate.errors import PathNotFound


async def echo(request: Any, system_name: str, **rest: str) -> Any:
    raise AssertionError("only found, not called")


ROUTES = [
    DirectRoute("/filesystem/{system_name}/ops/stat", echo, methods=["GET"], response_model=None),
    DirectRoute("/compute/{system_name}/jobs", echo, methods=["GET"], response_model=None),
    DirectRoute("/compute/{system_name}/jobs/{job_id}", echo, methods=["GET"], response_model=None),
]


async def behind(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand for FastAPI."""


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/filesystem/demo/ops/stat", {"system_name": "demo"}),
        ("/compute/Demo/jobs", {"system_name": "Demo"}),
        ("/compute/demo/jobs/12_3", {"system_name": "demo", "job_id": "12_3"}),
        ("/v2/compute/demo/jobs", {"system_name": "demo"}),
        ("/compute/demo/jobs/1/metadata", None),
        ("/compute/demo/jobs/", None),
        ("/compute//jobs", None),
        ("/filesystem/demo/ops/unknown", None),
        ("/filesystem/demo/ops", None),
        ("/status/systems", None),
        ("compute/demo/jobs", None),
        ("x/compute/demo/jobs", None),
        ("/", None),
        ("", None),
        ("/v2", None),
    ],
)
def test_what_is_found(path: str, parameters: dict[str, str] | None) -> None:
    direct = Direct(behind, ROUTES, "/v2")
    found = direct._find({"method": "GET", "path": path})
    assert (found and found[1]) == parameters
    assert direct._find({"method": "POST", "path": path}) is None
    assert direct._find({"method": "HEAD", "path": path}) is None


def test_a_route_must_begin_with_a_literal_and_the_system() -> None:
    with pytest.raises(ValueError, match="not a direct route"):
        Direct(behind, [DirectRoute("/status/liveness/now", echo, response_model=None)])


@pytest.mark.parametrize(("error", "status"), [(PathNotFound("no"), b"404"), (RuntimeError("secret"), b"500")])
async def test_errors_become_answers(error: Exception, status: bytes) -> None:
    async def fails(request: Any, system_name: str) -> Any:
        raise error

    route = DirectRoute("/filesystem/{system_name}/ops/stat", fails, methods=["GET"], response_model=None)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/filesystem/demo/ops/stat", "headers": [], "query_string": b"",
        "state": {},
    }  # fmt: skip
    await Direct(behind, [route])(scope, None, send)  # type: ignore[arg-type]
    assert str(sent[0]["status"]).encode() == status
    assert b"secret" not in sent[1]["body"]
    assert scope["route"] is route
