"""A file that is replaced is afterwards what it was before, but for its content: whose, for whom, under which names.

Each line of the tables is a file as sites have them; each is crossed with every way to reach files, the one beneath the
paths of a rule among them, and with every way to replace one.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from hpcgate.auth.policy import Grant
from hpcgate.demo.packages import ensure_installed
from hpcgate.errors import BadRequest, NoSpace, PermissionDenied
from hpcgate.filesystem.base import Limits
from hpcgate.filesystem.compress import Compress
from hpcgate.filesystem.confined_session import Confined
from hpcgate.filesystem.tus.scripts import ADOPT_NEW
from hpcgate.ssh.files.protocol import Replacing
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.session import Session
from tests.filesystem.remote import WAYS, Place, keys, nodes, opened, place, sshd
from tests.ssh.nodes import LoginNodes, principal, settings

__all__ = ["keys", "nodes", "place", "sshd"]

OLD, NEW = b"what was there before\n", b"new\n"


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    """Have setfacl and getfacl."""
    ensure_installed({"setfacl": "acl", "getfacl": "acl"}, lambda _: None)


@pytest.fixture
async def session(request: Any, nodes: LoginNodes, sshd: Any, keys: Any) -> AsyncIterator[Session]:
    async with opened(request.param, nodes, sshd, keys) as leased:
        yield leased


async def blocks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def write(session: Session, path: bytes) -> None:
    await (await session.files()).write(path, blocks(NEW))


async def replace(session: Session, path: bytes) -> None:
    async with session.bulk() as streams:
        await streams.replace(path, blocks(NEW), sync=True)


async def adopt(session: Session, path: bytes) -> None:
    """As a resumable upload gets its name."""
    new = path + b"-new"
    async with session.bulk() as streams:
        await streams.create(new)
        await streams.extend(new, blocks(NEW), offset=0)
        done = await session.run(["sh", "-c", ADOPT_NEW, "sh", path, new])
        assert done.ok, done.words
        await streams.move(new, path)


async def compress(session: Session, path: bytes) -> None:
    given = {"path": os.fsdecode(path + b"-source"), "targetPath": os.fsdecode(path)}
    await Compress(Compress.Parameters.model_validate(given), Limits(1024 * 1024)).run(session)


REPLACING = {function.__name__: function for function in (write, replace, adopt, compress)}


@dataclass(frozen=True)
class Had:
    """A file before.

    Attributes:
        mode: Its mode.
        entries: Of its access control list, as setfacl takes them.
        inherited: Of the list that its directory gives to new files.
    """

    mode: int = 0o640
    entries: str = ""
    inherited: str = ""


FILES = {
    "plain": Had(),
    "for the group": Had(0o664),
    "nobody's": Had(0o000),
    "a list whose mask is more than the group has": Had(entries="u:daemon:rw,g::r"),
    "a list that keeps somebody out": Had(0o644, entries="u:daemon:-"),
    "a list with a narrow mask": Had(entries="u:daemon:rwx,g:daemon:rw,m::r"),
    "a list with setgid": Had(0o2750, entries="u:daemon:rx"),
    "without a list, where new files get one": Had(inherited="d:u:daemon:rw,d:g::rw,d:m::rw"),
    "another list than new files get": Had(entries="g:daemon:r", inherited="d:u:daemon:rwx"),
}


def acl(path: bytes) -> bytes:
    """Return mode, owner, group and access control list."""
    done = subprocess.run(["getfacl", "-npE", "--", path], check=True, capture_output=True)
    return b"%o\n" % os.stat(path).st_mode + done.stdout


def made(place: Place, had: Had) -> bytes:
    path = place.write("file", OLD, had.mode)
    place.write("file-source")
    if had.entries:
        subprocess.run(["setfacl", "-m", had.entries, "--", path], check=True)
        os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | had.mode & 0o7000)
    if had.inherited:
        subprocess.run(["setfacl", "-m", had.inherited, "--", place / ""], check=True)
    return path


BY_ONE_COMMAND = ("adopt", "compress")
"""Ways of replacing that are one command however files are reached otherwise."""


@pytest.mark.parametrize(
    ("session", "how"),
    [
        (way, how)
        for way in (*WAYS, "confined")
        for how in REPLACING
        if way in ("commands", "confined") or how not in BY_ONE_COMMAND
    ],
    indirect=["session"],
)
async def test_what_a_file_is_for_whom_stays(session: Session, place: Place, how: str) -> None:
    for name, had in FILES.items():
        here = place.inside(name)
        path = made(here, had)
        before = acl(path)
        await REPLACING[how](session, path)
        assert acl(path) == before, name
        content = (here.path / "file").read_bytes()
        assert content == NEW or (how == "compress" and content != OLD), name
        assert here.names() == [b"file", b"file-source"], name


LOOK = """\
#!/bin/sh
PATH=/usr/bin:/bin
for f in "{directory}"/.hpcgate-*; do
  [ ! -f "$f" ] || getfacl -npE -- "$f" >>"{log}" 2>/dev/null
