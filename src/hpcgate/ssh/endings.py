"""Ending what runs on the channels of a connection: by signals, and by KILL from another channel."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import asyncssh
import structlog

from hpcgate.errors import GatewayError
from hpcgate.ssh.channels import Channels, NoChannel, Slot
from hpcgate.ssh.commands.command import Command

log = structlog.stdlib.get_logger(__name__)

_TERM_PATIENCE = 0.4
"""Seconds that a command has to end after TERM."""
_BEGIN_PAUSE = 0.005
"""Seconds between looks at whether a command that is to be ended has begun."""
_KILL_PATIENCE = 0.3
"""Seconds until KILL must have had its effect."""
ENDING_PATIENCE = _TERM_PATIENCE + _KILL_PATIENCE
"""Seconds that ending a command by signals takes at most."""
_SWEEP = (
    b"exec /bin/sh -c 'set +f;read -r c </proc/$PPID/comm||exit;case $c in sshd*|dropbear*);;*)exit;;esac;"
    b"for s in /proc/[0-9]*/stat;do IFS= read -r l <$s||continue;p=${l%% *};set -- ${l##*) };"
    b"case $2:$p in $PPID:$$);;$PPID:*)kill -s KILL -- -$p $p;;esac;done 2>/dev/null'"
)
"""Kills what the SSH server of this connection has started, but for itself: no other session has the same parent."""


class Endable(Protocol):
    """What runs on a channel and can be ended."""

    @property
    def channel(self) -> asyncssh.SSHClientChannel[bytes] | None:
        """Its channel, once that is open."""

    @property
    def closed(self) -> bool:
        """Whether the channel has closed."""

    @property
    def pid(self) -> int | None:
        """Its process id on the login node, once it has begun."""


class Endings:
    """Ends what was started on the channels of one connection.

    Args:
        username: Who is logged in.
        system: The name of the system.
        channels: The places for channels.
        create: Has a command run in a channel's place.
        is_alive: Says whether the connection still stands.
    """

    def __init__(
        self,
        username: str,
        system: str,
        channels: Channels,
        create: Callable[[Slot, Command, bytes], Awaitable[object]],
        is_alive: Callable[[], bool],
    ) -> None:
        self._log = log.bind(system=system, user=username)
        self._channels = channels
        self._create = create
        self._is_alive = is_alive

    async def end(self, command: Endable, *, gently: bool = True) -> bool:
        """End a command: TERM unless it is not to be done gently, KILL, then KILL from another channel.

        Returns:
            Whether it has ended. It may have hung in a start-up file where sshd passes on no signal, so that nobody can
            reach it any more.
        """
        channel = command.channel
        if channel is None:
            return True
        # A signal that comes before sshd's child has a process group of its own reaches nobody, and nobody is told.
        deadline = time.monotonic() + _TERM_PATIENCE
        while command.pid is None and not command.closed and time.monotonic() < deadline:  # noqa: ASYNC110 (rare, short)
            await asyncio.sleep(_BEGIN_PAUSE)
        for name, patience in (("TERM", _TERM_PATIENCE), ("KILL", _KILL_PATIENCE))[0 if gently else 1 :]:
            if command.closed:
                return True
            channel.send_signal(name)
            if await _closes(channel, patience):
                return True
        channel.close()
        if command.pid is not None and self._is_alive():
            await self._kill_group(command.pid)
        if await _closes(channel, _KILL_PATIENCE):
            return True
        self._log.warning("ssh.not_ended", pid=command.pid)
        return False

    async def sweep(self, patience: float) -> None:
        """Kill what could not be ended otherwise, such as an SFTP server whose start-up file hangs.

        Nobody has the connection any more. Where the login shell hangs for commands as well, this would only be one
        more that stays.

        Args:
            patience: Seconds that it may take.
        """
        await self._kill_by(_SWEEP, patience, None)

    async def _kill_group(self, pid: int) -> None:
        """Kill what is left of a process group, which sshd does not do once its leader is gone."""
        line = f"exec /bin/sh -c 'kill -s KILL -- -{pid} {pid}'".encode()
        await self._kill_by(line, _KILL_PATIENCE * 2, pid)

    async def _kill_by(self, line: bytes, patience: float, pid: int | None) -> None:
        """Run a command that kills others, for so many seconds at most."""
        slot = Slot(self._channels)
        self._channels.opening += 1
        killer = Command(slot, 1024)
        try:
            async with asyncio.timeout(patience):
                await self._create(slot, killer, line)
                await killer.write(b"")
                await killer.done
        except (TimeoutError, GatewayError, NoChannel) as error:
            slot.release()
            self._log.warning("ssh.kill_failed", pid=pid, error=repr(error))
        finally:
            if killer.channel is not None:
                killer.channel.close()


async def _closes(channel: asyncssh.SSHClientChannel[bytes], patience: float) -> bool:
    try:
        async with asyncio.timeout(patience):
            await channel.wait_closed()
    except TimeoutError:
        return False
    return True
