"""qdel: OpenPBS 23.06 Reference Guide, "qdel"."""

from enum import Enum

from hpcgate.schedulers.pbs.job_ids import JobId


class Outcome(Enum):
    """What became of a cancellation."""

    CANCELLED = "cancelled"
    ENDED = "ended"
    ENDING = "ending"
    """The server says that it cannot be done in the job's state: a look at the job tells."""
    UNKNOWN = "unknown"
    FORBIDDEN = "forbidden"
    FAILED = "failed"


_OUTCOMES = {
    0: Outcome.CANCELLED,
    35: Outcome.ENDED,
    153: Outcome.UNKNOWN,
    156: Outcome.UNKNOWN,
    159: Outcome.FORBIDDEN,
    168: Outcome.ENDING,
}
"""By exit status: PBS's error (pbs_error.h) modulo 256; 156 is the answer for a subjob that the array does not have."""


def command(job_id: JobId) -> list[str]:
    """Return the command that deletes a job, an array or a subjob."""
    return ["qdel", job_id.argument]


def parse(exit_status: int, words: str) -> Outcome:
    """Return the outcome from the exit status and standard error."""
    if exit_status == 1 and "illegally formed job identifier" in words:
        return Outcome.UNKNOWN
    return _OUTCOMES.get(exit_status, Outcome.FAILED)
