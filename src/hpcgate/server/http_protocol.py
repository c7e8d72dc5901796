"""One client's connection: uvicorn's HTTP, with bounds on what a stranger can take."""

import asyncio
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import unquote

import httptools
import structlog
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from hpcgate.admission.askers import (
    PEEK,
    Asker,
    Headers,
    Stranger,
    forwarded_in,
    path_in,
    token_in,
    token_of,
)
from hpcgate.admission.queue import Admission
from hpcgate.http.body import brings_body, has_long_body
from hpcgate.http.disconnect import CONNECTED
from hpcgate.http.envelope import WHOLE, accepted_id, tell_gone
from hpcgate.http.heads import Refusal, refusal
from hpcgate.server.absence import has_left
from hpcgate.server.answers import (
    BROKEN_OFF,
    CRASHED,
    LINE,
    LINE_TOO_LONG,
    MAX_PIPELINED,
    NO_HTTP,
    PADDED,
    PIPELINED,
    problem,
)
from hpcgate.server.exchange import Exchange
from hpcgate.server.first_lines import FirstLines
from hpcgate.server.front import Front
from hpcgate.server.metering import counted, counted_once_begun
from hpcgate.server.sink import LINGER, LINGER_BYTES
from hpcgate.server.sockets import MAX_LINE, Sockets, received
from hpcgate.server.turns import Offer, Unread, Waiting
from hpcgate.telemetry.containment import FAULTS, contained

log = structlog.get_logger(__name__)
FAULTS.register("http.connection")
FAULTS.register("http.made")

OVERHEAD = 16
"""Bytes of a chunk's frame for each byte in it; more is padding. A chunk of one byte has five."""

OFFER = frozenset({b"connection", b"upgrade", b"http2-settings"})
"""The headers of an offer to speak another protocol (RFC 9110, section 7.8)."""

_EXTENSIONS: Mapping[str, Mapping[str, object]] = {WHOLE: {}}

_GLANCE = 0.01
"""Seconds in which the loop reads what has come while it had no time: who asked in time is not taken for silent."""

_GONE = contained("http.gone")
_RESET = struct.pack("ii", 1, 0)
"""Has a socket send a reset when it is closed (socket(7), SO_LINGER)."""


