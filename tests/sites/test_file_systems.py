"""File systems that fail as those of sites do: over quota, file servers that lose writes or go away, no hard links.

Each line of the table is a fault, met by each operation that it stands beside, in each way to reach files. What is
asked: the status and words that say what it was, nothing taken for stored that is not, what was there left whole,
nothing left behind, and the same request coming right once the fault has gone.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpcgate.demo.packages import ensure_installed
from hpcgate.errors import GatewayError
from hpcgate.filesystem.tus.registry import UploadRegistry
from hpcgate.filesystem.tus.uploads import Uploads
from hpcgate.filesystem.unpacking import unpack
from hpcgate.ssh.files.protocol import Replacing
from hpcgate.ssh.session import Session
from tests.filesystem.remote import WAYS, Place, keys, nodes, opened, place, sshd
from tests.sites.operations import verb

__all__ = ["keys", "nodes", "place", "sshd"]

CALLS = (
    "chmod", "chown", "create", "flush", "fsync", "getattr", "getxattr", "link", "listxattr", "mkdir", "mknod", "open",
    "opendir", "read", "readdir", "readlink", "rename", "rmdir", "setxattr", "statfs", "symlink", "truncate", "unlink",
    "utimens", "write",
)  # fmt: skip
"""What a fault may stand under."""
SETTINGS = {
    "only": "what the paths have in them that fail",
    "quota": "bytes that all files may have together",
    "late": "whether that is seen only where files are closed",
    "hole": "whether what a failed flush loses lies amid the file, whose length stays",
    "seconds": "whether times are whole seconds",
}
"""What they may be like."""
OLD, NEW = b"what was there before\n", bytes(range(256)) * 1200
STEP = 50_000
QUOTA = 400_000
"""Bytes that there may be: less than another `NEW` beside what is there."""


async def blocks(content: bytes, error: Exception | None = None) -> AsyncIterator[bytes]:
    for start in range(0, len(content), STEP):
        yield content[start : start + STEP]
    if error is not None:
        raise error


@dataclass(frozen=True)
class Site:
    """A file system with a fault.

    Attributes:
        path: Where it is mounted.
        behind: What it shows, without faults.
    """

    path: Path
    behind: Path
    file: Path

    def fail(self, **faults: Any) -> None:
        assert faults.keys() <= {*CALLS, *SETTINGS}
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps(faults))
        fresh.rename(self.file)

    def content(self) -> dict[str, bytes | None]:
        """Return all there is, directories as None, without what is removed as soon as nobody has it open."""
        found: dict[str, bytes | None] = {}
        for path in self.behind.rglob("*"):
            if not path.name.startswith(".fuse_hidden"):
                name = str(path.relative_to(self.behind))
                found[name] = None if path.is_dir() else b"link" if path.is_symlink() else path.read_bytes()
        return found


async def write(session: Session, top: Path) -> None:
    await (await session.files()).write(os.fsencode(top / "new"), blocks(NEW))


async def overwrite(session: Session, top: Path) -> None:
    await (await session.files()).write(os.fsencode(top / "old"), blocks(NEW))


async def replace(session: Session, top: Path) -> None:
    async with session.bulk() as streams:
        await streams.replace(os.fsencode(top / "old"), blocks(NEW))


async def put(session: Session, top: Path) -> None:
    async with session.bulk() as streams:
        await streams.replace(os.fsencode(top / "old"), blocks(NEW), sync=True)


async def put_new(session: Session, top: Path) -> None:
    async with session.bulk() as streams:
        await streams.replace(os.fsencode(top / "new"), blocks(NEW), sync=True, exclusive=True)


async def put_in_place(session: Session, top: Path) -> None:
    async with session.bulk() as streams:
        await streams.replace(os.fsencode(top / "old"), blocks(NEW), how=Replacing.in_place)


async def resumable(session: Session, top: Path) -> None:
    async with session.bulk() as streams:
        uploads = Uploads(session, streams, os.fsencode(top), UploadRegistry(), 86400)
        upload = await uploads.create(b"new", len(NEW), "")
        try:
            await uploads.append(upload.id, 0, blocks(NEW))
        except GatewayError:
            await uploads.discard(upload.id)
            raise


async def unpacked(session: Session, top: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("a/new")
        member.size = len(NEW)
        archive.addfile(member, io.BytesIO(NEW))
    await unpack(session, os.fsencode(top / "into"), blocks(packed.getvalue()), limit=None)


async def extract(session: Session, top: Path) -> None:
    await verb(session, "extract", source_path=top / "packed", target_path=top / "directory", compression="none")


async def compress(session: Session, top: Path) -> None:
    await verb(session, "compress", source_path=top / "packed", target_path=top / "old", compression="none")


async def mkdir(session: Session, top: Path) -> None:
    await verb(session, "mkdir", path=top / "made" / "below", parent=True)


async def symlink(session: Session, top: Path) -> None:
    await verb(session, "symlink", source_path=top / "old", link_path=top / "link")


async def remove(session: Session, top: Path) -> None:
    await verb(session, "rm", path=top / "old")


async def chmod(session: Session, top: Path) -> None:
    await verb(session, "chmod", path=top / "old", mode="600")


async def view(session: Session, top: Path) -> None:
    await verb(session, "view", path=top / "packed")


async def head(session: Session, top: Path) -> None:
    await verb(session, "head", path=top / "packed")


async def checksum(session: Session, top: Path) -> None:
    await verb(session, "checksum", path=top / "packed")


async def file(session: Session, top: Path) -> None:
    await verb(session, "file", path=top / "packed")


async def download(session: Session, top: Path) -> None:
    async with session.bulk() as streams, streams.open(os.fsencode(top / "packed")) as opened_file:
        async for _ in opened_file.blocks(0, None):
            pass


async def stat(session: Session, top: Path) -> None:
    await verb(session, "stat", path=top / "old")


async def ls(session: Session, top: Path) -> None:
    await verb(session, "ls", path=top)


Operation = Callable[[Session, Path], Awaitable[None]]
STORING: tuple[Operation, ...] = (write, overwrite, replace, put, put_new, put_in_place, resumable, unpacked, extract)
WRITING: tuple[Operation, ...] = (*STORING, compress)
READING: tuple[Operation, ...] = (view, head, checksum, file, download)


@dataclass(frozen=True)
class Fault:
    """What a file system does, and what is to be answered.

    Attributes:
        faults: As tests/sites/faulty.py takes them.
        operations: Which operations meet it.
        status: Of the answer; None where it comes right all the same.
        words: In the answer.
    """

    faults: dict[str, Any]
    operations: tuple[Operation, ...]
    status: int | None
    words: str = ""


FULL, LOST, STALE = "Disk quota exceeded", "Input/output error", "Stale file handle"
FAULTS: dict[str, Fault] = {
    "over quota where something is written": Fault({"write": "EDQUOT"}, WRITING, 507, FULL),
    "over quota where a file is closed": Fault({"flush": "EDQUOT"}, WRITING, 507, FULL),
    "over quota after so many bytes": Fault(
        {"quota": QUOTA}, tuple(one for one in STORING if one not in (unpacked, extract)), 507, FULL
    ),
    # tar of Debian says that a write was cut short, and does not ask why.
    "over quota amid what is unpacked": Fault({"quota": QUOTA}, (unpacked, extract), 507, "Wrote only"),
    "over quota after so many bytes, said where a file is closed": Fault(
        {"quota": QUOTA, "late": True}, STORING, 507, FULL
    ),
    "full where a file is closed": Fault({"flush": "ENOSPC"}, WRITING, 507, "No space left on device"),
    "over quota of files": Fault(
        {"create": "EDQUOT", "mkdir": "EDQUOT", "symlink": "EDQUOT"}, (*WRITING, mkdir, symlink), 507, FULL
    ),
    "over quota where a name is given": Fault(
        {"rename": "EDQUOT"}, (write, overwrite, replace, put, resumable, unpacked, extract, compress), 507, FULL
    ),
    "read-only": Fault(
        {name: "EROFS" for name in ("create", "mkdir", "symlink", "unlink", "rename", "chmod")},
        (*WRITING, mkdir, symlink, remove, chmod),
        403,
        "Read-only file system",
    ),
    "a server that loses what is written": Fault({"flush": "EIO"}, WRITING, 500, LOST),
    "a server that loses it amid the file": Fault({"flush": "EIO", "hole": True}, WRITING, 500, LOST),
    "a server that cannot have it on disk": Fault({"fsync": "EIO"}, (put, put_new, put_in_place, resumable), 500, LOST),
    "a handle that goes stale where a file is read back": Fault(
        {"open": "ESTALE", "only": "/.hpcgate-"}, (put_in_place,), 500, STALE
    ),
    "a handle that goes stale": Fault({"open": "ESTALE"}, (view, head, checksum, download), 500, STALE),
    "a file that cannot be read": Fault({"read": "EIO"}, READING, 500, LOST),
    "a name whose handle is stale": Fault({"getattr": "ESTALE", "only": "old"}, (stat,), 500, STALE),
    "a server that is down": Fault({"getattr": "EHOSTDOWN", "only": "/"}, (stat, ls, view), 500, "Host is down"),
    "a ticket of Kerberos that has expired": Fault({"open": "EKEYEXPIRED"}, (view, download), 403, "Key has expired"),
    "a client that was shut out": Fault({"open": "ESHUTDOWN"}, (view, download), 500, "endpoint shutdown"),
    "no hard links": Fault({"link": "EPERM"}, (put_new, resumable), None),
    "no hard links, as others say it": Fault({"link": "EOPNOTSUPP"}, (put_new, resumable), None),
    "no lists, no attributes": Fault(
        {name: "EOPNOTSUPP" for name in ("getxattr", "listxattr", "setxattr")}, WRITING, None
    ),
    "statfs that says nothing, times in whole seconds": Fault({"statfs": "ENOSYS", "seconds": True}, WRITING, None),
    "modes that cannot be set": Fault(
        {"chmod": "EPERM", "only": "/.hpcgate-"}, (overwrite, replace, put), 403, "Operation not permitted"
    ),
}


def has_fuse() -> bool:
    """Say whether the kernel lets us have file systems of our own."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError:
        return False
    return True


