"""/filesystem/{system}/ops: a route for each registered operation, and upload and download, which stream."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, TypeAdapter, create_model

from hpcgate.api.access import Access, AccessDep, GatewayDep, access_of, gateway
from hpcgate.api.fast_path import described, read_query
from hpcgate.api.json_bodies import read_json, validated
from hpcgate.api.multipart import MultipartFile
from hpcgate.api.openapi import body_schema, query_parameters
from hpcgate.api.parameters import ReplaceParameter
from hpcgate.api.remarks import reads, remark
from hpcgate.api.responses import fields, json_bytes
from hpcgate.api.streaming import LINES, OCTETS, Answer, StreamingAnswer, attachment
from hpcgate.api.terms import BY_SSH, Kind, Terms, on
from hpcgate.config import plugins
from hpcgate.config.groups import Group
from hpcgate.errors import Denied, TooLarge
from hpcgate.filesystem.base import Operation, Page, Parameters, naming
from hpcgate.filesystem.content import exactly, opened, read_small, refuse_larger, upload_target, write
from hpcgate.ssh.files.protocol import Replacing
from hpcgate.ssh.files.remote_path import encode_path


def registered() -> list[type[Operation]]:
    """Load the operations of the entry points ``hpcgate.operations``."""
    return [point.load() for _, point in sorted(plugins("hpcgate.operations").items())]


def query_of(request: Request) -> dict[str, str]:
    """Return the query, bytes that are not UTF-8 as lone surrogates (PEP 383): they may be part of a file's name."""
    query: str = request.scope["query_string"].decode("latin-1")
    if "%" in query or "+" in query:
        return dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
    # Nothing is encoded, and the library would take most of its time to find that out.
    found: dict[str, str] = {}
    for pair in query.split("&"):
        if pair:
            name, _, found[name] = pair.partition("=")
    return found


async def parameters_of(operation: type[Operation], request: Request) -> tuple[Parameters, list[str]]:
    """Read an operation's parameters from the query or from the body, and what is to be said of them.

    Raises:
        InvalidParameters: They do not fit the operation's model.
    """
    if operation.method in ("GET", "DELETE"):
        return read_query(operation.Parameters, query_of(request)), []
    given: Any = await read_json(request)
    if isinstance(given, dict):
        # Clients send null for what was not given to them: pyfirecrest's `chown --group` has a null owner.
        given = {name: value for name, value in given.items() if value is not None}
    return validated(operation.Parameters, given)


def _endpoint(operation: type[Operation]) -> Callable[[Request, str], Awaitable[Response]]:
    # Without the adapter's own call, which asks anew each time how it is to be done.
    dump = TypeAdapter(operation.Result).serializer.to_json if operation.Result is not None else None

    async def endpoint(request: Request, system_name: str) -> Response:
        access = access_of(request)
        parameters, remarks = await parameters_of(operation, request)
        verb = operation(parameters, access.system.limits)
        await access.operate(verb)
        if operation.pages and _wants_lines(request):
            return _in_lines(request, access, verb)
        remark(request.scope, remarks)
        return answer(await access.perform(verb))

    def answer(result: Any) -> Response:
        if isinstance(result, Page) and dump is not None:
            cursor = json.dumps(result.next_cursor).encode()
            output = dump(result.output, by_alias=True)
            return json_bytes(b'{"output":' + output + b',"nextCursor":' + cursor + b"}", operation.status)
        if dump is None:
            return Response(status_code=operation.status)
        return json_bytes(b'{"output":' + dump(result, by_alias=True) + b"}", operation.status)

    endpoint.__doc__ = operation.__doc__
    return endpoint


def _wants_lines(request: Request) -> bool:
    kinds = (kind.partition(";")[0].strip().lower() for kind in request.headers.get("accept", "").split(","))
    return LINES in kinds


def _in_lines(request: Request, access: Access, verb: Operation) -> Response:
    opened = gateway(request)

    @asynccontextmanager
    async def answer() -> AsyncIterator[Answer]:
        with access.stream("listing"), naming(verb):
            async with access.pool.lease_bulk(access.principal) as session, aclosing(verb.lines(session)) as lines:
                try:
                    # What fails at once is an error like any other.
                    first = await anext(lines, b"")
                except Denied as denial:
                    access.denied(denial, *verb.paths())
                    raise
                yield Answer(200, {"Content-Type": LINES, "Cache-Control": "no-store"}, _from(first, lines))

    return StreamingAnswer(answer(), stall=opened.settings.streams.stall_timeout)


