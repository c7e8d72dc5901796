"""A login node for a thousand users who do not exist: an SSH server in one process, which lets in whoever comes.

It stands in for sshd where only the number of connections matters, not what is done on them.
"""

import sys

import asyncssh
import uvloop


class _Server(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return True


async def serve(port: int, host_key: str) -> None:
    """Listen on the loopback interface until the process ends."""

    def silent(process: asyncssh.SSHServerProcess[bytes]) -> None:
        # Every command begins, as the gateway wants to see it, and is not found: files go by SFTP.
        process.stdout.write(b":hpcgate:1:\n")
        process.stderr.write(b":hpcgate:1:\n")
        process.exit(127)

    server = await asyncssh.listen(
        "127.0.0.1",
        port,
        server_factory=_Server,
        server_host_keys=[host_key],
        process_factory=silent,
        sftp_factory=True,
        encoding=None,
        encryption_algs=["aes128-gcm@openssh.com"],
        backlog=1000,
    )
    await server.wait_closed()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