done
exec {tool} "$@"
"""
"""Stands before a tool: writes down who may do what with the new file, whenever the tool is run."""
RUN_WHILE_WRITING = ("chmod", "stat", "dd", "mv", "tar", "id", "tail", "mktemp", "chgrp")


@pytest.mark.parametrize("how", ["write", "replace", "compress"])
@pytest.mark.parametrize("way", [*WAYS, "confined"])
async def test_a_new_file_is_nobody_elses_at_any_time(
    nodes: LoginNodes, place: Place, sshd: Any, keys: Any, way: str, how: str
) -> None:
    """The directory gives all new files a list, which counts in the umask's place."""
    path = made(place, Had(0o600, inherited="d:u:daemon:rw,d:g::rw,d:o::rw,d:m::rw"))
    subprocess.run(["setfacl", "-b", "--", path], check=True)
    os.chmod(path, 0o600)
    log = nodes.directory / f"seen-{way}-{how}"
    log.touch()
    log.chmod(0o666)
    tools = nodes.directory / f"looks-{way}-{how}"
    tools.mkdir()
    for name in RUN_WHILE_WRITING:
        shim = tools / name
        shim.write_text(LOOK.format(directory=place.path, log=log, tool=shutil.which(name)))
        shim.chmod(0o755)
    tools.chmod(0o755)
    (place.user.home / ".bashrc").write_text(f"PATH={tools}:$PATH\n")
    pool = Pool("demo", settings(sshd, **WAYS.get(way, WAYS["commands"])), keys)
    seen: list[str] = []

    async def watched() -> AsyncIterator[bytes]:
        for block in [b"a secret\n" * 100_000] * 4:
            yield block
            hidden = [name for name in place.names() if name.startswith(b".hpcgate-")]
            argv: list[str | bytes] = ["getfacl", "-npE", "--", *(place / os.fsdecode(name) for name in hidden)]
            if hidden:
                seen.append(subprocess.run(argv, capture_output=True, text=True).stdout)

    async with pool.lease(principal(nodes.alice)) as session:
        at: Session = session
        if way == "confined":
            at = await Confined.of(session, Grant(rule="test", paths=(b"/home", b"/tmp", b"/var", b"/root")))
        if how == "write":
            await (await at.files()).write(path, watched())
        elif how == "replace":
            async with at.bulk() as streams:
                await streams.replace(path, watched())
        else:
            await compress(at, path)
    await pool.close()
    (place.user.home / ".bashrc").unlink()
    seen += log.read_text().split("\n\n")
    assert any(text.strip() for text in seen) or (how, way) == ("compress", "confined"), "nothing was looked at"
    for text in seen:
        rights = {line.partition("#")[0].strip() for line in text.splitlines() if line and not line.startswith("#")}
        mask = next((line[6:] for line in rights if line.startswith("mask::")), "rwx")
        others = [line for line in rights if line[:6] in ("group:", "other:") or line.startswith("user:1")]
        open_to = [line for line in others if "r" in line[-3:] and ("r" in mask or line.startswith("other:"))]
        assert not open_to, text


@dataclass(frozen=True)
class Kept:
    """A file that may be written, in a directory where no other file can take its name.

    Attributes:
        directory: The directory's mode; it is root's.
        owner: Who owns the file: alice, who writes, or bob.
        mode: The file's.
        entries: Of its access control list.
    """

    directory: int
    owner: str
    mode: int
    entries: str = ""


