"""What another user swaps between two of the gateway's own calls to a login node leads it nowhere else.

A path that is looked at in one call and used in the next is another one by then: right before each message that the
gateway sends (a command, an SFTP request, a line for a program that waits), in turn, the attacker exchanges what is
about to be used, and in every second run puts it back before the next message. The gateway waits meanwhile, so that
nothing depends on who is quicker. `tests/ssh/test_swaps.py` does the same within each script.
"""

import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress

import asyncssh
import pytest

from hpcgate.demo.packages import ensure_installed
from hpcgate.errors import GatewayError
from hpcgate.filesystem.tus.registry import UploadRegistry
from hpcgate.filesystem.tus.uploads import Uploads
from hpcgate.ssh.files.protocol import Replacing
from hpcgate.ssh.session import Session
from tests.contract.test_links import ASTRAY, SECRET, blocks
from tests.filesystem.remote import Place
from tests.ssh.nodes import LoginNodes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")

DATA, REQUEST = 94, 98
"""Messages that say something to a program, or begin one (RFC 4254, section 9)."""
Do = Callable[[Session, bytes], Awaitable[object]]


async def upload(session: Session, target: bytes) -> None:
    """Begin, go on with and complete a resumable upload, by a request each."""
    directory, _, name = target.rpartition(b"/")
    registry = UploadRegistry()
    async with session.bulk() as streams:
        begun = await Uploads(session, streams, directory, registry, 1000).create(name, 6, "")
    for offset in (0, 3):
        async with session.bulk() as streams:
            await Uploads(session, streams, directory, registry, 1000).append(begun.id, offset, blocks(b"new"))


async def terminated(session: Session, target: bytes) -> None:
    """Begin an upload and give it up."""
    directory, _, name = target.rpartition(b"/")
    async with session.bulk() as streams:
        uploads = Uploads(session, streams, directory, UploadRegistry(), 1000)
        begun = await uploads.create(name, 6, "")
        await uploads.terminate(begun.id)


async def joined(session: Session, target: bytes) -> None:
    """Make a file of the parts of two uploads."""
    directory, _, name = target.rpartition(b"/")
    async with session.bulk() as streams:
        uploads = Uploads(session, streams, directory, UploadRegistry(), 1000)
        parts = []
        for _ in range(2):
            part = await uploads.create(b"part", 3, "", partial=True)
            await uploads.append(part.id, 0, blocks(b"new"))
            parts.append((uploads, part.id))
        await uploads.join(name, "", parts)


def nothing() -> None:
    """Let the gateway be."""


def of_files(verb: str) -> Do:
    async def do(session: Session, target: bytes) -> None:
        async with session.bulk() as streams:
            await ASTRAY[verb](await session.files(), streams, target)

    return do


async def in_place(session: Session, target: bytes) -> None:
    async with session.bulk() as streams:
        await streams.replace(target, blocks(b"new"), how=Replacing.in_place)


DOES: dict[str, Do] = {
    # The directory is the attacker's: its mode is his own business.
    **{verb: of_files(verb) for verb in ASTRAY if verb != "chmod of the directory"},
    "in place": in_place,
    "upload": upload,
    "terminate": terminated,
    "join": joined,
}
SWAPS = {
    "the directory": ("real", "down"),
    "a directory above": ("above", "above-link"),
    "the file": ("real/file", "file"),
}


class Scene:
    """A directory that others write in, with one of the attacker's in it, and links of his to put in its place."""

    def __init__(self, nodes: LoginNodes, place: Place, *, listed: bool = False) -> None:
        """Keep what there is; `listed`: others write there by an access control list, and the mode does not show it."""
        self._nodes = nodes
        self._place = place
        self._listed = listed
        self.shared = place.path / "shared"
        self.private = place.path / "private"

    def prepare(self) -> None:
        for name in os.listdir(self._place.path):
            path = self._place.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        alice, bob = self._nodes.alice, self._nodes.bob
        self._place.run("mkdir", "-p", "private/real", "shared")
        for name in ("file", "real/file"):
            self._place.write(f"private/{name}", SECRET, 0o600)
        self._place.write("mine", b"mine")
        for directory in (self.shared, self.shared / "above", self.shared / "above" / "real", self.shared / "real"):
            directory.mkdir(exist_ok=True)
            os.chown(directory, alice.uid if self._listed else bob.uid, alice.gid)
            directory.chmod(0o770 if self._listed else 0o777)
            if self._listed:
                subprocess.run(["setfacl", "-m", f"u:{bob.uid}:rwx", directory], check=True)
            if directory.name == "real":
                self._place.write(str(directory.relative_to(self._place.path) / "file"), b"real")
        os.chown(self.shared, alice.uid, alice.gid)
        for link, target in (("down", "../private"), ("above-link", "../private"), ("file", "../private/file")):
            (self.shared / link).symlink_to(target)
            os.chown(self.shared / link, bob.uid, bob.uid, follow_symlinks=False)

    def state(self) -> list[tuple[str, int, int, bytes | None]]:
        """Return what must stay as it is."""
        found = []
        for path in (self.private, *sorted(self.private.rglob("*"))):
            info = path.lstat()
            found.append((str(path), info.st_mode, info.st_uid, path.read_bytes() if path.is_file() else None))
        return found

    def swap(self, what: str, other: str) -> None:
        one, two, aside = (self.shared / name for name in (what, other, "aside"))
        with suppress(OSError):
            os.rename(one, aside)
            os.rename(two, one)
            os.rename(aside, two)


LISTED = ("replace", "write", "upload", "chmod", "symlink")
"""What is tried where a list lets others write, too, in a directory of the user's own group."""


@pytest.mark.parametrize(("name", "listed"), [*((name, False) for name in DOES), *((name, True) for name in LISTED)])
async def test_a_swap_before_any_message_leads_nowhere_else(
    session: Session, nodes: LoginNodes, place: Place, name: str, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With HPCGATE_ALL_ATTACKS in the environment before every message; else each swap before a few of them."""
    if listed:
        ensure_installed({"setfacl": "acl"}, lambda _: None)
    scene = Scene(nodes, place, listed=listed)
    sent, act = 0, nothing
    send = asyncssh.channel.SSHChannel.send_packet

    def stepping(self: object, pkttype: int, *args: bytes) -> None:
        nonlocal sent
        if pkttype in (DATA, REQUEST):
            sent += 1
            act()
        send(self, pkttype, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncssh.channel.SSHChannel, "send_packet", stepping)

    async def run(swap: str, at: int, *, back: bool) -> int:
        nonlocal sent, act
        what, other = SWAPS[swap]
        scene.prepare()
        before = scene.state()
        sent = 0

        def exchange() -> None:
            if sent == at or (back and sent == at + 1):
                scene.swap(what, other)

        act = exchange
        target = place / ("shared/above/real/file" if swap == "a directory above" else "shared/real/file")
        try:
            with suppress(GatewayError) if at else nullcontext():
                await DOES[name](session, target)
        finally:
            act = nothing
        assert scene.state() == before, (swap, at, back)
        return sent

    # The first time it finds out what there is; from then on runs are alike.
    await run("the directory", 0, back=False)
    messages = await run("the directory", 0, back=False)
    assert messages
    cells = [(swap, at) for swap in SWAPS for at in range(1, messages + 1)]
    every = 1 if "HPCGATE_ALL_ATTACKS" in os.environ else max(1, len(cells) // 3)
    for number, (swap, at) in enumerate(cells[list(DOES).index(name) % every :: every]):
        await run(swap, at, back=number % 2 == 1)
