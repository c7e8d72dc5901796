"""Runs of jobs, as those who watch jobs see them: from a list of the controller, and from the database's records."""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice

from hpcgate.auth import Principal
from hpcgate.errors import SchedulerUnavailable
from hpcgate.schedulers.slurm import scontrol, squeue
from hpcgate.schedulers.slurm.command_line import CommandLine, NoHistory
from hpcgate.schedulers.slurm.delimiters import new_mark
from hpcgate.schedulers.slurm.failures import UNKNOWN_JOB, failure, says
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.records import MAX_IDS, Record, Selection
from hpcgate.schedulers.slurm.states import BETWEEN, FINISHED
from hpcgate.schedulers.slurm.tools import text_of
from hpcgate.schedulers.snapshot import Seen

MAX_TASKS = 10_000
"""Most tasks of an array that are told of one by one while they wait together; of the others once they begin."""

NO_NODES = frozenset({"", "None assigned"})
"""What Slurm names the nodes of a job that has none."""


def apart(seen: Seen) -> Sequence[Seen]:
    """Return the tasks of an array that wait together one by one."""
    parsed = JobId.read(seen.job.job_id) if "_[" in seen.job.job_id else None
    if parsed is None or parsed.tasks is None:
        return (seen,)
    numbers = islice(chain.from_iterable(parsed.tasks), MAX_TASKS)
    return tuple(replace(seen, job=replace(seen.job, job_id=f"{parsed.base}_{number}")) for number in numbers)


async def clock(commands: CommandLine, principal: Principal) -> int | None:
    """Return the controller's time: https://slurm.schedmd.com/sdiag.html"""
    done = await commands.tools.run(principal, ["sdiag"])
    if not done.ok:
        raise failure(done)
    found = _CLOCK.search(text_of(done.stdout))
    return None if found is None else int(found[1])


_CLOCK = re.compile(r"^sdiag output at [^\n]*\(([0-9]{1,12})\)", re.MULTILINE)


async def closer(commands: CommandLine, principal: Principal, found: Sequence[Seen], user: str | None) -> list[Seen]:
    """Return jobs with exit status and restarts, by one more query of the controller."""
    few = len(found) <= MAX_IDS
    selection = Selection(ids=tuple(JobId(one.raw) for one in found)) if few else Selection(user=user)
    mark = new_mark()
    done = await commands.tools.run(principal, squeue.closer_command(selection, mark))
    if not done.ok and not says(done.words, UNKNOWN_JOB):
        raise failure(done, mark)
    told = squeue.parse_closer(text_of(done.stdout), mark)
    return [_closer(one, told[one.raw]) if one.raw in told else one for one in found]


def _closer(seen: Seen, told: squeue.Ended) -> Seen:
    exit_status, signal, restarts = told
    job = seen.job
    if job.time.end is not None and exit_status is not None:
        job = replace(job, status=replace(job.status, exit_code=exit_status, interrupt_signal=signal))
    return replace(seen, job=job, restarts=restarts)


async def runs(
    commands: CommandLine, principal: Principal, user: str | None, since: int | None, records: Sequence[str]
) -> list[Seen] | None:
    """Return runs of the accounting database; as `Watched.runs`."""
    window = None if since is None else max(1, int(time.time()) - since)
    ids = None if since is not None else tuple(map(JobId, records))
    try:
        if since is not None:
            done = await commands.tools.run(principal, ["sdiag"])
            if done.ok and not scontrol.told_all(text_of(done.stdout)):
                raise SchedulerUnavailable("The accounting database has not been told all yet")
        found = await commands.history(principal, Selection(ids=ids, user=user, window=window, duplicates=True))
    except NoHistory:
        return None
    known = [part for record in found if record.whole for part in apart(seen_of(record))]
    return sorted(one_each(known), key=lambda run: run.submitted or 0)


def one_each(found: Sequence[Seen]) -> Sequence[Seen]:
    """Return each run once: tasks that have begun may still stand in the record of those that waited together, too."""
    runs: dict[tuple[str, int | None], Seen] = {}
    for run in found:
        key = run.job.job_id, run.submitted
        if key not in runs or not runs[key].job.allocation_nodes:
            runs[key] = run
    return list(runs.values())


def seen_of(record: Record) -> Seen:
    """Return a job as those who watch see it.

    The record of a run that had ended and was requeued later says how by its batch step alone: the database overwrites
    the run's own end and state.
    """
    job = record.job
    if job.nodes in NO_NODES:
        # A job that was cancelled while it waited to run again is recorded with a start and the number that it wants.
        job = replace(job, allocation_nodes=0)
    seen = Seen(replace(job, tasks=None), record.raw, record.submitted, between=job.status.state in BETWEEN)
    batch = next((step for step in job.tasks or () if step.id == f"{job.job_id}.batch"), None)
    if job.status.state != "REQUEUED" or batch is None or batch.status.state not in FINISHED:
        return seen
    if batch.time.end is None or job.time.end is None or batch.time.end >= job.time.end:
        return seen
    own = replace(seen.job, status=batch.status, time=replace(job.time, end=batch.time.end))
    return replace(seen, job=own, finished=True)
