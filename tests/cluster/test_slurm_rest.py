"""Slurm by slurmrestd, alone (`rest`) and beside commands (`hybrid`): the real one, with the users' own tokens."""

from __future__ import annotations

import itertools
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import firecrest
import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway, Options
from hpcgate.demo.slurm import LIMITED_QOS, SlurmOptions
from hpcgate.demo.users import User
from hpcgate.schedulers.slurm.rest.versions import ApiVersion, api_version
from tests.cluster.test_odd_values import bodies, complaint, queries
from tests.people import Person

from . import job_fields
from .scheduler_systems import environment_of, takes_at_jwt

SLEEP = "#!/bin/bash\nexec sleep 300\n"
TIMEOUT = 4
"""Seconds: `scheduler.timeout` of both systems."""
NASTY_NAME = "a|b, \"q\" 'x'\nJobState=FAKE $(id) `id` é日本 \x1f\x01 %j"
NASTY_ENVIRONMENT = {
    "COMMAS": "a,b,,c",
    "QUOTES": "\"double\" 'single' `back`",
    "NEWLINES": "one\ntwo\n",
    "EQUALS": "=a=b",
    "EMPTY": "",
    "BLANKS": "  x  ",
    "DOLLAR": "$HOME $(id) \\n !",
    "UTF8": "é日本",
    "PATH": "/nowhere:/usr/bin:/bin",
}

_numbers = itertools.count()


@pytest.fixture(scope="module")
def site() -> Iterator[Cluster]:
    with Cluster(Options(slurm=SlurmOptions(rest=True, gpus_per_node=2), patience=60)) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(site: Cluster) -> Iterator[Gateway]:
    def settings(mode: str) -> dict[str, Any]:
        return site.cluster_settings(mode, scheduler={"connection_mode": mode, "timeout": TIMEOUT}, probing=None)

    config = site.write_gateway_config(
        site.directory / "rest-gateway.yaml", clusters=[settings("rest"), settings("hybrid")]
    )
    running = site.start_gateway(config)
    yield running
    running.stop()


def person(site: Cluster, gateway: Gateway, role: str) -> Person:
    user = site.user(role)
    headers = {"Authorization": f"Bearer {site.token(user)}", "X-Request-ID": f"of-{role}"}
    return Person(user, httpx.Client(base_url=gateway.url, headers=headers, timeout=600), site)


@pytest.fixture(scope="module")
def alice(site: Cluster, gateway: Gateway) -> Iterator[Person]:
    made = person(site, gateway, "alice")
    yield made
    made.http.close()


@pytest.fixture(scope="module")
def bob(site: Cluster, gateway: Gateway) -> Iterator[Person]:
    made = person(site, gateway, "bob")
    yield made
    made.http.close()


both = pytest.mark.parametrize("system", ["rest", "hybrid"])


def post(who: Person, system: str, **job: Any) -> httpx.Response:
    body = {"workingDirectory": str(who.user.home), **job}
    return who.http.post(f"/compute/{system}/jobs", json={"job": body})


def submit(who: Person, system: str, script: str = SLEEP, **job: Any) -> str:
    answer = post(who, system, script=script, **job)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["jobId"])


def get(who: Person, path: str, expected: int = 200, **query: Any) -> Any:
    answer = who.http.get(path, params=query)
    assert answer.status_code == expected, answer.text
    return answer.json()


def until(who: Person, system: str, job_id: str, *states: str, seconds: float = 120) -> list[dict[str, Any]]:
    end = time.monotonic() + seconds
    while True:
        jobs: list[dict[str, Any]] = get(who, f"/compute/{system}/jobs/{job_id}")["jobs"]
        if all(job["status"]["state"] in states for job in jobs):
            return jobs
        assert time.monotonic() < end, jobs
        time.sleep(0.2)


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def cancel(who: Person, system: str, job_id: str, expected: int = 204) -> httpx.Response:
    answer = who.http.delete(f"/compute/{system}/jobs/{job_id}")
    assert answer.status_code == expected, answer.text
    return answer


