"""Every operation on a real sshd, by SFTP and by commands."""

import asyncio
import hashlib
import importlib
import os
import stat
import struct
import subprocess
import tarfile
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from hpcgate.demo.sshd import Sshd
from hpcgate.errors import (
    AlreadyExists,
    BadRequest,
    CommandFailed,
    GatewayError,
    IsADirectory,
    NoSpace,
    NotADirectory,
    PathNotFound,
    PermissionDenied,
    TimedOut,
    TooLarge,
)
from hpcgate.filesystem.base import Limits
from hpcgate.filesystem.checksum import Checksum
from hpcgate.filesystem.chmod import Chmod
from hpcgate.filesystem.chown import Chown
from hpcgate.filesystem.compress import Compress
from hpcgate.filesystem.extract import Extract
from hpcgate.filesystem.file_type import FileType
from hpcgate.filesystem.head import Head
from hpcgate.filesystem.ls import Ls
from hpcgate.filesystem.mkdir import Mkdir
from hpcgate.filesystem.rm import Rm
from hpcgate.filesystem.stat import Stat
from hpcgate.filesystem.symlink import Symlink
from hpcgate.filesystem.tail import Tail
from hpcgate.filesystem.view import View
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.session import Session
from tests.filesystem.remote import WAYS, Place
from tests.ssh.nodes import Keys, LoginNodes, principal, settings

MAX = 1024 * 1024


def text(path: bytes) -> str:
    return os.fsdecode(path)


Do = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture
def do(session: Session) -> Do:
    async def run(operation: Any, **given: Any) -> Any:
        given = {key: text(value) if isinstance(value, bytes) else value for key, value in given.items()}
        asked = operation(operation.Parameters.model_validate(given), Limits(MAX))
        assert all(os.fsdecode(path) in given.values() for path in asked.paths())
        return await asked.run(session)

    return run


# ls


async def test_ls_tells_what_ls_tells(do: Do, place: Place) -> None:
    place.write("file", b"12345", 0o4751)
    os.utime(place / "file", (0, 1_700_000_000))
    place.run("mkdir", "-m", "3775", "directory")
    place.run("ln", "-s", "file", "link")
    place.write(".hidden")
    listed = await do(Ls, path=place / "")
    assert [file.name for file in listed] == ["directory", "file", "link"]
    directory, file, link = listed
    local = place.run("date", "-d", "@1700000000", "+%Y-%m-%dT%H:%M:%S").decode().strip()
    assert file.model_dump(by_alias=True) == {
        "name": "file",
        "type": "-",
        "linkTarget": None,
        "user": place.user.name,
        "group": place.user.groups[0],
        "permissions": "rwsr-x--x",
        "lastModified": local,
        "size": "5",
    }
    assert (directory.type, directory.permissions) == ("d", "rwxrwsr-t")
    assert (link.type, link.link_target, link.permissions) == ("l", "file", "rwxrwxrwx")
    hidden = await do(Ls, path=place / "", showHidden=True, numericUid=True)
    assert [file.name for file in hidden] == [".hidden", "directory", "file", "link"]
    assert {(file.user, file.group) for file in hidden} == {(str(place.user.uid), str(place.user.gid))}


