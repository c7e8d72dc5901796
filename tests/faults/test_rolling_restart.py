"""Two replicas behind a proxy are restarted one after the other, under load: nobody notices."""

import os
import signal
import time
from collections import Counter

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from tests.deploy.proxies import KINDS, start_proxy
from tests.faults.load import READS, Load, put_and_get
from tests.log_lines import settled


def restart_softly(gateway: Gateway) -> None:
    """Restart as an orchestrator does: SIGTERM, wait for the end, start anew."""
    os.kill(gateway.pid, signal.SIGTERM)
    deadline = time.monotonic() + 120
    while gateway.daemon.running:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    gateway.daemon.start()
    while httpx.get(f"{gateway.url}/status/readiness").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def found_again(gateway: Gateway) -> None:
    """Wait until the proxy has sent it a user's request since its last start."""
    deadline = time.monotonic() + 120
    while '"ssh.connect"' not in gateway.daemon.output():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rolling_restart_under_load_loses_nothing(cluster: Cluster, kind: str) -> None:
    # Without probes, which would log in too.
    systems = [cluster.cluster_settings(probing=None)]
    config = cluster.write_gateway_config(cluster.directory / "replicas.yaml", clusters=systems, http={"drain": 3})
    gateways = [cluster.start_gateway(config) for _ in range(2)]
    proxy = start_proxy(kind, cluster, gateways)
    people = [cluster.user(role) for role in ("alice", "bob")]
    clients = [(cluster.token(one), str(one.home)) for _ in range(6) for one in people]
    try:
        actions = dict(READS) | {"put_and_get": put_and_get}
        with Load(proxy.url, clients, actions, pause=0.2, trust=proxy.trust) as load:
            load.go_on()
            for gateway in gateways:
                restart_softly(gateway)
                found_again(gateway)
                load.go_on()
        assert not load.errors, Counter(outcome.error for outcome in load.errors)
        for gateway in gateways:
            assert '"ssh.connect"' in settled(gateway.url, gateway.log)
    finally:
        proxy.daemon.stop()
        for gateway in gateways:
            gateway.stop()
