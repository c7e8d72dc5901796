"""Every route that names a system says what it needs of it."""

import pytest

from hpcgate.api.needs import needs
from hpcgate.config import Settings
from hpcgate.server.app import create_app

GENERAL = {
    "auth": {"authentication": {"token_url": "http://127.0.0.1/token"}},
    "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1"},
}


def test_no_route_needs_nothing() -> None:
    paths = [
        path for path in create_app(Settings.model_validate(GENERAL)).openapi()["paths"] if "{system_name}" in path
    ]
    assert len(paths) > 20
    assert [path for path in paths if not needs(path, scheduler_by_ssh=True)] == []


@pytest.mark.parametrize(
    ("route", "by_ssh", "by_rest"),
    [
        ("/compute/{system_name}/jobs", ("ssh", "scheduler"), ("scheduler",)),
        ("/status/{system_name}/nodes", ("ssh", "scheduler"), ("scheduler",)),
        ("/status/{system_name}/userinfo", ("ssh",), ("ssh",)),
        ("/filesystem/{system_name}/ops/ls", ("ssh",), ("ssh",)),
        ("/filesystem/{system_name}/transfer/cp", ("ssh", "scheduler"), ("ssh", "scheduler")),
        ("/status/systems", (), ()),
    ],
)
def test_needs(route: str, by_ssh: tuple[str, ...], by_rest: tuple[str, ...]) -> None:
    """Each route needs the services that do its work, and no others."""
    assert needs(route, scheduler_by_ssh=True) == by_ssh
    assert needs(route, scheduler_by_ssh=False) == by_rest
