"""The few calls that the gateway itself makes to an S3 store."""

import asyncio
import ssl
import time
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import aiohttp
import structlog
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession, get_session
from botocore import handlers
from botocore.exceptions import BotoCoreError, ClientError, SSLError

from hpcgate.errors import Unavailable
from hpcgate.outbound.client import MAX_HEADERS
from hpcgate.outbound.wording import clipped, one_line
from hpcgate.sharing.recent import Recent
from hpcgate.transfers.s3_settings import S3Settings

log = structlog.stdlib.get_logger(__name__)

RECHECK = 3600.0
"""Seconds for which a bucket is taken to exist, and between sweeps of a bucket."""

MAX_ANSWER = 1024 * 1024
"""Most bytes of an answer, which is parsed in the event loop; a page of 1,000 uploads has half of that."""
MAX_SWEPT = 100
"""Most uploads that one sweep aborts; a user waits for it."""
MAX_CODE = 64
"""Characters of an error's code."""
MAX_BUCKETS = 10_000
"""Most buckets that are remembered to exist."""

_OWN = "BucketAlreadyOwnedByYou"
_TAKEN = {_OWN, "BucketAlreadyExists"}


class Store:
    """An object store; the client is opened by the first call."""

    def __init__(self, endpoint: str, settings: S3Settings) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._opened: Any = None
        self._checked = Recent[str, bool](MAX_BUCKETS)

    async def ping(self) -> None:
        """Return if the store answers and accepts the key, else raise `Unavailable`."""
        await self._call("list_buckets")

    async def open_upload(self, bucket: str, key: str) -> str:
        """Begin a multipart upload, making the bucket if need be, and return its id.

        Raises:
            Unavailable: The store does not answer, or refuses.
        """
        now = time.monotonic()
        if not self._checked.get(bucket):
            await self._prepare(bucket)
            self._checked.keep(bucket, True, now + RECHECK)
        try:
            answer = await self._call("create_multipart_upload", Bucket=bucket, Key=key)
        except _NoBucket:
            # Somebody removed it since it was last looked for.
            await self._prepare(bucket)
            answer = await self._call("create_multipart_upload", Bucket=bucket, Key=key)
        upload_id = answer.get("UploadId")
        if not isinstance(upload_id, str) or not upload_id:
            raise Unavailable(f"The object store {self._settings.name} gave no id for an upload.")
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
        """Make the bucket if it is not there, give it its lifecycle, and sweep out what was given up.

        Raises:
            Unavailable: The store does not answer, or somebody else has made the bucket.
        """
        made = False
        try:
            await self._call("head_bucket", Bucket=bucket)
        except _NoBucket:
            # Two first transfers of a user at a time both find none.
            made = await self._create(bucket)
        if not made:
            await self._require_own(bucket)
        else:
            await self._set_lifecycle(bucket)
        await self._sweep(bucket)

    async def _is_listed(self, bucket: str) -> bool:
        """Say whether the store lists a bucket among those of our key."""
        name = bucket.rpartition(":")[2]  # a tenant stands for all of its buckets, whose names are listed without it
        try:
            answer = await self._call("list_buckets", Prefix=name, MaxBuckets=1000)
        except Unavailable:
            return False  # it may be told by other means
        return any(each.get("Name") == name for each in answer.get("Buckets", []))

    async def _require_own(self, bucket: str) -> None:
        """See that a bucket is our key's own: its name is all that somebody else needs to make it before us.

        Raises:
            Unavailable: It is not.
        """
        if not self._settings.check_bucket_owner or await self._is_listed(bucket):
            return
        try:
            if await self._create(bucket):
                return
        except _Refused:
            pass  # then it is not ours to make
        log.warning("s3.bucket.foreign", bucket=bucket)
        raise Unavailable(
            f"The object store {self._settings.name} has a bucket {bucket} that is not its key's own: whoever has made"
            " it could read and exchange what is put there."
        )

    async def _create(self, bucket: str) -> bool:
        """Make a bucket, and say whether it is ours now; False if there is one, and the store does not say whose.

        Raises:
            Unavailable: The store does not answer, or refuses.
        """
        options: dict[str, Any] = {}
        if ".amazonaws.com" in self._endpoint and self._settings.region != "us-east-1":
            options["CreateBucketConfiguration"] = {"LocationConstraint": self._settings.region}
        try:
            await self._call("create_bucket", Bucket=bucket, **options)
        except _Refused as error:
            if error.code not in _TAKEN:
                raise
            return error.code == _OWN
        return True

    async def _set_lifecycle(self, bucket: str) -> None:
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
        oldest = time.time() - self._settings.ttl
        try:
            answer = await self._call("list_multipart_uploads", Bucket=bucket)
        except Unavailable:
            return  # some stores answer so when there is none
        for upload in answer.get("Uploads", [])[:MAX_SWEPT]:
            begun, key, upload_id = upload.get("Initiated"), upload.get("Key"), upload.get("UploadId")
            if isinstance(begun, datetime) and begun.timestamp() < oldest and key and upload_id:
                await self.abort_upload(bucket, key, upload_id)

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
                # Ceph's ``tenant:bucket`` is not a name that AWS would take.
                client.meta.events.unregister("before-parameter-build.s3", handlers.validate_bucket_name)
                self._opened = client
            return self._opened

    async def _call(self, operation: str, **parameters: Any) -> Any:
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await getattr(await self._client(), operation)(**parameters)
        except ClientError as error:
            said = str(error.response.get("Error", {}).get("Code", "unknown"))
            code = clipped(one_line(said), MAX_CODE, self._settings.secret_access_key.get_secret_value())
            kind = _NoBucket if code in ("404", "NoSuchBucket") else _Refused
            raise kind(self._settings.name, operation, code) from error
        except SSLError as error:
            raise Unavailable(
                f"The object store {self._settings.name} shows no certificate that is trusted here."
            ) from error
        except (BotoCoreError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            # The last four: botocore's parsers take an answer for what it should be. TimeoutError is an OSError.
            # The words of botocore name the private URL.
            raise Unavailable(f"The object store {self._settings.name} does not answer.") from error


class _Session(AIOHTTPSession):  # type: ignore[misc]
    """HTTP that trusts whom this machine trusts, as all else here does; botocore has a list of its own.

    Answers are bounded, and redirects are not followed.
    """

    def _get_ssl_context(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    async def _get_session(self, proxy_url: str | None) -> aiohttp.ClientSession:
        async with self._sessions_lock:
            session: aiohttp.ClientSession | None = self._sessions.get(proxy_url)
            if session is None:
                session = await self._exit_stack.enter_async_context(
                    aiohttp.ClientSession(
                        connector=await self._create_connector(proxy_url),
                        timeout=self._timeout,
                        skip_auto_headers={"Content-Type"},
                        auto_decompress=False,
                        cookie_jar=aiohttp.DummyCookieJar(),
                        response_class=_Bounded,
                        middlewares=(_stay,),
                        max_headers=MAX_HEADERS,
                    )
                )
                self._sessions[proxy_url] = session
            return session


class _Bounded(aiohttp.ClientResponse):
    """An answer that is read to its bound and no further."""

    async def read(self) -> bytes:
        if self._body is None:
            content = bytearray()
            async for block in self.content.iter_chunked(65536):
                content += block
                if len(content) > MAX_ANSWER:
                    self.close()
                    raise aiohttp.ClientPayloadError(f"more than {MAX_ANSWER} bytes")
            self._body = bytes(content)
        return self._body


async def _stay(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Take no redirect: it would carry a signed request to wherever it points."""
    response = await handler(request)
    if 300 <= response.status < 400 and "Location" in response.headers:
        response.close()
        raise aiohttp.ClientPayloadError("redirected")
    return response


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