@both
def test_a_nasty_job_from_beginning_to_end(alice: Person, system: str) -> None:
    output = f"rest {next(_numbers)} out"
    script = f"#!/bin/bash\n#SBATCH --time=00:10:00 -n 2\n#SBATCH --output={shlex.quote(output)}\nenv -0\nexit 3\n"
    job_id = submit(alice, system, script, name=NASTY_NAME, env=NASTY_ENVIRONMENT, account="extra", partition="debug")
    (job,) = until(alice, system, job_id, "FAILED")
    assert (job["name"], job["account"], job["partition"]) == (NASTY_NAME, "extra", "debug")
    assert (job["user"], job["cluster"], job["allocationNodes"]) == (alice.user.name, "demo", 1)
    assert (job["status"]["exitCode"], job["time"]["limit"]) == (3, 600)
    assert job["workingDirectory"] == str(alice.user.home)
    environment = environment_of((alice.user.home / output).read_bytes())
    for name, value in NASTY_ENVIRONMENT.items():
        assert environment[name.encode()].decode() == value
    assert environment[b"SLURM_NTASKS"] == b"2"
    listed = get(alice, f"/compute/{system}/jobs", name=NASTY_NAME)["jobs"]
    assert job_id in {one["jobId"] for one in listed}
    cancel(alice, system, job_id)


@both
def test_a_nasty_job_in_a_nasty_place_is_cancelled_while_it_runs(alice: Person, system: str) -> None:
    directory = alice.user.home / f"{system} b,'c\"$(id)\n|é"
    alice.run("mkdir", "-p", str(directory))
    job_id = submit(
        alice, system, name=NASTY_NAME, env=NASTY_ENVIRONMENT, workingDirectory=str(directory), standardOutput="o '%j'"
    )
    (job,) = until(alice, system, job_id, "RUNNING")
    assert (job["name"], job["workingDirectory"]) == (NASTY_NAME, str(directory))
    assert job_id in {one["jobId"] for one in get(alice, f"/compute/{system}/jobs", name=NASTY_NAME)["jobs"]}
    if system == "hybrid":
        (metadata,) = get(alice, f"/compute/{system}/jobs/{job_id}/metadata")["jobs"]
        assert metadata["script"] == SLEEP
        assert metadata["standardOutput"] == f"{directory}/o '{job_id}'"
    cancel(alice, system, job_id)
    (job,) = until(alice, system, job_id, "CANCELLED")
    assert (job["name"], job["workingDirectory"]) == (NASTY_NAME, str(directory))


@both
def test_a_job_is_found_at_once_and_cancelled(alice: Person, bob: Person, system: str) -> None:
    job_id = submit(alice, system, name="at-once")
    assert job_id in {job["jobId"] for job in get(alice, f"/compute/{system}/jobs")["jobs"]}
    assert job_id not in {job["jobId"] for job in get(bob, f"/compute/{system}/jobs")["jobs"]}
    assert job_id in {job["jobId"] for job in get(bob, f"/compute/{system}/jobs", allusers=True)["jobs"]}
    until(alice, system, job_id, "RUNNING")
    refused = cancel(bob, system, job_id, expected=403)
    assert "Access/permission denied" in refused.json()["message"]
    cancel(alice, system, job_id)
    until(alice, system, job_id, "CANCELLED")
    cancel(alice, system, job_id)
    unknown = cancel(alice, system, "99999999", expected=404)
    assert "Job not found" in unknown.json()["message"]
    get(alice, f"/compute/{system}/jobs/99999999", expected=404)


