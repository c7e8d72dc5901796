"""What all connections of a process share: who is let in, what is held back, and how long a client may take."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from hpcgate.admission.askers import Asker, Headers, Stranger, User, address_of, network
from hpcgate.admission.queue import Admission
from hpcgate.config.http import HttpSettings
from hpcgate.server.answers import Answers
from hpcgate.server.probes import Probes
from hpcgate.server.refusals import Lobby, Refusals
from hpcgate.server.sink import LINGER_BYTES, Sink

ALWAYS = frozenset(("/status/liveness", "/status/readiness"))


def _knows_nobody(token: str, source: Callable[[], str | None]) -> str | None:
    return None


def _speaks_nowhere(path: str) -> bool:
    return False


@dataclass(slots=True, eq=False)
class Front:
    """What is the same for every connection.

    Attributes:
        settings: The bounds on heads and on slow clients.
        admission: Who is served and who waits; None lets everybody in.
        refusals: Holds refusals back.
        overflow: Holds those for which there is no room in the lobby: they take no more than their connections do.
        lobby: Keeps requests that are left unread.
        sink: Lets those go on who send much after they were refused.
        caller: Says whose a token was when it was last verified.
        speaks: Says whether a path leads to a WebSocket; an offer to speak one is passed over anywhere else.
        always: Paths that are answered however many requests there are.
        hint: What each of them has, which is sooner looked for than a path.
        probes: Counts who asks for these, for that holds of a few questions of each.
        answers: Writes what is answered before the application is asked.
        stopping: Whether every answer is its connection's last, for the process is about to end.
    """

    settings: HttpSettings = field(default_factory=HttpSettings)
    admission: Admission | None = None
    refusals: Refusals = field(default_factory=lambda: Refusals(0))
    overflow: Refusals = field(default_factory=lambda: Refusals(math.inf))
    lobby: Lobby = field(default_factory=lambda: Lobby(0))
    sink: Sink = field(default_factory=lambda: Sink(LINGER_BYTES))
    caller: Callable[[str, Callable[[], str | None]], str | None] = _knows_nobody
    speaks: Callable[[str], bool] = _speaks_nowhere
    always: frozenset[str] = ALWAYS
    hint: bytes = b"/status/"
    probes: Probes = field(default_factory=Probes)
    answers: Answers = field(default_factory=Answers)
    stopping: bool = False

    def asker(self, token: str | None, headers: Headers, peer: str, app: object) -> Asker:
        """Return who asks, as far as it is known before anything is verified.

        Args:
            token: What the request shows.
            headers: The request's.
            peer: The address at the connection's other end; empty if there is none.
            app: The application, which knows the proxies that are trusted.
        """
        if token is not None and (name := self.caller(token, partial(_source, headers, peer, app))) is not None:
            return User(name)
        return Stranger(network(_source(headers, peer, app)), bearer=token is not None)


def _source(headers: Headers, peer: str, app: object) -> str:
    """Return the client's address: what a trusted proxy says, or else the connection's other end."""
    forwarded: Callable[[str], str] | None = None
    if isinstance(app, ProxyHeadersMiddleware) and peer in app.trusted_hosts:
        forwarded = partial(_client, app.trusted_hosts.get_trusted_client_address)
    return address_of(peer, headers, forwarded)


def _client(found: Callable[[str], tuple[str, int]], forwarded_for: str) -> str:
    return found(forwarded_for)[0]