async def test_a_large_listing_does_not_hold_up_the_event_loop(
    do: Do, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    for module, name in (("hpcgate.filesystem.ls", "_shown"), ("hpcgate.ssh.files.command_files", "parse_listing")):
        work = getattr(importlib.import_module(module), name)

        def watched(*given: Any, work: Any = work) -> Any:
            threads.add(threading.get_ident())
            return work(*given)

        monkeypatch.setattr(f"{module}.{name}", watched)
    place.write("one")
    assert len(await do(Ls, path=place / "")) == 1
    assert threads == {threading.get_ident()}
    threads.clear()
    place.run("sh", "-c", "seq 0 2999 | xargs touch")
    assert len(await do(Ls, path=place / "")) == 3001
    assert threads
    assert threading.get_ident() not in threads


async def test_ls_is_sorted_by_bytes_and_replaces_what_is_no_utf_8(do: Do, place: Place) -> None:
    for name in (b"B", b"a", b"\xff", "é".encode(), b"-"):
        place.write(name)
    assert [file.name for file in await do(Ls, path=place / "")] == ["-", "B", "a", "é", "\ufffd"]


async def test_ls_follows_and_descends(do: Do, place: Place) -> None:
    place.run("mkdir", "-p", "directory/deep")
    place.run("ln", "-s", "directory", "link")
    assert [file.type for file in await do(Ls, path=place / "", dereference=True)] == ["d", "d"]
    names = [file.name for file in await do(Ls, path=place / "", recursive=True)]
    assert names == ["directory", "directory/deep", "link"]


async def test_ls_of_strangers_and_devices(do: Do, place: Place) -> None:
    if os.geteuid() == 0:
        place.write("stranger")
        os.chown(place / "stranger", 54321, 54322)
        (file,) = await do(Ls, path=place / "")
        assert (file.user, file.group) == ("54321", "54322")
    null = next(file for file in await do(Ls, path="/dev") if file.name == "null")
    assert (null.type, null.size, null.user) == ("c", "0", "root")


async def test_ls_of_too_much(do: Do, place: Place) -> None:
    for number in range(40):
        directory = place.path / ("d" * 200 + str(number))
        directory.mkdir()
        for inner in range(120):
            (directory / ("x" * 200 + str(inner))).touch()
    with pytest.raises(TooLarge):
        await do(Ls, path=place / "", recursive=True)


def acl(uid: int) -> bytes:
    """An access control list that lets one more user read (linux/posix_acl_xattr.h)."""
    entries = ((1, 6, -1), (2, 4, uid), (4, 4, -1), (16, 4, -1), (32, 0, -1))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


async def test_a_file_with_an_access_control_list(do: Do, session: Session, place: Place) -> None:
    path = place.write("file")
    os.setxattr(path, "system.posix_acl_access", acl(1))
    (file,) = await do(Ls, path=place / "")
    assert file.permissions[:9] == "rw-r-----"
    by_commands = type(await session.plain_files()).__name__ == "CommandFiles"
    assert file.permissions[9:] == ("+" if by_commands else "")


# stat


async def test_stat(do: Do, place: Place) -> None:
    """The operation tells what stat tells."""
    place.write("file", b"123")
    place.run("ln", "-s", "file", "link")
    found = os.stat(place / "file")
    told = await do(Stat, path=place / "link", dereference=True)
    assert told.model_dump() == {
        key: int(getattr(found, f"st_{key}"))
        for key in ("mode", "ino", "dev", "nlink", "uid", "gid", "size", "atime", "ctime", "mtime")
    }
    assert stat.S_ISLNK((await do(Stat, path=place / "link")).mode)
    with pytest.raises(PathNotFound, match=r"^stat: cannot statx '.*/none': No such file or directory$"):
        await do(Stat, path=place / "none")


# head, tail, view

CONTENTS = {
    "short": b"one\ntwo\nthree\n",
    "unended": b"one\ntwo\nthree",
    "empty": b"",
    "newlines": b"\n" * 30,
    "no newline": b"x" * 1000,
    "long": b"".join(b"line %d\n" % number for number in range(30_000)),
    "one long line": b"x" * 200_000 + b"\nend",
}


@pytest.mark.parametrize("name", CONTENTS)
async def test_head_and_tail_as_the_tools_do(do: Do, place: Place, name: Any) -> None:
    path = place.write("file", CONTENTS[name])
    for unit, option in (("lines", "-n"), ("bytes", "-c")):
        for count in (0, 1, 3, 11_000):
            head = await do(Head, path=path, **{unit: count})
            assert head.content.encode() == place.run("head", option, str(count), "file")
            assert (head.content_type, head.start_position, head.end_position) == (unit, 0, count)
            head = await do(Head, path=path, skipTrailing=True, **{unit: count})
            assert head.content.encode() == place.run("head", option, str(-count) if count else "-0", "file")
            assert (head.start_position, head.end_position) == (0, -count)
            tail = await do(Tail, path=path, **{unit: count})
            assert tail.content.encode() == place.run("tail", option, str(count), "file")
            assert (tail.content_type, tail.start_position, tail.end_position) == (unit, -count, -1)
            tail = await do(Tail, path=path, skipHeading=True, **{unit: count})
            assert tail.content.encode() == place.run("tail", option, f"+{count}", "file")
            assert (tail.start_position, tail.end_position) == (count, -1)


async def test_head_and_tail_without_a_count(do: Do, place: Place) -> None:
    path = place.write("file", CONTENTS["long"])
    head = await do(Head, path=path)
    assert head.content.encode() == place.run("head", "file")
    assert (head.content_type, head.start_position, head.end_position) == ("lines", 0, 10)
    tail = await do(Tail, path=path)
    assert tail.content.encode() == place.run("tail", "file")
    assert (tail.content_type, tail.start_position, tail.end_position) == ("lines", 10, -1)


async def test_head_and_tail_of_too_much(do: Do, place: Place) -> None:
    long = place.write("long", b"x" * (2 * MAX) + b"\n")
    exact = place.write("exact", b"x" * (MAX - 1) + b"\n")
    for operation in (Head, Tail):
        with pytest.raises(TooLarge):
            await do(operation, path=long, lines=1)
        with pytest.raises(TooLarge):
            await do(operation, path=long, bytes=2 * MAX)
        assert len((await do(operation, path=exact, lines=1)).content) == MAX
        assert len((await do(operation, path=long, bytes=MAX)).content) == MAX


@pytest.mark.parametrize("operation", [Head, Tail])
async def test_head_and_tail_that_fail(do: Do, place: Place, operation: Any) -> None:
    place.write("secret", b"", 0)
    with pytest.raises(PathNotFound, match=r"^\w+: cannot open '.*/none' for reading: No such file or directory$"):
        await do(operation, path=place / "none")
    with pytest.raises(IsADirectory, match=r"^\w+: error reading '.*': Is a directory$"):
        await do(operation, path=place / "", bytes=0)
    with pytest.raises(PermissionDenied, match=r"^\w+: cannot open '.*/secret' for reading: Permission denied$"):
        await do(operation, path=place / "secret", bytes=3)
    for wrong in ({"bytes": 1, "lines": 1}, {"bytes": -1}, {"lines": -1}):
        with pytest.raises(ValidationError):
            await do(operation, path=place / "secret", **wrong)
    assert "Linux" in (await do(operation, path="/proc/version")).content


async def test_view(do: Do, place: Place) -> None:
    """The operation gives any part of a file."""
    path = place.write("file", b"0123456789\xff")
    assert await do(View, path=path) == "0123456789\ufffd"
    assert await do(View, path=path, size=3, offset=8) == "89\ufffd"
    assert await do(View, path=path, offset=11) == ""
    assert await do(View, path=path, offset=1000, size=MAX) == ""
    for far in (2**40 + 1, 10**15, 2**63 - 1, 2**63, 2**64, 10**30):
        assert await do(View, path=path, offset=far) == ""
        assert (await do(Tail, path=path, bytes=far, skip_heading=True)).content == ""
        with pytest.raises(PathNotFound, match=r"^dd: failed to open"):
            await do(View, path=path + b"-missing", offset=far)
    large = place.write("large", b"x" * (6 * MAX) + b"end")
    assert await do(View, path=large, offset=6 * MAX, size=10) == "end"
    for wrong in ({"size": 0}, {"size": -1}, {"offset": -1}, {"size": MAX + 1}):
        with pytest.raises(BadRequest):
            await do(View, path=path, **wrong)
    with pytest.raises(PathNotFound, match=r"^dd: failed to open '.*/none': No such file or directory$"):
        await do(View, path=place / "none")


# checksum, file


@pytest.mark.parametrize("name", [b"plain", b"two words", b"back\\slash", b"new\nline", b"-c", b"\xff"])
async def test_checksum(do: Do, place: Place, name: Any) -> None:
    """The operation gives the SHA-256 of a file with any name."""
    path = place.write(name, b"content")
    told = await do(Checksum, path=path)
    assert told.algorithm == "SHA256"
    assert told.checksum == hashlib.sha256(b"content").hexdigest()


async def test_checksum_that_fails(do: Do, place: Place) -> None:
    """A checksum that fails is a typed error in the words of sha256sum."""
    place.run("mkfifo", "fifo")
    with pytest.raises(IsADirectory, match=r"^sha256sum: .*: Is a directory$"):
        await do(Checksum, path=place / "")
    with pytest.raises(PathNotFound, match=r"^sha256sum: .*/none: No such file or directory$"):
        await do(Checksum, path=place / "none")
    for path in (place / "fifo", b"/dev/zero"):
        with pytest.raises(BadRequest, match="Not a regular file"):
            await do(Checksum, path=path)


async def test_file(do: Do, place: Place) -> None:
    """The operation tells the type of a file as file does."""
    assert await do(FileType, path=place.write("-b", b"#!/bin/sh\n")) == "POSIX shell script, ASCII text executable"
    assert await do(FileType, path=place / "") == "directory"
    place.run("ln", "-s", "nowhere", "dangling")
    assert await do(FileType, path=place / "dangling") == "broken symbolic link to nowhere"
    with pytest.raises(PathNotFound, match=r"^stat: cannot statx '.*/none': No such file or directory$"):
        await do(FileType, path=place / "none")


# chmod, chown, mkdir, symlink, rm


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("644", "rw-r--r--"),
        ("0600", "rw-------"),
        ("4755", "rwsr-xr-x"),
        ("0", "---------"),
        ("u+x,g-r", "rwx---r--"),
        ("a=rw", "rw-rw-rw-"),
        ("-r", "-w-------"),
        ("+X", "rw-r--r--"),
        ("u+s", "rwSr--r--"),
    ],
)
async def test_chmod(do: Do, place: Place, mode: str, told: Any) -> None:
    """The operation sets numeric and symbolic modes as chmod does."""
    path = place.write("file")
    file = await do(Chmod, path=path, mode=mode)
    assert (file.name, file.permissions) == (text(path), told)
    assert stat.filemode(os.stat(path).st_mode)[1:] == told


