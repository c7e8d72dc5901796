"""What every implementation of `RemoteFiles` must do, on a real sshd."""

import asyncio
import contextlib
import os
import re
import socket
import stat
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from hpcgate.errors import (
    AlreadyExists,
    BadRequest,
    GatewayError,
    IsADirectory,
    NoSpace,
    NotADirectory,
    PathNotFound,
    PermissionDenied,
    TooLarge,
)
from hpcgate.ssh.files.protocol import Entry, RemoteFiles
from tests.filesystem.remote import Place

ODD_NAMES = [
    b"plain",
    b"two words",
    b" leading",
    b"it's",
    b'say "hi"',
    b"$(id)",
    b"`id`",
    b"$HOME",
    b"back\\slash",
    b"\\n",
    b"new\nline",
    b"ends\n",
    b"\n",
    b"tab\t",
    b"-rf",
    b"--help",
    b"*",
    b"[a-z]?",
    b"{a,b}",
    b"~",
    b"#x",
    b"!",
    b"(",
    b"a:b",
    b"a -> b",
    b"\xff\xfe",
    b"caf\xc3\xa9",
    b"\x01\x7f",
    b";&|<>",
    b"%s%d",
    b"x" * 255,
]


async def blocks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def by_name(entries: Iterable[Entry]) -> dict[bytes, Entry]:
    return {entry.name: entry for entry in entries}


# Listings


async def test_odd_names_are_listed(files: RemoteFiles, place: Place) -> None:
    for name in ODD_NAMES:
        place.write(name, b"1234")
    entries = by_name(await files.listing(place / ""))
    assert sorted(entries) == sorted(ODD_NAMES)
    assert {entry.size for entry in entries.values()} == {4}


async def test_a_listing_tells_all_of_each_file(files: RemoteFiles, place: Place) -> None:
    place.write("file", b"12345", 0o640)
    os.utime(place / "file", (1, 86400 * 365))
    place.run("mkdir", "directory")
    place.run("ln", "-s", "no where", "dangling")
    place.run("mkfifo", "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(place.path, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{directory}/socket")
        os.close(directory)
    entries = by_name(await files.listing(place / ""))
    assert set(entries) == {b"file", b"directory", b"dangling", b"fifo", b"socket"}
    for name, entry in entries.items():
        found = os.lstat(place / name)
        assert (entry.mode, entry.uid, entry.gid) == (found.st_mode, found.st_uid, found.st_gid)
        assert (entry.size, entry.mtime) == (found.st_size, int(found.st_mtime))
    assert entries[b"file"].user == place.user.name
    assert entries[b"file"].group == place.user.groups[0]
    assert entries[b"dangling"].link_target == b"no where"
    assert entries[b"file"].link_target is None


