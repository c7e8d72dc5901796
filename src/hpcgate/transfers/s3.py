"""Transfers through an S3 object store."""

import hashlib
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

from hpcgate.auth import Principal
from hpcgate.config import TransferSettings
from hpcgate.errors import BadRequest, Forbidden
from hpcgate.ssh.files.remote_path import RemotePath
from hpcgate.transfers.base import Directives, Download, Script, Service, Started, Transfer, TransferContext, Upload
from hpcgate.transfers.ends import check_target, size_of_source
from hpcgate.transfers.presigning import SIGNATURE, Signer
from hpcgate.transfers.s3_jobs import EGRESS, INGRESS
from hpcgate.transfers.s3_settings import GIB, S3Settings
from hpcgate.transfers.store import Store

S3_MOST_PARTS = 10_000
S3_MOST_BYTES = 5 * 1024 * GIB


def part_count(size: int, part_size: int) -> int:
    """Return the number of parts of a file; an empty one has one, which is empty.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html

    Raises:
        BadRequest: It would be more than S3 takes.
    """
    most = min(S3_MOST_BYTES, S3_MOST_PARTS * part_size)
    if size > most:
        raise BadRequest(f"A file of {size} bytes is too large for a transfer by s3, which takes {most} bytes at most.")
    return max(1, -(-size // part_size))


def bucket_name(username: str, tenant: str | None = None) -> str:
    """Return the name of a user's bucket: a valid one for any user name, and never that of another user.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    """
    readable = re.sub(r"[^a-z0-9]+", "-", username.lower())[:24].strip("-") or "user"
    digest = hashlib.sha256(username.encode()).hexdigest()[:20]
    name = f"hpcgate-{readable}-{digest}"
    return f"{tenant}:{name}" if tenant else name


def object_key(path: RemotePath) -> str:
    """Return a new key that ends in the file's own name."""
    name = "".join(char if char.isprintable() else "_" for char in path.text.rpartition("/")[2])
    # Clients resolve dots in a URL before they ask for it (RFC 3986, section 5.2.4).
    return f"{uuid.uuid4()}/{'_' if name in ('', '.', '..') else name}"


class S3Transfer(Transfer):
    """Uploads and downloads by presigned URLs.

    The user and a job of the user's meet at an object in the user's bucket: one puts it there in parts, the other takes
    it from there. The gateway itself carries no byte of it.
    """

    Settings: ClassVar[type[TransferSettings]] = S3Settings
    method: ClassVar[str] = "s3"
    service: ClassVar[Service | None] = Service(
        "s3",
        "S3",
        "the object store {name} answers and accepts the key",
        "see data_operation.data_transfer: private_url, region, access_key_id and secret_access_key",
    )
    keyed: ClassVar[bool] = True

    def __init__(self, settings: S3Settings, context: TransferContext) -> None:
        self._settings = settings
        self._context = context
        self._store = Store(settings.private_url.get_secret_value(), settings)
        self._signer = Signer(
            settings.access_key_id.get_secret_value(),
            settings.secret_access_key.get_secret_value(),
            settings.region,
            settings.ttl,
        )

    async def upload(self, principal: Principal, upload: Upload) -> Started:
        """Open a multipart upload for the user and submit the job that fetches the object once it is whole.

        Raises:
            BadRequest: ``fileSize`` is missing or too large, or the target cannot take a file.
            Unavailable: The store does not answer.
        """
        if upload.file_size is None:
            raise BadRequest("fileSize is required for an upload by s3.")
        part_size = self._settings.multipart.max_part_size
        parts = part_count(upload.file_size, part_size)
        await check_target(self._context.pool, principal, upload.path)
        place = await self._open(principal, upload.path)
        urls = Urls(self._signer, place, self._settings.private_url.get_secret_value())
        values = {
            **self._common(upload.file_size, part_size, parts),
            "wait": str(int(self._settings.wait_timeout)),
            "poll": str(self._settings.poll_interval),
            "head_url": urls.plain("HEAD"),
            "get_url": urls.plain("GET"),
            "delete_url": urls.plain("DELETE"),
            "abort_url": urls.of_upload("DELETE"),
            "list_url": urls.of_upload("GET"),
        }
        public = Urls(self._signer, place, self._settings.public_url)
        directives = Directives(
            self.method,
            {
                "parts_upload_urls": tuple(public.part(number) for number in range(1, parts + 1)),
                "complete_upload_url": public.of_upload("POST"),
                "max_part_size": part_size,
            },
        )
        script = Script("transfer-s3-in", values, INGRESS, {"target": upload.path})
        return await self._run(principal, script, upload, place, directives)

    async def download(self, principal: Principal, download: Download) -> Started:
        """Submit the job that sends the file to the store, and return where it will be.

        Raises:
            BadRequest: The file is none, or too large.
            PathNotFound, PermissionDenied: The file cannot be read.
            Unavailable: The store does not answer.
        """
        size = await size_of_source(self._context.pool, principal, download.path)
        multipart = self._settings.multipart
        parts = part_count(size, multipart.max_part_size)
        place = await self._open(principal, download.path)
        urls = Urls(self._signer, place, self._settings.private_url.get_secret_value())
        stem, signatures = urls.parts(parts)
        values = {
            **self._common(size, multipart.max_part_size, parts),
            "split": "yes" if multipart.use_split else "",
            "tmp_folder": multipart.tmp_folder,
            "part_url": stem,
            "signatures": " ".join(signatures),
            "complete_url": urls.of_upload("POST"),
            "abort_url": urls.of_upload("DELETE"),
            "head_url": urls.plain("HEAD"),
        }
        public = Urls(self._signer, place, self._settings.public_url)
        directives = Directives(self.method, {"download_url": public.plain("GET")})
        script = Script("transfer-s3-out", values, EGRESS, {"source": download.path})
        return await self._run(principal, script, download, place, directives)

    async def ping(self) -> None:
        """Return if the store answers to our key."""
        await self._store.ping()

    async def close(self) -> None:
        """Close the connections to the store."""
        await self._store.close()

    def _common(self, size: int, part_size: int, parts: int) -> dict[str, str]:
        return {
            "size": str(size),
            "part_size": str(part_size),
            "parts": str(parts),
            "parallel": str(self._settings.multipart.parallel_runs),
            "check": "yes" if self._settings.check_etags else "",
        }

    async def _open(self, principal: Principal, path: RemotePath) -> "ObjectUpload":
        bucket = bucket_name(principal.username, self._settings.tenant)
        key = object_key(path)
        return ObjectUpload(bucket, key, await self._store.open_upload(bucket, key), datetime.now(UTC))

    async def _run(
        self,
        principal: Principal,
        script: Script,
        asked: Upload | Download,
        place: "ObjectUpload",
        directives: Directives,
    ) -> Started:
        try:
            return await self._context.start(principal, script, asked.account, asked.key, directives)
        except BaseException as error:
            # Without a job nobody would ever come for it. With a key, one may be found to be there, and then its URLs
            # are asked for again: only what is certain to have failed ends the upload.
            if asked.key is None or isinstance(error, BadRequest | Forbidden):
                await self._store.abort_upload(place.bucket, place.key, place.upload_id)
            raise


@dataclass(frozen=True, slots=True)
class ObjectUpload:
    """An object on its way: where, by which multipart upload, and when its URLs begin to be valid."""

    bucket: str
    key: str
    upload_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Urls:
    """Presigned URLs for one object, as seen from one side."""

    signer: Signer
    place: ObjectUpload
    endpoint: str

    def plain(self, method: str) -> str:
        """Return a URL for the object itself."""
        return self._presign(method, {})

    def of_upload(self, method: str) -> str:
        """Return a URL for the multipart upload: POST completes it, DELETE aborts it, GET lists its parts."""
        return self._presign(method, {"uploadId": self.place.upload_id})

    def part(self, number: int) -> str:
        """Return the URL to put a part to."""
        return self._presign("PUT", {"partNumber": str(number), "uploadId": self.place.upload_id})

    def parts(self, count: int) -> tuple[str, list[str]]:
        """Return what the URLs of all parts have in common, and the signature of each.

        Part ``n`` is at ``{common}&partNumber={n}&X-Amz-Signature={signature}``: the order of a query does not matter.
        """
        urls = [self.part(number) for number in range(1, count + 1)]
        common = urls[0].partition(SIGNATURE)[0].replace("&partNumber=1&", "&", 1)
        return common, [url.partition(SIGNATURE)[2] for url in urls]

    def _presign(self, method: str, query: dict[str, str]) -> str:
        place = self.place
        return self.signer.presign(method, self.endpoint, place.bucket, place.key, place.at, query)
