"""Slurm by commands, by slurmrestd and by both: one answer, whichever way a site chose.

A kind of job is a line of a table. Each is asked for in all three ways, while the controller knows it and once it has
forgotten it.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Options
from hpcgate.demo.packages import program
from hpcgate.demo.ports import listens
from hpcgate.demo.slurm import SlurmOptions

from .test_check_connect import BAD, GOOD, only, walk

MODES = ("ssh", "rest", "hybrid")
SLEEP = "#!/bin/sh\nexec sleep 300\n"
FORGETFUL = 38
"""The data version whose history says SUCCESS of whatever ended."""
MEMORY = 5
"""Seconds for which the controller knows a job that has ended."""


@dataclass
class Site:
    """One cluster behind a gateway that knows it as three systems."""

    cluster: Cluster
    http: httpx.Client

    @property
    def home(self) -> str:
        return str(self.cluster.user("alice").home)

    def submit(self, script: str, mode: str = "ssh", **job: Any) -> httpx.Response:
        body = {"script": script, "workingDirectory": self.home, **job}
        return self.http.post(f"/compute/{mode}/jobs", json={"job": body})

    def made(self, script: str) -> str:
        answer = self.submit(script)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["jobId"])

    def get(self, path: str, mode: str, **query: Any) -> Any:
        answer = self.http.get(path.format(mode=mode), params=query)
        assert answer.status_code == 200, (mode, answer.text)
        return answer.json()

    def jobs(self, job_id: str, mode: str) -> list[dict[str, Any]]:
        return list(self.get(f"/compute/{{mode}}/jobs/{job_id}", mode)["jobs"])

    def forgotten(self, *job_ids: str) -> None:
        """Wait until the controller does not know the jobs any more, and the database knows how they ended."""

        def unknown() -> bool:
            argv = ["squeue", "--noheader", "--states=all", "--format=%F"]
            return not {*self.cluster.slurm.run(argv).split()} & {*job_ids}

        def told() -> bool:
            argv = ["sacct", "--noheader", "--parsable2", f"--jobs={','.join(job_ids)}", "--format=JobID,State,End"]
            rows = [line.split("|") for line in self.cluster.slurm.run(argv).splitlines()]
            known = {re.split(r"[_+.]", job_id)[0] for job_id, _, _ in rows}
            return {*job_ids} <= known and all(end != "Unknown" for _, _, end in rows)

        until(unknown)
        until(told)


def until(holds: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Cluster(Options(slurm=SlurmOptions(rest=True, min_job_age=MEMORY), patience=60)) as cluster:
        settings = [
            cluster.cluster_settings(mode, scheduler={"connection_mode": mode, "history_cache": 0}, probing=None)
            for mode in MODES
        ]
        config = cluster.write_gateway_config(cluster.directory / "modes.yaml", clusters=settings)
        gateway = cluster.start_gateway(config)
        headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
        with httpx.Client(base_url=gateway.url, headers=headers, timeout=300) as client:
            yield Site(cluster, client)
        gateway.stop()


def same(site: Site, job_id: str) -> list[dict[str, Any]]:
    """Return a job as all three ways show it, times and what v0.0.38 cannot know of an end left out."""
    shown = {mode: [plain(job) for job in site.jobs(job_id, mode)] for mode in MODES}
    if max(site.cluster.slurm.rest_versions()) == FORGETFUL:
        shown["rest"] = [told(job, known) for job, known in zip(shown["rest"], shown["ssh"], strict=True)]
    assert shown["ssh"] == shown["rest"]
    assert shown["ssh"] == shown["hybrid"]
    return shown["ssh"]


def plain(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job without what moves while one looks: the database is told of it a little later."""
    job = {**job, "time": {**job["time"], "elapsed": None, "suspended": None}}
    job["tasks"] = [{**task, "time": {**task["time"], "elapsed": None}} for task in job["tasks"] or []]
    job.pop("usage", None)
    return job