@both
def test_arrays(alice: Person, system: str) -> None:
    """Each task of an array is a job of its own."""
    job_id = submit(alice, system, "#!/bin/bash\n#SBATCH --array=1-3\n[ $SLURM_ARRAY_TASK_ID != 2 ]\n")
    jobs = until(alice, system, job_id, "COMPLETED", "FAILED")
    assert {job["jobId"]: job["status"]["exitCode"] for job in jobs} == {
        f"{job_id}_1": 0,
        f"{job_id}_2": 1,
        f"{job_id}_3": 0,
    }
    (task,) = get(alice, f"/compute/{system}/jobs/{job_id}_2")["jobs"]
    assert task["jobId"] == f"{job_id}_2"
    get(alice, f"/compute/{system}/jobs/{job_id}_7", expected=404)
    held = submit(alice, system, "#!/bin/bash\n#SBATCH --array=0-9 --hold\ntrue\n")
    (waiting,) = get(alice, f"/compute/{system}/jobs/{held}")["jobs"]
    assert (waiting["jobId"], waiting["status"]["state"]) == (f"{held}_[0-9]", "PENDING")
    cancel(alice, system, f"{held}_[2-4]")
    live = [job for job in get(alice, f"/compute/{system}/jobs/{held}")["jobs"] if job["status"]["state"] == "PENDING"]
    assert [job["jobId"] for job in live] == [f"{held}_[0-1,5-9]"]
    cancel(alice, system, held)


@both
def test_steps_come_from_the_history(alice: Person, system: str) -> None:
    job_id = submit(alice, system, "#!/bin/bash\nsrun true\n", name="steps")
    until(alice, system, job_id, "COMPLETED")

    def tasks() -> set[str]:
        (job,) = get(alice, f"/compute/{system}/jobs/{job_id}")["jobs"]
        return {task["id"] for task in job["tasks"] or ()}

    wait_for(lambda: f"{job_id}.batch" in tasks())


@both
@pytest.mark.parametrize(
    ("job", "status", "words"),
    [
        ({"script": SLEEP, "partition": "nosuch"}, 400, "Invalid partition name specified"),
        ({"script": SLEEP, "account": "nosuch"}, 400, "Invalid account"),
        ({"script": SLEEP, "constraints": "nosuch"}, 400, "Invalid feature specification"),
        ({"script": SLEEP, "reservation": "nosuch"}, 400, "Requested reservation is invalid"),
        ({"script": "#!/bin/bash\n#SBATCH -t soon\n"}, 400, "time"),
        ({"script": "echo no interpreter\n"}, 400, "#!"),
        ({"script": "#!/bin/bash\r\n"}, 400, "DOS line breaks"),
        ({"script": SLEEP, "env": {"A B": "x"}}, 400, "A B"),
    ],
)
def test_refused_submissions(alice: Person, system: str, job: Mapping[str, Any], status: int, words: str) -> None:
    """What slurmrestd refuses is an error in its words."""
    answer = post(alice, system, **job)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["message"]


@both
def test_a_limit_is_403(alice: Person, system: str) -> None:
    script = f"#!/bin/bash\n#SBATCH --qos={LIMITED_QOS}\nexec sleep 300\n"
    job_id = submit(alice, system, script)
    try:
        answer = post(alice, system, script=script)
        assert answer.status_code == 403
        assert "violates accounting/QOS policy" in answer.json()["message"]
    finally:
        cancel(alice, system, job_id)


@both
def test_a_held_job_is_a_success(alice: Person, system: str) -> None:
    job_id = submit(alice, system, "#!/bin/bash\n#SBATCH --hold\ntrue\n")
    (job,) = get(alice, f"/compute/{system}/jobs/{job_id}")["jobs"]
    assert (job["status"]["state"], job["status"]["stateReason"]) == ("PENDING", "JobHeldUser")
    cancel(alice, system, job_id)


