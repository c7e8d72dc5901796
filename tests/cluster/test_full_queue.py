"""A real Slurm whose queue is full (MaxJobCount): 503 in its words, and nothing that comes later by itself."""

import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Options
from hpcgate.demo.slurm import SlurmOptions
from tests.ssh.nodes import processes

BUSY = "Slurm temporarily unable to accept job"
MOST = 3
"""Jobs that slurmctld keeps at a time."""
SCRIPT = "#!/bin/sh\n#SBATCH --hold\nsleep 4713\n"


@pytest.fixture(scope="module")
def full() -> Iterator[Cluster]:
    """A cluster of its own: slurmctld reads MaxJobCount when it starts, and never again."""
    slurm = SlurmOptions(extra=f"MaxJobCount={MOST}\n", min_job_age=2)
    with Cluster(Options(slurm=slurm, patience=60)) as running:
        yield running


@pytest.fixture(scope="module")
def http(full: Cluster) -> Iterator[httpx.Client]:
    systems = [full.cluster_settings("demo", scheduler={"timeout": 20})]
    configuration = full.write_gateway_config(full.directory / "full.yaml", clusters=systems)
    gateway = full.start_gateway(configuration)
    headers = {"Authorization": f"Bearer {full.token('alice')}"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=600) as client:
        yield client
    gateway.stop()


def submit(full: Cluster, http: httpx.Client, key: str | None = None) -> httpx.Response:
    body = {"job": {"script": SCRIPT, "workingDirectory": str(full.users[0].home)}}
    return http.post("/compute/demo/jobs", json=body, headers={} if key is None else {"Idempotency-Key": key})


def jobs(cluster: Cluster) -> set[str]:
    return set(cluster.slurm.run(["squeue", "-h", "-a", "-o", "%i"]).split())


@pytest.fixture(autouse=True)
def empty(full: Cluster) -> None:
    """What an earlier test has left counts until slurmctld has forgotten it, which takes it a minute."""
    full.slurm.run(["scancel", f"--user={full.users[0].name}"])
    until(lambda: not full.slurm.run(["squeue", "-h", "-a", "-t", "all"]))


def fill(full: Cluster, http: httpx.Client) -> httpx.Response:
    """Submit jobs until one is refused, and return that answer."""
    while (answer := submit(full, http)).status_code == 201:
        pass
    return answer


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_full_queue_is_503_and_nothing_is_submitted_once_there_is_room(full: Cluster, http: httpx.Client) -> None:
    """sbatch itself would try again for minutes: a job that nobody knows of would appear when there is room."""
    answer = fill(full, http)
    assert answer.status_code == 503, answer.text
    assert BUSY in answer.json()["message"]
    assert int(answer.headers["Retry-After"]) > 0
    before = jobs(full)
    until(lambda: not [line for line in processes(full.users[0]) if "sbatch" in line])
    full.slurm.run(["scancel", *before])
    until(lambda: submit(full, http).status_code == 201)
    assert len(jobs(full)) == 1


def test_with_a_key_it_is_under_way_in_sbatchs_words_and_becomes_one_job(full: Cluster, http: httpx.Client) -> None:
    """Whoever sends it again meanwhile finds the same attempt, and once there is room its job."""
    assert fill(full, http).status_code == 503
    before = jobs(full)
    for _ in range(2):
        answer = submit(full, http, "full-queue")
        assert answer.status_code == 409, answer.text
        assert BUSY in answer.json()["message"]
        assert int(answer.headers["Retry-After"]) > 0
    state = http.get("/compute/demo/submissions/full-queue").json()
    assert state["state"] == "under_way", state
    assert jobs(full) == before
    full.slurm.run(["scancel", *before])
    until(lambda: (answer := submit(full, http, "full-queue")).status_code == 201 and answer.json()["jobId"] != "")
    assert jobs(full) == {submit(full, http, "full-queue").json()["jobId"]}
