"""What only trying shows of a login node: how many channels it opens, and how many logins it takes at once."""

import asyncio

import asyncssh
from asyncssh.constants import OPEN_REQUEST_SESSION_FAILED

from hpcgate.auth import Principal
from hpcgate.errors import GatewayError, LoginNodeError, LoginNodeShut, NeverBegan, NotSupported
from hpcgate.ssh.files.sftp_files import SftpFiles
from hpcgate.ssh.login import Dropped, attempt
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.session import Session

NO_ROOM = "there is no channel to spare for it"
"""Why SFTP does not work where sshd's MaxSessions is 1."""
_CLOSING = 5.0
"""Seconds that the channels may take to close."""


async def channels(session: Session, most: int) -> int:
    """Open channels on the session's connection, on which there should be none, up to a most; return how many it had.

    Each runs ``cat``, which ends with its input.

    Raises:
        LoginNodeError: Channels open, but run no command.
        ConnectionLost: The connection broke.
    """
    ssh = session.connection.ssh
    opened: list[asyncssh.SSHClientProcess[bytes]] = []
    try:
        while len(opened) < most:
            opened.append(await ssh.create_process("exec cat", encoding=None, stderr=asyncssh.DEVNULL))
    except asyncssh.ChannelOpenError as error:
        if error.code == OPEN_REQUEST_SESSION_FAILED:
            raise LoginNodeError(f"The login node runs no command: {error.reason}") from error
    except asyncssh.Error as error:
        raise session.connection.lost() from error
    finally:
        for process in opened:
            process.close()
        async with asyncio.timeout(_CLOSING):
            await asyncio.gather(*(process.wait_closed() for process in opened), return_exceptions=True)
    return len(opened)


async def logins(pool: Pool, principal: Principal, count: int) -> int:
    """Log in to a pool's first login node so many times at once, and return how many sshd dropped before their turn.

    Unlike the pool's own logins, none is tried again. Each one that gets through is closed at once.

    Raises:
        GatewayError: One was not dropped, but failed all the same.
    """
    target = pool.target
    credential = await pool.credentials.credential(principal)
    host, port = pool.settings.nodes[0]

    async def log_in() -> bool:
        try:
            ssh, _ = await attempt(target, target.host_keys, host, port, principal.username, credential, None)
        except Dropped:
            return False
        ssh.abort()
        return True

    results = await asyncio.gather(*(log_in() for _ in range(count)), return_exceptions=True)
    # Of an address that it punishes sshd takes nobody; from 9.8 on it says the same to those who are too many.
    dropped = [result is False or (isinstance(result, LoginNodeShut) and True in results) for result in results]
    for result in results:
        if isinstance(result, BaseException) and not (isinstance(result, GatewayError) and any(dropped)):
            raise result
    return dropped.count(True)


async def sftp(session: Session) -> str | None:
    """Return None if SFTP works on a session whose settings want nothing else, else why it does not."""
    try:
        files = await session.plain_files()
    except (NotSupported, NeverBegan) as refusal:
        return refusal.message
    return None if isinstance(files, SftpFiles) else NO_ROOM