async def test_chmod_leaves_a_directory_s_setgid_bit_as_the_tool_does(do: Do, place: Place) -> None:
    place.run("mkdir", "-m", "2755", "directory")
    assert (await do(Chmod, path=place / "directory", mode="0700")).permissions == "rwx--S---"
    assert (await do(Chmod, path=place / "directory", mode="00700")).permissions == "rwx------"


@pytest.mark.parametrize("mode", ["", "999", "99999", "u+q", "--reference=/etc/passwd", "-R", "$(id)", "644;id", "1 2"])
async def test_chmod_with_a_mode_that_is_none(do: Do, place: Place, mode: str) -> None:
    path = place.write("file")
    if mode == "-R":
        with pytest.raises(BadRequest, match="invalid mode"):
            await do(Chmod, path=path, mode=mode)
    else:
        with pytest.raises(BadRequest, match=r"^chmod: invalid mode: \u2018.*\u2019$"):
            await do(Chmod, path=path, mode=mode)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644


async def test_chmod_that_fails(do: Do, place: Place) -> None:
    """A mode that cannot be set is a typed error in the words of chmod."""
    for mode in ("644", "u+x"):
        with pytest.raises(PathNotFound, match=r"^chmod: cannot access '.*/none': No such file or directory$"):
            await do(Chmod, path=place / "none", mode=mode)
        with pytest.raises(PermissionDenied, match=r"^chmod: changing permissions of '/etc/passwd': Operation not"):
            await do(Chmod, path="/etc/passwd", mode=mode)