@both
def test_nodes_partitions_reservations_and_accounts(site: Cluster, alice: Person, system: str) -> None:
    nodes = get(alice, f"/status/{system}/nodes")["nodes"]
    assert {node["name"] for node in nodes} == set(site.slurm.nodes)
    assert {node["cpus"] for node in nodes} == {site.slurm.options.cpus_per_node}
    assert nodes[0]["features"]
    shown = get(alice, f"/status/{system}/partitions")["partitions"]
    assert [(one["name"], one["partition"], one["totalNodes"]) for one in shown] == [
        ("normal", "UP", 2),
        ("debug", "UP", 2),
    ]
    everything = get(alice, f"/status/{system}/partitions", show_hidden=True)["partitions"]
    assert "hidden" in {one["name"] for one in everything}
    name = site.slurm.reserve(f"course-{system}", [alice.user.name], minutes=30, start="now+1hour")
    try:
        (reservation,) = get(alice, f"/status/{system}/reservations")["reservations"]
        assert (reservation["name"], reservation["state"]) == (name, "inactive")
        assert reservation["endTime"] - reservation["startTime"] == 1800
    finally:
        site.slurm.release(name)
    accounts = get(alice, f"/status/{system}/userinfo")["accounts"]
    assert sorted((one["name"], one["default"]) for one in accounts) == [("demo", True), ("extra", False)]


@pytest.fixture
def script_file(alice: Person, site: Cluster) -> Path:
    path = alice.user.home / f"script-{next(_numbers)}.sh"
    site.as_user(alice.user, ["sh", "-c", 'printf "#!/bin/bash\\necho from a file\\n" > "$1"', "sh", str(path)])
    return path


def test_what_rest_cannot_do_is_501(alice: Person, script_file: Path) -> None:
    job_id = submit(alice, "rest")
    try:
        assert "metadata" in get(alice, f"/compute/rest/jobs/{job_id}/metadata", expected=501)["message"]
        answer = alice.http.put(f"/compute/rest/jobs/{job_id}/attach", json={"command": "true"})
        assert answer.status_code == 501
        assert "Attaching" in answer.json()["message"]
    finally:
        cancel(alice, "rest", job_id)
    for job, words in (
        ({"scriptPath": str(script_file)}, "scriptPath"),
        ({"script": "#!/bin/bash\n#SBATCH --export=HOME\n"}, "--export=HOME"),
    ):
        answer = post(alice, "rest", **job)
        assert answer.status_code == 501, answer.text
        assert words in answer.json()["message"]


def test_hybrid_does_by_commands_what_rest_cannot(alice: Person, script_file: Path) -> None:
    script = "#!/bin/bash\n#SBATCH -o hybrid-%j.out\nexec sleep 300\n"
    job_id = submit(alice, "hybrid", script)
    until(alice, "hybrid", job_id, "RUNNING")
    (metadata,) = get(alice, f"/compute/hybrid/jobs/{job_id}/metadata")["jobs"]
    assert metadata["script"] == script
    assert metadata["standardOutput"] == str(alice.user.home / f"hybrid-{job_id}.out")
    mark = alice.user.home / f"attached-{job_id}"
    answer = alice.http.put(f"/compute/hybrid/jobs/{job_id}/attach", json={"command": f"touch {mark}"})
    assert answer.status_code == 204, answer.text
    assert mark.exists()
    cancel(alice, "hybrid", job_id)
    for job in ({"scriptPath": str(script_file)}, {"script": "#!/bin/bash\n#SBATCH --export=HOME\ntrue\n"}):
        answer = post(alice, "hybrid", **job)
        assert answer.status_code == 201, answer.text
        until(alice, "hybrid", str(answer.json()["jobId"]), "COMPLETED")


@both
def test_pyfirecrest(site: Cluster, gateway: Gateway, system: str) -> None:
    """pyfirecrest submits, follows and cancels a job through slurmrestd."""
    user: User = site.user("alice")
    login = firecrest.ClientCredentialsAuth(user.client_id, user.client_secret, site.idp.token_url)
    client = firecrest.v2.Firecrest(gateway.url, login)
    try:
        script = "#!/bin/bash\n#SBATCH --job-name=client\nexec sleep 300\n"
        job_id = str(client.submit(system, str(user.home), script_str=script, env_vars={"A": "b,c"})["jobId"])
        (job,) = client.job_info(system, job_id)
        assert (job["jobId"], job["name"]) == (job_id, "client")
        assert job_id in {one["jobId"] for one in client.job_info(system)}
        client.cancel_job(system, job_id)
        assert client.nodes(system)
        assert client.partitions(system)
        assert client.reservations(system) == []
        assert client.userinfo(system)["accounts"]
        if system == "hybrid":
            assert client.job_metadata(system, job_id)[0]["script"] == script
    finally:
        client.close_session()


