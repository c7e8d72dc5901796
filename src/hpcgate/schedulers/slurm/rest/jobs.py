"""``/slurm/<version>/jobs`` and ``/job/<id>``: the jobs that the controller knows."""

import time
from collections.abc import Sequence

from hpcgate.schedulers.base import Job, JobStatus, JobTime
from hpcgate.schedulers.slurm.job_ids import addressable
from hpcgate.schedulers.slurm.records import Record, Selection
from hpcgate.schedulers.slurm.rest import values
from hpcgate.schedulers.slurm.states import ENDED, WAITING


def state(value: object) -> str:
    """Return the one state of a job; in a list the base state is the first and flags (COMPLETING) follow.

    A flag that says more than the base state replaces it, as in squeue's listing.

    Raises:
        ValueError: There is none.
    """
    found = values.names(value)
    if not found:
        raise ValueError("no state")
    return next((name for name in found[1:] if name in _TELLING), found[0])


_TELLING = frozenset(
    {"COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "RESIZING"}
    | {"REVOKED", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED"}
)
"""https://slurm.schedmd.com/job_state_codes.html (JOB STATE FLAGS)"""


def shown_id(
    job_id: int, *, array: int | None, task: int | None, tasks: str, leader: int | None, offset: int | None
) -> str:
    """Return a job's id as Slurm shows it: ``123``, ``123_4``, ``123_[1-3]``, ``123+1``."""
    if array:
        if task is not None:
            return f"{array}_{task}"
        if tasks:
            return addressable(f"{array}_[{tasks}]")
    if leader and offset is not None:
        return f"{leader}+{offset}"
    return str(job_id)


def selected(row: values.Row, selection: Selection) -> bool:
    """Return whether a job of a listing is one of the selected user's and account's."""
    return (selection.user is None or row.get("user_name") == selection.user) and (
        selection.account is None or values.string(row.get("account")).lower() == selection.account
    )


def parse(answer: object, selection: Selection, now: float | None = None) -> list[Record]:
    """Return the selected jobs of an answer.

    No version can be asked for the jobs of one user, or of one account: who they are is looked at here, before
    anything is made of them. `now` is in Unix seconds.
    """
    instant = int(time.time() if now is None else now)
    records: Sequence[Record | None] = values.parse_rows(
        answer, "jobs", lambda row: _record(row, instant) if selected(row, selection) else None
    )
    return [record for record in records if record is not None]


def _record(row: values.Row, now: int) -> Record:
    job_id = values.number(row.get("job_id"))
    if not job_id:
        raise ValueError("no job")
    current = state(row.get("job_state"))
    base = values.names(row.get("job_state"))[0]
    waiting, ended = current in WAITING or base in WAITING, base in ENDED
    start = None if waiting else values.time(row.get("start_time"))
    end = values.time(row.get("end_time")) if ended else None
    exit_code, signal = values.exit_status(row.get("exit_code")) if ended else (None, None)
    nodes = values.text(row.get("nodes"))
    job = Job(
        job_id=shown_id(
            job_id,
            array=values.number(row.get("array_job_id")),
            task=values.number(row.get("array_task_id")),
            tasks=values.string(row.get("array_task_string")),
            leader=values.number(row.get("het_job_id")),
            offset=values.number(row.get("het_job_offset")),
        ),
        name=values.string(row.get("name")),
        status=JobStatus(current, values.text(row.get("state_reason")), exit_code, signal),
        time=JobTime(
            elapsed=_elapsed(row, start, end, now, suspended=base == "SUSPENDED"),
            start=start,
            end=end,
            limit=values.minutes(row.get("time_limit")),
        ),
        allocation_nodes=0 if waiting or nodes is None else values.number(row.get("node_count")) or 0,
        cluster=values.string(row.get("cluster")),
        nodes=nodes or "None assigned",
        partition=values.string(row.get("partition")),
        user=values.text(row.get("user_name")),
        working_directory=values.string(row.get("current_working_directory")),
        account=values.text(row.get("account")),
        group=values.text(row.get("group_name")),
        priority=values.number(row.get("priority")),
    )
    return Record(job, str(job_id), values.time(row.get("submit_time")))


def _elapsed(row: values.Row, start: int | None, end: int | None, now: int, *, suspended: bool) -> int:
    """Return the seconds that a job has run, times of suspension left out, as squeue counts them."""
    if start is None:
        return 0
    paused = values.time(row.get("suspend_time"))
    ran = values.number(row.get("pre_sus_time")) or 0
    if suspended:
        return ran
    if paused is not None:
        return max(0, ran + (end or now) - paused)
    return max(0, (end or now) - start)
