"""Rate limits of running gateways, alone and together by a real Redis."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from tests.log_lines import settled
from tests.redis_server import PASSWORD, RedisServer

# So slow that no token comes back while a test runs.
SLOW = {"rate": 0.0001, "burst": 3}


@pytest.fixture
def start(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Start gateways with rate limits; stop them at the end."""
    running: list[Gateway] = []

    def started(**limits: Any) -> Gateway:
        config = cluster.write_gateway_config(
            tmp_path / f"rates-{len(running)}.yaml",
            clusters=[cluster.cluster_settings("demo", probing={"services": None})],
            rate_limits=limits,
        )
        running.append(cluster.start_gateway(config))
        return running[-1]

    yield started
    for gateway in running:
        gateway.stop()


def ask(
    cluster: Cluster, role: str, gateways: Sequence[Gateway], path: str = "/status/systems"
) -> list[httpx.Response]:
    """Send a request to each gateway."""
    headers = {"Authorization": f"Bearer {cluster.token(role)}"}
    return [httpx.get(gateway.url + path, headers=headers, timeout=300) for gateway in gateways]


def test_each_user_has_a_burst(cluster: Cluster, start: Callable[..., Gateway]) -> None:
    gateway = start(per_user={"status:read": SLOW, "compute:submit": SLOW})
    answers = ask(cluster, "alice", [gateway] * 5)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0", "0"]
    refused = answers[3]
    assert refused.headers["ratelimit-limit"] == "3"
    assert int(refused.headers["retry-after"]) > 1000
    assert int(refused.headers["ratelimit-reset"]) >= int(refused.headers["retry-after"])
    assert refused.json()["data"] == {"reason": "rate_limit", "group": "status:read", "of": "user"}
    assert refused.json()["user"] == cluster.user("alice").name
    # Neither another user nor another group, nor what no token is asked for, feels it.
    assert ask(cluster, "bob", [gateway])[0].status_code == 200
    elsewhere = ask(cluster, "alice", [gateway], "/compute/demo/jobs")[0]
    assert elsewhere.status_code == 200
    assert "ratelimit-limit" not in elsewhere.headers
    assert ask(cluster, "alice", [gateway], "/status/liveness/")[0].status_code == 200


def test_a_request_with_a_body_counts_once(cluster: Cluster, start: Callable[..., Gateway]) -> None:
    gateway = start(per_user={"compute:submit": SLOW})
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    answers = [httpx.post(f"{gateway.url}/compute/demo/jobs", json={"job": {}}, headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [400, 400, 400, 429]


def test_cancelling_counts_the_jobs_that_are_found(cluster: Cluster, start: Callable[..., Gateway]) -> None:
    """Where they are more than may be cancelled now, none is."""
    gateway = start(per_user={"compute:submit": SLOW | {"burst": 5}})
    user = cluster.user("alice")
    job = {"script": "#!/bin/sh\n#SBATCH --hold\n", "name": "counted", "workingDirectory": str(user.home)}
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    with httpx.Client(base_url=f"{gateway.url}/compute/demo/jobs", headers=headers, timeout=300) as http:
        submitted = http.post("/bulk", json={"jobs": [{"job": job}] * 3})
        try:
            assert submitted.headers["ratelimit-remaining"] == "2"
            refused = http.post("/cancel", json={"name": "counted"})
            assert refused.status_code == 429, refused.text
            queue = cluster.slurm.run(["squeue", "-h", "-n", "counted", "-o", "%A"]).split()
            assert sorted(queue) == sorted(one["jobId"] for one in submitted.json()["jobs"])
        finally:
            cluster.slurm.run(["scancel", "--name=counted"])


def test_many_jobs_count_as_many(cluster: Cluster, start: Callable[..., Gateway]) -> None:
    gateway = start(per_user={"compute:submit": SLOW})
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}

    def post(path: str, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{gateway.url}/compute/demo/jobs/{path}", json=body, headers=headers, timeout=600)

    job = {"job": {"workingDirectory": "/tmp", "env": {}}}
    never = post("bulk", {"jobs": [job] * 4})
    assert never.status_code == 429, never.text
    assert "retry-after" not in never.headers
    assert never.json()["data"] == {"reason": "rate_limit", "group": "compute:submit"}
    # The request itself has been counted; two more are left.
    two = post("bulk", {"jobs": [job] * 2})
    assert (two.status_code, two.headers["ratelimit-remaining"]) == (200, "0"), two.text
    assert [each["error"]["status"] for each in two.json()["jobs"]] == [400, 400]
    refused = post("cancel", {"ids": ["1", "2"]})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 1000


def test_each_client_has_a_burst(cluster: Cluster, start: Callable[..., Gateway]) -> None:
    portal = cluster.user("bob").client_id
    gateway = start(per_client={"status:read": SLOW}, exempt_clients=[portal])
    answers = ask(cluster, "alice", [gateway] * 4)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].json()["data"]["of"] == "client"
    assert {answer.status_code for answer in ask(cluster, "bob", [gateway] * 5)} == {200}


def test_replicas_count_together(cluster: Cluster, start: Callable[..., Gateway], tmp_path: Path) -> None:
    """Replicas with one Redis share their limits."""
    with RedisServer(tmp_path) as server:
        redis = {"url": server.url, "timeout": 5}
        one = start(per_user={"status:read": SLOW}, redis=redis)
        other = start(per_user={"status:read": SLOW}, redis=redis | {"when_down": "refuse"})
        answers = ask(cluster, "alice", [one, other, one, other, one])
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        server.stop()
        # One goes on with buckets of its own; the other, as it is told to, refuses.
        assert [answer.status_code for answer in ask(cluster, "alice", [one] * 4)] == [200, 200, 200, 429]
        (closed,) = ask(cluster, "alice", [other])
        assert closed.status_code == 503
        assert closed.headers["retry-after"] == "1"
        for gateway in (one, other):
            log = settled(gateway.url, gateway.log)
            assert log.count("rate_limits.redis_down") == 1
            assert PASSWORD not in log
