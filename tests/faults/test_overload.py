"""More requests than can be served: they wait for their turn, and strangers behind users."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from benchmarks import open_loop, strangers
from benchmarks.processes import started
from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.sshd import Sshd
from hpcgate.demo.users import User
from hpcgate.server.refusals import HELD, HOLD
from tests.faults.fuzz import silent
from tests.front import serving
from tests.log_lines import settled

CLIENTS = HELD
MAY_WAIT = 100
"""So few requests at a time that most of a thousand are refused."""
PATIENCE = 300
"""Seconds after which a test gives up: no machine that is of any use takes as long."""
SLOW = {"connection": PATIENCE, "login": PATIENCE, "command_execution": PATIENCE, "keep_alive": PATIENCE}
"""What a login node may take, so that what a busy machine takes is no error."""


def sent(**asked: Any) -> dict[str, Any]:
    """Send requests by a process of their own and return what became of them."""
    process = started(open_loop, asked)
    try:
        found: dict[str, Any] = json.loads(process.communicate(timeout=2 * PATIENCE)[0])
        return found
    finally:
        process.kill()
        process.wait()


def good(found: dict[str, Any]) -> int:
    """Return how many were served."""
    return int(found["statuses"].get("200", {"count": 0})["count"])


def where(cluster: Cluster, gateway: Gateway, users: list[User], operation: str) -> dict[str, Any]:
    """Return what is asked for, as the sender wants to know it."""
    return {
        "host": "127.0.0.1",
        "port": urlsplit(gateway.url).port,
        "pids": [gateway.pid],
        "asked": [(f"/filesystem/demo/ops/{operation}?path={user.home}/many", cluster.token(user)) for user in users],
    }


@pytest.fixture
def users(cluster: Cluster) -> list[User]:
    found = [cluster.user(role) for role in ("alice", "bob")]
    for user in found:
        # A list of this length takes a millisecond and more, so that the sender is not the one that cannot keep up.
        cluster.as_user(user, ["sh", "-c", "mkdir -p many && cd many && seq 200 | xargs touch"])
    return found


def start(cluster: Cluster, name: str, **http: Any) -> Iterator[Gateway]:
    config = cluster.write_gateway_config(
        cluster.directory / name,
        clusters=[cluster.cluster_settings(ssh={"timeout": SLOW})],
        metrics={"path": "/metrics"},
        http=http,
    )
    gateway = cluster.start_gateway(config)
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def patient(cluster: Cluster) -> Iterator[Gateway]:
    """A gateway at which one waits for as long as the slowest machine takes."""
    yield from start(cluster, "patient.yaml", max_delay=PATIENCE)


def test_a_thousand_clients_wait_for_their_turn_and_nobody_is_refused(
    cluster: Cluster, patient: Gateway, users: list[User]
) -> None:
    """That it takes no more of the gateway than a few clients do: tests/server/test_waiting_costs.py."""
    asked = where(cluster, patient, users, "ls")
    found = sent(**asked, connections=CLIENTS, rate=CLIENTS, seconds=2, patience=PATIENCE)
    assert set(found["statuses"]) == {"200"}, found
    assert (found["broken"], found["unanswered"]) == (0, 0)
    assert good(found) >= CLIENTS
    metrics = httpx.get(f"{patient.url}/metrics", timeout=PATIENCE).text
    assert "hpcgate_http_requests_refused_total 0.0" in metrics


@contextmanager
def narrow(cluster: Cluster, sshd: Sshd) -> Iterator[Gateway]:
    """A gateway at which few may wait, and not for long."""
    config = cluster.write_gateway_config(
        cluster.directory / "narrow.yaml",
        clusters=[cluster.cluster_settings(sshd=sshd, probing=None, ssh={"timeout": SLOW})],
        metrics={"path": "/metrics"},
        http={"max_requests": MAY_WAIT, "max_delay": 0.3, "drain": 0},
    )
    gateway = cluster.start_gateway(config)
    try:
        yield gateway
    finally:
        gateway.stop()


def refused(gateway: Gateway) -> float:
    """Return how many were refused by overload."""
    metrics = httpx.get(f"{gateway.url}/metrics", timeout=PATIENCE).text
    return float(metrics.partition("\nhpcgate_http_requests_refused_total ")[2].partition("\n")[0])


def test_far_more_than_may_wait_are_refused_late_and_the_others_served_once_they_can_be(
    cluster: Cluster, users: list[User]
) -> None:
    """A login node that stands still has those who are served stay there, whatever the machine can do."""
    sshd = cluster.start_sshd(max_sessions=10, max_startups="10:30:100")
    with narrow(cluster, sshd) as gateway, ThreadPoolExecutor() as pool:
        asked = where(cluster, gateway, users, "ls")
        for path, token in asked["asked"]:
            headers = {"Authorization": f"Bearer {token}"}
            assert httpx.get(f"{gateway.url}{path}", headers=headers, timeout=PATIENCE).status_code == 200
        sshd.suspend()
        try:
            crowd = pool.submit(sent, **asked, connections=CLIENTS, rate=CLIENTS, seconds=1, patience=PATIENCE)
            alive: set[int] = set()
            while refused(gateway) < CLIENTS - 2 * MAY_WAIT:
                assert not crowd.done()
                alive |= {
                    httpx.get(f"{gateway.url}/status/{what}", timeout=PATIENCE).status_code
                    for what in ("liveness", "readiness")
                }
                time.sleep(1)  # more than a few questions a second would take turns with all others
        finally:
            sshd.resume()
        found = crowd.result()
        assert alive == {200}
        assert set(found["statuses"]) == {"200", "503"}
        assert (found["broken"], found["unanswered"], found["without_retry_after"]) == (0, 0, 0)
        # A refusal is held back, so that who is refused does not come back at once.
        assert found["statuses"]["503"]["least"] >= HOLD
        assert '"server.overloaded"' in settled(gateway.url, gateway.log)
        # It is over as soon as the load is.
        assert httpx.get(f"{gateway.url}{path}", headers=headers, timeout=PATIENCE).status_code == 200
        assert "hpcgate_http_requests_waiting 0.0" in httpx.get(f"{gateway.url}/metrics", timeout=PATIENCE).text
    sshd.stop()


CROWD = 300


@contextmanager
def crowd(gateway: Gateway, kind: str, token: str) -> Iterator[None]:
    """Have strangers of a kind there."""
    asked = {"host": "127.0.0.1", "port": urlsplit(gateway.url).port, "kind": kind, "token": token}
    process = started(strangers, {**asked, "connections": CROWD, "seconds": 2 * PATIENCE})
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        yield
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("kind", strangers.KINDS)
def test_users_are_served_beside_strangers(kind: str, cluster: Cluster, patient: Gateway, users: list[User]) -> None:
    """That strangers get a tenth of the time: tests/admission/test_queue.py. What users notice:
    benchmarks/overload.py."""
    asked = where(cluster, patient, users, "stat")
    with crowd(patient, kind, asked["asked"][0][1]):
        found = sent(**asked, connections=20, rate=100, seconds=2, patience=PATIENCE)
    assert set(found["statuses"]) == {"200"}
    assert (found["broken"], found["unanswered"]) == (0, 0)


def test_a_user_who_comes_during_a_storm_of_strangers_gets_in(
    cluster: Cluster, patient: Gateway, users: list[User]
) -> None:
    (path, token), (_, known) = where(cluster, patient, users, "stat")["asked"]
    with crowd(patient, "forged", known):
        answer = httpx.get(f"{patient.url}{path}", headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE)
    assert answer.status_code == 200


FEW = 32
"""As few requests as may be served at a time."""


def test_a_refusal_looks_like_every_other_error(tmp_path: Path) -> None:
    with silent() as nobody:
        # Tokens that are asked about, and about which nothing is heard, hold all the turns there are.
        introspection = {
            "url": f"http://127.0.0.1:{nobody}/",
            "client_id": "hpcgate",
            "client_secret": "-",
            "timeout": 5,
        }
        auth = {"authentication": {"token_url": "http://127.0.0.1:9/token", "introspection": introspection}}
        with serving(tmp_path, auth=auth, http={"max_requests": FEW, "max_delay": 0.001, "drain": 0}) as front:

            def ask(number: int) -> httpx.Response:
                headers = {"X-Request-ID": "mine", "Authorization": f"Bearer opaque-{number}"}
                url = f"http://127.0.0.1:{front.port}/compute/x/jobs"
                return httpx.post(url, content=b"{}", headers=headers, timeout=600)

            with ThreadPoolExecutor(FEW + 8) as pool:
                answers = list(pool.map(ask, range(FEW + 8)))
    refused = [answer for answer in answers if (answer.json()["data"] or {}).get("reason") == "overload"]
    assert refused
    for answer in refused:
        assert answer.status_code == 503
        assert answer.json()["errorType"] == "error"
        assert answer.headers["x-request-id"] == "mine"
        assert answer.headers["f7t-appversion"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["retry-after"] in ("1", "2", "3")
