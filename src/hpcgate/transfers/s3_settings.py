"""How an S3 object store is used."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from hpcgate.config import Model, Secret, TransferSettings
from hpcgate.config.values import HttpUrl, Seconds, http_url

MIB = 1024 * 1024
GIB = 1024 * MIB


def _secret_url(value: SecretStr) -> SecretStr:
    http_url(value.get_secret_value())
    return value


class Multipart(Model):
    """How files are cut into parts. S3 takes parts of 5 MiB to 5 GiB."""

    use_split: bool = Field(False, description="Whether jobs write the parts of a file to tmp_folder before sending.")
    max_part_size: int = Field(2 * GIB, ge=5 * MIB, le=5 * GIB, description="Most bytes in a part.")
    parallel_runs: int = Field(3, ge=1, description="Parts that a job sends at a time.")
    tmp_folder: str = Field("tmp", min_length=1, description="The folder for parts, in the job's working directory.")


class BucketLifecycle(Model):
    """How long objects stay."""

    days: int = Field(10, ge=1, description="Days after which the store deletes an object.")


class S3Settings(TransferSettings):
    """An S3 object store."""

    service_type: Literal["s3"] = Field(description="s3.")
    name: str = Field(description="A name for the store.")
    private_url: Annotated[Secret, AfterValidator(_secret_url)] = Field(
        description="Where the gateway and the cluster reach the store; shown to nobody."
    )
    public_url: HttpUrl = Field(description="Where users reach the store.")
    access_key_id: Secret = Field(description="The id of the access key.")
    secret_access_key: Secret = Field(description="The access key.")
    region: str = Field(description="The region that requests are signed for.")
    ttl: int = Field(gt=0, description="Seconds that a presigned URL is valid; most stores allow up to 604800.")
    tenant: str | None = Field(None, description="The tenant that buckets belong to, as Ceph has them.")
    multipart: Multipart = Field(default_factory=lambda: Multipart(), description="How files are cut into parts.")
    bucket_lifecycle_configuration: BucketLifecycle = Field(
        default_factory=lambda: BucketLifecycle(), description="How long objects stay."
    )
    wait_timeout: Seconds = Field(7200, description="Seconds that a job waits for a user's upload to be complete.")
    poll_interval: Seconds = Field(5, description="Seconds between its looks for it.")
    check_etags: bool = Field(
        True,
        description="Compare MD5 checksums with entity tags; off for stores whose tags are not MD5, as with SSE-KMS.",
    )
    check_bucket_owner: bool = Field(
        True,
        description="Use a bucket that is there only if it is the key's own; off where somebody else makes the buckets "
        "for it, who can then read and exchange what is in them.",
    )
    timeout: Seconds = Field(10, description="Seconds that a request of the gateway to the store may take.")