async def test_chown(do: Do, place: Place) -> None:
    """The operation sets owner and group by name or number."""
    path = place.write("file")
    other = place.user.groups[-1]
    assert (await do(Chown, path=path, group=other)).group == other
    number = str(place.user.gid)
    told = await do(Chown, path=path, owner=place.user.name, group=number)
    assert (told.user, told.group) == (place.user.name, place.user.groups[0])
    assert (await do(Chown, path=path, owner=str(place.user.uid))).user == place.user.name
    assert (await do(Chown, path=path)).name == text(path)
    with pytest.raises(PathNotFound):
        await do(Chown, path=place / "none", owner=place.user.name)
    with pytest.raises(PathNotFound):
        await do(Chown, path=place / "none")
    with pytest.raises(PermissionDenied, match=r"^chown: changing ownership of '.*': Operation not permitted$"):
        await do(Chown, path="/etc/passwd", owner=place.user.name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"owner": "no-such-user"},
        {"group": "no-such-group"},
        {"owner": "root:root"},
        {"owner": "--reference=/etc/passwd"},
        {"owner": "$(id)"},
        {"group": "a\nb"},
        {"owner": "-R"},
    ],
)
async def test_chown_to_nobody(do: Do, place: Place, wrong: Any) -> None:
    """An owner or group that does not exist is 400 in the words of chown."""
    path = place.write("file")
    with pytest.raises(BadRequest, match=r"^chown: invalid (user|group|spec): \u2018.*\u2019$"):
        await do(Chown, path=path, **wrong)


