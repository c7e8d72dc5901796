"""A login node that is not sshd: asyncssh's server, which does what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncssh

Act = Callable[[Any], None]


def nothing(connection: Any) -> None:
    """Do nothing."""


@dataclass
class Liar:
    """What it does and has seen.

    Attributes:
        connected: Called with asyncssh's connection when somebody connects, before anything is said.
        authenticating: Called with it when somebody begins to log in.
        begun: Called with it when a command has begun to run.
        asks: Whether it asks for a key at all; then it takes any.
        options: What else asyncssh's server is given.
    """

    connected: Act = nothing
    authenticating: Act = nothing
    begun: Act = nothing
    asks: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    connections: list[Any] = field(default_factory=list)
    host: str = "127.0.0.1"
    port: int = 0
    host_public_key: str = ""


@asynccontextmanager
async def lying(liar: Liar) -> AsyncIterator[Liar]:
    """Run it."""

    class Server(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            self.conn = conn
            liar.connections.append(conn)
            liar.connected(conn)

        def begin_auth(self, username: str) -> bool:
            liar.authenticating(self.conn)
            return liar.asks

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
            return True

        def connection_requested(self, *_: Any) -> bool:
            return True

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        shell = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", process.command or "true", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert shell.stdin is not None
        assert shell.stdout is not None
        feeding = asyncio.create_task(_feed(process, shell.stdin))
        try:
            while data := await shell.stdout.read(65536):
                process.stdout.write(data)
                liar.begun(process.channel.get_connection())
            process.exit(await shell.wait())
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            if shell.returncode is None:
                shell.kill()
                await shell.wait()

    key = asyncssh.generate_private_key("ssh-ed25519")
    liar.host_public_key = key.export_public_key().decode().strip()
    options = {"process_factory": run, "encoding": None, "server_host_keys": [key]} | liar.options
    server = await asyncssh.listen(liar.host, 0, server_factory=Server, **options)
    liar.port = server.get_port()
    try:
        yield liar
    finally:
        server.close()
        for connection in liar.connections:
            connection.abort()
        await server.wait_closed()
        await asyncio.gather(*(connection.wait_closed() for connection in liar.connections))


async def _feed(process: asyncssh.SSHServerProcess[bytes], stdin: asyncio.StreamWriter) -> None:
    try:
        while data := await process.stdin.read(65536):
            stdin.write(data)
            await stdin.drain()
    except (OSError, asyncssh.Error):
        return
    finally:
        stdin.close()
