"""/compute/{system}/jobs/{id}/output: what a job writes, while it does."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from hpcgate.api.access import Access, AccessDep, GatewayDep
from hpcgate.api.following import Transcript, failure, refuse_displaced, resumed_at, until_closing
from hpcgate.api.responses import json_of
from hpcgate.api.routes.following import FORMS, KIND, LAST_EVENT_ID, RAW, Lines, MarkOf, answers
from hpcgate.api.server_sent_events import Event, Form, body, headers, preferred
from hpcgate.api.streaming import OCTETS, Answer, StreamingAnswer
from hpcgate.api.terms import BY_JOBS, Terms, on
from hpcgate.config.groups import Group
from hpcgate.errors import BadRequest, Denied, GatewayError
from hpcgate.filesystem.following.follower import Degraded, Start, Truncated, Waiting
from hpcgate.filesystem.following.view import Mark
from hpcgate.filesystem.following.view import Output as Part
from hpcgate.gateway.job_end import JobEnd
from hpcgate.gateway.job_output import Change, Ended, JobOutput, JobStream, one_job, paths_of
from hpcgate.ssh.files.remote_path import RemotePath

router = APIRouter(prefix="/compute/{system_name}/jobs", tags=["compute"])

Offsets = Annotated[
    str | None,
    Query(
        pattern=r"^(-?[0-9]{1,18}|[0-9]{1,18},[0-9]{1,18})$",
        description="The first byte wanted, from the beginning, or from the end if negative; with `stream=both` that "
        "of standard output, a comma, and that of standard error. By default 0.",
    ),
]
_OUTPUT = answers("The output, to the end of the job with `follow`; else what there is of it.")


@on(Terms(Group.COMPUTE_READ, BY_JOBS))
@router.get(
    "/{job_id}/output", response_class=Response, responses=_OUTPUT, openapi_extra={"parameters": [LAST_EVENT_ID]}
)
async def get_output(
    request: Request,
    gateway: GatewayDep,
    access: AccessDep,
    job_id: str,
    stream: Annotated[JobStream, Query(description="Which output; both as events only.")] = JobStream.stdout,
    follow: Annotated[bool, Query(description="Go on until the job is over, from before its start on.")] = False,
    offset: Offsets = None,
    lines: Lines = None,
    mark: MarkOf = None,
) -> Response:
    """Return the output of a job, or follow it while the job waits and runs."""
    form = preferred(request.headers.get("accept", ""), FORMS)
    if stream is JobStream.both and form == OCTETS:
        raise BadRequest("stream=both comes as events only: bytes do not tell which of the two they are of")
    starts = _starts(request.headers, stream, offset, lines, mark)
    job = await one_job(access.system.scheduler, access.principal, job_id)
    reading = _reading(access)
    settings = gateway.settings.streams

    async def places() -> Mapping[JobStream, RemotePath]:
        found = await paths_of(access.system.scheduler, access.principal, job, stream)
        await reading.admit(*found.values())
        return found

    def following(path: RemotePath, start: Start) -> Any:
        return reading.follow(path, start, settings.max_follow_rate)

    @asynccontextmanager
    async def answer() -> AsyncIterator[Answer]:
        system = access.system
        with (
            access.stream(KIND, endless=True, longest=settings.max_follow) as held,
            JobEnd(system.scheduler, system.watching, access.principal, job) as end,
        ):
            async with JobOutput(end, places, following, starts, until_end=follow) as output:
                if form == OCTETS:
                    refuse_displaced(*output.followers.values())
                    yield Answer(200, RAW, until_closing(_octets(output), held))
                else:
                    told = _told(reading, output, _Telling(output, starts))
                    yield Answer(200, headers(Form(form)), body(told, held, Form(form)))

    return StreamingAnswer(answer(), stall=settings.stall_timeout)


def _starts(
    given: Mapping[str, str], wanted: JobStream, offset: str | None, lines: int | None, mark: str | None
) -> dict[JobStream, Start]:
    """Return where to begin with each stream.

    Raises:
        BadRequest: The client says what cannot be.
    """
    offsets = () if offset is None else tuple(map(int, offset.split(",")))
    if offsets and lines is not None:
        raise BadRequest("offset and lines exclude each other")
    if mark is not None and (len(wanted.parts) > 1 or len(offsets) != 1 or offsets[0] < 0):
        raise BadRequest("mark is of one offset from the beginning of one stream")
    known = None if mark is None else Mark.parse(mark)
    resumed = resumed_at(given)
    if resumed is not None:
        known = known if resumed == offsets else None
        offsets, lines = resumed, None
    if len(offsets) > len(wanted.parts) or (offsets and offsets[0] < 0 and len(wanted.parts) > 1):
        raise BadRequest("One offset is wanted for each stream")
    # Standard error that goes to the file of standard output has no offset of its own.
    return {
        part: Start(offsets[number] if number < len(offsets) else 0, lines, known)
        for number, part in enumerate(wanted.parts)
    }


def _reading(access: Access) -> Access:
    """Return the access by which files are read.

    Raises:
        Denied: The policy lets the user see jobs, but read no files.
    """
    reading = access.beside(Group.FS_READ)
    if reading is None:
        denial = Denied("default", "reading files")
        access.denied(denial)
        raise denial
    return reading


class _Telling:
    """Makes events of what becomes of a job's output.

    Args:
        output: The output.
        starts: Where its streams begin.
    """

    def __init__(self, output: JobOutput, starts: Mapping[JobStream, Start]) -> None:
        self._output = output
        self._transcripts = {
            part: Transcript(aligned=start.offset >= 0, more={"stream": part.value}) for part, start in starts.items()
        }

    def take(self, change: Change) -> list[Event]:
        """Return the events that tell of a change."""
        match change:
            case Ended():
                left = [event for one in self._transcripts.values() for event in one.finish()]
                return [*map(self._placed, left), self._placed(_ended(change))]
            case Waiting():
                return [Event("waiting", json_of({"message": "The job has not started"}))]
            case Degraded():
                return [self._placed(Event("system.degraded", json_of({"message": change.message})))]
            case part, event:
                # Each event is placed before the next one is made, which moves on.
                return [self._placed(one) for one in self._transcripts[part].take(event)]

    def _placed(self, event: Event) -> Event:
        """Return an event with the positions of all streams for its id."""
        places = [
            begun if (offset := self._transcripts[part].offset) is None else offset
            for part, begun in self._output.begun_at.items()
        ]
        return replace(event, id=",".join(map(str, places)) or None)


def _ended(change: Ended) -> Event:
    status = change.job.status
    told = {
        "jobId": change.job.job_id,
        "state": status.state if change.known else None,
        "stateReason": status.state_reason if change.known else None,
        "exitCode": status.exit_code,
        "interruptSignal": status.interrupt_signal,
    }
    return Event("ended", json_of(told))


async def _told(reading: Access, output: JobOutput, telling: _Telling) -> AsyncGenerator[Event]:
    try:
        async with aclosing(output.changes()) as changes:
            async for change in changes:
                for event in telling.take(change):
                    yield event
    except GatewayError as error:
        if isinstance(error, Denied):
            reading.denied(error)
        yield failure(error)


async def _octets(output: JobOutput) -> AsyncGenerator[bytes]:
    async with aclosing(output.changes()) as changes:
        async for change in changes:
            if isinstance(change, tuple):
                _, event = change
                if isinstance(event, Truncated):
                    return
                if isinstance(event, Part):
                    yield event.content
