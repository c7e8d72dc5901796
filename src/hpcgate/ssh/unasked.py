"""Messages of a login node that nobody asked for, and that carry nothing: they have a bound, whatever else goes on.

Each costs everybody's time, and none is an answer: SSH_MSG_IGNORE and DEBUG, requests of the node's own, channels that
it would open here, windows that grow byte by byte, exchanges of keys one after the other, content of no bytes.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import asyncssh
from asyncssh.constants import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_DISCONNECT,
    MSG_GLOBAL_REQUEST,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
    MSG_SERVICE_ACCEPT,
    MSG_USERAUTH_FIRST,
    MSG_USERAUTH_LAST,
)

MESSAGES: Final = 1000
"""As many may come at once."""
PER_SECOND: Final = 10
"""As many more in each second: keep-alives of the node's own."""
PER_TURN: Final = 2
"""As many more for each message with something in it, of either side: a window that grows, the status of a command, and
an SSH_MSG_IGNORE beside each, as asyncssh's server has it."""
PER_CONTENT: Final = 64 * 1024
"""Bytes of content for one more: the node may want new keys for each gigabyte, or for less."""
KEYS: Final = 100
"""As so many messages counts an exchange of keys, which takes milliseconds."""
LONG: Final = 1024
"""Bytes of a message for which it counts once more."""

_ASKING: Final = frozenset(
    {
        MSG_GLOBAL_REQUEST,
        MSG_CHANNEL_OPEN,
        MSG_CHANNEL_DATA,
        MSG_CHANNEL_EOF,
        MSG_CHANNEL_CLOSE,
        MSG_CHANNEL_REQUEST,
    }
)
"""What the gateway sends of its own accord. Its answers to what the node asks are not among these."""
_ANSWERS: Final = frozenset(
    {
        MSG_DISCONNECT,
        MSG_SERVICE_ACCEPT,
        MSG_NEWKEYS,
        *range(MSG_USERAUTH_FIRST, MSG_USERAUTH_LAST + 1),
        MSG_REQUEST_SUCCESS,
        MSG_REQUEST_FAILURE,
        MSG_CHANNEL_OPEN_CONFIRMATION,
        MSG_CHANNEL_OPEN_FAILURE,
        MSG_CHANNEL_EOF,
        MSG_CHANNEL_CLOSE,
        MSG_CHANNEL_SUCCESS,
        MSG_CHANNEL_FAILURE,
    }
)
"""What asyncssh itself takes only when it is due; those of a login have a bound of their own."""
_CONTENT: Final = {MSG_CHANNEL_DATA: 9, MSG_CHANNEL_EXTENDED_DATA: 13}
"""Bytes before the content, by the kind of the message (RFC 4254, section 5.2)."""


class Unasked:
    """Counts them on one connection.

    Args:
        ssh: The connection.
        flooded: Called when there are more than may be.
    """

    def __init__(self, ssh: asyncssh.SSHClientConnection, flooded: Callable[[], None]) -> None:
        connection: Any = ssh
        self._flooded = flooded
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._messages = self._turns = self._content = 0
        self._over = False
        send, add = connection.send_packet, connection.add_channel

        def sent(kind: int, *args: bytes, **options: Any) -> None:
            if kind in _ASKING:
                self._turns += 1
            send(kind, *args, **options)

        def added(channel: Any) -> Any:
            self._watch(channel)
            return add(channel)

        connection.send_packet, connection.add_channel = sent, added
        self._watch(connection)

    def _watch(self, handler: Any) -> None:
        process = handler.process_packet

        def received(kind: int, number: int, packet: Any) -> Any:
            self._take(kind, len(packet.get_full_payload()))
            # What has come already is still handed on, packet by packet, though the connection is at its end.
            return self._over or process(kind, number, packet)

        handler.process_packet = received

    def _take(self, kind: int, size: int) -> None:
        head = _CONTENT.get(kind)
        if head is not None and size > head:
            self._turns += 1
            self._content += size - head
        elif kind not in _ANSWERS:
            self._messages += KEYS if kind == MSG_KEXINIT else 1 + size // LONG
            if self._messages > MESSAGES and self._messages > self._allowed and not self._over:
                self._over = True
                self._flooded()

    @property
    def _allowed(self) -> float:
        """How many messages may have come by now."""
        seconds = self._loop.time() - self._since
        return MESSAGES + PER_SECOND * seconds + PER_TURN * self._turns + self._content / PER_CONTENT