@both
def test_a_token_that_slurm_does_not_take(site: Cluster, gateway: Gateway, alice: Person, system: str) -> None:
    if takes_at_jwt():
        # Only now: on a fresh machine Slurm is installed after the tests were collected.
        pytest.skip("the installed libjwt takes what the gateway takes")
    # The gateway takes it, libjwt does not: its header says that it is of another type.
    token = site.token(alice.user, typ="at+jwt")
    with httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {token}"}, timeout=600) as http:
        stranger = Person(alice.user, http, site)
        for path in (f"/compute/{system}/jobs", f"/compute/{system}/jobs/1", f"/status/{system}/nodes"):
            refused = get(stranger, path, expected=403)
            assert "Slurm does not accept the token" in refused["message"]
            assert token not in str(refused)
        assert post(stranger, system, script=SLEEP).status_code == 403
        cancel(stranger, system, "1", expected=403)
    assert token not in gateway.log.read_text()


def unavailable(who: Person, system: str) -> None:
    """Everything that needs slurmrestd or the controller fails with 503, before the client gives up."""
    calls: list[Callable[[], httpx.Response]] = [
        lambda: who.http.get(f"/status/{system}/nodes"),
        lambda: who.http.get(f"/status/{system}/partitions"),
        lambda: who.http.get(f"/status/{system}/reservations"),
        lambda: post(who, system, script=SLEEP),
        lambda: who.http.delete(f"/compute/{system}/jobs/1"),
    ]
    for call in calls:
        answer = call()
        assert answer.status_code == 503, answer.text


@both
def test_a_job_that_only_the_database_could_know(site: Cluster, alice: Person, system: str) -> None:
    """It is unknown, and not to be looked up while the database is down."""
    assert site.slurm.slurmdbd is not None
    get(alice, f"/compute/{system}/jobs/999999", expected=404)
    site.slurm.slurmdbd.stop()
    try:
        for answer in (
            alice.http.get(f"/compute/{system}/jobs/999999"),
            alice.http.get(f"/compute/{system}/jobs/999999/metadata"),
            alice.http.delete(f"/compute/{system}/jobs/999999"),
        ):
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["Retry-After"]) > 0
    finally:
        site.slurm.slurmdbd.start()
    get(alice, f"/compute/{system}/jobs/999999", expected=404)


@both
def test_slurmrestd_down(site: Cluster, alice: Person, system: str) -> None:
    """While slurmrestd is down all of compute is 503 that names it."""
    assert site.slurm.slurmrestd is not None
    site.slurm.slurmrestd.stop()
    try:
        unavailable(alice, system)
        assert "slurmrestd" in get(alice, f"/compute/{system}/jobs", expected=503)["message"]
    finally:
        site.slurm.slurmrestd.start()
    get(alice, f"/status/{system}/nodes")


def test_slurmrestd_hangs(site: Cluster, alice: Person) -> None:
    """A slurmrestd that hangs is an error in time, and no job is said not to exist."""
    assert site.slurm.slurmrestd is not None
    before = {job["jobId"] for job in get(alice, "/compute/rest/jobs")["jobs"]}
    site.slurm.slurmrestd.suspend()
    try:
        answer = post(alice, "rest", script="#!/bin/bash\ntrue\n", name="maybe")
        assert answer.status_code == 408, answer.text
        assert "may have been submitted" in answer.json()["message"]
        get(alice, "/compute/rest/jobs", expected=408)
        get(alice, "/status/rest/nodes", expected=408)
    finally:
        site.slurm.slurmrestd.resume()
    # It goes on, and does at most what was asked once.
    end = time.monotonic() + 120
    while time.monotonic() < end:
        after = {job["jobId"] for job in get(alice, "/compute/rest/jobs", name="maybe")["jobs"]} - before
        assert len(after) <= 1
        if after:
            break
        time.sleep(0.5)


