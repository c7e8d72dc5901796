"""``/slurmdb/<version>/jobs`` and ``/job/<id>``: the jobs that the accounting database knows, with their steps."""

import time
from dataclasses import replace

from hpcgate.schedulers.base import Job, JobStatus, JobTask, JobTime, usage_of
from hpcgate.schedulers.slurm import sacct
from hpcgate.schedulers.slurm.records import Record, Selection
from hpcgate.schedulers.slurm.rest import values
from hpcgate.schedulers.slurm.rest.jobs import shown_id, state
from hpcgate.schedulers.slurm.rest.versions import ApiVersion
from hpcgate.schedulers.slurm.states import ENDED, LISTED


def parse(answer: object, selection: Selection) -> list[Record]:
    """Return the selected jobs of an answer; where the server could not choose by user, they are chosen here."""

    def record(row: values.Row) -> Record | None:
        if selection.user is not None and row.get("user") != selection.user:
            return None
        if selection.account is not None and values.string(row.get("account")).lower() != selection.account:
            return None
        return _record(row, selection)

    return [found for found in values.parse_rows(answer, "jobs", record) if found is not None]


def _record(row: values.Row, selection: Selection) -> Record:
    job_id = values.number(row.get("job_id"))
    if not job_id:
        raise ValueError("no job")
    array, het, times = values.row(row.get("array")), values.row(row.get("het")), values.row(row.get("time"))
    standing = values.row(row.get("state"))
    current = state(standing.get("current"))
    nodes = values.text(row.get("nodes"))
    shown = shown_id(
        job_id,
        array=values.number(array.get("job_id")),
        task=values.number(array.get("task_id")),
        tasks=task_expression(values.string(array.get("task"))),
        leader=values.number(het.get("job_id")),
        offset=values.number(het.get("job_offset")),
    )
    ran, count = _time(times), values.number(row.get("allocation_nodes")) or 0
    job = Job(
        job_id=shown,
        name=values.string(row.get("name")),
        status=_status(row, current, values.text(standing.get("reason"))),
        time=ran,
        allocation_nodes=count,
        cluster=values.string(row.get("cluster")),
        nodes=nodes or "None assigned",
        partition=values.string(row.get("partition")),
        user=values.text(row.get("user")),
        working_directory=values.string(row.get("working_directory")),
        account=values.text(row.get("account")),
        group=values.text(row.get("group")),
        kill_request_user=values.text(row.get("kill_request_user")),
        priority=values.number(row.get("priority")),
        tasks=tuple(values.parse_rows(row, "steps", lambda step: _task(step, shown))) or None,
        usage=None
        if ran.start is None or not selection.ids
        else usage_of(
            # It is told of steps; v0.0.38 tells none, and says 0.
            cpu_seconds=_cpu(row) or sum(_cpu(step) for step in values.rows(row, "steps")),
            memory_peak=max((_peak(step) for step in values.rows(row, "steps")), default=None),
            nodes=count,
            elapsed=ran.elapsed,
            energy=sum(_energy(step) for step in values.rows(row, "steps")),
        ),
    )
    record = Record(job, str(job_id), values.time(times.get("submission")))
    if "`" in job.name:
        return sacct.renamed(record, values.string(row.get("submit_line")))
    return record


def _cpu(row: values.Row) -> float:
    """Return the seconds of processors of a job or a step, to the millisecond as sacct has them; 0 if not recorded."""
    total = values.row(values.row(row.get("time")).get("total"))
    milliseconds = (values.number(total.get("microseconds")) or 0) // 1000
    return round((values.number(total.get("seconds")) or 0) + milliseconds / 1000, 3)


def _peak(step: values.Row) -> int:
    """Return the bytes of a step's task that held most, 0 where it is not recorded."""
    most = values.rows(values.row(values.row(step.get("tres")).get("requested")), "max")
    return max((values.number(one.get("count")) or 0 for one in most if one.get("type") == "mem"), default=0)


def _energy(step: values.Row) -> int:
    """Return the joules of a step, 0 where they are not recorded."""
    return values.number(values.row(values.row(step.get("statistics")).get("energy")).get("consumed")) or 0


def _status(row: values.Row, current: str, reason: str | None = None) -> JobStatus:
    exit_code, signal = values.exit_status(row.get("exit_code"))
    if current not in ENDED:
        exit_code, signal = None, None
    elif exit_code == 0 and not signal and current in _NOT_ZERO:
        # v0.0.38 says SUCCESS and 0 of a job that failed with 3: then it is not known.
        exit_code, signal = None, None
    return JobStatus(current, reason, exit_code, signal)


_NOT_ZERO = frozenset({"FAILED", "OUT_OF_MEMORY"})
"""States in which exit status 0 without a signal cannot be."""


def _time(times: values.Row) -> JobTime:
    return JobTime(
        elapsed=values.number(times.get("elapsed")),
        start=values.time(times.get("start")),
        end=values.time(times.get("end")),
        suspended=values.number(times.get("suspended")),
        limit=values.minutes(times.get("limit")),
    )


def _task(row: values.Row, job_id: str) -> JobTask:
    step = values.row(row.get("step"))
    name = values.string(step.get("name"))
    own = step.get("id")
    if isinstance(own, int) and not isinstance(own, bool):
        own = str(own)
    if not isinstance(own, str) or not own:
        raise ValueError("no step")
    # 22.05: "batch"; later "263.batch", the number being that of the record.
    own = own.rpartition(".")[2].replace("TBD", "tbd")
    return JobTask(
        id=f"{job_id}.{own}",
        name=name,
        status=_status(row, state(row.get("state"))),
        time=replace(_time(values.row(row.get("time"))), limit=None),
    )


def task_expression(tasks: str) -> str:
    """Return the tasks of an array that are still waiting, of which 22.05 gives a bitmap, as an expression.

    >>> task_expression("0x17")
    '0-2,4'
    """
    if not tasks.startswith("0x"):
        return tasks
    try:
        bits = int(tasks[:1_000_010], 16)
    except ValueError:
        return ""
    digits = f"{bits:b}"[::-1]
    parts, place = [], digits.find("1")
    while place >= 0:
        end = digits.find("0", place)
        last = (len(digits) if end < 0 else end) - 1
        parts.append(str(place) if last == place else f"{place}-{last}")
        place = digits.find("1", last + 1)
    return ",".join(parts)


def query(selection: Selection, version: ApiVersion, *, states: bool = True) -> list[tuple[str, str]]:
    """Return the query of a listing: from the window's start on, of the user and the account where that can be asked.

    With `states` it has the jobs that were in one of them at some time since: all that had not ended by then. Without,
    those that were never eligible to run are left out.
    """
    asked = []
    if selection.window is not None:
        now = int(time.time())
        asked.append(("start_time", f"uts{now - selection.window}"))
        if states:
            # Of states the database finds nothing without an end.
            asked.append(("end_time", f"uts{now}"))
            asked += [("state", ",".join(LISTED))] if version.states_joined else [("state", name) for name in LISTED]
    if selection.user is not None and version.history_users:
        asked.append(("users", selection.user))
    if selection.account is not None:
        asked.append(("account", selection.account))
    return asked
