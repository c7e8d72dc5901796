"""The login node fails under load: what is under way may fail, with an answer; all is well again after it."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.keeper import descendants
from tests.faults.conftest import Scene, at_rest, impatient, load
from tests.faults.link import Link
from tests.faults.load import Load, Outcome
from tests.faults.vitals import Vitals, comes_back

Fault = Callable[[Scene], None]


def restarted(scene: Scene) -> None:
    scene.sshd.restart()


def sessions_killed(scene: Scene) -> None:
    for pid in descendants(scene.sshd.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def connections_cut(scene: Scene) -> None:
    scene.proxy.cut()


def frozen(scene: Scene) -> None:
    scene.sshd.daemon.suspend()
    time.sleep(3)
    scene.sshd.daemon.resume()


def frozen_for_ever(scene: Scene) -> None:
    scene.sshd.daemon.suspend()
    time.sleep(6)
    scene.sshd.daemon.kill()
    scene.sshd.start()


def packets_dropped(scene: Scene) -> None:
    scene.proxy.silence()
    time.sleep(5)
    scene.proxy.heal()


def cut_off(outcome: Outcome) -> bool:
    return outcome.action == "put_and_get" and (outcome.error or "").startswith("ClientPayloadError")


@pytest.mark.parametrize(
    "fault", [restarted, sessions_killed, connections_cut, frozen, frozen_for_ever, packets_dropped]
)
def test_a_login_node_fails_and_comes_back(scene: Scene, before: Vitals, fault: Fault) -> None:
    survives(scene.gateway, scene.load(), before, lambda: fault(scene), fault.__name__)


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace takes the rights of root")
def test_the_kernel_drops_every_packet(cluster: Cluster) -> None:
    """As `packets_dropped`, but below TCP: what was sent is sent again and again, and nobody hears."""
    with Link(cluster) as link:
        ssh = {"host": link.host, "port": link.port, "host_keys": [link.host_public_key]}
        gateway = impatient(cluster, ssh)
        try:
            before = at_rest(gateway, load(cluster, gateway))

            def fault() -> None:
                link.drop()
                time.sleep(5)
                link.heal()

            survives(gateway, load(cluster, gateway), before, fault, "dropped by the kernel")
        finally:
            gateway.stop()


def survives(gateway: Gateway, load: Load, before: Vitals, fault: Callable[[], None], name: str) -> None:
    """Have a fault happen under load, and look at what became of the requests and of the gateway."""
    with load:
        load.go_well()
        fault()
        load.go_well()
    print(name, dict(load.summary()))
    # Each request was answered before its client gave up, and by a status that tells whose fault it was: 408 and 424
    # are FirecREST's for time-outs and for what went wrong with the login node.
    # A download that has begun can only be cut off, so that it does not pass for a whole one.
    refused = [outcome for outcome in load.errors if not cut_off(outcome)]
    assert {outcome.status for outcome in refused} <= {408, 424, 503}, dict(load.summary())
    comes_back(gateway.url, before)
