"""Jobs as they come in and go out: fields that nobody knows, and encodings that are shared."""

import json
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request

from hpcgate.api import errors
from hpcgate.api.errors import InvalidParameters
from hpcgate.api.job_bodies import Encodings, JobBodies, listed, with_usage
from hpcgate.api.json_bodies import validated
from hpcgate.api.models import jobs as models
from hpcgate.api.models.jobs import PostJobSubmitRequest
from hpcgate.api.routes import jobs as routes
from hpcgate.schedulers.base import Job, Jobs, JobStatus, JobTime, Usage
from hpcgate.threads import MANY

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


async def test_the_same_jobs_are_encoded_once() -> None:
    encodings = Encodings(10_000, listed)
    jobs = (JOB, replace(JOB, name="two"))
    first = await encodings.of(jobs)
    assert names(first) == ["one", "two"]
    assert await encodings.of(jobs) is first
    assert await encodings.of((*jobs[:1], jobs[1])) == first
    assert names(await encodings.of(())) == []


async def test_other_jobs_at_the_same_address_are_not_taken_for_these() -> None:
    encodings = Encodings(10_000, listed)
    for number in range(1000):
        jobs = (replace(JOB, name=f"job-{number}"),)
        assert names(await encodings.of(jobs)) == [f"job-{number}"]


async def test_no_more_is_kept_than_allowed() -> None:
    encodings = Encodings(len(listed((JOB,))), listed)
    first, second = (JOB,), (replace(JOB, name="two"),)
    body = await encodings.of(first)
    assert await encodings.of(first) is body
    await encodings.of(second)
    again = await encodings.of(first)
    assert again == body
    assert again is not body
    large = (JOB, JOB)
    assert await encodings.of(large) is not await encodings.of(large)


def test_what_a_job_has_cost_is_there_where_it_is_recorded() -> None:
    used = replace(JOB, usage=Usage(cpu_seconds=1.5, node_hours=0.25))
    known, unknown = json.loads(with_usage((used, JOB)))["jobs"]
    assert known.pop("usage") == {"cpuSeconds": 1.5, "memoryPeak": None, "nodeHours": 0.25, "energy": None}
    assert known == unknown
    assert json.loads(listed((used,))) == json.loads(listed((JOB,))) == {"jobs": [unknown]}


class Asked:
    """Stands for the scheduler of a request, which knows many jobs."""

    system = property(lambda self: self)
    scheduler = property(lambda self: self)
    principal = None

    async def jobs(self, principal: object, query: object) -> Jobs:
        return Jobs(tuple(replace(JOB, job_id=str(number)) for number in range(MANY)))

    async def several(self, principal: object, ids: tuple[str, ...]) -> dict[str, Jobs]:
        return {ids[0]: await self.jobs(principal, None)}

    async def job(self, principal: object, job_id: str) -> Jobs:
        return await self.jobs(principal, None)


@pytest.mark.parametrize(
    "query", [b"", b"limit=1", f"limit={MANY}&fields=name".encode(), b"fields=jobId", b"ids=7", None], ids=repr
)
async def test_what_goes_through_a_long_list_does_not_keep_the_event_loop(
    query: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list, a page of one, some fields of each job, an array: all of them are made into an answer in a thread."""
    seen: set[int] = set()

    def validated_elsewhere(job: Job) -> Any:
        seen.add(threading.get_ident())
        return real(job)

    model = models.JobWithUsageModel if query is None else models.JobModel
    real = model.model_validate
    monkeypatch.setattr(model, "model_validate", validated_elsewhere)
    app = SimpleNamespace(state=SimpleNamespace(job_bodies=JobBodies()))
    scope = {"type": "http", "headers": [], "query_string": query or b"", "state": {"access": Asked()}, "app": app}
    request = Request(scope)
    answer = await (routes.get_job(request, "demo", "7") if query is None else routes.get_jobs(request, "demo"))
    assert json.loads(bytes(answer.body))["jobs"]
    assert len(seen) == 1
    assert threading.get_ident() not in seen
