"""Health checks and maintenance on real parts: killed, found, refused, started again, served at once."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.slurm import Slurm
from hpcgate.demo.sshd import Sshd
from tests.transfers.object_store import ObjectStore

PATIENCE = 120.0
"""Seconds; a round comes every second, and a probe of a dead service ends at once or after five."""
INTERVAL = 1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("s3") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def sshd(cluster: Cluster, plain: tuple[Slurm, Sshd]) -> Sshd:
    """A login node that may be stopped."""
    return cluster.start_sshd(slurm=plain[0])


@pytest.fixture(scope="module")
def state(cluster: Cluster) -> Path:
    return cluster.directory / "gateway-state"


@pytest.fixture(scope="module")
def config(cluster: Cluster, plain: tuple[Slurm, Sshd], sshd: Sshd, store: ObjectStore, state: Path) -> Path:
    missing = {"path": str(cluster.directory / "not-mounted"), "data_type": "scratch", "default_work_dir": False}
    settings = cluster.cluster_settings("watched", sshd=sshd, slurm=plain[0])
    settings["file_systems"].append(missing)
    settings["data_operation"]["data_transfer"] = store.settings()
    settings["probing"] = {
        "interval_check": INTERVAL,
        "startup_grace_period": 0,
        "services": {kind: {"timeout": 5} for kind in ("ssh", "scheduler", "filesystem", "s3")},
    }
    planned = cluster.cluster_settings(
        "planned", maintenance=[{"until": "2100-01-01T00:00:00Z", "reason": "being built"}]
    )
    return cluster.write_gateway_config(
        cluster.directory / "tests-health.yaml", clusters=[settings, planned], state_directory=str(state)
    )


@pytest.fixture(scope="module")
def watched(cluster: Cluster, config: Path) -> Iterator[Gateway]:
    running = cluster.start_gateway(config)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def http(cluster: Cluster, watched: Gateway) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    with httpx.Client(base_url=watched.url, headers=headers, timeout=600) as client:
        yield client


def system(http: httpx.Client, name: str = "watched") -> dict[str, Any]:
    answer = http.get("/status/systems")
    assert answer.status_code == 200
    return next(one for one in answer.json()["systems"] if one["name"] == name)


def health(http: httpx.Client) -> dict[tuple[str, str | None], dict[str, Any]]:
    found = system(http)["servicesHealth"]
    return {(one["serviceType"], one.get("path")): one for one in found}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not in {PATIENCE:g} s: {what}"
        time.sleep(0.1)


def is_well(http: httpx.Client, service: str, path: str | None = None) -> bool:
    result = health(http).get((service, path))
    return result is not None and result["healthy"]


def serves(http: httpx.Client, url: str, **parameters: str) -> bool:
    return http.get(url, params=parameters).status_code == 200


def all_well(http: httpx.Client) -> bool:
    results = [result["healthy"] for (_, path), result in health(http).items() if path is None or "not-mo" not in path]
    return len(results) == 5 and all(results)


def refusal(service: str) -> str:
    return f"The {service} service for the requested system (watched) is unhealthy."


def test_all_services_are_found_healthy_but_for_what_is_not_mounted(http: httpx.Client, cluster: Cluster) -> None:
    wait_until(lambda: all_well(http), "everything is healthy")
    missing = str(cluster.directory / "not-mounted")
    mounts = {str(cluster.homes), str(cluster.scratch), missing}
    services = {("ssh", None), ("scheduler", None), ("s3", None), *(("filesystem", path) for path in mounts)}
    wait_until(lambda: set(health(http)) == services, "every probe has run")
    found = health(http)
    for key, result in found.items():
        assert result["healthy"] is (key[1] != missing), result
        assert result["latency"] > 0
        assert result["lastChecked"].endswith("Z")
    assert "No such file or directory" in found["filesystem", missing]["message"]
    assert system(http)["lastHealthCheck"] is not None

    def runs() -> set[str]:
        return set(http.get("/status/liveness/").json()["healthcheckRuns"])

    wait_until(lambda: runs() == {"watched", "planned"}, "both systems have been probed")
    live = http.get("/status/liveness/").json()
    assert live["lastUpdate"] > 1_700_000_000


def _looked_since(http: httpx.Client, last: float) -> bool:
    return bool(system(http)["lastHealthCheck"] != last)


def _in_maintenance(http: httpx.Client) -> bool:
    return bool(system(http)["maintenance"])


def _back(http: httpx.Client) -> bool:
    return not _in_maintenance(http)


def _serves(http: httpx.Client) -> bool:
    return http.get("/status/watched/nodes").status_code == 200


def test_one_token_serves_many_rounds(http: httpx.Client, cluster: Cluster) -> None:
    wait_until(lambda: all_well(http), "everything is healthy")
    asked, last = cluster.idp.requests("/token"), system(http)["lastHealthCheck"]
    for _ in range(3):
        wait_until(partial(_looked_since, http, last), "one more round has run")
        last = system(http)["lastHealthCheck"]
    assert cluster.idp.requests("/token") == asked


def test_a_sick_file_system_is_refused_and_no_other(http: httpx.Client, cluster: Cluster) -> None:
    missing = str(cluster.directory / "not-mounted")
    wait_until(lambda: not is_well(http, "filesystem", missing), "the probe has run")

    def listed() -> httpx.Response:
        return http.get("/filesystem/watched/ops/ls", params={"path": f"{missing}/alice"})

    # What has never been well is asked for nevertheless for a while after the start.
    wait_until(lambda: listed().status_code != 404, "it is given up")
    answer = listed()
    assert (answer.status_code, answer.json()["message"]) == (503, refusal("filesystem"))
    assert answer.json()["data"] == {"reason": "unhealthy", "service": "filesystem"}
    wait_until(lambda: all_well(http), "everything else is healthy")
    wait_until(lambda: serves(http, "/filesystem/watched/ops/ls", path=str(cluster.homes)), "files are served")


def test_a_login_node_that_dies(http: httpx.Client, sshd: Sshd, cluster: Cluster) -> None:
    listing = {"path": str(cluster.homes)}
    wait_until(lambda: all_well(http), "everything is healthy")
    sshd.stop()
    wait_until(lambda: not is_well(http, "ssh"), "the login node is unhealthy")
    for answer in (
        http.get("/filesystem/watched/ops/ls", params=listing),
        http.get("/compute/watched/jobs"),
        http.get("/status/watched/userinfo"),
        http.post("/filesystem/watched/transfer/cp", json={"path": "/x", "targetPath": "/y"}),
    ):
        assert (answer.status_code, answer.json()["message"]) == (503, refusal("ssh"))
        assert int(answer.headers["Retry-After"]) > 0
    assert http.get("/filesystem/nowhere/ops/ls", params=listing).status_code == 404
    assert http.get("/filesystem/watched/ops/ls", params=listing, headers={"Authorization": ""}).status_code == 401
    sshd.start()
    wait_until(lambda: all_well(http), "all that is behind the login node is healthy again")
    wait_until(lambda: serves(http, "/filesystem/watched/ops/ls", **listing), "it serves")


def test_a_login_node_that_hangs(http: httpx.Client, sshd: Sshd) -> None:
    wait_until(lambda: all_well(http), "everything is healthy")
    sshd.suspend()
    try:
        wait_until(lambda: not is_well(http, "ssh"), "the login node is unhealthy")
        assert http.get("/status/watched/userinfo").json()["message"] == refusal("ssh")
        # The store's probe does not wait for those that hang.
        wait_until(lambda: is_well(http, "s3"), "the store is healthy")
    finally:
        sshd.resume()
    wait_until(lambda: is_well(http, "ssh"), "the login node is healthy again")
    wait_until(lambda: serves(http, "/status/watched/userinfo"), "it serves")


def test_a_controller_that_dies(http: httpx.Client, plain: tuple[Slurm, Sshd], cluster: Cluster) -> None:
    controller = plain[0].slurmctld
    wait_until(lambda: all_well(http), "everything is healthy")
    controller.kill()
    try:
        wait_until(lambda: not is_well(http, "scheduler"), "the scheduler is unhealthy")
        for answer in (http.get("/compute/watched/jobs"), http.get("/status/watched/nodes")):
            assert (answer.status_code, answer.json()["message"]) == (503, refusal("scheduler"))
        # What does not need it goes on.
        wait_until(lambda: serves(http, "/filesystem/watched/ops/ls", path=str(cluster.homes)), "files are served")
    finally:
        controller.start()
    wait_until(lambda: is_well(http, "scheduler"), "the scheduler is healthy again")
    wait_until(lambda: serves(http, "/status/watched/nodes"), "it serves")


def test_an_object_store_that_dies(http: httpx.Client, store: ObjectStore, cluster: Cluster) -> None:
    wait_until(lambda: all_well(http), "everything is healthy")
    body = {"path": str(cluster.user("alice").home / ".profile"), "transferDirectives": {"transferMethod": "s3"}}
    store.stop()
    try:
        wait_until(lambda: not is_well(http, "s3"), "the store is unhealthy")
        answer = http.post("/filesystem/watched/transfer/download", json=body)
        assert (answer.status_code, answer.json()["message"]) == (503, refusal("s3"))
        message = health(http)["s3", None]["message"]
        assert store.url not in message
        wait_until(lambda: serves(http, "/status/watched/nodes"), "the scheduler is served")
    finally:
        store.start()
    wait_until(lambda: is_well(http, "s3"), "the store is healthy again")
    assert http.post("/filesystem/watched/transfer/download", json=body).status_code != 503


def test_an_identity_provider_that_dies_makes_no_system_sick(http: httpx.Client, cluster: Cluster) -> None:
    """A second gateway starts while the provider gives no tokens: the probes cannot run, and say so."""
    config = cluster.write_gateway_config(
        cluster.directory / "tests-health-idp.yaml",
        clusters=[cluster.cluster_settings("watched", probing={"interval_check": INTERVAL, "startup_grace_period": 0})],
        auth={
            "authentication": {
                "public_certs": [cluster.idp.jwks_file.as_uri()],
                "token_url": f"http://127.0.0.1:{cluster.take_port()}/token",
            }
        },
    )
    other = cluster.start_gateway(config)
    try:
        with httpx.Client(base_url=other.url, headers=http.headers, timeout=600) as client:
            wait_until(lambda: bool(system(client)["servicesHealth"]), "the probes have been tried")
            (result,) = system(client)["servicesHealth"]
            assert (result["serviceType"], result["healthy"]) == ("exception", False)
            assert "got no token" in result["message"]
            assert client.get("/status/watched/nodes").status_code == 200
    finally:
        other.stop()


def test_readiness_is_keys(http: httpx.Client, watched: Gateway, cluster: Cluster) -> None:
    """A gateway is ready once it has the identity provider's keys, and alive all the while."""
    answer = httpx.get(f"{watched.url}/status/readiness")
    assert (answer.status_code, answer.json()) == (200, {"ready": True})
    assert httpx.get(f"{watched.url}/status/readiness/").status_code == 200
    config = cluster.write_gateway_config(
        cluster.directory / "tests-unready.yaml",
        auth={"authentication": {"public_certs": [f"http://127.0.0.1:{cluster.take_port()}/jwks"]}},
    )
    other = cluster.start_gateway(config)
    try:
        answer = httpx.get(f"{other.url}/status/readiness")
        assert (answer.status_code, answer.json()["data"]) == (503, {"ready": False})
        assert int(answer.headers["Retry-After"]) > 0
        assert httpx.get(f"{other.url}/status/liveness/").status_code == 200
    finally:
        other.stop()


