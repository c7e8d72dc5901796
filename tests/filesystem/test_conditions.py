"""Conditions of requests, and the digests of bodies."""

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.errors import BadRequest, PreconditionFailed
from hpcgate.filesystem.conditions import ConditionResult, Conditions, Validator, http_date, parse_date, parse_tags
from hpcgate.filesystem.digests import Digests, parse_digests
from hpcgate.filesystem.slots import PathLocks
from hpcgate.ssh.files.protocol import Attributes

NOW = 1_700_000_000
FILE = Validator('"a-b-c"', NOW)


def conditions(**headers: str) -> Conditions:
    return Conditions.of({name.replace("_", "-"): value for name, value in headers.items()})


def test_validator() -> None:
    """The tag and date of a file follow from its attributes."""
    attributes = Attributes(
        mode=0o100644, ino=255, dev=1, nlink=1, uid=0, gid=0, size=16, atime=0, ctime=0, mtime=NOW, fraction=10
    )
    validator = Validator.of(attributes)
    assert validator.etag == f'"ff-10-{NOW:x}-a"'
    assert validator.headers == {"ETag": validator.etag, "Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT"}


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ('"a"', [(False, '"a"')]),
        ('W/"a" , "b,c","",', [(True, '"a"'), (False, '"b,c"'), (False, '""')]),
        ('a, "b"', []),
        ('"a" "b"', []),
        ("", []),
        ("*", []),
    ],
)
def test_parse_tags(text: str, tags: list[tuple[bool, str]]) -> None:
    """Lists of tags are parsed as RFC 9110 says."""
    assert parse_tags(text) == tags


@pytest.mark.parametrize("text", ["", "x", "Tue, 99 Nov 2023 22:13:20 GMT", "0", None])
def test_dates_that_are_none(text: str | None) -> None:
    assert parse_date(text) is None


@given(st.integers(0, 253402300799))
def test_dates(seconds: int) -> None:
    """Each date is read as it is written."""
    assert parse_date(http_date(seconds)) == seconds


@given(st.tuples(*[st.text()] * 5))
def test_any_headers_are_survived(texts: tuple[str, ...]) -> None:
    some = Conditions(*texts)
    some.range_holds(FILE)
    for judge in (some.for_reading, some.for_writing):
        with contextlib.suppress(PreconditionFailed):
            judge(FILE)


def test_dates_out_of_range_are_clamped() -> None:
    assert http_date(-5) == http_date(0)
    assert http_date(1 << 70).endswith("9999 23:59:59 GMT")


def test_if_none_match_wins_over_a_date() -> None:
    both = conditions(if_none_match='"x"', if_modified_since=http_date(NOW))
    assert both.for_reading(FILE) is ConditionResult.GO_ON
    assert conditions(if_modified_since=http_date(NOW)).for_reading(FILE) is ConditionResult.NOT_MODIFIED


def test_if_match_wins_over_a_date() -> None:
    assert conditions(if_match=FILE.etag, if_unmodified_since=http_date(0)).for_reading(FILE) is ConditionResult.GO_ON
    with pytest.raises(PreconditionFailed):
        conditions(if_unmodified_since=http_date(NOW - 1)).for_reading(FILE)


def test_writing() -> None:
    """The conditions of a request decide whether it may write."""
    conditions().for_writing(None)
    conditions(if_none_match="*").for_writing(None)
    conditions(if_match="*").for_writing(FILE)
    for some, state in (
        (conditions(if_none_match="*"), FILE),
        (conditions(if_match="*"), None),
        (conditions(if_match=FILE.etag), None),
        (conditions(if_match=f"W/{FILE.etag}"), FILE),
        (conditions(if_unmodified_since=http_date(NOW)), None),
    ):
        with pytest.raises(PreconditionFailed):
            some.for_writing(state)


def test_if_range() -> None:
    """A range holds only for the file that the client has a part of."""
    assert conditions().range_holds(FILE)
    assert conditions(if_range=FILE.etag).range_holds(FILE)
    assert conditions(if_range=http_date(NOW)).range_holds(FILE)
    for other in (f"W/{FILE.etag}", '"x"', http_date(NOW - 1), http_date(NOW + 1), "nonsense"):
        assert not conditions(if_range=other).range_holds(FILE)


def field(content: bytes, name: str = "sha-256") -> str:
    return f"{name}=:{base64.b64encode(hashlib.new(name.replace('-', ''), content).digest()).decode()}:"


async def through(digests: Digests, *blocks: bytes) -> bytes:
    async def content() -> AsyncIterator[bytes]:
        for block in blocks:
            yield block

    return b"".join([block async for block in digests.watch(content())])


async def test_digests() -> None:
    """Content is checked against each digest that comes with it."""
    assert await through(Digests(parse_digests([None, ""])), b"x") == b"x"
    header = f"{field(b'xy')};q=1, {field(b'xy', 'sha-512')}, unixsum=:AAA=:"
    assert await through(Digests(parse_digests([header, field(b"xy")])), b"x", b"y") == b"xy"
    for headers in ([field(b"x")], [field(b"xy"), field(b"x")], [field(b"xy", "sha-512"), field(b"x")]):
        with pytest.raises(BadRequest):
            await through(Digests(parse_digests(headers)), b"x", b"y")


@pytest.mark.parametrize(
    "header", ["x", "sha-256", "sha-256=abc", "sha-256=:abc", "sha-256=:A:", "sha-256=:AAAA:", ","]
)
def test_malformed_digests(header: str) -> None:
    """A digest that is malformed is 400."""
    with pytest.raises(BadRequest):
        parse_digests([header])


async def test_path_locks() -> None:
    """Whoever writes a path waits for whoever writes it already."""
    locks = PathLocks()
    order: list[int] = []

    async def work(number: int, key: str) -> None:
        async with locks.hold(key):
            order.append(number)
            await asyncio.sleep(0.01)
            order.append(number)

    waiting = asyncio.create_task(work(9, "a"))
    await asyncio.gather(work(1, "a"), work(2, "a"))
    await waiting
    assert order[::2] == order[1::2]
    cancelled = asyncio.create_task(work(3, "a"))
    async with locks.hold("a"):
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
    assert len(locks) == 0
