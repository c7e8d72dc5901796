"""What is around the gateway fails under load: Slurm, disks, the identity provider, clients, its own descriptors."""

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from hpcgate.demo.cluster import Cluster
from tests.attack.key_service import KeyService
from tests.faults.conftest import PATIENCE, PATIENT, Scene, at_rest, load, started
from tests.faults.load import READS, Client, Load, Wrong, jobs, put_and_get, stat
from tests.faults.vitals import GIVE_UP, Vitals, comes_back, eventually, vitals
from tests.log_lines import settled


@pytest.fixture(scope="module")
def scene(cluster: Cluster) -> Iterator[Scene]:
    """The login node is sound here, and what it takes its time for is no fault of it."""
    with started(cluster, patience=PATIENT) as running:
        yield running


def test_slurm_is_restarted(scene: Scene, before: Vitals) -> None:
    """Only requests for jobs fail while Slurm is restarted, and they recover."""
    with scene.load(jobs=jobs, stat=stat) as load:
        load.go_on()
        scene.cluster.slurm.slurmctld.stop()
        try:
            load.go_on()
        finally:
            scene.cluster.slurm.slurmctld.start()
        load.go_well(3, action="jobs")
    # The history is read from slurmdbd meanwhile, and files have nothing to do with Slurm.
    assert {one.action for one in load.errors} <= {"jobs"}, dict(load.summary())
    assert {one.status for one in load.errors} <= {408, 424, 503}, dict(load.summary())
    comes_back(scene.gateway.url, before)


def test_the_disk_is_full(scene: Scene, before: Vitals) -> None:
    alice = scene.cluster.user("alice")
    disk = scene.cluster.mount_tmpfs("1M", user=alice)
    filler = disk / "filler"
    with Load(scene.gateway.url, [(scene.cluster.token(alice), str(disk))] * 4, {"put_and_get": put_and_get}) as load:
        load.go_on(20)
        assert not load.errors
        # What an upload under way gives back is taken too, or there would be room for the next ones.
        with filler.open("wb", buffering=0) as fill:
            full = time.monotonic()
            while len(load.errors) < 20:
                assert time.monotonic() < full + GIVE_UP, dict(load.summary())
                with contextlib.suppress(OSError):
                    fill.write(bytes(4096))
                    continue
                time.sleep(0.01)
        filler.unlink()
        load.go_well(5)
    assert {one.status for one in load.errors} == {507}, dict(load.summary())
    # Each file is whole, and nothing half-written is left.
    assert sorted(path.name for path in disk.iterdir()) == [f"faults-{number}" for number in range(4)]
    assert {path.stat().st_size for path in disk.iterdir()} == {100_000}
    comes_back(scene.gateway.url, before)


def test_the_identity_provider_is_down(scene: Scene, before: Vitals) -> None:
    load = scene.load()
    scene.cluster.idp.stop()
    try:
        with load:
            load.go_on(200)
        assert not load.errors
        assert httpx.get(f"{scene.gateway.url}/status/readiness").status_code == 200
    finally:
        scene.cluster.idp.start()
    comes_back(scene.gateway.url, before)


def test_certificates_expire_while_they_are_used(cluster: Cluster) -> None:
    lifetime = 8
    sshd = cluster.start_sshd(static_keys=False, max_startups="10:30:100")
    people = [cluster.user(role) for role in ("alice", "bob")]
    for user in people:
        cluster.as_user(user, ["truncate", "--size=20M", "outlasting"])
    with KeyService(cluster.authority.private_text(), lifetime=lifetime) as service:
        config = cluster.write_gateway_config(
            cluster.directory / "short-lived.yaml",
            clusters=[cluster.cluster_settings(sshd=sshd, ssh={"timeout": PATIENT}, probing=None)],
            ssh_credentials={"type": "SSHService", "url": service.url, "keys": None},
            metrics={"path": "/metrics"},
            http={"keep_alive": 2, "drain": 0},
        )
        gateway = cluster.start_gateway(config)
        try:
            before = at_rest(gateway, load(cluster, gateway))
            earlier = service.issued[people[0].name]
            with load(cluster, gateway, stat=stat, put_and_get=put_and_get, slowly=slowly) as busy:
                # Each logs in again and again.
                eventually(lambda: service.issued[people[0].name] >= earlier + 3, GIVE_UP)
                eventually(lambda: busy.summary()["slowly: ok"] > 5, GIVE_UP)
            assert not busy.errors, dict(busy.summary())
            assert '"why": "expired"' in settled(gateway.url, gateway.log)
            comes_back(gateway.url, before)
        finally:
            gateway.stop()
            sshd.stop()


