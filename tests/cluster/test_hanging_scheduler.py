"""Commands of a real Slurm that hang: the answer comes in time, and no process is left on the login node."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster
from hpcgate.demo.packages import program

TIMEOUT = 5
"""Seconds: `scheduler.timeout`, which is enough for what does not hang."""
SLEEP = "sleep 4713"
COMMANDS = ("squeue", "sacct", "sbatch")
_PROGRAM = """\
#!/bin/sh
if [ -e {directory}/{name}.hangs ]; then {sleep}; fi
exec {program} "$@"
"""


@pytest.fixture(scope="module")
def directory(cluster: Cluster) -> Path:
    """Programs that hang while a file says so."""
    path = cluster.scratch / "hanging"
    path.mkdir()
    path.chmod(0o755)
    for name in COMMANDS:
        script = path / name
        script.write_text(_PROGRAM.format(directory=path, name=name, sleep=SLEEP, program=program(name)))
        script.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def http(cluster: Cluster, directory: Path) -> Iterator[httpx.Client]:
    variables = dict(cluster.slurm.environment) | {"PATH": f"{directory}:/usr/bin:/bin"}
    settings = " ".join(f"{name}={value}" for name, value in variables.items())
    sshd = cluster.start_sshd(extra=f"SetEnv {settings}")
    systems = [
        cluster.cluster_settings("demo", sshd=sshd, scheduler={"timeout": TIMEOUT, "history_cache": 0}, probing=None),
        cluster.cluster_settings("cached", sshd=sshd, scheduler={"read_cache": 30}, probing=None),
    ]
    gateway = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "hanging.yaml", clusters=systems))
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=600) as client:
        assert client.get("/compute/demo/jobs").status_code == 200
        yield client
    gateway.stop()
    sshd.stop()


@pytest.fixture
def hang(directory: Path) -> Iterator[Callable[..., None]]:
    def begin(*names: str) -> None:
        for name in names:
            (directory / f"{name}.hangs").touch()

    yield begin
    for name in COMMANDS:
        (directory / f"{name}.hangs").unlink(missing_ok=True)


Asker = Callable[[Callable[[], httpx.Response]], httpx.Response]


@pytest.fixture
def in_time(cluster: Cluster) -> Asker:
    """Ask, and look for what is left of the commands of alice."""

    def sleepers() -> str:
        return cluster.as_user("alice", ["pgrep", "-u", cluster.user("alice").name, "-fx", SLEEP], check=False).stdout

    def in_time(ask: Callable[[], httpx.Response]) -> httpx.Response:
        answer = ask()
        # Their parent has ended, and they have been sent what ends them.
        deadline = time.monotonic() + 120
        while sleepers():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return answer

    return in_time


def submission(cluster: Cluster, name: str = "hung") -> dict[str, Any]:
    return {"job": {"script": "#!/bin/sh\n", "workingDirectory": str(cluster.user("alice").home), "name": name}}


def test_a_list_that_hangs_is_408(http: httpx.Client, hang: Callable[..., None], in_time: Asker) -> None:
    hang("squeue", "sacct")
    answer = in_time(lambda: http.get("/compute/demo/jobs"))
    assert answer.status_code == 408, answer.text
    assert answer.json()["message"] == f"Command squeue timed out after {TIMEOUT} s"
    assert in_time(lambda: http.get("/compute/demo/jobs/1")).status_code == 408


def test_a_database_that_hangs_costs_the_history_only(
    http: httpx.Client, hang: Callable[..., None], in_time: Asker
) -> None:
    hang("sacct")
    answer = in_time(lambda: http.get("/compute/demo/jobs"))
    assert (answer.status_code, answer.headers["X-Hpcgate-Jobs-Missing"]) == (200, "history")


def test_a_submission_that_hangs_is_408_and_submits_nothing(
    http: httpx.Client, hang: Callable[..., None], in_time: Asker, cluster: Cluster
) -> None:
    hang("sbatch")
    answer = in_time(lambda: http.post("/compute/demo/jobs", json=submission(cluster, "never")))
    assert answer.status_code == 408, answer.text
    assert http.get("/compute/demo/jobs", params={"name": "never"}).json()["jobs"] == []


def asked(http: httpx.Client) -> int:
    """Return how many whole seconds ago the scheduler was asked for the list."""
    return int(http.get("/compute/cached/jobs").headers["Age"])


def test_an_answer_says_its_age(http: httpx.Client, cluster: Cluster) -> None:
    begun = time.monotonic()
    assert asked(http) <= time.monotonic() - begun
    time.sleep(1.2)
    assert 1 <= asked(http) <= time.monotonic() - begun
    job_id = http.post("/compute/cached/jobs", json=submission(cluster)).json()["jobId"]
    begun = time.monotonic()
    fresh = http.get("/compute/cached/jobs")
    assert int(fresh.headers["Age"]) <= time.monotonic() - begun
    assert job_id in {job["jobId"] for job in fresh.json()["jobs"]}


def test_a_database_that_is_killed(http: httpx.Client, cluster: Cluster) -> None:
    slurmdbd = cluster.slurm.slurmdbd
    assert slurmdbd is not None
    job_id = http.post("/compute/demo/jobs", json=submission(cluster)).json()["jobId"]
    os.kill(slurmdbd.pid, signal.SIGKILL)
    try:
        answer = http.get("/compute/demo/jobs")
        assert (answer.status_code, answer.headers["X-Hpcgate-Jobs-Missing"]) == (200, "history")
        assert job_id in {job["jobId"] for job in answer.json()["jobs"]}
    finally:
        slurmdbd.stop()
        slurmdbd.start()
    deadline = time.monotonic() + 120
    while "X-Hpcgate-Jobs-Missing" in http.get("/compute/demo/jobs").headers:
        assert time.monotonic() < deadline
        time.sleep(0.2)
