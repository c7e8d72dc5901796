"""/compute/{system}/jobs: many jobs at a time."""

from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Response

from hpcgate.api import dependencies
from hpcgate.api.access import Access, AccessDep, gateway
from hpcgate.api.errors import secrets_of
from hpcgate.api.idempotency import HEADER, checked, once_of
from hpcgate.api.job_requests import admitted, description
from hpcgate.api.json_bodies import json_body
from hpcgate.api.models import bulk as models
from hpcgate.api.responses import encoded, json_bytes
from hpcgate.api.terms import BY_SCHEDULER, Terms, on
from hpcgate.config.groups import Group
from hpcgate.errors import BadRequest, GatewayError, SchedulerUnavailable, TimedOut
from hpcgate.outbound.wording import without
from hpcgate.schedulers.base import LIVE, JobDescription, JobQuery
from hpcgate.schedulers.many import each
from hpcgate.schedulers.receipts import Once

router = APIRouter(prefix="/compute/{system_name}/jobs", tags=["compute"])

MAX_BULK: Final = 32 * 1024 * 1024
"""Bytes of a body with many jobs."""
MAX_VALUES: Final = 256 * 1024
"""Most values in one; a job with ten variables has some 100."""
CHECKED_AT_ONCE: Final = 4
"""How many jobs of one request are held against the policy at a time."""


def _problem(access: Access, error: GatewayError) -> models.JobProblem:
    message = error.message if access.request is None else without(error.message, *secrets_of(access.request))
    after = error.headers.get("Retry-After")
    return models.JobProblem(
        status=error.status, message=message, retry_after=int(after) if after and after.isdigit() else None
    )


async def count(access: Access, group: Group, jobs: int) -> None:
    """Count a request as so many as it has jobs; as one it has been counted.

    Raises:
        RateLimited: They are too many.
    """
    request = access.request
    if request is None or jobs < 2:
        return
    rates = gateway(request).rates
    if rates.on:
        request.scope["state"]["rate_headers"] = await rates.take(access.principal, group, jobs - 1, counted=1)


_Wanted = tuple[JobDescription, Once | None] | GatewayError
"""A job that may be submitted, or why it may not be."""


async def _with_known(access: Access, jobs: list[_Wanted]) -> list[_Wanted]:
    """Return jobs with the error for those that are to wait for what nobody knows; all are looked up together.

    If the scheduler does not answer, that is the error of those that are to wait for anything.
    """
    waits = [() if isinstance(job, GatewayError) else job[0].attributes.dependencies for job in jobs]
    errors: Sequence[GatewayError | None]
    try:
        errors = await dependencies.unknown(access, waits)
    except TimedOut as error:
        errors = [error if any(one.job_ids for one in some) else None for some in waits]

    async def judged(pair: tuple[_Wanted, GatewayError | None]) -> _Wanted:
        job, error = pair
        if error is None or isinstance(job, GatewayError):
            return job
        # Whoever does not answer is not asked what has become of a key either.
        if isinstance(error, BadRequest) and not await dependencies.stands(access, error, job[1]):
            return job
        return error

    return await each(list(zip(jobs, errors, strict=True)), CHECKED_AT_ONCE, judged)


def _check_keys(access: Access, request: models.PostJobsBulkRequest) -> None:
    """Return if each key is one, and that of one job.

    Raises:
        BadRequest: The place of one that is not, or the request has a key of its own, which nothing would be done with.
    """
    if access.request is not None and HEADER in access.request.headers:
        raise BadRequest(f"{HEADER}: each of many jobs has a key of its own, in its idempotencyKey")
    places: dict[str, int] = {}
    for number, one in enumerate(request.jobs):
        if one.idempotency_key is None:
            continue
        try:
            key = checked(one.idempotency_key)
        except BadRequest as error:
            raise BadRequest(f"jobs.{number}.idempotencyKey: {error.message}") from None
        if (first := places.setdefault(key, number)) != number:
            raise BadRequest(f"jobs.{number}.idempotencyKey: a key is used twice, and is that of jobs.{first}")


@on(Terms(Group.COMPUTE_SUBMIT, BY_SCHEDULER, limit=MAX_BULK))
@router.post("/bulk", response_model=models.PostJobsBulkResponse)
async def submit_jobs(
    access: AccessDep,
    request: Annotated[models.PostJobsBulkRequest, json_body(models.PostJobsBulkRequest, most=MAX_VALUES)],
) -> Response:
    """Submit up to 1,000 jobs, each as a request by itself would: what becomes of each is told in their order."""
    _check_keys(access, request)
    await count(access, Group.COMPUTE_SUBMIT, len(request.jobs))

    async def ready(one: models.BulkJob) -> tuple[JobDescription, Once | None]:
        keyed = once_of(access, one.idempotency_key, one.model_dump(by_alias=True, exclude_unset=True, include={"job"}))
        return await admitted(access, description(one.job)), keyed

    checked_jobs = await _with_known(access, await each(request.jobs, CHECKED_AT_ONCE, ready))
    wanted = [one for one in checked_jobs if not isinstance(one, GatewayError)]
    told = iter(await access.system.scheduler.submit_many(access.principal, wanted) if wanted else [])
    results = []
    for one in checked_jobs:
        outcome = one if isinstance(one, GatewayError) else next(told)
        if isinstance(outcome, GatewayError):
            results.append(models.BulkResult(error=_problem(access, outcome)))
        else:
            results.append(
                models.BulkResult(
                    job_id=outcome.job_id, replayed=outcome.replayed, warnings=list(outcome.warnings) or None
                )
            )
    return json_bytes(encoded(models.PostJobsBulkResponse(jobs=results)))


@on(Terms(Group.COMPUTE_SUBMIT, BY_SCHEDULER))
@router.post("/cancel", response_model=models.PostJobsCancelResponse)
async def cancel_jobs(
    access: AccessDep,
    request: Annotated[models.PostJobsCancelRequest, json_body(models.PostJobsCancelRequest)],
) -> Response:
    """Cancel jobs by their ids, or one's own by name, state and account; what becomes of each is told."""
    scheduler = access.system.scheduler
    ids = list(dict.fromkeys(request.ids or ()))
    state = None if request.state is None else request.state.upper()
    if state is not None and scheduler.states() and state not in scheduler.states():
        raise BadRequest(f"state: jobs have none of that name; there are {', '.join(sorted(scheduler.states()))}")
    if request.ids is None:
        query = JobQuery(account=request.account, name=request.name, window="1h")
        found = await scheduler.jobs(access.principal, query)
        if LIVE in found.missing:
            raise SchedulerUnavailable("The scheduler does not tell which jobs there are now; none was cancelled")
        ids = [
            job.job_id
            for job in found.jobs
            if job.time.end is None and job.user == access.principal.username and state in (None, job.status.state)
        ]
    # Also those that are found by what they are: nothing is cancelled where they are too many.
    await count(access, Group.COMPUTE_SUBMIT, len(ids))
    results = []
    for start in range(0, len(ids), models.MAX_JOBS):
        some = ids[start : start + models.MAX_JOBS]
        for job_id, error in zip(some, await scheduler.cancel_many(access.principal, some), strict=True):
            results.append(models.CancelResult(job_id=job_id, error=None if error is None else _problem(access, error)))
    return json_bytes(encoded(models.PostJobsCancelResponse(jobs=results)))
