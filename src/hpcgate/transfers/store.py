"""The few calls that the gateway itself makes to an S3 store."""

import asyncio
import ssl
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from aiobotocore.config import AioConfig  # type: ignore[import-untyped]  # it has no stubs of its own
from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]
from aiobotocore.session import AioSession, get_session  # type: ignore[import-untyped]
from botocore import handlers  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError, SSLError  # type: ignore[import-untyped]

from hpcgate.errors import Unavailable
from hpcgate.transfers.s3_settings import S3Settings

log = structlog.stdlib.get_logger(__name__)

RECHECK = 3600.0
"""Seconds for which a bucket is taken to exist, and between sweeps of a bucket."""

_TAKEN = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


class Store:
    """An object store; the client is opened by the first call."""

    def __init__(self, endpoint: str, settings: S3Settings) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._opened: Any = None
        self._checked: dict[str, float] = {}

    async def ping(self) -> None:
        """Return if the store answers and accepts the key, else raise `Unavailable`."""
        await self._call("list_buckets")

    async def open_upload(self, bucket: str, key: str) -> str:
        """Begin a multipart upload, making the bucket if need be, and return its id.

        Raises:
            Unavailable: The store does not answer, or refuses.
        """
        now = time.monotonic()
        if now - self._checked.get(bucket, -RECHECK) >= RECHECK:
            await self._prepare(bucket)
            self._checked[bucket] = now
        try:
            answer = await self._call("create_multipart_upload", Bucket=bucket, Key=key)
        except _NoBucket:
            # Somebody removed it since it was last looked for.
            await self._prepare(bucket)
            answer = await self._call("create_multipart_upload", Bucket=bucket, Key=key)
        upload_id: str = answer["UploadId"]
        return upload_id

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        """Abort a multipart upload; a store that fails to is left to its lifecycle rules."""
        try:
            await self._call("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload_id)
        except Unavailable as error:
            log.warning("s3.abort.failed", bucket=bucket, reason=error.message)

    async def close(self) -> None:
        """Close the connections."""
        await self._stack.aclose()
        self._opened = None

    async def _prepare(self, bucket: str) -> None:
        """Make the bucket if it is not there, give it its lifecycle, and sweep out what was given up."""
        try:
            await self._call("head_bucket", Bucket=bucket)
        except _NoBucket:
            await self._make(bucket)
        await self._sweep(bucket)

    async def _make(self, bucket: str) -> None:
        options: dict[str, Any] = {}
        if ".amazonaws.com" in self._endpoint and self._settings.region != "us-east-1":
            options["CreateBucketConfiguration"] = {"LocationConstraint": self._settings.region}
        try:
            await self._call("create_bucket", Bucket=bucket, **options)
        except _Refused as error:
            # Two first transfers of a user at a time both find none.
            if error.code not in _TAKEN:
                raise
        days = self._settings.bucket_lifecycle_configuration.days
        rule = {
            "ID": "hpcgate",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "Expiration": {"Days": days},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days},
        }
        try:
            await self._call(
                "put_bucket_lifecycle_configuration", Bucket=bucket, LifecycleConfiguration={"Rules": [rule]}
            )
        except Unavailable as error:
            log.warning("s3.lifecycle.refused", bucket=bucket, reason=error.message)

    async def _sweep(self, bucket: str) -> None:
        """Abort the multipart uploads whose URLs have expired: nobody can complete them any more."""
        oldest = datetime.now(UTC) - timedelta(seconds=self._settings.ttl)
        try:
            answer = await self._call("list_multipart_uploads", Bucket=bucket)
        except Unavailable:
            return  # some stores answer so when there is none
        for upload in answer.get("Uploads", []):
            if upload["Initiated"] < oldest:
                await self.abort_upload(bucket, upload["Key"], upload["UploadId"])

    async def _client(self) -> Any:
        async with self._opening:
            if self._opened is None:
                session = get_session()
                # Reading the description of S3 takes a while; the session keeps what was read.
                await asyncio.to_thread(_load, session)
                seconds = self._settings.timeout
                client = await self._stack.enter_async_context(
                    session.create_client(
                        "s3",
                        endpoint_url=self._endpoint,
                        region_name=self._settings.region,
                        aws_access_key_id=self._settings.access_key_id.get_secret_value(),
                        aws_secret_access_key=self._settings.secret_access_key.get_secret_value(),
                        config=AioConfig(
                            http_session_cls=_Session,
                            signature_version="s3v4",
                            s3={"addressing_style": "path"},
                            connect_timeout=seconds,
                            read_timeout=seconds,
                            retries={"total_max_attempts": 2},
                            request_checksum_calculation="when_required",
                            response_checksum_validation="when_required",
                        ),
                    )
                )
                # Ceph's ``tenant:bucket`` is no name that AWS would take.
                client.meta.events.unregister("before-parameter-build.s3", handlers.validate_bucket_name)
                self._opened = client
            return self._opened

    async def _call(self, operation: str, **parameters: Any) -> Any:
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await getattr(await self._client(), operation)(**parameters)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            kind = _NoBucket if code in ("404", "NoSuchBucket") else _Refused
            raise kind(self._settings.name, operation, code) from error
        except SSLError as error:
            raise Unavailable(
                f"The object store {self._settings.name} shows no certificate that is trusted here."
            ) from error
        except (BotoCoreError, OSError) as error:
            # TimeoutError is an OSError. The words of botocore name the private URL.
            raise Unavailable(f"The object store {self._settings.name} does not answer.") from error


class _Session(AIOHTTPSession):  # type: ignore[misc]
    """HTTP that trusts whom this machine trusts, as all else here does; botocore has a list of its own."""

    def _get_ssl_context(self) -> ssl.SSLContext:
        return ssl.create_default_context()


class _Refused(Unavailable):
    """The store answered with an error."""

    def __init__(self, store: str, operation: str, code: str) -> None:
        super().__init__(f"The object store {store} refused {operation}: {code}")
        self.code = code


class _NoBucket(_Refused):
    """There is no such bucket."""


def _load(session: AioSession) -> None:
    loader = session.get_component("data_loader")
    loader.load_service_model("s3", "service-2")
    loader.load_service_model("s3", "endpoint-rule-set-1")
