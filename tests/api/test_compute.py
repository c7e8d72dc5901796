"""Encodings that are shared."""

import json
from dataclasses import replace

from hpcgate.api.compute import _Encodings
from hpcgate.schedulers.base import Job, JobStatus, JobTime

JOB = Job(
    job_id="1", name="one", status=JobStatus(state="RUNNING"), time=JobTime(), account=None, allocation_nodes=1,
    cluster="c", group="g", nodes="n1", partition="p", priority=1, user="u", working_directory="/",
)  # fmt: skip


def names(body: bytes) -> list[str]:
    return [job["name"] for job in json.loads(body)["jobs"]]


def test_the_same_jobs_are_encoded_once() -> None:
    encodings = _Encodings(10_000)
    jobs = (JOB, replace(JOB, name="two"))
    first = encodings.of(jobs)
    assert names(first) == ["one", "two"]
    assert encodings.of(jobs) is first
    assert encodings.of((*jobs[:1], jobs[1])) == first
    assert names(encodings.of(())) == []


def test_other_jobs_at_the_same_address_are_not_taken_for_these() -> None:
    encodings = _Encodings(10_000)
    for number in range(1000):
        jobs = (replace(JOB, name=f"job-{number}"),)
        assert names(encodings.of(jobs)) == [f"job-{number}"]


def test_no_more_is_kept_than_allowed() -> None:
    encodings = _Encodings(len(_Encodings(10_000).of((JOB,))))
    first, second = (JOB,), (replace(JOB, name="two"),)
    body = encodings.of(first)
    assert encodings.of(first) is body
    encodings.of(second)
    again = encodings.of(first)
    assert again == body
    assert again is not body
    large = (JOB, JOB)
    assert encodings.of(large) is not encodings.of(large)
