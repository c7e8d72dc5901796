"""Many jobs by their ids in one request, and page by page, on the real Slurm."""

import time
from typing import Any
from uuid import uuid4

import pytest

from hpcgate.api.routes.jobs import MAX_IDS, wanted
from hpcgate.errors import BadRequest
from hpcgate.schedulers.paging import MAX_LIMIT
from tests.people import Person


def submit(person: Person, script: str) -> str:
    body = {"job": {"script": script, "workingDirectory": str(person.user.home)}}
    answer = person.http.post("/compute/demo/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["jobId"])


def ask(person: Person, **query: str) -> Any:
    return person.http.get("/compute/demo/jobs", params=query)


def test_jobs_by_their_ids(alice: Person, bob: Person) -> None:
    hold = "#!/bin/sh\n#SBATCH --begin=now+1day\n"
    one, his = submit(alice, hold), submit(bob, hold)
    array = submit(alice, hold + "#SBATCH --array=1,3\n")
    try:
        answer = ask(alice, ids=f"{array}_[1,3],{one}, {his},99999999,no-id,{one}")
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert [job["jobId"].partition("_")[0] for job in body["jobs"]] == [array, one, his]
        assert body["jobs"][1] == alice.http.get(f"/compute/demo/jobs/{one}").json()["jobs"][0]
        lacking = {each["jobId"]: (each["status"], each["message"]) for each in body["notShown"]}
        assert lacking == {name: (404, f"Job not found: {name}") for name in ("99999999", "no-id")}
        assert ask(alice, ids=one).json()["notShown"] == []
    finally:
        for person, job_id in ((alice, one), (bob, his), (alice, array)):
            person.http.delete(f"/compute/demo/jobs/{job_id}")


def test_what_is_no_list_of_ids(alice: Person) -> None:
    for query in ({"ids": ""}, {"ids": " , "}, {"ids": "1", "name": "a"}, {"ids": "1", "account": "demo"}):
        assert ask(alice, **query).status_code == 400, query


def test_as_many_as_there_may_be(alice: Person) -> None:
    ids = [str(90_000_000 + number) for number in range(MAX_IDS)]
    answer = ask(alice, ids=",".join(ids))
    assert answer.status_code == 200, answer.text
    assert [each["jobId"] for each in answer.json()["notShown"]] == ids
    assert ask(alice, ids=",".join([*ids, "1"])).status_code == 400


@pytest.mark.parametrize(
    ("text", "ids"),
    [("1", ["1"]), ("1,2,1", ["1", "2"]), ("7_[1,3],8", ["7_[1,3]", "8"]), ("1[].server,2", ["1[].server", "2"])],
)
def test_a_list_of_ids(text: str, ids: list[str]) -> None:
    assert list(wanted(text)) == ids


def test_a_long_list_is_gone_through_once() -> None:
    """As much as a head may hold: each comma looked for the next bracket, and the event loop waited for seconds."""
    assert wanted("1," * 32_000) == ("1",)
    assert wanted("7_[1,3]," * 8_000) == ("7_[1,3]",)
    with pytest.raises(BadRequest):
        wanted("," * 65_000)


@pytest.mark.parametrize("text", ["", ",", " "])
def test_no_ids(text: str) -> None:
    """A list of ids that is none is 400."""
    with pytest.raises(BadRequest):
        wanted(text)


def test_jobs_page_by_page(alice: Person) -> None:
    name = f"paged-{uuid4().hex[:8]}"
    hold = f"#!/bin/sh\n#SBATCH --hold\n#SBATCH --job-name={name}\n"
    ids = [submit(alice, hold) for _ in range(3)]
    array = submit(alice, hold + "#SBATCH --array=1,3\n")
    try:
        whole = ask(alice, name=name).json()
        assert list(whole) == ["jobs"]
        pages: list[Any] = []
        cursor: dict[str, str] = {}
        for _ in range(4):
            answer = ask(alice, name=name, limit="2", **cursor)
            assert answer.status_code == 200, answer.text
            pages.append(answer.json())
            if pages[-1]["nextCursor"] is None:
                break
            cursor = {"cursor": pages[-1]["nextCursor"]}
        assert [list(page) for page in pages] == [["jobs", "nextCursor"]] * 2
        assert [job for page in pages for job in page["jobs"]] == whole["jobs"]
        assert [job["jobId"].partition("_")[0] for job in whole["jobs"]] == [*ids, array]
        # The job where the first page ended has gone meanwhile.
        alice.http.delete(f"/compute/demo/jobs/{ids[1]}")
        rest = ask(alice, name=name, limit="2", cursor=pages[0]["nextCursor"], fields="jobId").json()
        assert [job["jobId"].partition("_")[0] for job in rest["jobs"]] == [ids[2], array]
        assert ask(alice, name=name, fields="jobId, name").json() == {
            "jobs": [{"jobId": job["jobId"], "name": name} for job in whole["jobs"]]
        }
        one = ask(alice, ids=f"{ids[0]},x", fields="status").json()
        assert [list(job) for job in one["jobs"]] == [["status"]]
        assert one["jobs"][0]["status"] == whole["jobs"][0]["status"]
        assert [list(job) for job in one["notShown"]] == [["jobId", "status", "message"]]
    finally:
        for job_id in (*ids, array):
            alice.http.delete(f"/compute/demo/jobs/{job_id}")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"limit": "1e3"}, "limit"),
        ({"limit": str(MAX_LIMIT + 1)}, "limit"),
        ({"limit": ""}, "limit"),
        ({"limit": "1", "cursor": "no-cursor"}, "cursor"),
        ({"limit": "1", "cursor": ""}, "cursor"),
        ({"cursor": "MSAx"}, "cursor"),
        ({"ids": "1", "limit": "1"}, "ids"),
        ({"fields": ""}, "fields"),
        ({"fields": "jobId,colour"}, "colour"),
        ({"fields": "job_id"}, "job_id"),
        ({"fields": "x" * 2000}, "fields"),
        ({"ids": "1", "fields": "colour"}, "colour"),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, dict) else value,
)
def test_what_is_no_page_is_refused_by_its_name(alice: Person, query: dict[str, str], named: str) -> None:
    answer = ask(alice, **query)
    assert answer.status_code == 400, answer.text
    assert named in answer.text


