"""The configuration is reloaded by SIGHUP: under load, with mistakes in it, and with what needs a restart."""

import json
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import yaml

from hpcgate.demo.cluster import Cluster, Gateway
from tests.faults.load import READS, Load, put_and_get
from tests.log_lines import settled


def events(gateway: Gateway, name: str) -> list[dict[str, Any]]:
    lines = [
        json.loads(line) for line in gateway.log.read_text().rpartition("\n")[0].splitlines() if line.startswith("{")
    ]
    return [line for line in lines if line["event"] == name]


def eventually(is_so: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def reload(gateway: Gateway, outcome: str = "config.reloaded") -> dict[str, Any]:
    """Ask for a reload; return the line of the log that tells how it went."""
    before = len(events(gateway, outcome))
    os.kill(gateway.pid, signal.SIGHUP)
    eventually(lambda: len(events(gateway, outcome)) > before)
    return events(gateway, outcome)[-1]


def change(path: Path, what: Callable[[dict[str, Any]], object]) -> None:
    settings = yaml.safe_load(path.read_text())
    what(settings)
    path.write_text(yaml.safe_dump(settings))


def _bear(clients: int, settings: dict[str, Any]) -> None:
    settings["clusters"][0]["ssh"].update(max_clients=clients)


def systems(cluster: Cluster, gateway: Gateway) -> list[str]:
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    answer = httpx.get(f"{gateway.url}/status/systems", headers=headers)
    assert answer.status_code == 200, answer.text
    return [system["name"] for system in answer.json()["systems"]]


def descriptors(gateway: Gateway) -> int:
    return len(os.listdir(f"/proc/{gateway.pid}/fd"))


def test_five_reloads_under_load_lose_nothing_and_leave_nothing(cluster: Cluster) -> None:
    config = cluster.write_gateway_config(
        cluster.directory / "reload.yaml",
        clusters=[cluster.cluster_settings("demo", ssh={"timeout": {"idle_timeout": 2}})],
    )
    gateway = cluster.start_gateway(config)
    eventually(lambda: httpx.get(f"{gateway.url}/status/readiness").status_code == 200)
    people = [cluster.user(role) for role in ("alice", "bob")]
    clients = [(cluster.token(one), str(one.home)) for _ in range(4) for one in people]
    at_rest = descriptors(gateway)
    with Load(gateway.url, clients, {**READS, "put_and_get": put_and_get}) as load:
        for number in range(5):
            load.go_on()
            change(config, partial(_bear, 50 + number))
            reload(gateway)
        load.go_on()
    assert not load.errors, load.summary()
    eventually(lambda: len(events(gateway, "config.old_gateway_closed")) == 5)
    # The connections of the gateway that serves go when they have been idle for long enough.
    eventually(lambda: descriptors(gateway) <= at_rest)
    assert "Traceback" not in gateway.log.read_text()
    gateway.stop()


def test_users_stay_connected_where_nothing_changed(cluster: Cluster) -> None:
    config = cluster.write_gateway_config(
        cluster.directory / "reload-part.yaml",
        clusters=[cluster.cluster_settings(name, probing={"services": None}) for name in ("demo", "other")],
    )
    gateway = cluster.start_gateway(config)
    alice, bob = map(cluster.user, ("alice", "bob"))
    clients = [(cluster.token(one), str(one.home)) for one in (alice, bob)]

    def logins(system: str) -> int:
        settled(gateway.url, gateway.log)
        return sum(line["system"] == system for line in events(gateway, "ssh.connect"))

    def ask(system: str) -> None:
        for token, home in clients:
            url = f"{gateway.url}/filesystem/{system}/ops/stat"
            answer = httpx.get(url, params={"path": home}, headers={"Authorization": f"Bearer {token}"}, timeout=300)
            assert answer.status_code == 200, answer.text

    def change_and_ask(what: Callable[[dict[str, Any]], object]) -> tuple[list[str], int, int]:
        change(config, what)
        line = reload(gateway)
        closed = len(events(gateway, "config.reloaded"))
        eventually(lambda: len(events(gateway, "config.old_gateway_closed")) == closed)
        ask("demo")
        ask("other")
        return line["unchanged"], logins("demo"), logins("other")

    ask("demo")
    ask("other")
    assert (logins("demo"), logins("other")) == (2, 2)
    with Load(gateway.url, clients, READS) as load:
        done = change_and_ask(lambda settings: settings["clusters"][1]["ssh"].update(max_clients=51))
        assert done == (["demo"], 2, 4)
        done = change_and_ask(lambda settings: settings.update(streams={"max_streams": 17}))
        assert done == (["demo", "other"], 2, 4)

        def other_key(settings: dict[str, Any]) -> None:
            keys = settings["ssh_credentials"]["keys"]
            keys["carol"] = keys[alice.name]

        # What was opened with a key must not outlive it, whosever it is.
        assert change_and_ask(other_key) == ([], 4, 6)
    assert not load.errors, load.summary()
    gateway.stop()


def test_a_request_under_way_ends_on_the_old_gateway(cluster: Cluster) -> None:
    alice = cluster.user("alice")
    content = os.urandom(64 * 1024 * 1024)
    (alice.home / "long").write_bytes(content)
    config = cluster.write_gateway_config(cluster.directory / "reload-long.yaml")
    gateway = cluster.start_gateway(config)
    headers = {"Authorization": f"Bearer {cluster.token(alice)}"}
    url = f"{gateway.url}/filesystem/demo/files/content"
    with httpx.stream("GET", url, params={"path": str(alice.home / "long")}, headers=headers) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_raw()
        received = [next(pieces)]
        change(config, lambda settings: settings["clusters"][0].update(name="renamed"))
        assert reload(gateway)["finishing"] == 1
        assert systems(cluster, gateway) == ["renamed"]
        time.sleep(0.5)
        assert not events(gateway, "config.old_gateway_closed")
        received += pieces
    assert b"".join(received) == content
    eventually(lambda: len(events(gateway, "config.old_gateway_closed")) == 1)
    gateway.stop()


def test_mistakes_change_nothing(cluster: Cluster) -> None:
    """A reload of a configuration with mistakes is refused, and the old one stays in force."""
    config = cluster.write_gateway_config(cluster.directory / "reload-bad.yaml")
    gateway = cluster.start_gateway(config)
    eventually(lambda: httpx.get(f"{gateway.url}/status/readiness").status_code == 200)
    good = config.read_text()
    change(config, lambda settings: settings["clusters"][0]["ssh"].update(prot=22, max_clients="many"))
    assert reload(gateway, "config.reload_refused")["mistakes"] == 2
    told = {(line["file"], line["key"]) for line in events(gateway, "config.mistake")}
    assert told == {(str(config), "clusters[0].ssh.prot"), (str(config), "clusters[0].ssh.max_clients")}
    assert systems(cluster, gateway) == ["demo"]
    config.write_text("{")
    reload(gateway, "config.reload_refused")
    config.unlink()
    reload(gateway, "config.reload_refused")
    assert systems(cluster, gateway) == ["demo"]
    # Without the IdP's keys the new gateway would be worth less than the old one.
    config.write_text(good)
    nobody = f"http://127.0.0.1:{cluster.take_port()}/jwks"
    change(config, lambda settings: settings["auth"]["authentication"].update(public_certs=[nobody], jwks_timeout=0.5))
    assert "public_certs" in reload(gateway, "config.reload_refused")["reason"]
    assert systems(cluster, gateway) == ["demo"]
    config.write_text(good)
    reload(gateway)
    assert systems(cluster, gateway) == ["demo"]
    gateway.stop()


def test_what_needs_a_restart_is_named(cluster: Cluster) -> None:
    config = cluster.write_gateway_config(cluster.directory / "reload-fixed.yaml")
    gateway = cluster.start_gateway(config)

    def other(settings: dict[str, Any]) -> None:
        settings["http"]["keep_alive"] = 17
        settings["logger"] = {"level": "debug"}
        settings["metrics"] = {"path": "/metrics"}
        settings["clusters"][0]["name"] = "renamed"

    change(config, other)
    reload(gateway, "config.restart_needed")
    assert events(gateway, "config.restart_needed")[0]["keys"] == ["http.keep_alive", "logger.level", "metrics.path"]
    assert systems(cluster, gateway) == ["renamed"]
    assert httpx.get(f"{gateway.url}/metrics").status_code == 404
    gateway.stop()


def test_stopping_while_it_reloads(cluster: Cluster) -> None:
    config = cluster.write_gateway_config(cluster.directory / "reload-stop.yaml")
    gateway = cluster.start_gateway(config)
    nobody = f"http://127.0.0.1:{cluster.take_port()}/jwks"
    change(config, lambda settings: settings["auth"]["authentication"].update(public_certs=[nobody]))
    os.kill(gateway.pid, signal.SIGHUP)
    time.sleep(0.5)
    os.kill(gateway.pid, signal.SIGTERM)
    eventually(lambda: not gateway.daemon.running)
    assert "Traceback" not in gateway.log.read_text()
