"""A connection that has become a WebSocket: uvicorn's, by the library websockets, with what the server's end needs."""

import asyncio
import socket
import sys

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from hpcgate.telemetry.containment import FAULTS, contained

MAX_MESSAGE = 1024 * 1024
"""Bytes of a message. One at a time is read ahead of the route that takes them."""
PING_EVERY = 20.0
"""Seconds between two pings, and for an answer to one."""


class Sockets(WebSocketsSansIOProtocol):
    """One WebSocket, looked after by `hpcgate.server.lifecycle.Server` as other connections are."""

    left_at: int | None = None

    def data_received(self, data: bytes) -> None:
        """Take what came. Whatever goes wrong with it is this connection's alone."""
        try:
            super().data_received(data)
        except Exception as error:
            FAULTS.note("socket.connection", error)
            self.transport.abort()

    @contained("socket.lost")
    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        super().connection_lost(exc)

    def on_task_complete(self, task: "asyncio.Task[None]") -> None:
        """The route has ended: so does the connection, whether its client takes the rest or not."""
        super().on_task_complete(task)
        if self.transport.get_write_buffer_size():
            self.loop.call_later(self.close_timeout, contained("socket.abort")(self.transport.abort))

    def wind_up(self) -> None:
        """Nothing: its stream is told to close."""

    def resting(self) -> bool:
        """Say whether there is nothing left to be said."""
        return self.close_sent

    def hang_up(self) -> None:
        """Close the connection."""
        self.transport.close()

    def is_over(self) -> bool:
        """Say whether the connection has ended."""
        return self.transport.is_closing()

    def received(self) -> int:
        """Return the bytes that have come since the connection began; 0 where none are counted."""
        return received(self.transport)

    def cut(self) -> None:
        """End the connection, whatever is on its way."""
        self.transport.abort()


def received(transport: asyncio.BaseTransport) -> int:
    """Return the bytes that have come by a connection, TLS's own among them; 0 where none are counted.

    They are the kernel's `tcpi_bytes_received` (linux/tcp.h).
    """
    connection: socket.socket | None = transport.get_extra_info("socket")
    try:
        if connection is None or len(found := connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)) < 136:
            return 0
    except OSError:  # it has ended
        return 0
    return int.from_bytes(found[128:136], sys.byteorder)


FAULTS.register("socket.connection")