@pytest.mark.parametrize("ns", [0, 1_700_000_000_123_000_000, 1_700_000_000_999_999_000, -2_000_000_000, 1_000_000])
async def test_stat_knows_milliseconds(files: RemoteFiles, place: Place, ns: Any) -> None:
    """Times are told to the millisecond at least, before 1970 too."""
    path = place.write("file")
    os.utime(path, ns=(ns, ns))
    found = await files.stat(path)
    assert (found.mtime, found.fraction) == divmod(ns // 10**6, 1000)
    assert found.atime == ns // 10**9


async def test_times_before_1970_and_after_2037(files: RemoteFiles, place: Place) -> None:
    place.run("mkdir", "-p", "directory/below")
    times = {b"old": -86400, b"just": -1, b"late": 2**31, b"far": 2**32 - 1, b"directory/below/deep": -5}
    for name, time in times.items():
        os.utime(place.write(name), (0, time))
    place.run("ln", "-s", "old", "link")
    listed = by_name(await files.listing(place / "", recursive=True))
    assert {name: listed[name].mtime for name in times} == times
    assert by_name(await files.listing(place / "", follow=True))[b"link"].mtime == times[b"old"]
    assert (await files.entry(place / "just")).mtime == -1
    assert [entry.mtime for entry in await files.listing(place / "late")] == [2**31]


async def test_times_that_no_32_bits_hold(files: RemoteFiles, place: Place, small_disk: bytes | None) -> None:
    """Damaged times are told as they are, in listings too (9001/copyparty 1470, AlistGo/alist 9244, ogham/exa 738)."""
    if small_disk is None:
        return
    times = (2**32 + 5, 15_526_885_624, 99_999_999_999, 253_402_300_800, 910_670_515_199, -(2**32) - 5, 1, 2**31 - 1)
    for time in times:
        path = small_disk + b"/%d" % time
        with open(path, "wb"):
            os.utime(path, (time, time))
    for recursive in (False, True):
        listed = by_name(await files.listing(small_disk, recursive=recursive))
        assert {int(name): entry.mtime for name, entry in listed.items()} == {time: time for time in times}


async def test_devices_and_owners_of_others(files: RemoteFiles) -> None:
    entries = by_name(await files.listing(b"/dev"))
    null = entries[b"null"]
    assert stat.S_ISCHR(null.mode)
    assert null.size == 0
    assert (null.user, null.group) == ("root", "root")


async def test_special_permission_bits(files: RemoteFiles, place: Place) -> None:
    """Setuid, setgid and sticky bits are listed."""
    for name, mode in (("setuid", 0o4755), ("setgid", 0o2755), ("both", 0o6644), ("plain", 0o700)):
        place.write(name)
        os.chmod(place / name, mode)
    place.run("mkdir", "-m", "1777", "sticky")
    place.run("mkdir", "-m", "1770", "Sticky")
    for listed, entry in by_name(await files.listing(place / "")).items():
        assert entry.mode == os.lstat(place / listed).st_mode


async def test_hidden_files(files: RemoteFiles, place: Place) -> None:
    """Hidden files are listed, or left out if asked for."""
    place.write(".hidden")
    place.write("shown")
    place.run("mkdir", ".directory")
    place.write(".directory/inside")
    assert set(by_name(await files.listing(place / ""))) == {b".hidden", b"shown", b".directory"}
    assert set(by_name(await files.listing(place / "", hidden=False))) == {b"shown"}
    assert set(by_name(await files.listing(place / "", hidden=False, recursive=True))) == {b"shown"}
    everything = by_name(await files.listing(place / "", recursive=True))
    assert set(everything) == {b".hidden", b"shown", b".directory", b".directory/inside"}


@pytest.mark.parametrize("slash", [b"", b"/"])
async def test_a_recursive_listing_has_relative_names(files: RemoteFiles, place: Place, slash: Any) -> None:
    place.run("mkdir", "-p", "a/b\nc/-d", "e:")
    place.write("a/b\nc/-d/file")
    entries = by_name(await files.listing(place / "" + slash, recursive=True))
    assert set(entries) == {b"a", b"a/b\nc", b"a/b\nc/-d", b"a/b\nc/-d/file", b"e:"}


async def test_an_unreadable_directory_below_leaves_the_rest(files: RemoteFiles, place: Place) -> None:
    place.run("mkdir", "open", "locked")
    place.write("open/file")
    place.run("chmod", "0", "locked")
    entries = by_name(await files.listing(place / "", recursive=True))
    assert set(entries) == {b"open", b"open/file", b"locked"}


async def test_a_directory_whose_names_alone_may_be_read_is_not_empty(files: RemoteFiles, place: Place) -> None:
    """Pkg/sftp 538, gokcehan/lf 202: one that may be read but not searched is a refusal, and below it is left out."""
    place.run("mkdir", "-p", "outer/names", "empty")
    place.write("outer/names/file")
    place.write("outer/names/.hidden")
    os.chmod(place / "outer/names", 0o444)
    for options in ({}, {"recursive": True}, {"follow": True}):
        with pytest.raises(PermissionDenied, match=r"^ls: cannot access '.*/names/.*': Permission denied"):
            await files.listing(place / "outer/names", **options)
    assert set(by_name(await files.listing(place / "outer", recursive=True))) == {b"names"}
    assert await files.listing(place / "empty", hidden=False) == []
    os.chmod(place / "outer/names", 0o755)


async def test_one_file_is_named_as_given(files: RemoteFiles, place: Place) -> None:
    path = place.write("a b")
    assert [entry.name for entry in await files.listing(path)] == [path]
    assert (await files.entry(path)).name == path


async def test_a_link_to_a_directory(files: RemoteFiles, place: Place) -> None:
    place.run("mkdir", "directory")
    place.write("directory/inside")
    place.run("ln", "-s", "directory", "link")
    (entry,) = await files.listing(place / "link")
    assert (entry.name, entry.link_target) == (place / "link", b"directory")
    assert set(by_name(await files.listing(place / "link/"))) == {b"inside"}
    assert set(by_name(await files.listing(place / "link", follow=True))) == {b"inside"}
    assert set(by_name(await files.listing(place / "link/", recursive=True))) == {b"inside"}


async def test_following_links(files: RemoteFiles, place: Place) -> None:
    """A listing that follows links shows what they lead to, and the links that lead nowhere."""
    place.write("file", b"123")
    place.run("ln", "-s", "file", "link")
    place.run("ln", "-s", "nowhere", "dangling")
    place.run("ln", "-s", ".", "round")
    entries = by_name(await files.listing(place / "", follow=True))
    assert (entries[b"link"].size, entries[b"link"].link_target) == (3, None)
    assert stat.S_ISREG(entries[b"link"].mode)
    assert entries[b"dangling"].is_link
    assert entries[b"dangling"].link_target == b"nowhere"
    assert entries[b"round"].is_directory
    deep = by_name(await files.listing(place / "", follow=True, recursive=True))
    assert {b"file", b"link", b"dangling", b"round"} <= set(deep)


async def test_a_listing_over_the_limit(files: RemoteFiles, place: Place) -> None:
    for number in range(200):
        place.write(f"{number:020}")
    assert len(await files.listing(place / "", limit=100_000)) == 200
    with pytest.raises(TooLarge):
        await files.listing(place / "", limit=5_000)


async def test_an_empty_directory(files: RemoteFiles, place: Place) -> None:
    """An empty directory is an empty list."""
    assert await files.listing(place / "") == []
    assert await files.listing(place / "", recursive=True) == []


async def test_listings_that_fail(files: RemoteFiles, place: Place) -> None:
    """A listing that fails is a typed error in the words of ls."""
    place.write("file")
    place.run("mkdir", "-m", "0", "locked")
    with pytest.raises(PathNotFound, match=r"^ls: cannot access '.*/none': No such file or directory$"):
        await files.listing(place / "none")
    with pytest.raises(NotADirectory, match=r"^ls: cannot access '.*/file/x': Not a directory$"):
        await files.listing(place / "file/x")
    with pytest.raises(PermissionDenied, match=r"^ls: cannot open directory '.*/locked': Permission denied$"):
        await files.listing(place / "locked")
    with pytest.raises(PermissionDenied, match=r"^ls: cannot access '.*/locked/x': Permission denied$"):
        await files.listing(place / "locked/x")
    with pytest.raises(PathNotFound, match=r"^ls: cannot access '.*': No such file or directory$"):
        await files.entry(place / "none")


# Attributes


async def test_stat_has_all_ten_fields(files: RemoteFiles, place: Place) -> None:
    place.write("file", b"x" * 1000, 0o4711)
    place.run("ln", "file", "hard")
    place.run("ln", "-s", "file", "link")
    for name, follow in (("file", True), ("link", True), ("link", False)):
        found = os.stat(place / name, follow_symlinks=follow)
        told = await files.stat(place / name, follow=follow)
        assert (told.mode, told.ino, told.dev, told.nlink) == (
            found.st_mode,
            found.st_ino,
            found.st_dev,
            found.st_nlink,
        )
        assert (told.uid, told.gid, told.size) == (found.st_uid, found.st_gid, found.st_size)
        assert (told.atime, told.ctime, told.mtime) == (
            int(found.st_atime),
            int(found.st_ctime),
            int(found.st_mtime),
        )


async def test_stat_that_fails(files: RemoteFiles, place: Place) -> None:
    """A stat that fails is a typed error in the words of stat."""
    place.write("file")
    place.run("ln", "-s", "nowhere", "dangling")
    place.run("ln", "-s", "loop", "loop")
    assert stat.S_ISLNK((await files.stat(place / "dangling", follow=False)).mode)
    for name, error, words in (
        ("none", PathNotFound, "No such file or directory"),
        ("dangling", PathNotFound, "No such file or directory"),
        ("file/x", NotADirectory, "Not a directory"),
        ("loop", BadRequest, "Too many levels of symbolic links"),
        ("x" * 256, BadRequest, "File name too long"),
    ):
        with pytest.raises(error, match=f"^stat: cannot statx? '.*/{name}': {words}$"):
            await files.stat(place / name)


async def test_odd_names_do_everything(files: RemoteFiles, place: Place) -> None:
    for name in ODD_NAMES:
        path = place / name
        assert await files.write(path, blocks(b"con", b"tent")) == 7
        assert await files.read(path) == b"content"
        assert (await files.stat(path)).size == 7
        assert (await files.entry(path)).name == path
        await files.chmod(path, 0o600)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        await files.rename(path, place / "elsewhere")
        await files.symlink(path, place / "link")
        assert os.readlink(place / "link") == path
        await files.mkdir(path)
        assert os.path.isdir(path)
        assert await files.realpath(place / "link") == os.path.realpath(path)
        await files.remove(place / "link")
        await files.remove(path)
        await files.remove(place / "elsewhere")
        assert place.names() == []


# Reading


async def test_reading_parts(files: RemoteFiles, place: Place) -> None:
    """Any part of a file can be read."""
    content = os.urandom(700_000)
    path = place.write("file", content)
    assert await files.read(path) == content
    assert await files.read(path, offset=10, size=20) == content[10:30]
    assert await files.read(path, offset=699_990, size=100) == content[-10:]
    assert await files.read(path, offset=700_000, size=10) == b""
    assert await files.read(path, offset=9_000_000) == b""
    assert await files.read(path, size=0) == b""
    assert await files.read(path, offset=5, size=600_000) == content[5:600_005]


async def test_streaming(files: RemoteFiles, place: Place) -> None:
    """A file, or a part of it, is streamed whole."""
    content = os.urandom(9_000_001)
    path = place.write("file", content)
    assert b"".join([block async for block in files.stream(path)]) == content
    assert b"".join([block async for block in files.stream(path, offset=1, size=8_500_000)]) == content[1:8_500_001]
    assert [block async for block in files.stream(place.write("empty"))] == []


async def test_a_stream_that_is_left_early(files: RemoteFiles, place: Place) -> None:
    path = place.write("file", bytes(9_000_000))
    asked: Any = files.stream(path)
    async with aclosing(asked) as stream:
        async for block in stream:
            assert block
            break
    assert await files.read(path, size=3) == bytes(3)


async def test_files_of_the_kernel_have_content_but_no_length(files: RemoteFiles) -> None:
    assert (await files.read(b"/proc/version", size=100_000)).startswith(b"Linux version")
    assert b"".join([block async for block in files.stream(b"/proc/version")]).startswith(b"Linux version")


async def test_reading_that_fails(files: RemoteFiles, place: Place) -> None:
    """Reading that fails is a typed error in the words of the tool."""
    place.run("mkdir", "directory")
    place.write("secret", b"x", 0)
    for name, error, words in (
        ("none", PathNotFound, "No such file or directory"),
        ("directory", IsADirectory, "Is a directory"),
        ("secret", PermissionDenied, "Permission denied"),
        ("secret/x", NotADirectory, "Not a directory"),
    ):
        with pytest.raises(error, match=f"^cat: .*/{name}: {words}$"):
            await files.read(place / name, size=10)
        with pytest.raises(error, match=f"^cat: .*/{name}: {words}$"):
            await files.read(place / name)
        with pytest.raises(error, match=f"^cat: .*/{name}: {words}$"):
            [block async for block in files.stream(place / name)]
    with pytest.raises(PathNotFound, match=r"^head: cannot open '.*/none' for reading: No such file or directory$"):
        await files.read(place / "none", size=10, tool="head")
    with pytest.raises(IsADirectory, match=r"^tail: error reading '.*/directory': Is a directory$"):
        await files.read(place / "directory", size=10, tool="tail")


async def test_what_is_no_file_is_not_opened(files: RemoteFiles, place: Place) -> None:
    place.run("mkfifo", "fifo")
    async with asyncio.timeout(300):
        for path in (place / "fifo", b"/dev/zero"):
            with pytest.raises(BadRequest, match=r"^cat: .*: Not a regular file$"):
                await files.read(path, size=10)
        with pytest.raises(BadRequest, match=r"^cp: .*: Not a regular file$"):
            await files.write(place / "fifo", blocks(b"x"))


# Writing


async def test_writing(files: RemoteFiles, place: Place) -> None:
    """A file is made or replaced by what is written, however it is cut."""
    content = os.urandom(3_000_000)
    path = place / "file"
    assert await files.write(path, blocks(content[:1], content[1:2_000_000], b"", content[2_000_000:])) == 3_000_000
    assert Path(os.fsdecode(path)).read_bytes() == content
    assert await files.write(path, blocks()) == 0
    assert os.stat(path).st_size == 0
    assert place.names() == [b"file"]


async def test_a_new_file_has_the_mode_asked_for_or_the_umask_s(files: RemoteFiles, place: Place) -> None:
    await files.write(place / "new", blocks(b"x"), mode=0o600)
    await files.write(place / "plain", blocks(b"x"))
    assert stat.S_IMODE(os.stat(place / "new").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(place / "plain").st_mode) in (0o644, 0o664)
    assert os.stat(place / "plain").st_uid == place.user.uid


async def test_an_existing_file_keeps_its_mode(files: RemoteFiles, place: Place) -> None:
    path = place.write("file", b"old", 0o751)
    inode = os.stat(path).st_ino
    await files.write(path, blocks(b"new"), mode=0o600)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o751
    assert os.stat(path).st_ino != inode


async def test_a_link_is_written_through(files: RemoteFiles, place: Place) -> None:
    place.run("mkdir", "directory")
    place.write("directory/file", b"old")
    place.run("ln", "-s", "directory/file", "link")
    place.run("ln", "-s", "directory/new", "dangling")
    await files.write(place / "link", blocks(b"new"))
    await files.write(place / "dangling", blocks(b"made"))
    assert os.readlink(place / "link") == b"directory/file"
    assert place.run("cat", "directory/file", "directory/new") == b"newmade"


class Broken(Exception):
    pass


async def test_an_upload_that_breaks_off_leaves_the_old_file(files: RemoteFiles, place: Place) -> None:
    path = place.write("file", b"old")

    async def breaking() -> AsyncIterator[bytes]:
        yield b"new" * 100_000
        raise Broken

    with pytest.raises(Broken):
        await files.write(path, breaking())
    await settled(place, [b"file"])
    assert Path(os.fsdecode(path)).read_bytes() == b"old"


async def test_an_upload_that_is_cancelled_leaves_the_old_file(files: RemoteFiles, place: Place) -> None:
    path = place.write("file", b"old")
    under_way = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"new" * 100_000
        under_way.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(files.write(path, endless()))
    await under_way.wait()
    async with asyncio.timeout(300):
        while len(place.names()) < 2:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(place, [b"file"])
    assert Path(os.fsdecode(path)).read_bytes() == b"old"


async def settled(place: Place, names: list[bytes]) -> None:
    """Wait until the directory holds these names; a command that is ended cleans up behind itself."""
    async with asyncio.timeout(300):
        while place.names() != names:
            await asyncio.sleep(0.05)


async def test_writing_that_fails(files: RemoteFiles, place: Place) -> None:
    """Writing that fails is a typed error, and leaves nothing."""
    place.run("mkdir", "directory")
    place.run("mkdir", "-m", "555", "locked")
    place.write("file")
    place.run("ln", "-s", "loop", "loop")
    for name, error, words in (
        ("none/file", PathNotFound, "No such file or directory"),
        ("directory", IsADirectory, "Is a directory"),
        ("locked/file", PermissionDenied, "Permission denied"),
        ("file/x", NotADirectory, "Not a directory"),
    ):
        with pytest.raises(error, match=f"^cp: cannot create regular file '.*/{name}': {words}$"):
            await files.write(place / name, blocks(b"x"))
    with pytest.raises(BadRequest, match="Too many levels of symbolic links"):
        await files.write(place / "loop", blocks(b"x"))
    assert sorted(place.names()) == [b"directory", b"file", b"locked", b"loop"]


@pytest.fixture
def small_disk(place: Place) -> Iterator[bytes | None]:
    """A file system of one megabyte."""
    if os.geteuid() != 0:
        # An ordinary user has no file system that may be filled, but the kernel has a device that always is.
        yield None
        return
    mount = place.path / "small"
    mount.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=1m,uid={place.user.uid},mode=755", "tmpfs", str(mount)], check=True
    )
    yield os.fsencode(mount)
    subprocess.run(["umount", str(mount)], check=True)


