"""Clients that have gone while nothing was read from them: the event loop tells of an end only where it reads."""

import asyncio
import socket
from collections.abc import Iterable
from typing import Protocol

from hpcgate.telemetry.containment import contained

KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""Seconds of silence after which the kernel asks whether the other side is there, seconds between two times, and how
often it asks in vain (tcp(7)). An answer to which nothing is added for hours would never find out."""

_CLOSED, _CLOSE_WAIT = 7, 8
"""The other side has reset a connection, or ended its own half (linux/tcp_states.h)."""

_ABSENCE = contained("http.absence")


class Unheard(Protocol):
    """A client's connection."""

    def unheard(self) -> bool:
        """Say whether a request is under way, and nothing is read meanwhile."""

    def has_left(self) -> bool:
        """Say whether the other side has ended the connection."""

    def cut(self) -> None:
        """End it at once."""


class Absences:
    """Ends the connections of those who were found to have gone at two looks in a row.

    Who ends only its own half of a connection, and waits for answers, counts as gone by then as it does elsewhere.
    """

    def __init__(self) -> None:
        self._before: set[Unheard] = set()

    def __repr__(self) -> str:
        return f"<Absences {len(self._before)} found at the last look>"

    def look(self, connections: Iterable[Unheard]) -> None:
        """See who has gone."""
        gone = {one for one in connections if one.unheard() and one.has_left()}
        before, self._before = self._before, gone
        for one in gone & before:
            with _ABSENCE:
                one.cut()


def has_left(transport: asyncio.BaseTransport) -> bool:
    """Say whether the other side of a connection has ended it, by the kernel's `tcpi_state` (linux/tcp.h)."""
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is None:
        return False
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in (_CLOSED, _CLOSE_WAIT)
    except OSError:  # it is not one of TCP's
        return False


def ask_whether_there(listener: socket.socket) -> None:
    """Have the kernel find out of each connection that comes by a socket whether the other side is still there."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
