"""The calls of the clients for jobs, held against what Slurm's own commands say."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from firecrest.FirecrestException import JobTimeoutException

from tests.clients.clients import Make, Site
from tests.people import Person

Put = Callable[[Path, bytes], Path]
Submit = Callable[..., str]

HELLO = """\
#!/bin/bash
#SBATCH --job-name=hello
#SBATCH --output=%j.out
echo "hello $GREETING from $(pwd) by $(id -un) in $SLURM_JOB_ID"
"""
HELD = """\
#!/bin/bash
#SBATCH --job-name=held
#SBATCH --hold
true
"""
LONG = """\
#!/bin/bash
#SBATCH --job-name=long
touch started
sleep 60
"""


@pytest.fixture
def submit(client: Any, site: Site, place: Path) -> Iterator[Submit]:
    """A function that submits a job and returns its id; what still runs at the end is cancelled."""
    ids = []

    def submit(**options: Any) -> str:
        answer = client.submit(site.name, str(place), **options)
        assert set(answer) == {"jobId"}
        ids.append(str(answer["jobId"]))
        assert site.job(ids[-1])["JobId"] == ids[-1]
        return ids[-1]

    yield submit
    if ids:
        site.run("scancel", *ids)


def wait_until(condition: Callable[[], bool], timeout: float = 120.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def ids_of(jobs: list[dict[str, Any]]) -> set[str]:
    return {str(job["jobId"]) for job in jobs}


def test_submit_from_all_sources(
    client: Any, site: Site, submit: Submit, place: Path, put: Put, tmp_path: Path
) -> None:
    (tmp_path / "local.sh").write_text(HELLO)
    remote = put(place / "remote.sh", HELLO.encode())
    greeting = 'it\'s $(id) a "day", a=b'
    ids = [
        submit(script_str=HELLO, env_vars={"GREETING": greeting}),
        submit(script_local_path=str(tmp_path / "local.sh"), env_vars={"GREETING": greeting}),
        submit(script_remote_path=str(remote), env_vars={"GREETING": greeting}),
    ]
    assert len(set(ids)) == 3
    for job_id in ids:
        (job,) = client.wait_for_job(site.name, job_id)
        truth = site.job(job_id)
        assert job["status"]["state"] == truth["JobState"] == "COMPLETED"
        assert job["status"]["exitCode"] == 0
        assert job["name"] == truth["JobName"] == "hello"
        assert job["user"] == site.user.name
        assert job["workingDirectory"] == truth["WorkDir"] == str(place)
        assert job["partition"] == "normal"
        assert job["nodes"] == truth["NodeList"]
        assert job["time"]["start"] <= job["time"]["end"]
        said = (place / f"{job_id}.out").read_text()
        assert said == f"hello {greeting} from {place} by {site.user.name} in {job_id}\n"


def test_submit_to_a_partition_and_an_account(client: Any, site: Site, submit: Submit) -> None:
    job_id = submit(script_str=HELD, account="extra", partition="debug")
    truth = site.job(job_id)
    assert (truth["Account"], truth["Partition"]) == ("extra", "debug")
    (job,) = client.job_info(site.name, job_id)
    assert (job["account"], job["partition"]) == ("extra", "debug")


def test_submit_to_a_reservation(client: Any, site: Site, submit: Submit) -> None:
    name = site.slurm.reserve("clients-submit", [site.user.name], start="now+3hours")
    try:
        job_id = submit(script_str=HELD, reservation=name)
        assert site.job(job_id)["Reservation"] == name
        client.cancel_job(site.name, job_id)
        wait_until(lambda: site.job(job_id)["JobState"] == "CANCELLED")
    finally:
        site.slurm.release(name)


def test_job_info(client: Any, site: Site, submit: Submit) -> None:
    """The client is told the state of one job."""
    job_id = submit(script_str=HELD)
    (job,) = client.job_info(site.name, jobid=job_id)
    assert job["jobId"] == job_id
    assert job["name"] == "held"
    assert job["status"]["state"] == "PENDING"
    assert job["status"]["stateReason"] == "JobHeldUser"
    assert job["time"]["end"] is None


def test_lists_of_jobs(client: Any, site: Site, submit: Submit, bob: Person) -> None:
    """The client lists its user's jobs, and by filters those of others."""
    mine = submit(script_str=HELD, account="demo")
    other = submit(script_str=HELD.replace("held", "other"), account="extra")
    batch = site.cluster.as_user(bob.user, ["sbatch", "--parsable", "--hold", "--wrap", "true"], slurm=site.slurm)
    foreign = batch.stdout.strip()
    try:
        # The version that these filters came with, and that the gateway's answers name.
        client.set_api_version("2.6.0")
        listed = ids_of(client.job_info(site.name))
        assert {mine, other} <= listed
        assert foreign not in listed
        assert {mine, other, foreign} <= ids_of(client.job_info(site.name, allusers=True))
        by_account = client.job_info(site.name, account="extra")
        assert other in ids_of(by_account)
        assert {job["account"] for job in by_account} == {"extra"}
        by_name = client.job_info(site.name, name="other")
        assert other in ids_of(by_name)
        assert {job["name"] for job in by_name} == {"other"}
        assert client.job_info(site.name, name="no such name") == []
    finally:
        site.cluster.as_user(bob.user, ["scancel", foreign], slurm=site.slurm)


