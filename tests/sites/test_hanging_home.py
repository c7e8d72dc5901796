"""A file server that has stopped answering, as a hard NFS mount shows it: requests end, and nobody else waits.

bindfs plays the file server, and is stopped by SIGSTOP: what touches its files waits in the kernel until the server is
back, or SIGKILL comes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpcgate.demo.packages import ensure_installed, program
from hpcgate.demo.sshd import Sshd
from hpcgate.demo.users import User
from hpcgate.errors import ConnectionLost, GatewayError, NeverReached, TimedOut
from hpcgate.ssh.pool import Pool
from tests.sites.operations import OLD, OPERATIONS, VERBS, Operation
from tests.sites.test_start_up import Account
from tests.ssh.conftest import MakePool, make_pool, nodes, sshd
from tests.ssh.nodes import LoginNodes, principal

__all__ = ["make_pool", "nodes", "sshd"]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs root and FUSE"
)
MAX_LEFT = 6
"""Processes that may stay on the login node while the file server is away, however much is asked: SFTP servers, which
sshd does not signal, a helper, and the login shells of what was to end it, which wait for the home themselves."""
STREAMS = ("download", "upload", "put")
"""What may take minutes without progress: tried where the login shell is in the way before."""
CASES = {
    # What hangs, and whether the user has been here before it did.
    "a home, for who comes": ("home", False),
    "a home, for who is here": ("home", True),
    "a project's directory": ("project", True),
}
WORDS = ("the home directory may not answer", "did not answer in time", "does not answer", "timed out", "has ended")
QUICK = {"start_up_timeout": 1, "timeout": {"command_execution": 1}}


class FileServer:
    """Serves a directory under its own path."""

    def __init__(self, path: Path) -> None:
        ensure_installed({"bindfs": "bindfs"}, lambda _: None)
        self.path = path
        argv = [program("bindfs"), "-f", "-o", "allow_other,nonempty", str(path), str(path)]
        self.daemon = subprocess.Popen(argv)
        while not os.path.ismount(path):
            if self.daemon.poll() is not None:
                pytest.skip("no right to mount a file system")
            time.sleep(0.01)

    def stop(self) -> None:
        self.daemon.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.daemon.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.go_on()
        subprocess.run(["umount", "--lazy", self.path], check=True)
        self.daemon.terminate()
        self.daemon.wait(300)


@contextmanager
def served(path: Path) -> Iterator[FileServer]:
    server = FileServer(path)
    try:
        yield server
    finally:
        server.end()


def processes(user: User) -> list[str]:
    """Return the user's processes and what waits to become one, but for sshd's that hold a connection."""
    argv = ["ps", "-ww", "-u", user.name, "-o", "wchan:32=,args="]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    lines = [line.split(None, 1) for line in done.stdout.splitlines()]
    return [args for wchan, args in lines if "@notty" not in args or wchan.startswith("request_wait")]


async def become_fewer(user: User, most: int) -> None:
    """Wait until no more than so many of the user's processes are left."""
    deadline = time.monotonic() + 120
    while len(left := await asyncio.to_thread(processes, user)) > most:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.05)


async def comes_right(pool: Pool, user: User, operation: Operation, place: Path) -> None:
    """Try until it works: on a busy machine what is well takes longer than these tests allow, now and then."""
    deadline = time.monotonic() + 120
    while True:
        try:
            async with pool.lease(principal(user)) as session:
                return await operation(session, place)
        except (NeverReached, TimedOut, ConnectionLost):
            assert time.monotonic() < deadline


async def outcome(pool: Pool, account: Account, name: str) -> GatewayError:
    """Return the error that an operation ends with."""
    with pytest.raises(GatewayError) as caught:
        async with pool.lease(principal(account.user)) as session:
            await OPERATIONS[name](session, account.place)
    return caught.value


@pytest.mark.parametrize("files", ["auto", "commands"])
@pytest.mark.parametrize("case", CASES)
async def test_a_file_server_that_does_not_answer(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, case: str, files: str
) -> None:
    what, warm = CASES[case]
    pool = make_pool(sshd, files=files, **QUICK)
    with Account(nodes) as account:
        home = account.home
        here = home / "here"
        here.mkdir()
        shutil.chown(here, account.user.uid, account.user.gid)
        (here / "old").write_bytes(OLD)
        with served(home if what == "home" else account.place) as server:
            if warm:
                for operation in OPERATIONS.values():
                    await comes_right(pool, account.user, operation, account.place)
            server.stop()
            asked = [name for name in OPERATIONS if what == "home" or name not in STREAMS]
            for _ in range(3):
                answers = await asyncio.gather(*(outcome(pool, account, name) for name in asked))
                for name, error in zip(asked, answers, strict=True):
                    assert error.status in (408, 424, 504), (name, error)
                    assert any(words in error.message for words in WORDS), (name, error.message)
                    assert "Command sh" not in error.message
                    assert "Command perl" not in error.message
            await become_fewer(account.user, MAX_LEFT if warm else 0)
            # Others do not notice, and neither do the user's other files.
            for name in ("stat", "run", "download"):
                theirs = nodes.alice.home
                (theirs / "old").write_bytes(OLD)
                await comes_right(pool, nodes.alice, OPERATIONS[name], theirs)
                if what != "home":
                    await comes_right(pool, account.user, OPERATIONS[name], here)
            server.go_on()
            for operation in VERBS.values():
                await comes_right(pool, account.user, operation, account.place)
            assert pool.stats.waiting == 0
            await pool.close()
            await become_fewer(account.user, 0)
        account.has_lost_nothing()
        shutil.rmtree(here)
