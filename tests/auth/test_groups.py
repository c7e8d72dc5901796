"""Each route of the API belongs to one group of operations."""

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from hpcgate.auth.groups import Group, group_of
from hpcgate.config import Settings
from hpcgate.server.app import create_app


@pytest.fixture
def app() -> FastAPI:
    general: dict[str, Any] = {
        "auth": {"authentication": {"token_url": "http://127.0.0.1/token"}},
        "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1"},
    }
    return create_app(Settings.model_validate(general))


def test_every_route_of_a_system_has_a_group(app: FastAPI) -> None:
    routes = [route for route in app.routes if isinstance(route, APIRoute) and "{system_name}" in route.path]
    assert len(routes) > 30
    for route in routes:
        for method in route.methods or ():
            assert group_of(method, route.path) is not None, (method, route.path)


@pytest.mark.parametrize(
    ("method", "route", "group"),
    [
        ("GET", "/status/systems", Group.STATUS_READ),
        ("GET", "/status/{system_name}/nodes", Group.STATUS_READ),
        ("GET", "/status/liveness/", None),
        ("GET", "/status/readiness", None),
        ("GET", "/compute/{system_name}/jobs/{job_id}", Group.COMPUTE_READ),
        ("POST", "/compute/{system_name}/jobs", Group.COMPUTE_SUBMIT),
        ("DELETE", "/compute/{system_name}/jobs/{job_id}", Group.COMPUTE_SUBMIT),
        ("PUT", "/compute/{system_name}/jobs/{job_id}/attach", Group.COMPUTE_SUBMIT),
        ("GET", "/filesystem/{system_name}/ops/ls", Group.FS_READ),
        ("HEAD", "/filesystem/{system_name}/files/content", Group.FS_READ),
        ("PUT", "/filesystem/{system_name}/files/content", Group.FS_WRITE),
        ("DELETE", "/filesystem/{system_name}/ops/rm", Group.FS_WRITE),
        ("PATCH", "/filesystem/{system_name}/files/uploads/{upload_id}", Group.FS_WRITE),
        ("DELETE", "/filesystem/{system_name}/transfer/rm", Group.TRANSFER),
        ("GET", "/docs", None),
    ],
)
def test_groups(method: str, route: str, group: Group | None) -> None:
    """Each route belongs to its group of operations."""
    assert group_of(method, route) is group
