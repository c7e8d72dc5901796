"""The yardstick: what a bare asyncssh loop makes of the same login node, without HTTP, tokens or a pool."""

import asyncio
from collections.abc import Awaitable, Callable
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
        sshd = self.cluster.sshd
        async with (
            asyncssh.connect(
                sshd.host,
                sshd.port,
                username=self.user.name,
                client_keys=[str(self.user.private_key)],
                known_hosts=asyncssh.import_known_hosts(f"[{sshd.host}]:{sshd.port} {sshd.host_public_key}\n"),
                config=None,
                agent_path=None,
                encryption_algs=[CIPHER],
                login_timeout=LOGIN_TIMEOUT,
            ) as connection,
            connection.start_sftp_client() as sftp,
        ):
            work = self._work(operation, connection, sftp)
            await work()
            await hammer(work, clients, warm_up)
            return await hammer(work, clients, seconds)

    def _work(
        self, operation: str, connection: asyncssh.SSHClientConnection, sftp: asyncssh.SFTPClient
    ) -> Callable[[], Awaitable[None]]:
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