async def test_mkdir(do: Do, place: Place) -> None:
    """The operation makes directories, with those above them if asked for."""
    told = await do(Mkdir, path=place / "-p", parent=False)
    assert (told.name, told.type, told.user) == (text(place / "-p"), "d", place.user.name)
    assert (await do(Mkdir, sourcePath=place / "a/b", parent=True)).type == "d"
    assert (await do(Mkdir, source_path=place / "a/b", parent=True)).type == "d"
    with pytest.raises(AlreadyExists, match=r"^mkdir: cannot create directory .*: File exists$"):
        await do(Mkdir, path=place / "a")
    with pytest.raises(PermissionDenied, match=r"^mkdir: cannot create directory .*: Permission denied$"):
        await do(Mkdir, path="/etc/x")


async def test_symlink(do: Do, place: Place) -> None:
    """The operation makes a symbolic link."""
    told = await do(Symlink, path="/no/where", linkPath=place / "link")
    assert (told.name, told.type, told.link_target) == (text(place / "link"), "l", "/no/where")
    with pytest.raises(AlreadyExists, match="File exists"):
        await do(Symlink, path="/x", link_path=place / "link")


@pytest.mark.parametrize("target", ["file", "./file", "../file", "no/where", "a b\n", "-x", "..", "."])
async def test_symlink_with_a_relative_target(session: Session, place: Place, target: Any) -> None:
    place.run("mkdir", "directory")
    link = text(place / "directory/link")
    asked = Symlink(Symlink.Parameters.model_validate({"sourcePath": target, "linkPath": link}), Limits(MAX))
    assert asked.paths() == (os.fsencode(f"{os.path.dirname(link)}/{target}"), os.fsencode(link))
    told = await asked.run(session)
    assert (told.name, told.link_target) == (link, target)
    assert os.readlink(link) == target


@pytest.mark.parametrize("target", ["", "nul\0", "x" * 4096])
def test_symlink_refuses_what_no_link_can_hold(target: Any) -> None:
    with pytest.raises(ValidationError):
        Symlink.Parameters.model_validate({"sourcePath": target, "linkPath": "/x"})


async def test_rm(do: Do, place: Place) -> None:
    """The operation removes files and trees."""
    place.run("mkdir", "-p", "tree/a")
    place.write("tree/a/file", b"", 0)
    assert await do(Rm, path=place / "tree") is None
    assert place.names() == []
    with pytest.raises(PathNotFound, match=r"^rm: cannot remove '.*/tree': No such file or directory$"):
        await do(Rm, path=place / "tree")
    with pytest.raises(BadRequest, match="dangerous"):
        await do(Rm, path="/")


# compress, extract


def members(path: bytes) -> list[str]:
    with tarfile.open(text(path)) as archive:
        return sorted(archive.getnames())


