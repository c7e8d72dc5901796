"""SFTP's channel for small requests, as asyncssh's client has it, with bounds on what the server says."""

from collections.abc import Callable
from typing import Any

from asyncssh.channel import SSHChannel
from asyncssh.stream import SSHClientStreamSession

from hpcgate.ssh.channels import Slot
from hpcgate.ssh.commands.command import MAX_NOISE
from hpcgate.ssh.files.sftp_bulk import MAX_BLOCK

_LEAST_ANSWER = 5
_MAX_ANSWER = MAX_BLOCK + 1024
"""Bytes of an answer of an SFTP server: OpenSSH's are up to 256 KiB long."""


class SftpStream(SSHClientStreamSession[bytes]):
    """SFTP's channel, which takes one of those that the login node allows.

    Attributes:
        closed: Whether the channel has closed.

    Args:
        slot: The channel's place.
        refused: Is told why the channel was closed, if it was for what the server said.
    """

    def __init__(self, slot: Slot, refused: Callable[[str], None]) -> None:
        super().__init__()
        self._slot = slot
        self._refused = refused
        self._head = bytearray()
        self._left = 0
        self._aside = 0
        self._channel: SSHChannel[Any] | None = None
        self.closed = False

    def connection_made(self, chan: SSHChannel[Any]) -> None:
        """The channel is being opened."""
        super().connection_made(chan)
        self._channel = chan
        self._slot.opened()

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel has closed."""
        super().connection_lost(exc)
        self.closed = True
        self._slot.release()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Hand on answers that are no longer than any that the gateway asks for; standard error is of no use."""
        if datatype is not None:
            self._aside += len(data)
            if self._aside > MAX_NOISE:
                self.refuse("the SFTP server writes errors without end")
            return
        position, end = 0, len(data)
        while position < end:
            if self._left:
                taken = min(self._left, end - position)
                self._left -= taken
                position += taken
                continue
            taken = min(4 - len(self._head), end - position)
            self._head += data[position : position + taken]
            position += taken
            if len(self._head) == 4:
                self._left = int.from_bytes(self._head, "big")
                self._head.clear()
                if not _LEAST_ANSWER <= self._left <= _MAX_ANSWER:
                    self.refuse("the SFTP server's answer makes no sense")
                    return
        super().data_received(data, datatype)

    def refuse(self, why: str) -> None:
        """Close the channel for what the server said."""
        if self._channel is not None and not self._channel.is_closing():
            self._refused(why)
            self._channel.close()

    def close(self) -> None:
        """Close the channel if it was opened."""
        if self._channel is not None:
            self._channel.close()
