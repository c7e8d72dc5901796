"""?wait= on the real Slurm: answered when it has happened, and not before."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from hpcgate.demo.cluster import Cluster
from tests.people import Person

from .scheduler_systems import principal, system

LONG = 600
"""Seconds of patience that no test needs."""


def submit(person: Person, *lines: str) -> str:
    body = {"job": {"script": "\n".join(["#!/bin/sh", *lines, ""]), "workingDirectory": str(person.user.home)}}
    answer = person.http.post("/compute/demo/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["jobId"])


def get(person: Person, job_id: str, **query: Any) -> Any:
    answer = person.http.get(f"/compute/demo/jobs/{job_id}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["jobs"]


def states(jobs: Any) -> set[str]:
    return {job["status"]["state"] for job in jobs}


def test_a_request_is_answered_when_the_job_has_ended_and_says_how(alice: Person) -> None:
    job_id = submit(alice, "sleep 2", "exit 3")
    (job,) = get(alice, job_id, wait="ended", timeout=LONG)
    assert (job["jobId"], job["status"]["state"], job["status"]["exitCode"]) == (job_id, "FAILED", 3)
    (again,) = get(alice, job_id, wait="ended", timeout=LONG)
    assert again["status"]["state"] == "FAILED"


def test_a_job_that_waits_is_waited_for_until_it_starts_and_until_it_changes(alice: Person) -> None:
    job_id = submit(alice, "#SBATCH --hold", "exec sleep 300")
    try:
        with ThreadPoolExecutor() as pool:
            started = pool.submit(get, alice, job_id, wait="started", timeout=LONG)
            changed = pool.submit(get, alice, job_id, wait="changed", timeout=LONG)
            assert states(get(alice, job_id, wait="started", timeout=0.1)) == {"PENDING"}
            assert not started.done()
            assert not changed.done()
            assert alice.http.put(f"/compute/demo/jobs/{job_id}/release").status_code == 204
            assert states(started.result(LONG)) == {"RUNNING"}
            (job,) = changed.result(LONG)
            assert (job["status"]["state"], job["status"]["stateReason"]) != ("PENDING", "JobHeldUser")
    finally:
        alice.http.delete(f"/compute/demo/jobs/{job_id}")


def test_of_several_jobs_and_of_the_tasks_of_an_array_all_have_to_end(alice: Person) -> None:
    array = submit(alice, "#SBATCH --array=1-3", "sleep $SLURM_ARRAY_TASK_ID")
    other = submit(alice, "sleep 1")
    answer = alice.http.get("/compute/demo/jobs", params={"ids": f"{array},{other},99999999", "wait": "ended"})
    assert answer.status_code == 200, answer.text
    assert {job["jobId"] for job in answer.json()["jobs"]} == {*(f"{array}_{task}" for task in (1, 2, 3)), other}
    assert states(answer.json()["jobs"]) == {"COMPLETED"}
    assert [each["jobId"] for each in answer.json()["notShown"]] == ["99999999"]


def test_somebody_elses_job_can_be_waited_for_as_it_can_be_read(alice: Person, bob: Person) -> None:
    job_id = submit(bob, "#SBATCH --hold", "true")
    try:
        assert states(get(alice, job_id, wait="ended", timeout=0.5)) == {"PENDING"}
    finally:
        bob.http.delete(f"/compute/demo/jobs/{job_id}")
    assert states(get(alice, job_id, wait="ended", timeout=LONG)) == {"CANCELLED"}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("jobs/99999999?wait=ended", 404),
        ("jobs/1?wait=never", 400),
        ("jobs/1?wait=ended&timeout=-1", 400),
        ("jobs/1?wait=ended&timeout=nan", 400),
        ("jobs/1?wait=ended&timeout=inf", 400),
        ("jobs?wait=ended", 400),
    ],
)
def test_what_cannot_be_waited_for_is_refused_at_once(alice: Person, path: str, status: int) -> None:
    answer = alice.http.get(f"/compute/demo/{path}")
    assert answer.status_code == status, answer.text


def test_who_waits_counts_as_a_stream_and_is_bounded(alice: Person) -> None:
    job_id = submit(alice, "#SBATCH --hold", "true")
    try:
        with ThreadPoolExecutor(12) as pool:
            path = f"/compute/demo/jobs/{job_id}?wait=ended&timeout=5"
            answers = [one.status_code for one in pool.map(alice.http.get, [path] * 12)]
        assert set(answers) == {200, 429}
    finally:
        alice.http.delete(f"/compute/demo/jobs/{job_id}")


def lists_asked_for(cluster: Cluster) -> int:
    """Return how often the controller was asked for jobs since it began, by whatever command."""
    assert cluster.slurm is not None
    found = re.findall(r"^\s*REQUEST_JOB_\w*INFO\w*\s*\(.*?count:(\d+)", cluster.slurm.run(["sdiag"]), re.MULTILINE)
    return sum(map(int, found))


async def test_the_controller_is_asked_once_for_all_who_watch_and_never_while_nobody_does(cluster: Cluster) -> None:
    """Counted where it is asked."""
    async with system(cluster, events={"interval": 0.5}) as made:
        before = await asyncio.to_thread(lists_asked_for, cluster)
        with ExitStack() as stack:
            watchers = [stack.enter_context(made.watching.watch(principal(cluster, "alice"))) for _ in range(100)]
            await asyncio.gather(*(watcher.changed() for watcher in watchers))
            while made.watching.polls < 5:
                await asyncio.sleep(0.1)
        while made.background.running:
            await asyncio.sleep(0.1)
        asked = await asyncio.to_thread(lists_asked_for, cluster) - before
        assert 5 <= asked == made.watching.polls
        assert await asyncio.to_thread(lists_asked_for, cluster) - before == asked
