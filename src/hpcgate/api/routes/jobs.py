"""/compute: jobs."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from hpcgate.api.access import Access, AccessDep, access_of
from hpcgate.api.fast_path import described, read_query
from hpcgate.api.idempotency import KeyDep, once, say_replayed
from hpcgate.api.job_bodies import Encodings, JobBodies
from hpcgate.api.job_requests import dry_run as rehearse
from hpcgate.api.job_requests import submit
from hpcgate.api.json_bodies import MAX_JOB, json_body
from hpcgate.api.models import jobs as models
from hpcgate.api.responses import encoded, encoded_in_part, json_bytes
from hpcgate.api.terms import BY_SCHEDULER, Terms, on
from hpcgate.api.waiting import WaitParameters, wait_for
from hpcgate.config.groups import Group
from hpcgate.errors import BadRequest
from hpcgate.schedulers.base import Job, JobQuery, Jobs
from hpcgate.schedulers.paging import MAX_LIMIT, Cursor, Page, page
from hpcgate.threads import off_loop

router = APIRouter(prefix="/compute/{system_name}/jobs", tags=["compute"])

MISSING = "X-Hpcgate-Jobs-Missing"
"""The header that names the sources that did not answer: ``history``, ``live``."""

AGE = "Age"
"""Seconds since the data were read from the scheduler (RFC 9111, section 5.1)."""


def _bodies(request: Request) -> JobBodies:
    bodies: JobBodies = request.scope["app"].state.job_bodies
    return bodies


async def _answer(jobs: Jobs, encodings: Encodings) -> Response:
    return json_bytes(await encodings.of(jobs.jobs), headers=_headers(jobs))


def _headers(jobs: Jobs) -> dict[str, str]:
    headers = {AGE: str(int(jobs.age))}
    if jobs.missing:
        headers[MISSING] = ", ".join(jobs.missing)
    return headers


@on(Terms(Group.COMPUTE_SUBMIT, BY_SCHEDULER, limit=MAX_JOB))
@router.post(
    "",
    status_code=201,
    response_model=models.PostJobSubmissionResponse,
    response_model_exclude_none=True,
    responses={200: {"model": models.DryRunResponse, "description": "With dryRun=true: what would be submitted"}},
)
async def post_job_submit(
    access: AccessDep,
    request: Annotated[models.PostJobSubmitRequest, json_body(models.PostJobSubmitRequest)],
    key: KeyDep,
    response: Response,
    dry_run: Annotated[
        bool, Query(alias="dryRun", description="True: nothing is submitted; the answer says what would be")
    ] = False,
) -> Any:
    """Submit a job: once, however often it is sent, if it has an Idempotency-Key."""
    if dry_run:
        return json_bytes(encoded(await rehearse(access, request.job)))
    submitted = await submit(access, request.job, once(access, key, request))
    say_replayed(response, replayed=submitted.replayed)
    return models.PostJobSubmissionResponse(job_id=submitted.job_id, warnings=list(submitted.warnings) or None)


class JobsParameters(WaitParameters):
    """Which jobs."""

    allusers: bool = False
    account: str | None = None
    name: Annotated[str | None, Field(max_length=235)] = None
    time_window: models.JobsTimeWindow = models.JobsTimeWindow.h24
    ids: Annotated[
        str | None,
        Field(
            max_length=64 * 1024,
            description="Only these jobs: up to 1,000 ids with commas between them",
        ),
    ] = None
    limit: Annotated[
        int | None,
        Field(ge=1, le=MAX_LIMIT, description="At most so many jobs, in the order of their ids"),
    ] = None
    cursor: Annotated[
        str | None, Field(description="The nextCursor of the page before, for the one that follows; with limit")
    ] = None
    fields: Annotated[
        str | None,
        Field(max_length=1024, description="Only these fields of each job, with commas between their names"),
    ] = None


MAX_IDS = 1000
"""Most jobs that one request asks for by their ids."""


def wanted(ids: str) -> tuple[str, ...]:
    """Return the ids of a list, each once. A comma within brackets is an id's own (``7_[1,3]``).

    Raises:
        BadRequest: There is none, or there are too many.
    """
    # A comma is within brackets if a closing one comes next; looked for once, not once for each comma.
    texts = _BRACKET.split(ids)
    for at, bracket in enumerate(texts[1::2]):
        if bracket == "]":
            texts[2 * at] = texts[2 * at].replace(",", "\0")
    parts = "".join(texts).split(",")
    found = dict.fromkeys(part for each in parts if (part := each.replace("\0", ",").strip()))
    if not 0 < len(found) <= MAX_IDS:
        raise BadRequest(f"ids: 1 to {MAX_IDS} ids of jobs are wanted, and there are {len(found)}")
    return tuple(found)


_BRACKET = re.compile(r"([\[\]])")

_NAMES: Mapping[str, str] = MappingProxyType(
    {field.alias or name: name for name, field in models.JobModel.model_fields.items()}
)
"""The attributes of a job by their names on the wire."""


def chosen(fields: str) -> set[str]:
    """Return the attributes of a job that a list of fields names.

    Raises:
        BadRequest: There is none, or one that jobs do not have.
    """
    names = dict.fromkeys(part for each in fields.split(",") if (part := each.strip()))
    unknown = ", ".join(name for name in names if name not in _NAMES)
    if unknown or not names:
        known = ", ".join(_NAMES)
        raise BadRequest(f"fields: {f'jobs have no {unknown}' if unknown else 'none is named'}; there are {known}")
    return {_NAMES[name] for name in names}


def _only(attributes: set[str] | None) -> dict[str, Any] | None:
    """Return what of an answer is encoded, for pydantic; None for all of it."""
    return None if attributes is None else {"jobs": {"__all__": attributes}, "not_shown": True, "next_cursor": True}


async def _named(access: Access, ids: tuple[str, ...], attributes: set[str] | None) -> Response:
    """Return jobs by their ids, asked for in one query."""
    found = await access.system.scheduler.several(access.principal, ids)
    shown: dict[str, Job] = {}
    lacking: dict[str, None] = {}
    not_shown = []
    for job_id in ids:
        answer = found[job_id]
        if isinstance(answer, Jobs):
            shown |= {job.job_id: job for job in answer.jobs}
            lacking |= dict.fromkeys(answer.missing)
        else:
            not_shown.append(models.JobNotShown(job_id=job_id, status=answer.status, message=answer.message))

    def made() -> bytes:
        jobs = [models.JobModel.model_validate(job) for job in shown.values()]
        return encoded_in_part(models.GetJobsResponse(jobs=jobs, not_shown=not_shown), _only(attributes))

    headers = {AGE: "0"} | ({MISSING: ", ".join(lacking)} if lacking else {})
    return json_bytes(await off_loop(len(shown), made), headers=headers)


def in_part(jobs: Sequence[Job], limit: int | None, cursor: Cursor | None, attributes: set[str] | None) -> bytes:
    """Return the body of one page of a list, or of some fields of all of it."""
    found = Page(tuple(jobs), None) if limit is None else page(jobs, limit, cursor)
    body = models.GetJobsResponse(jobs=[models.JobModel.model_validate(job) for job in found.jobs])
    if limit is not None:
        body.next_cursor = None if found.after is None else str(found.after)
    return encoded_in_part(body, _only(attributes))


@on(Terms(Group.COMPUTE_READ, BY_SCHEDULER, direct=True))
@router.get(
    "", response_model=models.GetJobsResponse | models.GetJobPartsResponse, openapi_extra=described(JobsParameters)
)
async def get_jobs(request: Request, system_name: str) -> Response:
    """List jobs: pending and running ones always, finished ones within the window; or those with these ids.

    With a limit there is one page of them; nextCursor is the cursor of the next one, and null after the last.
    """
    access = access_of(request)
    asked = read_query(JobsParameters, request.query_params)
    attributes = None if asked.fields is None else chosen(asked.fields)
    if asked.ids is not None:
        if asked.account or asked.name:
            raise BadRequest("ids: jobs are asked for by their ids, or by account and name")
        if asked.limit is not None or asked.cursor is not None:
            raise BadRequest("ids: jobs are asked for by their ids, or page by page with limit and cursor")
        ids = wanted(asked.ids)
        if asked.wait is not None:
            await wait_for(access, ids, asked)
        return await _named(access, ids, attributes)
    if asked.wait is not None:
        raise BadRequest("wait: jobs are waited for by their ids")
    if asked.cursor is not None and asked.limit is None:
        raise BadRequest("cursor: there are pages only with a limit")
    cursor = None if asked.cursor is None else Cursor.read(asked.cursor)
    query = JobQuery(
        all_users=asked.allusers,
        account=asked.account or None,
        name=asked.name or None,
        window=asked.time_window.value,
    )
    jobs = await access.system.scheduler.jobs(access.principal, query)
    if asked.limit is None and attributes is None:
        return await _answer(jobs, _bodies(request).lists)
    body = await off_loop(len(jobs.jobs), lambda: in_part(jobs.jobs, asked.limit, cursor, attributes))
    return json_bytes(body, headers=_headers(jobs))


@on(Terms(Group.COMPUTE_READ, BY_SCHEDULER, direct=True))
@router.get("/{job_id}", response_model=models.GetOneJobResponse, openapi_extra=described(WaitParameters))
async def get_job(request: Request, system_name: str, job_id: str) -> Response:
    """Return one job, or the tasks of an array, and what each has cost; with wait once something has become of it."""
    access = access_of(request)
    if request.scope["query_string"]:
        asked = read_query(WaitParameters, request.query_params)
        if asked.wait is not None:
            await access.system.scheduler.job(access.principal, job_id)
            await wait_for(access, (job_id,), asked)
    found = await access.system.scheduler.job(access.principal, job_id)
    return await _answer(found, _bodies(request).singles)


@on(Terms(Group.COMPUTE_READ, BY_SCHEDULER))
@router.get("/{job_id}/metadata")
async def get_job_metadata(access: AccessDep, job_id: str) -> models.GetJobMetadataResponse:
    """Return the script and the standard streams of a job."""
    found = await access.system.scheduler.metadata(access.principal, job_id)
    return models.GetJobMetadataResponse(jobs=[models.JobMetadataModel.model_validate(item) for item in found])


@on(Terms(Group.COMPUTE_SUBMIT, BY_SCHEDULER))
@router.delete("/{job_id}", status_code=204)
async def delete_job_cancel(access: AccessDep, job_id: str) -> None:
    """Cancel a job; one that has already finished is a success."""
    await access.system.scheduler.cancel(access.principal, job_id)


@on(Terms(Group.COMPUTE_SUBMIT, BY_SCHEDULER))
@router.put("/{job_id}/attach", status_code=204)
async def attach(
    access: AccessDep,
    job_id: str,
    request: Annotated[models.PostJobAttachRequest, json_body(models.PostJobAttachRequest)],
) -> None:
    """Run a command as a step inside the allocation of a running job."""
    if not request.command.strip():
        raise BadRequest("A command is required.")
    await access.system.scheduler.attach(access.principal, job_id, request.command)