async def test_a_full_disk(files: RemoteFiles, place: Place, small_disk: bytes | None) -> None:
    """A full disk is a typed error, and the old file stays whole."""
    if small_disk is None:
        return
    old = small_disk + b"/file"
    await files.write(old, blocks(b"old"))
    with pytest.raises(NoSpace, match=r"^cp: error writing '.*/file': No space left on device$"):
        await files.write(old, blocks(*[bytes(65536)] * 40))
    async with asyncio.timeout(300):
        while os.listdir(small_disk) != [b"file"]:
            await asyncio.sleep(0.05)
    assert await files.read(old) == b"old"


# Changes


async def test_directories(files: RemoteFiles, place: Place) -> None:
    """Directories are made, with those above them if asked for."""
    await files.mkdir(place / "a")
    await files.mkdir(place / "b/c/d", parents=True)
    await files.mkdir(place / "b/c/d", parents=True)
    assert os.path.isdir(place / "b/c/d")
    place.write("file")
    for name, error, words in (
        ("a", AlreadyExists, "File exists"),
        ("file", AlreadyExists, "File exists"),
        ("none/x", PathNotFound, "No such file or directory"),
        ("file/x", NotADirectory, "Not a directory"),
        ("x" * 256, BadRequest, "File name too long"),
    ):
        with pytest.raises(error, match=f"^mkdir: cannot create directory \u2018.*/{name}\u2019: {words}$"):
            await files.mkdir(place / name)