class _Refused(Exception):
    """Raised within the parser, which has no other way out."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Http(HttpToolsProtocol):
    """uvicorn's HTTP, with bounds on heads and on slow clients, and with refusals in the shape of all others."""

    _chunked = False
    _begun = False
    """Whether a request has begun to come, and has not come to its end."""
    _in_head = False
    _head = 0
    _blank = 0
    """Bytes of empty lines before a head, which the parser passes over (RFC 9112, section 2.2)."""
    _much = False
    _in_body = False
    _offered = False
    _received = 0
    _body = 0
    _deaf = False
    _discarded = LINGER_BYTES
    """Bytes that are still read past at once."""
    left_at: int | None = None
    _last_words = b""
    _active: RequestResponseCycle | None = None
    _linger_timer: asyncio.TimerHandle | None = None
    _rests_since: float | None = None
    """Since when no request is under way, in seconds of the loop's clock; None while one is."""
    _head_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None
    _unsent = 0
    waiting: Waiting | None = None
    unread: Unread | None = None
    left: Unread | None = None
    """What is being read now, if it was left unread."""

    def __init__(self, *args: Any, front: Front | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.front = Front() if front is None else front
        self._lines = FirstLines()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the client some time for its first request."""
        try:
            super().connection_made(transport)
            self._head_timer = self.loop.call_later(self.front.settings.header_timeout, self._head_is_late)
        except Exception as error:  # the loop would leave the connection open, and nobody would look after it
            FAULTS.note("http.made", error)
            transport.abort()

    @contained("http.lost")
    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop_head_timer()
        for timer in (self._send_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        self._wait_no_more()
        self._unset_keepalive_if_required()
        self._stop_rest_timer()
        super().connection_lost(exc)
        # uvicorn tells the request that came last; others may be before it.
        for cycle in (self.cycle, self._active, *(cycle for cycle, _ in self.pipeline)):
            if cycle is None:
                continue
            # A `_Parting` would keep this object and the request alive, by each other.
            cycle.transport = self.transport
            if not cycle.response_complete:
                _disconnect(cycle)
        self.pipeline.clear()
        # Each of them leads back here: nothing is to be left to the collector of garbage.
        self.cycle, self._active = None, None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless it would be refused: then it is left as it is for a while."""
        admission = self.front.admission
        if self._deaf:
            self._discard(data)
        elif self.unread is not None:
            self.unread.data += data
        elif admission is not None and admission.ample and self.resting():
            self._glance(admission, data)
        else:
            self.parse(data)

    @contained("http.eof")
    def eof_received(self) -> None:
        """The client sends no more, and the connection is about to be closed: tell it if that came too early."""
        if self._in_head or self._in_body:
            self._refuse(BROKEN_OFF, late=False)

    def _discard(self, data: bytes) -> None:
        self._discarded -= len(data)
        if self._discarded < 0:
            self.flow.pause_reading()
            if not self._awaited():
                self.front.sink.add(self)

    def go_on(self, portion: int) -> None:
        """Read on past what nobody wants, for so many bytes."""
        self._discarded = portion
        self.flow.resume_reading()

    def is_over(self) -> bool:
        """Say whether the connection has ended."""
        return self.transport.is_closing()

    def received(self) -> int:
        """Return the bytes that have come since the connection began; 0 where none are counted."""
        return received(self.transport)

    def cut(self) -> None:
        """End the connection, whatever is on its way."""
        self.transport.abort()

    def _glance(self, admission: Admission, data: bytes) -> None:
        """Leave a request unread that would only wait, or be refused, as far as a glance tells; else parse it."""
        asker = self._asker(token_in(data), forwarded_in(data))
        front = self.front
        is_probe = front.hint in data[:PEEK] and path_in(data) in front.always
        if not admission.stays_unread(asker) or (is_probe and front.probes.allow(asker)):
            self.parse(data)
            return
        self._stop_head_timer()
        self._unset_keepalive_if_required()
        self.flow.pause_reading()
        self.unread = Unread(self, data, len(data), asker, admission.now, time.monotonic())
        self.front.lobby.add(self.unread)

    def parse(self, data: bytes) -> None:
        """Parse what came. Whatever goes wrong with it is this connection's alone, which gets an answer."""
        try:
            self._take(data)
        except Exception as error:
            FAULTS.note("http.connection", error)
            if self._deaf:
                # A refusal has failed, and nothing else would end the connection.
                self.transport.abort()
            else:
                self._refuse(CRASHED)

    def _take(self, data: bytes) -> None:
        """Parse what came, unless a head has become too long."""
        most = self.front.settings.max_header_size
        begun = self._in_head
        if begun:
            self._head += len(data)
            if self._head > most:
                self._refuse(self._too_long())
                return
        self._much = len(data) > most
        self._received += len(data)
        if not self._in_head and not self._in_body:
            self._blank += len(data)
        # Only a request stops the timer, and it does so when its head begins.
        if not self._feed(data):
            return
        if self._blank > most:
            self._refuse(self._too_long())
            return
        if self._in_head and not begun:
            self._head = len(data)
            if self._much:
                self._refuse(self._too_long())
                return
        if self._in_body and self._received - self._body > 2 * most + OVERHEAD * self._body:
            self._refuse(PADDED)
            return
        # Most heads come whole, and need no timer. What is no part of a request must not stop the keep-alive timer.
        waiting = self._in_head or self.cycle is None or self.cycle.response_complete
        if waiting and self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.front.settings.header_timeout, self._head_is_late)

    def _feed(self, data: bytes) -> bool:
        """Hand on what came, and say whether there may be more of it."""
        self._unset_keepalive_if_required()
        self._lines.take(data, chunked=self._in_body and self._chunked)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            read: int = stopped.args[0]
        except httptools.HttpParserError as error:
            match error.__context__:
                case _Refused() as refused:
                    self._refuse(refused.refusal)
                case None | httptools.HttpParserError() | UnicodeError():
                    self._refuse(NO_HTTP)
                case fault:
                    raise fault from None
            return False
        else:
            if self._in_head:
                self._lines.keep()
            return not self._deaf
        finally:
            self._lines.drop()
        # Outside of the handler: what is raised within it has that error for its context.
        if self._offered:
            return self._feed(self._without_offer() + data[read:])
        if self._should_upgrade() and not self._deaf:
            self._hand_over(data[read:])
            return False
        # Another protocol would follow, which is not spoken here: the request is answered as if none were offered.
        self._deaf = True
        return False

    def on_message_begin(self) -> None:
        """A head begins."""
        self._begun, self._in_head, self._head, self._blank = True, True, 0, 0
        # A refusal may have set it while there was more to parse.
        self._unset_keepalive_if_required()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head is whole. Those after the body are left out: nobody asked for any."""
        if self._in_head:
            name = name.lower()
            self.headers.append((name, value))
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        """A head is whole."""
        self._in_head = False
        self._stop_head_timer()
        if self._deaf:
            # What came with it was the connection's last request.
            raise _Refused(NO_HTTP)
        most = self.front.settings.max_header_size
        if self._much and len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > most:
            raise _Refused(self._too_long())
        version = self.parser.get_http_version()
        refused = refusal(version, self.url, self.headers)
        if refused is not None:
            raise _Refused(refused)
        if not self._lines.is_plain(self.parser.get_method(), self.url, version):
            raise _Refused(LINE)
        if len(self.pipeline) >= MAX_PIPELINED:
            raise _Refused(PIPELINED)
        body = brings_body(self.headers)
        if body and self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            # The parser takes a body for the other protocol.
            self._offered = True
            return
        super().on_headers_complete()
        if self.parser.should_upgrade() and self._should_upgrade():
            return
        # From here on there is a request to be given up, if what follows is odd.
        self._in_body, self._received, self._body = True, 0, 0
        self._chunked = body and not any(name == b"content-length" for name, _ in self.headers)
        if self._chunked:
            self._lines.lose()
        if not body or version == "1.0":
            # RFC 9110, section 10.1.1: then nobody waits for it.
            self.cycle.waiting_for_100_continue = False
        if self.front.stopping or self.parser.should_upgrade():
            self.cycle.keep_alive = False
        if body or not self.cycle.keep_alive:
            self.cycle.transport = cast("asyncio.Transport", _Parting(self))

    def _should_upgrade(self) -> bool:
        if self.parser.get_method() != b"GET" or brings_body(self.headers):
            return False
        path = self.url.partition(b"?")[0].decode("latin-1")
        return super()._should_upgrade() and self.front.speaks(unquote(path))

    def _hand_over(self, rest: bytes) -> None:
        """Have the connection go on as a WebSocket, whose task is a request like others.

        Where another request of the same caller would have to wait, it is refused.
        """
        self._stop_head_timer()
        self._unset_keepalive_if_required()
        admission = self.front.admission
        asker = None if admission is None else self._asker(token_of(self.headers), self.headers)
        if self._awaited() or self.front.stopping or self._would_wait(asker):
            if admission is not None:
                admission.refused += 1
            self._deaf = True
            self._last_words = self.front.answers.overloaded(close=True, whole=True)
            if self.front.stopping:
                self.bow_out()
            elif not self._awaited():
                # As late as any other refusal: who is refused at once comes back at once.
                self.flow.pause_reading()
                self.front.refusals.add(Offer(self), time.monotonic())
            return
        if max(len(self.url), *(len(name) + len(value) for name, value in self.headers)) > MAX_LINE:
            self._refuse(LINE_TOO_LONG)
            return
        if self._send_timer is not None:
            self._send_timer.cancel()
        self._stop_rest_timer()
        self.handle_websocket_upgrade()
        speaker = self.transport.get_protocol()
        if isinstance(asker, Stranger) and isinstance(speaker, Sockets) and admission is not None:
            speaker.app = counted_once_begun(admission, asker, speaker.app, self.tasks)
        if rest:
            cast("asyncio.Protocol", speaker).data_received(rest)
        self.cycle, self._active = None, None  # type: ignore[assignment]

    def _would_wait(self, asker: Asker | None) -> bool:
        """Say whether a request of this caller would have to wait."""
        admission = self.front.admission
        if admission is None or not (admission.waiting or admission.busy or admission.full(len(self.tasks))):
            return False
        return asker is not None and admission.must_wait(asker, len(self.tasks))

    def _without_offer(self) -> bytes:
        """Return the head of the request once more, for a new parser, without its offer to speak another protocol."""
        self._offered = False
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version), b"connection: close\r\n"]
        lines += [b"%s: %s\r\n" % field for field in self.headers if field[0] not in OFFER]
        self.parser = httptools.HttpRequestParser(self)
        return b"".join(lines) + b"\r\n"

    def on_message_complete(self) -> None:
        """A request is whole."""
        if self._offered:
            return
        self._begun = self._in_body = False
        super().on_message_complete()

    @contained("http.response_complete")
    def on_response_complete(self) -> None:
        """An answer is out: somebody else may be let in. As uvicorn's, but for the timer of a connection at rest."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            elif self._linger_timer is None:
                self._rest()
        if self.pipeline and not self.transport.is_closing():
            # Enough is here already.
            self.flow.pause_reading()
        elif self._last_words and not self._awaited():
            self.bow_out()
        if self.front.admission is not None and self.front.admission.waiting:
            # The task of this request is about to end.
            self.front.admission.feed(len(self.tasks) - 1)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Serve a request, or have it wait, or refuse it at the price of its parsing alone."""
        self._active = cycle
        # uvicorn has made it, and takes no other class for it.
        cycle.__class__ = Exchange
        scope = cast("Scope", cycle.scope)
        scope["state"][CONNECTED] = True
        if not cycle.access_log:
            scope["extensions"] = _EXTENSIONS
        admission = self.front.admission
        if admission is None or not (admission.waiting or admission.busy or admission.full(len(self.tasks))):
            super()._start_asgi_task(cycle, app)
            return
        headers = cycle.scope["headers"]
        asker = self._asker(token_of(headers), headers)
        if cycle.scope["path"].rstrip("/") in self.front.always and self.front.probes.take(asker):
            super()._start_asgi_task(cycle, app)
            return
        if not admission.must_wait(asker, len(self.tasks)):
            self.serve(cycle, app, asker)
            return
        size = 0
        for _, value in headers:
            size += len(value)
        left = self.left
        since, came = (admission.now, time.monotonic()) if left is None else (left.since, left.came)
        self.waiting = caller = Waiting(self, cycle, app, asker, size, since, came)
        admission.wait(caller, len(self.tasks))

    def _asker(self, token: str | None, headers: Headers) -> Asker:
        peer = "" if self.client is None else self.client[0]
        return self.front.asker(token, headers, peer, self.config.loaded_app)

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body; of one whose request waits not more than has come already."""
        self._body += len(body)
        self._lines.pass_over(len(body))
        super().on_body(body)
        if self.waiting is not None and self.front.admission is not None:
            self.flow.pause_reading()
            self.front.admission.grow(self.waiting, len(body))

    def _wait_no_more(self) -> None:
        if self.waiting is not None and self.front.admission is not None:
            self.front.admission.leave(self.waiting)
            self.waiting = None

    def serve(self, cycle: RequestResponseCycle, app: Any, asker: Asker) -> None:
        """Have the application answer a request, which counts as its caller's."""
        admission = self.front.admission
        assert admission is not None  # noqa: S101 (it has let the caller in)
        super()._start_asgi_task(cycle, counted(admission, asker, app, self.tasks))

    def turn_away(self, cycle: RequestResponseCycle) -> None:
        """Answer a request that there are too many."""
        if self.transport.is_closing():
            # Its client has gone, and the loop has not come to say so: a closed transport raises if it is written to.
            cycle.response_complete = True
            self.server_state.total_requests += 1
            return
        # Who sends a body may send much of it: that connection ends.
        # Who does not wait for answers before asking on would not wait after a refusal either.
        close = (
            self.front.stopping
            or not cycle.keep_alive
            or bool(self.pipeline)
            or has_long_body(cast("Scope", cycle.scope))
        )
        asked = dict(cycle.scope["headers"])
        self.transport.write(
            self.front.answers.overloaded(
                accepted_id(asked.get(b"x-request-id")),
                accepted_id(asked.get(b"x-correlation-id")),
                close=close,
                whole=cycle.scope["method"] != "HEAD",
            )
        )
        cycle.response_started = cycle.response_complete = True
        if close:
            self.part()
        self.on_response_complete()

    def turn_away_unread(self, *, whole: bool) -> None:
        """Refuse a request that nobody has read, for there is no room to leave it unread either."""
        self.transport.write(self.front.answers.overloaded(close=True, whole=whole))
        if self.front.admission is not None:
            self.front.admission.refused += 1
        self.part()

    def pause_writing(self) -> None:
        """The client does not take what it is sent as fast as it comes: see that it takes anything at all."""
        super().pause_writing()
        if self._send_timer is None:
            self._watch_sending()

    def resume_writing(self) -> None:
        """The client has taken what it was sent."""
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def wind_up(self) -> None:
        """Have the answer that is under way be the last one, if its head is not out yet."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False
            self.cycle.transport = cast("asyncio.Transport", _Parting(self))

    def resting(self) -> bool:
        """Say whether no request is under way."""
        if self._linger_timer is not None:
            return True
        if self._in_head or self.unread is not None or self._last_words:
            return False
        return self.cycle is None or self.cycle.response_complete

    def unheard(self) -> bool:
        """Say whether a request is under way, and nothing is read meanwhile."""
        return self.flow.read_paused and not self._deaf and not self.transport.is_closing()

    def has_left(self) -> bool:
        """Say whether the client has ended the connection."""
        return has_left(self.transport)

    def hang_up(self) -> None:
        """Close the connection."""
        self.transport.close()

    def _too_long(self) -> Refusal:
        most = self.front.settings.max_header_size
        return Refusal(431, "Request Header Fields Too Large", f"The headers take more than {most} bytes.")

    def _awaited(self) -> bool:
        """Say whether an earlier request has not been answered."""
        active = self._active
        return bool(self.pipeline) or (active is not None and not (active.response_complete or active.disconnected))

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_rest_timer(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    @contained("http.head_late")
    def _head_is_late(self) -> None:
        self._head_timer = self.loop.call_later(_GLANCE, self._head_is_missing)

    def _unset_keepalive_if_required(self) -> None:
        """The connection does not rest any more. Its timer goes on, and finds that when it is over."""
        self._rests_since = None

    def _rest(self) -> None:
        """The connection rests from now on. A timer of its own each time would cost as much as the answer's head."""
        self._rests_since = now = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_at(
                now + self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    @contained("http.rest_over")
    def timeout_keep_alive_handler(self) -> None:
        """The connection has rested for long enough, unless something has come meanwhile."""
        self.timeout_keep_alive_task = None
        since = self._rests_since
        if since is None:
            return
        due = since + self.timeout_keep_alive
        if self.loop.time() < due:
            self.timeout_keep_alive_task = self.loop.call_at(due, self.timeout_keep_alive_handler)
        else:
            self.timeout_keep_alive_task = self.loop.call_later(_GLANCE, self._end_rest, since)

    @contained("http.rest_over")
    def _end_rest(self, since: float) -> None:
        self.timeout_keep_alive_task = None
        if self._rests_since == since:
            super().timeout_keep_alive_handler()
        elif self._rests_since is not None:
            self.timeout_keep_alive_handler()

    @contained("http.head_late")
    def _head_is_missing(self) -> None:
        self._head_timer = None
        seconds = self.front.settings.header_timeout
        if self._in_head:
            self._refuse(Refusal(408, "Request Timeout", f"The headers did not arrive within {seconds:g} s."))
        else:
            self.transport.close()

    def _watch_sending(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._send_timer = self.loop.call_later(self.front.settings.send_timeout, self._look_at_sending)

    @contained("http.sending")
    def _look_at_sending(self) -> None:
        if self.transport.get_write_buffer_size() < self._unsent:
            self._watch_sending()
        else:
            log.warning("http.client_takes_nothing", client=self.client and self.client[0], unsent=self._unsent)
            self.transport.abort()

    def _refuse(self, refused: Refusal, *, late: bool = True) -> None:
        """Answer what cannot be served, after all that came before it, and close the connection.

        Args:
            refused: What is to be said.
            late: Whether that has time while requests have to wait.
        """
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = True
        self._stop_head_timer()
        self._unset_keepalive_if_required()
        client = self.client and self.client[0]
        log.info("http.refused", status=refused.status, reason=refused.message, client=client)
        if self._in_body and not self._give_up_body():
            if self.cycle.response_complete:
                self._linger()
            else:
                self.transport.close()
            return
        content = problem(refused.message)
        head = self.front.answers.head(refused.status, refused.phrase, len(content))
        # RFC 9110, section 9.3.2. Before the target comes, the parser still has the method of the request before.
        headless = self._begun and self.url and self.parser.get_method() == b"HEAD"
        self._last_words = head + b"Connection: close\r\n\r\n" + (b"" if headless else content)
        if self._awaited():
            return
        if late and self._is_pressed():
            # Who is refused at once comes back at once.
            self.flow.pause_reading()
            self.front.refusals.add(Offer(self), time.monotonic())
        else:
            self.bow_out()

    def _is_pressed(self) -> bool:
        """Say whether requests have to wait."""
        admission = self.front.admission
        return admission is not None and (admission.busy or admission.waiting > 0) and not self.front.stopping

    def _give_up_body(self) -> bool:
        """Take the request whose body is broken off the list; False if its answer has begun."""
        cycle = self.cycle
        if cycle.response_started:
            return False
        _disconnect(cycle)
        if self.waiting is not None and self.waiting.cycle is cycle:
            self._wait_no_more()
        waiting = [(one, app) for one, app in self.pipeline if one is not cycle]
        self.pipeline.clear()
        self.pipeline.extend(waiting)
        return True

    def bow_out(self) -> None:
        """Send the last words, and close the connection once the client has had the time to read them."""
        self._unset_keepalive_if_required()
        if self.transport.is_closing() or self._linger_timer is not None:
            return
        self.transport.write(self._last_words)
        self._last_words = b""
        self._linger()

    def part(self) -> None:
        """Close the connection, once the client has had the time to read what it was sent."""
        active = self._active
        if isinstance(active, Exchange) and active.ends_by_close and not active.response_complete:
            # An end in good order would make a whole answer of it.
            connection: socket.socket = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
            return
        for cycle, _ in self.pipeline:
            _disconnect(cycle)
        self.pipeline.clear()
        self._linger()

    def _linger(self) -> None:
        if self.transport.is_closing() or self._linger_timer is not None:
            return
        self._deaf = True
        self._stop_head_timer()
        self._unset_keepalive_if_required()
        if not self.transport.can_write_eof():
            # TLS says that this is the end, and reads on by itself until the other side has said so, too: see `Ends`.
            self.left_at = self.received()
            self.transport.close()
            return
        self.transport.write_eof()
        self._discarded = LINGER_BYTES
        self.flow.resume_reading()
        self._linger_timer = self.loop.call_later(LINGER, self._leave)

    @contained("http.leave")
    def _leave(self) -> None:
        self.transport.close()


class _Parting:
    """What a request with a body has of its connection: closed with some of the body unread, it is left in peace."""

    __slots__ = ("_protocol", "is_closing", "write")

    def __init__(self, protocol: Http) -> None:
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing
        self._protocol = protocol

    def close(self) -> None:
        """Close the connection, at once if nothing is to come."""
        self._protocol.part()


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Have a request notice that its client has gone, or is not listened to any more."""
    cycle.disconnected = True
    cycle.waiting_for_100_continue = False
    cycle.message_event.set()
    with _GONE:
        tell_gone(cast("Scope", cycle.scope)["state"])
