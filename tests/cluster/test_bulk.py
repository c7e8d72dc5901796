"""Many jobs at a time by HTTP, on the real Slurm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from hpcgate.api.models.bulk import MAX_JOBS
from tests.people import Person

HOLD = "#!/bin/bash\n#SBATCH --hold\nexec sleep 600\n"


def bulk(person: Person, *jobs: dict[str, Any], keys: dict[int, str] | None = None) -> list[dict[str, Any]]:
    """Submit jobs; keys by the number of the job."""
    home = str(person.user.home)
    body: list[dict[str, Any]] = [{"job": {"workingDirectory": home, **job}} for job in jobs]
    for number, key in (keys or {}).items():
        body[number]["idempotencyKey"] = key
    answer = person.http.post("/compute/demo/jobs/bulk", json={"jobs": body})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["jobs"]
    assert len(found) == len(jobs)
    return found


def cancel(person: Person, **body: Any) -> list[dict[str, Any]]:
    answer = person.http.post("/compute/demo/jobs/cancel", json=body)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["jobs"]
    return found


def shown(person: Person, job_id: str) -> str:
    return person.cluster.slurm.run(["scontrol", "--oneliner", "show", "job", job_id])


@pytest.fixture
def nobody(alice: Person) -> Iterator[None]:
    """Leave no job of this test's behind."""
    yield
    alice.cluster.slurm.run(["scancel", f"--user={alice.user.name}"])


@pytest.mark.usefixtures("nobody")
def test_each_job_is_submitted_as_it_would_be_by_itself(alice: Person) -> None:
    at_path = alice.user.home / "at path.sh"
    alice.cluster.as_user(alice.user, ["tee", str(at_path)], input=HOLD + "#SBATCH -J from-path\n")
    name = "a|b, \"q\" 'x' $(id) `id` %j é"
    many = [{"script": HOLD, "name": f"many-{number}"} for number in range(9)]
    found = bulk(
        alice,
        {"script": HOLD, "name": name},
        {"script": HOLD, "partition": "nowhere"},
        {"script": HOLD.rstrip("\n"), "workingDirectory": "/nonexistent"},
        {"scriptPath": str(at_path)},
        {"script": HOLD.replace("\n", "\n#SBATCH --wait\n", 1), "name": "waits"},
        {"script": HOLD, "scriptPath": str(at_path)},
        {"script": HOLD, "env": {"A": "x\ny'\"\\"}},
        {"script": HOLD, "env": {"no name": "x"}},
        {"script": "echo\n"},
        *many,
        {"script": HOLD, "dependencies": [{"type": "afterok", "jobIds": ["99999999"]}]},
        {"script": HOLD, "array": "0-99999999"},
    )
    statuses = [one["error"] and one["error"]["status"] for one in found]
    assert statuses == [None, 400, 400, None, None, 400, None, 400, 400, *[None for _ in many], 400, 400]
    assert found[-2]["error"]["message"] == "dependencies: the scheduler knows no job 99999999"
    assert found[-1]["error"]["message"].startswith("array: ")
    assert "invalid partition" in found[1]["error"]["message"]
    ids = [one["jobId"] for one in found if one["jobId"]]
    assert len(set(ids)) == len(ids)
    assert f"JobName={name} " in shown(alice, found[0]["jobId"])
    assert "JobName=waits " in shown(alice, found[4]["jobId"])
    for number, one in enumerate(found[9:-2]):
        assert f"JobName=many-{number} " in shown(alice, one["jobId"])


@pytest.mark.usefixtures("nobody")
def test_a_key_of_one_of_many_is_that_of_a_request_for_it_alone(alice: Person) -> None:
    keys = [str(uuid4()) for _ in range(6)]
    jobs = [{"script": HOLD, "name": f"keyed-{number}"} for number in range(6)]
    alone = alice.http.post(
        "/compute/demo/jobs",
        json={"job": {"workingDirectory": str(alice.user.home), **jobs[2]}},
        headers={"Idempotency-Key": keys[2]},
    )
    first = bulk(alice, *jobs, keys=dict(enumerate(keys)))
    assert [one["replayed"] for one in first] == [False, False, True, False, False, False]
    assert first[2]["jobId"] == alone.json()["jobId"]
    again = bulk(alice, *jobs, keys=dict(enumerate(keys)))
    assert [(one["jobId"], one["replayed"]) for one in again] == [(one["jobId"], True) for one in first]
    other = bulk(alice, {**jobs[0], "name": "other"}, jobs[1], keys={0: keys[0], 1: keys[1]})
    assert other[0]["error"]["status"] == 422
    assert other[1]["jobId"] == first[1]["jobId"]
    refused = bulk(alice, {"script": HOLD, "partition": "nowhere"}, keys={0: str(uuid4())})
    assert refused[0]["error"]["status"] == 400
    state = alice.http.get(f"/compute/demo/submissions/{keys[5]}").json()
    assert (state["state"], state["jobId"]) == ("submitted", first[5]["jobId"])
    queue = alice.cluster.slurm.run(["squeue", "-h", "-u", alice.user.name, "-o", "%j"]).split()
    assert sorted(queue) == [f"keyed-{number}" for number in range(6)]