@pytest.mark.parametrize(
    ("compression", "magic"), [("gzip", b"\x1f\x8b"), ("bzip2", b"BZh"), ("xz", b"\xfd7zXZ"), ("none", b"dir")]
)
async def test_there_and_back(do: Do, place: Place, compression: str, magic: bytes) -> None:
    """What is packed by any compression is unpacked the same."""
    place.run("mkdir", "-p", "dir/sub", "out")
    place.write("dir/sub/file", b"content")
    for pattern in (None, r".*fi.*"):
        target = place / f"archive-{pattern is None}"
        assert (
            await do(Compress, path=place / "dir", targetPath=target, compression=compression, matchPattern=pattern)
            is None
        )
        found = Path(text(target)).read_bytes()
        assert found.startswith(magic if pattern is None or compression != "none" else b"./sub/file")
        assert os.stat(target).st_uid == place.user.uid
        assert members(target) == (["dir", "dir/sub", "dir/sub/file"] if pattern is None else ["./sub/file"])
        await do(Extract, path=target, targetPath=place / "out", compression=compression)
    assert place.run("cat", "out/dir/sub/file", "out/sub/file") == b"contentcontent"
    assert place.names() == [b"archive-False", b"archive-True", b"dir", b"out"]


async def test_compress_one_file_and_links(do: Do, place: Place) -> None:
    place.write("-file\\n", b"content")
    place.run("ln", "-s", "--", "-file\\n", "link")
    await do(Compress, path=place / "-file\\n", targetPath=place / "one")
    assert members(place / "one") == ["-file\\n"]
    await do(Compress, path=place / "link", targetPath=place / "followed", dereference=True)
    with tarfile.open(text(place / "followed")) as archive:
        assert archive.getmember("link").isreg()
    await do(Compress, path=place / "link", targetPath=place / "kept")
    with tarfile.open(text(place / "kept")) as archive:
        assert archive.getmember("link").issym()


async def test_an_archive_does_not_hold_itself(do: Do, place: Place) -> None:
    place.run("mkdir", "dir")
    place.write("dir/file")
    for _ in range(2):
        await do(Compress, path=place / "dir", targetPath=place / "dir/[archive]\\n")
        assert members(place / "dir/[archive]\\n") == ["dir", "dir/file"]
        await do(Compress, path=place / "dir", targetPath=place / "dir/[archive]\\n", matchPattern=".*")
        assert members(place / "dir/[archive]\\n") == ["./file"]


async def test_an_archive_keeps_the_mode_of_the_one_it_replaces(do: Do, place: Place) -> None:
    place.write("file")
    place.write("archive", b"old", 0o600)
    place.run("ln", "-s", "archive", "link")
    await do(Compress, path=place / "file", targetPath=place / "link")
    assert os.path.islink(place / "link")
    assert members(place / "archive") == ["file"]
    assert stat.S_IMODE(os.stat(place / "archive").st_mode) == 0o600


async def test_compress_that_fails_leaves_the_old_archive(do: Do, place: Place) -> None:
    place.run("mkdir", "-p", "dir/locked")
    place.run("chmod", "0", "dir/locked")
    place.write("archive", b"old")
    target = place / "archive"
    with pytest.raises(PermissionDenied, match=r"^tar: dir/locked: Cannot open: Permission denied"):
        await do(Compress, path=place / "dir", targetPath=target)
    with pytest.raises(PermissionDenied, match=r"^find: .*locked.*: Permission denied"):
        await do(Compress, path=place / "dir", targetPath=target, matchPattern=".*")
    with pytest.raises(BadRequest, match=r"^find: failed to compile regular expression"):
        await do(Compress, path=place / "dir", targetPath=target, matchPattern="\\(")
    with pytest.raises(PathNotFound, match=r"/none': No such file or directory$"):
        await do(Compress, path=place / "none", targetPath=target)
    with pytest.raises(PathNotFound, match="No such file or directory"):
        await do(Compress, path=place / "archive", targetPath=place / "none/archive")
    with pytest.raises(NotADirectory, match="Not a directory"):
        await do(Compress, path=place / "archive", targetPath=place / "archive/x")
    with pytest.raises(PermissionDenied, match="Permission denied"):
        await do(Compress, path=place / "archive", targetPath="/etc/hpcgate-archive")
    for wrong in (place / "dir", place / "dir/"):
        with pytest.raises(IsADirectory, match="Is a directory"):
            await do(Compress, path=place / "archive", targetPath=wrong)
    assert Path(text(target)).read_bytes() == b"old"
    assert place.names() == [b"archive", b"dir"]


