"""Files that are followed, on a real sshd and by every way of access: each byte is compared with the file."""

import asyncio
import itertools
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hpcgate.auth.policy import FREE, Grant
from hpcgate.demo.sshd import Sshd
from hpcgate.errors import BadRequest, Denied, GatewayError, IsADirectory, PermissionDenied, TooLarge
from hpcgate.filesystem.base import Limits
from hpcgate.filesystem.following.follower import Degraded, Event, Follower, Start, Truncated, Waiting
from hpcgate.filesystem.following.reader import BLOCK, Pace
from hpcgate.filesystem.following.registry import Following
from hpcgate.filesystem.following.view import BEFORE, REMEMBERED, Mark, Output, View
from hpcgate.ssh.files.protocol import Attributes, Look
from hpcgate.ssh.pool import Pool
from tests.filesystem.remote import WAYS, Place, keys, nodes, place, sshd
from tests.ssh.nodes import Keys, LoginNodes, principal, settings

__all__ = ["keys", "nodes", "place", "sshd"]

LIMITS = Limits(max_ops_file_size=5 * 1024 * 1024)
FAST = Pace(fastest=0.02, slowest=0.1, share=0)
RATE = 1e12
BEGINNING = Start()
CONFINED = Grant(rule="test", paths=(b"/home", b"/tmp", b"/var", b"/root"))


@dataclass
class Log:
    """What a follower has been told: a content for each file that it has taken for a new one."""

    contents: list[bytearray] = field(default_factory=lambda: [bytearray()])
    events: list[type[Event]] = field(default_factory=list)
    start: int | None = None
    last: Output | None = None

    def take(self, event: Event) -> None:
        if isinstance(event, Output):
            if self.start is None:
                self.start = event.offset
            assert event.offset == self.start + len(self.contents[-1]), "a byte is lost or doubled"
            self.contents[-1] += event.content
            self.last = event
        else:
            self.events.append(type(event))
            if isinstance(event, Truncated):
                self.contents.append(bytearray())
                self.start = 0


@dataclass
class Site:
    """A login node, and what follows files there by one of the ways of access."""

    way: str
    pool: Pool
    following: Following
    nodes: LoginNodes
    grant: Grant

    @asynccontextmanager
    async def follow(self, path: bytes, start: Start = BEGINNING, rate: float = RATE) -> AsyncIterator[Follower]:
        async with self.following.follow(principal(self.nodes.alice), self.grant, path, start, rate) as follower:
            yield follower


@pytest.fixture(params=[*WAYS, "confined"])
async def site(request: pytest.FixtureRequest, nodes: LoginNodes, sshd: Sshd, keys: Keys) -> AsyncIterator[Site]:
    async with opened(request.param, nodes, sshd, keys) as site:
        yield site


@asynccontextmanager
async def opened(way: str, nodes: LoginNodes, sshd: Sshd, keys: Keys, pace: Pace = FAST) -> AsyncIterator[Site]:
    pool = Pool("demo", settings(sshd, **WAYS.get(way, WAYS["commands"])), keys)
    following = Following(pool, LIMITS, pace)
    try:
        yield Site(way, pool, following, nodes, CONFINED if way == "confined" else FREE)
    finally:
        await following.close()
        await pool.close()


async def until(log: Log, events: AsyncGenerator[Event], fact: Callable[[], bool]) -> None:
    """Take events until something is so."""
    async with asyncio.timeout(600):
        while not fact():
            log.take(await anext(events))


async def until_content(log: Log, events: AsyncGenerator[Event], content: bytes) -> None:
    """Take events until the file that is followed now has some content."""
    await until(log, events, lambda: bytes(log.contents[-1]) == content)


async def all_of(follower: Follower) -> Log:
    """Take all that there is."""
    log = Log()
    follower.finish()
    async with asyncio.timeout(600), aclosing(follower.events()) as events:
        async for event in events:
            log.take(event)
    return log


def append(path: bytes, content: bytes) -> None:
    with open(path, "ab") as file:
        file.write(content)


async def test_no_byte_of_a_growing_file_is_lost_or_doubled(site: Site, place: Place) -> None:
    """Two who begin at different places get each byte from there on, whatever pieces it is written in."""
    dice = random.Random(1)
    path = place.write("log", dice.randbytes(3 * BLOCK + 17))
    async with AsyncExitStack() as stack:
        starts = (0, 100_003)
        logs = [Log() for _ in starts]
        streams = []
        for at in starts:
            follower = await stack.enter_async_context(site.follow(path, Start(at)))
            streams.append(await stack.enter_async_context(aclosing(follower.events())))

        async def write() -> None:
            for _ in range(20):
                append(path, dice.randbytes(dice.choice((1, 3, 1000, 200_000))))
                await asyncio.sleep(0.01)
            append(path, b"\0the end")

        def ends(log: Log) -> Callable[[], bool]:
            return lambda: log.contents[-1].endswith(b"\0the end")

        await asyncio.gather(
            write(), *(until(log, events, ends(log)) for log, events in zip(logs, streams, strict=True))
        )
    written = Path(os.fsdecode(path)).read_bytes()
    for at, log in zip(starts, logs, strict=True):
        assert log.events == []
        assert bytes(log.contents[0]) == written[at:]


