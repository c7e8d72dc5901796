"""Real login nodes for the tests of the SSH layer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from hpcgate.credentials.base import CredentialSource
from hpcgate.demo.sshd import Sshd
from hpcgate.ssh.pool import Pool
from hpcgate.telemetry.base import SILENT, Telemetry
from tests.ssh.nodes import LoginNodes, connections, login_nodes, settings

MakePool = Callable[..., Pool]


@pytest.fixture(scope="session")
def nodes() -> Iterator[LoginNodes]:
    with login_nodes() as nodes:
        yield nodes


@pytest.fixture(scope="session")
def sshd(nodes: LoginNodes) -> Sshd:
    """A login node that no test stops or freezes."""
    return nodes.start(match_extra="")


@pytest.fixture
async def make_pool(nodes: LoginNodes) -> AsyncIterator[MakePool]:
    """Make pools; at the end each is closed, and no task and no connection may be left."""
    tasks, sockets = asyncio.all_tasks(), connections()
    pools: list[Pool] = []

    def make(
        sshd: Sshd, credentials: CredentialSource | None = None, telemetry: Telemetry = SILENT, **changes: Any
    ) -> Pool:
        pool = Pool("demo", settings(sshd, **changes), credentials or nodes.keys(), telemetry)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        await pool.close()
        assert pool.stats.connections == 0
        assert pool.stats.channels == 0
    await asyncio.sleep(0.01)
    left = asyncio.all_tasks() - tasks - {asyncio.current_task()}
    assert {task for task in left if not task.done()} == set()
    assert connections() - sockets == set()
