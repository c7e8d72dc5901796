"""SIGTERM under load, with no proxy before the gateway: what was accepted is answered."""

import asyncio
import os
import random
import signal
from collections import Counter

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.users import User
from tests.faults.vitals import eventually

CLIENTS = 24
ANSWERS = 5
"""For each client, before the gateway is told to stop."""


class Clients:
    """Ask until nobody takes connections any more, and count what became of each request."""

    def __init__(self, cluster: Cluster, gateway: Gateway) -> None:
        self.fates: Counter[str] = Counter()
        self.gateway = gateway
        self._people = [(user, cluster.token(user)) for user in map(cluster.user, ("alice", "bob"))]

    async def run(self) -> None:
        """Let all of them ask, and have the gateway stop meanwhile."""
        async with asyncio.timeout(200), asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                # Half of them keep their connections, the others make one for each request.
                group.create_task(self._client(*self._people[number % 2], number, kept=number % 4 < 2))
            # However fast the machine is: until all of them are well under way.
            while self.fates["ok"] <= ANSWERS * CLIENTS and set(self.fates) <= {"ok", "refused"}:
                await asyncio.sleep(0.05)
            assert self.fates.total() == self.fates["ok"], self.fates
            os.kill(self.gateway.pid, signal.SIGTERM)

    async def _client(self, user: User, token: str, number: int, *, kept: bool) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        limits = httpx.Limits(max_keepalive_connections=None if kept else 0)
        async with httpx.AsyncClient(
            base_url=self.gateway.url, headers=headers, timeout=200, limits=limits, trust_env=False
        ) as client:
            while self.fates["refused"] < CLIENTS:
                try:
                    answer = await self._ask(client, user, number)
                except httpx.ConnectError:
                    # Nothing was accepted, so nothing is lost.
                    self.fates["refused"] += 1
                    return
                except httpx.TransportError as error:
                    self.fates[f"lost: {error!r}"] += 1
                    continue
                self.fates["ok" if answer.is_success else f"{answer.status_code}: {answer.text}"] += 1

    async def _ask(self, client: httpx.AsyncClient, user: User, number: int) -> httpx.Response:
        operations = "/filesystem/demo/ops"
        match random.randrange(4):
            case 0:
                return await client.get(f"{operations}/stat", params={"path": str(user.home)})
            case 1:
                return await client.get(f"{operations}/checksum", params={"path": f"{user.home}/stopping"})
            case 2:
                files = {"file": (f"stopping-{number}", os.urandom(50_000))}
                return await client.post(f"{operations}/upload", params={"path": str(user.home)}, files=files)
            case _:
                return await client.get("/compute/demo/jobs")


@pytest.mark.parametrize("drain", [0, 2])
def test_no_request_that_was_accepted_is_lost(cluster: Cluster, drain: int) -> None:
    config = cluster.write_gateway_config(
        cluster.directory / "stopping.yaml", http={"drain": drain}, streams={"max_streams_per_user": 50}
    )
    gateway = cluster.start_gateway(config)
    try:
        for role in ("alice", "bob"):
            cluster.as_user(cluster.user(role), ["touch", "stopping"])
        # Without a load balancer that asks there is none to wait for.
        assert httpx.get(f"{gateway.url}/status/readiness").status_code == 200
        clients = Clients(cluster, gateway)
        asyncio.run(clients.run())
        assert set(clients.fates) == {"ok", "refused"}, clients.fates
        assert clients.fates["refused"] == CLIENTS
        assert clients.fates["ok"] > ANSWERS * CLIENTS
        eventually(lambda: not gateway.daemon.running, 120)
        log = gateway.log.read_text()
        assert '"server.draining"' in log
        assert '"server.requests_cut_off"' not in log
        assert "Traceback" not in log
    finally:
        gateway.stop()
