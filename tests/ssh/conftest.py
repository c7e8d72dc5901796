"""Real login nodes for the tests of the SSH layer."""

from __future__ import annotations

import asyncio
import time
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
    deadline = time.monotonic() + 120
    # Servers that a test has made itself may still be about to end.
    while left := (asyncio.all_tasks() - tasks - {asyncio.current_task()}) or connections() - sockets:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.01)
