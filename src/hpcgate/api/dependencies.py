"""What jobs are to wait for: jobs that the scheduler knows. Slurm takes any number,
and the job then waits for nothing, or for good.
"""

from collections.abc import Sequence
from typing import Final

from hpcgate.api.access import Access
from hpcgate.api.models.job_spec import DependencyModel
from hpcgate.errors import BadRequest, GatewayError, TimedOut
from hpcgate.schedulers.job_spec import Dependency
from hpcgate.schedulers.receipts import Once

AT_ONCE: Final = 1000
"""Jobs of one query."""
MOST: Final = 10_000
"""Jobs that those of one request may wait for, all together."""
SHOWN: Final = 10
"""Unknown jobs that an error names."""


def dependencies(asked: Sequence[DependencyModel] | None) -> tuple[Dependency, ...]:
    """Return what a request says."""
    return tuple(Dependency(one.type, tuple(one.job_ids)) for one in asked or ())


async def unknown(access: Access, wanted: Sequence[Sequence[Dependency]]) -> list[BadRequest | None]:
    """Return for each of some jobs the error for what it is to wait for and nobody knows; None if there is none.

    What cannot be looked up now is not unknown: the scheduler has the last word.

    Raises:
        BadRequest: They are too many.
        TimedOut: The scheduler does not answer.
    """
    ids = tuple(dict.fromkeys(job_id for some in wanted for one in some for job_id in one.job_ids))
    if len(ids) > MOST:
        raise BadRequest(f"dependencies: a request names at most {MOST} jobs, and there are {len(ids)}")
    missing: set[str] = set()
    try:
        for start in range(0, len(ids), AT_ONCE):
            missing |= await access.system.scheduler.unknown(access.principal, ids[start : start + AT_ONCE])
    except TimedOut:
        raise
    except GatewayError:
        # As it would be for the submission, which says so.
        return [None for _ in wanted]
    return [_error([job_id for one in some for job_id in one.job_ids if job_id in missing]) for some in wanted]


def _error(missing: list[str]) -> BadRequest | None:
    if not missing:
        return None
    names = list(dict.fromkeys(missing))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return BadRequest(f"dependencies: the scheduler knows no job {', '.join(names[:SHOWN])}{more}")


async def stands(access: Access, error: BadRequest, once: Once | None) -> bool:
    """Return whether an error about dependencies is the answer: not if the job was submitted when they were known."""
    if once is None:
        return True
    try:
        fate = await access.system.scheduler.submission(access.principal, once)
    except GatewayError:
        return False
    return fate.state == "not_submitted"


async def check(access: Access, asked: Sequence[Dependency], once: Once | None = None) -> None:
    """Return if a job waits for jobs that are known.

    Raises:
        BadRequest: By the names of those that are not.
        TimedOut: The scheduler does not answer; nothing was done.
    """
    (error,) = await unknown(access, [asked])
    if error is not None and await stands(access, error, once):
        raise error