@both
def test_controller_down(site: Cluster, alice: Person, system: str) -> None:
    """While the controller is down the history is served, and submissions are 503."""
    job_id = submit(alice, system, "#!/bin/bash\ntrue\n", name="before")
    until(alice, system, job_id, "COMPLETED")
    # The controller tells the database about a job's start a little later than about its end.
    stored = [
        "sacct",
        "--noheader",
        "--parsable2",
        "--allocations",
        f"--jobs={job_id}",
        "--format=User,Partition,State",
    ]
    wait_for(lambda: site.slurm.run(stored).strip() == f"{alice.user.name}|normal|COMPLETED")
    site.slurm.slurmctld.stop()
    try:
        unavailable(alice, system)
        answer = alice.http.get(f"/compute/{system}/jobs")
        assert (answer.status_code, answer.headers["X-Hpcgate-Jobs-Missing"]) == (200, "live")
        assert job_id in {job["jobId"] for job in answer.json()["jobs"]}
        (job,) = get(alice, f"/compute/{system}/jobs/{job_id}")["jobs"]
        assert (job["name"], job["status"]["state"]) == ("before", "COMPLETED")
    finally:
        site.slurm.slurmctld.start()
        site.slurm.wait_for_nodes()
        wait_for(lambda: alice.http.get(f"/status/{system}/nodes").status_code == 200)


@both
def test_slurmdbd_down(site: Cluster, alice: Person, system: str) -> None:
    """While the database is down the live jobs are served."""
    assert site.slurm.slurmdbd is not None
    job_id = submit(alice, system, name="live")
    site.slurm.slurmdbd.stop()
    try:
        answer = alice.http.get(f"/compute/{system}/jobs")
        assert (answer.status_code, answer.headers["X-Hpcgate-Jobs-Missing"]) == (200, "history")
        assert job_id in {job["jobId"] for job in answer.json()["jobs"]}
        assert get(alice, f"/compute/{system}/jobs/{job_id}")["jobs"][0]["name"] == "live"
        assert get(alice, f"/status/{system}/userinfo")["accounts"] is None
        # The controller's own numbers, by its command.
        told = get(alice, f"/status/{system}/allocations", expected=501 if system == "rest" else 200)
        assert system == "rest" or [one["account"] for one in told["allocations"]] == ["demo", "extra"]
        second = submit(alice, system, name="while-down")
        for running in (job_id, second):
            cancel(alice, system, running)
            until(alice, system, running, "CANCELLED")
    finally:
        site.slurm.slurmdbd.start()


def test_any_value_is_answered(alice: Person) -> None:
    """As tests/cluster/test_odd_values.py has it of all other ways."""
    spec, home = alice.http.get("/openapi.json").json(), str(alice.user.home)
    json_body = {"Content-Type": "application/json"}
    wrong = [
        complaint(alice.http, method, path, what, "rest", content=body, headers=json_body)
        for method, path, what, body in bodies(spec, home, "rest")
        if "/compute/" in path
    ]
    wrong += [
        complaint(alice.http, method, f"{path}?{query}", query, "rest")
        for method, path, query in queries(spec, home, "rest")
        if "/compute/" in path
    ]
    assert len(wrong) > 100
    assert list(filter(None, wrong)) == []


CONTROLS: list[tuple[str, Any, str]] = [
    # what is done, its body, what scontrol shows of the job then
    ("hold", None, "Reason=JobHeldUser"),
    ("release", None, "Priority=4"),
    ("", {"name": "a b,'c' \"d\" é", "timeLimit": 90}, "JobName=a b,'c' \"d\" é"),
    ("", {"timeLimit": 600, "partition": "debug"}, "TimeLimit=00:10:00"),
    ("", {"comment": "mine"}, "Comment=mine"),
    ("", {"dependencies": [{"type": "afterany", "jobIds": ["{other}"]}]}, "Dependency=afterany:{other}"),
    ("", {"dependencies": []}, "Dependency=(null)"),
]


