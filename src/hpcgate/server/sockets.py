"""A connection that has become a WebSocket: uvicorn's, by the library websockets, with what the server's end needs."""

import asyncio
import socket
import sys
from typing import TYPE_CHECKING

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import MAX_LINE_LENGTH

from hpcgate.server.absence import has_left
from hpcgate.telemetry.containment import FAULTS, contained

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent

MAX_MESSAGE = 1024 * 1024
"""Bytes of a message. One at a time is read ahead of the route that takes them."""
PORTION = 8 * 1024
"""Bytes that are parsed in a turn of the loop: more than a thousand frames, where they are empty."""
MAX_LINE = MAX_LINE_LENGTH - 16
"""Bytes of a header field, or of a target, that the library reads beside what stands around them in their lines."""
PING_EVERY = 20.0
"""Seconds between two pings, and for an answer to one."""


class Sockets(WebSocketsSansIOProtocol):
    """One WebSocket, looked after by `hpcgate.server.lifecycle.Server` as other connections are."""

    left_at: int | None = None
    _unparsed = b""
    _will_parse = False
    _pong = b""
    _whole: bytearray | None = None

    def data_received(self, data: bytes) -> None:
        """Take what came: a portion now, and the rest later, once the route has taken what came before."""
        self._unparsed += data
        if not self._will_parse and not self.read_paused:
            self._parse()
        if self._unparsed:
            self.transport.pause_reading()

    def _parse(self) -> None:
        """Parse a portion. Whatever goes wrong with it is this connection's alone."""
        size = PORTION if self.handshake_initiated else len(self._unparsed)
        portion, self._unparsed = self._unparsed[:size], self._unparsed[size:]
        try:
            super().data_received(portion)
            if not self.handshake_initiated and self.conn.handshake_exc is not None:
                self.transport.close()  # the library would leave it open
        except Exception as error:
            FAULTS.note("socket.connection", error)
            self.transport.abort()
        self._go_on()

    def _go_on(self) -> None:
        """Parse the next portion in another turn, unless the route has not taken what was in the last."""
        if self._unparsed and not self._will_parse and not self.read_paused:
            self._will_parse = True
            self.loop.call_soon(self._parse_next)

    @contained("socket.parse")
    def _parse_next(self) -> None:
        self._will_parse = False
        if self.transport.is_closing():
            self._unparsed = b""
            return
        self._parse()
        if not self._unparsed and not self.read_paused:
            self.transport.resume_reading()

    async def receive(self) -> "ASGIReceiveEvent":
        """Return what comes next. No more is read while some is here."""
        message = await super().receive()
        self._stay_or_go_on()
        return message

    async def send(self, message: "ASGISendEvent") -> None:
        """Send a message. After a close what the client still says is read to its end."""
        await super().send(message)
        self._stay_or_go_on()

    def _stay_or_go_on(self) -> None:
        if self._unparsed and not self.transport.is_closing():
            self.transport.pause_reading()
            self._go_on()

    def handle_cont(self, event: Frame) -> None:
        """Take a further piece of a message. Pieces are joined at once: many small ones take many times their size."""
        if self._whole is None:
            self._whole = bytearray().join(self.frames)
        self._whole += event.data
        if event.fin:
            self.frames, self._whole = [bytes(self._whole)], None
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Answer pings, of a client that takes nothing the last ones only (RFC 6455, section 5.5.3)."""
        pong = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(pong)
        elif pong:
            self._pong = pong

    @contained("socket.resume")
    def resume_writing(self) -> None:
        """The client takes something again."""
        super().resume_writing()
        if self._pong:
            pong, self._pong = self._pong, b""
            self.transport.write(pong)

    @contained("socket.silence")
    def keepalive_timeout(self) -> None:
        """The client has not answered: end the connection, whether it takes the rest or not."""
        super().keepalive_timeout()
        self._abort_later()

    @contained("socket.lost")
    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        super().connection_lost(exc)

    def on_task_complete(self, task: "asyncio.Task[None]") -> None:
        """The route has ended: so does the connection, whether its client takes the rest or not."""
        super().on_task_complete(task)
        self._abort_later()

    def _abort_later(self) -> None:
        if self.transport.get_write_buffer_size():
            self.loop.call_later(self.close_timeout, contained("socket.abort")(self.transport.abort))

    def wind_up(self) -> None:
        """Nothing: its stream is told to close."""

    def resting(self) -> bool:
        """Say whether there is nothing left to be said."""
        return self.close_sent

    def unheard(self) -> bool:
        """False: it is told by pings."""
        return False

    def has_left(self) -> bool:
        """Say whether the client has ended the connection."""
        return has_left(self.transport)

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