def test_lists_of_finished_jobs(client: Any, site: Site, submit: Submit) -> None:
    job_id = submit(script_str=HELD)
    client.cancel_job(site.name, job_id)
    client.set_api_version("2.6.0")
    for window in ("1h", "8h", "24h", "3d", "7d"):
        jobs = {job["jobId"]: job for job in client.job_info(site.name, time_window=window)}
        assert jobs[job_id]["status"]["state"].startswith("CANCELLED")


def test_the_version_is_learned_from_the_first_answer(make_client: Make, site: Site) -> None:
    client = make_client()
    client.systems()
    # pyfirecrest refuses either, once it has seen a version before 2.6.0.
    assert client.job_info(site.name, name="nobody's", time_window="1h") == []


def test_wait_for_job_cancels_when_out_of_time(client: Any, site: Site, submit: Submit) -> None:
    job_id = submit(script_str=HELD)
    with pytest.raises(JobTimeoutException):
        client.wait_for_job(site.name, job_id, timeout=0.1)
    assert site.job(job_id)["JobState"] == "CANCELLED"


def test_job_metadata(client: Any, site: Site, submit: Submit, place: Path) -> None:
    """The client is told the script and streams of a job."""
    script = HELD.replace("true", "#SBATCH --output=out-%j.txt\n#SBATCH --error=err.txt\necho 'a $(b) é'")
    job_id = submit(script_str=script)
    (metadata,) = client.job_metadata(site.name, job_id)
    assert metadata["jobId"] == job_id
    assert metadata["script"] == script
    assert metadata["standardOutput"] == str(place / f"out-{job_id}.txt")
    assert metadata["standardError"] == str(place / "err.txt")
    assert metadata["standardInput"] == "/dev/null"


def test_attach_and_cancel_a_running_job(client: Any, site: Site, submit: Submit, place: Path) -> None:
    job_id = submit(script_str=LONG)
    wait_until((place / "started").exists)
    command = f"echo \"$SLURM_JOB_ID $(id -un) it's\" > '{place}/attached'"
    assert client.attach_to_job(site.name, job_id, command) == {}
    wait_until(lambda: (place / "attached").exists() and (place / "attached").stat().st_size > 0)
    assert (place / "attached").read_text() == f"{job_id} {site.user.name} it's\n"
    assert site.job(job_id)["JobState"] == "RUNNING"

    assert client.cancel_job(site.name, job_id) == {}
    wait_until(lambda: site.job(job_id)["JobState"] == "CANCELLED")
    (job,) = client.wait_for_job(site.name, job_id)
    assert job["status"]["state"].startswith("CANCELLED")
    client.cancel_job(site.name, job_id)


def test_what_firecrest_ui_sends_is_taken_and_what_of_it_is_not_used_is_said(alice: Person, place: Path) -> None:
    # As its app/types/api-compute.ts makes it, `environment` among the rest.
    job = {
        "script": "#!/bin/sh\ntrue\n", "working_directory": str(place), "name": "from-the-ui",
        "standard_output": str(place / "out"), "environment": {"A": "b"},
    }  # fmt: skip
    answer = alice.http.post("/compute/demo/jobs", json={"job": job})
    assert answer.status_code == 201, answer.text
    assert answer.headers["X-Hpcgate-Warning"].startswith("job.environment is not used")
    answer = alice.http.post("/compute/demo/jobs", json={"job": job | {"tasks": "1-3"}})
    assert (answer.status_code, answer.json()["message"]) == (400, "Validation error: unknown fields job.tasks")