async def _from(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for block in rest:
        yield block


def terms_for(operation: type[Operation]) -> Terms:
    """Return the terms of an operation's route: whatever it declares, only GET that changes nothing is reading."""
    reading = operation.method == "GET" and not operation.writes
    group = operation.group or (Group.FS_READ if reading else Group.FS_WRITE)
    return Terms(group, operation.needs, limit=operation.max_body, direct=True)


def add_operations(router: APIRouter) -> None:
    """Make a route for each registered operation."""
    for operation in registered():
        in_query = operation.method in ("GET", "DELETE")
        extra: dict[str, Any] = (
            {"parameters": query_parameters(operation.Parameters)}
            if in_query
            else {"requestBody": body_schema(operation.Parameters)}
        )
        response = None if operation.Result is None else _wrapped(operation)
        endpoint = on(terms_for(operation))(_endpoint(operation))
        router.add_api_route(
            f"/{operation.name}",
            reads(operation.Parameters, endpoint) if in_query else endpoint,
            methods=[operation.method],
            name=operation.name,
            operation_id=f"{operation.method.lower()}_{operation.name}",
            status_code=operation.status,
            response_model=response,
            responses=_LINES if operation.pages else None,
            openapi_extra=extra,
            summary=operation.name,
        )


def _wrapped(operation: type[Operation]) -> Any:
    fields: dict[str, Any] = {"output": (operation.Result | None, None)}
    if operation.pages:
        fields["nextCursor"] = (
            str | None,
            Field(None, description="Asks for the next page, null behind the last one."),
        )
    return create_model(f"{operation.__name__}Response", __doc__=None, **fields)


_LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "All of it or a page. By `Accept: application/x-ndjson` all of it, however much, in lines.",
        "content": {LINES: {"schema": {"type": "string"}}},
    }
}


UPLOAD_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "title": "Body_post_upload",
                "required": ["file"],
                "properties": {"file": {"type": "string", "contentMediaType": "application/octet-stream"}},
            }
        }
    },
}

router = APIRouter(prefix="/filesystem/{system_name}/ops", tags=["filesystem"])


def _large_file(access: Access, path: bytes, stall: float) -> Response:
    @asynccontextmanager
    async def answer() -> AsyncIterator[Answer]:
        async with opened(access.pool, access.principal, path) as file:
            size = file.attributes.size
            refuse_larger(path, size, access.system.limits)
            headers = {"Content-Length": str(size), **_named(path)}
            yield Answer(200, headers, exactly(file, 0, size))

    return StreamingAnswer(answer(), stall=stall)


def _named(path: bytes) -> dict[str, str]:
    return {"Content-Type": OCTETS, "Content-Disposition": attachment(path.rpartition(b"/")[2])}


class DownloadParameters(BaseModel):
    """Which file."""

    path: str


@on(Terms(Group.FS_READ, BY_SSH, direct=True))
@router.get(
    "/download",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
    openapi_extra=described(DownloadParameters),
)
async def get_download(request: Request, system_name: str) -> Response:
    """Download a file of at most `max_ops_file_size` bytes."""
    access = access_of(request)
    path = read_query(DownloadParameters, query_of(request)).path
    name = encode_path(path)
    await access.admit(name)
    limits = access.system.limits
    content = await access.pool.perform(access.principal, lambda session: read_small(session, name, limits), retry=True)
    if content is None:
        return _large_file(access, name, gateway(request).settings.streams.stall_timeout)
    return Response(content, headers=fields(_named(name)))


@on(Terms(Group.FS_WRITE, BY_SSH, body=Kind.PART))
@router.post("/upload", status_code=204, openapi_extra={"requestBody": UPLOAD_BODY})
async def post_upload(
    request: Request, gateway: GatewayDep, access: AccessDep, path: str, replace: ReplaceParameter = Replacing.auto
) -> None:
    """Upload a file of at most `max_ops_file_size` bytes into a directory; an existing file is replaced at once."""
    directory = encode_path(query_of(request)["path"])
    await access.admit(directory)
    _refuse_early(request, access)
    part = await MultipartFile.open(request, limit=access.system.limits.max_ops_file_size)
    target = upload_target(directory, part.filename)
    await access.admit(target)
    await access.pool.perform(
        access.principal, lambda session: write(session, target, part.content(), replace), retry=False
    )


def _refuse_early(request: Request, access: Access) -> None:
    # A multipart body is a little longer than its file; what is surely too large is refused before it is read.
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > access.system.limits.max_ops_file_size + 64 * 1024:
        most = access.system.limits.max_ops_file_size
        raise TooLarge(f"The file is larger than {most} bytes; PUT files/content takes any size.")
