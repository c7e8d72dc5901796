"""Events of jobs on the real Slurm: each is compared with what ``sacct --duplicates`` says in the end."""

import json
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.gateway.job_changes import Position
from hpcgate.schedulers.slurm.states import LISTED
from tests.cluster.following import Event, events_in, following
from tests.cluster.streaming import token
from tests.people import Person

SHORT = ["true", "exit 3", "sleep 1", "sleep 3", "kill -9 $$"]
CHANGES = {"job.submitted", "job.requeued", "job.started", "job.ended"}


@pytest.fixture(scope="module")
def watched(cluster: Cluster) -> Iterator[Gateway]:
    """A gateway that asks often."""
    settings = cluster.cluster_settings("demo", events={"interval": 1})
    running = cluster.start_gateway(
        cluster.write_gateway_config(cluster.directory / "events.yaml", clusters=[settings])
    )
    yield running
    running.stop()


@dataclass
class Client:
    """Reads events for as long as it is told to, over connections that it drops at random."""

    url: str
    headers: dict[str, str]
    dice: random.Random
    parameter: bool
    told: list[Event] = field(default_factory=list)
    last: str | None = None
    stopping: bool = False
    began: threading.Event = field(default_factory=threading.Event)
    failed: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stopping:
                self._connect(self.dice.choice([1, 2, 5, 20, 1000]), self.dice.uniform(0.5, 8))
        except BaseException as error:
            self.failed = error

    def _connect(self, most: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        headers = self.headers | {"Accept": "text/event-stream"}
        params = {}
        if self.last is not None and self.parameter:
            params["after"] = self.last
        elif self.last is not None:
            headers["Last-Event-ID"] = self.last
        with httpx.stream("GET", self.url, headers=headers, params=params, timeout=600) as answer:
            assert answer.status_code == 200, answer.read()
            try:
                for event in events_in(self._blocks(answer, until)):
                    assert event.name != "failed", event
                    self.told.append(event)
                    self.last = event.id or self.last
                    self.began.set()
                    most -= 1
                    if not most:
                        return
            except httpx.ReadTimeout:
                return

    def _blocks(self, answer: httpx.Response, until: float) -> Iterator[bytes]:
        for block in answer.iter_bytes():
            yield block
            if time.monotonic() > until and self.last is not None:
                return


def changes(told: list[Event], ids: set[str]) -> dict[str, list[tuple[str, int]]]:
    found: dict[str, list[tuple[str, int]]] = {}
    for event in told:
        if event.name in CHANGES and base(event.data["jobId"]) in ids:
            found.setdefault(event.data["jobId"], []).append((event.name, event.data["changedAt"]))
    return found


def recorded(person: Person, ids: set[str]) -> dict[str, list[tuple[str, int]]]:
    """Return what the database says of these jobs, in the same form."""
    out = person.run(
        "env", "SLURM_TIME_FORMAT=%s", "SLURM_BITSTR_LEN=0", "sacct", "--duplicates", "--allocations", "--noheader",
        "--parsable2", "--starttime=now-2hours", "--endtime=now+1minute", "--state=" + ",".join((*LISTED, "REQUEUED")),
        "--format=JobID,Submit,Start,End,NodeList",
    )  # fmt: skip
    rows: dict[str, list[list[str]]] = {}
    for line in out.splitlines():
        shown, *row = line.split("|")
        for one in tasks(shown) if base(shown) in ids else ():
            rows.setdefault(one, []).append(row)
    found: dict[str, list[tuple[str, int]]] = {}
    for job_id, its in rows.items():
        # A run is a job and the second of its submission: tasks that have begun may still stand in the record of their
        # array, too, which has no nodes.
        own = {row[0] for row in its if row[3] not in ("", "None assigned")}
        its = [row for row in its if row[3] not in ("", "None assigned") or row[0] not in own]
        its.sort(key=lambda row: int(row[0]))
        of_job = found.setdefault(job_id, [])
        for place, (submitted, start, end, nodes) in enumerate(its):
            of_job.append(("job.requeued" if place else "job.submitted", int(submitted)))
            if start.isdigit() and nodes not in ("", "None assigned"):
                of_job.append(("job.started", max(int(start), int(submitted))))
            if end.isdigit():
                # Slurm gives a run that is requeued in the second of its submission the next one.
                of_job.append(("job.ended", max(int(end), int(submitted))))
    return found


def in_records(
    told: dict[str, list[tuple[str, int]]], expected: dict[str, list[tuple[str, int]]]
) -> dict[str, list[tuple[str, int]]]:
    """Return what was told without jobs that sacct leaves out: Slurm 24.11 those that were never eligible to start."""
    return {
        job_id: its for job_id, its in told.items() if job_id in expected or "job.started" in [name for name, _ in its]
    }


def base(job_id: str) -> str:
    """Return the number of a job, an array or a heterogeneous job."""
    return re.split(r"[_+]", job_id)[0]


def tasks(shown: str) -> list[str]:
    number, bracket, rest = shown.partition("_[")
    if not bracket:
        return [shown]
    numbers: list[int] = []
    for part in rest.partition("]")[0].partition("%")[0].split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return [f"{number}_{task}" for task in numbers]


def sbatch(person: Person, *options: str) -> str:
    return person.run("sbatch", "--parsable", "--output=/dev/null", *options).strip().partition(";")[0]


class Users:
    """Does to jobs what users do, at random."""

    def __init__(self, person: Person, dice: random.Random) -> None:
        self.person = person
        self.dice = dice
        self.ids: set[str] = set()

    def act(self) -> None:
        getattr(
            self, self.dice.choice(["short", "short", "short", "long", "array", "het", "requeue", "requeue", "cancel"])
        )()

    def short(self) -> None:
        self.ids.add(sbatch(self.person, "--wrap", self.dice.choice(SHORT)))

    def long(self) -> None:
        self.ids.add(sbatch(self.person, "--wrap", "exec sleep 600"))

    def array(self) -> None:
        self.ids.add(sbatch(self.person, "--array=1-3", "--wrap", "sleep $SLURM_ARRAY_TASK_ID"))

    def het(self) -> None:
        self.ids.add(sbatch(self.person, "--ntasks=1", ":", "--ntasks=1", "--wrap", "sleep 1"))

    def _running(self) -> list[str]:
        out = self.person.run("squeue", "--noheader", "--states=RUNNING", "--format=%i %A %o")
        mine = [line.split() for line in out.splitlines()]
        return [one[0] for one in mine if one[0] in self.ids]

    def requeue(self) -> None:
        for job_id in self.dice.sample(running := self._running(), min(1, len(running))):
            self._try("scontrol", "requeue", job_id)

    def cancel(self) -> None:
        for job_id in self.dice.sample(sorted(self.ids), min(1, len(self.ids))):
            self._try("scancel", job_id)

    def _try(self, *argv: str) -> None:
        try:
            self.person.run(*argv)
        except Exception:
            return


def wait_until(fact: Any) -> None:
    until = time.monotonic() + 600
    while not fact():
        assert time.monotonic() < until
        time.sleep(0.5)


def over(person: Person) -> bool:
    return not person.run("squeue", "--noheader", "--format=%i").strip()


def test_each_change_is_told_once_and_in_order_over_broken_connections(watched: Gateway, bob: Person) -> None:
    """Of jobs that are requeued, cancelled, arrays and heterogeneous, as the database has them in the end."""
    dice = random.Random()
    users = Users(bob, dice)
    url = f"{watched.url}/compute/demo/events"
    headers = {"Authorization": token(bob)}
    clients = [Client(url, headers, random.Random(dice.random()), parameter) for parameter in (False, True)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    for client in clients:
        assert client.began.wait(600)
    for _ in range(60):
        users.act()
        time.sleep(dice.choice([0, 0.3, 1]))
    # By --user an array of which no task has begun would become one job.
    bob.run("scancel", *sorted(users.ids))
    wait_until(lambda: over(bob))
    expected: dict[str, list[tuple[str, int]]] = {}

    def settled() -> bool:
        nonlocal expected
        expected = recorded(bob, users.ids)
        return all(
            client.failed or in_records(changes(client.told, users.ids), expected) == expected for client in clients
        )

    try:
        until = time.monotonic() + 120
        while not settled() and time.monotonic() < until:
            time.sleep(2)
    finally:
        for client in clients:
            client.stopping = True
    sbatch(bob, "--wrap", "true")
    for thread in threads:
        thread.join()
    for client in clients:
        assert client.failed is None, client.failed
        told = in_records(changes(client.told, users.ids), expected)
        wrong = {
            job_id: (told.get(job_id), expected.get(job_id))
            for job_id in told.keys() | expected.keys()
            if told.get(job_id) != expected.get(job_id) and base(job_id) in users.ids
        }
        assert not wrong, f"{len(expected)} jobs: {json.dumps(wrong)}"


def read(gateway: Gateway, person: Person, path: str, last: str | None = None, **params: Any) -> Iterator[Event]:
    with following(f"{gateway.url}/compute/demo/{path}", {"Authorization": token(person)}, last, **params) as events:
        yield from events


def names(events: Iterator[Event], last: str) -> list[str]:
    """Return the names of the changes up to one."""
    found = []
    for event in events:
        if event.name in CHANGES:
            found.append(event.name)
        if event.name == last:
            break
    return found


def test_a_job_is_followed_to_its_end(watched: Gateway, alice: Person) -> None:
    job_id = sbatch(alice, "--hold", "--wrap", "exit 3")
    events = read(watched, alice, f"jobs/{job_id}/events")
    begin = next(events)
    assert (begin.name, [job["jobId"] for job in begin.data["jobs"]]) == ("jobs", [job_id])
    alice.run("scontrol", "release", job_id)
    *_, last = told = [event for event in events if event.name in CHANGES]
    assert [event.name for event in told] == ["job.started", "job.ended"]
    assert (last.data["status"]["state"], last.data["status"]["exitCode"]) == ("FAILED", 3)
    (job,) = alice.http.get(f"/compute/demo/jobs/{job_id}").json()["jobs"]
    assert last.data["changedAt"] == last.data["time"]["end"] == job["time"]["end"]
    assert set(job) - {"usage"} <= set(last.data)
    again = [event.name for event in read(watched, alice, f"jobs/{job_id}/events")]
    assert again == ["jobs", "job.ended"]
    since = [event.name for event in read(watched, alice, f"jobs/{job_id}/events", begin.id)]
    assert [name for name in since if name in CHANGES] == ["job.started", "job.ended"]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_job_that_is_requeued_after_its_end_is_not_told_to_have_ended_twice(
    watched: Gateway, alice: Person, restarted: bool
) -> None:
    """The database overwrites the end; the batch step's record keeps it."""
    events = read(watched, alice, "events")
    begin = next(events)
    job_id = sbatch(alice, "--wrap", "true")
    assert names(events, "job.ended") == ["job.submitted", "job.started", "job.ended"]
    time.sleep(2)
    alice.run("scontrol", "requeue", job_id)
    alice.run("scancel", job_id)
    expected = ["job.submitted", "job.started", "job.ended", "job.requeued", "job.ended"]
    if restarted:
        watched.restart()
    told: list[Event] = []
    for event in read(watched, alice, "events", begin.id, jobId=job_id):
        told += [event] if event.name in CHANGES else []
        if len(told) == len(expected):
            break
    assert [event.name for event in told] == expected
    assert [event.data["status"]["state"] for event in told if event.name == "job.ended"] == ["COMPLETED", "CANCELLED"]
    assert not any(event.data.get("byRequeue") for event in told)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("jobs/99999999/events", 404),
        ("events?after=nonsense", 400),
        ("events?after=MXwxLH4sMCww", 400),
        (f"events?after={Position.at(5)}", 410),
    ],
)
def test_what_cannot_be_followed_is_refused_before_the_stream(alice: Person, path: str, status: int) -> None:
    answer = alice.http.get(f"/compute/demo/{path}")
    assert answer.status_code == status, answer.text