def spoken(site: Cluster) -> ApiVersion:
    """Return the version of slurmrestd's API that `rest` and `hybrid` speak."""
    return api_version(site.cluster_settings("rest", scheduler={"connection_mode": "rest"})["scheduler"]["api_version"])


def waiting(who: Person, system: str) -> str:
    """Submit a job that waits for a day."""
    return submit(who, system, "#!/bin/sh\nexec sleep 60\n", begin=int(time.time()) + 86400)


@both
def test_a_job_is_controlled(site: Cluster, alice: Person, system: str) -> None:
    job_id = waiting(alice, system)
    other = submit(alice, system)
    can = system == "hybrid" or spoken(site).changes
    for what, body, shown in CONTROLS:
        for one in (body or {}).get("dependencies", []):
            one["jobIds"] = [other for _ in one["jobIds"]]
        method, path = ("PATCH", "") if body else ("PUT", f"/{what}")
        answer = alice.http.request(method, f"/compute/{system}/jobs/{job_id}{path}", json=body)
        wanted = 204 if can or what == "hold" else 501
        assert answer.status_code == wanted, (what, body, answer.text)
        if wanted == 204:
            assert shown.format(other=other) in site.slurm.run(["scontrol", "-o", "show", "job", job_id])
    cancel(alice, system, job_id)
    cancel(alice, system, other)


@both
def test_a_signal_reaches_the_batch_script(site: Cluster, alice: Person, system: str) -> None:
    """Where it would not, it is refused."""
    script = "#!/bin/bash\ntrap 'touch got-$SLURM_JOB_ID' USR1\ntouch up-$SLURM_JOB_ID\nwhile :; do sleep 0.2; done\n"
    job_id = submit(alice, system, script)
    wait_for((alice.user.home / f"up-{job_id}").exists)
    answer = alice.http.post(f"/compute/{system}/jobs/{job_id}/signal", json={"signal": "USR1"})
    if system == "hybrid" or spoken(site).signals_all:
        assert answer.status_code == 204, answer.text
        wait_for((alice.user.home / f"got-{job_id}").exists)
    else:
        assert answer.status_code == 501, answer.text
    cancel(alice, system, job_id)


REFUSED: list[tuple[str, str, Any, int]] = [
    ("his", "hold", None, 403),
    ("his", "signal", {"signal": "TERM"}, 403),
    ("his", "", {"name": "x"}, 403),
    ("his", "", {"comment": "x"}, 403),
    ("ended", "hold", None, 409),
    ("ended", "signal", {"signal": "TERM"}, 409),
    ("ended", "", {"name": "x"}, 409),
    ("unknown", "hold", None, 404),
    ("unknown", "signal", {"signal": "TERM"}, 404),
    ("unknown", "", {"comment": "x"}, 404),
    ("waits", "signal", {"signal": "TERM"}, 409),
    ("waits", "signal", {"signal": "bogus"}, 400),
    ("waits", "", {"partition": "nowhere"}, 400),
    ("waits", "", {"priority": -1}, 400),
]


@both
def test_what_cannot_be_controlled_is_refused(site: Cluster, alice: Person, bob: Person, system: str) -> None:
    jobs = {
        "his": waiting(bob, system),
        "waits": waiting(alice, system),
        "ended": submit(alice, system, "#!/bin/sh\ntrue\n"),
        "unknown": "99999999",
    }
    until(alice, system, jobs["ended"], "COMPLETED")
    version = spoken(site)
    for which, what, body, status in REFUSED:
        method, path = ("PATCH", "") if not what else ("PUT" if body is None else "POST", f"/{what}")
        answer = alice.http.request(method, f"/compute/{system}/jobs/{jobs[which]}{path}", json=body)
        # A signal is asked of slurmrestd only where it would make sense.
        lacks = (not what and not version.changes) or (
            what == "signal" and which in ("his", "unknown") and not version.signals_all
        )
        wanted = 501 if system == "rest" and lacks else status
        assert answer.status_code == wanted, (which, what, body, answer.text)
    for what in ("requeue", "suspend", "resume"):
        answer = alice.http.put(f"/compute/{system}/jobs/{jobs['waits']}/{what}")
        by_command = 409 if what == "requeue" else 403
        assert answer.status_code == (501 if system == "rest" else by_command), answer.text
    cancel(bob, system, jobs["his"])
    cancel(alice, system, jobs["waits"])


