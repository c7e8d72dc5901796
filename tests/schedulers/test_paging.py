"""Pages of jobs: each job on one of them, whatever ids there are and whatever happens between two pages."""

import random
from dataclasses import replace

import pytest

from hpcgate.errors import BadRequest
from hpcgate.schedulers.base import Job, JobStatus, JobTime
from hpcgate.schedulers.paging import MAX_CURSOR, Cursor, page, place

JOB = Job(
    job_id="1", name="one", status=JobStatus(state="RUNNING"), time=JobTime(), allocation_nodes=1, cluster="c",
    nodes="n1", partition="p", user="u", working_directory="/",
)  # fmt: skip


def jobs(*ids: str) -> list[Job]:
    return [replace(JOB, job_id=job_id, name=f"{number}") for number, job_id in enumerate(ids)]


SCATTERED = "[" + ",".join(map(str, range(1, 9999, 2))) + "]"
LISTS = [
    [],
    ["1"],
    [str(number) for number in range(30)],
    ["9", "10", "10_1", "10_[2-5,7]", "11+0", "11+1", "100"],
    ["12.pbs1", "12[].pbs1", "12[1].pbs1", "12[10].pbs1", "13.pbs1", "3.other"],
    ["7", "7", "7", "8", "8"],
    [f"5_{SCATTERED}", f"6_{SCATTERED}", "6_1"],
    ["a job", "another", "ünïcode", ""],
]


@pytest.mark.parametrize("ids", LISTS, ids=[f"list {number}" for number in range(len(LISTS))])
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_each_job_is_on_one_page(ids: list[str], limit: int) -> None:
    found: list[Job] = []
    cursor, there = None, jobs(*ids)
    for _ in range(len(ids) + 1):
        shown = page(there, limit, cursor)
        assert len(shown.jobs) <= limit
        found += shown.jobs
        if shown.after is None:
            break
        assert len(shown.jobs) == limit
        cursor = Cursor.read(str(shown.after))
        assert len(str(cursor)) < MAX_CURSOR
    assert shown.after is None
    assert found == sorted(there, key=lambda job: place(job.job_id))


def test_the_order_of_the_list_does_not_matter() -> None:
    there = jobs("9", "10", "10_1", "10_[2-5]", "11")
    mixed = random.Random(1).sample(there, len(there))
    assert page(mixed, 3).jobs == page(there, 3).jobs


@pytest.mark.parametrize(
    ("before", "after", "rest"),
    [
        (["1", "2", "3", "4"], ["1", "3", "4"], ["3", "4"]),
        (["1", "2", "3", "4"], ["3", "4", "5"], ["3", "4", "5"]),
        (["1", "2", "3"], ["1", "2"], []),
        (["1", "2_[1-3]", "3"], ["1", "2_1", "2_[2-3]", "3"], ["2_[2-3]", "3"]),
    ],
    ids=["the last one shown has gone", "the first have gone and one has come", "the rest has gone", "a task began"],
)
def test_what_happens_meanwhile_moves_no_other_job(before: list[str], after: list[str], rest: list[str]) -> None:
    first = page(jobs(*before), 2)
    assert [job.job_id for job in first.jobs] == before[:2]
    assert [job.job_id for job in page(jobs(*after), 100, first.after).jobs] == rest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "x" * 5000,
        "ü",
        "MSAx=",
        "MSAx\n",
        "!!!!",
        "MCAx",
        "MQ",
        "LTEgMQ",
        "MDEgMQ",
        "_____w",
        "MSAx" + "A" * 9000,
    ],
    ids=lambda text: ascii(text[:9]),
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    assert str(Cursor("1")) == "MSAx"
    with pytest.raises(BadRequest, match=r"^cursor: "):
        Cursor.read(text)
