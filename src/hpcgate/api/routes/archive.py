"""/filesystem/{system}/files/archive: a directory as an archive, and an archive into a directory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from hpcgate.api.access import AccessDep, GatewayDep
from hpcgate.api.routes.operations import query_of
from hpcgate.api.streaming import Answer, StreamingAnswer, announced_size, attachment, body_of, whole
from hpcgate.api.terms import BY_SSH, Kind, Terms, on
from hpcgate.config.groups import Group
from hpcgate.filesystem.confinement import Reach
from hpcgate.filesystem.packing import Format, packed
from hpcgate.filesystem.unpacking import unpack
from hpcgate.ssh.files.remote_path import encode_path

router = APIRouter(prefix="/filesystem/{system_name}/files", tags=["filesystem"])

DirectoryPath = Annotated[str, Query(description="The absolute path of the directory.")]

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_PACKING: dict[int | str, dict[str, Any]] = {
    200: {"description": "The archive.", "content": {kind.media_type: _BINARY for kind in Format}},
    429: {"description": "Too many streams at a time; see Retry-After."},
}
_UNPACKING: dict[int | str, dict[str, Any]] = {
    201: {"description": "The directory is new."},
    204: {"description": "The archive is unpacked into the directory."},
    429: {"description": "Too many streams at a time; see Retry-After."},
}


@on(Terms(Group.FS_READ, BY_SSH))
@router.get("/archive", response_class=Response, responses=_PACKING)
async def get_archive(
    request: Request,
    gateway: GatewayDep,
    access: AccessDep,
    path: DirectoryPath,
    format: Annotated[Format, Query(description="Which kind of archive.")] = Format.tar,
    skip_unreadable: Annotated[
        bool, Query(alias="skipUnreadable", description="Leave out what cannot be read instead of failing.")
    ] = False,
) -> Response:
    """Stream a directory as an archive. An answer that ends early is cut off, never ended as if whole."""
    path = query_of(request)["path"]
    name = encode_path(path)
    await access.admit(name)

    @asynccontextmanager
    async def answer() -> AsyncIterator[Answer]:
        with access.stream("archive"):
            async with packed(access.pool, access.principal, name, format, skip_unreadable=skip_unreadable) as content:
                base = name.rstrip(b"/").rpartition(b"/")[2] or b"root"
                headers = {
                    "Content-Type": format.media_type,
                    "Content-Disposition": attachment(base + b"." + format.value.encode()),
                    "Cache-Control": "no-store",
                    "X-Content-Type-Options": "nosniff",
                }
                yield Answer(200, headers, content)

    return StreamingAnswer(answer(), stall=gateway.settings.streams.stall_timeout)


@on(Terms(Group.FS_WRITE, BY_SSH, body=Kind.STREAM))
@router.put(
    "/archive",
    response_class=Response,
    status_code=204,
    responses=_UNPACKING,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "A tar archive, compressed by gzip or not.",
            "content": {kind.media_type: _BINARY for kind in (Format.tar, Format.tar_gz)},
        }
    },
)
async def put_archive(request: Request, gateway: GatewayDep, access: AccessDep, path: DirectoryPath) -> Response:
    """Unpack a tar archive into a directory, which is made if it is not there: all of it or nothing."""
    path = query_of(request)["path"]
    name = encode_path(path)
    await access.reach(Reach((name,), trees=(name,)))
    settings = gateway.settings.streams
    size = announced_size(request, settings.max_upload_size)
    content = whole(body_of(request, limit=settings.max_upload_size), size)
    with access.stream("unpack"):
        async with access.pool.lease_bulk(access.principal, size) as session:
            created = await unpack(session, name, content, limit=settings.max_upload_size)
    return Response(status_code=201 if created else 204)
