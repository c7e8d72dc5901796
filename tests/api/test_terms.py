"""Each route declares once, over itself, on which terms it is reached."""

from functools import cache
from typing import Any

import pytest
from fastapi.routing import APIRoute

from hpcgate.api.routes.operations import terms_for
from hpcgate.api.terms import BY_JOBS, BY_SCHEDULER, BY_SSH, PROTECTED, Terms, terms_of
from hpcgate.config import Settings
from hpcgate.config.groups import Group
from hpcgate.filesystem.base import Operation
from hpcgate.server.app import create_app

GENERAL = {
    "auth": {"authentication": {"token_url": "http://127.0.0.1/token"}},
    "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1"},
}


@cache
def terms() -> dict[tuple[str, str], Terms]:
    """Return the terms of each route of the API."""
    return {
        (method, route.path): terms_of(route)
        for route in create_app(Settings.model_validate(GENERAL)).routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }


def test_every_route_that_wants_a_token_says_what_it_is_about() -> None:
    assert len(terms()) > 40
    assert [route for route, found in terms().items() if not found.public and found.group is None] == []


def test_every_route_of_a_system_says_what_it_needs_of_it() -> None:
    of_systems = {route: found for route, found in terms().items() if "{system_name}" in route[1] and not found.public}
    assert len(of_systems) > 35
    assert [route for route, found in of_systems.items() if not found.needs] == []


@pytest.mark.parametrize(
    ("method", "path", "group", "needs"),
    [
        ("GET", "/status/systems", Group.STATUS_READ, ()),
        ("GET", "/status/liveness/", None, ()),
        ("GET", "/status/readiness", None, ()),
        ("GET", "/status/{system_name}/nodes", Group.STATUS_READ, BY_SCHEDULER),
        ("GET", "/status/{system_name}/allocations", Group.STATUS_READ, BY_SCHEDULER),
        ("GET", "/status/{system_name}/userinfo", Group.STATUS_READ, BY_SSH),
        ("GET", "/compute/{system_name}/jobs", Group.COMPUTE_READ, BY_SCHEDULER),
        ("GET", "/compute/{system_name}/jobs/{job_id}", Group.COMPUTE_READ, BY_SCHEDULER),
        ("POST", "/compute/{system_name}/jobs", Group.COMPUTE_SUBMIT, BY_SCHEDULER),
        ("DELETE", "/compute/{system_name}/jobs/{job_id}", Group.COMPUTE_SUBMIT, BY_SCHEDULER),
        ("PUT", "/compute/{system_name}/jobs/{job_id}/attach", Group.COMPUTE_SUBMIT, BY_SCHEDULER),
        ("GET", "/filesystem/{system_name}/ops/ls", Group.FS_READ, BY_SSH),
        ("GET", "/filesystem/{system_name}/ops/download", Group.FS_READ, BY_SSH),
        ("POST", "/filesystem/{system_name}/ops/upload", Group.FS_WRITE, BY_SSH),
        ("DELETE", "/filesystem/{system_name}/ops/rm", Group.FS_WRITE, BY_SSH),
        ("HEAD", "/filesystem/{system_name}/files/content", Group.FS_READ, BY_SSH),
        ("PUT", "/filesystem/{system_name}/files/content", Group.FS_WRITE, BY_SSH),
        ("HEAD", "/filesystem/{system_name}/files/uploads/{upload_id}", Group.FS_READ, BY_SSH),
        ("PATCH", "/filesystem/{system_name}/files/uploads/{upload_id}", Group.FS_WRITE, BY_SSH),
        ("POST", "/filesystem/{system_name}/transfer/cp", Group.TRANSFER, BY_JOBS),
        ("DELETE", "/filesystem/{system_name}/transfer/rm", Group.TRANSFER, BY_JOBS),
    ],
)
def test_what_routes_are_about_and_need(method: str, path: str, group: Group | None, needs: Any) -> None:
    assert (terms()[method, path].group, terms()[method, path].needs) == (group, needs)


def test_only_reads_are_in_a_group_of_reads() -> None:
    """FirecREST's methods tell what changes something; a group that does not fit would let a rule be passed by."""
    wrong = [
        route
        for route, found in terms().items()
        if found.group is not None and found.group.endswith(":read") != (route[0] in ("GET", "HEAD"))
    ]
    assert wrong == []


def test_what_asks_the_scheduler_through_the_login_node_needs_that_first() -> None:
    asking = Terms(Group.COMPUTE_READ, BY_SCHEDULER)
    assert asking.services(scheduler_by_ssh=True) == ("ssh", "scheduler")
    assert asking.services(scheduler_by_ssh=False) == ("scheduler",)
    for others in (BY_SSH, BY_JOBS, ()):
        assert Terms(Group.FS_READ, others).services(scheduler_by_ssh=True) == others


@pytest.mark.parametrize(
    ("declared", "group"),
    [
        ({"method": "GET"}, Group.FS_READ),
        ({"method": "GET", "writes": True}, Group.FS_WRITE),
        ({"method": "POST"}, Group.FS_WRITE),
        ({"method": "DELETE", "writes": True}, Group.FS_WRITE),
        ({"method": "GET", "group": Group.TRANSFER}, Group.TRANSFER),
    ],
)
def test_an_operation_of_a_plug_in_declares_its_terms_as_attributes(declared: dict[str, Any], group: Group) -> None:
    operation = type("Own", (Operation,), {"name": "own", "needs": ("ssh", "scheduler"), "max_body": 9, **declared})
    assert terms_for(operation) == Terms(group, BY_JOBS, limit=9, direct=True)


def test_what_declares_nothing_is_protected() -> None:
    assert (PROTECTED.public, PROTECTED.group, PROTECTED.limit) == (False, None, 1024 * 1024)