async def test_links_that_fail(files: RemoteFiles, place: Place) -> None:
    """A link that cannot be made is a typed error in the words of ln."""
    place.run("mkdir", "directory")
    with pytest.raises(AlreadyExists, match=r"^ln: failed to create symbolic link '.*/directory': File exists$"):
        await files.symlink(b"/x", place / "directory")
    with pytest.raises(PathNotFound, match=r"^ln: failed to create symbolic link '.*': No such file or directory$"):
        await files.symlink(b"/x", place / "none/link")


async def test_chmod(files: RemoteFiles, place: Place) -> None:
    """Modes are set, and a refusal is in the words of chmod."""
    path = place.write("file")
    await files.chmod(path, 0o4750)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o4750
    with pytest.raises(PathNotFound, match=r"^chmod: cannot access '.*': No such file or directory$"):
        await files.chmod(place / "none", 0o644)
    with pytest.raises(PermissionDenied, match=r"^chmod: changing permissions of '/etc/passwd': Operation not"):
        await files.chmod(b"/etc/passwd", 0o777)


async def test_renaming(files: RemoteFiles, place: Place) -> None:
    """Renaming replaces what is there."""
    place.write("a", b"a")
    place.write("b", b"b")
    await files.rename(place / "a", place / "b")
    assert place.names() == [b"b"]
    assert await files.read(place / "b") == b"a"
    with pytest.raises(PathNotFound, match="No such file or directory"):
        await files.rename(place / "none", place / "c")


