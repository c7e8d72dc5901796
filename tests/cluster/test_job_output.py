"""The output of jobs on the real Slurm, followed over HTTP: each byte is compared with the file that the job has."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Gateway
from tests.cluster.following import Event, Reading, events_in, following
from tests.cluster.streaming import SYSTEMS, place, token, wait_until
from tests.cluster.test_api_errors import assert_problem
from tests.people import Person

__all__ = ["place"]

LINES = 'i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo "$i é€😀"; echo "err $i" >&2; sleep 0.05; done\n'


def submit(person: Person, place: Path, script: str, **job: Any) -> str:
    body = {"job": {"script": "#!/bin/bash\n" + script, "workingDirectory": str(place), **job}}
    answer = person.http.post("/compute/demo/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["jobId"])


def address(gateway: Gateway, job_id: str, system: str = "demo") -> str:
    return f"{gateway.url}/compute/{system}/jobs/{job_id}/output"


def authorized(person: Person) -> dict[str, str]:
    return {"Authorization": token(person)}


@pytest.fixture
def ask(gateway: Gateway, alice: Person) -> Callable[..., httpx.Response]:
    def get(job_id: str, accept: str = "text/event-stream", who: Person = alice, **params: Any) -> httpx.Response:
        headers = authorized(who) | {"Accept": accept}
        return httpx.get(address(gateway, job_id), params=params, headers=headers, timeout=600)

    return get


def over(person: Person, job_id: str) -> bool:
    jobs = person.http.get(f"/compute/demo/jobs/{job_id}").json()["jobs"]
    return all(job["time"]["end"] is not None for job in jobs)


@pytest.mark.parametrize("system", SYSTEMS)
def test_output_is_followed_from_before_the_start_to_the_end(
    gateway: Gateway, alice: Person, place: Path, system: str
) -> None:
    job_id = submit(alice, place, f"#SBATCH --hold\n#SBATCH --output=out-%j-%x\n{LINES}exit 3\n", name="name")
    reading = Reading()
    with following(address(gateway, job_id, system), authorized(alice), follow="true") as events:
        reading.take(next(events))
        assert reading.names == ["waiting"]
        alice.run("scontrol", "release", job_id)
        *others, last = events
    for event in others:
        reading.take(event)
    assert reading.content == (place / f"out-{job_id}-name").read_text()
    assert reading.content.count("\n") == 80
    assert set(reading.names) <= {"waiting", "output"}
    assert {event.data["stream"] for event in others if event.name == "output"} == {"stdout"}
    assert last.name == "ended"
    assert last.id == str(len(reading.content.encode()))
    assert set(last.data) == {"jobId", "state", "stateReason", "exitCode", "interruptSignal"}
    assert (last.data["jobId"], last.data["state"], last.data["exitCode"]) == (job_id, "FAILED", 3)


def test_both_streams_are_followed_over_broken_connections(gateway: Gateway, alice: Person, place: Path) -> None:
    """Each event's id has the position of both, and a client that comes back loses and doubles nothing of either."""
    script = f"echo begins; echo begins >&2; while [ ! -e {place}/back ]; do sleep 0.1; done\n{LINES}"
    job_id = submit(alice, place, script, standardOutput=str(place / "out"), standardError=str(place / "err"))
    text, positions = {"stdout": "", "stderr": ""}, {"stdout": 0, "stderr": 0}
    last: str | None = None
    dice, connections, ended = random.Random(5), 0, False
    while not ended:
        connections += 1
        url = address(gateway, job_id)
        with following(url, authorized(alice), last, follow="true", stream="both") as events:
            if connections == 2:
                alice.run("touch", str(place / "back"))
            for _ in range(1 if connections == 1 else dice.choice((1, 2, 5))):
                event = next(events)
                if event.name == "output":
                    which = event.data["stream"]
                    assert event.data["offset"] == positions[which]
                    text[which] += event.data["text"]
                    positions[which] += len(event.data["text"].encode())
                    assert event.id == f"{positions['stdout']},{positions['stderr']}"
                last = event.id or last
                ended = event.name == "ended"
                if ended:
                    break
    assert connections > 1
    assert text == {"stdout": (place / "out").read_text(), "stderr": (place / "err").read_text()}
    assert text["stderr"].count("\n") == 41


