"""Twenty users at once, while connections break and certificates end: nobody sees or acts as anybody else."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hpcgate.demo.cluster import Cluster, Gateway, Options
from hpcgate.demo.slurm import SlurmOptions
from hpcgate.demo.sshd import Sshd
from hpcgate.demo.users import User

from .key_service import KeyService

USERS = 20
CLIENTS_EACH = 3
SECONDS = 15
LIFETIME = 33
"""Seconds of a certificate: it is renewed 30 s before its end, so each is kept for 3 s."""
MAY_FAIL = {424, 429, 503}
"""What a request may be told whose connection was cut under it, or for which no login was free."""


@dataclass(frozen=True, slots=True)
class Site:
    """The cluster, its login node, the gateway, and the service that makes keys."""

    cluster: Cluster
    sshd: Sshd
    gateway: Gateway
    service: KeyService


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    roles = tuple(f"user{number}" for number in range(USERS))
    options = Options(roles=roles, slurm=SlurmOptions(accounting=False, nodes=1))
    with Cluster(options) as cluster, KeyService(cluster.authority.private_text(), LIFETIME) as service:
        sshd = cluster.start_sshd(static_keys=False)
        systems = [
            cluster.cluster_settings("demo", sshd=sshd),
            cluster.cluster_settings("commands", sshd=sshd, ssh={"files": "commands"}),
        ]
        settings = {"type": "SSHService", "url": service.url, "keys": None}
        path = cluster.directory / "cross-user.yaml"
        gateway = cluster.start_gateway(cluster.write_gateway_config(path, clusters=systems, ssh_credentials=settings))
        for user in cluster.users:
            cluster.as_user(user, ["sh", "-c", 'umask 077; printf %s "$USER" > secret'])
        yield Site(cluster, sshd, gateway, service)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def _cut(site: Site, until: float) -> int:
    """Kill the sshd processes of some connections again and again, and return how many."""
    cut = 0
    while time.monotonic() < until:
        await asyncio.sleep(0.7)
        for child in _children(site.sshd.pid)[::4]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
                cut += 1
    return cut


async def _client(site: Site, user: User, until: float, seen: Counter[str], wrong: list[str]) -> None:
    home, other = str(user.home), str(site.cluster.users[(site.cluster.users.index(user) + 1) % USERS].home)
    token = await asyncio.to_thread(site.cluster.token, user)
    asks: list[tuple[str, str, dict[str, str]]] = [
        ("stat", "/ops/stat", {"path": f"{home}/secret"}),
        ("view", "/ops/view", {"path": f"{home}/secret"}),
        ("download", "/ops/download", {"path": f"{home}/secret"}),
        ("ls", "/ops/ls", {"path": home}),
        ("checksum", "/ops/checksum", {"path": f"{home}/secret"}),
        ("other", "/ops/view", {"path": f"{other}/secret"}),
    ]
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http:
        while time.monotonic() < until:
            for system in ("demo", "commands"):
                url = f"{site.gateway.url}/status/{system}/userinfo"
                async with http.get(url) as answer:
                    _judge("userinfo", user, answer.status, await answer.json(), seen, wrong)
                for kind, path, query in asks:
                    async with http.get(f"{site.gateway.url}/filesystem/{system}{path}", params=query) as answer:
                        found = await answer.text() if kind == "download" else await answer.json()
                        assert answer.headers.get("F7T-AuthUsername") == user.name
                        _judge(kind, user, answer.status, found, seen, wrong)


def _judge(kind: str, user: User, status: int, found: Any, seen: Counter[str], wrong: list[str]) -> None:
    if status in MAY_FAIL:
        seen["failed"] += 1
        return
    if kind == "other":
        right = status == 403
    elif status != 200:
        right = False
    elif kind == "userinfo":
        right = found["user"] == {"id": str(user.uid), "name": user.name}
    elif kind == "stat":
        right = found["output"]["uid"] == user.uid
    elif kind == "view":
        right = found["output"] == user.name
    elif kind == "download":
        right = found == user.name
    elif kind == "ls":
        right = {entry["user"] for entry in found["output"]} == {user.name}
    else:
        right = len(found["output"]["checksum"]) == 64
    seen[kind] += 1
    if not right:
        wrong.append(f"{kind} of {user.name}: {status} {str(found)[:300]}")


async def test_nobody_gets_what_is_anothers(site: Site) -> None:
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    until = time.monotonic() + SECONDS
    cutting = asyncio.create_task(_cut(site, until))
    await asyncio.gather(
        *(_client(site, user, until, seen, wrong) for user in site.cluster.users for _ in range(CLIENTS_EACH))
    )
    assert wrong == []
    assert await cutting > 10
    assert min(seen[kind] for kind in ("stat", "view", "download", "ls", "checksum", "other", "userinfo")) > USERS
    assert sum(seen.values()) > 10 * seen["failed"]
    # Certificates have ended meanwhile, and each user got new ones.
    assert min(site.service.issued[user.name] for user in site.cluster.users) >= 2
