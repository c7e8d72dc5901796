"""scontrol hold, release, requeue, suspend, resume and update; scancel --signal.

https://slurm.schedmd.com/scontrol.html, https://slurm.schedmd.com/scancel.html
"""

import re
from itertools import islice

from hpcgate.errors import BadRequest, Conflict, Forbidden, GatewayError, JobNotFound
from hpcgate.schedulers.control import Action, JobChanges
from hpcgate.schedulers.slurm import squeue
from hpcgate.schedulers.slurm.attributes import dependency
from hpcgate.schedulers.slurm.delimiters import parse_rows
from hpcgate.schedulers.slurm.failures import DENIED, DISABLED, UNKNOWN_JOB, UNREACHABLE, refused, says
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.ssh.runner import Completed

FINISHED = (
    "Job has already finished",
    "already completing or completed",
)

CONFLICTS = (
    *FINISHED,
    "Job is pending execution",
    "Job is no longer pending execution",
    "Job is currently suspended",
    "Job is not suspended",
    "Job is not running",
    "Job/step is not running",
    "Job is in held state",
    *DISABLED,
    "Requested operation not supported on this",
)
"""The job's state, or how it was submitted, does not allow it: slurm_errno.c. Waiting a little will not do."""

NO_SUCH_SUSPENDED = "Unexpected message received"
"""What scontrol 22.05 says of suspending or resuming a job that the controller does not know."""


def action_command(action: Action, job_id: JobId) -> list[str]:
    """Return the command that does something to a job, to an array or to tasks of one."""
    return ["scontrol", action.value, target(job_id)]


def target(job_id: JobId) -> str:
    """Return what names the jobs for scontrol; it takes ranges of array tasks with steps.

    Raises:
        BadRequest: It names no task.
    """
    if job_id.tasks is None or job_id.task is not None:
        return job_id.argument
    named = [tasks for tasks in job_id.tasks if tasks]
    if not named:
        raise BadRequest("The job id names no array task")
    words = (f"{one[0]}-{one[-1]}" + (f":{one.step}" if one.step != 1 else "") for one in named)
    return f"{job_id.base}_[{','.join(words)}]"


def signal_command(job_id: JobId, number: int) -> list[str]:
    """Return the command that sends a signal to all processes of a job, those of its batch script among them."""
    return ["scancel", "--verbose", "--full", f"--signal={number}", target(job_id)]


def comment_command(job_id: JobId, mark: str) -> list[str]:
    """Return the command that prints the comments of a job beneath a heading; parsed by `parse_comments`."""
    return [
        "squeue",
        "--all",
        "--states=all",
        f"--jobs={job_id.argument}",
        f"--format={squeue.format_of(('%k',), mark)}",
    ]


def parse_comments(text: str, mark: str) -> list[str]:
    """Return what `comment_command` printed, the comment of each job."""
    # Here the heading is the first row, whatever its words.
    rows = islice(squeue.rows_of(text, mark), 1, None)
    return parse_rows("squeue", rows, 1, lambda row: row[0])


def minutes(seconds: int) -> int:
    """Return a limit as Slurm counts it, in whole minutes, not less than was asked for."""
    return -(-seconds // 60)


def check_priority(changes: JobChanges) -> None:
    """Return if Slurm knows such a priority.

    Raises:
        BadRequest: It is negative.
    """
    if changes.priority is not None and changes.priority < 0:
        raise BadRequest("priority: Slurm's priorities are 0 or more")


def update_command(job_id: JobId, changes: JobChanges) -> list[str]:
    """Return the command that changes a job.

    Raises:
        BadRequest: A value cannot be given to Slurm.
    """
    check_priority(changes)
    words: dict[str, str | None] = {
        "TimeLimit": None if changes.time_limit is None else str(minutes(changes.time_limit)),
        "Partition": changes.partition,
        "Priority": None if changes.priority is None else str(changes.priority),
        "JobName": changes.name,
        "Comment": changes.comment,
        "Dependency": None if changes.dependencies is None else dependency(changes.dependencies),
    }
    given = [f"{name}={value}" for name, value in words.items() if value is not None]
    return ["scontrol", "update", f"JobId={target(job_id)}", *given]


def refusal(done: Completed, job_id: JobId) -> GatewayError:
    """Return the error for a command that did not do to a job what its user wanted, with its own words.

    `JobNotFound` is of the controller's alone: the history may know the job.
    """
    said = _ERRORS.findall(done.words)
    return judged("; ".join(dict.fromkeys(said)) or done.words, refused(done), job_id)


_ERRORS = re.compile(r"^scancel: error: (.*)$", re.MULTILINE)
"""What scancel says of the job, among what plug-ins say when it is asked to be verbose."""


def judged(words: str, otherwise: GatewayError, job_id: JobId) -> GatewayError:
    """Return the error for what Slurm has said of a job; another one for what is not about the job."""
    if says(words, DENIED):
        return Forbidden(words)
    if says(words, CONFLICTS):
        return Conflict(words)
    if says(words, UNKNOWN_JOB) or (NO_SUCH_SUSPENDED in words and not says(words, UNREACHABLE)):
        return JobNotFound(job_id.argument)
    return otherwise