def test_standard_error_in_the_same_file_is_told_once(
    alice: Person, place: Path, ask: Callable[..., httpx.Response]
) -> None:
    job_id = submit(alice, place, "echo out; echo err >&2\n", standardOutput=str(place / "all"))
    assert wait_until(lambda: over(alice, job_id))
    told = list(parsed(ask(job_id, stream="both")))
    assert [event.name for event in told] == ["output", "ended"]
    assert told[0].data["text"] == (place / "all").read_text() == "out\nerr\n"
    assert told[-1].id == "8"
    (only, _) = parsed(ask(job_id, stream="stderr"))
    assert (only.data["stream"], only.data["text"]) == ("stderr", "out\nerr\n")


def parsed(answer: httpx.Response) -> Iterator[Event]:
    assert answer.status_code == 200, answer.text
    return events_in(iter([answer.content]))


def test_tasks_of_an_array_have_each_its_own(alice: Person, place: Path, ask: Callable[..., httpx.Response]) -> None:
    script = "#SBATCH --array=1-2\n#SBATCH --output=%x-%A_%3a.txt\necho task $SLURM_ARRAY_TASK_ID\n"
    job_id = submit(alice, place, script, name="many")
    for task in (1, 2):
        told = list(parsed(ask(f"{job_id}_{task}", follow="true")))
        assert "".join(event.data["text"] for event in told if event.name == "output") == f"task {task}\n"
        assert (told[-1].name, told[-1].data["jobId"]) == ("ended", f"{job_id}_{task}")
        assert (place / f"many-{job_id}_00{task}.txt").read_text() == f"task {task}\n"
    assert_problem(ask(job_id), 400, f"{job_id}_1")


HELD = {
    "a task of an array": ("#SBATCH --array=3-9%2\n#SBATCH --output=%A-%a\necho it\n", "{}_4", "{}-4"),
    "a heterogeneous job": ("#SBATCH -n1\n#SBATCH --output=%j\n#SBATCH hetjob\n#SBATCH -n1\necho it\n", "{}", "{}"),
    "its first component": ("#SBATCH -n1\n#SBATCH --output=%j\n#SBATCH hetjob\n#SBATCH -n1\necho it\n", "{}+0", "{}"),
}


@pytest.mark.parametrize("kind", HELD)
def test_what_has_another_id_before_its_start_is_followed_to_its_end(
    gateway: Gateway, alice: Person, place: Path, kind: str
) -> None:
    """Tasks that wait together have one id, and a heterogeneous job those of its components."""
    script, asked, file = HELD[kind]
    job_id = submit(alice, place, script, hold=True)
    reading = Reading()
    with following(address(gateway, asked.format(job_id)), authorized(alice), follow="true") as events:
        reading.take(next(events))
        assert reading.names == ["waiting"]
        alice.run("scontrol", "release", job_id)
        *others, last = events
    for event in others:
        reading.take(event)
    assert reading.content == (place / file.format(job_id)).read_text() == "it\n"
    assert (last.name, last.data["state"], last.data["exitCode"]) == ("ended", "COMPLETED", 0)


def test_a_heterogeneous_job_has_the_output_of_its_first_component(
    alice: Person, place: Path, ask: Callable[..., httpx.Response]
) -> None:
    script = "#SBATCH -n1\n#SBATCH --output=het-%j\n#SBATCH hetjob\n#SBATCH -n1\necho from $SLURM_JOB_ID\n"
    job_id = submit(alice, place, script)
    told = list(parsed(ask(job_id, follow="true")))
    assert "".join(event.data["text"] for event in told if event.name == "output") == f"from {job_id}\n"
    assert told[-1].name == "ended"


