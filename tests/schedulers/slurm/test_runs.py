"""Runs of jobs as the accounting database has them."""

from dataclasses import replace

import pytest

from hpcgate.schedulers.base import Job, JobStatus, JobTime
from hpcgate.schedulers.slurm.runs import one_each
from hpcgate.schedulers.snapshot import Seen

JOB = Job("7_1", "n", JobStatus("CANCELLED"), JobTime(end=24), 0, "c", "", "p", "alice", "/")
ALONE = Seen(replace(JOB, time=JobTime(start=23, end=24), allocation_nodes=1), "8", 21)
TOGETHER = Seen(JOB, "7", 21)
AGAIN = Seen(replace(JOB, time=JobTime(start=33, end=34), allocation_nodes=1), "8", 31)


@pytest.mark.parametrize("found", [(ALONE, TOGETHER, AGAIN), (TOGETHER, ALONE, AGAIN), (AGAIN, TOGETHER, ALONE)])
def test_a_task_that_also_stands_in_its_arrays_record_is_one_run(found: tuple[Seen, ...]) -> None:
    """Slurm leaves such a record behind where an array is cancelled as its tasks begin."""
    assert sorted(one_each(found), key=lambda run: run.submitted or 0) == [ALONE, AGAIN]
