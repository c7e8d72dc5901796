"""Which symbolic links are followed for writing, by every way to reach files, on a real sshd."""

import asyncio
import os
import re
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpcgate.demo.processes import Identity
from hpcgate.errors import GatewayError, PermissionDenied
from hpcgate.ssh.files.footing import ENTER, Pinned, Self, Step, judge, resolve
from hpcgate.ssh.session import Session
from tests.filesystem.remote import Place
from tests.ssh.nodes import LoginNodes
from tests.transfers.shells import NOBODY, SHELLS

SECRET = b"ssh-ed25519 AAAA alice\n"


async def blocks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@dataclass(frozen=True)
class Shared:
    """A directory with a link in it, and whether the link is followed for writing there.

    Attributes:
        mode: The directory's.
        holder: Who owns the directory: alice, who writes, bob, or root.
        owner: Who owns the link.
        followed: Whether it is followed.
        names: How many names the link has.
    """

    mode: int
    holder: str
    owner: str
    followed: bool
    names: int = 1


CASES = [
    Shared(0o755, "alice", "bob", True),
    Shared(0o777, "alice", "bob", False),
    Shared(0o770, "alice", "bob", False),
    Shared(0o2775, "root", "bob", False),
    Shared(0o1777, "root", "bob", False),
    Shared(0o1777, "root", "alice", True),
    Shared(0o777, "alice", "root", True),
    # As the kernel's protected_symlinks: in one's own directory one may have links.
    Shared(0o777, "bob", "bob", True),
    # Bob may have made it: a hard link to a link of alice's.
    Shared(0o777, "root", "alice", False, names=2),
]


def prepared(nodes: LoginNodes, place: Place, case: Shared) -> Path:
    """Return the directory, with the links ``file``, to ``precious``, and ``down``, to ``private``, in it."""
    ids = {"root": 0, "alice": nodes.alice.uid, "bob": nodes.bob.uid}
    shared = place.path / "shared"
    shared.mkdir()
    place.run("mkdir", "private")
    place.write("precious", SECRET, 0o600)
    place.write("private/file", SECRET, 0o600)
    for name, target in (("file", "../precious"), ("down", "../private")):
        link = shared / name
        link.symlink_to(target)
        os.chown(link, ids[case.owner], 0, follow_symlinks=False)
        for number in range(1, case.names):
            os.link(link, shared / f"{name}{number}", follow_symlinks=False)
    os.chown(shared, ids[case.holder], nodes.alice.gid)
    shared.chmod(case.mode)
    return shared


WRITES: dict[str, Any] = {
    "write": lambda files, streams, path: files.write(path, blocks(b"new")),
    "replace": lambda files, streams, path: streams.replace(path, blocks(b"new"), sync=True),
    "chmod": lambda files, streams, path: files.chmod(path, 0o666),
}
BELOW: dict[str, Any] = {
    **WRITES,
    "exclusive": lambda files, streams, path: streams.replace(path + b"x", blocks(b"new"), exclusive=True),
    "mkdir": lambda files, streams, path: files.mkdir(path + b"x"),
    "mkdir -p": lambda files, streams, path: files.mkdir(path + b"x/y", parents=True),
    "symlink": lambda files, streams, path: files.symlink(b"/", path + b"x"),
    "rename from": lambda files, streams, path: files.rename(path, path + b"x"),
    "remove": lambda files, streams, path: files.remove(path),
}


def refusing(case: Shared, link: Path) -> AbstractContextManager[Any]:
    """Return a context that fails if the link is not refused where it should be, in words that say which one."""
    if case.followed:
        return nullcontext()
    words = re.escape(f"{link} is a symbolic link of somebody else's")
    return pytest.raises(PermissionDenied, match=words)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("verb", WRITES)
