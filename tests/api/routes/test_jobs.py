"""Jobs as they come in and go out: fields that nobody knows, and encodings that are shared."""

import json
from dataclasses import replace
from typing import Any

import pytest
from fastapi import Request

from hpcgate.api import errors
from hpcgate.api.errors import InvalidParameters
from hpcgate.api.json_bodies import validated
from hpcgate.api.models.jobs import PostJobSubmitRequest
from hpcgate.api.routes.jobs import _Encodings, listed, with_usage
from hpcgate.schedulers.base import Job, JobStatus, JobTime, Usage

JOB = Job(
    job_id="1", name="one", status=JobStatus(state="RUNNING"), time=JobTime(), account=None, allocation_nodes=1,
    cluster="c", group="g", nodes="n1", partition="p", priority=1, user="u", working_directory="/",
)  # fmt: skip


NEEDED = {"workingDirectory": "/home", "script": "#!/bin/sh"}


@pytest.mark.parametrize(
    ("job", "beside", "unknown"),
    [
        ({"arrays": "1-3", "dependency": "afterok:7"}, {}, ["job.arrays", "job.dependency"]),
        ({"workDir": "/home"}, {}, ["job.workDir"]),
        ({"time_limit": 0, "nodes": False, "gres": ""}, {}, ["job.gres", "job.nodes", "job.time_limit"]),
        ({"working_directory": "/tmp"}, {}, ["job.working_directory"]),
        ({}, {"array": "1-3"}, ["array"]),
        ({"arrays": None, "dependency": None}, {"array": None}, []),
        ({"environment": {"A": "b"}}, {}, []),
        ({"account": "a", "partition": None, "standard_output": "o", "scriptPath": None}, {}, []),
    ],
)
def test_unknown_fields_of_a_job_are_said(job: Any, beside: Any, unknown: list[str]) -> None:
    body = {"job": NEEDED | job, **beside}
    if not unknown:
        validated(PostJobSubmitRequest, body)
        return
    with pytest.raises(InvalidParameters) as caught:
        validated(PostJobSubmitRequest, body)
    request = Request({"type": "http", "headers": []})
    answer = json.loads(bytes(errors.answer_to(request, caught.value).body))
    assert sorted(field["name"] for field in answer["data"]["fields"]) == unknown
    assert answer["errorType"] == "validation"
    assert answer["message"].startswith("Validation error: unknown fields ")
    assert all(name in answer["message"] for name in unknown)


def test_a_body_of_unknown_fields_makes_no_long_message() -> None:
    with pytest.raises(InvalidParameters) as caught:
        validated(PostJobSubmitRequest, {"job": NEEDED | {f"{number}{'x' * 10_000}": 1 for number in range(1000)}})
    answer = json.loads(bytes(errors.answer_to(Request({"type": "http", "headers": []}), caught.value).body))
    assert len(answer["message"]) < 1000


def names(body: bytes) -> list[str]:
    return [job["name"] for job in json.loads(body)["jobs"]]


def test_the_same_jobs_are_encoded_once() -> None:
    encodings = _Encodings(10_000, listed)
    jobs = (JOB, replace(JOB, name="two"))
    first = encodings.of(jobs)
    assert names(first) == ["one", "two"]
    assert encodings.of(jobs) is first
    assert encodings.of((*jobs[:1], jobs[1])) == first
    assert names(encodings.of(())) == []


def test_other_jobs_at_the_same_address_are_not_taken_for_these() -> None:
    encodings = _Encodings(10_000, listed)
    for number in range(1000):
        jobs = (replace(JOB, name=f"job-{number}"),)
        assert names(encodings.of(jobs)) == [f"job-{number}"]


def test_no_more_is_kept_than_allowed() -> None:
    encodings = _Encodings(len(listed((JOB,))), listed)
    first, second = (JOB,), (replace(JOB, name="two"),)
    body = encodings.of(first)
    assert encodings.of(first) is body
    encodings.of(second)
    again = encodings.of(first)
    assert again == body
    assert again is not body
    large = (JOB, JOB)
    assert encodings.of(large) is not encodings.of(large)


def test_what_a_job_has_cost_is_there_where_it_is_recorded() -> None:
    used = replace(JOB, usage=Usage(cpu_seconds=1.5, node_hours=0.25))
    known, unknown = json.loads(with_usage((used, JOB)))["jobs"]
    assert known.pop("usage") == {"cpuSeconds": 1.5, "memoryPeak": None, "nodeHours": 0.25, "energy": None}
    assert known == unknown
    assert json.loads(listed((used,))) == json.loads(listed((JOB,))) == {"jobs": [unknown]}
