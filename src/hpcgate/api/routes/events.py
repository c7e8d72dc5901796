"""/compute/{system}/events and /compute/{system}/jobs/{id}/events: what becomes of jobs, as it does."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from hpcgate.api.access import Access, AccessDep, GatewayDep
from hpcgate.api.following import failure
from hpcgate.api.models import jobs as models
from hpcgate.api.models.events import JobEventModel, JobsEventModel
from hpcgate.api.responses import encoded_in_part, json_of
from hpcgate.api.server_sent_events import Event, Form, body, form_of, headers, resumed_after
from hpcgate.api.streaming import Answer, StreamingAnswer
from hpcgate.api.terms import BY_SCHEDULER, Terms, on
from hpcgate.config.groups import Group
from hpcgate.errors import GatewayError, Gone, JobNotFound, NotSupported
from hpcgate.gateway.gateway import Gateway
from hpcgate.gateway.job_changes import Change, Position
from hpcgate.gateway.job_events import Degraded, JobEvents, State, Told
from hpcgate.gateway.ledger import Passing
from hpcgate.schedulers.base import Job, Scheduler
from hpcgate.schedulers.snapshot import Seen

router = APIRouter(prefix="/compute/{system_name}", tags=["compute"])

KIND = "events"
"""The kind of stream."""
MAX_FILTERS = 100
"""Most values of a filter."""

After = Annotated[
    str | None,
    Query(
        description="The id of the last event that the client has: what has happened since is told first. A "
        "`Last-Event-ID` outweighs it. Without either the stream begins with `jobs`, the state now."
    ),
]
Several = Annotated[list[str] | None, Query(max_length=MAX_FILTERS)]
LAST_EVENT_ID: dict[str, Any] = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The id of the last event that the client has.",
    "schema": {"type": "string"},
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events, for as long as the client stays.",
        "content": {Form.SSE.value: {}, Form.LINES.value: {"schema": {"type": "string"}}},
    },
    410: {"description": "The cursor is older than what is remembered; begin anew without one."},
    429: {"description": "Too many streams at a time; see Retry-After."},
    501: {"description": "The system's scheduler does not tell of events."},
}
_EXTRA: dict[str, Any] = {"parameters": [LAST_EVENT_ID]}


@on(Terms(Group.COMPUTE_READ, BY_SCHEDULER))
@router.get("/events", response_class=Response, responses=ANSWERS, openapi_extra=_EXTRA)
async def get_events(
    request: Request,
    gateway: GatewayDep,
    access: AccessDep,
    after: After = None,
    job_id: Annotated[Several, Query(alias="jobId", description="Only these jobs; may be repeated")] = None,
    name: Annotated[str | None, Query(max_length=235, description="Only jobs of this name")] = None,
    account: Annotated[str | None, Query(max_length=235, description="Only jobs of this account")] = None,
    states: Annotated[Several, Query(description="Only while the job is in one of these states")] = None,
) -> Response:
    """Return what becomes of the caller's jobs, as it does."""
    scheduler = _scheduler(access)
    accounts = None if account is None else account.lower()

    def wants(job: Job) -> bool:
        return (
            (not job_id or any(scheduler.names(one, Seen(job, job.job_id)) for one in job_id))
            and name in (None, job.name)
            and (accounts is None or (job.account or "").lower() == accounts)
            and (not states or job.status.state in states)
        )

    return _stream(request, gateway, access, wants, _after(request, access, after), None)


@on(Terms(Group.COMPUTE_READ, BY_SCHEDULER))
@router.get("/jobs/{job_id}/events", response_class=Response, responses=ANSWERS, openapi_extra=_EXTRA)
async def get_job_events(
    request: Request, gateway: GatewayDep, access: AccessDep, job_id: str, after: After = None
) -> Response:
    """Return what becomes of a job, to its end: of an array, or a heterogeneous job, of all tasks or components."""
    scheduler = _scheduler(access)
    # What is wrong with the request is said before the scheduler is asked.
    position = _after(request, access, after)
    found = (await scheduler.job(access.principal, job_id)).jobs
    own = [job for job in found if job.user == access.principal.username]
    if not own:
        raise JobNotFound(job_id)
    known = [part for job in own for part in scheduler.apart(Seen(job, job.job_id))]
    ids = {one.job.job_id for one in known}

    def wants(job: Job) -> bool:
        return job.job_id in ids or scheduler.names(job_id, Seen(job, job.job_id))

    return _stream(request, gateway, access, wants, position, known)


def _scheduler(access: Access) -> Scheduler:
    """Return the scheduler.

    Raises:
        NotSupported: It tells of no events.
    """
    scheduler = access.system.scheduler
    if not scheduler.tells_events:
        raise NotSupported("This system's scheduler does not tell of events; wait for a job by ?wait=")
    return scheduler


def _after(request: Request, access: Access, after: str | None) -> Position | None:
    """Return where a client goes on; None if it begins.

    Raises:
        BadRequest: It says what no event had for its id.
        Gone: That is older than what is remembered.
    """
    text = resumed_after(request.headers, after)
    if text is None:
        return None
    position = Position.parse(text)
    if position.place[0] < time.time() - access.system.watching.settings.history:
        raise Gone("The cursor is older than what is remembered; begin anew without one")
    return position


def _stream(
    request: Request,
    gateway: Gateway,
    access: Access,
    wants: Callable[[Job], bool],
    position: Position | None,
    known: Sequence[Seen] | None,
) -> Response:
    settings = gateway.settings.streams
    watching = access.system.watching
    form = form_of(request.headers.get("accept", ""))

    async def history(since: int) -> Sequence[Seen] | None:
        return await watching.history(access.principal, since)

    @asynccontextmanager
    async def answer() -> AsyncIterator[Answer]:
        with (
            access.stream(KIND, endless=True, longest=settings.max_follow) as held,
            watching.follow(access.principal) as ledger,
        ):
            telling = JobEvents(ledger, history, wants, after=position, known=known)
            yield Answer(200, headers(form), body(_told(telling), held, form))

    return StreamingAnswer(answer(), stall=settings.stall_timeout)


async def _told(telling: JobEvents) -> AsyncGenerator[Event]:
    try:
        async with aclosing(telling.events()) as all_told:
            async for told in all_told:
                yield _event(told)
    except GatewayError as error:
        yield failure(error)


def _event(told: Told) -> Event:
    cursor = None if told.position is None else str(told.position)
    match told.what:
        case Change() as change:
            event = JobEventModel.model_validate(change.job)
            event.changed_at = change.time
            if change.cut:
                event.by_requeue = True
            return Event(change.name, encoded_in_part(event, None), cursor)
        case Passing() as passing:
            return Event(passing.name, encoded_in_part(JobEventModel.model_validate(passing.job), None), cursor)
        case State() as state:
            shown = [models.JobModel.model_validate(job) for job in state.jobs]
            return Event("jobs", encoded_in_part(JobsEventModel(jobs=shown), None), cursor)
        case Degraded() as degraded:
            return Event("system.degraded", json_of({"message": degraded.message}), cursor)
