"""scancel: https://slurm.schedmd.com/scancel.html

Without ``--verbose`` it says nothing of a job that has ended or that nobody knows.
"""

import re
from enum import Enum

from hpcgate.errors import BadRequest
from hpcgate.schedulers.slurm.job_ids import JobId


class Outcome(Enum):
    """What became of a cancellation."""

    CANCELLED = "cancelled"
    ENDED = "ended"
    UNKNOWN = "unknown"
    """The controller does not know the job; the history may."""
    FORBIDDEN = "forbidden"
    FAILED = "failed"


_MAX_TASKS = 10_000
"""One argument has at most 128 KiB."""
_ERROR = re.compile(r"error: (?:Kill job error on job(?: step)? ?id \S+: )?([^\n]+)$", re.MULTILINE)
_JOBS = re.compile(
    r"error: (?:Kill job error on job(?: step)? ?id \S+: ([^\n]+)|(Invalid job id [^\n]*))$", re.MULTILINE
)
"""What scancel says of a job itself; plug-ins and wrappers say other things that are not failures of its."""


def command(job_id: JobId) -> list[str]:
    """Return the command that cancels a job, an array, tasks of one, or a heterogeneous job.

    Raises:
        BadRequest: The id names more array tasks one by one than a command line takes.
    """
    target = job_id.argument
    if job_id.tasks is not None and job_id.task is None:
        if sum(len(one) for one in job_id.tasks if one.step != 1) > _MAX_TASKS:
            raise BadRequest(f"More than {_MAX_TASKS} array tasks one by one")
        target = f"{job_id.base}_[{','.join(_numbers(one) for one in job_id.tasks if one)}]"
    return ["scancel", "--verbose", target]


def elsewhere(job_id: str, cluster: str) -> list[str]:
    """Return the command that cancels a job on another cluster."""
    return ["scancel", f"--clusters={cluster}", "--", job_id]


def _numbers(tasks: range) -> str:
    """Return the numbers of array tasks as scancel takes them: it knows ranges, but no steps."""
    if tasks.step == 1:
        return f"{tasks[0]}-{tasks[-1]}"
    return ",".join(str(number) for number in tasks)


def parse(exit_status: int, words: str) -> Outcome:
    """Return the outcome from the exit status and standard error."""
    errors = [said or invalid for said, invalid in _JOBS.findall(words)]
    if not errors and exit_status != 0:
        errors = _ERROR.findall(words)
    if not errors:
        return Outcome.CANCELLED if exit_status == 0 else Outcome.FAILED
    if any("denied" in error or "Invalid user id" in error for error in errors):
        return Outcome.FORBIDDEN
    if all("Invalid job id" in error for error in errors):
        return Outcome.UNKNOWN
    if all("already completing or completed" in error or "Invalid job id" in error for error in errors):
        return Outcome.ENDED
    return Outcome.FAILED
