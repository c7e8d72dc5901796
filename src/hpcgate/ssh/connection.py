"""One user's SSH connection to a login node: opening it, its channels, and closing it."""

import asyncio
import random
import socket
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import asyncssh
import structlog
from asyncssh.public_key import SSHLocalKeyPair

from hpcgate.config import SshSettings
from hpcgate.credentials.base import Credential
from hpcgate.errors import (
    ConnectionLost,
    CredentialRefused,
    GatewayError,
    HostKeyRefused,
    LoginNodeError,
    LoginNodeShut,
    LoginNodeUnreachable,
)
from hpcgate.outbound.wording import clipped, one_line
from hpcgate.ssh.channels import MAX_WAIT, Channels, Slot
from hpcgate.ssh.commands.command import Command
from hpcgate.ssh.commands.quoting import WORD
from hpcgate.ssh.errors import connect_error, reason
from hpcgate.ssh.host_keys import HostKeys, Trusted
from hpcgate.ssh.nodes import Nodes, first_words, reach
from hpcgate.ssh.unsent import LEAST_PACKET, Unsent
from hpcgate.telemetry.base import Source, Telemetry
from hpcgate.telemetry.containment import contained

log = structlog.stdlib.get_logger(__name__)

CIPHERS: Final = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
"""In this order: with AES instructions in the CPU, AES-GCM costs half of what ChaCha20 does."""

KEY_EXCHANGES: Final = "-diffie-hellman-group-exchange-*"
"""All that asyncssh knows but those where the login node makes up the numbers to compute with."""

