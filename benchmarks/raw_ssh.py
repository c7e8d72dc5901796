"""The yardstick: what a bare asyncssh loop makes of the same login node, without HTTP, tokens or a pool."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import uvloop

from benchmarks.measure import Measurement, hammer
from hpcgate.demo.cluster import Cluster
from hpcgate.demo.users import User

CIPHER = "aes128-gcm@openssh.com"
"""The one that the gateway comes to use, too."""
LOGIN_TIMEOUT = 10
LOGINS = 8
"""Logins at a time: beyond its MaxStartups sshd drops some."""


@dataclass(frozen=True, slots=True)
class RawSsh:
    """One connection of one user, on which all clients share one SFTP channel."""

    cluster: Cluster
    user: User
    directory: Path
    """Twenty files."""
    file: Path
    """4 KiB of text."""

    def measure(self, operation: str, clients: int, seconds: float, warm_up: float) -> Measurement:
        """Do an operation again and again for a while, after having done so for ``warm_up`` seconds."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._measure(operation, clients, seconds, warm_up))

    async def _measure(self, operation: str, clients: int, seconds: float, warm_up: float) -> Measurement:
        async with self.connect() as connection, connection.start_sftp_client() as sftp:
            work = self.work(operation, connection, sftp)
            await work()
            await hammer(work, clients, warm_up)
            return await hammer(work, clients, seconds)

    def connect(self) -> AbstractAsyncContextManager[asyncssh.SSHClientConnection]:
        """Return a context in which the user is logged in."""
        sshd = self.cluster.sshd
        return asyncssh.connect(
            sshd.host,
            sshd.port,
            username=self.user.name,
            client_keys=[str(self.user.private_key)],
            known_hosts=asyncssh.import_known_hosts(f"[{sshd.host}]:{sshd.port} {sshd.host_public_key}\n"),
            config=None,
            agent_path=None,
            encryption_algs=[CIPHER],
            login_timeout=LOGIN_TIMEOUT,
        )

    def work(
        self, operation: str, connection: asyncssh.SSHClientConnection, sftp: asyncssh.SFTPClient
    ) -> Callable[[], Awaitable[None]]:
        """Return what does the operation once."""
        file, directory = str(self.file), str(self.directory)

        async def stat() -> None:
            await sftp.lstat(file)

        async def ls() -> None:
            if len(await sftp.readdir(directory)) < 20:
                raise RuntimeError("not the whole directory")

        async def read() -> None:
            async with sftp.open(file, "rb") as opened:
                if len(await opened.read(8192)) != 4096:
                    raise RuntimeError("not the whole file")

        async def jobs() -> None:
            done = await connection.run("squeue --noheader --me --format='%i|%j|%T|%M'", check=True)
            if not done.stdout:
                raise RuntimeError("no jobs")

        return {"stat": stat, "ls": ls, "head": read, "download": read, "jobs": jobs}[operation]


@dataclass(frozen=True, slots=True)
class RawMix:
    """A connection of each user, on each of which one client does a mix of operations, one after the other."""

    cluster: Cluster
    users: Sequence[User]
    mix: Mapping[str, int]
    """Percent of each operation."""

    @contextmanager
    def connected(self) -> Iterator[Callable[[float], Measurement]]:
        """Return a context in which everybody is logged in, and what does the mix for so many seconds."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            stack = AsyncExitStack()
            try:
                work = runner.run(self._enter(stack))
                yield lambda seconds: runner.run(hammer(work, len(self.users), seconds))
            finally:
                runner.run(stack.aclose())

    async def _enter(self, stack: AsyncExitStack) -> Callable[[], Awaitable[None]]:
        gate = asyncio.Semaphore(LOGINS)

        async def enter(user: User) -> list[Callable[[], Awaitable[None]]]:
            raw = RawSsh(self.cluster, user, user.home / "bench", user.home / "bench" / "file-4k.txt")
            async with gate:
                connection = await stack.enter_async_context(raw.connect())
                sftp = await stack.enter_async_context(connection.start_sftp_client())
            return [raw.work(operation, connection, sftp) for operation in self.mix]

        turns = itertools.cycle(await asyncio.gather(*map(enter, self.users)))
        which = random.Random(1)

        async def work() -> None:
            await which.choices(next(turns), list(self.mix.values()))[0]()

        return work
