"""Directories of any size: every way to reach files tells and counts the same, at once, in pages and in lines."""

from __future__ import annotations

import json
import os
import tempfile
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC
from typing import Any

import pytest
from pydantic import ValidationError

from hpcgate.errors import BadRequest, PathNotFound, TooLarge
from hpcgate.filesystem import ls
from hpcgate.filesystem.base import Limits, Page
from hpcgate.filesystem.ls import Ls
from hpcgate.filesystem.models import File
from hpcgate.ssh.files.protocol import ROW, Entry
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.session import Session
from tests.filesystem.remote import WAYS, Place, keys, nodes, opened, place, sshd
from tests.ssh.nodes import LoginNodes, principal, settings

__all__ = ["keys", "nodes", "place", "sshd"]

ODD = (b"plain", b" a b", b"new\nline", b"back\\slash", b'quo"te', b"\xff\xfe", b"-rf", b"x" * 255, b".hidden")
MANY = 3000
OPTIONS: tuple[dict[str, bool], ...] = (
    {},
    {"showHidden": True},
    {"numericUid": True, "showHidden": True},
    {"recursive": True, "showHidden": True},
    {"dereference": True},
    {"recursive": True, "dereference": True},
)


@pytest.fixture(params=[*WAYS, "confined"])
async def session(request: Any, nodes: LoginNodes, sshd: Any, keys: Any) -> AsyncIterator[Session]:
    async with opened(request.param, nodes, sshd, keys) as leased:
        yield leased


def asked(path: bytes, most: int = 10**9, **given: Any) -> Ls:
    return Ls(Ls.Parameters.model_validate({"path": os.fsdecode(path), **given}), Limits(most))


async def whole_of(session: Session, path: bytes, most: int = 10**9, **given: Any) -> list[File]:
    found = await asked(path, most, **given).run(session)
    assert isinstance(found, list)
    return found


async def page_of(session: Session, path: bytes) -> Page:
    found = await asked(path, limit=5).run(session)
    assert isinstance(found, Page)
    return found


async def pages(session: Session, path: bytes, limit: int, **given: Any) -> list[Any]:
    found: list[Any] = []
    cursor: dict[str, Any] = {}
    while True:
        page = await asked(path, limit=limit, **given, **cursor).run(session)
        assert isinstance(page, Page)
        assert len(page.output) <= limit
        found += page.output
        if page.next_cursor is None:
            return found
        assert len(page.output) == limit
        cursor = {"cursor": page.next_cursor}


async def lines(session: Session, path: bytes, **given: Any) -> list[dict[str, Any]]:
    said = b"".join([block async for block in asked(path, **given).lines(session)])
    assert said == b"" or said.endswith(b"\n")
    return [json.loads(line) for line in said.splitlines()]


def tree(place: Place) -> bytes:
    place.run("mkdir", "-p", "tree/below/deeper", "tree/empty")
    for name in ODD:
        place.write(b"tree/" + name, b"12345")
        place.write(b"tree/below/" + name)
    place.run("ln", "-s", "below", "tree/link")
    place.run("ln", "-s", "nowhere", "tree/dangling")
    return place / "tree"


async def test_pages_and_lines_tell_what_the_whole_listing_does(session: Session, place: Place) -> None:
    path = tree(place)
    for given in OPTIONS:
        everything = await whole_of(session, path, **given)
        whole = [file.model_dump(by_alias=True) for file in everything]
        for limit in (1, 3, len(whole), 10_000):
            if limit > 1 or len(given) == 0:
                found = await pages(session, path, limit, **given)
                assert [file.model_dump(by_alias=True) for file in found] == whole, (given, limit)
        told = await lines(session, path, **given)
        key = json.dumps
        assert sorted(told, key=key) == sorted(whole, key=key), given


async def test_one_file_and_none(session: Session, place: Place) -> None:
    path = place.write("file", b"1")
    (one,) = await lines(session, path)
    assert one["name"] == os.fsdecode(path)
    assert (await page_of(session, path)).next_cursor is None
    place.run("mkdir", "empty")
    assert await lines(session, place / "empty") == []
    assert (await page_of(session, place / "empty")).output == []
    for ask in (asked(place / "none", limit=5).run(session), lines(session, place / "none")):
        with pytest.raises(PathNotFound, match="No such file or directory"):
            await ask
    with pytest.raises(BadRequest, match="cursor"):
        await asked(path, cursor="eA==").run(session)
    with pytest.raises(BadRequest, match="pages"):
        await lines(session, path, limit=5)


