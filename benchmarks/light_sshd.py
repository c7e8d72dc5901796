"""A login node for a thousand users who do not exist: an SSH server in one process, which lets in whoever comes.

It stands in for sshd where only the number of connections matters, not what is done on them.
"""

import asyncio
import sys
from typing import Any

import asyncssh
import uvloop


class _Server(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return True


async def _pass(source: Any, sink: Any) -> None:
    while block := await source.read(65536):
        sink.write(block)


async def serve(port: int, host_key: str) -> None:
    """Listen on the loopback interface until the process ends."""

    async def begin(process: asyncssh.SSHServerProcess[bytes]) -> None:
        # Every command begins, as the gateway wants to see it, and finds no program: files go by SFTP.
        pipe = asyncio.subprocess.PIPE
        shell = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", process.command or "", stdin=pipe, stdout=pipe, stderr=pipe, env={"PATH": "/nowhere"}
        )
        feeding = asyncio.create_task(_pass(process.stdin, shell.stdin))
        await asyncio.gather(_pass(shell.stdout, process.stdout), _pass(shell.stderr, process.stderr))
        feeding.cancel()
        process.exit(await shell.wait())

    server = await asyncssh.listen(
        "127.0.0.1",
        port,
        server_factory=_Server,
        server_host_keys=[host_key],
        process_factory=begin,
        sftp_factory=True,
        encoding=None,
        encryption_algs=["aes128-gcm@openssh.com"],
        backlog=1000,
    )
    await server.wait_closed()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
