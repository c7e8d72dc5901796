"""The scheduler says that something has become of a job, by the script of the documentation, and who waits is told."""

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from hpcgate.auth.api_keys import hash_of, new_key
from hpcgate.demo.cluster import Cluster, Gateway
from tests.people import Person

KEY = new_key()
PAGE = Path(__file__).parents[2] / "docs/schedulers.md"
SCRIPT = re.compile(r'```sh title="notify-hpcgate"\n(.*?)```', re.DOTALL)


@pytest.fixture(scope="module")
def seldom(cluster: Cluster) -> Iterator[Gateway]:
    """A gateway that asks by itself hardly ever, with a key for notifications alone."""
    key = {"name": "slurm", "hash": hash_of(KEY), "username": cluster.user("bob").name}
    rules = [
        {"name": "slurm", "clients": ["slurm"], "operations": ["compute:notify"]},
        {"name": "slurm-nothing-else", "effect": "deny", "clients": ["slurm"]},
    ]
    config = cluster.write_gateway_config(
        cluster.directory / "notifications.yaml",
        clusters=[cluster.cluster_settings("demo", events={"interval": 3600})],
        auth={
            "api_keys": [key | {"expires": "2999-01-01T00:00:00Z"}],
            "policy": {"default": "allow", "rules": rules},
        },
    )
    running = cluster.start_gateway(config)
    yield running
    running.stop()


def test_who_waits_is_told_once_the_script_has_run(
    cluster: Cluster, seldom: Gateway, alice: Person, tmp_path: Path
) -> None:
    job_id = alice.run("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap", "true").strip()
    header = tmp_path / "header"
    header.write_text(f"X-API-Key: {KEY}\n")
    found = SCRIPT.search(PAGE.read_text())
    assert found is not None
    text = found[1].replace("https://hpcgate.example.org", seldom.url).replace("/etc/slurm/hpcgate.header", str(header))
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    url = f"{seldom.url}/compute/demo/jobs/{job_id}?wait=ended&timeout=600"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(httpx.get, url, headers=headers, timeout=600)
        alice.run("scancel", job_id)
        while not waiting.done():
            environment = {"SLURM_JOB_USER": alice.user.name, "PATH": "/usr/bin:/bin"}
            subprocess.run(["sh", "-c", text], check=True, env=environment)
            try:
                waiting.result(2)
            except TimeoutError:
                continue
    answer = waiting.result()
    assert answer.status_code == 200, answer.text
    assert [job["status"]["state"] for job in answer.json()["jobs"]] == ["CANCELLED"]


def test_the_key_is_good_for_nothing_else(seldom: Gateway) -> None:
    with httpx.Client(base_url=seldom.url, headers={"X-API-Key": KEY}) as client:
        assert client.post("/compute/demo/notifications").status_code == 204
        assert client.get("/compute/demo/jobs").status_code == 403
        assert client.get("/compute/demo/events").status_code == 403


def test_nobody_wakes_anybody_without_a_key(seldom: Gateway) -> None:
    assert httpx.post(f"{seldom.url}/compute/demo/notifications").status_code == 401
