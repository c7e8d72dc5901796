"""Real sshds and users, without the rest of the demo cluster."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh

from hpcgate.auth import Principal
from hpcgate.config import SshSettings
from hpcgate.credentials.base import Credential, CredentialSource
from hpcgate.demo.keys import Key
from hpcgate.demo.packages import BASE, ensure_installed
from hpcgate.demo.ports import Ports
from hpcgate.demo.processes import Keeper
from hpcgate.demo.sshd import Sshd, SshdFactory, SshdOptions
from hpcgate.demo.users import User, make_users


class Keys(CredentialSource):
    """Gives every user one key, counting how often it was asked."""

    def __init__(self, users: tuple[User, ...]) -> None:
        self.asked: list[str] = []
        self.credentials = {
            user.name: Credential(asyncssh.import_private_key(user.private_key.read_text())) for user in users
        }

    async def credential(self, principal: Principal) -> Credential:
        self.asked.append(principal.username)
        return self.credentials[principal.username]


class LoginNodes:
    """Starts sshds as a test wants them."""

    def __init__(self, users: tuple[User, ...], authority: Key, factory: SshdFactory, directory: Path) -> None:
        self.users = users
        self.authority = authority
        self.directory = directory
        self._factory = factory
        self.alice = users[0]
        self.bob = users[-1]
        self._cramped: Sshd | None = None

    @property
    def cramped(self) -> Sshd:
        """A login node with ``MaxSessions 1`` that no test stops or freezes."""
        if self._cramped is None:
            self._cramped = self.start(max_sessions=1)
        return self._cramped

    def start(self, *, host_key: Key | None = None, port: int | None = None, **options: Any) -> Sshd:
        return self._factory.start(replace(SshdOptions(), **options), {}, host_key, port)

    def keys(self) -> Keys:
        return Keys(self.users)


UNHURRIED = {"connection": 60, "login": 60, "command_execution": 60}
"""Time-outs of tests, in seconds: a slow machine meets none but those that a test gives by itself."""
START_UP = 60


def settings(sshd: Sshd, **changes: Any) -> SshSettings:
    """Return SSH settings for an sshd, its host key pinned, with time-outs that only what hangs meets."""
    # One test's refused logins are not the next one's.
    own = {"host": sshd.host, "port": sshd.port, "host_keys": (sshd.host_public_key,), "refused_logins": None}
    patient = {"start_up_timeout": START_UP, "timeout": UNHURRIED | changes.pop("timeout", {})}
    return SshSettings(**own | patient | changes)


def principal(user: User | str) -> Principal:
    return Principal(user if isinstance(user, str) else user.name, "token")


@contextmanager
def login_nodes() -> Iterator[LoginNodes]:
    # A bare machine has none of them, and no other test may have run before.
    wanted = {name: package for name, package in BASE.items() if package not in ("munge", "slurm-wlm")}
    ensure_installed(wanted, lambda _: None)
    keeper = Keeper(Path("/tmp").resolve())
    ports = Ports()
    try:
        directory = keeper.directory
        for name, mode in (("homes", 0o755), ("keys", 0o700), ("ssh", 0o755)):
            (directory / name).mkdir()
            (directory / name).chmod(mode)
        authority = Key.make("user-ca")
        users = tuple(make_users(keeper, directory / "homes", directory / "keys", authority, ("alice", "bob")))
        factory = SshdFactory(keeper, directory / "ssh", ports.take, users, authority)
        yield LoginNodes(users, authority, factory, directory)
    finally:
        problems = keeper.stop()
        ports.close()
    assert not problems


def connections() -> set[str]:
    """Return the established TCP connections of this process, by inode."""
    with open("/proc/net/tcp") as table:
        established = {fields[9] for line in table if (fields := line.split())[3] == "01"}
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            if target.startswith("socket:") and target[8:-1] in established:
                found.add(target)
    return found


def processes(user: User) -> list[str]:
    """Return the command lines of a user's processes, those of sshd left out."""
    done = subprocess.run(["ps", "-ww", "-u", user.name, "-o", "args="], capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if line and not line.startswith("sshd")]


async def gone(user: User, words: str, seconds: float = 120.0) -> bool:
    """Say whether no process of the user has `words` in its command line, or none any more in the end."""
    deadline = time.monotonic() + seconds
    while True:
        found = await asyncio.to_thread(processes, user)
        if not any(words in line for line in found):
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)


async def running(user: User, words: str, seconds: float = 120.0) -> bool:
    """Wait until a process of the user has `words` in its command line."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(words in line for line in await asyncio.to_thread(processes, user)):
            return True
        await asyncio.sleep(0.02)
    return False