@both
def test_the_version_is_told_by_slurmrestd_or_the_commands(site: Cluster, tmp_path: Path, system: str) -> None:
    entry = site.cluster_settings(system, scheduler={"connection_mode": system})
    config = site.write_gateway_config(tmp_path / "config.yaml", clusters=[entry])
    argv = [sys.executable, "-m", "hpcgate.cli", "check", "--connect", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert f"\N{CHECK MARK} {system}: slurm {site.slurm.version} answers" in done.stdout


# A job in fields.


@both
@pytest.mark.parametrize("row", job_fields.ROWS, ids=lambda row: row.name)
def test_a_field_reaches_slurm_and_outweighs_its_directive(alice: Person, system: str, row: job_fields.Row) -> None:
    job_fields.check(alice, system, row)


@both
def test_dependencies(alice: Person, system: str) -> None:
    """A job waits for those that its field of dependencies names."""
    job_fields.dependency(alice, system)


@both
def test_what_is_just_within_the_limits(alice: Person, system: str) -> None:
    """A script of a megabyte, the longest variable and the largest array are taken."""
    job_fields.largest(alice, system)


@both
def test_a_program(alice: Person, system: str) -> None:
    """A job that names a program instead of a script runs it with its arguments."""
    job_fields.program(alice, system, "srun")


@both
@pytest.mark.parametrize(("asked", "status", "words"), job_fields.REFUSED, ids=lambda value: None)
def test_what_is_refused_of_a_job_in_fields(
    alice: Person, system: str, asked: dict[str, Any], status: int, words: str
) -> None:
    job_fields.refused(alice, system, asked, status, words)


def test_what_slurm_says_beside_the_id_reaches_the_client(alice: Person) -> None:
    """slurmrestd tells of a held job by an error beside its id, or by a warning."""
    answer = post(alice, "rest", script=SLEEP, hold=True)
    assert answer.status_code == 201
    assert any("held state" in warning for warning in answer.json()["warnings"]), answer.text
    answer = post(alice, "rest", script=SLEEP)
    assert (answer.status_code, list(answer.json())) == (201, ["jobId"])


@both
def test_a_dry_run(alice: Person, system: str) -> None:
    """A dry run says what would be submitted, and submits nothing."""
    job_fields.dry_run(alice, system, tested=system == "hybrid")


def test_a_job_in_fields_with_a_key_is_one_job_in_hybrid_mode(alice: Person) -> None:
    """sbatch submits it: slurmrestd cannot be asked to submit unless something is so."""
    body = {"job": {"workingDirectory": str(alice.user.home), "script": SLEEP, "hold": True, "duration": 60}}
    headers = {"Idempotency-Key": f"hybrid {next(_numbers)}"}
    answers = [alice.http.post("/compute/hybrid/jobs", json=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["jobId"] == answers[1].json()["jobId"]
    assert answers[1].headers["Idempotency-Replayed"] == "true"
    assert job_fields.shown(alice, answers[0].json()["jobId"])["TimeLimit"] == "00:01:00"
    refused = alice.http.post("/compute/rest/jobs", json=body, headers=headers)
    assert refused.status_code == 501
    systems = {one["name"]: one["submissions"] for one in get(alice, "/status/systems")["systems"]}
    assert {name: one["exactlyOnce"] for name, one in systems.items()} == {"rest": False, "hybrid": True}