def test_what_a_job_has_cost(alice: Person) -> None:
    waiting = submit(alice, "#!/bin/sh\n#SBATCH --hold\n")
    job_id = submit(alice, "#!/bin/sh\ni=0\nwhile [ $i -lt 100000 ]; do i=$((i + 1)); done\n")

    def recorded() -> Any:
        (job,) = alice.http.get(f"/compute/demo/jobs/{job_id}").json()["jobs"]
        usage = job.get("usage") or {}
        return (job, usage) if job["status"]["state"] == "COMPLETED" and usage.get("cpuSeconds") else None

    try:
        for _ in range(600):
            if (found := recorded()) is not None:
                break
            time.sleep(0.2)
        assert found is not None
        job, usage = found
        assert set(usage) == {"cpuSeconds", "memoryPeak", "nodeHours", "energy"}
        assert usage["nodeHours"] == pytest.approx(job["allocationNodes"] * job["time"]["elapsed"] / 3600, abs=1e-4)
        assert usage["memoryPeak"] is None or usage["memoryPeak"] > 1024
        assert "usage" not in alice.http.get(f"/compute/demo/jobs/{waiting}").json()["jobs"][0]
        assert "usage" not in ask(alice, ids=job_id).json()["jobs"][0]
        assert all("usage" not in job for job in ask(alice).json()["jobs"])
    finally:
        alice.http.delete(f"/compute/demo/jobs/{waiting}")
