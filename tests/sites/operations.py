"""What is asked of a site, one line each: the rows of the zoo's table."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from hpcgate.config import plugins
from hpcgate.filesystem.base import Limits
from hpcgate.ssh.session import Session

Operation = Callable[[Session, Path], Awaitable[None]]
"""Does something in a directory, and fails if what comes of it is not right."""

CONTENT = b"".join(b"line %d\n" % number for number in range(1, 5000))
SCRIPT = b"#!/bin/sh\ntouch ran-on-the-login-node\necho first\n"
"""What would be seen if a shell other than the one that it is for ran it."""
OLD = b"the file that was there before\n"


class Failed(Exception):
    """A command has ended with an error of its own."""


async def blocks() -> AsyncIterator[bytes]:
    """Yield the content in parts."""
    for start in range(0, len(CONTENT), 10_000):
        yield CONTENT[start : start + 10_000]


async def stat(session: Session, place: Path) -> None:
    found = await (await session.files()).stat(os.fsencode(place / "old"))
    assert found.size == len(OLD)


async def ls(session: Session, place: Path) -> None:
    found = await (await session.files()).listing(os.fsencode(place))
    assert b"old" in [entry.name for entry in found]


async def view(session: Session, place: Path) -> None:
    assert await (await session.files()).read(os.fsencode(place / "old"), size=1000) == OLD


async def download(session: Session, place: Path) -> None:
    async with session.bulk() as streams, streams.open(os.fsencode(place / "old")) as opened:
        assert b"".join([block async for block in opened.blocks(0, None)]) == OLD


async def upload(session: Session, place: Path) -> None:
    assert await (await session.files()).write(os.fsencode(place / "written"), blocks()) == len(CONTENT)
    assert (place / "written").read_bytes() == CONTENT


async def put(session: Session, place: Path) -> None:
    async with session.bulk() as streams:
        assert await streams.replace(os.fsencode(place / "replaced"), blocks()) == len(CONTENT)
    assert (place / "replaced").read_bytes() == CONTENT


async def submit(session: Session, place: Path) -> None:
    """Hand a script to a command, as jobs are submitted."""
    target = os.fsencode(place / "script")
    done = await session.run(["sh", "-c", 'cat > "$1" && echo 12', "cat", target], stdin=SCRIPT)
    if not done.ok:
        raise Failed(f"{done.exit_status}: {done.words}")
    assert done.stdout == b"12\n"
    assert (place / "script").read_bytes() == SCRIPT


async def run(session: Session, place: Path) -> None:
    done = await session.run(["cat", os.fsencode(place / "old")])
    assert (done.exit_status, done.stdout) == (0, OLD)


OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation for operation in (stat, ls, view, download, upload, put, submit, run)
}
STORED = {"written": CONTENT, "replaced": CONTENT, "script": SCRIPT}
"""What is to be there in whole, or not at all."""


LIMITS = Limits(max_ops_file_size=5 * 1024 * 1024)


async def verb(session: Session, name: str, **parameters: Any) -> Any:
    """Carry out a filesystem operation of the API."""
    operation = plugins("hpcgate.operations")[name].load()
    given = {key: str(value) if isinstance(value, Path) else value for key, value in parameters.items()}
    return await operation(operation.Parameters(**given), LIMITS).run(session)


async def list_all(session: Session, place: Path) -> None:
    found = await verb(session, "ls", path=place, recursive=True, show_hidden=True)
    # What was unpacked by an earlier round has a longer name.
    old = min((entry for entry in found if entry.name.endswith("old")), key=lambda entry: len(entry.name))
    assert int(old.size) == len(OLD)


async def head(session: Session, place: Path) -> None:
    assert (await verb(session, "head", path=place / "old", lines=1)).content == OLD.decode()


async def tail(session: Session, place: Path) -> None:
    assert (await verb(session, "tail", path=place / "old", bytes=5)).content == OLD[-5:].decode()


async def checksum(session: Session, place: Path) -> None:
    found = await verb(session, "checksum", path=place / "old")
    assert found.checksum == hashlib.sha256(OLD).hexdigest()


async def file(session: Session, place: Path) -> None:
    assert (await verb(session, "file", path=place / "old")) == "ASCII text"


async def mkdir(session: Session, place: Path) -> None:
    await verb(session, "mkdir", path=place / "made" / "below", parent=True)
    assert (place / "made" / "below").is_dir()


async def symlink(session: Session, place: Path) -> None:
    (place / "link").unlink(missing_ok=True)
    await verb(session, "symlink", source_path=place / "old", link_path=place / "link")
    assert (place / "link").readlink() == place / "old"


async def chmod(session: Session, place: Path) -> None:
    shutil.chown(place / "old", place.owner(), place.group())
    await verb(session, "chmod", path=place / "old", mode="600")
    assert (place / "old").stat().st_mode & 0o777 == 0o600
    await verb(session, "chmod", path=place / "old", mode="644")


async def compress(session: Session, place: Path) -> None:
    for how in ("gzip", "bzip2", "xz"):
        target = place / f"old.tar.{how}"
        await verb(session, "compress", source_path=place / "old", target_path=target, compression=how)
        with tarfile.open(target, "r:*") as archive:
            assert archive.getnames() == ["old"]


async def extract(session: Session, place: Path) -> None:
    """Unpack what comes with the account."""
    (place / "unpacked").mkdir(exist_ok=True)
    shutil.chown(place / "unpacked", place.owner(), place.group())
    packed = place / "packed.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(place / "old", "old")
    await verb(session, "extract", source_path=packed, target_path=place / "unpacked")
    assert (place / "unpacked" / "old").read_bytes() == OLD


async def rm(session: Session, place: Path) -> None:
    gone = place / "gone"
    gone.mkdir(exist_ok=True)
    (gone / "file").touch()
    for path in (gone, gone / "file"):
        shutil.chown(path, place.owner(), place.group())
    await verb(session, "rm", path=gone)
    assert not gone.exists()


VERBS: dict[str, Operation] = OPERATIONS | {
    operation.__name__: operation
    for operation in (list_all, head, tail, checksum, file, mkdir, symlink, chmod, compress, extract, rm)
}
"""All of them: what is asked of each set of variables and tools."""
