"""Sessions on a real sshd, with SFTP and without, and a directory of the user's to work in."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpcgate.auth.policy import Grant
from hpcgate.demo.processes import Identity
from hpcgate.demo.sshd import Sshd
from hpcgate.demo.users import User
from hpcgate.filesystem.confined_session import Confined
from hpcgate.ssh.files.protocol import RemoteFiles
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.session import Session
from tests.ssh.nodes import Keys, LoginNodes, login_nodes, principal, settings

WAYS = {
    "helped": {"files": "sftp", "helper": True},
    "sftp": {"files": "sftp", "helper": False},
    "commands": {"files": "commands", "helper": False},
}


@dataclass(frozen=True)
class Place:
    """An empty directory of a user's on the login node, which is this machine."""

    user: User
    path: Path

    def __truediv__(self, name: str | bytes) -> bytes:
        return os.fsencode(self.path) + b"/" + os.fsencode(name)

    def run(self, *argv: str | bytes, stdin: bytes = b"") -> bytes:
        """Run a command in the directory as the user, past the gateway."""
        done = subprocess.run(
            Identity(self.user.uid, self.user.gid).command(argv),
            cwd=self.path,
            input=stdin,
            capture_output=True,
            check=True,
            env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
        )
        printed: bytes = done.stdout
        return printed

    def write(self, name: str | bytes, content: bytes = b"", mode: int = 0o644) -> bytes:
        """Make a file of the user's."""
        path = self / name
        Path(os.fsdecode(path)).write_bytes(content)
        os.chown(path, self.user.uid, self.user.gid)
        os.chmod(path, mode)
        return path

    def inside(self, name: str) -> Place:
        """Make a directory of the user's in it."""
        self.run("mkdir", "--", name)
        return Place(self.user, self.path / name)

    def names(self) -> list[bytes]:
        """Return what the directory holds."""
        return sorted(os.listdir(os.fsencode(self.path)))


@pytest.fixture(scope="session")
def nodes() -> Iterator[LoginNodes]:
    with login_nodes() as running:
        yield running


@pytest.fixture(scope="session")
def sshd(nodes: LoginNodes) -> Sshd:
    return nodes.start()


@pytest.fixture(scope="session")
def keys(nodes: LoginNodes) -> Keys:
    return nodes.keys()


@pytest.fixture
def place(nodes: LoginNodes) -> Iterator[Place]:
    user = nodes.alice
    path = Path(tempfile.mkdtemp(dir=user.home))
    os.chown(path, user.uid, user.gid)
    yield Place(user, path)
    shutil.rmtree(os.fsencode(path))


@asynccontextmanager
async def opened(way: str, nodes: LoginNodes, sshd: Sshd, keys: Keys) -> AsyncIterator[Session]:
    """A session of the first user's by one of the `WAYS`, or by commands "confined" to where tests have their files."""
    pool = Pool("demo", settings(sshd, **WAYS.get(way, WAYS["commands"])), keys)
    try:
        async with pool.lease(principal(nodes.alice)) as leased:
            if way == "confined":
                grant = Grant(rule="test", paths=(b"/home", b"/tmp", b"/var", b"/root"))
                yield await Confined.of(leased, grant)
            else:
                yield leased
    finally:
        await pool.close()


@pytest.fixture(params=WAYS)
async def session(request: pytest.FixtureRequest, nodes: LoginNodes, sshd: Sshd, keys: Keys) -> AsyncIterator[Session]:
    async with opened(request.param, nodes, sshd, keys) as leased:
        yield leased


@pytest.fixture
async def files(session: Session) -> RemoteFiles:
    return await session.files()
