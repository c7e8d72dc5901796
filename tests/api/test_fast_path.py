"""The short way finds the same routes as FastAPI does, and only those."""

from typing import Any

import pytest
from fastapi.routing import APIRoute

from hpcgate.api.fast_path import DirectRoutes
from hpcgate.api.terms import Terms, on


@on(Terms(direct=True))
async def echo(request: Any, system_name: str, **rest: str) -> Any:
    raise AssertionError("only found, not called")


async def by_fastapi(system_name: str) -> Any:
    raise AssertionError("only found, not called")


ROUTES = [
    APIRoute("/filesystem/{system_name}/ops/mkdir", by_fastapi, methods=["GET"], response_model=None),
    APIRoute("/filesystem/{system_name}/ops/stat", echo, methods=["GET"], response_model=None),
    APIRoute("/compute/{system_name}/jobs", echo, methods=["GET"], response_model=None),
    APIRoute("/compute/{system_name}/jobs/{job_id}", echo, methods=["GET"], response_model=None),
]


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
        ("/filesystem/demo/ops/mkdir", None),
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
    """A path leads to its route and parameters, by its own method alone."""
    direct = DirectRoutes(ROUTES, "/v2")
    found = direct.find({"method": "GET", "path": path})
    assert (found and found[2]) == parameters
    assert direct.find({"method": "POST", "path": path}) is None
    assert direct.find({"method": "HEAD", "path": path}) is None


def test_a_route_must_begin_with_a_literal_and_the_system() -> None:
    with pytest.raises(ValueError, match="not a direct route"):
        DirectRoutes([APIRoute("/status/liveness/now", echo, response_model=None)])
