"""More requests than can be served: they wait for their turn, and strangers behind users."""

import json
import threading
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
from hpcgate.demo.users import User
from tests.faults.fuzz import silent
from tests.front import serving

ATTEMPTS = 10
"""The sender and the login node share the machine with other tests, which may take it for a while."""
KEPT = 0.85
"""The share of the best rate that is reached under any load: answers by the gateway's CPU seconds, for others have the
machine, too."""
CLIENTS = 1000
WAIT = 3.0
"""Seconds for which the last of them waits at most: far less than `http.max_delay`, for a rate does not stay the same.
On a slow machine they are fewer."""


def sent(**asked: Any) -> dict[str, Any]:
    """Send requests by a process of their own and return what became of them."""
    process = started(open_loop, asked)
    try:
        found: dict[str, Any] = json.loads(process.communicate(timeout=180)[0])
        return found
    finally:
        process.kill()
        process.wait()


def good(found: dict[str, Any]) -> int:
    """Return how many were served."""
    return int(found["statuses"].get("200", {"count": 0})["count"])


def rate(found: dict[str, Any]) -> float:
    """Return how many were served by the gateway's CPU seconds."""
    return good(found) / found["cpu"]


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
    config = cluster.write_gateway_config(cluster.directory / name, metrics={"path": "/metrics"}, http=http)
    gateway = cluster.start_gateway(config)
    yield gateway
    gateway.stop()


@pytest.fixture
def guarded(cluster: Cluster) -> Iterator[Gateway]:
    yield from start(cluster, "overload.yaml")


@pytest.fixture(scope="module")
def visited(cluster: Cluster) -> Iterator[Gateway]:
    """A gateway to which one kind of strangers after the other comes."""
    yield from start(cluster, "visited.yaml")


@pytest.fixture
def narrow(cluster: Cluster) -> Iterator[Gateway]:
    """A gateway at which few may wait, and not for long, so that few clients are enough to have some refused."""
    yield from start(cluster, "narrow.yaml", max_requests=100, max_delay=0.3, drain=0)


@pytest.fixture
def patient(cluster: Cluster) -> Iterator[Gateway]:
    """A gateway at which one waits for as long as strangers take on the slowest machine."""
    yield from start(cluster, "patient.yaml", max_delay=60)


def test_a_thousand_clients_wait_for_their_turn_and_nobody_is_refused(
    cluster: Cluster, guarded: Gateway, users: list[User]
) -> None:
    asked = where(cluster, guarded, users, "ls")
    for _ in range(ATTEMPTS):
        sustained = sent(**asked, connections=50, rate=20_000, seconds=3, patience=0)
        few = rate(sustained)
        clients = min(CLIENTS, int(WAIT * good(sustained) / 3))
        found = sent(**asked, connections=clients, rate=20_000, seconds=5, patience=0)
        many = rate(found)
        assert set(found["statuses"]) == {"200"}, found
        if many >= KEPT * few:
            break
    assert many >= KEPT * few
    metrics = httpx.get(f"{guarded.url}/metrics").text
    assert "hpcgate_http_requests_refused_total 0.0" in metrics


def test_far_more_than_may_wait_are_refused_late_and_the_others_served_as_ever(
    cluster: Cluster, narrow: Gateway, users: list[User]
) -> None:
    asked = where(cluster, narrow, users, "ls")
    alive: list[int] = []
    over = threading.Event()

    def ask_if_alive() -> None:
        with httpx.Client(base_url=narrow.url, timeout=60) as client:
            while not over.wait(0.1):
                alive.append(client.get("/status/liveness").status_code)
                alive.append(client.get("/status/readiness").status_code)
                alive.append(client.get("/metrics").status_code)

    asking = threading.Thread(target=ask_if_alive)
    asking.start()
    for _ in range(ATTEMPTS):
        sustained = sent(**asked, connections=32, rate=20_000, seconds=3, patience=0)
        few = rate(sustained)
        found = sent(**asked, connections=1000, rate=5 * good(sustained) / 3, seconds=5, patience=0)
        many = rate(found)
        if many >= KEPT * few:
            break
    over.set()
    asking.join()
    assert set(found["statuses"]) == {"200", "503"}
    assert found["broken"] == 0
    assert found["without_retry_after"] == 0
    # A refusal is held back: however many ask, each of the connections is refused about once a second.
    assert found["statuses"]["503"]["p50"] >= 0.9
    assert many >= KEPT * few, found
    assert alive
    assert set(alive) == {200}
    assert '"server.overloaded"' in narrow.log.read_text()
    # It is over as soon as the load is.
    path, token = asked["asked"][0]
    answer = httpx.get(f"{narrow.url}{path}", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    metrics = httpx.get(f"{narrow.url}/metrics").text
    assert "hpcgate_http_requests_waiting 0.0" in metrics


CROWD = 300


@contextmanager
def crowd(gateway: Gateway, kind: str, token: str) -> Iterator[None]:
    """Have strangers of a kind there."""
    asked = {"host": "127.0.0.1", "port": urlsplit(gateway.url).port, "kind": kind, "token": token}
    process = started(strangers, {**asked, "connections": CROWD, "seconds": 180})
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("kind", strangers.KINDS)
def test_strangers_wait_behind_users(kind: str, cluster: Cluster, visited: Gateway, users: list[User]) -> None:
    asked = where(cluster, visited, users, "stat")
    sent(**asked, connections=20, rate=20_000, seconds=1, patience=0)
    quarter = good(sent(**asked, connections=20, rate=20_000, seconds=1, patience=0)) / 4
    for _ in range(ATTEMPTS):
        alone = sent(**asked, connections=20, rate=quarter, seconds=2, patience=60)
        with crowd(visited, kind, asked["asked"][0][1]):
            found = sent(**asked, connections=20, rate=quarter, seconds=2, patience=60)
        assert set(found["statuses"]) == {"200"}
        assert (found["broken"], found["unanswered"]) == (0, 0)
        if found["statuses"]["200"]["p50"] <= 2 * alone["statuses"]["200"]["p50"]:
            break
    assert found["statuses"]["200"]["p50"] <= 2 * alone["statuses"]["200"]["p50"]


def test_a_user_who_comes_during_a_storm_of_strangers_gets_in(
    cluster: Cluster, patient: Gateway, users: list[User]
) -> None:
    (path, token), (_, known) = where(cluster, patient, users, "stat")["asked"]
    with crowd(patient, "forged", known):
        answer = httpx.get(f"{patient.url}{path}", headers={"Authorization": f"Bearer {token}"}, timeout=120)
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
                return httpx.post(url, content=b"{}", headers=headers, timeout=120)

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
