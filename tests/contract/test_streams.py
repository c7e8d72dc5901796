"""What both ways to stream files must do, on a real sshd."""

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from hpcgate.errors import (
    AlreadyExists,
    BadRequest,
    IsADirectory,
    PathNotFound,
    PermissionDenied,
)
from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.files.protocol import Replacing
from hpcgate.ssh.files.streams import Streams, cut
from hpcgate.ssh.session import Session
from tests.filesystem.remote import Place, keys, nodes, place, session, sshd
from tests.ssh.nodes import gone, running

__all__ = ["keys", "nodes", "place", "session", "sshd"]

CONTENT = random.Random(1).randbytes(9_000_001)


@pytest.fixture
async def streams(session: Session) -> AsyncIterator[Streams]:
    async with session.bulk() as lent:
        yield lent


async def blocks(*parts: bytes, error: Exception | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if error is not None:
        raise error


async def content_of(streams: Streams, path: bytes, offset: int = 0, size: int | None = None) -> bytes:
    async with streams.open(path) as file:
        return b"".join([block async for block in file.blocks(offset, size)])


def read(path: bytes) -> bytes:
    return Path(os.fsdecode(path)).read_bytes()


class Broken(Exception):
    """What a source of content raises."""


async def test_reads_whole_files_and_parts(streams: Streams, place: Place) -> None:
    path = place.write("file", CONTENT)
    async with streams.open(path) as file:
        found = os.stat(path)
        assert (file.attributes.ino, file.attributes.size) == (found.st_ino, len(CONTENT))
        assert file.attributes.mtime == int(found.st_mtime)
        for offset, size in ((0, 1), (5, 0), (1_000_000, 5_000_000), (len(CONTENT) - 3, 3), (0, len(CONTENT))):
            got = b"".join([block async for block in file.blocks(offset, size)])
            assert got == CONTENT[offset : offset + size], (offset, size)
    assert await content_of(streams, path) == CONTENT
    assert await content_of(streams, path, 8_999_999) == CONTENT[8_999_999:]


async def test_reads_an_empty_file(streams: Streams, place: Place) -> None:
    assert await content_of(streams, place.write("empty")) == b""


async def test_an_open_file_stays_the_same_file(streams: Streams, place: Place) -> None:
    path = place.write("file", CONTENT)
    async with streams.open(path) as file:
        os.unlink(path)
        place.write("file", b"another")
        got = b"".join([block async for block in file.blocks(1_000_000, 3_000_000)])
    assert got == CONTENT[1_000_000:4_000_000]


async def test_a_file_that_becomes_shorter_ends_early(streams: Streams, place: Place) -> None:
    path = place.write("file", CONTENT)
    async with streams.open(path) as file:
        os.truncate(path, 100_000)
        got = b"".join([block async for block in file.blocks(0, len(CONTENT))])
    assert got == CONTENT[:100_000]


async def test_a_reader_that_stops_leaves_the_session_usable(session: Session, streams: Streams, place: Place) -> None:
    path = place.write("file", CONTENT)
    for _ in range(5):
        async with streams.open(path) as file:
            reading = file.blocks(0, len(CONTENT))
            await anext(reading)
            await reading.aclose()
    assert await content_of(streams, path) == CONTENT


@pytest.mark.parametrize(
    ("name", "error"),
    [("missing", PathNotFound), ("", IsADirectory), ("fifo", BadRequest), ("closed", PermissionDenied)],
)
async def test_what_cannot_be_read(streams: Streams, place: Place, name: str, error: type[Exception]) -> None:
    os.mkfifo(place / "fifo", 0o666)
    os.chown(place / "fifo", place.user.uid, place.user.gid)
    place.write("closed", b"x", 0)
    with pytest.raises(error):
        async with streams.open(place / name):
            raise AssertionError("opened")


async def test_replaces_and_creates(streams: Streams, place: Place) -> None:
    """A stream makes a file, or replaces it and keeps its mode."""
    path = place / "file"
    assert await streams.replace(path, blocks(CONTENT[:100], CONTENT[100:]), sync=True) == len(CONTENT)
    assert read(path) == CONTENT
    os.chmod(path, 0o640)
    asked: list[tuple[bytes, bool]] = []

    async def ready(temporary: bytes) -> None:
        asked.append((read(temporary), read(path) == CONTENT))

    assert await streams.replace(path, blocks(b"new"), ready=ready) == 3
    assert asked == [(b"new", True)]
    assert os.stat(path).st_mode & 0o777 == 0o640
    assert await streams.replace(path, blocks()) == 0
    assert place.names() == [b"file"]


@pytest.mark.parametrize("way", ["replace", "write"])
async def test_what_replaces_a_file_is_as_private_as_that(
    session: Session, streams: Streams, place: Place, way: str
) -> None:
    path = place.write("file", b"old", 0o600)
    modes: list[int] = []

    async def content() -> AsyncIterator[bytes]:
        for _ in range(2):
            yield CONTENT[:300_000]
            while len(place.names()) < 2:
                await asyncio.sleep(0.01)
            modes.extend(os.stat(place / name).st_mode & 0o777 for name in place.names())

    files = streams if way == "replace" else await session.files()
    await (streams.replace(path, content()) if way == "replace" else files.write(path, content()))
    assert set(modes) == {0o600}
    assert len(read(path)) == 600_000
    place.run("chmod", "4751", "file")
    await (streams.replace(path, blocks(b"x")) if way == "replace" else files.write(path, blocks(b"x")))
    assert os.stat(path).st_mode & 0o7777 == 0o4751


@pytest.mark.parametrize("way", ["replace", "write"])
@pytest.mark.parametrize(("old", "foreign"), [(0o660, 0o600), (0o664, 0o644), (0o640, 0o600), (0o2775, 0o755)])
async def test_what_replaces_a_file_is_for_the_same_group(
    session: Session, streams: Streams, place: Place, way: str, old: int, foreign: int
) -> None:
    if os.geteuid() != 0:
        pytest.skip("there is one user, who may be in one group only")
    path = place.write("file", b"old")

    async def replaced(group: int) -> tuple[int, int]:
        os.chown(path, place.user.uid, group)
        os.chmod(path, old)
        if way == "replace":
            await streams.replace(path, blocks(b"new"))
        else:
            await (await session.files()).write(path, blocks(b"new"))
        assert read(path) == b"new"
        found = os.stat(path)
        return found.st_gid, found.st_mode & 0o7777

    project = place.user.identity.groups[-1]
    assert project != place.user.gid
    assert await replaced(project) == (project, old)
    # Those in the user's own group were not those who might read it.
    assert await replaced(54322) == (place.user.gid, foreign)


async def test_creates_files_for_all_or_for_nobody_else(streams: Streams, place: Place) -> None:
    await streams.create(place / "public")
    await streams.create(place / "private", private=True)
    assert [os.stat(place / name).st_mode & 0o777 for name in ("public", "private")] == [0o644, 0o600]


async def test_a_refused_replacement_changes_nothing(streams: Streams, place: Place) -> None:
    path = place.write("file", b"old")

    async def refuse(temporary: bytes) -> None:
        raise Broken

    with pytest.raises(Broken):
        await streams.replace(path, blocks(CONTENT), ready=refuse)
    with pytest.raises(Broken):
        await streams.replace(path, blocks(CONTENT, error=Broken()))
    assert read(path) == b"old"
    assert place.names() == [b"file"]


async def test_exclusive_never_replaces(streams: Streams, place: Place) -> None:
    """An exclusive stream does not replace a file, not even one that appears meanwhile."""
    path = place / "file"
    assert await streams.replace(path, blocks(b"first"), exclusive=True) == 5
    with pytest.raises(AlreadyExists):
        await streams.replace(path, blocks(b"second"), exclusive=True)

    async def appears(temporary: bytes) -> None:
        place.write("other", b"sudden")

    with pytest.raises(AlreadyExists):
        await streams.replace(place / "other", blocks(b"second"), exclusive=True, ready=appears)
    assert read(path) == b"first"
    assert read(place / "other") == b"sudden"
    assert place.names() == [b"file", b"other"]


async def test_a_link_is_followed(streams: Streams, place: Place) -> None:
    place.write("file", b"old")
    place.run("ln", "-s", "file", "link")
    await streams.replace(place / "link", blocks(b"new"))
    assert os.path.islink(place / "link")
    assert read(place / "file") == b"new"


@pytest.mark.parametrize("target", ["missing/file", "", "closed/file"])
async def test_what_cannot_be_replaced(streams: Streams, place: Place, target: str) -> None:
    place.run("mkdir", "-m", "555", "closed")
    with pytest.raises((PathNotFound, IsADirectory, PermissionDenied)):
        await streams.replace(place / target, blocks(b"x"))
    assert place.names() == [b"closed"]


async def consume(parts: AsyncIterator[object]) -> None:
    async for _ in parts:
        pass


LONG = "x" * 256
REFUSED: dict[str, Callable[[Streams, Place], Awaitable[object]]] = {
    # What fails by SSH_FX_BAD_MESSAGE of OpenSSH: ENAMETOOLONG, EINVAL.
    "open": lambda streams, place: content_of(streams, place / LONG),
    "scan": lambda streams, place: consume(streams.scan(place / LONG)),
    "replace": lambda streams, place: streams.replace(place / LONG, blocks(b"x")),
    "replace inside": lambda streams, place: streams.replace(place / f"{LONG}/x", blocks(b"x")),
    "replace nothing": lambda streams, place: streams.replace(place / LONG, blocks(b"x"), exclusive=True),
    "replace atomically": lambda streams, place: streams.replace(place / LONG, blocks(), how=Replacing.atomic),
    "replace in place": lambda streams, place: streams.replace(place / LONG, blocks(), how=Replacing.in_place),
    "extend": lambda streams, place: streams.extend(place / LONG, blocks(b"x"), offset=0),
    "create": lambda streams, place: streams.create(place / LONG),
    "truncate": lambda streams, place: streams.truncate(place / LONG, 5),
    "truncate to more than there may be": lambda streams, place: streams.truncate(place / "file", 2**63 - 1),
    "sync": lambda streams, place: streams.sync(place / LONG),
    "move": lambda streams, place: streams.move(place / "file", place / LONG),
    "move to nothing": lambda streams, place: streams.move(place / "file", place / LONG, exclusive=True),
    "make_private": lambda streams, place: streams.make_private(place / "", os.fsencode(LONG)),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_the_file_system_refuses_costs_no_more_than_that(
    streams: Streams, session: Session, place: Place, name: str
) -> None:
    place.write("file", b"content")
    with capture_logs() as logs:
        with pytest.raises(BadRequest, match=r"File name too long|Invalid argument|File too large") as caught:
            await REFUSED[name](streams, place)
        assert await content_of(streams, place / "file") == b"content"
        assert await (await session.files()).read(place / "file") == b"content"
    assert [line for line in logs if line["event"].startswith("ssh.")] == []
    assert ".hpcgate-" not in caught.value.message
    assert place.names() == [b"file"]


async def test_extends_in_place(streams: Streams, place: Place) -> None:
    """A file is extended from any offset, truncated and moved."""
    path = place / "part"
    await streams.create(path)
    assert os.stat(path).st_mode & 0o777 == 0o644
    with pytest.raises(AlreadyExists):
        await streams.create(path)
    assert await streams.extend(path, blocks(CONTENT[:1_000_000]), offset=0) == 1_000_000
    with pytest.raises(Broken):
        await streams.extend(path, blocks(CONTENT[1_000_000:4_000_000], error=Broken()), offset=1_000_000)
    assert os.path.getsize(path) <= 4_000_000
    offset = os.path.getsize(path)
    assert offset > 3_000_000
    assert await streams.extend(path, blocks(CONTENT[offset:]), offset=offset) == len(CONTENT)
    await streams.sync(path)
    assert hashlib.sha256(read(path)).digest() == hashlib.sha256(CONTENT).digest()
    await streams.truncate(path, 10)
    await streams.move(path, place / "whole", exclusive=True)
    assert read(place / "whole") == CONTENT[:10]
    place.write("next", b"next")
    with pytest.raises(AlreadyExists):
        await streams.move(place / "next", place / "whole", exclusive=True)
    await streams.move(place / "next", place / "whole")
    assert place.names() == [b"whole"]
    with pytest.raises(PathNotFound):
        await streams.extend(place / "missing", blocks(b"x"), offset=0)
    assert place.names() == [b"whole"]


async def test_a_process_is_fed_and_read_at_once(session: Session) -> None:
    async with session.process(["cat"], stall=10) as process:

        async def feed() -> None:
            for start in range(0, len(CONTENT), 100_000):
                assert await process.feed_block(CONTENT[start : start + 100_000])
            process.feed_end()

        feeding = asyncio.create_task(feed())
        got = b"".join([block async for block in process.output()])
        await feeding
        assert await process.ended() == 0
    assert got == CONTENT


async def test_a_process_waits_for_its_reader(session: Session) -> None:
    async with session.process(["cat", "/dev/zero"], stall=10) as process:
        output = process.output()
        channel: Any = process.channel
        taken = 0
        for _ in range(30):
            while taken % 1_000_000 < 900_000:
                taken += len(await anext(output))
            taken += 100_000
            await asyncio.sleep(0.02)
            held = sum(len(data) for data, _ in channel._recv_buf)
            assert process._waiting + held <= 6 * 1024 * 1024
        await output.aclose()


async def test_a_process_ends_with_its_context(session: Session, place: Place) -> None:
    async with session.process(["sleep", "1234.5"], stall=10) as process:
        assert isinstance(process, Process)
        assert await running(place.user, "sleep 1234.5")
    assert await gone(place.user, "sleep 1234.5")


async def test_a_process_tells_its_status_and_words(session: Session) -> None:
    async with session.process(["sh", "-c", "echo out; echo words >&2; exit 3"], stall=10) as process:
        assert [block async for block in process.output()] == [b"out\n"]
        assert await process.ended() == 3
        assert process.words == "words"


@pytest.mark.parametrize("size", [1, 3, 7, 100])
async def test_cut(size: int) -> None:
    """A stream is cut into blocks of one size."""
    parts = [CONTENT[:10], b"", CONTENT[10:11], CONTENT[11:40]]
    got = [block async for block in cut(blocks(*parts), size)]
    assert b"".join(got) == CONTENT[:40]
    assert all(len(block) == size for block in got[:-1])
    assert 0 < len(got[-1]) <= size
