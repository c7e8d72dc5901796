"""Submissions with an Idempotency-Key by HTTP, on the real Slurm."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import firecrest
import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.packages import program
from tests.people import Person

SLEEP = "#!/bin/bash\nexec sleep 600\n"
RECEIPTS = ".local/state/hpcgate/submissions"


def submit(person: Person, key: str | None, *, system: str = "demo", **job: Any) -> httpx.Response:
    body = {"name": "once", "workingDirectory": str(person.user.home), **job}
    if "scriptPath" not in body:
        body.setdefault("script", SLEEP)
    headers = {} if key is None else {"Idempotency-Key": key}
    return person.http.post(f"/compute/{system}/jobs", json={"job": body}, headers=headers)


def found(person: Person, key: str) -> dict[str, Any]:
    answer = person.http.get(f"/compute/demo/submissions/{key}")
    assert answer.status_code == 200, answer.text
    state: dict[str, Any] = answer.json()
    return state


def comments(person: Person) -> dict[str, str]:
    """Return the comments of the user's jobs by id."""
    user = person.user.name
    text = person.cluster.slurm.run(["squeue", "-h", "-a", "-t", "all", "-o", "%F %k", "-u", user])
    return dict(line.split(" ", 1) for line in text.splitlines())


def break_off(person: Person, *names: str) -> Path:
    """Make the newest receipt that of an attempt whose end nobody has seen."""
    newest = person.run("sh", "-c", f"ls -td {RECEIPTS}/*/ | head -1").strip()
    person.run("rm", "-f", *(f"{newest}{name}" for name in names or ("1.out", "1.end")))
    return Path(newest)


def test_the_same_request_is_the_same_job(alice: Person) -> None:
    key = str(uuid4())
    assert found(alice, key)["state"] == "not_submitted"
    first = submit(alice, key)
    assert first.status_code == 201, first.text
    assert "Idempotency-Replayed" not in first.headers
    before = comments(alice)
    for shown in (key, f'"{key}"'):
        again = submit(alice, shown)
        assert (again.status_code, again.json()) == (201, first.json())
        assert again.headers["Idempotency-Replayed"] == "true"
    assert comments(alice) == before
    assert found(alice, key) == {"state": "submitted", "jobId": first.json()["jobId"], "reason": None}
    other = submit(alice, key, name="other")
    assert other.status_code == 422
    assert comments(alice) == before


def test_bodies_that_say_the_same_are_the_same(alice: Person) -> None:
    """Whatever the order of their fields, the names that they go by, and what of them is null."""
    headers = {"Idempotency-Key": str(uuid4()), "Content-Type": "application/json"}
    job = {"name": "once", "workingDirectory": str(alice.user.home), "script": SLEEP, "resources": {"nodeCount": 1}}
    again: list[dict[str, Any]] = [
        dict(reversed(job.items())),
        {"working_directory" if name == "workingDirectory" else name: value for name, value in job.items()},
        {**job, "account": None, "mail": None},
        {**job, "resources": {"nodeCount": 1, "memory": None}},
    ]
    answers = [
        alice.http.post("/compute/demo/jobs", content=json.dumps({"job": one}, indent=indent), headers=headers)
        for indent, one in enumerate([job, *again])
    ]
    assert [answer.status_code for answer in answers] == [201] * 5, [answer.text for answer in answers]
    assert {answer.json()["jobId"] for answer in answers} == {answers[0].json()["jobId"]}
    body = {"jobs": [{"job": again[-1], "idempotencyKey": headers["Idempotency-Key"]}]}
    assert alice.http.post("/compute/demo/jobs/bulk", json=body).json()["jobs"][0]["replayed"] is True


def test_a_key_is_one_user_s(alice: Person, bob: Person) -> None:
    key = "first/of the day"
    mine, his = submit(alice, key), submit(bob, key)
    assert mine.json()["jobId"] != his.json()["jobId"]
    answer = alice.http.get("/compute/demo/submissions", params={"key": key})
    assert answer.json()["jobId"] == mine.json()["jobId"]


@pytest.mark.parametrize("key", ["", "x" * 256, '"', '"a', '"a"b', "a\tb"])
def test_what_is_no_key_is_refused(alice: Person, key: str) -> None:
    before = comments(alice)
    answer = submit(alice, key)
    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json()["message"]
    assert comments(alice) == before


def test_two_keys_are_refused(alice: Person) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    body = {"job": {"script": SLEEP, "workingDirectory": "/"}}
    answer = alice.http.post("/compute/demo/jobs", json=body, headers=headers)
    assert answer.status_code == 400