async def test_removing(files: RemoteFiles, place: Place) -> None:
    """A tree is removed without what its links lead to."""
    place.run("mkdir", "-p", "tree/a/b", "kept")
    place.write("kept/file")
    place.write("tree/a/file", b"", 0o400)
    place.run("ln", "-s", "../../kept", "tree/a/link")
    place.run("ln", "-s", "kept", "link")
    await files.remove(place / "tree")
    await files.remove(place / "link")
    assert place.names() == [b"kept"]
    assert os.path.exists(place / "kept/file")
    for name, error, words in (
        ("none", PathNotFound, "No such file or directory"),
        ("kept/file/x", NotADirectory, "Not a directory"),
    ):
        with pytest.raises(error, match=f"^rm: cannot remove '.*/{name}': {words}$"):
            await files.remove(place / name)
    with pytest.raises(PermissionDenied, match=r"^rm: cannot remove '/etc/passwd': Permission denied$"):
        await files.remove(b"/etc/passwd")


@pytest.mark.parametrize("path", [b"/", b"//", b"/tmp/.", b"/tmp/..", b"/tmp/../", b"/.", b"/.."])
async def test_what_rm_refuses(files: RemoteFiles, path: Any) -> None:
    """The root, and paths that end in dots, are not removed."""
    with pytest.raises(BadRequest, match=re.escape("rm: ")):
        await files.remove(path)


