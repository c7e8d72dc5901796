"""What is sent to a login node that does not take it: held back where it can be, and bounded.

How much of a channel's data may be under way says the login node, by its window (RFC 4254, section 5.2), and asyncssh
believes it: of a node that grants gigabytes and reads nothing, all of them would wait in memory.
"""

from collections.abc import Callable
from typing import Any, Final

import asyncssh
from asyncssh.constants import MSG_IGNORE

from hpcgate.telemetry.containment import contained

LEAST_PACKET: Final = 1024
"""Bytes of data that a packet to the login node may hold at least. OpenSSH and Dropbear take 32 KiB; of a node that
takes one byte, each byte would be a packet, encrypted by itself."""
MAX_UNSENT: Final = 16 * 1024 * 1024
"""Bytes that may wait on a connection: requests, and answers to what the login node asks, which nothing holds back."""


class Unsent:
    """Keeps the channels of a connection from writing while what was written before has not gone out.

    It also keeps asyncssh from sending an SSH_MSG_IGNORE before each packet: they protect CBC ciphers (RFC 4251,
    section 9.3.1), none of which is offered, and double the packets.

    Args:
        ssh: The connection, once it has its transport.
        flooded: Called when more waits than may.
    """

    def __init__(self, ssh: asyncssh.SSHClientConnection, flooded: Callable[[], None]) -> None:
        self._transport: Any = getattr(ssh, "_transport", None)
        self._flooded = flooded
        self._full = False
        self._held: dict[Any, Callable[[], None]] = {}
        connection: Any = ssh
        send_packet, add_channel = connection.send_packet, connection.add_channel

        def send(pkttype: int, *args: bytes, **options: Any) -> None:
            if pkttype != MSG_IGNORE:
                send_packet(pkttype, *args, **options)
                if self._full and self._transport.get_write_buffer_size() > MAX_UNSENT:
                    self._flooded()

        def add(channel: Any) -> Any:
            self._watch(channel)
            return add_channel(channel)

        connection.send_packet = send
        connection.add_channel = add
        # The transport calls these, be it a socket's or a channel through a jump host.
        connection.pause_writing = self.pause
        connection.resume_writing = self.resume

    def pause(self) -> None:
        """The transport has enough for now."""
        self._full = True

    @contained("ssh.unsent")
    def resume(self) -> None:
        """The transport takes more: those who were held back go on, until it has enough again."""
        self._full = False
        held, self._held = self._held, {}
        for channel, flush in held.items():
            self._flush(channel, flush)

    def _watch(self, channel: Any) -> None:
        flush = channel._flush_send_buf
        channel._flush_send_buf = lambda: self._flush(channel, flush)

    def _flush(self, channel: Any, flush: Callable[[], None]) -> None:
        if self._full and channel._send_buf:
            self._held[channel] = flush
            channel._pause_resume_writing()
        else:
            flush()