async def test_a_link_in_the_last_place(
    session: Session, nodes: LoginNodes, place: Place, case: Shared, verb: str
) -> None:
    shared = prepared(nodes, place, case)
    precious = place.path / "precious"
    async with session.bulk() as streams:
        with refusing(case, shared / "file"):
            await WRITES[verb](await session.files(), streams, place / "shared/file")
    assert (shared / "file").is_symlink()
    if case.followed:
        assert precious.stat().st_mode & 0o777 == 0o666 if verb == "chmod" else precious.read_bytes() == b"new"
    else:
        assert (precious.read_bytes(), precious.stat().st_mode & 0o777) == (SECRET, 0o600)
    assert not [name for name in os.listdir(shared) if name.startswith(".hpcgate")]


@pytest.mark.parametrize("case", [CASES[1], CASES[4], CASES[5]])
@pytest.mark.parametrize("verb", BELOW)
async def test_a_link_on_the_way(session: Session, nodes: LoginNodes, place: Place, case: Shared, verb: str) -> None:
    shared = prepared(nodes, place, case)
    before = sorted(os.listdir(place.path / "private"))
    async with session.bulk() as streams:
        with refusing(case, shared / "down"):
            await BELOW[verb](await session.files(), streams, place / "shared/down/file")
    if not case.followed:
        assert sorted(os.listdir(place.path / "private")) == before
        assert (place.path / "private/file").read_bytes() == SECRET


async def test_links_are_followed_as_the_kernel_does(session: Session, place: Place) -> None:
    place.run("mkdir", "-p", "a/b c/d\n", "e")
    targets: dict[str, str | bytes] = {
        "up": "a/../a/b c",
        "absolute": os.fsencode(place.path) + b"//a/./",
        "chain": "up/d\n",
        "a/down": "../chain/",
        "dangling": "e/new\n",
        "round": "round",
    }
    for link, target in targets.items():
        place.run("ln", "-s", target, link)
    for path in (b"up", b"absolute/b c", b"chain", b"a/down/x", b"e/../up/d\n/y", b"dangling", b"absolute/down/..//z"):
        expected = os.path.realpath(place / path)
        assert await resolve(session, place / path) == expected
    with pytest.raises(GatewayError, match="Too many levels of symbolic links"):
        await resolve(session, place / "round")


async def test_of_somebody_elses_file_no_setuid_is_adopted(session: Session, nodes: LoginNodes, place: Place) -> None:
    for mode, owner, expected in (
        (0o4755, nodes.bob.uid, 0o755),
        (0o6775, nodes.bob.uid, 0o775),
        (0o4755, nodes.alice.uid, 0o4755),
    ):
        path = place.write("program", b"old")
        os.chown(path, owner, nodes.alice.gid)
        os.chmod(path, mode)
        async with session.bulk() as streams:
            for write in (streams.replace, (await session.files()).write):
                await write(path, blocks(b"new"))
                assert os.stat(path).st_mode & 0o7777 == expected
                os.chown(path, owner, nodes.alice.gid)
                os.chmod(path, mode)


def step(mode: int, uid: int = 0, gid: int = 0) -> Step:
    return Step(mode, uid, gid)


@pytest.mark.parametrize(
    ("steps", "fixed", "kept"),
    [
        ([step(0o755), step(0o755, 1000)], True, True),
        ([step(0o755), step(0o1777)], True, True),
        ([step(0o755), step(0o777)], True, False),
        ([step(0o755), step(0o2770, 1000, 50)], True, False),
        ([step(0o755), step(0o775, 1000, 1000)], True, True),
        ([step(0o755), step(0o777, 1000), step(0o700, 1000)], False, False),
        ([step(0o755), step(0o1777), step(0o700, 1000)], True, True),
        ([step(0o755), step(0o1777), step(0o755, 1001)], False, False),
        ([step(0o755), step(0o755, 1001)], True, False),
        ([step(0o755), step(0o755, 1001), step(0o755, 1000)], False, False),
    ],
)
def test_who_can_move_a_directory(steps: list[Step], fixed: bool, kept: bool) -> None:
    found = judge(b"/x", steps, Self(1000, 1000))
    assert (found.fixed, found.kept) == (fixed, kept)