HELD = {
    "a directory of somebody else's": Kept(0o755, "alice", 0o644),
    "somebody else's file there": Kept(0o755, "bob", 0o666),
    "a file that a list lets one write": Kept(0o755, "bob", 0o640, "u:{alice}:rw"),
    "a sticky directory": Kept(0o1777, "bob", 0o666),
}
CONTENTS = (b"", b"short\n", b"x" * len(OLD), b"longer than what was there\n" * 30_000)


async def parts(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 100_000):
        yield content[start : start + 100_000]


async def broken() -> AsyncIterator[bytes]:
    yield b"y" * 300_000
    raise RuntimeError("the client has gone")


def held(nodes: LoginNodes, place: Place, kept: Kept) -> bytes:
    """Make such a file, with a second name elsewhere."""
    owner = nodes.alice if kept.owner == "alice" else nodes.bob
    directory = place / "held"
    if not os.path.isdir(directory):
        os.mkdir(directory)
    path = directory + b"/file"
    with open(path, "wb") as file:
        file.write(OLD)
    os.chown(path, owner.uid, owner.gid)
    os.chmod(path, kept.mode)
    if kept.entries:
        subprocess.run(["setfacl", "-m", kept.entries.format(alice=nodes.alice.name), "--", path], check=True)
    os.link(path, place / "other name")
    os.chmod(directory, kept.directory)
    return path


def forget(place: Place) -> None:
    for name in (b"other name", b"held/file"):
        os.unlink(place / name)


EVERY_WAY = pytest.mark.parametrize("session", [*WAYS, "confined"], indirect=True)


@EVERY_WAY
async def test_a_file_whose_name_no_other_can_take_is_written_in_place(
    session: Session, nodes: LoginNodes, place: Place
) -> None:
    home = os.listdir(place.user.home)
    for name, kept in HELD.items():
        path = held(nodes, place, kept)
        before, inode = acl(path), os.stat(path).st_ino
        async with session.bulk() as streams:
            for content in CONTENTS:
                told: list[bytes] = []

                async def ready(temporary: bytes, told: list[bytes] = told) -> None:
                    told.append(temporary)

                assert await streams.replace(path, parts(content), sync=True, ready=ready) == len(content)
                assert told == [b""]
                with open(place / "other name", "rb") as file:
                    assert file.read() == content, name
            with pytest.raises(RuntimeError, match="has gone"):
                await streams.replace(path, broken())
            with pytest.raises(PermissionDenied):
                await streams.replace(path, parts(NEW), how=Replacing.atomic)
        with open(path, "rb") as file:
            assert file.read() == CONTENTS[-1], name
        assert (acl(path), os.stat(path).st_ino, os.stat(path).st_nlink) == (before, inode, 2), name
        assert os.listdir(place / "held") == [b"file"], name
        assert os.listdir(place.user.home) == home, name
        forget(place)


async def test_an_archive_whose_name_no_other_can_take_is_written_in_place(
    nodes: LoginNodes, place: Place, sshd: Any, keys: Any
) -> None:
    place.write("source", b"x" * 100_000)
    home = os.listdir(place.user.home)
    pool = Pool("demo", settings(sshd, **WAYS["commands"]), keys)
    for name, kept in HELD.items():
        path = held(nodes, place, kept)
        before, inode = acl(path), os.stat(path).st_ino
        given = {"path": os.fsdecode(place / "source"), "targetPath": os.fsdecode(path)}
        async with pool.lease(principal(nodes.alice)) as session:
            await Compress(Compress.Parameters.model_validate(given), Limits(1024 * 1024)).run(session)
        with tarfile.open(place / "other name", "r:gz") as archive:
            assert archive.getnames() == ["source"], name
        assert (acl(path), os.stat(path).st_ino) == (before, inode), name
        assert os.listdir(place / "held") == [b"file"], name
        assert os.listdir(place.user.home) == home, name
        forget(place)
    await pool.close()


