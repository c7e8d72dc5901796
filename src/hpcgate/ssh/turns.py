"""A connection that brings much leaves the event loop to the others after each read, and has bounds while it rests."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import asyncssh

from hpcgate.telemetry.containment import contained

LONG = 64 * 1024
"""Bytes of one read after which a connection waits for its next turn."""
PORTION = 16 * 1024
"""Bytes that are handed on at a time within a turn."""
_TURN = 0.001
"""Seconds after which a connection's turn is over, if there is more; the portion under way is finished."""
_CRUMB = 256
"""Bytes of a packet, on the average of a turn, below which the sender is not helped to be fast."""
IDLE_BYTES = 16 * 1024 * 1024
"""Bytes that may come while nobody has the connection: what the windows of channels that end still let through."""
_IDLE_READS = 1000
_IDLE_READS_PER_SECOND = 10
"""How often something may come meanwhile: keep-alives, a new key exchange now and then."""


def take_turns(ssh: asyncssh.SSHClientConnection, flooded: Callable[[], None]) -> "Turns | None":
    """Have a connection that brings much leave the event loop to the others after each read.

    libuv reads on for as long as a socket has more, up to 32 times, and everybody waits while megabytes are decrypted.
    """
    transport: Any = getattr(ssh, "_transport", None)
    if not hasattr(transport, "set_protocol"):
        return None
    turns = Turns(ssh, transport, flooded)
    transport.set_protocol(turns)
    return turns


class Turns(asyncio.Protocol):
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
        self._allowed = IDLE_BYTES
        self._idle_bytes = self._idle_reads = 0

    def rest(self, allowed: int = IDLE_BYTES) -> None:
        """Count what comes from now on against an allowance, bytes."""
        self._resting_since = self._loop.time()
        self._allowed = allowed
        self._idle_bytes = self._idle_reads = 0

    def wake(self) -> None:
        """Count nothing: somebody asks."""
        self._resting_since = None

    def data_received(self, data: bytes) -> None:
        """Count it against the allowance, and hand it on unless that takes long."""
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
        elif len(data) <= PORTION:
            self._ssh.data_received(data)
        else:
            self._rest.append(memoryview(data))
            self._turn()

    def _turn(self) -> None:
        """Hand on portions until the turn is over, and go on in a moment if there may be more."""
        began = now = time.perf_counter()
        first, size = self._ssh._recv_seq, 0
        while self._rest and now - began < _TURN and not self._transport.is_closing():
            portion = self._rest[0][:PORTION]
            if len(portion) == len(self._rest[0]):
                self._rest.popleft()
            else:
                self._rest[0] = self._rest[0][PORTION:]
            size += len(portion)
            self._ssh.data_received(bytes(portion))
            now = time.perf_counter()
        if self._transport.is_closing():
            self._rest.clear()
        elif self._rest or size >= LONG:
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
        """The other side does not take what is sent."""
        self._ssh.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._ssh.resume_writing()

    def eof_received(self) -> None:
        """Tell of the end once all before it has been handed on."""
        if self._rest:
            self._ended = self._ssh.eof_received
        else:
            self._ssh.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand on nothing more."""
        self._rest.clear()
        self._ended = None
        self._ssh.connection_lost(exc)