_LOST_KEEP_ALIVES = 3
_PENALISED = b"Not allowed at this time"
"""What sshd says before it drops a connection: from 9.8 on the same where it punishes the address (sshd_config(5),
PerSourcePenalties) as where too many log in (MaxStartups)."""
_PENALTY = "15"
"""Seconds of the shortest punishment, by default."""
_DROPPED_PAUSE = 0.1
_DROPPED_PAUSE_MOST = 0.8
"""Seconds between attempts to connect where sshd has dropped the connection at once; they double up to the most."""
_SHUT_PATIENCE = 2.0
"""Seconds after which an sshd that will not have the connection punishes the address: others log in within that."""
_MAX_SAID = 300
"""Characters of what sshd says in a login that are passed on."""
_TERM_PATIENCE = 0.4
"""Seconds that a command has to end after TERM."""
_BEGIN_PAUSE = 0.005
"""Seconds between looks at whether a command that is to be ended has begun."""
_KILL_PATIENCE = 0.3
"""Seconds until KILL must have had its effect."""
_SWEEP = (
    b"exec /bin/sh -c 'set +f;read -r c </proc/$PPID/comm||exit;case $c in sshd*|dropbear*);;*)exit;;esac;"
    b"for s in /proc/[0-9]*/stat;do IFS= read -r l <$s||continue;p=${l%% *};set -- ${l##*) };"
    b"case $2:$p in $PPID:$$);;$PPID:*)kill -s KILL -- -$p $p;;esac;done 2>/dev/null'"
)
"""Kills what the SSH server of this connection has started, but for itself: no other session has the same parent."""
_REFUSED_PAUSES = (0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between attempts to open a channel while none is open: sshd frees one a moment after it has closed."""
_ROOM_PAUSES = (0.02, 0.05, 0.1)
"""Seconds between attempts to open a second channel, for the same reason."""
_LONG = 64 * 1024
"""Bytes of one read after which a connection waits for its next turn."""
_PORTION = 16 * 1024
"""Bytes that are handed on at a time within a turn."""
_TURN = 0.001
"""Seconds after which a connection's turn is over, if there is more; the portion under way is finished."""
_CRUMB = 256
"""Bytes of a packet, on the average of a turn, below which the sender is not helped to be fast."""
_IDLE_BYTES = 16 * 1024 * 1024
"""Bytes that may come while nobody has the connection: what the windows of channels that end still let through."""
_LOGIN_BYTES = 1024 * 1024
"""Bytes that may come until somebody is logged in: keys, lists of algorithms, a banner."""
_IDLE_READS = 1000
_IDLE_READS_PER_SECOND = 10
"""How often something may come meanwhile: keep-alives, a new key exchange now and then."""
_REFUSED_PATIENCE = 1.0
"""Seconds after which a refused channel is tried again although no other one has closed."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect to.

    Attributes:
        system: The name of the system.
        settings: Its SSH settings.
        host_keys: What the login node may show.
        proxy_host_keys: What the jump host may show.
        telemetry: Who is told what takes how long.
        nodes: The login nodes.
    """

    system: str
    settings: SshSettings
    host_keys: HostKeys
    proxy_host_keys: HostKeys
    telemetry: Telemetry
    nodes: Nodes


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


class _KeyPair(SSHLocalKeyPair):
    """A key pair of which exactly one form is offered.

    asyncssh offers an RSA certificate under its old algorithm name first and under the right one next. With
    ``MaxAuthTries 1`` there is no next.

    Attributes:
        signed: Whether it has signed for a login, which the server asks for once it takes the key.
    """

    signed = False

    def sign(self, data: bytes) -> bytes:
        self.signed = True
        return super().sign(data)

    def set_sig_algorithm(self, sig_algorithm: bytes) -> None:
        super().set_sig_algorithm(sig_algorithm)
        if self.has_cert and self.algorithm.startswith(b"ssh-rsa-cert-") and self.sig_algorithm != b"ssh-rsa":
            self.algorithm = self.sig_algorithm + b"-cert-v01@openssh.com"


class _Client(asyncssh.SSHClient):
    """asyncssh's callbacks of one connection."""

    def __init__(self, policy: HostKeys, trusted: Trusted, host: str, port: int, on_auth: Callable[[], None]) -> None:
        self.seen: asyncssh.SSHKey | None = None
        self.authenticating = False
        self.owns_socket = False
        self.flooded = False
        self.key: _KeyPair | None = None
        self.said = ""
        self.turns: _Turns | None = None
        self.on_flood: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self._policy = policy
        self._trusted = trusted
        self._host = host
        self._port = port
        self._on_auth = on_auth

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self.owns_socket = True
        self.on_flood = conn.abort
        Unsent(conn, self._flood)
        self.turns = _take_turns(conn, self._flood)
        if self.turns is not None:
            self.turns.rest(_LOGIN_BYTES)

    def _flood(self) -> None:
        self.flooded = True
        if self.on_flood is not None:
            self.on_flood()

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.seen = key
        return self._policy.accept(self._host, self._port, key)

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.seen = key
        return False

    def begin_auth(self, username: str) -> None:
        self.authenticating = True
        self._on_auth()

    def auth_banner_received(self, msg: str, lang: str) -> None:
        # The site's banner comes before the key, what PAM says after it.
        if self.key is not None and self.key.signed:
            self.said = clipped(one_line(msg[: 2 * _MAX_SAID]), _MAX_SAID)

    def connection_lost(self, exc: Exception | None) -> None:
        self.on_flood = None
        if self.on_lost is not None:
            self.on_lost()

    def refusal(self) -> HostKeyRefused:
        return self._policy.refusal(self._host, self._port, self.seen, self._trusted)


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

    def __init__(
        self, target: Target, username: str, credential: Credential, ssh: asyncssh.SSHClientConnection, client: _Client
    ) -> None:
        self.username = username
        self.node = ""
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
        self._ssh = ssh
        # The jump host's beside its own.
        self._turns = [client.turns] if client.turns is not None else []
        self._alive = True
        self._tasks: set[asyncio.Task[Any]] = set()
        client.on_lost = self._lost
        client.on_flood = self._flooded
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
        settings = target.settings
        proxy: asyncssh.SSHClientConnection | None = None
        jump: _Client | None = None
        if settings.proxy_host is not None:
            proxy, jump = await _connect(
                target,
                target.proxy_host_keys,
                settings.proxy_host,
                settings.proxy_port or 22,
                username,
                credential,
                None,
            )
            if jump.turns is not None:
                jump.turns.wake()
        try:
            node, ssh, client = await _first_node(target, username, credential, proxy)
        except BaseException:
            if proxy is not None:
                proxy.abort()
            raise
        if proxy is not None:
            ssh.set_tunnel(proxy)
        connection = cls(target, username, credential, ssh, client)
        connection.node = node
        if jump is not None:
            connection._pass_through(jump)
        if ssh.is_closed():
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
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

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
            except _Refused as refusal:
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
            except _Refused:
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
            await self._sweep()
        tasks = [task for task in self._tasks if not task.done()]
        if self._alive and tasks:
            await asyncio.wait(tasks, timeout=2 * (_TERM_PATIENCE + _KILL_PATIENCE))
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._ssh.close()
        try:
            async with asyncio.timeout(self.settings.timeout.connection):
                await self._ssh.wait_closed()
        except TimeoutError:
            self._ssh.abort()
        self._lost()

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
                raise _Refused from error
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

    async def _end(self, command: Endable, *, gently: bool = True) -> None:
        channel = command.channel
        if channel is None:
            return
        # A signal that comes before sshd's child has a process group of its own reaches nobody, and nobody is told.
        deadline = time.monotonic() + _TERM_PATIENCE
        while command.pid is None and not command.closed and time.monotonic() < deadline:  # noqa: ASYNC110 (rare, short)
            await asyncio.sleep(_BEGIN_PAUSE)
        for name, patience in (("TERM", _TERM_PATIENCE), ("KILL", _KILL_PATIENCE))[0 if gently else 1 :]:
            if command.closed:
                return
            channel.send_signal(name)
            if await _closes(channel, patience):
                return
        channel.close()
        if command.pid is not None and self._alive:
            await self._kill_group(command.pid)
        if not await _closes(channel, _KILL_PATIENCE):
            # It may have hung in a start-up file where sshd passes on no signal: nobody can reach it any more.
            self.spent = True
            log.warning("ssh.not_ended", system=self.system, user=self.username, pid=command.pid)

    async def _kill_group(self, pid: int) -> None:
        """Kill what is left of a process group, which sshd does not do once its leader is gone."""
        line = f"exec /bin/sh -c 'kill -s KILL -- -{pid} {pid}'".encode()
        await self._kill_by(line, _KILL_PATIENCE * 2, pid)

    async def _sweep(self) -> None:
        """Kill what could not be ended otherwise, such as an SFTP server whose start-up file hangs.

        Nobody has the connection any more. Where the login shell hangs for commands as well, this would only be one
        more that stays.
        """
        await self._kill_by(_SWEEP, self.settings.start_up_timeout, None)

    async def _kill_by(self, line: bytes, patience: float, pid: int | None) -> None:
        """Run a command that kills others, for so many seconds at most."""
        slot = Slot(self.channels)
        self.channels.opening += 1
        killer = Command(slot, 1024)
        try:
            async with asyncio.timeout(patience):
                await self._create(slot, killer, line, None)
                await killer.write(b"")
                await killer.done
        except (TimeoutError, GatewayError, _Refused) as error:
            slot.release()
            log.warning("ssh.kill_failed", system=self.system, user=self.username, pid=pid, error=repr(error))
        finally:
            if killer.channel is not None:
                killer.channel.close()

    @contained("ssh.connection.discard")
    def _discard(self, opening: "asyncio.Task[Any]", slot: Slot, session: Any) -> None:
        """Nobody wants the channel any more that has been opened, or not."""
        if opening.cancelled() or opening.exception() is not None:
            slot.release()
        elif isinstance(session, Command):
            self.spawn(self._end(session))
        else:
            opening.result().close()

    @contained("ssh.connection")
    def _reap(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    def _make_room(self) -> None:
        if self.make_room is not None:
            self.make_room()

    def _flooded(self) -> None:
        self._abort("the login node sends what nobody asked for, or takes nothing")

    def _abort(self, why: str) -> None:
        """End the connection for what the login node, or the jump host, does."""
        self.distrust("connection", why)
        self._ssh.abort()

    def _pass_through(self, jump: _Client) -> None:
        if jump.turns is not None:
            self._turns.append(jump.turns)
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


def _take_turns(ssh: asyncssh.SSHClientConnection, flooded: Callable[[], None]) -> "_Turns | None":
    """Have a connection that brings much leave the event loop to the others after each read.

    libuv reads on for as long as a socket has more, up to 32 times, and everybody waits while megabytes are decrypted.
    """
    transport: Any = getattr(ssh, "_transport", None)
    if not hasattr(transport, "set_protocol"):
        return None
    turns = _Turns(ssh, transport, flooded)
    transport.set_protocol(turns)
    return turns


class _Turns(asyncio.Protocol):
    """Hands on what comes, in portions, and pauses where there is more.

    What a portion costs depends on the packets in it: one of 32 KiB is decrypted in a fraction of the time that a
    thousand packets of 32 bytes take, and a program that writes byte by byte makes sshd send those. So the connection
    has its turn for so long, not for so many bytes, and waits for as long in between if it brings crumbs.

    Args:
        ssh: The connection.
        transport: Its transport.
        flooded: Called when the other side, which has nothing to say at the time, goes on and on.
    """

    def __init__(self, ssh: asyncssh.SSHClientConnection, transport: Any, flooded: Callable[[], None]) -> None:
        self._ssh: Any = ssh
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._flooded = flooded
        self._rest: deque[memoryview] = deque()
        self._ended: Callable[[], None] | None = None
        self._paused = False
        self._resting_since: float | None = None
        self._allowed = _IDLE_BYTES
        self._idle_bytes = self._idle_reads = 0

    def rest(self, allowed: int = _IDLE_BYTES) -> None:
        """Count what comes from now on against an allowance, bytes."""
        self._resting_since = self._loop.time()
        self._allowed = allowed
        self._idle_bytes = self._idle_reads = 0

    def wake(self) -> None:
        """Count nothing: somebody asks."""
        self._resting_since = None

    def data_received(self, data: bytes) -> None:
        since = self._resting_since
        if since is not None:
            self._idle_bytes += len(data)
            self._idle_reads += 1
            reads = _IDLE_READS + _IDLE_READS_PER_SECOND * (self._loop.time() - since)
            if self._idle_bytes > self._allowed or self._idle_reads > reads:
                self._flooded()
                return
        if self._paused:
            # libuv has read on before it took notice of the pause.
            self._rest.append(memoryview(data))
        elif len(data) <= _PORTION:
            self._ssh.data_received(data)
        else:
            self._rest.append(memoryview(data))
            self._turn()

    def _turn(self) -> None:
        """Hand on portions until the turn is over, and go on in a moment if there may be more."""
        began = now = time.perf_counter()
        first, size = self._ssh._recv_seq, 0
        while self._rest and now - began < _TURN and not self._transport.is_closing():
            portion = self._rest[0][:_PORTION]
            if len(portion) == len(self._rest[0]):
                self._rest.popleft()
            else:
                self._rest[0] = self._rest[0][_PORTION:]
            size += len(portion)
            self._ssh.data_received(bytes(portion))
            now = time.perf_counter()
        if self._transport.is_closing():
            self._rest.clear()
        elif self._rest or size >= _LONG:
            if not self._paused:
                self._paused = True
                self._transport.pause_reading()
            packets = self._ssh._recv_seq - first
            if packets * _CRUMB > size:
                self._loop.call_later(now - began, self._go_on)
            else:
                self._loop.call_soon(self._go_on)
            return
        self._open()

    @contained("ssh.connection.resume")
    def _go_on(self) -> None:
        if self._rest:
            self._turn()
        else:
            self._open()

    def _open(self) -> None:
        """All has been handed on."""
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended()
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def pause_writing(self) -> None:
        self._ssh.pause_writing()

    def resume_writing(self) -> None:
        self._ssh.resume_writing()

    def eof_received(self) -> None:
        if self._rest:
            self._ended = self._ssh.eof_received
        else:
            self._ssh.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest.clear()
        self._ended = None
        self._ssh.connection_lost(exc)


class _Refused(Exception):
    """The login node did not open a channel."""


class ChannelRefused(LoginNodeError):
    """The login node opened a channel but refused what was asked of it: the command or the subsystem."""


def _is_fair(channel: Any) -> bool:
    return bool(channel._send_pktsize >= LEAST_PACKET)


async def _closes(channel: asyncssh.SSHClientChannel[bytes], patience: float) -> bool:
    try:
        async with asyncio.timeout(patience):
            await channel.wait_closed()
    except TimeoutError:
        return False
    return True


async def _first_node(
    target: Target, username: str, credential: Credential, proxy: asyncssh.SSHClientConnection | None
) -> tuple[str, asyncssh.SSHClientConnection, _Client]:
    """Log in to the user's login node, or to the next one if it cannot be reached."""
    unreachable: LoginNodeUnreachable | None = None
    for host, port in target.nodes.order(username):
        try:
            ssh, client = await _connect(target, target.host_keys, host, port, username, credential, proxy)
        except LoginNodeUnreachable as error:
            target.nodes.failed((host, port), error.message)
            unreachable = error
        else:
            target.nodes.worked((host, port))
            return f"{host}:{port}", ssh, client
    assert unreachable is not None  # noqa: S101 (there is a node, by its settings)
    raise unreachable


async def _connect(
    target: Target,
    policy: HostKeys,
    host: str,
    port: int,
    username: str,
    credential: Credential,
    proxy: asyncssh.SSHClientConnection | None,
) -> tuple[asyncssh.SSHClientConnection, _Client]:
    """Connect to one machine and log in; again if it drops the connection before anything was sent of the credential.

    sshd drops connections at random while more than ``MaxStartups`` log in, everybody's counted.
    """
    began = time.monotonic()
    deadline = began + target.settings.timeout.connection
    pause = _DROPPED_PAUSE
    while True:
        try:
            return await attempt(target, policy, host, port, username, credential, proxy)
        except LoginNodeShut:
            if time.monotonic() + pause > min(deadline, began + _SHUT_PATIENCE):
                raise
        except Dropped as dropped:
            if time.monotonic() + pause > deadline:
                raise connect_error(dropped.error, target.system, policy.role, username) from dropped.error
        await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 (jitter, no secret)
        pause = min(2 * pause, _DROPPED_PAUSE_MOST)


class Dropped(Exception):
    """sshd closed the connection before the login began."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


async def attempt(
    target: Target,
    policy: HostKeys,
    host: str,
    port: int,
    username: str,
    credential: Credential,
    proxy: asyncssh.SSHClientConnection | None,
) -> tuple[asyncssh.SSHClientConnection, _Client]:
    """Log in once, without another try.

    Raises:
        Dropped: sshd closed the connection before the login began.
        GatewayError: It failed in another way.
    """
    timeouts = target.settings.timeout
    loop = asyncio.get_running_loop()
    deadline = asyncio.timeout(timeouts.connection)

    def login_begins() -> None:
        if not deadline.expired():
            deadline.reschedule(loop.time() + timeouts.login)

    client: _Client | None = None
    sock: socket.socket | None = None
    key = _KeyPair(credential.private_key, None, credential.certificate, None)
    try:
        async with deadline:
            trusted = await policy.trusted(host, port)
            client = _Client(policy, trusted, host, port, login_begins)
            made = client
            made.key = key
            sock = await reach(host, port, username) if proxy is None else None
            if sock is not None and first_words(sock).startswith(_PENALISED):
                sock.close()
                raise LoginNodeShut(
                    f"The {policy.role} of {target.system} takes no new logins from this gateway for now: "
                    "too many were refused",
                    headers={"Retry-After": _PENALTY},
                )
            ssh = await asyncssh.connect(
                host,
                port,
                sock=sock,
                tunnel=proxy or (),
                config=None,
                client_factory=lambda: made,
                client_version="hpcgate",
                username=username,
                client_keys=[key],
                agent_path=None,
                agent_forwarding=False,
                pkcs11_provider=None,
                preferred_auth=["publickey"],
                gss_host=None,
                known_hosts=lambda *_: (list(trusted.keys), list(trusted.authorities), list(trusted.revoked)),
                server_host_key_algs=trusted.algorithms,
                x509_trusted_certs=None,
                x509_trusted_cert_paths=[],
                kex_algs=KEY_EXCHANGES,
                encryption_algs=CIPHERS,
                compression_algs=None,
                connect_timeout=None,
                login_timeout=0,
                keepalive_interval=timeouts.keep_alive,
                keepalive_count_max=_LOST_KEEP_ALIVES,
                request_pty=False,
            )
            # asyncssh takes a connection that was aborted for one that is logged in.
            if made.flooded:
                raise LoginNodeError(f"The {policy.role} of {target.system} sends what nobody asked for")
    except asyncssh.HostKeyNotVerifiable as error:
        raise (
            client.refusal() if client is not None else connect_error(error, target.system, policy.role, username)
        ) from error
    except GatewayError:
        raise
    except asyncssh.ConnectionLost as error:
        if client is not None and client.flooded:
            raise LoginNodeError(
                f"The {policy.role} of {target.system} sends without end what is not a login"
            ) from error
        if client is not None and not client.authenticating:
            raise Dropped(error) from error
        if client is not None and key.signed:
            # PAM's account stack says no after the key was accepted, and sshd ends without a word of the protocol.
            raise CredentialRefused(
                f"The {policy.role} of {target.system} took the SSH key of {username} and ended the login: "
                + (client.said or "the account may have expired or be locked")
            ) from error
        raise connect_error(error, target.system, policy.role, username) from error
    except (ConnectionResetError, BrokenPipeError) as error:
        raise Dropped(error) from error
    except (asyncssh.Error, OSError, ValueError) as error:
        raise connect_error(error, target.system, policy.role, username) from error
    except Exception as error:  # asyncssh takes what a server sends for what it should be
        raise LoginNodeError(f"The {policy.role} of {target.system} does not keep to the protocol of SSH") from error
    finally:
        if sock is not None and (client is None or not client.owns_socket):
            sock.close()
    return ssh, client
