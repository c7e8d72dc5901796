"""What jobs are to wait for, where Slurm keeps no records and shows users their own jobs only."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Options
from hpcgate.demo.slurm import SlurmOptions

FIRST = 1000
WAITS = "#!/bin/bash\n#SBATCH --hold\nexec sleep 600\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    extra = f"FirstJobId={FIRST}\nPrivateData=jobs"
    options = Options(slurm=SlurmOptions(accounting=False, nodes=1, extra=extra), roles=("alice", "bob"), patience=60)
    with Cluster(options) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def http(cluster: Cluster) -> Iterator[httpx.Client]:
    gateway = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "gateway.yaml"))
    with httpx.Client(base_url=gateway.url, timeout=300) as client:
        yield client
    gateway.stop()


def job(cluster: Cluster, role: str, *ids: str) -> dict[str, object]:
    waits = [{"type": "afterany", "jobIds": list(ids)}] if ids else []
    return {"script": WAITS, "workingDirectory": str(cluster.user(role).home), "dependencies": waits}


def submit(cluster: Cluster, http: httpx.Client, role: str, *ids: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {cluster.token(role)}"}
    return http.post("/compute/demo/jobs", json={"job": job(cluster, role, *ids)}, headers=headers)


def test_a_job_waits_for_what_slurm_does_not_show(cluster: Cluster, http: httpx.Client) -> None:
    """That is another user's, or has been forgotten; only what there never was is refused."""
    array = {**job(cluster, "alice"), "array": "0-1"}
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    own = http.post("/compute/demo/jobs", json={"job": array}, headers=headers).json()["jobId"]
    hidden = submit(cluster, http, "bob").json()["jobId"]
    for role, waits_for, shown in (
        ("alice", hidden, f"Dependency=afterany:{hidden}"),
        ("alice", str(FIRST - 1), "JobState=PENDING"),
        ("alice", f"{own}_1", f"Dependency=afterany:{own}_1"),
    ):
        answer = submit(cluster, http, role, waits_for)
        assert answer.status_code == 201, answer.text
        assert shown in cluster.slurm.run(["scontrol", "-o", "show", "job", answer.json()["jobId"]])
    for unknown in ("99999999", f"{own}_7", "no-id"):
        answer = submit(cluster, http, "alice", hidden, unknown)
        assert (answer.status_code, answer.json()["message"].endswith(f"knows no job {unknown}")) == (400, True)


def test_a_scheduler_that_does_not_answer_is_the_error_of_those_that_wait(cluster: Cluster, http: httpx.Client) -> None:
    """The other jobs of a bulk are submitted all the same."""
    user = cluster.user("bob")
    tools = cluster.scratch / "silent"
    tools.mkdir(mode=0o755)
    (tools / "squeue").write_text("#!/bin/sh\nexec sleep 600\n")
    (tools / "squeue").chmod(0o755)
    other = submit(cluster, http, "bob").json()["jobId"]
    settings = cluster.cluster_settings("brief", scheduler={"timeout": 5})
    gateway = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "brief.yaml", clusters=[settings]))
    cluster.as_user(user, ["tee", ".bashrc"], input=f"PATH={tools}:$PATH\n")
    try:
        jobs = [{"job": job(cluster, "bob")}, {"job": job(cluster, "bob", other)}]
        headers = {"Authorization": f"Bearer {cluster.token('bob')}"}
        answer = httpx.post(f"{gateway.url}/compute/brief/jobs/bulk", json={"jobs": jobs}, headers=headers, timeout=300)
    finally:
        cluster.as_user(user, ["rm", ".bashrc"])
        gateway.stop()
    assert answer.status_code == 200, answer.text
    free, waiting = answer.json()["jobs"]
    assert free["jobId"]
    assert waiting["error"]["status"] == 408
