"""What an archive brings into directories that are there is what plain tar would make of it in them.

Each line of the table is a directory as sites have them; each is crossed with every way to unpack. The directories
themselves stay as they are: an archive need not name the directories of its members (ansible/ansible 29543).
"""

from __future__ import annotations

import asyncio
import grp
import gzip
import io
import os
import subprocess
import tarfile
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from hpcgate.demo.packages import ensure_installed
from hpcgate.errors import BadRequest, GatewayError, PermissionDenied
from hpcgate.filesystem.base import Limits
from hpcgate.filesystem.confined_session import Confined
from hpcgate.filesystem.extract import Extract
from hpcgate.filesystem.unpacking import unpack
from hpcgate.ssh.session import Session
from hpcgate.transfers.script import job_script
from tests.filesystem.remote import Place, keys, nodes, opened, place, sshd
from tests.ssh.nodes import Keys, LoginNodes
from tests.transfers import asked

__all__ = ["keys", "nodes", "place", "sshd"]


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    """Have setfacl and getfacl."""
    ensure_installed({"setfacl": "acl", "getfacl": "acl"}, lambda _: None)


@pytest.fixture
async def session(request: Any, nodes: LoginNodes, sshd: Any, keys: Keys) -> AsyncIterator[Session]:
    async with opened(request.param, nodes, sshd, keys) as leased:
        yield leased


