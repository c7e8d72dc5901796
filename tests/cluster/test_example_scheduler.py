"""The documented example of a scheduler from another package: installed, configured, and driven over HTTP."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from hpcgate.demo.cluster import Cluster
from hpcgate.schedulers.base import Scheduler

DOCUMENTS = Path(__file__).parents[2] / "docs" / "extending"
ENVIRONMENT = {"A": "commas, \"quotes\", 'more' $(id) = é\nand lines\n", "PATH": "/nowhere:/usr/bin:/bin"}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the example is installed into, as a site would install it."""
    target = tmp_path_factory.mktemp("packages")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    argv = [sys.executable, "-m", "pip", "install", *options, "--target", str(target)]
    done = subprocess.run([*argv, str(DOCUMENTS / "example-scheduler")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def http(cluster: Cluster, packages: Path) -> Iterator[httpx.Client]:
    """A client of the first user, at a gateway that finds the package."""
    settings = cluster.cluster_settings(
        "workstation",
        scheduler={"type": "background", "nice": 5, "version": None, "connection_mode": None, "api_url": None}
        | {"api_version": None},
        data_operation={"datatransfer_jobs_directives": []},
    )
    config = cluster.write_gateway_config(cluster.directory / "example-gateway.yaml", clusters=[settings])
    path = os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH")]))
    gateway = cluster.start_gateway(config, env={"PYTHONPATH": path})
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=600) as client:
        yield client
    gateway.stop()


def _job(http: httpx.Client, job_id: str) -> dict[str, Any]:
    (job,) = http.get(f"/compute/workstation/jobs/{job_id}").json()["jobs"]
    return dict(job)


def _submit(http: httpx.Client, cluster: Cluster, **fields: Any) -> str:
    job = {"workingDirectory": str(cluster.user("alice").home), "script": "#!/bin/sh\nsleep 300\n", **fields}
    answer = http.post("/compute/workstation/jobs", json={"job": job})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["jobId"])


