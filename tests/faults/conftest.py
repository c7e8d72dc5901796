"""A gateway before a login node of its own, with a network between that can fail, and patience of a few seconds."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.sshd import Sshd
from tests.faults.load import READS, Action, Load, put_and_get
from tests.faults.proxy import Proxy
from tests.faults.vitals import Vitals, vitals

PATIENCE = {"connection": 2, "login": 3, "command_execution": 3, "keep_alive": 1, "idle_timeout": 1.5}
PATIENT = PATIENCE | {"connection": 60, "login": 60, "command_execution": 60}
"""Of a gateway whose login node has no faults: only a busy machine is slow there."""


@dataclass(frozen=True, slots=True)
class Scene:
    """All that a fault needs."""

    cluster: Cluster
    sshd: Sshd
    proxy: Proxy
    gateway: Gateway
    long: bool = False

    def load(self, **actions: Action) -> Load:
        """Return the load of all users with four clients each."""
        return load(self.cluster, self.gateway, **actions)

    def quiet(self) -> Vitals:
        """Return what the gateway holds once it has served a load and nobody is connected any more."""
        return at_rest(self.gateway, self.load())


def load(cluster: Cluster, gateway: Gateway, **actions: Action) -> Load:
    """Return the load of all users with four clients each."""
    clients = [(cluster.token(one), str(one.home)) for one in cluster.users for _ in range(4)]
    return Load(gateway.url, clients, actions or dict(READS) | {"put_and_get": put_and_get}, pause=0.02)


def at_rest(gateway: Gateway, load: Load) -> Vitals:
    """Return what a gateway holds once it has served a load and nobody is connected any more."""
    with load:
        load.go_on()
    deadline = time.monotonic() + 120
    while vitals(gateway.url).connections:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(0.5)
    return vitals(gateway.url)


@pytest.fixture(scope="module")
def scene(cluster: Cluster) -> Iterator[Scene]:
    with started(cluster) as running:
        yield running


@contextmanager
def started(cluster: Cluster, *, long: bool = False, patience: Mapping[str, float] = PATIENCE) -> Iterator[Scene]:
    """Start a gateway and its login node, and end them."""
    sshd = cluster.start_sshd(max_sessions=10, max_startups="10:30:100")
    with Proxy(sshd.port) as proxy:
        ssh = {"port": proxy.port, "host_keys": [sshd.host_public_key], "timeout": patience}
        gateway = impatient(cluster, ssh)
        yield Scene(cluster, sshd, proxy, gateway, long)
        gateway.stop()
        sshd.stop()


def impatient(cluster: Cluster, ssh: Mapping[str, Any]) -> Gateway:
    """Start a gateway that waits for nothing for longer than a few seconds."""
    config = cluster.write_gateway_config(
        cluster.directory / "faults.yaml",
        clusters=[cluster.cluster_settings(ssh={"timeout": PATIENCE, **ssh}, probing=None, scheduler={"timeout": 5})],
        metrics={"path": "/metrics"},
        http={"keep_alive": 2, "drain": 0, "send_timeout": 3},
        streams={"stall_timeout": 2},
        logger={"access_log": False},
    )
    return cluster.start_gateway(config)


@pytest.fixture(scope="module")
def before(scene: Scene) -> Vitals:
    """What the gateway holds at rest, after a first load."""
    return scene.quiet()