JOB = {"workingDirectory": "/", "script": HOLD}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("bulk", {"jobs": []}, "jobs"),
    ("bulk", {}, "jobs"),
    ("bulk", {"jobs": [{"job": JOB}] * (MAX_JOBS + 1)}, "jobs"),
    ("bulk", {"jobs": [{"job": JOB}, {"job": {"script": HOLD}}]}, "jobs.1.job.workingDirectory"),
    ("bulk", {"jobs": [{"job": JOB, "key": "x"}]}, "key"),
    ("bulk", {"jobs": [{"job": JOB, "idempotencyKey": ""}]}, "Idempotency-Key"),
    ("bulk", {"jobs": [{"job": JOB, "idempotencyKey": "x"}] * 2}, "twice"),
    ("cancel", {}, "ids"),
    ("cancel", {"ids": []}, "ids"),
    ("cancel", {"ids": ["1"], "name": "x"}, "ids"),
    ("cancel", {"ids": ["1"] * (MAX_JOBS + 1)}, "ids"),
    ("cancel", {"nodes": "x", "name": "y"}, "nodes"),
]


@pytest.mark.parametrize(("what", "body", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_a_list_of_jobs_is_refused(alice: Person, what: str, body: dict[str, Any], words: str) -> None:
    answer: httpx.Response = alice.http.post(f"/compute/demo/jobs/{what}", json=body)
    assert answer.status_code == 400, answer.text
    assert words in answer.text


@pytest.mark.usefixtures("nobody")
def test_jobs_are_cancelled_by_their_ids(alice: Person, bob: Person) -> None:
    his = bulk(bob, {"script": HOLD})[0]["jobId"]
    mine = [one["jobId"] for one in bulk(alice, *[{"script": HOLD} for _ in range(5)])]
    ended = bulk(alice, {"script": "#!/bin/sh\ntrue\n"})[0]["jobId"]
    deadline = time.monotonic() + 120
    while "JobState=COMPLETED" not in shown(alice, ended):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    ids = [*mine, his, "99999999", "no-id", ended, mine[0]]
    found = cancel(alice, ids=ids)
    assert [one["jobId"] for one in found] == ids[:-1]
    assert [one["error"] and one["error"]["status"] for one in found] == [None] * 5 + [403, 404, 404, None]
    assert "JobState=PENDING" in shown(bob, his)
    assert all("JobState=CANCELLED" in shown(alice, job_id) for job_id in mine)
    assert cancel(bob, ids=[his])[0]["error"] is None


@pytest.mark.usefixtures("nobody")
def test_ones_own_jobs_are_cancelled_by_what_they_are(alice: Person, bob: Person) -> None:
    his = bulk(bob, {"script": HOLD, "name": "sweep"})[0]["jobId"]
    jobs = [{"name": "sweep"}, {"name": "sweep"}, {"name": "other"}, {"name": "other", "account": "extra"}]
    one, two, three, four = (found["jobId"] for found in bulk(alice, *[{"script": HOLD, **job} for job in jobs]))
    assert cancel(alice, name="sweep", state="RUNNING") == []
    # Some are submitted at a time: their ids are in no order.
    assert {found["jobId"] for found in cancel(alice, name="sweep", state="pending")} == {one, two}
    assert [found["jobId"] for found in cancel(alice, account="extra")] == [four]
    assert [found["jobId"] for found in cancel(alice, state="PENDING")] == [three]
    assert "JobState=PENDING" in shown(bob, his)
    cancel(bob, ids=[his])