@pytest.fixture
def site(place: Place) -> Iterator[Site]:
    """A mounted file system."""
    if os.geteuid() != 0 or not has_fuse():
        pytest.skip("needs root, and FUSE, which some containers do not have")
    ensure_installed({"fusermount3": "fuse3"}, lambda _: None)
    mount, behind, faults = (place.path / name for name in ("mount", "behind", "faults"))
    for directory in (mount, behind):
        directory.mkdir()
    place.path.chmod(0o755)
    faults.write_text("{}")
    program = Path(__file__).with_name("faulty.py")
    shown = subprocess.Popen([sys.executable, str(program), str(behind), str(mount), str(faults)])
    try:
        deadline = time.monotonic() + 600
        while not os.path.ismount(mount):
            assert shown.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (behind / "old").write_bytes(OLD)
        (behind / "directory").mkdir()
        (behind / "directory" / "kept").write_bytes(OLD)
        with tarfile.open(behind / "packed", "w") as archive:
            member = tarfile.TarInfo("new")
            member.size = len(NEW)
            archive.addfile(member, io.BytesIO(NEW))
        for path in (behind, *behind.rglob("*")):
            os.chown(path, place.user.uid, place.user.gid)
        yield Site(mount, behind, faults)
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=False)
        shown.kill()
        shown.wait()