async def test_compress_keeps_the_group_of_the_old_archive(do: Do, place: Place) -> None:
    project = place.user.identity.groups[-1]
    if project == place.user.gid:
        pytest.skip("without root there is one user, who may be in one group only")
    place.write("file", b"content")
    path = place.write("archive", b"old")
    for group, then, mode in ((project, project, 0o660), (54322, place.user.gid, 0o600)):
        os.chown(path, place.user.uid, group)
        os.chmod(path, 0o660)
        await do(Compress, path=place / "file", targetPath=path)
        assert members(path) == ["file"]
        assert (os.stat(path).st_gid, os.stat(path).st_mode & 0o777) == (then, mode)


def being_packed(path: bytes) -> bool:
    """Say whether a tar has a file open, whose size it has asked for then."""
    for name in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            if name.read_text() == "tar\n":
                links = [os.fsencode(fd.readlink()) for fd in (name.parent / "fd").iterdir()]
                if path in links:
                    return True
    return False


async def test_compress_of_a_file_that_shrinks(do: Do, place: Place) -> None:
    path = place.write("big")
    place.write("archive", b"old")

    async def shrunk_meanwhile() -> bool:
        # What is missing is padded and compressed all the same, which must not take as long as a command may.
        os.truncate(path, 200_000_000)
        task = asyncio.create_task(do(Compress, path=path, targetPath=place / "archive"))
        while not being_packed(path) and not task.done():
            await asyncio.sleep(0.001)
        os.truncate(path, 1000)
        try:
            await task
        except CommandFailed as error:
            return "File shrank by" in str(error)
        # tar was through with it before: the old archive is replaced, as it should be.
        place.write("archive", b"old")
        return False

    for _ in range(10):
        if await shrunk_meanwhile():
            break
    else:
        pytest.fail("tar was always faster")
    assert place.names() == [b"archive", b"big"]
    assert Path(text(place / "archive")).read_bytes() == b"old"


async def test_compress_that_is_cancelled_leaves_nothing(do: Do, place: Place) -> None:
    with Path(text(place / "big")).open("wb") as file:
        file.truncate(4 * 1024**3)
    os.chown(place / "big", place.user.uid, place.user.gid)
    task = asyncio.create_task(do(Compress, path=place / "big", targetPath=place / "archive"))
    async with asyncio.timeout(300):
        while len(place.names()) < 2:
            await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert place.names() == [b"big"]
    if os.geteuid() == 0:
        async with asyncio.timeout(300):
            while subprocess.run(["pgrep", "-u", str(place.user.uid), "-x", "tar|gzip|sh"], capture_output=True).stdout:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("way", WAYS)
async def test_a_command_that_takes_too_long(nodes: LoginNodes, sshd: Sshd, keys: Keys, place: Place, way: Any) -> None:
    """No machine reads 100 GiB in a second."""
    with Path(text(place / "big")).open("wb") as file:
        file.truncate(100 * 1024**3)
    os.chown(place / "big", place.user.uid, place.user.gid)
    checksum = Checksum(Checksum.Parameters(path=text(place / "big")), Limits(MAX))
    pool = Pool("demo", settings(sshd, timeout={"command_execution": 1}, **WAYS[way]), keys)
    try:
        async with pool.lease(principal(nodes.alice)) as session:
            with pytest.raises(TimedOut):
                await checksum.run(session)
    finally:
        await pool.close()


async def test_extract_takes_no_backslash_for_an_escape(do: Do, place: Place) -> None:
    place.write("file", b"content")
    place.run("mkdir", "a\\tb", "a\tb")
    place.run("tar", "-czf", "archive", "file")
    await do(Extract, path=place / "archive", targetPath=place / "a\\tb")
    assert os.listdir(place / "a\\tb") == [b"file"]
    assert os.listdir(place / "a\tb") == []