def test_without_follow_it_is_what_there_is(alice: Person, place: Path, ask: Callable[..., httpx.Response]) -> None:
    """As events, bytes and lines of JSON, from an offset or the last lines on, while the job runs and afterwards."""
    out = place / "out"
    job_id = submit(alice, place, f"echo one; echo two; touch {place}/up; exec sleep 600\n", standardOutput=str(out))
    assert wait_until((place / "up").exists)
    assert [event.name for event in parsed(ask(job_id))] == ["output"]
    assert ask(job_id, "application/octet-stream").content == b"one\ntwo\n"
    assert ask(job_id, "application/octet-stream", offset="4").content == b"two\n"
    assert ask(job_id, "application/octet-stream", offset="-2").content == b"o\n"
    assert ask(job_id, "application/octet-stream", lines="1").content == b"two\n"
    assert_problem(ask(job_id, "application/octet-stream", offset="9"), 416)
    assert b'"text":"one\\ntwo\\n"' in ask(job_id, "application/x-ndjson").content
    alice.run("scancel", job_id)
    assert wait_until(lambda: over(alice, job_id))
    told = list(parsed(ask(job_id, follow="true")))
    assert [event.name for event in told] == ["output", "ended"]
    assert told[-1].data["state"].startswith("CANCELLED")


def test_bytes_end_with_the_job(alice: Person, place: Path, ask: Callable[..., httpx.Response]) -> None:
    job_id = submit(alice, place, LINES + "head -c 300000 /dev/urandom\n", standardOutput=str(place / "out"))
    answer = ask(job_id, "application/octet-stream", follow="true")
    assert answer.status_code == 200
    assert answer.content == (place / "out").read_bytes()
    assert len(answer.content) > 300_000


def test_a_job_that_never_starts_has_an_end(alice: Person, place: Path, gateway: Gateway) -> None:
    job_id = submit(alice, place, "#SBATCH --begin=now+1day\necho never\n")
    with following(address(gateway, job_id), authorized(alice), follow="true") as events:
        assert next(events).name == "waiting"
        alice.run("scancel", job_id)
        told = list(events)
    assert [event.name for event in told if event.name != "waiting"] == ["ended"]
    assert told[-1].data["state"].startswith("CANCELLED")


REFUSED: dict[str, tuple[dict[str, str], str, dict[str, str], int]] = {
    "an unknown stream": ({"stream": "log"}, "text/event-stream", {}, 400),
    "an offset that is none": ({"offset": "x"}, "text/event-stream", {}, 400),
    "two offsets for one": ({"offset": "1,2"}, "text/event-stream", {}, 400),
    "an offset from the end of both": ({"offset": "-1", "stream": "both"}, "text/event-stream", {}, 400),
    "offset and lines": ({"offset": "1", "lines": "2"}, "text/event-stream", {}, 400),
    "a mark of both": ({"offset": "1", "mark": "1.0.0", "stream": "both"}, "text/event-stream", {}, 400),
    "a mark that is none": ({"offset": "1", "mark": "x"}, "text/event-stream", {}, 400),
    "both as bytes": ({"stream": "both"}, "application/octet-stream", {}, 400),
    "an id that no event had": ({}, "text/event-stream", {"Last-Event-ID": "x"}, 400),
    "an id of both": ({}, "text/event-stream", {"Last-Event-ID": "1,2"}, 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(gateway: Gateway, alice: Person, name: str) -> None:
    params, accept, headers, status = REFUSED[name]
    given = authorized(alice) | {"Accept": accept} | headers
    answer = httpx.get(address(gateway, "1"), params=params, headers=given, timeout=600)
    assert_problem(answer, status, kind=answer.json()["errorType"])


def test_a_job_that_is_not_there_or_another_users_is_404_before_the_stream(
    alice: Person, bob: Person, place: Path, ask: Callable[..., httpx.Response]
) -> None:
    job_id = submit(alice, place, "#SBATCH --begin=now+1day\ntrue\n")
    for params in ({}, {"follow": "true"}):
        for unknown in ("99999999", "0", "x", f"{job_id}_7"):
            assert_problem(ask(unknown, **params), 404)
        assert_problem(ask(job_id, who=bob, **params), 404)
    alice.run("scancel", job_id)


def test_output_that_is_not_a_file_is_refused(alice: Person, place: Path, ask: Callable[..., httpx.Response]) -> None:
    job_id = submit(alice, place, "true\n", standardOutput="/dev/null")
    assert wait_until(lambda: over(alice, job_id))
    assert_problem(ask(job_id), 400)
    directory = place / "closed"
    alice.run("mkdir", str(directory))
    job_id = submit(alice, place, "true\n", standardOutput=str(directory / "out"))
    assert wait_until(lambda: over(alice, job_id))
    directory.joinpath("out").chmod(0)
    assert_problem(ask(job_id), 403)