@EVERY_WAY
async def test_a_file_that_is_mounted_is_written_in_place(session: Session, nodes: LoginNodes, place: Place) -> None:
    path, elsewhere = place.write("mounted", b""), place.write("elsewhere", OLD)
    subprocess.run(["mount", "--bind", elsewhere, path], check=True)
    try:
        async with session.bulk() as streams:
            for content in CONTENTS:
                assert await streams.replace(path, parts(content), sync=True) == len(content)
                with open(elsewhere, "rb") as file:
                    assert file.read() == content
            with pytest.raises(BadRequest, match="Device or resource busy"):
                await streams.replace(path, parts(NEW), how=Replacing.atomic)
    finally:
        subprocess.run(["umount", path], check=True)
    assert place.names() == [b"elsewhere", b"mounted"]


@EVERY_WAY
async def test_how_a_file_is_replaced_may_be_asked_for(session: Session, nodes: LoginNodes, place: Place) -> None:
    path = held(nodes, place, Kept(0o777, "bob", 0o666))
    inode = os.stat(path).st_ino
    async with session.bulk() as streams:
        await streams.replace(path, parts(NEW), how=Replacing.in_place)
        assert (os.stat(path).st_ino, os.stat(path).st_uid, os.stat(path).st_nlink) == (inode, nodes.bob.uid, 2)
        with open(place / "other name", "rb") as file:
            assert file.read() == NEW
        await streams.replace(path, parts(b"newer"), how=Replacing.atomic)
        assert os.stat(path).st_nlink == 1
        with open(place / "other name", "rb") as file:
            assert file.read() == NEW
        os.chown(path, nodes.bob.uid, nodes.bob.gid)
        os.chmod(path, 0o644)
        with pytest.raises(PermissionDenied):
            await streams.replace(path, parts(NEW), how=Replacing.in_place)
        with open(path, "rb") as file:
            assert file.read() == b"newer"
        await streams.replace(path + b"2", parts(NEW), how=Replacing.in_place)
    assert os.listdir(place / "held") in ([b"file", b"file2"], [b"file2", b"file"])


@EVERY_WAY
async def test_what_does_not_fit_leaves_the_file_as_it_was(session: Session, nodes: LoginNodes, place: Place) -> None:
    """On a full disk the content is taken elsewhere, and found not to fit before anything is overwritten."""
    disk = place / "held"
    os.mkdir(disk)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", disk], check=True)
    try:
        path = disk + b"/file"
        with open(path, "wb") as file:
            file.write(OLD)
        os.chown(path, nodes.alice.uid, nodes.alice.gid)
        home = os.listdir(place.user.home)
        async with session.bulk() as streams:
            with pytest.raises(NoSpace, match="No space left on device"):
                await streams.replace(path, parts(b"z" * 200_000))
        with open(path, "rb") as file:
            assert file.read() == OLD
        assert os.listdir(place.user.home) == home
    finally:
        subprocess.run(["umount", disk], check=True)


CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
"""That of listening below port 1024, as linux/capability.h lays it out."""
ATTRIBUTES = {"user.note": b"mine", "security.capability": CAPABILITY}
LEFT = {
    # What is left of mode and extended attributes, as docs/transfers.md says.
    Replacing.atomic: (0o6755, set()),
    Replacing.in_place: (0o755, {"user.note"}),
}


@EVERY_WAY
@pytest.mark.parametrize("how", LEFT, ids=lambda how: how.value)
async def test_what_is_left_of_marks_is_what_the_page_says(
    session: Session, nodes: LoginNodes, place: Place, how: Replacing
) -> None:
    path = place.write("file", OLD)
    (place.path / "other").hardlink_to(place.path / "file")
    os.chmod(path, 0o6755)
    try:
        for name, value in ATTRIBUTES.items():
            os.setxattr(path, name, value)
    except OSError:
        pytest.skip("the file system keeps no extended attributes")
    async with session.bulk() as streams:
        await streams.replace(path, parts(NEW), how=how)
    mode, attributes = LEFT[how]
    assert stat.S_IMODE(os.stat(path).st_mode) == mode
    assert ATTRIBUTES.keys() & {*os.listxattr(path)} == attributes
    assert (place.path / "file").read_bytes() == NEW
    assert (place.path / "other").read_bytes() == (OLD if how is Replacing.atomic else NEW)