def _until(http: httpx.Client, job_id: str, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while (job := _job(http, job_id))["status"]["state"] != state:
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
    return job


def test_a_job_from_submission_to_its_output(http: httpx.Client, cluster: Cluster) -> None:
    directory = cluster.user("alice").home / "nasty 'dir' $(id)"
    cluster.as_user("alice", ["mkdir", directory])
    script = '#!/bin/sh\nprintf "%s" "$A"\npwd >&2\nexit 3\n'
    name = "a|b \"q\" 'x'\n$(id)"
    job_id = _submit(
        http,
        cluster,
        workingDirectory=str(directory),
        script=script,
        name=name,
        env=ENVIRONMENT,
        standardOutput="out put",
        standardError="err",
    )
    assert _job(http, job_id)["name"] == name
    job = _until(http, job_id, "FAILED")
    assert job["status"]["exitCode"] == 3
    assert (job["workingDirectory"], job["user"]) == (str(directory), cluster.user("alice").name)
    assert job["time"]["start"] <= job["time"]["end"]
    (metadata,) = http.get(f"/compute/workstation/jobs/{job_id}/metadata").json()["jobs"]
    assert metadata["script"] == script
    assert Path(metadata["standardOutput"]).read_bytes().decode() == ENVIRONMENT["A"]
    assert Path(metadata["standardError"]).read_text() == f"{directory}\n"
    listed = http.get("/compute/workstation/jobs", params={"name": name}).json()["jobs"]
    assert [item["jobId"] for item in listed] == [job_id]
    assert http.get("/compute/workstation/jobs", params={"account": "x"}).json()["jobs"] == []


def test_a_job_is_ended_with_all_that_it_started(http: httpx.Client, cluster: Cluster) -> None:
    job_id = _submit(http, cluster, script="#!/bin/sh\nsleep 301 &\nsleep 301\n")
    _until(http, job_id, "RUNNING")
    for _ in range(2):
        assert http.delete(f"/compute/workstation/jobs/{job_id}").status_code == 204
    assert _until(http, job_id, "CANCELLED")["time"]["end"] is not None
    deadline = time.monotonic() + 120
    while cluster.as_user("alice", ["pgrep", "-f", "sleep 301"], check=False).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_it_refuses(http: httpx.Client, cluster: Cluster) -> None:
    """The example refuses what it cannot do by the right status."""
    home = str(cluster.user("alice").home)
    for job, status in (
        ({"workingDirectory": f"{home}/nothing", "script": "#!/bin/sh\n"}, 400),
        ({"workingDirectory": home, "script": "#!/bin/sh\n", "env": {"A B": "x"}}, 400),
        ({"workingDirectory": home, "scriptPath": f"{home}/x"}, 501),
    ):
        answer = http.post("/compute/workstation/jobs", json={"job": job})
        assert (answer.status_code, answer.json()["errorType"]) == (status, "error")
    for job_id in ("1;id", "$(id)", "1", "99999999999999999999"):
        for answer in (
            http.get(f"/compute/workstation/jobs/{job_id}"),
            http.get(f"/compute/workstation/jobs/{job_id}/metadata"),
            http.delete(f"/compute/workstation/jobs/{job_id}"),
        ):
            assert answer.status_code == 404
            assert "Job not found" in answer.json()["message"]
    job_id = _submit(http, cluster, script="#!/bin/sh\n")
    assert http.put(f"/compute/workstation/jobs/{job_id}/attach", json={"command": "id"}).status_code == 501


def test_the_rest_of_the_contract(http: httpx.Client) -> None:
    assert http.get("/status/workstation/nodes").json()["nodes"][0]["cpus"] == os.cpu_count()
    (partition,) = http.get("/status/workstation/partitions").json()["partitions"]
    assert (partition["name"], partition["partition"]) == ("background", "UP")
    assert http.get("/status/workstation/reservations").json() == {"reservations": []}
    assert http.get("/status/workstation/userinfo").json()["accounts"] is None
    (system,) = http.get("/status/systems").json()["systems"]
    assert system["scheduler"]["type"] == "background"


def test_a_transfer_job(http: httpx.Client, cluster: Cluster) -> None:
    """Transfer jobs run on the example scheduler."""
    home = cluster.user("alice").home
    cluster.as_user("alice", ["touch", "from"])
    answer = http.post(
        "/filesystem/workstation/transfer/mv", json={"path": f"{home}/from", "targetPath": f"{home}/to 'x'"}
    )
    assert answer.status_code == 201, answer.text
    transfer = answer.json()["transferJob"]
    _until(http, transfer["jobId"], "COMPLETED")
    assert "Files were successfully" in Path(transfer["logs"]["outputLog"]).read_text()
    assert (home / "to 'x'").exists()


def test_check_knows_its_settings(cluster: Cluster, packages: Path, http: httpx.Client, tmp_path: Path) -> None:
    config = yaml.safe_load((cluster.directory / "example-gateway.yaml").read_text())
    for nice, status in ((5, 0), (50, 1)):
        config["clusters"][0]["scheduler"]["nice"] = nice
        (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(config))
        done = subprocess.run(
            [sys.executable, "-m", "hpcgate.cli", "check", str(tmp_path / "gateway.yaml")],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(packages)},
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
    assert "scheduler.nice" in done.stdout + done.stderr


def _unindented(text: str) -> str:
    return "".join(f"{line.strip()}\n" for line in text.splitlines() if line.strip())


def test_the_page_shows_what_is_in_the_package_and_names_every_method() -> None:
    page = (DOCUMENTS / "scheduler.md").read_text()
    files = [
        _unindented(path.read_text())
        for path in (DOCUMENTS / "example-scheduler").rglob("*")
        if path.suffix in (".py", ".toml") and path.is_file()
    ]
    blocks = re.findall(r"^```(?:python|toml)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        assert any(_unindented(block) in text for text in files), block
    for link in re.findall(r"\]\(([^)]+)\)", page):
        assert (DOCUMENTS / link).exists(), link
    for method in (*Scheduler.__abstractmethods__, "several", "close"):
        assert f"`{method}" in page, method