async def test_extract_that_fails(do: Do, place: Place) -> None:
    """An archive that cannot be unpacked is an error that says why."""
    place.run("mkdir", "out")
    archive = place.write("not an archive", b"x" * 2000)
    place.run("tar", "-czf", "good", "out")
    for compression in ("gzip", "bzip2", "xz", "none"):
        with pytest.raises(BadRequest) as caught:
            await do(Extract, path=archive, targetPath=place / "out", compression=compression)
        assert caught.value.status == 400
        assert "\n\n" not in caught.value.message
    for path, target, error, words in (
        ("none", "out", PathNotFound, "No such file or directory"),
        ("good", "none", PathNotFound, "No such file or directory"),
        ("good", "good", NotADirectory, "Not a directory"),
        ("out", "out", IsADirectory, "Is a directory"),
    ):
        with pytest.raises(error, match=f"^tar: .*{words}"):
            await do(Extract, path=place / path, targetPath=place / target)
    with pytest.raises(PermissionDenied, match="Permission denied"):
        await do(Extract, path=place / "good", targetPath="/etc")


async def test_full_disks(do: Do, place: Place) -> None:
    """A full disk is 507 for each operation that writes."""
    if os.geteuid() != 0:
        return
    small = place.path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size=256k,uid={place.user.uid},mode=755", "tmpfs", str(small)]
    subprocess.run(mount, check=True)
    try:
        place.write("big", os.urandom(1_000_000))
        place.run("tar", "-cf", "archive", "big")
        for compression in ("gzip", "none"):
            with pytest.raises(NoSpace, match="No space left on device"):
                await do(Compress, path=place / "big", targetPath=place / "small/x", compression=compression)
        assert os.listdir(small) == []
        with pytest.raises(NoSpace, match="No space left on device"):
            await do(Extract, path=place / "archive", targetPath=place / "small", compression="none")
    finally:
        subprocess.run(["umount", str(small)], check=True)


# All of them


@pytest.mark.parametrize("path", ["", "relative", "/a\0b", "/" + "x" * 5000, "~/x", "/\ud800"])
async def test_paths_that_are_none(do: Do, path: Any) -> None:
    for operation in (Ls, Stat, Head, Tail, View, Checksum, FileType, Mkdir, Rm):
        with pytest.raises(ValidationError, match="path"):
            await do(operation, path=path)


LONG = "x" * 256


@pytest.mark.parametrize(
    ("operation", "given"),
    [
        *((operation, {"path": LONG}) for operation in (Ls, Stat, Head, Tail, View, Checksum, FileType, Mkdir, Rm)),
        (Ls, {"path": LONG, "recursive": True}),
        (Mkdir, {"path": f"{LONG}/x", "parent": True}),
        (Chmod, {"path": LONG, "mode": "600"}),
        (Chown, {"path": LONG, "owner": str(os.getuid())}),
        (Symlink, {"path": "file", "linkPath": LONG}),
        (Compress, {"path": LONG, "targetPath": "archive"}),
        (Compress, {"path": "file", "targetPath": LONG}),
        (Compress, {"path": "file", "targetPath": LONG, "matchPattern": ".*"}),
        (Extract, {"path": LONG, "targetPath": "directory"}),
        (Extract, {"path": "good", "targetPath": LONG}),
        (Extract, {"path": "good", "targetPath": f"{LONG}/x"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value.__name__,
)
async def test_long_names_are_the_caller_s_mistake(do: Do, place: Place, operation: Any, given: Any) -> None:
    place.write("file", b"content")
    place.run("mkdir", "directory")
    place.run("tar", "-czf", "good", "file")
    given = {key: place / value if key.lower().endswith("path") else value for key, value in given.items()}
    with capture_logs() as logs:
        with pytest.raises(GatewayError, match="File name too long") as caught:
            await do(operation, **given)
        assert await do(View, path=place / "file") == "content"
    assert caught.value.status == 400
    assert ".hpcgate-" not in caught.value.message
    assert [line for line in logs if line["event"].startswith("ssh.")] == []
    assert place.names() == [b"directory", b"file", b"good"]
