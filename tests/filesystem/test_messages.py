"""What fails of a file names the file that the user asked for, not the name that it has here until it is whole."""

import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from hpcgate.errors import BadRequest, GatewayError, NoSpace, PermissionDenied
from hpcgate.filesystem.base import Limits
from hpcgate.filesystem.compress import Compress
from hpcgate.filesystem.tus.registry import UploadRegistry
from hpcgate.filesystem.tus.uploads import Uploads
from hpcgate.ssh.files.protocol import Replacing
from hpcgate.ssh.session import Session
from tests.filesystem.remote import Place

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts")


async def blocks(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def replace(session: Session, place: Place, name: str, *, exclusive: bool = False) -> None:
    async with session.bulk() as streams:
        content, how = blocks(os.urandom(500_000)), Replacing.atomic
        await streams.replace(place / name, content, exclusive=exclusive, how=how)


async def write(session: Session, place: Place, name: str) -> None:
    await (await session.files()).write(place / name, blocks(os.urandom(500_000)))


async def compress(session: Session, place: Place, name: str, pattern: str = "") -> None:
    given = {"path": os.fsdecode(place / "big"), "targetPath": os.fsdecode(place / name), "matchPattern": pattern}
    await Compress(Compress.Parameters.model_validate(given), Limits(1024)).run(session)


async def upload(session: Session, place: Place, name: str) -> None:
    directory, _, last = (place / name).rpartition(b"/")
    async with session.bulk() as streams:
        uploads = Uploads(session, streams, directory, UploadRegistry(), 1000)
        begun = await uploads.create(last, 500_000, "")
        try:
            await uploads.append(begun.id, 0, blocks(os.urandom(500_000)))
        finally:
            await uploads.discard(begun.id)


async def join(session: Session, place: Place, name: str) -> None:
    directory, _, last = (place / name).rpartition(b"/")
    async with session.bulk() as streams:
        beside = Uploads(session, streams, place / "", UploadRegistry(), 1000)
        part = await beside.create(b"part", 500_000, "", partial=True)
        try:
            await beside.append(part.id, 0, blocks(os.urandom(500_000)))
            await Uploads(session, streams, directory, UploadRegistry(), 1000).join(last, "", [(beside, part.id)])
        finally:
            await beside.discard(part.id)


WRITERS: dict[str, Callable[[Session, Place, str], Awaitable[None]]] = {
    "replace": replace,
    "write": write,
    "compress": compress,
    "upload": upload,
    "join": join,
}
OBSTACLES: dict[str, tuple[type[GatewayError], str]] = {
    "closed/file": (PermissionDenied, "Permission denied"),
    "small/file": (NoSpace, "No space left on device"),
    "mounted": (BadRequest, "Device or resource busy"),
    "open to all/mounted": (BadRequest, "Device or resource busy"),
    "open to all/" + "x" * 256: (BadRequest, "File name too long"),
}


@pytest.fixture
def obstacles(place: Place) -> Iterator[None]:
    place.write("big", os.urandom(500_000))
    place.run("mkdir", "-m", "555", "closed")
    place.run("mkdir", "-m", "777", "small", "open to all")
    mounts: list[bytes] = []
    try:
        options = f"size=200k,uid={place.user.uid}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place / "small"], check=True)
        mounts.append(place / "small")
        place.write("source")
        for name in ("mounted", "open to all/mounted"):
            subprocess.run(["mount", "--bind", place / "source", place.write(name)], check=True)
            mounts.append(place / name)
        yield
    finally:
        for mount in mounts:
            subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize("writer", WRITERS)
async def test_what_cannot_be_written_is_told_by_its_own_name(
    session: Session, place: Place, obstacles: None, writer: str
) -> None:
    for name, (kind, why) in OBSTACLES.items():
        if writer == "compress" and "mounted" in name:
            continue  # It is written in place.
        with pytest.raises(kind, match=f"{why}$") as caught:
            await WRITERS[writer](session, place, name)
        assert ".hpcgate" not in caught.value.message, name
        # What compresses for tar writes to its standard output, and knows of no file.
        told = os.fsdecode(place / name) in caught.value.message
        assert told or (writer == "compress" and kind is NoSpace), (name, caught.value.message)
        assert "sh: " not in caught.value.message
