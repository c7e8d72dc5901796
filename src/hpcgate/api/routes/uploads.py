"""/filesystem/{system}/files/uploads: resumable uploads by the tus protocol 1.0 (https://tus.io)."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qs, quote, unquote_to_bytes, urlsplit

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from hpcgate.api.access import Access, GatewayDep, access_of
from hpcgate.api.responses import fields
from hpcgate.api.routes.operations import query_of
from hpcgate.api.streaming import announced_size, body_of
from hpcgate.api.terms import BY_SSH, PUBLIC, Kind, Terms, on
from hpcgate.config.groups import Group
from hpcgate.errors import BadRequest, Denied, GatewayError, PreconditionFailed, TooLarge, UnsupportedMediaType
from hpcgate.filesystem.conditions import http_date
from hpcgate.filesystem.content import upload_target
from hpcgate.filesystem.tus.headers import CHECKSUMS, ExpectedDigest, parse_metadata
from hpcgate.filesystem.tus.state import TusUpload
from hpcgate.filesystem.tus.uploads import Uploads, place
from hpcgate.gateway.gateway import Gateway
from hpcgate.ssh.files.protocol import Replacing
from hpcgate.ssh.files.remote_path import RemotePath, encode_path, remote_path
from hpcgate.ssh.files.streams import Streams

T = TypeVar("T")

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,creation-defer-length,checksum,termination,expiration,concatenation"
CHUNK = "application/offset+octet-stream"
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)

LOOKS = Terms(Group.FS_READ, BY_SSH, headers={"Tus-Resumable": VERSION})
WRITES = Terms(Group.FS_WRITE, BY_SSH, body=Kind.STREAM, headers={"Tus-Resumable": VERSION})

router = APIRouter(prefix="/filesystem/{system_name}/files/uploads", tags=["filesystem"])

SystemName = Annotated[str, Path()]
UploadId = Annotated[str, Path(description="The upload's id.")]
Directory = Annotated[str, Query(alias="path", description="The directory of the upload, as its Location has it.")]


def _header(name: str, description: str, *, required: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": required,
        "description": description,
        "schema": {"type": "string"},
    }


_RESUMABLE = _header("Tus-Resumable", "The version of the protocol, 1.0.0.", required=True)
_BODY = {"content": {CHUNK: {"schema": {"type": "string", "format": "binary"}}}}
_CREATION: dict[str, Any] = {
    "parameters": [
        _RESUMABLE,
        _header("Upload-Length", "The size of the whole in bytes."),
        _header("Upload-Defer-Length", "1 if the size is told later."),
        _header("Upload-Metadata", "Pairs of key and base64: `filename`, or `path` for the whole path of the file."),
        _header("Upload-Concat", "`partial`, or `final;` and the locations of partial uploads."),
        _header("Upload-Checksum", "Of a chunk sent along."),
    ],
    "requestBody": _BODY,
}
_APPENDING: dict[str, Any] = {
    "parameters": [
        _RESUMABLE,
        _header("Upload-Offset", "Where the chunk begins.", required=True),
        _header("Upload-Length", "The size of the whole, if it was left open."),
        _header("Upload-Checksum", f"Algorithm and base64; the algorithms are {', '.join(CHECKSUMS)}."),
    ],
    "requestBody": {"required": True, **_BODY},
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    409: {"description": "The upload stands at another offset."},
    410: {"description": "The upload has expired."},
    412: {"description": "Another version of the protocol."},
    423: {"description": "Another request writes to the upload."},
    429: {"description": "Too many streams at a time; see Retry-After."},
    460: {"description": "The chunk does not have its checksum."},
}


@on(PUBLIC)
@router.options("", status_code=204)
async def options_uploads(gateway: GatewayDep, system_name: str) -> Response:
    """Say what of tus is offered, of any system, for a browser asks without a token."""
    headers = {
        "Tus-Resumable": VERSION,
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Checksum-Algorithm": ",".join(CHECKSUMS),
    }
    if gateway.settings.streams.max_upload_size is not None:
        headers["Tus-Max-Size"] = str(gateway.settings.streams.max_upload_size)
    return Response(status_code=204, headers=fields(headers))


@on(PUBLIC)
@router.options("/{upload_id}", status_code=204)
async def options_upload(gateway: GatewayDep, system_name: str, upload_id: UploadId) -> Response:
    """Say what of tus is offered, of any system, for a browser asks without a token."""
    return await options_uploads(gateway, system_name)


def _answer(status: int, **headers: str | int | None) -> Response:
    named = {name.replace("_", "-"): str(value) for name, value in headers.items() if value is not None}
    return Response(
        status_code=status, headers=fields({"Tus-Resumable": VERSION, "Cache-Control": "no-store", **named})
    )


async def _speaking(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """Do some work for a client that speaks tus; errors carry the protocol's version too."""
    try:
        if request.headers.get("tus-resumable") != VERSION:
            raise PreconditionFailed(f"Tus-Resumable must be {VERSION}.", headers={"Tus-Version": VERSION})
        return await work()
    except GatewayError as error:
        error.headers["Tus-Resumable"] = VERSION
        raise


