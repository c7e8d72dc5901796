"""Twenty users at once, while connections break and certificates end: nobody sees or acts as anybody else."""

import asyncio
import contextlib
import itertools
import os
import signal
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
ANSWERS_A_CUT = 200
"""Right answers between two cuts: however slow the machine, there is progress between them."""
CUTS = 20
"""Connections that are cut before answers begin to count."""
ANSWERS_EACH = 2
"""Right answers of every kind from every system that each user must have had after that."""
WATCHDOG = 240
"""Seconds after which the test gives up. Nothing else in it depends on the machine's speed."""
LIFETIME = 33
"""Seconds of a certificate: it is renewed 30 s before its end, so each is kept for 3 s."""
MAY_FAIL = {424, 429, 503}
"""What a request may be told whose connection was cut under it, or for which no login was free."""
SYSTEMS = ("demo", "commands")
KINDS = ("userinfo", "stat", "view", "download", "ls", "checksum", "other")


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
    options = Options(roles=roles, slurm=SlurmOptions(accounting=False, nodes=1), patience=60)
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


class Record:
    """What all clients were told, and whether that is enough."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.cuts = 0
        self.right = 0
        self.wrong: list[str] = []
        self.after_cuts: Counter[tuple[str, str, str]] = Counter()
        """Right answers of a user, system and kind since there were enough cuts."""

    def missing(self) -> list[object]:
        """Return what has not happened often enough yet; the clients go on until nothing is left."""
        names = [user.name for user in self.site.cluster.users]
        wanted = itertools.product(names, SYSTEMS, KINDS)
        answers = [one for one in wanted if self.after_cuts[one] < ANSWERS_EACH]
        # Certificates must have ended meanwhile, and each user must have got new ones.
        certificates = [("certificates", name) for name in names if self.site.service.issued[name] < 2]
        return [*answers, *certificates]

    def add(self, user: User, system: str, kind: str, status: int, found: Any) -> None:
        """Judge an answer, and cut connections when enough right ones came since the last cut."""
        if status in MAY_FAIL:
            return
        if not _is_right(kind, user, status, found):
            self.wrong.append(f"{kind} of {user.name} on {system}: {status} {str(found)[:300]}")
            return
        self.right += 1
        if self.cuts >= CUTS:
            self.after_cuts[user.name, system, kind] += 1
        if self.right % ANSWERS_A_CUT == 0:
            self._cut()

    def _cut(self) -> None:
        """Kill a quarter of the sshd processes that serve connections, another quarter each time."""
        for child in _children(self.site.sshd.pid)[self.right // ANSWERS_A_CUT % 4 :: 4]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
                self.cuts += 1


async def _client(site: Site, user: User, record: Record) -> None:
    home, other = str(user.home), str(site.cluster.users[(site.cluster.users.index(user) + 1) % USERS].home)
    token = await asyncio.to_thread(site.cluster.token, user)
    asks: list[tuple[str, str, dict[str, str]]] = [
        ("userinfo", "/status/{}/userinfo", {}),
        ("stat", "/filesystem/{}/ops/stat", {"path": f"{home}/secret"}),
        ("view", "/filesystem/{}/ops/view", {"path": f"{home}/secret"}),
        ("download", "/filesystem/{}/ops/download", {"path": f"{home}/secret"}),
        ("ls", "/filesystem/{}/ops/ls", {"path": home}),
        ("checksum", "/filesystem/{}/ops/checksum", {"path": f"{home}/secret"}),
        ("other", "/filesystem/{}/ops/view", {"path": f"{other}/secret"}),
    ]
    assert {kind for kind, _, _ in asks} == set(KINDS)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http:
        while record.missing() and not record.wrong:
            for system, (kind, path, query) in itertools.product(SYSTEMS, asks):
                async with http.get(f"{site.gateway.url}{path.format(system)}", params=query) as answer:
                    found = await answer.text() if kind == "download" else await answer.json()
                    assert answer.headers.get("F7T-AuthUsername") == user.name
                    record.add(user, system, kind, answer.status, found)


def _is_right(kind: str, user: User, status: int, found: Any) -> bool:
    if kind == "other":
        return status == 403
    if status != 200:
        return False
    if kind == "userinfo":
        return bool(found["user"] == {"id": str(user.uid), "name": user.name})
    if kind == "stat":
        return bool(found["output"]["uid"] == user.uid)
    if kind == "view":
        return bool(found["output"] == user.name)
    if kind == "download":
        return bool(found == user.name)
    if kind == "ls":
        return {entry["user"] for entry in found["output"]} == {user.name}
    return len(found["output"]["checksum"]) == 64


@pytest.mark.timeout(WATCHDOG + 120)
async def test_nobody_gets_what_is_anothers(site: Site) -> None:
    record = Record(site)
    try:
        async with asyncio.timeout(WATCHDOG), asyncio.TaskGroup() as clients:
            for user in site.cluster.users * CLIENTS_EACH:
                clients.create_task(_client(site, user, record))
    except TimeoutError:
        pytest.fail(f"after {record.right} right answers and {record.cuts} cuts: {record.missing()[:20]} still missing")
    assert record.wrong == []
