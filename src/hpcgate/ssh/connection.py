"""One user's SSH connection to a login node: its channels, what runs on them, and closing it."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import asyncssh
import structlog

from hpcgate.credentials.base import Credential
from hpcgate.errors import ConnectionLost, LoginNodeError
from hpcgate.sharing.tasks import Tasks
from hpcgate.ssh.channels import MAX_WAIT, ChannelRefused, Channels, NoChannel, Slot
from hpcgate.ssh.commands.command import Command
from hpcgate.ssh.commands.quoting import WORD
from hpcgate.ssh.endings import ENDING_PATIENCE, Endable, Endings
from hpcgate.ssh.errors import reason
from hpcgate.ssh.login import Client, Login, Target, log_in
from hpcgate.ssh.unsent import LEAST_PACKET
from hpcgate.telemetry.base import Source
from hpcgate.telemetry.containment import contained

log = structlog.stdlib.get_logger(__name__)

_REFUSED_PAUSES = (0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between attempts to open a channel while none is open: sshd frees one a moment after it has closed."""
_ROOM_PAUSES = (0.02, 0.05, 0.1)
"""Seconds between attempts to open a second channel, for the same reason."""
_REFUSED_PATIENCE = 1.0
"""Seconds after which a refused channel is tried again although no other one has closed."""