def test_nobody_follows_anothers_job(alice: Person, bob: Person) -> None:
    job_id = sbatch(bob, "--hold", "--wrap", "true")
    try:
        assert alice.http.get(f"/compute/demo/jobs/{job_id}/events").status_code == 404
    finally:
        bob.run("scancel", job_id)


def cut(events: Iterator[Event], job_id: str) -> list[tuple[str, bool]]:
    """Return the changes of a job to the end that nothing follows, and whether each is an end by a requeue."""
    found = []
    for event in events:
        if event.name in CHANGES and event.data["jobId"] == job_id:
            found.append((event.name, bool(event.data.get("byRequeue"))))
            if found[-1] == ("job.ended", False):
                break
    return found


REQUEUED = [
    ("job.submitted", False),
    ("job.started", False),
    ("job.ended", True),
    ("job.requeued", False),
    ("job.ended", False),
]


def state(person: Person, system: str, job_id: str) -> str:
    (job,) = person.http.get(f"/compute/{system}/jobs/{job_id}").json()["jobs"]
    return str(job["status"]["state"])


def test_without_a_database_a_requeue_is_told_as_the_controller_has_it(gateway: Gateway, alice: Person) -> None:
    url = f"{gateway.url}/compute/plain/events"
    with following(url, {"Authorization": token(alice)}) as events:
        assert next(events).name == "jobs"
        body = {"job": {"script": "#!/bin/sh\nexec sleep 600\n", "workingDirectory": str(alice.user.home)}}
        job_id = str(alice.http.post("/compute/plain/jobs", json=body).json()["jobId"])
        # Nobody could tell of a run that the controller had forgotten before anybody saw it.
        assert names(events, "job.started") == ["job.submitted", "job.started"]
        assert alice.http.put(f"/compute/plain/jobs/{job_id}/requeue").status_code == 204
        wait_until(lambda: state(alice, "plain", job_id) == "PENDING")
        assert alice.http.delete(f"/compute/plain/jobs/{job_id}").status_code == 204
        assert cut(events, job_id) == REQUEUED[2:]


def test_while_the_database_is_down_the_stream_says_so_and_goes_on(
    watched: Gateway, cluster: Cluster, alice: Person
) -> None:
    """What the database alone can tell comes once it is back; nothing else waits for it."""
    slurmdbd = cluster.slurm.slurmdbd
    assert slurmdbd is not None
    with following(f"{watched.url}/compute/demo/events", {"Authorization": token(alice)}) as events:
        assert next(events).name == "jobs"
        job_id = sbatch(alice, "--wrap", "exec sleep 600")
        told = [next(event for event in events if event.name == name) for name in ("job.submitted", "job.started")]
        assert {event.data["jobId"] for event in told} == {job_id}
        slurmdbd.stop()
        try:
            alice.run("scontrol", "requeue", job_id)
            other = sbatch(alice, "--wrap", "true")
            seen: list[Event] = []
            while not {("system.degraded", None), ("job.ended", other)} <= {
                (event.name, event.data.get("jobId")) for event in seen
            }:
                seen.append(next(events))
            assert job_id not in changes(seen, {job_id})
        finally:
            slurmdbd.start()
        alice.run("scancel", job_id)
        assert cut(events, job_id) == REQUEUED[2:]
