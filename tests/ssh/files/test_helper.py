"""The helper by this machine's perl tells what stat(2) and readdir(3) do, and leaves what it cannot."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import AsyncIterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hpcgate.errors import BadAnswer, GatewayError, NeverReached, NotSupported, PathNotFound, TimedOut, TooLarge
from hpcgate.ssh.files import helper as helpers
from hpcgate.ssh.files.helper import HELPER, MAX_BYTES, MAX_ENTRIES, Helper
from hpcgate.ssh.files.login_node import NodeView

ODD = [b"plain", b" blank ", b"new\nline", b"\x01\x02", b"\xff\xfe", b"quo'te", b".hidden"]


class Perl:
    """Runs the helper on this machine, and nothing else."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(HELPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.dismissed = 0

    async def ask(self, argv: Sequence[str], request: bytes, *, limit: int | None = None) -> bytes:
        assert argv == HELPER
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(request + b"\0")
        self.process.stdin.flush()
        answer = bytearray()
        while (byte := self.process.stdout.read(1)) != b"\0":
            assert byte
            answer += byte
        return bytes(answer)

    def dismiss(self, argv: Sequence[str]) -> None:
        self.dismissed += 1

    async def run(self, argv: Sequence[str | bytes], *, stdin: bytes | AsyncIterable[bytes] = b"", **_: Any) -> Any:
        raise AssertionError(argv)


@pytest.fixture
def perl() -> Iterator[Perl]:
    perl = Perl()
    yield perl
    perl.process.communicate()


@pytest.fixture
def helper(perl: Perl) -> Helper:
    return Helper(perl, NodeView(helper=True))


@pytest.mark.parametrize("follow", [False, True])
async def test_attributes_are_those_of_stat(helper: Helper, tmp_path: Path, follow: bool) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"content")
    file.chmod(0o4640)
    os.utime(file, ns=(1_000_000_000_250_000_000, 1_000_000_001_750_000_000))
    link.symlink_to("file")
    found = await helper.stat(bytes(link), follow=follow)
    wanted = os.stat(link, follow_symlinks=follow)
    assert found is not None
    assert (found.mode, found.ino, found.uid, found.gid, found.size, found.mtime) == (
        wanted.st_mode, wanted.st_ino, wanted.st_uid, wanted.st_gid, wanted.st_size, wanted.st_mtime_ns // 10**9,
    )  # fmt: skip


async def test_why_there_are_none_is_told_in_stats_words(helper: Helper, tmp_path: Path) -> None:
    with pytest.raises(PathNotFound, match="stat: cannot statx"):
        await helper.stat(bytes(tmp_path / "none"), follow=True)


@pytest.mark.parametrize("hidden", [False, True])
async def test_a_directory_is_listed_whatever_the_names(helper: Helper, tmp_path: Path, hidden: bool) -> None:
    top = os.fsencode(tmp_path)
    for name in ODD:
        with open(top + b"/" + name, "wb") as file:
            file.write(name)
    os.symlink(b"tar\nget", top + b"/link")
    os.mkdir(top + b"/directory")
    entries = await helper.listing(top, hidden=hidden)
    assert entries is not None
    found = {entry.name: entry for entry in entries}
    assert set(found) == {name for name in os.listdir(top) if hidden or not name.startswith(b".")}
    assert found[b"link"].link_target == b"tar\nget"
    assert stat.S_ISDIR(found[b"directory"].mode)
    for name in set(found) & set(ODD):
        assert (found[name].size, found[name].link_target) == (len(name), None)


async def test_a_directory_with_too_many_names_is_left_to_others(helper: Helper, tmp_path: Path) -> None:
    for number in range(MAX_ENTRIES):
        (tmp_path / str(number)).touch()
    listed = await helper.listing(bytes(tmp_path), hidden=False)
    assert listed is not None
    assert len(listed) == MAX_ENTRIES
    (tmp_path / "one more").touch()
    assert await helper.listing(bytes(tmp_path), hidden=False) is None


@pytest.mark.parametrize(("offset", "size"), [(0, 4), (2, 100), (6, 1), (50, 1)])
async def test_a_part_of_a_file_is_read(helper: Helper, tmp_path: Path, offset: int, size: int) -> None:
    content = b"\0\1\2A\1B\0B"
    (tmp_path / "file").write_bytes(content)
    assert await helper.read(bytes(tmp_path / "file"), offset=offset, size=size) == content[offset : offset + size]


async def test_what_is_no_regular_file_or_too_large_is_left_to_others(helper: Helper, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "none"):
        assert await helper.read(bytes(path), offset=0, size=10) is None
    (tmp_path / "file").touch()
    assert await helper.read(bytes(tmp_path / "file"), offset=0, size=MAX_BYTES + 1) is None


async def test_a_file_that_is_looked_into_is_held_when_it_is_renamed(helper: Helper, tmp_path: Path) -> None:
    """Its last bytes are had before those of the file that takes its name."""
    file = tmp_path / "log"
    file.write_bytes(b"one")
    first = await helper.look(bytes(file), start=0, above=0, size=100, inode=0)
    assert first is not None
    with file.open("ab") as writer:
        file.rename(tmp_path / "log.1")
        writer.write(b"two")
    file.write_bytes(b"three")
    held = await helper.look(bytes(file), start=3, above=3, size=100, inode=first.attributes.ino)
    assert held is not None
    assert (held.content, held.attributes.ino) == (b"two", first.attributes.ino)
    fresh = await helper.look(bytes(file), start=6, above=6, size=100, inode=first.attributes.ino)
    assert fresh is not None
    assert fresh.attributes.ino == os.stat(file).st_ino
    await helper.release(bytes(file))


class Failing(Perl):
    """Stands for a login node on which something else than the helper answers."""

    def __init__(self, answer: bytes | GatewayError) -> None:
        self.answer = answer
        self.asked = self.dismissed = 0

    async def ask(self, argv: Sequence[str], request: bytes, *, limit: int | None = None) -> bytes:
        self.asked += 1
        if isinstance(self.answer, GatewayError):
            raise self.answer
        return self.answer


LIES: list[bytes | GatewayError] = [
    b"nonsense",
    b"9999999 1 2 3 4 5 6 7 8 9",
    b"1 2 x",
    NotSupported("perl cannot be run"),
    BadAnswer("says more than it was asked"),
    TooLarge("the answer is over 1 bytes"),
]


@pytest.mark.parametrize("answer", LIES, ids=lambda one: one if isinstance(one, bytes) else type(one).__name__)
async def test_one_that_is_not_there_or_lies_is_done_without_for_a_while(
    answer: bytes | GatewayError, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Failing(answer)
    helper = Helper(runner, NodeView(helper=True))
    now = 1000.0
    monkeypatch.setattr("hpcgate.ssh.files.helper.time.monotonic", lambda: now)
    for _ in range(2):
        assert await helper.stat(b"/x", follow=True) is None
    assert (runner.asked, runner.dismissed) == (1, 1)
    now += helpers.ABSENT_PAUSE
    await helper.stat(b"/x", follow=True)
    assert runner.asked == 2


@pytest.mark.parametrize(
    "error", [NeverReached("start-up file"), TimedOut("Command perl timed out after 1 s")], ids=repr
)
async def test_a_login_node_that_does_not_come_to_it_is_an_error_by_the_tool_it_stands_for(error: GatewayError) -> None:
    helper = Helper(Failing(error), NodeView(helper=True))
    with pytest.raises(type(error)) as caught:
        await helper.stat(b"/x", follow=True)
    assert "perl" not in caught.value.message
