"""/filesystem/{system}/transfer: work on files as jobs of the scheduler, and large files in and out."""

import posixpath
from typing import Annotated, TypeVar
from urllib.parse import quote, quote_from_bytes

from fastapi import APIRouter, Query

from hpcgate.api.access import Access, AccessDep
from hpcgate.api.confined_jobs import confined
from hpcgate.api.json_bodies import json_body
from hpcgate.api.models import transfers as models
from hpcgate.errors import Denied, NoSuchTransfer
from hpcgate.filesystem.base import Path, encode_path
from hpcgate.filesystem.confinement import Reach
from hpcgate.transfers import jobs
from hpcgate.transfers.base import Download, Script, Started, Transfer, Upload

router = APIRouter(prefix="/filesystem/{system_name}/transfer", tags=["filesystem"])

Answer = TypeVar("Answer", models.UploadFileResponse, models.DownloadFileResponse)


async def _run(
    access: Access, script: Script, account: str | None, *paths: str, trees: tuple[str, ...] = ()
) -> models.TransferJob:
    try:
        script = confined(script, access.grant)
    except Denied as denial:
        access.denied(denial, *paths)
        raise
    await access.reach(Reach(paths, trees=trees))
    return models.TransferJob.model_validate(await access.system.jobs.run(access.principal, script, account))


def _refuse_confined(access: Access, method: str, path: str) -> None:
    """Refuse what a job would do by a path, hours later and unchecked, under a rule that has paths."""
    if access.grant.paths is None:
        return
    denial = Denied(access.grant.rule, f"transfers by {method} are not checked; use /files or /ops")
    access.denied(denial, path)
    raise denial


def _method(access: Access, method: str, verb: str, path: str) -> Transfer:
    """Return a transfer method of the system.

    Raises:
        NoSuchTransfer: The system does not offer it; the message names the request that needs none.
        Unhealthy: What it stands on is unhealthy.
    """
    try:
        return access.system.transfer(method)
    except NoSuchTransfer as error:
        root = "" if access.request is None else str(access.request.scope.get("root_path", "")).rstrip("/")
        place = f"{root}/filesystem/{quote(error.system)}/files/content?path={quote_from_bytes(encode_path(path))}"
        raise NoSuchTransfer(
            error.system, error.methods, f"A file of any size goes without one, as the body of {verb} {place}"
        ) from None


def _within(source: str, target: str) -> str:
    """Return where the source goes if the target is a directory, which takes it in."""
    return posixpath.join(target, posixpath.basename(source.rstrip("/")))


def _wire(model: type[Answer], started: Started) -> Answer:
    return model.model_validate({"transfer_job": started.job, "transfer_directives": started.directives})


@router.post("/mv", status_code=201)
async def post_mv(
    access: AccessDep, request: Annotated[models.MoveRequest, json_body(models.MoveRequest)]
) -> models.MoveResponse:
    """Move a file or a directory."""
    source, target = request.source_path, request.target_path
    job = await _run(access, jobs.mv(source, target), request.account, source, target, _within(source, target))
    return models.MoveResponse(transfer_job=job)


@router.post("/cp", status_code=201)
async def post_cp(
    access: AccessDep, request: Annotated[models.CopyRequest, json_body(models.CopyRequest)]
) -> models.CopyResponse:
    """Copy a file or a directory."""
    source, target = request.source_path, request.target_path
    script = jobs.cp(source, target, dereference=request.dereference)
    trees = (source,) if request.dereference else ()
    paths = (source, target, _within(source, target))
    return models.CopyResponse(transfer_job=await _run(access, script, request.account, *paths, trees=trees))


@router.delete("/rm")
async def delete_rm(
    access: AccessDep, path: Annotated[Path, Query()], account: str | None = None
) -> models.DeleteResponse:
    """Remove a file or a directory."""
    return models.DeleteResponse(transfer_job=await _run(access, jobs.rm(path), account, path))


@router.post("/compress", status_code=201)
async def post_compress(
    access: AccessDep, request: Annotated[models.CompressRequest, json_body(models.CompressRequest)]
) -> models.CompressResponse:
    """Put a file or a directory into an archive."""
    source, target = request.source_path, request.target_path
    script = jobs.compress(
        source,
        target,
        compression=request.compression.value,
        pattern=request.match_pattern,
        dereference=request.dereference,
    )
    trees = (source,) if request.dereference else ()
    job = await _run(access, script, request.account, source, target, trees=trees)
    return models.CompressResponse(transfer_job=job)


@router.post("/extract", status_code=201)
async def post_extract(
    access: AccessDep, request: Annotated[models.ExtractRequest, json_body(models.ExtractRequest)]
) -> models.ExtractResponse:
    """Unpack an archive into a directory."""
    source, target = request.source_path, request.target_path
    script = jobs.extract(source, target, compression=request.compression.value)
    job = await _run(access, script, request.account, source, target, trees=(target,))
    return models.ExtractResponse(transfer_job=job)


@router.post("/upload", status_code=201)
async def post_upload(
    access: AccessDep, request: Annotated[models.PostFileUploadRequest, json_body(models.PostFileUploadRequest)]
) -> models.UploadFileResponse:
    """Begin to bring a file in: a job waits for it, and the answer says how to send it."""
    directives = request.transfer_directives
    transfer = _method(access, directives.transfer_method, "PUT", request.source_path)
    await access.admit(request.source_path)
    _refuse_confined(access, transfer.method, request.source_path)
    upload = Upload(
        path=request.source_path,
        account=request.account,
        file_size=getattr(directives, "file_size", None),
        wormhole_code=getattr(directives, "wormhole_code", None),
    )
    started = await transfer.upload(access.principal, upload)
    access.system.telemetry.transfer(access.system.name, transfer.method, "in", upload.file_size)
    return _wire(models.UploadFileResponse, started)


@router.post("/download", status_code=201)
async def post_download(
    access: AccessDep, request: Annotated[models.PostFileDownloadRequest, json_body(models.PostFileDownloadRequest)]
) -> models.DownloadFileResponse:
    """Begin to bring a file out: a job hands it out, and the answer says how to get it."""
    transfer = _method(access, request.transfer_directives.transfer_method, "GET", request.source_path)
    await access.admit(request.source_path)
    _refuse_confined(access, transfer.method, request.source_path)
    download = Download(path=request.source_path, account=request.account)
    started = await transfer.download(access.principal, download)
    access.system.telemetry.transfer(access.system.name, transfer.method, "out", None)
    return _wire(models.DownloadFileResponse, started)