async def test_errors_are_ours(files: RemoteFiles) -> None:
    """Whatever fails, the error is one of the gateway's."""
    for path in (b"/none/x", b"/etc/passwd/x", b"/" + b"x" * 300):
        for operation in (files.listing, files.entry, files.stat, files.read, files.mkdir, files.remove):
            with pytest.raises(GatewayError) as caught:
                await operation(path)
            assert caught.value.status in (400, 403, 404)


async def test_a_read_that_is_cancelled_leaves_the_files_usable(files: RemoteFiles, place: Place) -> None:
    path = place.write("file", os.urandom(200_000))
    for pause in (0, 0.0001, 0.0005, 0.001, 0.002):
        task = asyncio.create_task(files.read(path, size=100_000))
        await asyncio.sleep(pause)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert len(await files.read(path, size=100_000)) == 100_000


# What the file system refuses

LONG = "x" * 256
REFUSED = {
    # What fails by SSH_FX_BAD_MESSAGE of OpenSSH: ENAMETOOLONG, EINVAL.
    "listing": lambda files, place: files.listing(place / LONG),
    "listing a tree": lambda files, place: files.listing(place / LONG, recursive=True),
    "listing inside": lambda files, place: files.listing(place / f"{LONG}/x"),
    "entry": lambda files, place: files.entry(place / LONG),
    "stat": lambda files, place: files.stat(place / LONG),
    "lstat": lambda files, place: files.stat(place / LONG, follow=False),
    "realpath": lambda files, place: files.realpath(place / f"{LONG}/x"),
    "read": lambda files, place: files.read(place / LONG),
    "read some": lambda files, place: files.read(place / LONG, size=10),
    "write": lambda files, place: files.write(place / LONG, blocks(b"x")),
    "write inside": lambda files, place: files.write(place / f"{LONG}/x", blocks(b"x")),
    "rename": lambda files, place: files.rename(place / "file", place / LONG),
    "rename what is not there": lambda files, place: files.rename(place / LONG, place / "file"),
    "rename into itself": lambda files, place: files.rename(place / "directory", place / "directory/inside"),
    "mkdir": lambda files, place: files.mkdir(place / LONG),
    "mkdir inside": lambda files, place: files.mkdir(place / f"{LONG}/x"),
    "mkdir with parents": lambda files, place: files.mkdir(place / f"{LONG}/x", parents=True),
    "symlink": lambda files, place: files.symlink(b"file", place / LONG),
    "symlink to more than fits": lambda files, place: files.symlink(b"/" + b"x/" * 2500, place / "link"),
    "chmod": lambda files, place: files.chmod(place / LONG, 0o600),
    "remove": lambda files, place: files.remove(place / LONG),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_the_file_system_refuses_costs_no_more_than_that(
    files: RemoteFiles, place: Place, name: Any
) -> None:
    place.write("file", b"content")
    place.run("mkdir", "directory")
    with capture_logs() as logs:
        with pytest.raises(GatewayError, match=r"File name too long$|to a subdirectory of itself") as caught:
            await REFUSED[name](files, place)
        assert await files.read(place / "file") == b"content"
        assert [entry.name for entry in await files.listing(place / "file")] == [place / "file"]
    assert [line for line in logs if line["event"].startswith("ssh.")] == []
    assert ".hpcgate-" not in caught.value.message
    assert caught.value.status == 400 or "itself" in caught.value.message
    assert place.names() == [b"directory", b"file"]


# Looks


async def test_a_look_tells_attributes_and_content_of_one_file(files: RemoteFiles, place: Place) -> None:
    path = place.write("log", b"0123456789")
    look = await files.look(path, start=2, above=5, size=4)
    found = os.stat(path)
    assert (look.attributes.ino, look.attributes.size, look.content) == (found.st_ino, 10, b"2345")
    assert (await files.look(path, start=8, above=5, size=4)).content == b"89"
    assert (await files.look(path, start=2, above=10, size=4)).content == b""
    assert (await files.look(path, start=2, above=9, size=0)).content == b""
    await files.release(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"\0\1\0", bytes(range(256)), b"a b\n c"])
@pytest.mark.parametrize("name", ["plain", "two words", "-n", "new\nline", b"\xff"])
async def test_a_look_tells_any_bytes(files: RemoteFiles, place: Place, name: str | bytes, content: bytes) -> None:
    look = await files.look(place.write(name, content), start=0, above=-1, size=1000)
    assert look.content == content


async def test_a_look_at_what_is_not_a_regular_file_fails(files: RemoteFiles, place: Place) -> None:
    place.run("mkdir", "directory")
    place.run("mkfifo", "fifo")
    place.write("closed", b"", 0)
    for name, error in (
        ("directory", IsADirectory),
        ("fifo", BadRequest),
        ("closed", PermissionDenied),
        ("missing", PathNotFound),
        ("closed/below", NotADirectory),
    ):
        with pytest.raises(error, match="cat: "):
            await files.look(place / name, start=0, above=0, size=1)
