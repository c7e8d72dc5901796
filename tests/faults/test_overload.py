"""Five times as many requests as can be served: most are refused at once, the others are served as ever."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from tests.front import serving

PROGRAM = Path(__file__).with_name("open_loop.py")
MOST = 1.0
"""Seconds that ninety-nine of a hundred accepted requests take at most."""
ATTEMPTS = 3
"""The sender and the login node share the machine with other tests, which may take it for a while."""


def sent(**asked: Any) -> dict[str, Any]:
    """Send requests by a process of their own and return what became of them."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], input=json.dumps(asked), capture_output=True, text=True, check=True, timeout=90
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def is_as_it_should_be(statuses: dict[str, Any], rate: float) -> bool:
    """Say whether most were refused, soon, and the others served in time, about as many as without the crowd."""
    if set(statuses) != {"200", "503"}:
        return False
    served, refused = statuses["200"], statuses["503"]
    # Unbounded the longest would be 20 s.
    in_time = served["p99"] < MOST and refused["p50"] < served["p50"]
    return bool(in_time and refused["count"] > served["count"] and served["count"] / 5 > rate / 2)


@pytest.fixture
def guarded(cluster: Cluster) -> Iterator[Gateway]:
    config = cluster.write_gateway_config(cluster.directory / "overload.yaml", metrics={"path": "/metrics"})
    gateway = cluster.start_gateway(config)
    yield gateway
    gateway.stop()


def test_five_times_the_sustainable_rate(cluster: Cluster, guarded: Gateway) -> None:
    alice = cluster.user("alice")
    # A list of this length takes a millisecond and more, so that the sender is not the one that cannot keep up.
    cluster.as_user(alice, ["sh", "-c", "mkdir -p many && cd many && seq 200 | xargs touch"])
    where = {
        "host": "127.0.0.1",
        "port": urlsplit(guarded.url).port,
        "path": f"/filesystem/demo/ops/ls?path={alice.home}/many",
        "token": cluster.token(alice),
    }
    sustained = sent(**where, connections=32, rate=20_000, seconds=3, patience=0)["statuses"]
    assert set(sustained) == {"200"}
    rate = sustained["200"]["count"] / 3
    alive: list[int] = []
    over = threading.Event()

    def ask_if_alive() -> None:
        with httpx.Client(base_url=guarded.url, timeout=10) as client:
            while not over.wait(0.1):
                alive.append(client.get("/status/liveness").status_code)
                alive.append(client.get("/status/readiness").status_code)

    asking = threading.Thread(target=ask_if_alive)
    asking.start()
    refusals = 0
    for _ in range(ATTEMPTS):
        found = sent(**where, connections=1000, rate=5 * rate, seconds=5)
        refusals += found["statuses"].get("503", {"count": 0})["count"]
        if is_as_it_should_be(found["statuses"], rate):
            break
    over.set()
    asking.join()
    assert set(found["statuses"]) == {"200", "503"}
    assert found["broken"] == 0
    assert found["without_retry_after"] == 0
    assert is_as_it_should_be(found["statuses"], rate), (rate, found)
    assert alive
    assert set(alive) == {200}
    metrics = httpx.get(f"{guarded.url}/metrics").text
    assert f"hpcgate_http_requests_refused_total {refusals:.1f}" in metrics
    assert '"server.overloaded"' in guarded.log.read_text()
    # It is over as soon as the load is.
    time.sleep(1)
    headers = {"Authorization": f"Bearer {where['token']}", "X-Request-ID": "after"}
    answer = httpx.get(f"{guarded.url}{where['path']}", headers=headers)
    assert answer.status_code == 200


def test_a_refusal_looks_like_every_other_error(tmp_path: Path) -> None:
    with serving(tmp_path, http={"max_requests": 32, "max_delay": 0.001}) as front:
        refused: list[httpx.Response] = []
        give_up = time.monotonic() + 60

        def ask() -> None:
            base = f"http://127.0.0.1:{front.port}"
            with httpx.Client(base_url=base, headers={"X-Request-ID": "mine"}, timeout=60) as client:
                while not refused and time.monotonic() < give_up:
                    answer = client.post("/compute/x/jobs", content=b"{}")
                    if (answer.json()["data"] or {}).get("reason") == "overload":
                        refused.append(answer)

        threads = [threading.Thread(target=ask) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert refused
        for answer in refused:
            assert answer.status_code == 503
            assert answer.json()["errorType"] == "error"
            assert answer.headers["x-request-id"] == "mine"
            assert answer.headers["f7t-appversion"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["retry-after"] in ("1", "2", "3")
