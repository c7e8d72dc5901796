"""The wire models of /filesystem/{system}/transfer: names, fields and defaults as in the contract's schema."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic.json_schema import SkipJsonSchema

from hpcgate.api.models.base import BodyParameters, Wire, Writable
from hpcgate.filesystem.base import Path, SourcePath
from hpcgate.filesystem.models import CompressionType

NULLABLE: dict[str, Any] = {"nullable": True}
NOT_NULL: dict[str, Any] = {"nullable": False}


class TransferJobLogs(Wire):
    """The files that the job writes; absolute paths on the system."""

    output_log: Writable
    error_log: Writable


class TransferJob(Wire):
    """The job that does it."""

    job_id: Writable
    system: Writable
    working_directory: Writable
    logs: TransferJobLogs


class MoveRequest(BodyParameters):
    """What to move where."""

    source_path: SourcePath
    target_path: Path
    account: str | None = Field(None, description="Account to charge", json_schema_extra=NULLABLE)


class MoveResponse(Wire):
    """The job that moves."""

    transfer_job: TransferJob


class CopyRequest(MoveRequest):
    """What to copy where."""

    dereference: bool = Field(False, description="Copy what links point to", json_schema_extra=NOT_NULL)


class CopyResponse(Wire):
    """The job that copies."""

    transfer_job: TransferJob


class DeleteResponse(Wire):
    """The job that removes."""

    transfer_job: TransferJob


class CompressRequest(MoveRequest):
    """What goes into which archive."""

    match_pattern: str | None = Field(
        None,
        description="Regular expression of find(1) for the paths, which begin with ./, of the files to pack",
        json_schema_extra=NULLABLE,
    )
    dereference: bool = Field(False, description="Pack what links point to", json_schema_extra=NOT_NULL)
    compression: CompressionType = Field(CompressionType.gzip, json_schema_extra=NOT_NULL)


class CompressResponse(Wire):
    """The job that compresses."""

    transfer_job: TransferJob


class ExtractRequest(MoveRequest):
    """Which archive to unpack into which directory."""

    compression: CompressionType = Field(CompressionType.gzip, json_schema_extra=NOT_NULL)


class ExtractResponse(Wire):
    """The job that unpacks."""

    transfer_job: TransferJob


UNUSED_SIZE = {"file_size": "the sender tells the receiver"}


class S3TransferRequest(BodyParameters):
    """By S3. An upload needs the file's size."""

    transfer_method: Literal["s3"]
    file_size: int | None = Field(
        None, ge=0, description="Size of the file to upload, in bytes", json_schema_extra=NULLABLE
    )


class StreamerTransferRequest(BodyParameters):
    """By streamer."""

    unused: ClassVar[Mapping[str, str]] = UNUSED_SIZE

    transfer_method: Literal["streamer"]
    file_size: Any = Field(None, description="Not used: pyfirecrest sends it whatever the method")


class WormholeTransferRequest(BodyParameters):
    """Out by wormhole."""

    unused: ClassVar[Mapping[str, str]] = {"wormhole_code": "the sender, which is the job, makes it"}

    transfer_method: Literal["wormhole"]
    wormhole_code: Any = Field(None, description="Not used")


class WormholeTransferUploadRequest(BodyParameters):
    """In by wormhole."""

    unused: ClassVar[Mapping[str, str]] = UNUSED_SIZE

    transfer_method: Literal["wormhole"]
    file_size: Any = Field(None, description="Not used")
    wormhole_code: str = Field(
        description="The code that the sender's wormhole shows",
        pattern=r"^[0-9]{1,9}(-[A-Za-z0-9]{1,64}){1,32}$",
        json_schema_extra=NOT_NULL,
    )


class OtherTransferRequest(BodyParameters):
    """By a method that the contract does not name, with whatever it takes."""

    model_config = ConfigDict(extra="allow")

    transfer_method: str


KNOWN = ("s3", "streamer", "wormhole")


def _method(directives: Any) -> str | None:
    """Return which model directives follow, those of a request or of an answer; None if they are neither."""
    if isinstance(directives, dict):
        method = directives.get("transferMethod") or directives.get("transfer_method")
    elif isinstance(directives, BaseModel):
        method = getattr(directives, "transfer_method", None)
    else:
        return None
    return method if method in KNOWN else "other"


_S3 = Annotated[S3TransferRequest, Tag("s3")]
_Streamer = Annotated[StreamerTransferRequest, Tag("streamer")]
_Other = Annotated[SkipJsonSchema[OtherTransferRequest], Tag("other")]

UploadDirectives = Annotated[
    Annotated[WormholeTransferUploadRequest, Tag("wormhole")] | _S3 | _Streamer | _Other, Discriminator(_method)
]
DownloadDirectives = Annotated[
    Annotated[WormholeTransferRequest, Tag("wormhole")] | _S3 | _Streamer | _Other, Discriminator(_method)
]


class PostFileUploadRequest(BodyParameters):
    """A file to bring in: the path that it gets, and how."""

    source_path: SourcePath
    account: str | None = Field(None, description="Account to charge", json_schema_extra=NULLABLE)
    transfer_directives: UploadDirectives


class PostFileDownloadRequest(BodyParameters):
    """A file to bring out, and how."""

    source_path: SourcePath
    account: str | None = Field(None, description="Account to charge", json_schema_extra=NULLABLE)
    transfer_directives: DownloadDirectives


class S3TransferResponse(Wire):
    """What an S3 client needs."""

    transfer_method: Literal["s3"]
    download_url: Writable | None = None
    parts_upload_urls: list[Writable] | None = None
    complete_upload_url: Writable | None = None
    max_part_size: int | None = None


class StreamerTransferResponse(Wire):
    """What the streamer's client needs."""

    transfer_method: Literal["streamer"]
    coordinates: Writable | None = None


class WormholeTransferResponse(Wire):
    """What a wormhole needs."""

    transfer_method: Literal["wormhole"]
    wormhole_code: Writable | None = None


class OtherTransferResponse(Wire):
    """What the user of another method needs: fields of the method's own, named as it names them."""

    model_config = ConfigDict(extra="allow")

    transfer_method: Writable


ResponseDirectives = Annotated[
    Annotated[WormholeTransferResponse, Tag("wormhole")]
    | Annotated[S3TransferResponse, Tag("s3")]
    | Annotated[StreamerTransferResponse, Tag("streamer")]
    | Annotated[SkipJsonSchema[OtherTransferResponse], Tag("other")],
    Discriminator(_method),
]


class UploadFileResponse(Wire):
    """The job that waits for the file, and how to send it."""

    transfer_job: TransferJob
    transfer_directives: ResponseDirectives


class DownloadFileResponse(Wire):
    """The job that hands the file out, and how to get it."""

    transfer_job: TransferJob
    transfer_directives: ResponseDirectives