async def slowly(client: Client) -> None:
    """Take a second and more over a download, so that some last longer than the certificate."""
    where = f"{client.base}/filesystem/{client.system}/files/content"
    taken = 0
    async with client.http.get(where, params={"path": f"{client.home}/outlasting"}) as answer:
        async for block in answer.content.iter_chunked(2_000_000):
            taken += len(block)
            await asyncio.sleep(0.1)
    if answer.status != 200 or taken != 20 * 1024 * 1024:
        raise Wrong(answer.status, f"{taken} bytes of 20 MiB")


async def download(client: Client) -> None:
    """Ask for more than an answer may have."""
    try:
        await client.operate("download", path=f"{client.home}/large")
    except Wrong as wrong:
        if wrong.status != 413:
            raise
    else:
        raise Wrong(200, "more than the limit")


def test_answers_over_the_limit(scene: Scene, before: Vitals) -> None:
    for role in ("alice", "bob"):
        scene.cluster.as_user(scene.cluster.user(role), ["truncate", "--size=200M", "large"])
    with scene.load(**READS, download=download) as load:
        eventually(lambda: load.summary()["download: ok"] > 5, GIVE_UP)
    assert not load.errors, dict(load.summary())
    comes_back(scene.gateway.url, before)


def test_clients_that_never_read(scene: Scene, before: Vitals) -> None:
    alice = scene.cluster.user("alice")
    scene.cluster.as_user(alice, ["truncate", "--size=200M", "large"])
    where = urlsplit(scene.gateway.url)
    request = (
        f"GET /filesystem/demo/files/content?path={alice.home}/large HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {scene.cluster.token(alice)}\r\n\r\n"
    ).encode()
    # What the load takes by itself is not theirs.
    with scene.load() as load:
        load.go_on()
        alone = vitals(scene.gateway.url).memory
    deaf = []
    for _ in range(3):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((where.hostname, where.port))
        sock.sendall(request)
        deaf.append(sock)
    try:
        with scene.load() as load:
            load.go_on()
            assert vitals(scene.gateway.url).memory < max(alone, before.memory) + 60e6
            # They may hold their streams for `stall_timeout`, and no longer.
            eventually(lambda: streams_of_the_deaf_have_ended(scene.gateway.url), GIVE_UP)
        assert not load.errors, dict(load.summary())
        comes_back(scene.gateway.url, before)
    finally:
        for sock in deaf:
            sock.close()


def streams_of_the_deaf_have_ended(url: str) -> bool:
    text = httpx.get(f"{url}/metrics").text
    line = next(line for line in text.splitlines() if line.startswith("hpcgate_streams "))
    # Those of the load, which are short, go on.
    return float(line.split()[1]) <= 4


def test_out_of_descriptors(scene: Scene, before: Vitals) -> None:
    """More clients than there are descriptors: who has a connection is served, the others are once there are some."""
    pid = scene.gateway.pid
    where = urlsplit(scene.gateway.url)
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (before.descriptors + 25, usual[1]))
    crowd: list[socket.socket] = []
    try:
        with scene.load() as load:
            load.go_on()
            crowd += [socket.create_connection((where.hostname, where.port)) for _ in range(100)]
            time.sleep(1)
            for sock in crowd:
                sock.close()
            load.go_well()
        # Connections that could be made were not given up.
        assert {one.status for one in load.errors} <= {0, 408, 424, 503}, dict(load.summary())
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        for sock in crowd:
            sock.close()
    comes_back(scene.gateway.url, before)


def test_one_login_node_of_two_freezes(cluster: Cluster) -> None:
    sshds = [cluster.start_sshd(), cluster.start_sshd()]
    config = cluster.write_gateway_config(
        cluster.directory / "two-nodes.yaml",
        clusters=[
            cluster.cluster_settings(
                ssh={
                    "host": [f"{one.host}:{one.port}" for one in sshds],
                    "host_keys": [one.host_public_key for one in sshds],
                    "timeout": PATIENCE,
                },
                probing=None,
            )
        ],
        metrics={"path": "/metrics"},
        http={"keep_alive": 2, "drain": 0},
        logger={"access_log": False},
    )
    gateway = cluster.start_gateway(config)
    clients = [(cluster.token(one), str(one.home)) for one in map(cluster.user, ("alice", "bob")) for _ in range(4)]
    try:
        before = at_rest(gateway, Load(gateway.url, clients, READS, pause=0.02))
        with Load(gateway.url, clients, READS, pause=0.02) as load:
            load.go_well()
            alice = cluster.user("alice").name
            used = next(one for one in sshds if f"Accepted publickey for {alice} " in one.daemon.log.read_text())
            used.daemon.suspend()
            frozen = time.monotonic()
            load.go_well()
        assert {one.status for one in load.errors if one.began > frozen - 4} <= {408, 424, 503}
        # It holds nothing of the node that is frozen still.
        comes_back(gateway.url, before)
    finally:
        for one in sshds:
            one.daemon.resume()
        gateway.stop()
        for one in sshds:
            one.stop()
