"""``DELETE /slurm/<version>/job/<id>``: what became of a cancellation."""

from hpcgate.errors import BadRequest, CommandFailed, Conflict, SchedulerUnavailable
from hpcgate.schedulers.slurm.failures import DISABLED, TRANSIENT, says
from hpcgate.schedulers.slurm.rest import values
from hpcgate.schedulers.slurm.rest.problems import (
    DENIED_NUMBERS,
    ENDED_JOB,
    UNKNOWN_JOB,
    failure,
    numbers,
    problems,
    words,
)
from hpcgate.schedulers.slurm.scancel import Outcome


def outcome(status: int, answer: object) -> tuple[Outcome, str]:
    """Return the outcome and what slurmrestd says of it.

    In 22.05 a finished job is 200, another's and an unknown one 500 with the number of the error. In 26.05 only an
    unknown one is 404; the others are 200 without an error, and what went wrong stands beside each job in ``status``.

    Raises:
        GatewayError: It is none of these.
    """
    found = problems(answer)
    met = numbers(found)
    jobs = [values.row(row.get("error")) for row in values.rows(answer, "status")]
    met |= {code for job in jobs if (code := values.number(job.get("code")))}
    said = words(found) or "; ".join(dict.fromkeys(values.string(job.get("string")) for job in jobs))
    if met & DENIED_NUMBERS:
        return Outcome.FORBIDDEN, said
    if status < 300 and not met:
        return Outcome.CANCELLED, said
    if met and met <= ENDED_JOB | UNKNOWN_JOB:
        return (Outcome.ENDED if met & ENDED_JOB else Outcome.UNKNOWN), said
    error = failure(status, answer)
    if type(error) is CommandFailed and met:
        # What is said beside each job is not among the errors.
        if says(said, TRANSIENT):
            raise SchedulerUnavailable(said)
        raise Conflict(said) if says(said, DISABLED) else BadRequest(said or error.message)
    raise error