def test_planned_maintenance(http: httpx.Client) -> None:
    """A system under planned maintenance is 503 with the reason and the end."""
    answer = http.get("/compute/planned/jobs")
    assert answer.status_code == 503
    assert answer.json()["data"] == {"reason": "maintenance", "until": "2100-01-01T00:00:00Z"}
    assert answer.json()["reason"] == "maintenance"
    assert answer.json()["message"].endswith("until 2100-01-01T00:00:00Z: being built")
    assert system(http, "planned")["maintenance"] == [
        {"start": None, "until": "2100-01-01T00:00:00Z", "reason": "being built", "active": True}
    ]
    assert system(http)["maintenance"] == []


def test_an_operator_s_maintenance_reaches_every_replica(
    http: httpx.Client, config: Path, cluster: Cluster, watched: Gateway
) -> None:
    def maintenance(*arguments: str) -> None:
        argv = [sys.executable, "-m", "hpcgate.cli", "maintenance", *arguments, "--config", str(config)]
        subprocess.run(argv, check=True, timeout=300, capture_output=True)

    wait_until(lambda: all_well(http), "everything is healthy")
    replica = cluster.start_gateway(config)
    try:
        with httpx.Client(base_url=replica.url, headers=http.headers, timeout=600) as other:
            wait_until(partial(_serves, other), "the replica serves")
            maintenance("set", "WATCHED", "--until", "4h", "--reason", "new disks")
            for client in (http, other):
                wait_until(partial(_in_maintenance, client), "the gateway has seen it")
                answer = client.get("/status/watched/nodes")
                assert answer.status_code == 503
                assert answer.json()["data"] == {
                    "reason": "maintenance",
                    "until": system(client)["maintenance"][0]["until"],
                }
                assert 14000 < int(answer.headers["Retry-After"]) <= 14400
            # One that starts meanwhile refuses from its first request on.
            replica.restart()
            assert other.get("/status/watched/nodes").json()["data"]["reason"] == "maintenance"
            maintenance("clear", "watched")
            for client in (http, other):
                wait_until(partial(_back, client), "the gateway has seen the end")
                wait_until(partial(_serves, client), "it serves")
    finally:
        replica.stop()
