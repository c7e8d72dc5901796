"""What waits for its turn at a connection: to be served, to be read, or to be refused."""

import time
from dataclasses import dataclass
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from hpcgate.admission.askers import Asker
from hpcgate.server.front import Front
from hpcgate.server.refusals import HOLD
from hpcgate.telemetry.containment import contained

_TURN = contained("http.turn")


class Connection(Protocol):
    """A connection, as far as what waits there is concerned.

    Attributes:
        front: What all connections share.
        flow: Whether it is read from.
        waiting: Its request that waits to be served.
        unread: Its request that is left unread.
        left: What is being read now, if it was left unread.
    """

    front: Front
    flow: FlowControl
    waiting: "Waiting | None"
    unread: "Unread | None"
    left: "Unread | None"

    def serve(self, cycle: RequestResponseCycle, app: Any, asker: Asker) -> None:
        """Begin to serve a request."""

    def turn_away(self, cycle: RequestResponseCycle) -> None:
        """Refuse a request."""

    def turn_away_unread(self, *, whole: bool) -> None:
        """Refuse a request that nobody has read."""

    def parse(self, data: bytes) -> None:
        """Parse what came."""

    def bow_out(self) -> None:
        """Send the last words."""

    def is_over(self) -> bool:
        """Say whether the connection has ended."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A request that waits to be served, or to be refused."""

    protocol: Connection
    cycle: RequestResponseCycle
    app: Any
    asker: Asker
    size: int
    since: float
    came: float

    def let_in(self) -> bool:
        """Begin to serve it; False if its client has gone."""
        self.protocol.waiting = None
        # Others wait behind it, whatever goes wrong with it.
        with _TURN:
            if not self.cycle.disconnected:
                self.protocol.serve(self.cycle, self.app, self.asker)
                return True
        return False

    def turn_away(self) -> None:
        """Have it refused."""
        self.protocol.waiting = None
        admission = self.protocol.front.admission
        if not self.cycle.disconnected and admission is not None:
            # Nothing is read meanwhile: pressure is felt where it costs nothing.
            self.protocol.flow.pause_reading()
            self.protocol.front.refusals.add(self, self.came)

    def say(self) -> bool:
        """Refuse it; False if its client has gone."""
        with _TURN:
            if not self.cycle.disconnected:
                self.protocol.turn_away(self.cycle)
                return True
        return False


@dataclass(slots=True, eq=False)
class Unread:
    """A connection whose request is not read for now.

    Attributes:
        since: When it came, by the clock of the admission, which goes slower at times.
        came: When it came, in seconds of `time.monotonic`.
        whole: Whether its answer has a body.
    """

    protocol: Connection
    data: bytes
    size: int
    asker: Asker
    since: float
    came: float
    whole: bool = True

    @property
    def stays(self) -> bool:
        """Whether there is no room for it yet."""
        admission = self.protocol.front.admission
        return admission is not None and admission.stays_unread(self.asker)

    @property
    def late(self) -> bool:
        """Whether it has waited for as long as anybody may."""
        admission = self.protocol.front.admission
        return admission is not None and admission.too_late(self.since) and time.monotonic() >= self.came + HOLD

    def read(self) -> None:
        """Read it now."""
        protocol = self.protocol
        protocol.unread = None
        protocol.left = self
        with _TURN:
            if not protocol.is_over():
                protocol.flow.resume_reading()
                protocol.parse(self.data)
        protocol.left = None

    def refuse(self) -> None:
        """Have it refused as it is."""
        # What has come of it is forgotten; that it lies unread is not, until it is refused.
        self.whole = not self.data.startswith(b"HEAD ")
        self.data = b""
        self.protocol.front.overflow.add(self, self.came)

    def say(self) -> bool:
        """Refuse it; False if its client has gone."""
        protocol = self.protocol
        with _TURN:
            if protocol.unread is self:
                protocol.unread = None
                if not protocol.is_over():
                    protocol.turn_away_unread(whole=self.whole)
                    return True
        return False


@dataclass(slots=True, eq=False)
class Offer:
    """An offer to speak as a WebSocket, or what is no request, that is to be refused."""

    protocol: Connection

    def say(self) -> bool:
        """Refuse it; False if its client has gone."""
        with _TURN:
            if not self.protocol.is_over():
                self.protocol.bow_out()
                return True
        return False