@pytest.mark.parametrize(
    ("name", "way"),
    # The helper only reads.
    [
        (name, way)
        for name, fault in FAULTS.items()
        for way in WAYS
        if way != "helped" or fault.operations[0] not in WRITING
    ],
)
async def test_faults(way: str, name: str, site: Site, nodes: Any, sshd: Any, keys: Any) -> None:
    """A file system that fails is told of, and nothing is lost, taken for stored or left behind."""
    fault = FAULTS[name]
    before = site.content()
    async with opened(way, nodes, sshd, keys) as session:
        for operation in fault.operations:
            site.fail(**fault.faults)
            if fault.status is None:
                await operation(session, site.path)
            else:
                with pytest.raises(GatewayError) as caught:
                    await operation(session, site.path)
                site.fail()
                said = f"{operation.__name__}: {caught.value.status} {caught.value.message}"
                assert (caught.value.status, fault.words in caught.value.message) == (fault.status, True), said
                assert site.content() == before, said
                await operation(session, site.path)
            site.fail()
            stored = site.content()
            if operation in STORING:
                assert NEW in [content for path, content in stored.items() if before.get(path) != content]
            assert [path for path in stored if ".hpcgate-" in path] == []
            restore(site, before)


def restore(site: Site, before: dict[str, bytes | None]) -> None:
    """Undo what an operation has done."""
    owner = site.behind.stat()
    for path in sorted(site.behind.rglob("*"), reverse=True):
        if str(path.relative_to(site.behind)) not in before:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, content in before.items():
        path = site.behind / name
        if content is not None and (not path.exists() or path.read_bytes() != content):
            path.unlink(missing_ok=True)
            path.write_bytes(content)
            os.chown(path, owner.st_uid, owner.st_gid)


class Broken(Exception):
    """The client has gone."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gone", [False, True], ids=["", "as the client breaks off"])
@pytest.mark.parametrize("hole", [False, True], ids=["its end", "what lies amid it"])
async def test_an_upload_goes_on_from_what_is_stored(
    way: str, gone: bool, hole: bool, site: Site, nodes: Any, sshd: Any, keys: Any
) -> None:
    """Where the file server loses a part of an upload, be it amid the file, the client is told to send it again."""
    third = len(NEW) // 3
    async with opened(way, nodes, sshd, keys) as session, session.bulk() as streams:
        uploads = Uploads(session, streams, os.fsencode(site.path), UploadRegistry(), 86400)
        upload = await uploads.create(b"new", len(NEW), "")
        upload = await uploads.append(upload.id, 0, blocks(NEW[:third]))
        site.fail(flush="EIO", hole=hole, only="content")
        with pytest.raises(Broken if gone else GatewayError):
            await uploads.append(upload.id, third, blocks(NEW[third : 2 * third], Broken() if gone else None))
        site.fail()
        upload = await uploads.find(upload.id)
        assert upload.offset == third
        await uploads.append(upload.id, third, blocks(NEW[third:]))
    assert (site.behind / "new").read_bytes() == NEW
