"""Many jobs at a time by HTTP, on the real Slurm."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from hpcgate.api.models.bulk import MAX_JOBS
from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.packages import program
from tests.faults.proxy import Proxy
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
    ("bulk", {"jobs": [{"job": JOB}, {"job": JOB, "idempotencyKey": ""}]}, "jobs.1.idempotencyKey: An Idempotency-Key"),
    ("bulk", {"jobs": [{"job": JOB, "idempotencyKey": "x" * 256}]}, "jobs.0.idempotencyKey: An Idempotency-Key"),
    ("bulk", {"jobs": [{"job": JOB, "idempotencyKey": "é"}]}, "jobs.0.idempotencyKey: An Idempotency-Key"),
    (
        "bulk",
        {"jobs": [{"job": JOB, "idempotencyKey": "y"}, *[{"job": JOB, "idempotencyKey": "x"}] * 2]},
        "jobs.2.idempotencyKey: a key is used twice, and is that of jobs.1",
    ),
    ("cancel", {}, "ids"),
    ("cancel", {"ids": []}, "ids"),
    ("cancel", {"ids": ["1"], "name": "x"}, "ids"),
    ("cancel", {"ids": ["1"] * (MAX_JOBS + 1)}, "ids"),
    ("cancel", {"nodes": "x", "name": "y"}, "nodes"),
    ("cancel", {"state": "PENDNG"}, "state: jobs have none of that name; there are BOOT_FAIL, "),
]


@pytest.mark.parametrize(("what", "body", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_a_list_of_jobs_is_refused(alice: Person, what: str, body: dict[str, Any], words: str) -> None:
    answer: httpx.Response = alice.http.post(f"/compute/demo/jobs/{what}", json=body)
    assert answer.status_code == 400, answer.text
    assert words in answer.text


def test_a_key_of_the_whole_request_is_refused(alice: Person) -> None:
    """It would promise what nobody keeps."""
    answer = alice.http.post(
        "/compute/demo/jobs/bulk", json={"jobs": [{"job": JOB}]}, headers={"Idempotency-Key": str(uuid4())}
    )
    assert answer.status_code == 400, answer.text
    assert "idempotencyKey" in answer.json()["message"]


@pytest.mark.usefixtures("nobody")
def test_nothing_is_cancelled_by_name_where_nobody_tells_what_there_is(alice: Person, tools: Path) -> None:
    """What the records alone know is not all that there is."""
    job_id = bulk(alice, {"script": HOLD, "name": "untold"})[0]["jobId"]
    alice.cluster.as_user(alice.user, ["tee", str(tools / "squeue")], input=SILENT)
    alice.run("chmod", "755", str(tools / "squeue"))
    answer = alice.http.post("/compute/demo/jobs/cancel", json={"name": "untold"})
    assert answer.status_code == 503, answer.text
    assert "JobState=PENDING" in shown(alice, job_id)


SILENT = "#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2\nexit 1\n"


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


# Says that it has begun and waits before a job of some name, until it is told to go on.
GATED = """\
#!/bin/sh
for word; do
  case $word in --job-name={name}) [ -e {place}/begun ] || {{ echo >{place}/begun; read -r go <{place}/gate; }} ;; esac
