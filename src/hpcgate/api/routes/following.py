"""/filesystem/{system}/files/follow: a file, and what is appended to it."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from hpcgate.api.access import Access, AccessDep, GatewayDep
from hpcgate.api.following import Transcript, events, failure, octets, refuse_displaced, resumed_at, until_closing
from hpcgate.api.routes.content import FilePath
from hpcgate.api.routes.operations import query_of
from hpcgate.api.server_sent_events import Event, Form, body, headers, preferred
from hpcgate.api.streaming import OCTETS, Answer, StreamingAnswer
from hpcgate.api.terms import BY_SSH, Terms, on
from hpcgate.config.groups import Group
from hpcgate.config.models import StreamSettings
from hpcgate.errors import BadRequest, Denied, GatewayError
from hpcgate.filesystem.following.follower import Follower, Start
from hpcgate.filesystem.following.view import MAX_OFFSET, Mark
from hpcgate.ssh.files.remote_path import encode_path

router = APIRouter(prefix="/filesystem/{system_name}/files", tags=["filesystem"])

KIND = "follow"
"""The kind of stream."""
FORMS = (*Form, OCTETS)
RAW = {"Content-Type": OCTETS, "Cache-Control": "no-store"}
"""The headers of an answer in bytes."""

Offset = Annotated[
    int | None,
    Query(
        ge=-MAX_OFFSET,
        le=MAX_OFFSET,
        description="The first byte wanted, from the file's beginning, or from its end if negative. By default 0.",
    ),
]
Lines = Annotated[
    int | None,
    Query(ge=0, le=MAX_OFFSET, description="So many of the last lines, and what follows, instead of `offset`."),
]
MarkOf = Annotated[
    str | None,
    Query(
        alias="mark",
        description="The `mark` of the event before `offset`: if the file has become another one since, the stream "
        "begins with `truncated`.",
    ),
]
LAST_EVENT_ID: dict[str, Any] = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The id of the last event that the client has; outweighs `offset` and `lines`.",
    "schema": {"type": "string"},
}
CONTENT: dict[str, Any] = {
    Form.SSE.value: {},
    Form.LINES.value: {"schema": {"type": "string"}},
    OCTETS: {"schema": {"type": "string", "format": "binary"}},
}


def answers(description: str) -> dict[int | str, dict[str, Any]]:
    """Return what the document says of the answers of a route that follows files."""
    return {
        200: {"description": description, "content": CONTENT},
        416: {"description": "The file is shorter than `offset`, or another one; only with application/octet-stream."},
        429: {"description": "Too many who follow files at a time; see Retry-After."},
    }


_FOLLOWING = answers("The file from there on, and what is appended, for as long as the client stays.")


@on(Terms(Group.FS_READ, BY_SSH))
@router.get("/follow", response_class=Response, responses=_FOLLOWING, openapi_extra={"parameters": [LAST_EVENT_ID]})
async def follow_file(
    request: Request,
    gateway: GatewayDep,
    access: AccessDep,
    path: FilePath,
    offset: Offset = None,
    lines: Lines = None,
    mark: MarkOf = None,
) -> Response:
    """Follow a file: what is in it, and what is appended, as it comes."""
    name = encode_path(query_of(request)["path"])
    await access.admit(name)
    start = start_of(request.headers, offset, lines, mark)
    settings = gateway.settings.streams
    form = preferred(request.headers.get("accept", ""), FORMS)

    @asynccontextmanager
    async def answer() -> AsyncIterator[Answer]:
        with access.stream(KIND, endless=True, longest=settings.max_follow) as stream:
            async with followed(access, name, start, settings) as follower:
                if form == OCTETS:
                    refuse_displaced(follower)
                    yield Answer(200, RAW, until_closing(octets(follower), stream))
                else:
                    told = _told(access, name, follower, Transcript(aligned=start.offset >= 0))
                    yield Answer(200, headers(Form(form)), body(told, stream, Form(form)))

    return StreamingAnswer(answer(), stall=settings.stall_timeout)


def start_of(given: Mapping[str, str], offset: int | None, lines: int | None, mark: str | None) -> Start:
    """Return where a client wants to begin.

    Raises:
        BadRequest: It says what cannot be.
    """
    if offset is not None and lines is not None:
        raise BadRequest("offset and lines exclude each other")
    if mark is not None and (offset is None or offset < 0):
        raise BadRequest("mark is of an offset from the file's beginning")
    known = None if mark is None else Mark.parse(mark)
    resumed = resumed_at(given)
    if resumed is not None:
        if len(resumed) > 1:
            raise BadRequest("Last-Event-ID is that of two files")
        return Start(resumed[0], mark=known if resumed[0] == offset else None)
    return Start(offset or 0, lines, known)


@asynccontextmanager
async def followed(access: Access, path: bytes, start: Start, settings: StreamSettings) -> AsyncIterator[Follower]:
    """Follow a file, and tell the audit log if a rule denies it.

    Raises:
        GatewayError: It cannot be followed.
    """
    try:
        async with access.follow(path, start, settings.max_follow_rate) as follower:
            yield follower
    except Denied as denial:
        access.denied(denial, path)
        raise


async def _told(access: Access, path: bytes, follower: Follower, transcript: Transcript) -> AsyncGenerator[Event]:
    try:
        async with aclosing(events(follower, transcript)) as told:
            async for event in told:
                yield event
    except GatewayError as error:
        if isinstance(error, Denied):
            access.denied(error, path)
        yield failure(error)