def test_a_refused_job_leaves_its_key_free(alice: Person) -> None:
    key = str(uuid4())
    refused = submit(alice, key, partition="nowhere")
    assert refused.status_code == 400
    assert "invalid partition" in refused.json()["message"]
    state = found(alice, key)
    assert state["state"] == "not_submitted"
    assert "invalid partition" in state["reason"]
    mended = submit(alice, key)
    assert mended.status_code == 201
    assert "Idempotency-Replayed" not in mended.headers


def test_a_job_whose_answer_was_lost_is_found_by_its_mark(alice: Person) -> None:
    key = str(uuid4())
    script = SLEEP.replace("\n", '\n#SBATCH --comment="my own"\n', 1)
    alice.cluster.as_user(alice.user, ["tee", "own.sh"], input=script)
    own = str(alice.user.home / "own.sh")
    for job in ({"script": script}, {"scriptPath": own}):
        job_id = submit(alice, key, **job).json()["jobId"]
        assert comments(alice)[job_id].startswith("my own hpcgate:")
        break_off(alice)
        assert found(alice, key)["jobId"] == job_id
        break_off(alice, "1.id")
        again = submit(alice, key, **job)
        assert again.json()["jobId"] == job_id
        assert again.headers["Idempotency-Replayed"] == "true"
        key = str(uuid4())


def test_a_job_that_the_controller_has_forgotten_is_found_in_the_history(alice: Person, tmp_path: Path) -> None:
    key = str(uuid4())
    job_id = submit(alice, key).json()["jobId"]
    place = break_off(alice)
    # It was made so long ago that the controller need not know it, and does not.
    words = alice.run("cat", f"{place}/1").split()
    words[3] = str(int(words[3]) - 3600)
    alice.cluster.as_user(alice.user, ["tee", f"{place}/1"], input=" ".join(words) + "\n")
    tools = alice.cluster.scratch / "forgetful"
    tools.mkdir(exist_ok=True)
    # The heading alone, which is what squeue prints of no jobs.
    (tools / "squeue").write_text(f'#!/bin/sh\n{program("squeue")} "$@" | head -n 1\n')
    for path in (tools, tools / "squeue"):
        path.chmod(0o755)
    alice.cluster.as_user(alice.user, ["tee", ".bashrc"], input=f"PATH={tools}:$PATH\n")
    try:
        until(lambda: found(alice, key)["state"] == "submitted", "the database is not told")
        assert found(alice, key)["jobId"] == job_id
    finally:
        alice.run("rm", ".bashrc")


def test_a_broken_off_attempt_without_a_job_is_made_again(alice: Person) -> None:
    key = str(uuid4())
    first = submit(alice, key).json()["jobId"]
    place = break_off(alice)
    # As if nothing had come of it: no job has its mark.
    words = alice.run("cat", f"{place}/1").split()
    words[1] = "hpcgate:nobody"
    alice.cluster.as_user(alice.user, ["tee", f"{place}/1"], input=" ".join(words) + "\n")
    assert found(alice, key)["state"] == "not_submitted"
    second = submit(alice, key)
    assert second.status_code == 201
    assert second.json()["jobId"] != first
    assert submit(alice, key).json() == second.json()


def test_a_directory_that_is_not_the_user_s_own(bob: Person) -> None:
    before = comments(bob)
    bob.run("sh", "-c", f"mv {RECEIPTS} {RECEIPTS}.aside 2>/dev/null; mkdir -p {RECEIPTS}; rmdir {RECEIPTS}")
    bob.run("ln", "-s", "/tmp", RECEIPTS)
    try:
        answer = submit(bob, str(uuid4()))
        assert answer.status_code == 403
        assert "nothing was submitted" in answer.json()["message"]
    finally:
        bob.run("rm", RECEIPTS)
    assert comments(bob) == before


def test_while_nobody_can_tell_nothing_is_submitted(cluster: Cluster, alice: Person) -> None:
    key = str(uuid4())
    job_id = submit(alice, key).json()["jobId"]
    break_off(alice)
    before = comments(alice)
    cluster.slurm.slurmctld.stop()
    try:
        answer = submit(alice, key)
        assert answer.status_code == 503
        assert "Retry-After" in answer.headers
        assert found(alice, key)["state"] == "unknown"
        fresh = submit(alice, str(uuid4()))
        assert fresh.status_code == 503
    finally:
        cluster.slurm.slurmctld.start()
    assert submit(alice, key).json()["jobId"] == job_id
    assert comments(alice).keys() == before.keys()