class Connection:
    """An open connection, logged in.

    Attributes:
        username: Who is logged in.
        node: The login node, ``host:port``.
        system: The name of the system.
        settings: Its SSH settings.
        telemetry: Who is told what takes how long.
        expires_at: When the credential ends that logged in, Unix seconds, or None.
        channels: How many channels are open, and who waits for one.
        shell_works: Whether the last command that was started has been reached by the login shell, and `shell_waits`.
        shell_waits: Whether the shell comes to its commands although their input has not ended yet.
        input_works: Whether a command has read what was sent to it: nothing that start-up files left running did.
        spent: Whether something on it could not be ended, and takes a channel for good: the next lease is another's.
    """

    def __init__(self, target: Target, username: str, credential: Credential, login: Login) -> None:
        self.username = username
        self.node = login.node
        self.system = target.system
        self.settings = target.settings
        self.telemetry = target.telemetry
        self.expires_at = credential.expires_at
        self.channels = Channels(target.settings.max_sessions, self._make_room)
        self.on_lost: Callable[[], None] | None = None
        self.make_room: Callable[[], None] | None = None
        self.shell_works = False
        self.shell_waits = False
        self.input_works = False
        self.spent = False
        self._ssh = login.ssh
        # The jump host's beside its own.
        clients = [login.client] if login.jump is None else [login.client, login.jump]
        self._turns = [client.turns for client in clients if client.turns is not None]
        self._alive = True
        # Whoever waits for a channel has its error.
        self._tasks = Tasks("ssh.connection", Exception)
        self._endings = Endings(username, target.system, self.channels, self._command, lambda: self._alive)
        login.client.on_lost = self._lost
        login.client.on_flood = self._flooded
        if login.jump is not None:
            self._watch(login.jump)
        self.wake()

    def __repr__(self) -> str:
        return f"<Connection {self.username} at {self.system} alive={self._alive} {self.channels!r}>"

    @classmethod
    async def open(cls, target: Target, username: str, credential: Credential) -> "Connection":
        """Connect and log in, through the jump host if there is one.

        Raises:
            LoginNodeUnreachable: No connection, or none in time.
            CredentialRefused: The login node or the jump host did not accept the credential.
            HostKeyRefused: One of them showed a host key that is not trusted; the credential was not used.
        """
        login = await log_in(target, username, credential)
        connection = cls(target, username, credential, login)
        if login.ssh.is_closed():
            connection._lost()
        return connection

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, as far as is known."""
        return self._alive

    @property
    def ssh(self) -> asyncssh.SSHClientConnection:
        """The connection as asyncssh has it."""
        return self._ssh

    def lost(self) -> ConnectionLost:
        """Return the error for what was under way when the connection ended."""
        return ConnectionLost(f"The SSH connection to {self.system} was lost")

    def rest(self) -> None:
        """Nobody has the connection now: the login node has next to nothing to say until somebody does."""
        for turns in self._turns:
            turns.rest()

    def wake(self) -> None:
        """Somebody has the connection again."""
        for turns in self._turns:
            turns.wake()

    def distrust(self, source: Source, why: str) -> None:
        """Take note that something was ended for what it said."""
        self.telemetry.distrusted(self.system, source)
        log.warning("ssh.distrusted", system=self.system, user=self.username, source=source, why=why)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run a coroutine in a task that this connection owns and ends."""
        return self._tasks.spawn(coroutine)

    async def start(
        self, slot: Slot, line: bytes, limit: int, patience: float, word: str = WORD, *, feeds: bool = False
    ) -> Command:
        """Start a command in a channel's place got from `channels.acquire` and return it.

        Raises:
            TimeoutError: The login node did not answer within `patience` seconds.
            ConnectionLost: The connection has ended.
            LoginNodeError: The login node refuses to run commands.
            PoolExhausted: The login node allows no more channels, and none came free in time.
        """
        command = Command(slot, limit, word, feeds=feeds)
        await self.open_channel(slot, command, patience, command=line)
        return command

    async def open_channel(
        self,
        slot: Slot,
        session: Any,
        patience: float,
        *,
        command: bytes | None = None,
        subsystem: str | None = None,
    ) -> asyncssh.SSHClientChannel[bytes]:
        """Open a channel in `slot`, again and again if the login node has none to spare.

        If the caller is cancelled meanwhile or runs out of patience, what was started is ended again.
        """
        pauses = iter(_REFUSED_PAUSES)
        give_up = time.monotonic() + MAX_WAIT
        while True:
            opening = self.spawn(self._create(slot, session, command, subsystem))
            try:
                async with asyncio.timeout(patience):
                    channel: asyncssh.SSHClientChannel[bytes] = await asyncio.shield(opening)
                    return channel
            except (asyncio.CancelledError, TimeoutError):
                opening.add_done_callback(partial(self._discard, slot=slot, session=session))
                raise
            except NoChannel as refusal:
                pause = next(pauses, None) if self.channels.open == 0 else _REFUSED_PATIENCE
                if pause is None:
                    slot.release()
                    raise LoginNodeError(f"The login node of {self.system} refuses to open a session") from refusal
                if time.monotonic() > give_up:
                    slot.release()
                    raise self.channels.exhausted() from None
                await self.channels.again(slot, pause)

    async def has_room(self) -> bool:
        """Say whether the login node allows a second channel while one is open, if need be by opening one."""
        for pause in _ROOM_PAUSES:
            if self.channels.limit is not None:
                return self.channels.limit > 1
            slot = await self.channels.acquire()
            probe = Command(slot, 1024)
            try:
                await self._create(slot, probe, b"exec /bin/sh -c :", None)
            except NoChannel:
                if self.channels.open > 1:
                    slot.refused()
                    return True
                slot.release()
                await asyncio.sleep(pause)
                continue
            try:
                await probe.write(b"")
                await probe.done
            finally:
                await self.end(probe)
            return True
        self.channels.learn(1)
        return False

    async def end(self, command: Command) -> None:
        """End a command on the login node: TERM, then KILL, then KILL from another channel. Not to be interrupted.

        A command without a terminal outlives its channel (sshd only closes its pipes), so it is signalled: RFC 4254,
        section 6.9, which OpenSSH passes on to the whole process group. It does not where a forced command runs or
        once the leader of the group is gone.
        """
        if command.closed or command.channel is None:
            return
        task = self.spawn(self._end(command))
        await asyncio.shield(task)

    def kill(self, command: Endable) -> None:
        """Kill a command on the login node, in a task of the connection's own."""
        if not command.closed and command.channel is not None:
            self.spawn(self._end(command, gently=False))

    async def close(self) -> None:
        """End the commands that are still under way and close the connection."""
        if self.spent and self.shell_waits and self._alive:
            await self._endings.sweep(self.settings.start_up_timeout)
        if self._alive:
            await self._tasks.finish(2 * ENDING_PATIENCE)
        await self._tasks.close()
        self._ssh.close()
        try:
            async with asyncio.timeout(self.settings.timeout.connection):
                await self._ssh.wait_closed()
        except TimeoutError:
            self._ssh.abort()
        self._lost()

    async def _end(self, command: Endable, *, gently: bool = True) -> None:
        if not await self._endings.end(command, gently=gently):
            self.spent = True

    async def _command(self, slot: Slot, command: Command, line: bytes) -> None:
        await self._create(slot, command, line, None)

    async def _create(
        self, slot: Slot, session: Any, command: bytes | None, subsystem: str | None
    ) -> asyncssh.SSHClientChannel[bytes]:
        try:
            channel, _ = await self._ssh.create_session(
                lambda: session,
                command=command,  # type: ignore[arg-type]  # bytes go out as they are
                subsystem=subsystem,
                encoding=None,
            )
        except asyncssh.ChannelOpenError as error:
            if not self._alive or self._ssh.is_closed():
                slot.release()
                raise self.lost() from error
            if error.code in (asyncssh.OPEN_CONNECT_FAILED, asyncssh.OPEN_RESOURCE_SHORTAGE):
                raise NoChannel from error
            slot.release()
            raise ChannelRefused(f"The login node of {self.system} refused: {reason(error)}") from error
        except (asyncssh.Error, OSError) as error:
            slot.release()
            raise self.lost() from error
        except Exception as error:  # asyncssh takes what a server answers for what it should be
            slot.release()
            self._abort(f"an answer about a channel makes no sense: {type(error).__name__}")
            raise self.lost() from error
        except BaseException:
            slot.release()
            raise
        if not _is_fair(channel):
            slot.release()
            self._abort("the login node takes packets of a few bytes only")
            raise self.lost()
        return channel

    @contained("ssh.connection.discard")
    def _discard(self, opening: "asyncio.Task[Any]", slot: Slot, session: Any) -> None:
        """Nobody wants the channel any more that has been opened, or not."""
        if opening.cancelled() or opening.exception() is not None:
            slot.release()
        elif isinstance(session, Command):
            self.spawn(self._end(session))
        else:
            opening.result().close()

    def _make_room(self) -> None:
        if self.make_room is not None:
            self.make_room()

    def _flooded(self) -> None:
        self._abort("the login node sends what nobody asked for, or takes nothing")

    def _abort(self, why: str) -> None:
        """End the connection for what the login node, or the jump host, does."""
        self.distrust("connection", why)
        self._ssh.abort()

    def _watch(self, jump: Client) -> None:
        """End the connection, too, if the jump host sends what nobody asked for."""
        abort = jump.on_flood

        def flooded() -> None:
            self._flooded()
            if abort is not None:
                abort()

        jump.on_flood = flooded

    def _lost(self) -> None:
        if not self._alive:
            return
        self._alive = False
        self.channels.lose(self.lost())
        if self.on_lost is not None:
            self.on_lost()


def _is_fair(channel: Any) -> bool:
    return bool(channel._send_pktsize >= LEAST_PACKET)
