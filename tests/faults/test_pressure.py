"""The pool under pressure, from the outside: few channels, few connections, and one user who asks for very much."""

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.users import User
from tests.faults.test_overload import PATIENCE, SLOW, sent, where
from tests.faults.vitals import GIVE_UP, eventually, vitals
from tests.log_lines import settled

CROWD = 500


@pytest.mark.parametrize("max_sessions", [10, 1])
def test_a_hundred_requests_of_one_user_at_a_time(cluster: Cluster, max_sessions: int) -> None:
    alice = cluster.user("alice")
    sshd = cluster.start_sshd(max_sessions=max_sessions, max_startups="10:30:100")
    # They wait for channels; that a busy machine would shed some of them is another matter.
    config = cluster.write_gateway_config(
        cluster.directory / "few-channels.yaml",
        http={"max_delay": PATIENCE},
        clusters=[cluster.cluster_settings(sshd=sshd, probing=None, ssh={"timeout": SLOW})],
        metrics={"path": "/metrics"},
    )
    gateway = cluster.start_gateway(config)
    try:
        outcomes = asyncio.run(a_hundred(cluster, gateway, alice, max_sessions))
        # Reads and writes, by the helper, by SFTP and by commands: all of them went well, on one connection.
        assert outcomes == {200: 75, 201: 25}, outcomes
        assert settled(gateway.url, gateway.log).count('"ssh.connect"') == 1
        assert vitals(gateway.url).waiting == 0
    finally:
        gateway.stop()
        sshd.stop()


async def a_hundred(cluster: Cluster, gateway: Gateway, user: User, max_sessions: int) -> Counter[int]:
    headers = {"Authorization": f"Bearer {cluster.token(user)}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=PATIENCE, limits=limits) as client:

        async def ask(number: int) -> int:
            operations = "/filesystem/demo/ops"
            home = str(user.home)
            match number % 4:
                case 0:
                    answer = await client.get(f"{operations}/stat", params={"path": home})
                case 1:
                    answer = await client.get(f"{operations}/checksum", params={"path": "/etc/passwd"})
                case 2:
                    answer = await client.get(f"{operations}/tail", params={"path": "/etc/passwd"})
                case _:
                    what = {"path": f"{home}/pressure-{max_sessions}/{number}", "parent": True}
                    answer = await client.post(f"{operations}/mkdir", json=what)
            return answer.status_code

        return Counter(await asyncio.gather(*map(ask, range(100))))


def test_more_users_than_connections(cluster: Cluster) -> None:
    alice, bob = (cluster.user(role) for role in ("alice", "bob"))
    config = cluster.write_gateway_config(
        cluster.directory / "one-connection.yaml",
        clusters=[cluster.cluster_settings(ssh={"max_clients": 1, "pool_wait": 1, "timeout": SLOW}, probing=None)],
        metrics={"path": "/metrics"},
    )
    gateway = cluster.start_gateway(config)
    cluster.as_user(alice, ["truncate", "--size=200M", "held"])

    def ask(user: User, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {cluster.token(user)}"}
        where = {"path": str(user.home)}
        return httpx.get(
            f"{gateway.url}/filesystem/demo/ops/stat", params=where, headers=headers, timeout=300, **options
        )

    try:
        # One who is connected and asks for nothing makes room at once.
        assert [ask(user).status_code for user in (alice, bob, alice)] == [200] * 3
        where = {"path": f"{alice.home}/held"}
        headers = {"Authorization": f"Bearer {cluster.token(alice)}"}
        with httpx.stream(
            "GET", f"{gateway.url}/filesystem/demo/files/content", params=where, headers=headers, timeout=300
        ) as held:
            assert held.status_code == 200
            began = time.monotonic()
            refused = ask(bob)
            assert time.monotonic() - began >= 1
            assert refused.status_code == 503
            assert refused.headers["Retry-After"] == "1"
            # Alice's own requests share her connection.
            assert ask(alice).status_code == 200
            assert vitals(gateway.url).connections == 1
        eventually(lambda: ask(bob).status_code == 200, GIVE_UP)
        assert vitals(gateway.url).connections == 1
    finally:
        gateway.stop()


def test_single_requests_of_one_user_are_served_beside_five_hundred_of_another(cluster: Cluster) -> None:
    """That they wait for none but a few of those: tests/server/test_waiting_costs.py. In seconds:
    benchmarks/throughput.py."""
    alice, bob = (cluster.user(role) for role in ("alice", "bob"))
    for user in (alice, bob):
        # Lists of this length are what the gateway itself has most to do with.
        cluster.as_user(user, ["sh", "-c", "mkdir -p many && cd many && seq 200 | xargs touch"])
    gateway = cluster.start_gateway(
        cluster.write_gateway_config(
            cluster.directory / "shared.yaml",
            clusters=[cluster.cluster_settings(ssh={"timeout": SLOW})],
            http={"max_delay": PATIENCE},
        )
    )

    def ask() -> int:
        where = {"path": f"{bob.home}/many"}
        headers = {"Authorization": f"Bearer {cluster.token(bob)}"}
        url = f"{gateway.url}/filesystem/demo/ops/ls"
        return httpx.get(url, params=where, headers=headers, timeout=PATIENCE).status_code

    try:
        with ThreadPoolExecutor() as pool:
            asked = where(cluster, gateway, [alice], "ls")
            crowd = pool.submit(sent, **asked, connections=CROWD, rate=2 * CROWD, seconds=1, patience=PATIENCE)
            beside = [ask()]
            while not crowd.done():
                beside.append(ask())
            found = crowd.result()
        assert set(beside) == {200}
        assert set(found["statuses"]) == {"200"}, found
        assert (found["broken"], found["unanswered"]) == (0, 0)
    finally:
        gateway.stop()
