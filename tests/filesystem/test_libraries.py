"""Files of the names of libraries where others may write, and users whose loader looks where they stand."""

from __future__ import annotations

import os
import tarfile
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from hpcgate.demo.sshd import Sshd
from hpcgate.filesystem.base import Limits
from hpcgate.filesystem.chmod import Chmod
from hpcgate.filesystem.chown import Chown
from hpcgate.filesystem.compress import Compress
from hpcgate.filesystem.extract import Extract
from hpcgate.filesystem.mkdir import Mkdir
from hpcgate.filesystem.rm import Rm
from hpcgate.filesystem.symlink import Symlink
from hpcgate.ssh.session import Session
from tests.filesystem.remote import WAYS, Place, opened
from tests.ssh.nodes import Keys, LoginNodes

LIBRARIES = ("libc.so.6", "libselinux.so.1", "libacl.so.1", "libm.so.6")


@pytest.fixture
def shared(nodes: LoginNodes, place: Place) -> Iterator[Place]:
    """A directory that everybody may write, with what is no library but has its name; who loads it does not start."""
    start_up = nodes.alice.home / ".bashrc"
    start_up.write_text("export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:\n")
    there = place.inside("shared")
    there.path.chmod(0o777)
    for name in LIBRARIES:
        there.write(name, b"no library\n")
    os.chown(there.path, 0, 0)
    yield there
    start_up.unlink()


@pytest.fixture(params=[*WAYS, "confined"])
async def session(
    request: pytest.FixtureRequest, nodes: LoginNodes, sshd: Sshd, keys: Keys, shared: Place
) -> AsyncIterator[Session]:
    async with opened(request.param, nodes, sshd, keys) as leased:
        yield leased


async def _content() -> AsyncIterator[bytes]:
    yield b"content"


async def test_nothing_is_loaded_from_where_a_command_stands(session: Session, shared: Place, place: Place) -> None:
    """An empty part of LD_LIBRARY_PATH, which many have, is the directory where a program is started."""

    async def do(operation: Any, **given: Any) -> None:
        given = {name: os.fsdecode(value) if isinstance(value, bytes) else value for name, value in given.items()}
        await operation(operation.Parameters.model_validate(given), Limits(1024)).run(session)

    files = await session.files()
    await files.write(shared / "file", _content())
    await do(Mkdir, path=shared / "a/b", parent=True)
    await do(Symlink, path=shared / "file", linkPath=shared / "link")
    for mode in ("600", "u+x"):
        await do(Chmod, path=shared / "file", mode=mode)
    await do(Chown, path=shared / "file", group=str(shared.user.gid))
    await do(Compress, path=os.fsencode(shared.path), targetPath=shared / "some.tar.gz", matchPattern=".*/file")
    await do(Compress, path=shared / "a", targetPath=shared / "a.tar", compression="none")
    await do(Extract, path=shared / "some.tar.gz", targetPath=shared / "a")
    for name in ("link", "a.tar"):
        await do(Rm, path=shared / name)
    assert shared.names() == sorted(name.encode() for name in ("a", "file", "some.tar.gz", *LIBRARIES))
    assert (shared.path / "a" / "file").read_text() == "content"
    with tarfile.open(shared.path / "some.tar.gz") as tar:
        assert [os.path.normpath(name) for name in tar.getnames()] == ["file"]
