from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator

import pytest

from hpcgate.outbound.client import BadAddress, HttpClient, ServiceError, TooSlow, Unreachable, Unusable
from tests.outbound.lies import LIES, answer, liar, says

LIMIT = 256 * 1024
SECONDS = 0.7


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    made = HttpClient(connections=4)
    yield made
    await made.close()


@pytest.mark.parametrize("name", LIES)
async def test_a_lie_is_an_error_of_ours_in_time_and_memory(http: HttpClient, name: str) -> None:
    """Whatever a service sends, the answer is a `ServiceError`, soon, and the loop goes on for others."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    async with liar(LIES[name]) as service:
        beside = asyncio.create_task(others())
        with pytest.raises(ServiceError):
            await http.ask("POST", service.url, seconds=SECONDS, most=LIMIT, headers={"Authorization": "x"}, json={})
        beside.cancel()
        assert len(service.asked) == 1
        assert b"accept-encoding: identity" in service.asked[0].lower()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 * 1024, "KiB"


@pytest.mark.parametrize(("size", "fits"), [(LIMIT, True), (LIMIT + 1, False)])
async def test_a_body_may_be_as_long_as_the_bound(http: HttpClient, size: int, fits: bool) -> None:
    async with liar(says(answer(b"x" * size))) as service:
        if fits:
            got = await http.ask("GET", service.url, seconds=30, most=LIMIT)
            assert len(got.content) == size
            return
        with pytest.raises(Unusable, match=f"more than {LIMIT} bytes"):
            await http.ask("GET", service.url, seconds=30, most=LIMIT)


@pytest.mark.parametrize(
    ("location", "followed"),
    [
        ("/elsewhere", True),
        ("http://127.0.0.1:{port}/x", True),
        ("http://localhost:{port}/x", False),
        ("http://169.254.169.254/latest", False),
        ("//other.invalid/x", False),
        ("file:///etc/passwd", False),
        ("ftp://127.0.0.1/x", False),
        ("javascript:x", False),
        ("http://[bad", False),
        ("", False),
    ],
)
async def test_redirects_are_followed_where_asked_for_and_to_the_same_host_only(
    http: HttpClient, location: str, followed: bool
) -> None:
    async def lie(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here = location.replace("{port}", service.url.rpartition(":")[2])
        first = len(service.asked) == 1
        writer.write(answer(b"", "307 Away", f"Location: {here}") if first else answer(b"there"))

    async with liar(lie) as service:
        secret = {"Authorization": "Bearer secret"}
        got = await http.ask("POST", service.url, seconds=30, most=LIMIT, headers=secret)
        assert got.status == 307
        assert len(service.asked) == 1
        service.asked.clear()
        if followed:
            assert (await http.ask("GET", service.url, seconds=30, most=LIMIT, redirects=2)).content == b"there"
        else:
            with pytest.raises(Unusable, match="redirected to"):
                await http.ask("GET", service.url, seconds=30, most=LIMIT, redirects=2)
            assert len(service.asked) == 1


async def test_redirects_have_an_end(http: HttpClient) -> None:
    async with liar(says(answer(b"", "302 Found", "Location: /"))) as service:
        with pytest.raises(Unusable, match="too often"):
            await http.ask("GET", service.url, seconds=30, most=LIMIT, redirects=3)
        assert len(service.asked) == 4


async def test_an_answer_that_nobody_asked_for_answers_nobody(http: HttpClient) -> None:
    """A second answer lies ready on the connection that is kept: the next request must not get it."""
    both = answer(b"first") + answer(b"unsolicited")

    async def lie(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(both if len(service.asked) == 1 else answer(b"second"))

    async with liar(lie) as service:
        assert (await http.ask("GET", service.url, seconds=30, most=LIMIT)).content == b"first"
        assert (await http.ask("GET", service.url, seconds=30, most=LIMIT)).content == b"second"


async def test_a_late_answer_that_nobody_asked_for_answers_nobody(http: HttpClient) -> None:
    later = asyncio.Event()
    written = asyncio.Event()

    async def lie(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(service.asked) > 1:
            writer.write(answer(b"second"))
            return
        writer.write(answer(b"first"))
        await later.wait()
        writer.write(answer(b"unsolicited"))
        await writer.drain()
        written.set()

    async with liar(lie) as service:
        assert (await http.ask("GET", service.url, seconds=30, most=LIMIT)).content == b"first"
        later.set()
        await written.wait()
        await asyncio.sleep(0.2)  # over the loopback, and through the loop
        assert (await http.ask("GET", service.url, seconds=30, most=LIMIT)).content == b"second"


async def test_one_service_that_hangs_holds_no_other_and_its_own_callers_no_longer_than_their_time() -> None:
    hanging, well = HttpClient(connections=2), HttpClient(connections=2)
    try:
        async with (
            asyncio.timeout(120),
            liar(LIES["silence"]) as silent,
            liar(says(answer(b"ok"))) as good,
        ):
            asked = [asyncio.create_task(hanging.ask("GET", silent.url, seconds=1.5, most=LIMIT)) for _ in range(20)]
            for _ in range(20):
                assert (await well.ask("GET", good.url, seconds=30, most=LIMIT)).content == b"ok"
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(result) for result in results} == {TooSlow}
            assert len(silent.asked) < 20, "the others waited for a connection, and no longer than that"
    finally:
        await hanging.close()
        await well.close()


@pytest.mark.parametrize(
    "url", ["", "idp.example.org/x", "ftp://127.0.0.1/", "http://", "http://[x", "file:///etc/hosts"]
)
async def test_an_address_that_is_none(http: HttpClient, url: str) -> None:
    with pytest.raises((BadAddress, Unusable)):
        await http.ask("GET", url, seconds=5, most=LIMIT)


async def test_errors_say_nothing_of_what_was_sent(http: HttpClient) -> None:
    """Not even in what they were caused by: a traceback shows that, too."""
    for name in ("no status", "endless headers", "gzip bomb"):
        async with liar(LIES[name]) as service:
            with pytest.raises(ServiceError) as caught:
                await http.ask(
                    "POST", service.url, seconds=5, most=LIMIT, headers={"Authorization": "Bearer s3cret"}, json={}
                )
            assert caught.value.__cause__ is None
            assert "s3cret" not in repr(caught.value)
    with pytest.raises(Unreachable):
        await http.ask("GET", "http://127.0.0.1:1/", seconds=5, most=LIMIT)
