"""/filesystem/{system}/transfer: work on files as jobs of the scheduler, and large files in and out."""

import posixpath
from dataclasses import replace
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, quote_from_bytes

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ValidationError

from hpcgate.api.access import Access, AccessDep
from hpcgate.api.confined_jobs import confined
from hpcgate.api.idempotency import KeyDep, once, say_replayed
from hpcgate.api.json_bodies import json_body
from hpcgate.api.models import transfers as models
from hpcgate.api.terms import BY_JOBS, Terms, on
from hpcgate.config.groups import Group
from hpcgate.errors import BadAnswer, Denied, KeyReused, NoSuchTransfer, NotSupported, UnderWay
from hpcgate.filesystem.base import Path
from hpcgate.filesystem.confinement import Reach
from hpcgate.schedulers.once import RETRY_AFTER
from hpcgate.schedulers.receipts import Once
from hpcgate.ssh.files.remote_path import RemotePath
from hpcgate.transfers import jobs, memo
from hpcgate.transfers.base import Directives, Download, Keyed, Script, Started, Transfer, TransferJob, Upload

router = APIRouter(prefix="/filesystem/{system_name}/transfer", tags=["filesystem"])

JOBS = Terms(Group.TRANSFER, BY_JOBS)

Answer = TypeVar("Answer", models.UploadFileResponse, models.DownloadFileResponse)


class Requested:
    """A request for a transfer, which happens once if it has an Idempotency-Key."""

    def __init__(self, access: Access, key: str | None, response: Response) -> None:
        self.access = access
        self._key = key
        self._response = response

    async def before(
        self, asked: BaseModel | dict[str, Any]
    ) -> tuple[Once | None, tuple[TransferJob, Directives | None] | None]:
        """Return the key, and what an earlier request with it was answered with.

        Raises:
            BadRequest: There is no key, and there must be one.
            KeyReused: It stands for another request.
            UnderWay: An earlier request is under way.
            SchedulerUnavailable, Conflict: It cannot be told what has become of one.
        """
        key = once(self.access, self._key, asked)
        if key is None:
            return None, None
        fate = await self.access.system.scheduler.submission(self.access.principal, key)
        if fate.state == "not_submitted":
            return key, None
        if fate.digest != key.digest:
            raise KeyReused("This Idempotency-Key was used for another request")
        if fate.job_id is None:
            raise fate.error or UnderWay(RETRY_AFTER)
        say_replayed(self._response, replayed=True)
        return key, memo.read(fate.memo, fate.job_id)


async def _requested(access: AccessDep, key: KeyDep, response: Response) -> Requested:
    return Requested(access, key, response)


RequestedDep = Annotated[Requested, Depends(_requested)]


async def _run(
    requested: Requested,
    asked: BaseModel | dict[str, Any],
    script: Script,
    account: str | None,
    *paths: RemotePath,
    trees: tuple[RemotePath, ...] = (),
) -> models.TransferJob:
    access = requested.access
    try:
        script = confined(script, access.grant)
    except Denied as denial:
        access.denied(denial, *paths)
        raise
    await access.reach(Reach(paths, trees=trees))
    key, before = await requested.before(asked)
    if before is not None:
        return models.TransferJob.model_validate(before[0])
    if key is not None:
        script = replace(script, keyed=Keyed(key))
    return models.TransferJob.model_validate(await access.system.jobs.run(access.principal, script, account))


def _refuse_confined(access: Access, method: str, path: RemotePath) -> None:
    """Refuse what a job would do by a path, hours later and unchecked, under a rule that has paths."""
    if access.grant.paths is None:
        return
    denial = Denied(access.grant.rule, f"transfers by {method} are not checked; use /files or /ops")
    access.denied(denial, path)
    raise denial


def _method(access: Access, method: str, verb: str, path: RemotePath) -> Transfer:
    """Return a transfer method of the system.

    Raises:
        NoSuchTransfer: The system does not offer it; the message names the request that needs none.
        Unhealthy: What it stands on is unhealthy.
    """
    try:
        return access.system.transfer(method)
    except NoSuchTransfer as error:
        root = "" if access.request is None else str(access.request.scope.get("root_path", "")).rstrip("/")
        place = f"{root}/filesystem/{quote(error.system)}/files/content?path={quote_from_bytes(path)}"
        raise NoSuchTransfer(
            error.system, error.methods, f"A file of any size goes without one, as the body of {verb} {place}"
        ) from None


def _within(source: RemotePath, target: RemotePath) -> RemotePath:
    """Return where the source goes if the target is a directory, which takes it in."""
    return RemotePath(posixpath.join(target, source.name))