async def test_commands_stand_where_they_were_sent(session: Session, place: Place) -> None:
    place.run("mkdir", "a", "b")
    place.run("ln", "-s", "b", "link")
    assert (await Pinned(session, place / "a").run(["pwd"])).stdout.strip() == place / "a"
    assert (await Pinned(session, place / "link").run(["pwd"])).stdout.strip() == place / "b"
    assert (await Pinned(session, place.path.__fspath__().encode(), b"a").run(["pwd"])).stdout.strip() == place / "a"
    # Neither a link nor what others write is the user's alone.
    assert not (await Pinned(session, place / "", b"link").run(["pwd"])).ok
    place.run("chmod", "g+w", "b")
    assert not (await Pinned(session, place / "", b"b").run(["pwd"])).ok
    assert not (await Pinned(session, place / "", b"missing").run(["pwd"])).ok


@contextmanager
def swapping(path: Path, other: Path) -> Iterator[list[int]]:
    """Swap two names in a tight loop for as long as the context lasts; the list has the number of times."""
    over = threading.Event()
    aside = path.with_name("aside")
    count = [0]

    def swap() -> None:
        while not over.is_set():
            with suppress(OSError):
                os.rename(path, aside)
                os.rename(other, path)
                os.rename(aside, other)
                count[0] += 1

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield count
    finally:
        over.set()
        thread.join()


ASTRAY: dict[str, Any] = {
    **BELOW,
    "mkdir -p": lambda files, streams, path: files.mkdir(path + b"d/e", parents=True),
    "rename to": lambda files, streams, path: files.rename(path[: -len(b"shared/real/file")] + b"mine", path),
    "chmod of the directory": lambda files, streams, path: files.chmod(path[: -len(b"/file")], 0o755),
}


@pytest.mark.parametrize("verb", ASTRAY)
async def test_a_directory_that_is_swapped_for_a_link_leads_nowhere(
    session: Session, nodes: LoginNodes, place: Place, verb: str
) -> None:
    shared = prepared(nodes, place, Shared(0o777, "alice", "bob", False))
    (shared / "real").mkdir()
    os.chown(shared / "real", nodes.bob.uid, nodes.alice.gid)
    (shared / "real").chmod(0o777)
    place.write("shared/real/file", b"real")
    place.write("mine", b"mine")
    private = place.path / "private"
    before = (private.stat().st_mode, (private / "file").stat().st_mode)
    async with session.bulk() as streams:
        files = await session.files()
        with swapping(shared / "real", shared / "down") as swapped:
            for _ in range(12):
                with suppress(GatewayError):
                    await ASTRAY[verb](files, streams, place / "shared/real/file")
                assert os.listdir(private) == ["file"]
                assert (private / "file").read_bytes() == SECRET
                assert (private.stat().st_mode, (private / "file").stat().st_mode) == before
            while not swapped[0]:
                await asyncio.sleep(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("script", ['settle "$1"', 'beside "$1"', 'follow "$1"; enter "${real%/*}"'])
def test_a_link_that_is_swapped_for_ones_own_leads_nowhere(tmp_path: Path, shell: str, script: str) -> None:
    """What says whose a link is and what says where it leads must be about the same link, in the same directory."""
    shared, private = tmp_path / "shared", tmp_path / "private"
    for directory in (shared, private, tmp_path / "mine"):
        directory.mkdir()
    for above in (tmp_path, *list(tmp_path.parents)[:3]):
        above.chmod(above.stat().st_mode | 0o011)
    for path, target, owner in (("way", tmp_path / "mine", NOBODY), ("down", private, 4321)):
        (shared / path).symlink_to(target)
        os.chown(shared / path, owner, owner, follow_symlinks=False)
    os.chown(shared, NOBODY, NOBODY)
    shared.chmod(0o777)
    argv = [shell, "-c", f"{ENTER}{script}; pwd -P", "sh", f"{shared}/way/file"]
    with swapping(shared / "way", shared / "down"):
        for _ in range(25):
            done = subprocess.run(Identity(NOBODY, NOBODY).command(argv), capture_output=True)
            assert os.fsencode(private) not in done.stdout
    assert done.returncode or done.stdout
