"""What is said of a job's script and files, over HTTP and on the real Slurm."""

from tests.people import Person


def test_a_job_without_a_script(alice: Person) -> None:
    """`srun` makes one: its script is null, as FirecREST says, and the rest is there."""
    job_id = alice.run("srun", "--chdir", str(alice.user.home), "sh", "-c", "echo $SLURM_JOB_ID").strip()
    answer = alice.http.get(f"/compute/demo/jobs/{job_id}/metadata")
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["jobs"]
    assert (found["jobId"], found["script"]) == (job_id, None)
