"""What users see of the transfer methods that the contract names: models of their settings, without secrets."""

from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, Field

from hpcgate.api.models.base import Snake, Wire
from hpcgate.config import TransferSettings


class MultipartUpload(Snake):
    """How large files are split for S3. Sizes in bytes."""

    use_split: bool = False
    max_part_size: int = 2147483648
    parallel_runs: int = 3
    tmp_folder: str = "tmp"


class BucketLifecycleConfiguration(Snake):
    """After how many days objects go."""

    days: int = 10


class S3DataTransfer(Wire):
    """S3, without its secrets."""

    service_type: Literal["s3"]
    name: str
    public_url: str
    region: str
    ttl: int
    tenant: str | None = None
    multipart: MultipartUpload = Field(default_factory=MultipartUpload)
    bucket_lifecycle_configuration: BucketLifecycleConfiguration = Field(default_factory=BucketLifecycleConfiguration)


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


PublicUrl = Annotated[str, AfterValidator(_without_login)]
"""A URL of the configuration as users see it: without the name and password that it may hold."""


class WormholeDataTransfer(Wire):
    """Magic Wormhole."""

    service_type: Literal["wormhole"]
    pypi_index_url: PublicUrl | None = None


class StreamerDataTransfer(Wire):
    """The websocket streamer. Limits in bytes and seconds."""

    service_type: Literal["streamer"]
    pypi_index_url: PublicUrl | None = None
    host: str | None = None
    port_range: tuple[int, int] = (5665, 5675)
    public_ips: list[str] | None = None
    wait_timeout: int = 86400
    inbound_transfer_limit: int = 5368709120


DataTransfer = Annotated[
    S3DataTransfer | WormholeDataTransfer | StreamerDataTransfer,
    Field(discriminator="service_type"),
]


def shown(settings: TransferSettings) -> DataTransfer | None:
    """Return what users see of a method's settings; None of one that the contract does not name."""
    for model in (S3DataTransfer, WormholeDataTransfer, StreamerDataTransfer):
        if settings.service_type in get_args(model.model_fields["service_type"].annotation):
            return model.model_validate(settings)
    return None