def told(job: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return the job with the exit statuses that are known, where it has none and did not end well."""
    tasks = [told(task, one) for task, one in zip(job.get("tasks") or [], known.get("tasks") or [], strict=True)]
    status = job["status"]
    if status["state"] == "FAILED" and status["exitCode"] is None:
        names = ("exitCode", "interruptSignal")
        status = {**status, **{name: known["status"][name] for name in names}}
    return {**job, "status": status, **({"tasks": tasks} if "tasks" in job else {})}


KINDS = {
    "one that ends well": "exit 0",
    "one that fails": "exit 3",
    "one that is killed": "kill -9 $$",
    "an array of which tasks fail": "#SBATCH --array=1-3\nexit $((SLURM_ARRAY_TASK_ID - 1))",
    "a heterogeneous job": "#SBATCH -n1\n#SBATCH hetjob\n#SBATCH -n1\nexit 0",
    "one that had waited for another": "#SBATCH --dependency=afterany:{first}\nexit 0",
    "one that waited for another and failed": "#SBATCH --dependency=afterany:{first}\nexit 5",
}
"""Scripts of jobs that end by themselves."""


def test_jobs_that_have_ended_are_the_same_three_ways(site: Site) -> None:
    first = site.made("#!/bin/sh\nexit 0\n")
    made = {kind: site.made(f"#!/bin/sh\n{script.format(first=first)}\n") for kind, script in KINDS.items()}
    ended = ("COMPLETED", "FAILED")

    def has_ended(job_id: str) -> bool:
        return all(job["status"]["state"] in ended for job in site.jobs(job_id, "ssh"))

    for job_id in made.values():
        until(partial(has_ended, job_id))
    site.forgotten(*made.values())
    for kind, job_id in made.items():
        hours = [[job["usage"]["nodeHours"] for job in site.jobs(job_id, mode)] for mode in MODES]
        assert hours[1:] == hours[:1] * 2
        for job in same(site, job_id):
            assert job["status"]["exitCode"] is not None, (kind, job)
            assert job["status"]["stateReason"] in (None, "NonZeroExitCode", "RaisedSignal:9(Killed)"), (kind, job)
        script = f"#!/bin/sh\n{KINDS[kind].format(first=first)}\n"
        # Of a job that the controller forgets before it was asked for the script, the database has none.
        stored = script in site.cluster.slurm.run(["sacct", "--batch-script", f"--jobs={job_id}"])
        for mode in ("ssh", "hybrid"):
            for metadata in site.get(f"/compute/{{mode}}/jobs/{job_id}/metadata", mode)["jobs"]:
                assert metadata["script"] == (script if stored else None), kind


WAITING = {
    "one that is held": ("#SBATCH --hold", ""),
    "an array": ("#SBATCH --hold --array=1-3", ""),
    "a task of an array": ("#SBATCH --hold --array=1-3", "_2"),
    "some tasks of an array": ("#SBATCH --hold --array=1-9:2", "_[3-5]"),
    "one that begins later": ("#SBATCH --begin=now+1hour", ""),
    "one that runs": ("", ""),
}


@pytest.mark.parametrize("kind", WAITING)
def test_jobs_that_have_not_ended_are_the_same_three_ways(site: Site, kind: str) -> None:
    directive, of = WAITING[kind]
    job_id = site.made(f"#!/bin/sh\n{directive}\nexec sleep 300\n")
    if not directive:
        until(lambda: any(task["id"].endswith(".batch") for task in site.jobs(job_id, "ssh")[0]["tasks"] or []))
    shown = same(site, job_id + of)
    if of == "_2":
        assert [job["jobId"] for job in shown] == [f"{job_id}_2"]
    for job in shown:
        assert job["status"]["exitCode"] is None
        assert all(task["status"]["exitCode"] is None for task in job["tasks"])
    assert site.http.delete(f"/compute/ssh/jobs/{job_id}").status_code == 204


def test_a_job_that_was_never_eligible_stays_in_the_list(site: Site) -> None:
    """It was cancelled while it was held, or waited for another: the controller forgets it after a while."""
    first = site.made(SLEEP)
    waits = f"#!/bin/sh\n#SBATCH --dependency=afterok:{first}\nexit 0\n"
    never = [site.made(waits), site.made("#!/bin/sh\n#SBATCH --hold\nexit 0\n")]
    for job_id in (*never, first):
        assert site.http.delete(f"/compute/ssh/jobs/{job_id}").status_code == 204
    site.forgotten(*never)
    for mode in MODES:
        listed = {job["jobId"]: job for job in site.get("/compute/{mode}/jobs", mode)["jobs"]}
        assert [listed.get(job_id, {}).get("status", {}).get("state") for job_id in never] == ["CANCELLED"] * 2, mode
        assert first in listed


DIRECTORIES = {
    "one that is not there": "{home}/nowhere",
    "a file": "{home}/file",
    "one that may not be entered": "{home}/closed",
}


@pytest.mark.parametrize("case", DIRECTORIES)
def test_a_working_directory_that_cannot_be_entered_is_refused_three_ways(site: Site, case: str) -> None:
    site.cluster.as_user("alice", ["sh", "-c", "touch file; mkdir -p closed; chmod 0 closed"])
    directory = DIRECTORIES[case].format(home=site.home)
    answers = [site.submit(SLEEP, mode, workingDirectory=directory) for mode in MODES]
    assert [answer.status_code for answer in answers] == [400, 400, 400], [answer.text for answer in answers]
    assert len({answer.json()["message"] for answer in answers}) == 1
    assert directory in answers[0].json()["message"]


def test_reservations_are_the_same_three_ways(site: Site) -> None:
    names = ["maint x", "plain"]
    for name in names:
        options = ["starttime=now+1hour", "duration=10", "users=root", "nodes=ALL", "flags=ignore_jobs,overlap"]
        site.cluster.slurm.scontrol("create", "reservation", f"ReservationName={name}", *options)
    shown = [site.get("/status/{mode}/reservations", mode)["reservations"] for mode in MODES]
    for name in names:
        site.cluster.slurm.scontrol("delete", f"ReservationName={name}")
    assert sorted(one["name"] for one in shown[0]) == names
    assert shown[0] == shown[1] == shown[2]


def rest(site: Site, tmp_path: Path, mode: str, **scheduler: Any) -> tuple[int, list[tuple[str, str]]]:
    """Return what `hpcgate check --connect` says of the system, the scheduler's settings some of them changed."""
    return walk(site.cluster, tmp_path, scheduler={"connection_mode": mode, **scheduler})


@pytest.mark.parametrize("mode", ["rest", "hybrid"])
def test_the_check_lists_what_slurmrestd_offers(site: Site, tmp_path: Path, mode: str) -> None:
    known = [f"0.0.{number}" for number in site.cluster.slurm.rest_versions()]
    status, lines = rest(site, tmp_path, mode)
    mark, text = only(lines, "slurmrestd offers")
    assert (status, mark) == (0, GOOD), lines
    assert set(known) <= set(text.partition("offers ")[2].partition(";")[0].split(", "))
    status, lines = rest(site, tmp_path, mode, api_version="0.0.999")
    mark, text = only(lines, "slurmrestd offers")
    assert (status, mark) == (1, BAD)
    assert f"set scheduler.api_version to {known[-1]}" in text


def test_the_check_does_not_blame_the_login_node_for_slurmrestd(site: Site, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{site.cluster.take_port()}"
    status, lines = rest(site, tmp_path, "rest", api_url=url)
    mark, text = only(lines, "scheduler: ")
    assert (status, mark) == (1, BAD)
    assert text.endswith(f"see that slurmrestd runs, and that the gateway reaches {url}")
    site.cluster.slurm.slurmctld.stop()
    try:
        status, lines = rest(site, tmp_path, "rest")
    finally:
        site.cluster.slurm.slurmctld.start()
        site.cluster.slurm.wait_for_nodes()
    mark, text = only(lines, "scheduler: ")
    assert (status, mark) == (1, BAD)
    assert "login node" not in text
    assert "slurmctld" in text


def command_of_the_page() -> tuple[dict[str, str], list[str]]:
    """Return the variables and the words of the command that docs/operations/slurm-jwt.md has for slurmrestd."""
    page = Path(__file__).parents[2] / "docs/operations/slurm-jwt.md"
    (line,) = re.findall(r"^(?:\w+=\S+ )+slurmrestd .*$", page.read_text(), re.MULTILINE)
    words = shlex.split(line)
    variables = dict(word.split("=", 1) for word in words[: words.index("slurmrestd")])
    return variables, words[words.index("slurmrestd") :]


def test_slurmrestd_as_the_page_has_it_takes_a_users_token(site: Site) -> None:
    variables, (_, *arguments, address) = command_of_the_page()
    port = site.cluster.take_port()
    assert address == "0.0.0.0:6820"
    nobody = pwd.getpwnam("nobody")
    process = subprocess.Popen(
        [program("slurmrestd"), *arguments, f"127.0.0.1:{port}"],
        env={**site.cluster.slurm.environment, **variables},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
    )
    try:
        until(lambda: listens(port))
        user = site.cluster.user("alice")
        headers = {"X-SLURM-USER-NAME": user.name, "X-SLURM-USER-TOKEN": site.cluster.token(user)}
        for path in ("slurm/{}/jobs", "slurmdb/{}/associations"):
            version = f"v0.0.{max(site.cluster.slurm.rest_versions())}"
            answer = httpx.get(f"http://127.0.0.1:{port}/{path.format(version)}", headers=headers, timeout=300)
            assert (answer.status_code, answer.json()["errors"]) == (200, []), answer.text
    finally:
        process.kill()
        process.wait()


def test_keys_that_the_provider_has_made_anew_are_read_as_the_page_says(site: Site) -> None:
    """A hang-up does not have slurmdbd read them, a restart does; the slurmctld of 22.05 wants one, too."""
    slurm, user = site.cluster.slurm, site.cluster.user("alice")
    assert slurm.slurmdbd is not None
    version = f"v0.0.{max(slurm.rest_versions())}"
    site.cluster.idp.rotate()
    headers = {"X-SLURM-USER-NAME": user.name, "X-SLURM-USER-TOKEN": site.cluster.token(user)}

    def taken(path: str) -> bool:
        answer = httpx.get(f"{slurm.rest_url}/{path}".format(version), headers=headers, timeout=300, trust_env=False)
        return answer.status_code == 200 and not answer.json()["errors"]

    controller, database = "slurm/{}/jobs", "slurmdb/{}/associations"
    assert not taken(controller)
    if int(slurm.version.split(".")[0]) < 23:
        slurm.scontrol("reconfigure")
        assert not taken(controller)
    slurm.slurmctld.restart()
    slurm.wait_for_nodes()
    until(lambda: taken(controller))
    os.kill(slurm.slurmdbd.pid, signal.SIGHUP)
    assert not taken(database)
    slurm.slurmdbd.restart()
    until(lambda: taken(database))