@pytest.mark.parametrize("verb", ["mv", "cp", "compress", "extract", "rm"])
def test_a_transfer_job_that_is_sent_twice_is_one_job(alice: Person, verb: str) -> None:
    home = str(alice.user.home)
    alice.run("sh", "-c", "date >once.txt; tar -czf once.tar.gz once.txt; mkdir -p once.d")
    headers = {"Idempotency-Key": str(uuid4())}
    path = f"/filesystem/demo/transfer/{verb}"
    target = {"extract": f"{home}/once.d", "compress": f"{home}/once-2.tar.gz"}.get(verb, f"{home}/once-2.txt")
    source = f"{home}/once.tar.gz" if verb == "extract" else f"{home}/once.txt"

    def send(source: str = source) -> httpx.Response:
        if verb == "rm":
            return alice.http.delete(path, params={"path": source, "account": "demo"}, headers=headers)
        body = {"sourcePath": source, "targetPath": target, "account": "demo"}
        return alice.http.post(path, json=body, headers=headers)

    first = send()
    assert first.status_code in (200, 201), first.text
    again = send()
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["Idempotency-Replayed"] == "true"
    assert send(f"{home}/other").status_code == 422
    assert found(alice, headers["Idempotency-Key"])["jobId"] == first.json()["transferJob"]["jobId"]


class Named:
    """What pyfirecrest takes its headers from, as the page for engines has it."""

    def __init__(self, token: str, key: str) -> None:
        self._token, self._key = token, key

    def auth_headers(self) -> dict[str, str]:
        return {"Authorization": self._token, "Idempotency-Key": self._key}


def test_pyfirecrest_sends_a_key(alice: Person) -> None:
    named = Named(alice.http.headers["Authorization"], str(uuid4()))
    client = firecrest.v2.Firecrest(str(alice.http.base_url).rstrip("/"), authorization=named)
    try:
        jobs = [client.submit("demo", working_dir=str(alice.user.home), script_str=SLEEP) for _ in range(2)]
    finally:
        client.close_session()
    assert jobs[0] == jobs[1]


@pytest.mark.parametrize(("disk", "status"), [("full", 507), ("read-only", 403)])
def test_without_room_for_a_receipt_nothing_is_submitted(
    cluster: Cluster, alice: Person, gateway_of: Callable[..., Gateway], disk: str, status: int
) -> None:
    """Neither alone nor among many."""
    place = cluster.mount_tmpfs("64k", user=alice.user)
    if disk == "full":
        alice.run("sh", "-c", f"cat /dev/zero >{place}/fill 2>/dev/null || true")
    else:
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    gateway = gateway_of(directory=f"{place}/{{username}}")
    before = comments(alice)
    with httpx.Client(base_url=gateway.url, headers=alice.http.headers, timeout=600) as http:
        person = Person(alice.user, http, cluster)
        answer = submit(person, str(uuid4()))
        assert answer.status_code == status, answer.text
        assert "nothing was submitted" in answer.json()["message"]
        job = {"workingDirectory": str(alice.user.home), "script": SLEEP}
        jobs = [{"job": job, "idempotencyKey": str(uuid4())} for _ in range(3)]
        found = http.post("/compute/demo/jobs/bulk", json={"jobs": jobs}).json()["jobs"]
        assert [one["error"]["status"] for one in found] == [status] * 3, found
    assert comments(alice) == before


def test_systems_say_what_they_promise(alice: Person) -> None:
    systems = {one["name"]: one["submissions"] for one in alice.http.get("/status/systems").json()["systems"]}
    assert systems["demo"] == {"exactlyOnce": True, "required": False, "lifetime": 86400}


def test_a_site_that_wants_keys(cluster: Cluster, alice: Person, gateway_of: Callable[..., Gateway]) -> None:
    gateway = gateway_of(required=True)
    with httpx.Client(base_url=gateway.url, headers=alice.http.headers, timeout=600) as http:
        person = Person(alice.user, http, cluster)
        assert submit(person, None).status_code == 400
        assert submit(person, str(uuid4())).status_code == 201


@pytest.fixture
def gateway_of(cluster: Cluster) -> Iterator[Callable[..., Gateway]]:
    """Start a gateway with settings of its own for submissions that happen once."""
    started: list[Gateway] = []

    def start(**settings: Any) -> Gateway:
        path = cluster.directory / "tests-once.yaml"
        clusters = [cluster.cluster_settings("demo")]
        started.append(
            cluster.start_gateway(cluster.write_gateway_config(path, clusters=clusters, idempotency=settings))
        )
        return started[-1]

    yield start
    for gateway in started:
        gateway.stop()


@pytest.fixture(autouse=True, scope="module")
def _clear(alice: Person, bob: Person) -> Any:
    yield
    for person in (alice, bob):
        person.cluster.slurm.run(["scancel", "-u", person.user.name])


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