def member(name: str, content: bytes = b"", **given: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(content), 1_600_000_000
    for key, value in given.items():
        setattr(info, key, value)
    return info, content


def directory(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, mode=mode)


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


async def blocks(content: bytes) -> AsyncIterator[bytes]:
    yield content


def compression(archive: bytes) -> Literal["none", "gzip"]:
    return "gzip" if archive.startswith((b"\x1f\x8b", b"PK")) else "none"


async def put(session: Session, place: Place, archive: bytes) -> None:
    await unpack(session, os.fsencode(place.path), blocks(archive), limit=None)


async def extract(session: Session, place: Place, archive: bytes) -> None:
    # Beside the directory, which is to hold nothing else.
    source = os.fsencode(place.path) + b".tar"
    Path(os.fsdecode(source)).write_bytes(archive)
    given = {"path": os.fsdecode(source), "targetPath": str(place.path), "compression": compression(archive)}
    try:
        await Extract(Extract.Parameters.model_validate(given), Limits(1024 * 1024)).run(session)
    finally:
        os.unlink(source)


async def job(session: Session, place: Place, archive: bytes) -> None:
    """By the script of a transfer job, run as the user."""
    source = f"{place.path}.tar"
    Path(source).write_bytes(archive)
    script = asked.extract(source, str(place.path), compression=compression(archive))
    text = job_script((), script).encode()
    try:
        done = await asyncio.to_thread(
            subprocess.run, place.user.identity.command(["sh", "-s"]), input=text, capture_output=True, cwd=place.path,
            umask=0o022, env={"PATH": "/usr/bin:/bin"},
        )  # fmt: skip
    finally:
        os.unlink(source)
    if done.returncode:
        kind = PermissionDenied if b"Permission denied" in done.stderr else BadRequest
        raise kind(done.stderr.decode())


UNPACKING: dict[str, Callable[[Session, Place, bytes], Awaitable[None]]] = {
    function.__name__: function for function in (put, extract, job)
}
EVERY_WAY = pytest.mark.parametrize(
    ("session", "how"),
    [("commands", "put"), ("commands", "extract"), ("commands", "job"), ("confined", "put"), ("confined", "extract")],
    indirect=["session"],
)


@dataclass(frozen=True)
class Into:
    """A directory that is there, in a user's own.

    Attributes:
        mode: Its mode.
        shared: Whether it is of another of the user's groups.
        list: What it gives to new files, as setfacl takes it.
        above: The same of the directory that the archive is unpacked into.
    """

    mode: int = 0o755
    shared: bool = False
    list: str = ""
    above: str = ""
    above_shared: bool = False


LISTED = "d:u:daemon:rwx,d:g::rx,d:m::rwx"
INTO = {
    "plain": Into(),
    "setgid": Into(0o2775, shared=True),  # OSC/ondemand 1851, 4318
    "for the group to write": Into(0o775, shared=True),
    "a list": Into(list=LISTED),  # OSC/ondemand 259
    "a list that keeps others out": Into(list="d:g::rwx,d:o::-"),
    "a list and setgid": Into(0o2770, shared=True, list=LISTED),
    "plain below a list": Into(above=LISTED),
    "another list below a list": Into(list="d:g:daemon:rx", above=LISTED),
    "plain below setgid": Into(above_shared=True),
}
"""Directories that members of an archive come into, and what is above them."""

BROUGHT = (
    member("into/file", b"1", mode=0o644),
    member("into/program", b"2", mode=0o755),
    member("into/secret", b"3", mode=0o600),
    directory("into/new"),
    directory("into/new/deep"),
    member("into/new/deep/file", b"4", mode=0o640),
    member("into/link", type=tarfile.SYMTYPE, linkname="file"),
    member("into/-rf", b"6", mode=0o644),
    member("into/two words\n", b"7", mode=0o644),
)


def set_up(place: Place, name: str, into: Into) -> Place:
    """Make a directory with one of the table's in it."""
    here = place.inside(name)
    group = grp.getgrnam(place.user.groups[-1]).gr_gid
    if into.above_shared:
        os.chown(here.path, -1, group)
        os.chmod(here.path, 0o2775)
    if into.above:
        subprocess.run(["setfacl", "-m", into.above, here.path], check=True)
    inner = here.path / "into"
    here.run("mkdir", "into")
    subprocess.run(["setfacl", "-bk", inner], check=True)
    os.chown(inner, -1, group if into.shared else place.user.gid)
    os.chmod(inner, into.mode)
    os.chmod(inner, into.mode)
    if not into.mode & 0o2000:
        subprocess.run(["chmod", "g-s", inner], check=True)
    if into.list:
        subprocess.run(["setfacl", "-m", into.list, inner], check=True)
    os.utime(inner, (1_500_000_000, 1_500_000_000))
    return here


def rights(place: Place) -> dict[str, str]:
    """Return owner, group, mode and access control lists of all that is in it."""
    done = subprocess.run(["getfacl", "-RPnE", "."], cwd=place.path, check=True, capture_output=True, text=True)
    found = {}
    for text in filter(None, done.stdout.split("\n\n")):
        name, _, told = text.removeprefix("# file: ").partition("\n")
        found[name] = told
    del found["."]
    return found


@EVERY_WAY
async def test_what_is_new_is_as_if_it_had_been_made_there(session: Session, place: Place, how: str) -> None:
    archive = packed(*BROUGHT)
    for name, into in INTO.items():
        plain, here = set_up(place, f"{name} by tar", into), set_up(place, name, into)
        before = rights(here)
        assert before == rights(plain)
        (plain.path.parent / "archive.tar").write_bytes(archive)
        plain.run("sh", "-c", 'umask 022; exec tar -xf ../archive.tar -C "$1"', "sh", str(plain.path))
        await UNPACKING[how](session, here, archive)
        assert rights(here) == rights(plain), name
        assert rights(here)["into"] == before["into"], name
        assert (here.path / "into/new/deep/file").read_bytes() == b"4"
        assert not list(here.path.rglob(".hpcgate-*"))


@EVERY_WAY
async def test_directories_that_are_there_keep_their_mode(session: Session, place: Place, how: str) -> None:
    """Whether the archive has a word for them or not."""
    for name, members in {
        "named": (directory("into", 0o700), member("into/file", b"1")),
        "not named": (member("into/file", b"1"),),
        "the top": (directory(".", 0o700), member("./into/file", b"1")),
    }.items():
        here = set_up(place, name, Into(0o2775, shared=True))
        before = here.path.stat().st_mode, rights(here)["into"]
        await UNPACKING[how](session, here, packed(*members))
        assert (here.path.stat().st_mode, rights(here)["into"]) == before, name
        assert (here.path / "into/file").read_bytes() == b"1"


@EVERY_WAY
async def test_where_the_user_is_not_in_the_group_it_gets_no_more_than_others(
    session: Session, place: Place, how: str
) -> None:
    """The directory gives its group to new files, but files from elsewhere cannot be given to it."""
    here = set_up(place, "here", Into())
    os.chown(here.path / "into", -1, 1)
    os.chmod(here.path / "into", 0o2755)
    await UNPACKING[how](session, here, packed(member("into/file", b"1", mode=0o640)))
    found = (here.path / "into/file").stat()
    assert (found.st_gid, found.st_mode & 0o070) in ((1, 0o040), (place.user.gid, 0))


TAKEN = {
    "a file twice": (member("f", b"one"), member("f", b"three")),  # landley/toybox 457
    "a link to itself": (member("f", b"three"), member("f", type=tarfile.LNKTYPE, linkname="f")),  # libarchive 1381
    "a closed directory": (directory("d", 0o555), member("d/f", b"three"), member("f", b"three")),  # tar-fs 79
    "a directory nobody may read": (directory("d", 0), member("d/f", b"x"), member("f", b"three")),
    "a directory nobody may enter": (directory("d", 0o644), member("d/f", b"x"), member("f", b"three")),  # node-tar 7
    "no directories": (member("a/b/c", b"x"), member("f", b"three")),
    "a time before 1970": (member("f", b"three", mtime=-1),),
    "ids of nobody's": (member("f", b"three", uid=4294967294, gid=4294967294),),
}
"""Archives that are odd, and all of which ``f`` comes with the same content."""


@EVERY_WAY
async def test_odd_archives_are_taken(session: Session, place: Place, how: str) -> None:
    for name, members in TAKEN.items():
        here = place.inside(name)
        await UNPACKING[how](session, here, packed(*members))
        assert (here.path / "f").read_bytes() == b"three", name
        here.run("chmod", "-R", "u+rwX", ".")
        assert not list(here.path.rglob(".hpcgate-*"))


REFUSED = {
    "a hard link to nothing": (member("f", b"x"), member("h", type=tarfile.LNKTYPE, linkname="none")),
    "a hard link out of it": (member("f", b"x"), member("h", type=tarfile.LNKTYPE, linkname="../x")),
    "a name that leads out of it": (member("f", b"x"), member("../evil", b"x")),
    "a directory, then a file": (directory("d"), member("d/f", b"y"), member("d", b"x")),
}


@EVERY_WAY
async def test_archives_at_fault_are_refused_as_such(session: Session, place: Place, how: str) -> None:
    """Never as a path that is not there: the archive is there, and so is the directory."""
    for name, members in REFUSED.items():
        here = place.inside(name)
        with pytest.raises(GatewayError) as caught:
            await UNPACKING[how](session, here, packed(*members))
        # 403 is a policy's word for it.
        assert caught.value.status in (400, 403), (name, caught.value.message)
        assert how == "extract" or here.names() == [], name
        assert not list(here.path.rglob(".hpcgate-*"))


@EVERY_WAY
async def test_a_directory_that_takes_nothing_is_named_itself(session: Session, place: Place, how: str) -> None:
    """Not by the name of what was to be made in it."""
    here = place.inside("closed")
    os.chmod(here.path, 0o555)
    with pytest.raises(PermissionDenied) as caught:
        await UNPACKING[how](session, here, packed(member("f", b"x")))
    # What a job says is in its log, where all that the tools said is.
    assert how == "job" or ".hpcgate-" not in caught.value.message
    assert how == "job" or str(here.path) in caught.value.message


def zipped(*names: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return made.getvalue()


NO_ARCHIVES = {
    "nothing": b"",
    "nothing, compressed": gzip.compress(b""),
    "a few words": b"hello\n",
    "a few words, compressed": gzip.compress(b"hello\n"),  # libarchive/libarchive 444
    "many words, compressed": gzip.compress(b"hello\n" * 1000),
    "a zip archive": zipped("f"),
    "a zip archive with a directory": zipped("d/", "d/f"),
    "an archive that is cut": packed(member("f", b"x" * 2000))[:1024],
}


@EVERY_WAY
async def test_what_is_no_archive_is_not_taken_for_an_empty_one(session: Session, place: Place, how: str) -> None:
    for name, content in NO_ARCHIVES.items():
        here = place.inside(name)
        with pytest.raises(GatewayError) as caught:
            await UNPACKING[how](session, here, content)
        assert caught.value.status == 400, (name, caught.value.message)
        # Under a rule, what came before the fault stays.
        assert here.names() == [] or (isinstance(session, Confined) and how == "extract"), name
    here = place.inside("an empty archive")
    await UNPACKING[how](session, here, gzip.compress(packed()))
    assert here.names() == []
