"""An object store that lies in XML, in headers and in redirects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

import pytest
from aiobotocore.config import AioConfig

from hpcgate.errors import Unavailable
from hpcgate.transfers.s3_settings import S3Settings
from hpcgate.transfers.store import MAX_ANSWER, Store
from tests.outbound.lies import Liar, Lie, answer, liar, says

SECRET = "a-secret-of-the-gateways-own"
BEGUN = "<InitiateMultipartUploadResult><UploadId>u-1</UploadId></InitiateMultipartUploadResult>"
_LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))

XML: Mapping[str, str] = MappingProxyType(
    {
        "nothing": "",
        "not XML": "{}",
        "cut off": "<InitiateMultipartUploadResult><UploadId>",
        "another document": "<a/>",
        "no id": "<InitiateMultipartUploadResult/>",
        "an empty id": "<InitiateMultipartUploadResult><UploadId/></InitiateMultipartUploadResult>",
        "a million laughs": f'<!DOCTYPE l [<!ENTITY l0 "ha">{_LAUGHS}]><a>&l11;</a>',
        "a file": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        "deep": "<a>" * 100_000,
        "deep and whole": "<a>" * 20_000 + "</a>" * 20_000,
        "wide": "<r>" + "<a/>" * 100_000 + "</r>",
        "one long attribute": f'<a x="{"y" * 500_000}"/>',
        "NULs": "<a>\0</a>",
    }
)


@asynccontextmanager
async def store(lie: Lie, **more: object) -> AsyncIterator[tuple[Store, Liar]]:
    async with liar(lie) as service:
        settings = {
            "service_type": "s3", "name": "store", "private_url": service.url, "public_url": service.url,
            "access_key_id": "AK", "secret_access_key": SECRET, "region": "eu", "ttl": 60, "timeout": 30, **more,
        }  # fmt: skip
        it = Store(service.url, S3Settings.model_validate(settings))
        try:
            yield it, service
        finally:
            await it.close()


@pytest.mark.parametrize("name", XML)
async def test_a_lie_in_xml_is_an_error_of_its_own_in_time(name: str) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    async with store(says(answer(XML[name].encode()))) as (it, service), asyncio.timeout(300):
        beside = asyncio.create_task(others())
        with pytest.raises(Unavailable) as caught:
            await it.open_upload("bucket", "key")
        beside.cancel()
        assert service.url not in caught.value.message
        assert SECRET not in caught.value.message


@pytest.mark.parametrize("more", [0, 1])
async def test_an_answer_has_a_bound(more: int) -> None:
    body = BEGUN.ljust(MAX_ANSWER + more).encode()

    async def lie(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"" if service.asked[-1].startswith(b"HEAD") else body))

    async with store(lie) as (it, service):
        if not more:
            assert await it.open_upload("bucket", "key") == "u-1"
            return
        with pytest.raises(Unavailable, match="does not answer"):
            await it.open_upload("bucket", "key")


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent"])
@pytest.mark.parametrize("region", ["", "x-amz-bucket-region: elsewhere"])
async def test_a_redirect_is_not_followed(status: str, region: str) -> None:
    """Not to another host, whatever botocore would make of a region, since the request is signed."""
    async with liar(says(answer(b""))) as elsewhere:
        headers = (f"Location: {elsewhere.url}/x", *([region] if region else []))
        body = b"<Error><Code>PermanentRedirect</Code><Endpoint>" + elsewhere.url.encode() + b"</Endpoint></Error>"
        async with store(says(answer(body, status, *headers))) as (it, service):
            with pytest.raises(Unavailable):
                await it.open_upload("bucket", "key")
            assert service.asked
        assert not elsewhere.asked


@pytest.mark.parametrize("code", ["x" * 100_000, "a\nb" * 50, SECRET, "\u202e\u0007"])
async def test_what_it_says_is_cut_and_on_one_line(code: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".replace("\u0007", "").encode()
    async with store(says(answer(body, "403 Forbidden"))) as (it, _):
        with pytest.raises(Unavailable) as caught:
            await it.ping()
    message = caught.value.message
    assert len(message) < 300
    assert message.isprintable()
    assert SECRET not in message


async def test_a_list_of_uploads_that_lies_keeps_nobody_waiting() -> None:
    """Uploads without a name or a time, and more of them than a sweep is to abort."""
    whole = "<Upload><Key>k</Key><UploadId>u</UploadId><Initiated>2001-01-01T00:00:00Z</Initiated></Upload>"
    uploads = [
        "<Upload/>",
        "<Upload><Key>k</Key></Upload>",
        "<Upload><Initiated>2001-01-01T00:00:00Z</Initiated></Upload>",
    ]
    listed = f"<ListMultipartUploadsResult>{''.join([*uploads, *[whole] * 500])}</ListMultipartUploadsResult>"
    heads: list[bytes] = []

    async def lie(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = service.asked[-1]
        heads.append(head.partition(b" ")[0])
        if head.startswith(b"HEAD"):
            writer.write(answer(b""))
        else:
            writer.write(answer((BEGUN if head.startswith(b"POST") else listed).encode()))

    async with store(lie) as (it, service):
        assert await it.open_upload("bucket", "key") == "u-1"
    assert 0 < heads.count(b"DELETE") <= 100


async def test_a_store_that_hangs_has_so_many_connections_and_no_more() -> None:
    came = asyncio.Semaphore(0)
    most = AioConfig().max_pool_connections

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.release()
        await asyncio.Event().wait()

    async with store(hang) as (it, service), asyncio.timeout(300):
        asking = [asyncio.create_task(it.ping()) for _ in range(3 * most)]
        for _ in range(most):
            await came.acquire()
        # Whoever had no connection would have one by now.
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(service.asked) == most
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


BUCKET = "hpcgate-alice-0123456789abcdef0123"


def buckets(*names: str) -> str:
    listed = "".join(f"<Bucket><Name>{name}</Name></Bucket>" for name in names)
    return f"<ListAllMyBucketsResult><Owner><ID>us</ID></Owner><Buckets>{listed}</Buckets></ListAllMyBucketsResult>"


def refused(code: str) -> str:
    return f"<Error><Code>{code}</Code></Error>"


THERE, LACKING = "200 OK", "404 Not Found"
OK, DENIED, OWN, TAKEN = "", refused("AccessDenied"), refused("BucketAlreadyOwnedByYou"), refused("BucketAlreadyExists")

BUCKETS: dict[str, tuple[bool, str, str, str]] = {
    # what is done, whether it is there, who has which, what is said to whoever makes it
    "new": (True, LACKING, buckets(), OK),
    "listed": (True, THERE, buckets(BUCKET), TAKEN),
    "listed among others": (True, THERE, buckets("a", BUCKET, "z"), TAKEN),
    "too many are listed, and it is there already": (True, THERE, buckets(*["x" * 60] * 20_000), OWN),
    "too many are listed, and it may be made again": (True, THERE, buckets(*["x" * 60] * 20_000), OK),
    "no list is given": (True, THERE, DENIED, OWN),
    "another transfer has made it meanwhile": (True, LACKING, buckets(BUCKET), TAKEN),
    "somebody else's": (False, THERE, buckets("other"), TAKEN),
    "somebody else's, and no list is given": (False, THERE, DENIED, TAKEN),
    "somebody else's, and none may be made": (False, THERE, buckets(f"{BUCKET}-2"), DENIED),
    "somebody else has made it meanwhile": (False, LACKING, buckets(), TAKEN),
    "somebody else's, too many are listed": (False, THERE, buckets(*["x" * 60] * 20_000), TAKEN),
    "a list that lies": (
        False,
        THERE,
        "<ListAllMyBucketsResult><Buckets><Bucket/></Buckets></ListAllMyBucketsResult>",
        TAKEN,
    ),
}


@pytest.mark.parametrize("kind", BUCKETS)
@pytest.mark.parametrize("tenant", ["", "institute:"])
async def test_a_bucket_that_somebody_else_has_made_is_not_used(kind: str, tenant: str) -> None:
    """Whoever knows a user's name can make that bucket first, let our key use it, and read all that is put there."""
    used, there, listed, made = BUCKETS[kind]
    begun: list[str] = []

    async def lie(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target = service.asked[-1].decode().split(" ")[:2]
        status, body = THERE, ""
        if method == "HEAD":
            status = there
        elif method == "PUT" and "lifecycle" not in target:
            status, body = ("409 Conflict" if made else THERE), made
        elif target.partition("?")[0] == "/":
            status, body = ("403 Forbidden" if listed == DENIED else THERE), listed
        elif method == "POST":
            begun.append(target)
            body = BEGUN
        else:
            body = "<ListMultipartUploadsResult/>"
        writer.write(answer(b"" if method == "HEAD" else body.encode(), status))

    async with store(lie) as (it, service):
        if used:
            assert await it.open_upload(tenant + BUCKET, "key") == "u-1"
        else:
            with pytest.raises(Unavailable, match="not its key's own"):
                await it.open_upload(tenant + BUCKET, "key")
    assert bool(begun) == used


async def test_a_store_whose_buckets_others_make_is_used_if_the_operator_says_so() -> None:
    async def lie(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = service.asked[-1].partition(b" ")[0]
        writer.write(answer(b"" if method == b"HEAD" else BEGUN.encode()))

    async with store(lie, check_bucket_owner=False) as (it, service):
        assert await it.open_upload(BUCKET, "key") == "u-1"
        assert [head.partition(b" ")[0] for head in service.asked] == [b"HEAD", b"GET", b"POST"]