async def _enter(request: Request, system_name: SystemName) -> Access:
    async def entered() -> Access:
        return access_of(request)

    return await _speaking(request, entered)


Entered = Annotated[Access, Depends(_enter)]
"""Who asks, found out before FastAPI complains of parameters."""


def _number(request: Request, name: str) -> int | None:
    text = request.headers.get(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise BadRequest(f"{name} must be a number of bytes.")
    return int(text)


def _expires(upload: TusUpload) -> str | None:
    return None if upload.expires is None else http_date(upload.expires)


@asynccontextmanager
async def _at(
    gateway: Gateway, access: Access, directory: RemotePath | None = None, *, chunk: int | None = None
) -> AsyncIterator[tuple[Streams, Callable[[bytes], Uploads]]]:
    if directory is not None:
        await access.admit(directory)
    pool = access.pool
    leased = pool.lease(access.principal) if chunk is None else pool.lease_bulk(access.principal, chunk)
    async with leased as session, session.bulk() as streams:

        def uploads(path: bytes) -> Uploads:
            return Uploads(session, streams, path, gateway.uploads, gateway.settings.streams.upload_lifetime)

        yield streams, uploads


@on(WRITES)
@router.post("", status_code=201, response_class=Response, responses=_RESPONSES, openapi_extra=_CREATION)
async def post_uploads(
    request: Request,
    gateway: GatewayDep,
    access: Entered,
    path: Annotated[str | None, Query(description="The directory of the file, named by the metadata.")] = None,
    replace: Annotated[
        Replacing, Query(description="atomic, or auto, which is the same here: in-place is refused.")
    ] = Replacing.auto,
) -> Response:
    """Begin an upload, with or without its first chunk, or join partial ones."""

    async def work() -> Response:
        if replace is Replacing.in_place:
            raise BadRequest("A resumable upload replaces a file atomically; PUT files/content has replace=in-place.")
        asked = _Creation(request, gateway, access)
        await access.admit(*asked.paths)
        with access.stream("tus"):
            async with _at(gateway, access, chunk=asked.size or 0) as (streams, uploads):
                directory, name = await place(streams, asked.target, access.system.admit)
                here = uploads(directory)
                if asked.parts is not None:
                    parts = [(uploads(part), upload_id) for part, upload_id in asked.parts]
                    most = gateway.settings.streams.max_upload_size
                    upload = await here.join(name, asked.metadata, parts, most=most)
                else:
                    upload = await here.create(name, asked.length, asked.metadata, partial=asked.partial)
                    if asked.with_chunk or asked.length == 0:
                        try:
                            upload = await here.append(
                                upload.id, 0, _body(request, gateway), size=asked.size, checksum=asked.checksum
                            )
                        except BaseException:
                            # The client does not know where it is, and cannot go on.
                            await here.discard(upload.id)
                            raise
        location = f"{request.scope.get('root_path', '')}/filesystem/{access.system.name}/files/uploads/{upload.id}"
        return _answer(
            201,
            Location=f"{quote(location)}?path={quote(directory, safe='/')}",
            Upload_Offset=upload.offset,
            Upload_Expires=_expires(upload),
        )

    return await _speaking(request, work)


class _Creation:
    """What a request that begins an upload asks for."""

    def __init__(self, request: Request, gateway: Gateway, access: Access) -> None:
        most = gateway.settings.streams.max_upload_size
        self.metadata = request.headers.get("upload-metadata", "")
        self.length = _number(request, "Upload-Length")
        self.size = announced_size(request, most)
        concat = request.headers.get("upload-concat", "").strip()
        self.partial = concat == "partial"
        self.parts = _parts(concat, access) if concat.startswith("final;") else None
        if concat and not self.partial and self.parts is None:
            raise BadRequest("Upload-Concat must be 'partial' or 'final;' with the locations of partial uploads.")
        deferred = request.headers.get("upload-defer-length")
        if deferred is not None and (deferred != "1" or self.length is not None):
            raise BadRequest("Upload-Defer-Length must be 1, without Upload-Length.")
        if self.parts is not None:
            if self.length is not None or deferred is not None:
                raise BadRequest("Upload-Length has no place where uploads are joined.")
        elif self.length is None and deferred is None:
            raise BadRequest("Upload-Length or Upload-Defer-Length is required.")
        if most is not None and (self.length or 0) > most:
            raise TooLarge(f"The upload is larger than {most} bytes.")
        kind = request.headers.get("content-type", "").strip().lower()
        self.with_chunk = kind == CHUNK and self.parts is None
        if not self.with_chunk and self.size:
            raise UnsupportedMediaType(f"A chunk sent along must be {CHUNK}.")
        self.checksum = _checksum(request)
        self.target = _target(request, parse_metadata(self.metadata), partial=self.partial)
        # The state of the upload goes beside its file, so the directory counts too.
        directories = [directory for directory, _ in self.parts or ()]
        places = (self.target, self.target.rpartition(b"/")[0] or b"/", *directories)
        self.paths = places


def _target(request: Request, metadata: dict[str, bytes], *, partial: bool) -> bytes:
    directory = query_of(request).get("path")
    if directory is None:
        if "path" not in metadata:
            raise BadRequest("The query needs the path of a directory, or the metadata a path.")
        whole = remote_path(metadata["path"])
        return upload_target(whole.rpartition(b"/")[0], whole)
    name = metadata.get("filename") or metadata.get("name") or (b"partial" if partial else None)
    target = upload_target(encode_path(directory), name)
    if metadata.get("path", target) != target:
        raise BadRequest("The query and the metadata each have a path, and they name different files.")
    return target


def _parts(concat: str, access: Access) -> list[tuple[bytes, str]]:
    prefix = f"/filesystem/{access.system.name}/files/uploads/".casefold()
    found: list[tuple[bytes, str]] = []
    for location in concat.removeprefix("final;").split():
        try:
            url = urlsplit(location)
        except ValueError:
            raise BadRequest("Upload-Concat: a location is not a URL.") from None
        path = unquote_to_bytes(url.path).decode("utf-8", "replace")
        before, separator, upload_id = path.rpartition("/")
        directories = parse_qs(url.query, errors="surrogateescape").get("path", [])
        if not separator or not f"{before}/".casefold().endswith(prefix) or len(directories) != 1:
            raise BadRequest("Upload-Concat: a location is none of this system's uploads.")
        found.append((encode_path(directories[0]), upload_id))
    if not found:
        raise BadRequest("Upload-Concat: there is nothing to join.")
    return found


def _checksum(request: Request) -> ExpectedDigest | None:
    header = request.headers.get("upload-checksum")
    return None if header is None else ExpectedDigest.parse(header)


def _body(request: Request, gateway: Gateway, offset: int = 0) -> AsyncIterator[bytes]:
    settings = gateway.settings.streams
    most = settings.max_upload_size
    return body_of(request, limit=None if most is None else most - offset)


@on(LOOKS)
@router.head("/{upload_id}", response_class=Response, responses=_RESPONSES, openapi_extra={"parameters": [_RESUMABLE]})
async def head_upload(
    request: Request, gateway: GatewayDep, access: Entered, upload_id: UploadId, path: Directory
) -> Response:
    """Say where an upload stands."""

    async def work() -> Response:
        directory = encode_path(query_of(request)["path"])
        async with _at(gateway, access, directory) as (_, uploads):
            upload = await uploads(directory).find(upload_id)
        # To give it its name is to write, which not everybody may who may look.
        if upload.unsettled and (writing := access.beside(Group.FS_WRITE)) is not None:
            with suppress(Denied):
                async with _at(gateway, writing, directory) as (_, uploads):
                    upload = await uploads(directory).settle(upload_id)
        state = upload.state
        return _answer(
            200,
            Upload_Offset=upload.offset,
            Upload_Length=state.length,
            Upload_Defer_Length=1 if state.length is None else None,
            Upload_Metadata=state.metadata or None,
            Upload_Concat="partial" if state.partial else None,
            Upload_Expires=_expires(upload),
        )

    return await _speaking(request, work)


@on(WRITES)
@router.patch("/{upload_id}", status_code=204, response_class=Response, responses=_RESPONSES, openapi_extra=_APPENDING)
async def patch_upload(
    request: Request, gateway: GatewayDep, access: Entered, upload_id: UploadId, path: Directory
) -> Response:
    """Write a chunk where the upload stands. The last one gives the file its name."""
    return await _patch(request, gateway, access, upload_id)


@on(WRITES)
@router.delete(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    responses=_RESPONSES,
    openapi_extra={"parameters": [_RESUMABLE]},
)
async def delete_upload(
    request: Request, gateway: GatewayDep, access: Entered, upload_id: UploadId, path: Directory
) -> Response:
    """Give an upload up: nothing of it is left."""
    return await _delete(request, gateway, access, upload_id)


@on(WRITES)
@router.post("/{upload_id}", status_code=204, response_class=Response, include_in_schema=False)
async def post_upload(
    request: Request, gateway: GatewayDep, access: Entered, upload_id: UploadId, path: Directory
) -> Response:
    """Do as PATCH or DELETE, for clients behind proxies that know neither."""
    method = request.headers.get("x-http-method-override", "").upper()
    if method == "PATCH":
        return await _patch(request, gateway, access, upload_id)
    if method == "DELETE":
        return await _delete(request, gateway, access, upload_id)
    raise BadRequest("X-HTTP-Method-Override must be PATCH or DELETE.")


async def _patch(request: Request, gateway: Gateway, access: Access, upload_id: str) -> Response:
    async def work() -> Response:
        if request.headers.get("content-type", "").strip().lower() != CHUNK:
            raise UnsupportedMediaType(f"A chunk must be {CHUNK}.")
        most = gateway.settings.streams.max_upload_size
        offset = _number(request, "Upload-Offset")
        length = _number(request, "Upload-Length")
        if offset is None:
            raise BadRequest("Upload-Offset is required.")
        if most is not None and (length or 0) > most:
            raise TooLarge(f"The upload is larger than {most} bytes.")
        checksum = _checksum(request)
        size = announced_size(request, most)
        directory = encode_path(query_of(request)["path"])
        with access.stream("tus"):
            async with _at(gateway, access, directory, chunk=size or 0) as (_, uploads):
                upload = await uploads(directory).append(
                    upload_id, offset, _body(request, gateway, offset), length=length, size=size, checksum=checksum
                )
        return _answer(204, Upload_Offset=upload.offset, Upload_Expires=_expires(upload))

    return await _speaking(request, work)


async def _delete(request: Request, gateway: Gateway, access: Access, upload_id: str) -> Response:
    async def work() -> Response:
        directory = encode_path(query_of(request)["path"])
        async with _at(gateway, access, directory) as (_, uploads):
            await uploads(directory).terminate(upload_id)
        return _answer(204)

    return await _speaking(request, work)
