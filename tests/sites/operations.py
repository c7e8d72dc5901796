"""What is asked of a site, one line each: the rows of the zoo's table."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

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
    done = await session.run(["sh", "-c", 'cat > "$1" && echo 12', "sh", target], stdin=SCRIPT)
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