def answer_of(model: type[Answer], started: Started) -> Answer:
    """Return what a request for a transfer is answered with.

    Raises:
        BadAnswer: The directives are not the method's.
    """
    directives = {**started.directives.fields, "transfer_method": started.directives.transfer_method}
    try:
        return model.model_validate({"transfer_job": started.job, "transfer_directives": directives})
    except ValidationError as error:
        # Of an earlier request they are in the user's home, and may be the user's own doing.
        raise BadAnswer("The receipt of the transfer cannot be read") from error


@on(JOBS)
@router.post("/mv", status_code=201)
async def post_mv(
    requested: RequestedDep, request: Annotated[models.MoveRequest, json_body(models.MoveRequest)]
) -> models.MoveResponse:
    """Move a file or a directory."""
    source, target = request.source_path, request.target_path
    job = await _run(
        requested, request, jobs.mv(source, target), request.account, source, target, _within(source, target)
    )
    return models.MoveResponse(transfer_job=job)


@on(JOBS)
@router.post("/cp", status_code=201)
async def post_cp(
    requested: RequestedDep, request: Annotated[models.CopyRequest, json_body(models.CopyRequest)]
) -> models.CopyResponse:
    """Copy a file or a directory."""
    source, target = request.source_path, request.target_path
    script = jobs.cp(source, target, dereference=request.dereference)
    trees = (source,) if request.dereference else ()
    paths = (source, target, _within(source, target))
    return models.CopyResponse(
        transfer_job=await _run(requested, request, script, request.account, *paths, trees=trees)
    )


@on(JOBS)
@router.delete("/rm")
async def delete_rm(
    requested: RequestedDep, path: Annotated[Path, Query()], account: str | None = None
) -> models.DeleteResponse:
    """Remove a file or a directory."""
    asked = {"path": path.text, "account": account}
    return models.DeleteResponse(transfer_job=await _run(requested, asked, jobs.rm(path), account, path))


@on(JOBS)
@router.post("/compress", status_code=201)
async def post_compress(
    requested: RequestedDep, request: Annotated[models.CompressRequest, json_body(models.CompressRequest)]
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
    job = await _run(requested, request, script, request.account, source, target, trees=trees)
    return models.CompressResponse(transfer_job=job)


@on(JOBS)
@router.post("/extract", status_code=201)
async def post_extract(
    requested: RequestedDep, request: Annotated[models.ExtractRequest, json_body(models.ExtractRequest)]
) -> models.ExtractResponse:
    """Unpack an archive into a directory."""
    source, target = request.source_path, request.target_path
    script = jobs.extract(source, target, compression=request.compression.value)
    job = await _run(requested, request, script, request.account, source, target, trees=(target,))
    return models.ExtractResponse(transfer_job=job)


@on(JOBS)
@router.post("/upload", status_code=201)
async def post_upload(
    requested: RequestedDep, request: Annotated[models.PostFileUploadRequest, json_body(models.PostFileUploadRequest)]
) -> models.UploadFileResponse:
    """Begin to bring a file in: a job waits for it, and the answer says how to send it."""
    access = requested.access
    directives = request.transfer_directives
    transfer = _method(access, directives.transfer_method, "PUT", request.source_path)
    await access.admit(request.source_path)
    _refuse_confined(access, transfer.method, request.source_path)
    key, before = await requested.before(request)
    if key is not None and not transfer.keyed:
        raise NotSupported(f"An Idempotency-Key is not supported for transfers by {transfer.method}")
    if before is not None and before[1] is not None:
        return answer_of(models.UploadFileResponse, Started(before[0], before[1]))
    upload = Upload(
        path=request.source_path,
        account=request.account,
        file_size=getattr(directives, "file_size", None),
        fields=directives.model_dump(exclude={"transfer_method", "file_size"}),
        key=key,
    )
    started = await transfer.upload(access.principal, upload)
    access.system.telemetry.transfer(access.system.name, transfer.method, "in", upload.file_size)
    return answer_of(models.UploadFileResponse, started)


@on(JOBS)
@router.post("/download", status_code=201)
async def post_download(
    requested: RequestedDep,
    request: Annotated[models.PostFileDownloadRequest, json_body(models.PostFileDownloadRequest)],
) -> models.DownloadFileResponse:
    """Begin to bring a file out: a job hands it out, and the answer says how to get it."""
    access = requested.access
    transfer = _method(access, request.transfer_directives.transfer_method, "GET", request.source_path)
    await access.admit(request.source_path)
    _refuse_confined(access, transfer.method, request.source_path)
    key, before = await requested.before(request)
    if key is not None and not transfer.keyed:
        raise NotSupported(f"An Idempotency-Key is not supported for transfers by {transfer.method}")
    if before is not None and before[1] is not None:
        return answer_of(models.DownloadFileResponse, Started(before[0], before[1]))
    download = Download(path=request.source_path, account=request.account, key=key)
    started = await transfer.download(access.principal, download)
    access.system.telemetry.transfer(access.system.name, transfer.method, "out", None)
    return answer_of(models.DownloadFileResponse, started)