async def test_every_way_counts_the_same(session: Session, place: Place) -> None:
    path = tree(place)
    for given in ({"showHidden": True}, {"showHidden": True, "recursive": True}):
        everything = await (await session.files()).listing(path, recursive="recursive" in given)
        count = sum(ROW + len(entry.name) + len(entry.link_target or b"") for entry in everything)
        assert len(await whole_of(session, path, count, **given)) == len(everything)
        with pytest.raises(TooLarge, match="ndjson"):
            await asked(path, count - 1, **given).run(session)


async def test_a_large_directory_comes_in_parts(session: Session, place: Place) -> None:
    place.run(
        "sh",
        "-c",
        f"mkdir many && cd many && seq -f 'a file with some name %g' {MANY} | tr '\\n' '\\0' | xargs -0 touch",
    )
    path = place / "many"
    with pytest.raises(TooLarge):
        await asked(path, MANY * ROW).run(session)
    async with session.bulk() as streams:
        sizes = [len(part) async for part in streams.scan(path)]
    assert sum(sizes) == MANY
    assert max(sizes) < MANY
    for recursive in (False, True):
        # Whoever leaves early leaves nothing running: the session does what comes next.
        async with session.bulk() as streams, aclosing(streams.scan(path, recursive=recursive)) as scan:
            assert await anext(scan)
    assert len({line["name"] for line in await lines(session, path)}) == MANY
    assert len(await pages(session, path, 2000)) == MANY


@pytest.mark.parametrize(
    "given", [{"limit": 0}, {"limit": 10_001}, {"limit": 5, "cursor": "?"}, {"limit": 5, "cursor": "a"}, {"limit": "x"}]
)
def test_what_is_no_page(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        asked(b"/x", **given)


class Endless:
    """Stands for a session and its files: names that come in parts, as many as are wanted."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.told = 0

    @asynccontextmanager
    async def bulk(self) -> AsyncIterator[Endless]:
        yield self

    async def scan(self, path: bytes, **_: Any) -> AsyncGenerator[list[Entry]]:
        for start in range(0, self.count, PART):
            # In no order, as directories are.
            numbers = ((number * 7919) % self.count for number in range(start, start + PART))
            self.told += PART
            yield [
                Entry(b"a file with some name %d" % number, 0o100644, 1000, 1000, 1, 1_700_000_000)
                for number in numbers
            ]


PART = 1000


@pytest.mark.parametrize("how", ["lines", "page"])
async def test_a_listing_takes_the_same_memory_however_long_it_is(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    async def utc(_: object) -> Any:
        return UTC

    monkeypatch.setattr(ls, "zone_of", utc)

    async def peak(count: int) -> int:
        source = Endless(count)
        session: Any = source
        tracemalloc.start()
        try:
            if how == "lines":
                async for _ in asked(b"/x").lines(session):
                    pass
            else:
                page = await asked(b"/x", limit=500).run(session)
                assert isinstance(page, Page)
                assert len(page.output) == 500
            assert source.told == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    await peak(5 * PART)
    small, large = await peak(5 * PART), await peak(100 * PART)
    assert large < 1.5 * small


async def test_a_listing_by_commands_takes_less_memory_than_its_names(nodes: LoginNodes, sshd: Any, keys: Any) -> None:
    """What is read at a time has bounds of its own, whatever the login node has to tell."""
    pool = Pool("demo", settings(sshd, **WAYS["commands"]), keys)
    with tempfile.TemporaryDirectory(prefix="names-") as path:
        os.chmod(path, 0o755)
        for number in range(LONG_NAMES):
            os.close(os.open(f"{path}/{number:0250}", os.O_CREAT | os.O_WRONLY))
        async with pool.lease(principal(nodes.alice)) as session:
            async for _ in asked(b"/etc").lines(session):  # what is learned once
                pass
            tracemalloc.start()
            try:
                told = 0
                async for block in asked(os.fsencode(path)).lines(session):
                    told += len(block)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
    await pool.close()
    assert told > LONG_NAMES * 250
    assert peak < told


LONG_NAMES = 40_000
