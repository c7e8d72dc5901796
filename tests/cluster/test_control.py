"""What users do to jobs that they have, by HTTP, on the real Slurm; a new case is a row."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.people import Person

WAITS = "#!/bin/sh\n#SBATCH --begin=now+1day\n#SBATCH --comment=mine\nexec sleep 600\n"
RUNS = "#!/bin/bash\ntrap 'echo got >>got-$SLURM_JOB_ID' USR1\ntouch up-$SLURM_JOB_ID\nwhile :; do sleep 0.2; done\n"
FAR = 99_999_999


def submit(person: Person, script: str, **headers: str) -> str:
    body = {"job": {"script": script, "workingDirectory": str(person.user.home)}}
    answer = person.http.post("/compute/demo/jobs", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["jobId"])


def job(person: Person, job_id: str) -> dict[str, Any]:
    answer = person.http.get(f"/compute/demo/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["jobs"][0]
    return found


def shown(person: Person, job_id: str) -> str:
    return person.cluster.slurm.run(["scontrol", "--oneliner", "show", "job", job_id])


def until(told: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 120
    while not told():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def is_there(person: Person, name: str) -> bool:
    return (person.user.home / name).exists()


LIVING = {
    "waits": "alice",
    "runs": "alice",
    "fixed": "alice",
    "array": "alice",
    "leads": "alice",
    "follows": "alice",
    "his": "bob",
}
"""Jobs that have not ended, and whose they are."""


@pytest.fixture(scope="module")
def made(alice: Person, bob: Person) -> Iterator[dict[str, str]]:
    """The jobs of `jobs`, as long as they are there."""
    found: dict[str, str] = {}
    yield found
    for name, role in LIVING.items():
        if name in found:
            {"alice": alice, "bob": bob}[role].http.delete(f"/compute/demo/jobs/{found[name]}")


@pytest.fixture
def jobs(alice: Person, bob: Person, made: dict[str, str]) -> dict[str, str]:
    """Jobs by what they do; made anew if they are gone, as all are behind a test that has failed."""
    queue = alice.cluster.slurm.run(["squeue", "-h", "-a", "-o", "%F"]).split()
    if made and all(made[name] in queue for name in LIVING):
        return made
    made |= {
        "waits": submit(alice, WAITS),
        "runs": submit(alice, RUNS),
        "fixed": submit(alice, RUNS.replace("\n", "\n#SBATCH --no-requeue\n", 1)),
        "ended": submit(alice, "#!/bin/sh\ntrue\n"),
        "array": submit(alice, WAITS.replace("\n", "\n#SBATCH --array=1-4\n", 1)),
        "leads": (leads := submit(alice, WAITS)),
        "follows": submit(alice, WAITS.replace("\n", f"\n#SBATCH --dependency=afterany:{leads}\n", 1)),
        "his": submit(bob, WAITS),
        "unknown": str(FAR),
    }
    until(lambda: job(alice, made["ended"])["status"]["state"] == "COMPLETED", "the job does not end")
    until(lambda: all(is_there(alice, f"up-{made[name]}") for name in ("runs", "fixed")), "the jobs do not start")
    return made


def send(person: Person, job_id: str, what: str, body: Any = None) -> httpx.Response:
    path = f"/compute/demo/jobs/{job_id}"
    if what == "patch":
        return person.http.patch(path, json=body)
    if what == "signal":
        return person.http.post(f"{path}/signal", json={"signal": body})
    return person.http.put(f"{path}/{what}")


def test_a_job_is_held_and_released(alice: Person, jobs: dict[str, str]) -> None:
    for job_id in (jobs["waits"], f"{jobs['array']}_[1-2,4]", f"{jobs['array']}_3"):
        assert send(alice, job_id, "hold").status_code == 204
        assert job(alice, job_id)["status"]["stateReason"] == "JobHeldUser"
        assert send(alice, job_id, "release").status_code == 204
        assert job(alice, job_id)["status"]["stateReason"] != "JobHeldUser"


def test_a_signal_reaches_the_batch_script(alice: Person, jobs: dict[str, str]) -> None:
    for signal in ("USR1", "sigusr1", "10"):
        assert send(alice, jobs["runs"], "signal", signal).status_code == 204
        until(lambda: is_there(alice, f"got-{jobs['runs']}"), f"{signal} does not arrive")
        alice.run("rm", f"got-{jobs['runs']}")
    assert job(alice, jobs["runs"])["status"]["state"] == "RUNNING"


def test_a_job_is_requeued(alice: Person) -> None:
    job_id = submit(alice, RUNS)
    until(lambda: is_there(alice, f"up-{job_id}"), "the job does not start")
    assert send(alice, job_id, "requeue").status_code == 204
    until(lambda: "Restarts=1" in shown(alice, job_id), "the job is not requeued")
    assert alice.http.delete(f"/compute/demo/jobs/{job_id}").status_code == 204


CHANGES: list[tuple[dict[str, Any], list[str]]] = [
    ({"timeLimit": 61}, ["TimeLimit=00:02:00"]),
    ({"time_limit": 1800, "partition": "debug"}, ["TimeLimit=00:30:00", "Partition=debug"]),
    ({"name": "a b,c=d 'e' \"f\" $(id)"}, ["JobName=a b,c=d 'e' \"f\" $(id)"]),
    ({"name": "--name"}, ["JobName=--name"]),
    ({"comment": "new, words"}, ["Comment=new, words hpcgate:"]),
    ({"comment": ""}, ["Comment=hpcgate:"]),
    ({"dependencies": [{"type": "afterany", "jobIds": ["{runs}", "{fixed}"]}]}, ["Dependency=afterany:{runs}"]),
    ({"dependencies": []}, ["Dependency=(null)"]),
    ({"name": "plain", "partition": None}, ["JobName=plain"]),
]


@pytest.mark.parametrize(("changes", "wanted"), CHANGES)
def test_a_job_is_changed(alice: Person, jobs: dict[str, str], changes: dict[str, Any], wanted: list[str]) -> None:
    for one in changes.get("dependencies") or []:
        one["jobIds"] = [name.format(**jobs) for name in one["jobIds"]]
    answer = send(alice, jobs["waits"], "patch", changes)
    assert answer.status_code == 204, answer.text
    now = shown(alice, jobs["waits"])
    for words in wanted:
        assert words.format(**jobs) in now


def test_a_new_comment_keeps_the_mark_of_a_submission(alice: Person) -> None:
    key = str(uuid4())
    job_id = submit(alice, WAITS, **{"Idempotency-Key": key})
    before = shown(alice, job_id).partition("Comment=mine ")[2].split()[0]
    assert before.startswith("hpcgate:")
    for comment in ("other", "hpcgate:0123456789abcdef"):
        assert send(alice, job_id, "patch", {"comment": comment}).status_code == 204
        assert before in shown(alice, job_id)
        assert "hpcgate:0123456789abcdef" not in shown(alice, job_id)
    assert alice.http.delete(f"/compute/demo/jobs/{job_id}").status_code == 204


REFUSALS: list[tuple[str, str, Any, int, str]] = [
    *[("his", what, None, 403, "") for what in ("hold", "release", "requeue", "suspend", "resume")],
    ("his", "signal", "TERM", 403, "Access/permission denied"),
    ("his", "patch", {"name": "x"}, 403, "Invalid user id"),
    ("his", "patch", {"comment": "x"}, 403, "Invalid user id"),
    *[("unknown", what, None, 404, "Job not found") for what in ("hold", "release", "requeue", "suspend", "resume")],
    ("unknown", "signal", "TERM", 404, "Job not found"),
    ("unknown", "patch", {"name": "x"}, 404, "Job not found"),
    ("unknown", "patch", {"comment": "x"}, 404, "Job not found"),
    ("no-id", "hold", None, 404, "Job not found"),
    ("0", "hold", None, 404, "Job not found"),
    ("ended", "hold", None, 409, ""),
    ("ended", "release", None, 409, ""),
    ("ended", "signal", "TERM", 409, ""),
    ("ended", "patch", {"name": "x"}, 409, ""),
    ("ended", "patch", {"comment": "x"}, 409, ""),
    ("waits", "requeue", None, 409, "pending"),
    ("waits", "signal", "TERM", 409, "pending"),
    ("fixed", "requeue", None, 409, "disabled"),
    ("runs", "suspend", None, 403, "denied"),
    ("runs", "resume", None, 403, "denied"),
    *[("runs", "signal", name, 400, "signal") for name in ("", "NO", "0", "99", "-9", "USR1;id", "9 9", "²")],
    ("waits", "patch", {}, 400, "at least one field"),
    ("waits", "patch", {"timeLimit": None}, 400, "at least one field"),
    ("waits", "patch", {"timeLimit": 0}, 400, "timeLimit"),
    ("waits", "patch", {"timeLimit": 10**12}, 400, "timeLimit"),
    ("waits", "patch", {"partition": "nowhere"}, 400, "partition"),
    ("waits", "patch", {"priority": -5}, 400, "priority"),
    ("waits", "patch", {"priority": 4294967294}, 400, "priority"),
    ("waits", "patch", {"name": ""}, 400, "name"),
    ("waits", "patch", {"name": "a\0b"}, 400, "name"),
    ("waits", "patch", {"name": "x" * 2000}, 400, "name"),
    ("waits", "patch", {"nice": 5}, 400, "nice"),
    ("waits", "patch", {"dependencies": [{"type": "afterok", "jobIds": []}]}, 400, "jobIds"),
    ("waits", "patch", {"dependencies": [{"type": "whenever", "jobIds": ["1"]}]}, 400, "type"),
    ("waits", "patch", {"dependencies": [{"type": "afterok", "jobIds": ["1,singleton"]}]}, 400, "dependencies"),
    (
        "waits",
        "patch",
        {"dependencies": [{"type": "afterok", "jobIds": ["{waits}"]}]},
        400,
        "dependencies: the job {waits}",
    ),
    ("waits", "patch", {"dependencies": [{"type": "afterok", "jobIds": ["{runs}", "{unknown}"]}]}, 400, "{unknown}"),
    (
        "leads",
        "patch",
        {"dependencies": [{"type": "afterok", "jobIds": ["{follows}"]}]},
        400,
        "dependencies: Circular job",
    ),
]


@pytest.mark.parametrize(("which", "what", "body", "status", "words"), REFUSALS)
def test_what_cannot_be_done_is_refused(
    alice: Person, jobs: dict[str, str], which: str, what: str, body: Any, status: int, words: str
) -> None:
    for one in body.get("dependencies") or [] if isinstance(body, dict) else []:
        one["jobIds"] = [name.format(**jobs) for name in one["jobIds"]]
    answer = send(alice, jobs.get(which, which), what, body)
    assert answer.status_code == status, answer.text
    assert words.format(**jobs) in answer.text


def test_a_job_that_the_controller_has_forgotten_has_ended(alice: Person, jobs: dict[str, str]) -> None:
    tools = alice.cluster.scratch / "forgetting"
    tools.mkdir(exist_ok=True)
    (tools / "scontrol").write_text('#!/bin/sh\necho "Invalid job id specified for job $3" >&2\nexit 1\n')
    for path in (tools, tools / "scontrol"):
        path.chmod(0o755)
    until(lambda: alice.run("sacct", "-nXj", jobs["ended"], "-o", "end").strip().startswith("2"), "sacct knows no end")
    alice.cluster.as_user(alice.user, ["tee", ".bashrc"], input=f"PATH={tools}:$PATH\n")
    try:
        answer = send(alice, jobs["ended"], "hold")
        assert answer.status_code == 409, answer.text
        assert "COMPLETED" in answer.json()["message"]
    finally:
        alice.run("rm", ".bashrc")


OPERATORS = frozenset({"suspend", "resume"})
"""What users may not do."""
RUNNING = frozenset({"attach", "signal", "requeue", *OPERATORS})
LAST = ("requeue", "cancel")
"""Parts of paths whose operations come last: behind them the jobs are not what they were."""


def test_all_examples_of_the_document_can_be_sent(alice: Person) -> None:
    """Each operation on jobs and on a system's state is sent as its example has it, and does what it is for."""
    document = alice.http.get("/openapi.json").json()
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        if path.startswith(("/compute/", "/status/{system_name}/"))
        for method, operation in methods.items()
    ]
    assert len(operations) >= 20
    made = [submit(alice, WAITS), submit(alice, WAITS), submit(alice, RUNS)]
    waits, other, runs = made
    until(lambda: is_there(alice, f"up-{runs}"), "the job does not start")

    def real(value: Any) -> Any:
        text = json.dumps(value).replace("/scratch/alice", str(alice.user.home))
        for example, job_id in (("4710", other), ("4711", waits), ("4712", other)):
            text = text.replace(f'"{example}"', f'"{job_id}"')
        return json.loads(text)

    try:
        for path, method, operation in sorted(operations, key=lambda one: (one[1] == "delete", _rank(one[0]), one[0])):
            last = path.rpartition("/")[2]
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            bodies = [each["value"] for each in content.get("examples", {}).values()] or [content.get("example")]
            given = [each for each in operation.get("parameters", ()) if "example" in each]
            places = {each["name"]: str(each["example"]) for each in given if each["in"] == "path"}
            places |= {"system_name": "demo"} | (
                {"job_id": runs if last in RUNNING else waits} if "job_id" in places else {}
            )
            query = {each["name"]: each["example"] for each in given if each["in"] == "query"}
            if last == "events":
                with alice.http.stream(method, path.format(**places), params=query) as stream:
                    assert stream.status_code == 200  # it has no end
                continue
            for body in bodies:
                answer = alice.http.request(method, path.format(**places), params=query, json=real(body))
                wanted = {403} if last in OPERATORS else {200, 201, 204}
                assert answer.status_code in wanted, (method, path, body, answer.text)
                if last in ("bulk", "cancel"):
                    assert [one["error"] for one in answer.json()["jobs"]] == [None, None], answer.text
                if method == "post" and last in ("jobs", "bulk"):
                    made += [one["jobId"] for one in answer.json().get("jobs", [answer.json()])]
    finally:
        alice.cluster.slurm.run(["scancel", *made])


def _rank(path: str) -> int:
    last = path.rpartition("/")[2]
    return LAST.index(last) + 1 if last in LAST else 0