Change = Callable[[Place, bytes], None]


def _replace(place: Place, path: bytes) -> None:
    os.replace(place.write("new", NEW), path)


def _shorten(place: Place, path: bytes) -> None:
    with open(path, "r+b") as file:
        file.truncate(0)
        file.write(NEW[:100])


def _remove_and_make(place: Place, path: bytes) -> None:
    os.remove(path)
    place.write("log", NEW)


def _rewrite_longer(place: Place, path: bytes) -> None:
    with open(path, "r+b") as file:
        file.truncate(0)
        file.write(NEW)


def _rewrite_as_long(place: Place, path: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(NEW[: len(OLD)])


OLD = random.Random(2).randbytes(5000)
NEW = random.Random(3).randbytes(9000)
CHANGES: dict[str, tuple[Change, bytes]] = {
    "replaced by a longer one": (_replace, NEW),
    "shorter": (_shorten, NEW[:100]),
    "removed and made anew, perhaps with the same inode": (_remove_and_make, NEW),
    "rewritten in place and longer than before": (_rewrite_longer, NEW),
    "rewritten in place and as long as before": (_rewrite_as_long, NEW[: len(OLD)]),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_file_that_has_become_another_one_is_told_of_and_read_from_its_beginning(
    site: Site, place: Place, name: str
) -> None:
    change, content = CHANGES[name]
    path = place.write("log", OLD)
    os.utime(path, (1, 1))
    async with site.follow(path) as follower, aclosing(follower.events()) as events:
        log = Log()
        await until_content(log, events, OLD)
        change(place, path)
        await until_content(log, events, content)
        append(path, b"and more")
        await until(log, events, lambda: log.contents[-1].endswith(b"and more"))
    assert log.contents[0] == OLD
    assert [event for event in log.events if event is not Waiting] == [Truncated]
    assert log.contents[-1] == content + b"and more"


async def test_a_file_that_is_not_there_is_waited_for(site: Site, place: Place) -> None:
    async with site.follow(place / "log", Start(-10)) as follower, aclosing(follower.events()) as events:
        log = Log()
        await until(log, events, lambda: bool(log.events))
        place.write("log", OLD)
        await until_content(log, events, OLD)
        os.rename(place / "log", place / "elsewhere")
        await until(log, events, lambda: len(log.events) == 2)
        os.rename(place / "elsewhere", place / "log")
        append(place / "log", b"the same file")
        await until(log, events, lambda: log.contents[0] == OLD + b"the same file")
    assert log.events == [Waiting, Waiting]


async def test_the_end_of_a_rotated_file_is_not_lost(nodes: LoginNodes, sshd: Sshd, keys: Keys, place: Place) -> None:
    """The helper holds the file: what is written between the last look and the rename comes before the new file."""
    path = place.write("log", OLD)
    async with (
        opened("helped", nodes, sshd, keys) as site,
        site.follow(path) as follower,
        aclosing(follower.events()) as events,
    ):
        log, expected = Log(), OLD
        for turn in range(5):
            await until_content(log, events, expected)
            with open(path, "ab") as old:
                os.rename(path, place / f"log.{turn}")
                old.write(b"the last words")
            expected = b"file %d" % turn
            place.write("log", expected)
        await until_content(log, events, expected)
    ended = [OLD, *(b"file %d" % turn for turn in range(4))]
    assert log.contents == [*(content + b"the last words" for content in ended), expected]
    assert log.events == [Truncated] * 5


@pytest.mark.parametrize("offset", [0, 1, 4999, 5000, -1, -700, -5000, -9999])
async def test_it_begins_where_it_is_told_to(site: Site, place: Place, offset: int) -> None:
    path = place.write("log", OLD)
    async with site.follow(path, Start(offset)) as follower:
        log = await all_of(follower)
    assert log.contents[0] == (OLD[offset:] if abs(offset) <= len(OLD) else OLD)
    assert log.events == []


@pytest.mark.parametrize("count", [0, 1, 3, 10_000])
@pytest.mark.parametrize("last", [b"", b"no newline"])
async def test_it_begins_with_the_last_lines(site: Site, place: Place, count: int, last: bytes) -> None:
    lines = [b"line %d\n" % number for number in range(100)] + [last] * bool(last)
    path = place.write("log", b"".join(lines))
    async with site.follow(path, Start(lines=count)) as follower:
        log = await all_of(follower)
    assert log.contents[0] == b"".join(lines[-count:] if count else [])


async def test_lines_too_far_from_the_end_are_refused(site: Site, place: Place) -> None:
    path = place.write("log", b"x" * (LIMITS.max_ops_file_size + 1000))
    with pytest.raises(TooLarge):
        async with site.follow(path, Start(lines=1)):
            pass


async def test_a_position_beyond_the_end_is_that_of_a_file_that_was_longer(site: Site, place: Place) -> None:
    path = place.write("log", OLD)
    async with site.follow(path, Start(len(OLD) + 1)) as follower:
        log = await all_of(follower)
    assert log.events == [Truncated]
    assert log.contents[-1] == OLD


async def test_a_mark_tells_whether_the_file_is_the_same(site: Site, place: Place) -> None:
    """Who comes back to a file that has become another one meanwhile is told so, and else goes on."""
    path = place.write("log", OLD)
    async with site.follow(path) as follower:
        log = await all_of(follower)
    assert log.last is not None
    mark = Mark.parse(str(Mark.of(log.last.inode, bytes(log.contents[0]))))
    append(path, b"more")
    async with site.follow(path, Start(len(OLD), mark=mark)) as follower:
        log = await all_of(follower)
    assert log.events == []
    assert log.contents == [b"more"]
    _rewrite_longer(place, path)
    async with site.follow(path, Start(len(OLD), mark=mark)) as follower:
        log = await all_of(follower)
    assert log.events == [Truncated]
    assert log.contents[-1] == NEW
    _replace(place, path)
    async with site.follow(path, Start(len(OLD), mark=Mark.of(1, b""))) as follower:
        log = await all_of(follower)
    assert log.events == [Truncated]
    assert log.contents[-1] == NEW


@pytest.mark.parametrize("text", ["", "1.2", "1.2.3.4", "x.2.3", "-1.2.3", "1.ffff.3", "1.2." + "f" * 99, "1.2.z"])
def test_what_is_not_a_mark_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        Mark.parse(text)


async def test_what_is_not_a_regular_file_is_refused(site: Site, place: Place) -> None:
    place.run("mkdir", "directory")
    place.run("mkfifo", "fifo")
    place.write("closed", b"", 0)
    for path, error in (
        (place / "directory", IsADirectory),
        (place / "fifo", BadRequest),
        (b"/dev/null" if site.grant is FREE else place / "fifo", BadRequest),
        (place / "closed", PermissionDenied),
    ):
        with pytest.raises(error):
            async with site.follow(path):
                pass
    assert len(site.following) == 0


async def test_one_that_is_replaced_by_a_directory_is_not_followed_any_more(site: Site, place: Place) -> None:
    path = place.write("log", OLD)
    async with site.follow(path) as follower, aclosing(follower.events()) as events:
        log = Log()
        await until_content(log, events, OLD)
        os.remove(path)
        os.mkdir(path)
        with pytest.raises(GatewayError) as raised:
            await until(log, events, lambda: False)
        assert raised.value.status == 400


async def test_paths_of_a_rule_hold_for_each_look(nodes: LoginNodes, sshd: Sshd, keys: Keys, place: Place) -> None:
    """A file whose name becomes a link that leads out of the rule's paths is not read, and the stream ends."""
    inside, outside = place.inside("inside"), place.write("outside", b"secret" * 1000)
    path = inside.write("log", OLD)
    async with opened("confined", nodes, sshd, keys) as site:
        site.grant = Grant(rule="test", paths=(os.fsencode(inside.path),))
        async with site.follow(path) as follower, aclosing(follower.events()) as events:
            log = Log()
            await until_content(log, events, OLD)
            os.remove(path)
            os.symlink(outside, path)
            with pytest.raises(Denied):
                await until(log, events, lambda: False)
    assert log.contents == [OLD]
    assert set(log.events) <= {Waiting}


async def test_one_reader_serves_all_who_follow_a_file(site: Site, place: Place) -> None:
    """Thirty followers cost the login node what one does: looks are counted, while the file grows ten times."""
    path = place.write("log", OLD)
    async with AsyncExitStack() as stack:
        streams, logs = [], []
        for _ in range(30):
            follower = await stack.enter_async_context(site.follow(path, Start(len(OLD))))
            streams.append(await stack.enter_async_context(aclosing(follower.events())))
            logs.append(Log())
        assert len(site.following) == 1
        before = site.following.looks
        expected = bytearray()
        for turn in range(10):
            append(path, b"turn %d\n" % turn)
            expected += b"turn %d\n" % turn
            await asyncio.gather(*map(until_content, logs, streams, itertools.repeat(bytes(expected))))
        reader = next(iter(site.following._readers.values()))
        assert reader.looks == site.following.looks
        looks = site.following.looks - before
    # Each turn is found by one look, and the next one is already due for those who wait for more.
    assert looks <= 40
    assert len(site.following) == 0


async def test_a_slow_follower_gets_every_byte_and_holds_no_other_up(site: Site, place: Place) -> None:
    """One who takes nothing while more is written than is remembered reads the rest from the file."""
    path = place.write("log")
    content = random.Random(4).randbytes(REMEMBERED + 3 * BLOCK)
    async with (
        site.follow(path) as slow,
        site.follow(path) as quick,
        aclosing(quick.events()) as events,
        aclosing(slow.events()) as slow_events,
    ):
        log, late = Log(), Log()
        append(path, b"first")
        await until_content(late, slow_events, b"first")
        for end in range(BLOCK, len(content) + BLOCK, BLOCK):
            append(path, content[end - BLOCK : end])
            await until_content(log, events, b"first" + content[:end])
        await until_content(late, slow_events, b"first" + content)


async def test_those_far_behind_read_each_block_once(site: Site, place: Place) -> None:
    path = place.write("log", random.Random(5).randbytes(8 * BLOCK))
    async with AsyncExitStack() as stack:
        followers = [await stack.enter_async_context(site.follow(path)) for _ in range(10)]
        logs = await asyncio.gather(*map(all_of, followers))
        looks = site.following.looks
    written = Path(os.fsdecode(path)).read_bytes()
    assert all(log.contents == [written] for log in logs)
    assert looks < 3 * 10 + 2 * 8


async def test_it_goes_on_when_the_login_node_comes_back(nodes: LoginNodes, keys: Keys, place: Place) -> None:
    """What is written while there is no sshd comes once there is one again."""
    sshd = nodes.start()
    path = place.write("log", OLD)
    async with (
        opened("helped", nodes, sshd, keys) as site,
        site.follow(path) as follower,
        aclosing(follower.events()) as events,
    ):
        log = Log()
        await until_content(log, events, OLD)
        sshd.stop()
        await until(log, events, lambda: Degraded in log.events)
        append(path, NEW)
        again = nodes.start(port=sshd.port, host_key=sshd.host_key)
        await until_content(log, events, OLD + NEW)
        again.stop()
    assert set(log.events) == {Degraded}


async def test_a_follower_takes_no_more_bytes_a_second_than_it_may(site: Site, place: Place) -> None:
    path = place.write("log", b"x" * 3000)
    loop = asyncio.get_running_loop()
    async with site.follow(path, rate=10_000) as follower:
        begun = loop.time()
        log = await all_of(follower)
        assert loop.time() - begun >= 0.3
    assert len(log.contents[0]) == 3000


@pytest.mark.parametrize("took", [0.0, 0.01, 1.0])
def test_a_file_that_rests_is_looked_at_less_and_less(took: float) -> None:
    pace = Pace()
    pauses = [pace.after(0, took, grown=False)]
    for _ in range(20):
        pauses.append(pace.after(pauses[-1], took, grown=False))
    assert pauses == sorted(pauses)
    assert pauses[-1] == max(pace.slowest, took * pace.share)
    assert pace.after(pauses[-1], took, grown=True) == max(pace.fastest, took * pace.share)


def _look(inode: int, size: int, content: bytes, mtime: int = 1) -> Look:
    return Look(Attributes(0o100644, inode, 1, 1, 0, 0, size, mtime, mtime, mtime), content)


def test_a_view_knows_a_file_again_by_inode_size_and_content() -> None:
    view = View()
    view.begin(_look(7, 200, b"a" * BEFORE), 200 - BEFORE)
    assert (view.end, view.start, view.generation) == (200, 200 - BEFORE, 0)
    assert not view.note(_look(7, 200, b""))
    assert view.note(_look(7, 203, b"a" * BEFORE + b"new"))
    assert view.piece(0, 200) == Output(200, b"new", 7)
    assert view.piece(0, 202) == Output(202, b"w", 7)
    assert view.piece(0, 203) is None
    assert not view.rewritten(_look(7, 203, b"", 1))
    assert view.rewritten(_look(7, 203, b"", 2))
    assert view.note(_look(8, 203, b""))
    assert (view.generation, view.end) == (1, 0)
    # What is remembered of the old file is still there for those who have not had it.
    assert view.piece(0, 200) == Output(200, b"new", 7)
    assert view.piece(1, 0) is None
