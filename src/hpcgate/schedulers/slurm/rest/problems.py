"""What slurmrestd's ``errors`` and ``warnings`` mean.

Statuses differ by version (a refused token is 500, 511, 502, or 200 with an error), the numbers of the errors less, so
the numbers decide: https://slurm.schedmd.com/rest.html, slurm/slurm_errno.h
"""

from collections.abc import Iterable
from dataclasses import dataclass

from hpcgate.errors import CommandFailed, Forbidden, GatewayError, SchedulerUnavailable
from hpcgate.outbound.wording import clipped
from hpcgate.schedulers.slurm.failures import BROKEN, DENIED, OVER_LIMIT, UNREACHABLE, says
from hpcgate.schedulers.slurm.rest import values

MAX_WORDS = 2000
"""Characters of what slurmrestd says that a user is told."""
REFUSED_TOKEN = frozenset({1007})
"""Protocol authentication error."""
UNKNOWN_JOB = frozenset({2017, 9000, 9002})
"""Invalid job id; an id that this slurmrestd cannot read, or that it found no entry for."""
ENDED_JOB = frozenset({2021})
DENIED_NUMBERS = frozenset({2002, 2010})
NOTHING_FOUND = frozenset({9003})
DATABASE_DOWN = frozenset({7000})
_UNREACHABLE_NUMBERS = frozenset({1800, 1801, 1802, 1803, *DATABASE_DOWN})
_UNCLEAR = frozenset({-1, 1, 5005})
"""Unspecified error; Operation not permitted; Zero Bytes were transmitted or received: the controller is down, or does
not take the token."""


class Unclear(CommandFailed):
    """An error that a controller which is down gives, and one that refuses the token: another question must tell."""


class DaemonDown(SchedulerUnavailable):
    """slurmrestd answers, and says that slurmctld or slurmdbd does not."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One of the errors or warnings of an answer."""

    number: int | None
    words: str


def problems(answer: object, name: str = "errors") -> tuple[Problem, ...]:
    """Return the errors of an answer, or its warnings."""
    return tuple(_problem(row) for row in values.rows(answer, name))


def _problem(row: values.Row) -> Problem:
    number = next(
        (row[key] for key in ("error_number", "error_code", "errno", "code") if isinstance(row.get(key), int)), None
    )
    error, description = values.string(row.get("error")), values.string(row.get("description"))
    if error in ("No error", "Unspecified error") and description:
        error = ""
    if error and description and error not in description:
        return Problem(number, f"{description}: {error}")
    return Problem(number, description or error)


def words(found: Iterable[Problem]) -> str:
    """Return what problems say, each once."""
    return clipped("; ".join(dict.fromkeys(problem.words for problem in found if problem.words)), MAX_WORDS)


def numbers(found: Iterable[Problem]) -> frozenset[int]:
    """Return the numbers of problems, that of success left out."""
    return frozenset(problem.number for problem in found if problem.number)


def failure(status: int, answer: object) -> GatewayError:
    """Return the error for an answer that is a failure, with slurmrestd's own words."""
    found = problems(answer)
    said = words(found) or (answer.strip() if isinstance(answer, str) else "") or f"slurmrestd answered {status}"
    met = numbers(found)
    if met & REFUSED_TOKEN or status in (401, 511):
        return Forbidden(f"Slurm does not accept the token: {said}")
    if met & _UNREACHABLE_NUMBERS or (says(said, UNREACHABLE) and not met & _UNCLEAR):
        return DaemonDown(said)
    if met & DENIED_NUMBERS or says(said, DENIED):
        return Forbidden(said)
    if says(said, OVER_LIMIT):
        return Forbidden(said)
    if met & _UNCLEAR:
        return Unclear(said)
    if says(said, BROKEN):
        return SchedulerUnavailable(said)
    if status in (502, 503, 504) and not found:
        return SchedulerUnavailable(f"slurmrestd cannot be reached: {status}")
    return CommandFailed(clipped(said, MAX_WORDS))