done
exec {sbatch} "$@"
"""
CUT = {
    "the connection, before any has ended": (0, "connection", True),
    "the connection, in the middle": (7, "connection", True),
    "the connection, at the last": (11, "connection", True),
    "the connection, without keys": (7, "connection", False),
    "the gateway, before any has ended": (0, "gateway", True),
    "the gateway, in the middle": (7, "gateway", True),
}
"""Before which of twelve jobs what dies, and whether they have keys."""


@pytest.mark.parametrize("what", CUT)
@pytest.mark.usefixtures("nobody")
def test_what_is_cut_amid_many_submissions_loses_and_doubles_none(
    alice: Person, gated: Callable[[str], Path], away: Away, what: str
) -> None:
    """Sent again with their keys they are one job each; without, none is submitted twice by us."""
    before, dies, keyed = CUT[what]
    names = [f"cut-{number}-{uuid4()}" for number in range(12)]
    place = gated(names[before])
    home = str(alice.user.home)
    jobs: list[dict[str, Any]] = [{"job": {"workingDirectory": home, "script": HOLD, "name": name}} for name in names]
    if keyed:
        for one in jobs:
            one["idempotencyKey"] = str(uuid4())
    gate = os.open(place / "gate", os.O_RDWR)
    try:
        with (
            httpx.Client(base_url=away.gateway.url, headers=alice.http.headers, timeout=600) as http,
            ThreadPoolExecutor(1) as pool,
        ):
            answer = pool.submit(http.post, "/compute/demo/jobs/bulk", json={"jobs": jobs})
            until((place / "begun").exists, "sbatch has not begun")
            found: list[dict[str, Any]] = []
            if dies == "connection":
                away.line.cut()
                found = told(answer.result())
            else:
                away.gateway.daemon.kill()
                away.gateway.daemon.start()
        os.write(gate, b"go on\n")
        running = ["sh", "-c", "pgrep -u $(id -u) -f '[_]hpcgate_word' || pgrep -u $(id -u) -x sbatch || true"]
        until(lambda: not alice.cluster.as_user(alice.user, running).stdout, "the submissions do not end")
    finally:
        os.close(gate)
    if keyed:
        again: list[dict[str, Any]] = []

        def all_are_told() -> bool:
            again[:] = told(alice.http.post("/compute/demo/jobs/bulk", json={"jobs": jobs}))
            assert {one["error"]["status"] for one in again if one["error"]} <= {409, 503}, again
            return all(one["jobId"] for one in again)

        until(all_are_told, "the jobs are not told of")
        assert len({one["jobId"] for one in again}) == len(names)
        assert all(was["jobId"] in (None, now["jobId"]) for now, was in zip(again, found, strict=False))
    queue = alice.cluster.slurm.run(["squeue", "-h", "-a", "-u", alice.user.name, "-o", "%j"]).split()
    count = Counter(name for name in queue if name in names)
    assert set(count.values()) == {1}, count
    assert len(count) == len(names) or not keyed


@pytest.mark.usefixtures("nobody")
def test_what_is_under_way_at_another_gateway_is_not_begun_again(
    alice: Person, gated: Callable[[str], Path], away: Away
) -> None:
    """It is told so, with when to ask again, alone and among many; then it is the same job."""
    name, headers = f"once-{uuid4()}", {"Idempotency-Key": str(uuid4())}
    place = gated(name)
    job = {"workingDirectory": str(alice.user.home), "script": HOLD, "name": name}
    keyed = {"jobs": [{"job": job, "idempotencyKey": headers["Idempotency-Key"]}]}
    gate = os.open(place / "gate", os.O_RDWR)
    try:
        with (
            httpx.Client(base_url=away.gateway.url, headers=alice.http.headers, timeout=600) as http,
            ThreadPoolExecutor(1) as pool,
        ):
            first = pool.submit(http.post, "/compute/demo/jobs", json={"job": job}, headers=headers)
            try:
                until((place / "begun").exists, "sbatch has not begun")
                second = alice.http.post("/compute/demo/jobs", json={"job": job}, headers=headers)
                assert (second.status_code, second.headers["Retry-After"]) == (409, "2"), second.text
                among_many = alice.http.post("/compute/demo/jobs/bulk", json=keyed).json()["jobs"]
                assert [one["error"]["status"] for one in among_many] == [409]
                other = alice.http.post("/compute/demo/jobs", json={"job": {**job, "hold": True}}, headers=headers)
                assert other.status_code == 422
                state = alice.http.get(f"/compute/demo/submissions/{headers['Idempotency-Key']}").json()
                assert state["state"] == "under_way"
            finally:
                os.write(gate, b"go on\n")
            job_id = ""
            while not job_id:
                answer = alice.http.post("/compute/demo/jobs", json={"job": job}, headers=headers)
                assert answer.status_code in (201, 409), answer.text
                job_id = answer.json().get("jobId", "")
            assert answer.headers["Idempotency-Replayed"] == "true"
            assert first.result().json().get("jobId", job_id) == job_id
    finally:
        os.close(gate)
    assert alice.http.post("/compute/demo/jobs/bulk", json=keyed).json()["jobs"][0]["jobId"] == job_id
    queue = alice.cluster.slurm.run(["squeue", "-h", "-a", "-u", alice.user.name, "-o", "%j"]).split()
    assert queue.count(name) == 1


def told(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return what an answer says of each job; that nothing can be told of any is an answer as well."""
    if answer.status_code != 200:
        assert answer.status_code in (408, 424), answer.text
        return []
    found: list[dict[str, Any]] = answer.json()["jobs"]
    return found


@pytest.fixture
def gated(alice: Person) -> Iterator[Callable[[str], Path]]:
    """Put a gate before the submission of a job."""
    place = alice.cluster.scratch / f"gate-{uuid4()}"

    def made(name: str) -> Path:
        alice.run("mkdir", str(place))
        alice.run("mkfifo", str(place / "gate"))
        text = GATED.format(name=name, place=place, sbatch=program("sbatch"))
        alice.cluster.as_user(alice.user, ["tee", str(place / "sbatch")], input=text)
        alice.run("chmod", "755", str(place), str(place / "sbatch"))
        alice.cluster.as_user(alice.user, ["tee", ".bashrc"], input=f"PATH={place}:$PATH\n")
        return place

    yield made
    alice.run("rm", "-rf", ".bashrc", str(place))


@pytest.fixture
def tools(alice: Person) -> Iterator[Path]:
    """Give a directory whose programs stand before all others for alice."""
    place = alice.user.home / "tools"
    alice.run("mkdir", str(place))
    alice.cluster.as_user(alice.user, ["tee", ".bashrc"], input=f"PATH={place}:$PATH\n")
    yield place
    alice.run("rm", "-rf", ".bashrc", str(place))


@dataclass(frozen=True, slots=True)
class Away:
    """Another gateway before the same cluster.

    Attributes:
        line: Its way to the login node.
        gateway: The gateway.
    """

    line: Proxy
    gateway: Gateway


@pytest.fixture(scope="module")
def away(cluster: Cluster) -> Iterator[Away]:
    """A gateway whose connections can be cut, and that can die."""
    with Proxy(cluster.sshd.port) as line:
        settings = cluster.cluster_settings("demo", ssh={"port": line.port}, probing=None)
        path = cluster.directory / "tests-bulk-cut.yaml"
        gateway = cluster.start_gateway(cluster.write_gateway_config(path, clusters=[settings]))
        yield Away(line, gateway)
        gateway.stop()


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
