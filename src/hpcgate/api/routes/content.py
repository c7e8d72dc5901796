"""/filesystem/{system}/files/content: a file of any size, straight through the gateway, as HTTP knows files."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from hpcgate.api.access import Access, AccessDep, GatewayDep
from hpcgate.api.parameters import ReplaceParameter
from hpcgate.api.responses import fields
from hpcgate.api.routes.operations import query_of
from hpcgate.api.streaming import OCTETS, Answer, StreamingAnswer, announced_size, attachment, body_of, whole
from hpcgate.api.terms import BY_SSH, Kind, Terms, on
from hpcgate.config.groups import Group
from hpcgate.errors import BadRequest, RangeNotSatisfiable, UnsupportedMediaType
from hpcgate.filesystem.conditions import ConditionResult, Conditions, Validator
from hpcgate.filesystem.content import as_long_as_it_says, exactly, opened, put
from hpcgate.filesystem.digests import Digests, parse_digests
from hpcgate.filesystem.ranges import ByteRange, MultipartRanges, parse_range
from hpcgate.gateway.gateway import Gateway
from hpcgate.ssh.files.protocol import Replacing
from hpcgate.ssh.files.remote_path import encode_path
from hpcgate.ssh.files.streams import OpenFile

router = APIRouter(prefix="/filesystem/{system_name}/files", tags=["filesystem"])

FilePath = Annotated[str, Query(description="The absolute path of the file.")]

_BINARY: dict[str, Any] = {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}}
_VALIDATORS: dict[str, Any] = {
    "ETag": {"description": "A strong entity tag: inode, size and time of modification.", "schema": {"type": "string"}},
    "Last-Modified": {"description": "When the file was modified.", "schema": {"type": "string"}},
}
READING: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file.", "headers": _VALIDATORS, **_BINARY},
    206: {"description": "The part that Range asks for; several as multipart/byteranges.", **_BINARY},
    304: {"description": "The client has it: If-None-Match or If-Modified-Since."},
    412: {"description": "If-Match or If-Unmodified-Since does not hold."},
    416: {"description": "No part that Range asks for lies in the file."},
    429: {"description": "Too many streams at a time; see Retry-After."},
}
WRITING: dict[int | str, dict[str, Any]] = {
    201: {"description": "The file is new.", "headers": _VALIDATORS},
    204: {"description": "The file is replaced.", "headers": _VALIDATORS},
    412: {"description": "If-Match, If-None-Match or If-Unmodified-Since does not hold; nothing is changed."},
    429: {"description": "Too many streams at a time; see Retry-After."},
}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": "string"}}


_READING_HEADERS = [
    _header("Range", "Parts of the file, such as bytes=0-99 or bytes=0-9,-10."),
    _header("If-Range", "The tag or date that the file must have for Range to count."),
    _header("If-None-Match", "Answer 304 if the file has one of these tags."),
    _header("If-Modified-Since", "Answer 304 if the file has not been modified since."),
    _header("If-Match", "Answer 412 unless the file has one of these tags."),
    _header("If-Unmodified-Since", "Answer 412 if the file has been modified since."),
]
_WRITING_HEADERS = [
    _header("If-Match", "Replace the file only if it has one of these tags; * if there is one at all."),
    _header("If-None-Match", "With *, make a new file only."),
    _header(
        "Content-Digest", "The digest of the body (RFC 9530), sha-256 or sha-512; verified before anything changes."
    ),
    _header("Repr-Digest", "The same here as Content-Digest."),
]


@on(Terms(Group.FS_READ, BY_SSH))
@router.get("/content", response_class=Response, responses=READING, openapi_extra={"parameters": _READING_HEADERS})
async def get_content(request: Request, gateway: GatewayDep, access: AccessDep, path: FilePath) -> Response:
    """Stream a file of any size, or parts of it."""
    return await _reading(request, gateway, access)


@on(Terms(Group.FS_READ, BY_SSH))
@router.head("/content", response_class=Response, responses=READING, openapi_extra={"parameters": _READING_HEADERS})
async def head_content(request: Request, gateway: GatewayDep, access: AccessDep, path: FilePath) -> Response:
    """Return what GET would, without the file."""
    return await _reading(request, gateway, access)


async def _reading(request: Request, gateway: Gateway, access: Access) -> Response:
    path = query_of(request)["path"]
    name = encode_path(path)
    await access.admit(name)
    conditions = Conditions.of(request.headers)
    wanted = request.headers.get("range")

    def sent(file: OpenFile) -> bool:
        return (
            request.method != "HEAD" and conditions.for_reading(Validator.of(file.attributes)) is ConditionResult.GO_ON
        )

    @asynccontextmanager
    async def answer() -> AsyncIterator[Answer]:
        with access.stream("download"):
            async with opened(access.pool, access.principal, name, whole=sent) as file:
                yield await _answer(name, file, conditions, wanted)

    return StreamingAnswer(answer(), stall=gateway.settings.streams.stall_timeout)


async def _answer(name: bytes, file: OpenFile, conditions: Conditions, wanted: str | None) -> Answer:
    validator = Validator.of(file.attributes)
    total = file.attributes.size
    headers = {
        **validator.headers,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": attachment(name.rpartition(b"/")[2]),
        "X-Content-Type-Options": "nosniff",
    }
    if conditions.for_reading(validator) is ConditionResult.NOT_MODIFIED:
        return Answer(304, headers)
    file = await as_long_as_it_says(file)
    if file.attributes.size != total:
        # What the tag was made of is not so.
        headers = {name: value for name, value in headers.items() if name not in validator.headers}
        total = file.attributes.size
    ranges: list[ByteRange] | None = None
    if wanted is not None and conditions.range_holds(validator):
        try:
            ranges = parse_range(wanted, total)
        except RangeNotSatisfiable as error:
            error.headers |= {"ETag": validator.etag, "Accept-Ranges": "bytes"}
            raise
    headers["Content-Type"] = OCTETS
    if not total and (first := await anext(file.blocks(0, None), b"")):
        # A file that the kernel makes up (proc(5)) has content but no size.
        return Answer(200, headers, _unsized(file, first))
    if ranges is None:
        headers["Content-Length"] = str(total)
        return Answer(200, headers, exactly(file, 0, total))
    if len(ranges) == 1:
        headers |= {"Content-Range": ranges[0].content_range(total), "Content-Length": str(ranges[0].size)}
        return Answer(206, headers, exactly(file, ranges[0].offset, ranges[0].size))
    parts = MultipartRanges(ranges, total, OCTETS)
    headers |= {"Content-Type": parts.media_type, "Content-Length": str(parts.length)}
    return Answer(206, headers, _multipart(file, parts))


async def _unsized(file: OpenFile, first: bytes) -> AsyncIterator[bytes]:
    yield first
    async for block in file.blocks(len(first), None):
        yield block


async def _multipart(file: OpenFile, parts: MultipartRanges) -> AsyncIterator[bytes]:
    for part in parts.parts:
        yield parts.head(part)
        async for block in exactly(file, part.offset, part.size):
            yield block
    yield parts.tail


@on(Terms(Group.FS_WRITE, BY_SSH, body=Kind.STREAM))
@router.put(
    "/content",
    response_class=Response,
    status_code=204,
    responses=WRITING,
    openapi_extra={
        "parameters": _WRITING_HEADERS,
        "requestBody": {"required": True, **_BINARY},
    },
)
async def put_content(
    request: Request,
    gateway: GatewayDep,
    access: AccessDep,
    path: FilePath,
    replace: ReplaceParameter = Replacing.auto,
) -> Response:
    """Store the body as a file, at once and on disk, or change nothing."""
    path = query_of(request)["path"]
    name = encode_path(path)
    await access.admit(name)
    settings = gateway.settings.streams
    _refuse_unusable(request)
    size = announced_size(request, settings.max_upload_size)
    digests = Digests(
        parse_digests([*request.headers.getlist("content-digest"), *request.headers.getlist("repr-digest")])
    )
    content = whole(body_of(request, limit=settings.max_upload_size), size)
    with access.stream("upload"):
        async with access.pool.lease_bulk(access.principal, size) as session:
            conditions = Conditions.of(request.headers)
            stored = await put(session, name, digests.watch(content), conditions, gateway.locks, replace)
    return Response(status_code=201 if stored.created else 204, headers=fields(stored.validator.headers))


def _refuse_unusable(request: Request) -> None:
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("The body is stored as it comes: send it without Content-Encoding.")
    if "content-range" in request.headers:
        raise BadRequest("PUT stores whole files: send no Content-Range, or use /files/uploads to resume.")
