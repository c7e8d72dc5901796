"""One request and its answer, as uvicorn has it, but for how the head of an answer is written."""

from collections.abc import Generator, Set
from typing import Any, cast

from uvicorn._types import ASGISendEvent, HTTPResponseBodyEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import HEADER_RE, STATUS_LINE, RequestResponseCycle

from hpcgate.http.envelope import WHOLE

_UNSAFE = bytes((*range(0x09), *range(0x0A, 0x20), 0x7F))
"""What no header may hold (RFC 9110, section 5.5)."""
_DECIDING = frozenset({b"connection", b"transfer-encoding"})
"""Headers that uvicorn reads, beside the length."""


_LINE = b"%b: %b\r\n".__mod__
_SMALL = 64 * 1024
"""Bytes of a body that are copied rather than written by themselves."""
_MAX_PLAIN = 256
_PLAIN: set[bytes] = set()
"""Names of headers that have been looked at."""


def _are_plain(names: Set[bytes]) -> bool:
    """Say whether names of headers are in lower case, fit to be sent, and of no meaning to the connection."""
    if names <= _PLAIN:
        return True
    if any(name in _DECIDING or name != name.lower() or HEADER_RE.search(name) for name in names):
        return False
    if len(_PLAIN) < _MAX_PLAIN:
        _PLAIN.update(names)
    return True


class _Nothing:
    """What is awaited where nothing is to be waited for. A coroutine would have to be made anew each time."""

    def __await__(self) -> Generator[Any, Any, None]:
        return iter(())  # type: ignore[return-value]  # an iterator will do (Data model, __await__)


_NOTHING = _Nothing()


class Exchange(RequestResponseCycle):
    """Writes the heads of usual answers at a third of what uvicorn takes, which looks at each header by itself.

    A usual answer says how long it is, and has no header twice. All others, and those that must not be sent, are left
    to uvicorn.

    Attributes:
        ends_by_close: Whether only the end of the connection tells where the answer ends: HTTP/1.0 knows no chunks
            (RFC 9112, section 6.1).
    """

    ends_by_close = False

    def send(self, message: ASGISendEvent) -> Any:
        """Send a part of an answer, and return what is to be awaited."""
        if message["type"] == "http.response.start":
            if self._sent(message):
                return _NOTHING
            if self.scope["http_version"] == "1.0" and not self.response_started:
                self._without_chunks(message)
        elif message["type"] == "http.response.body":
            if self._finished(message):
                return _NOTHING
            if self.ends_by_close:
                self.expected_content_length = len(message.get("body", b""))
        elif cast("str", message["type"]) == WHOLE:
            if self.flow.write_paused and not self.disconnected:
                return self._send_when_drained(message)
            self._send_whole(message)
            return _NOTHING
        return super().send(message)

    async def _send_when_drained(self, message: Any) -> None:
        await self.flow.drain()
        self._send_whole(message)

    def _send_whole(self, message: Any) -> None:
        """Write an answer of one message."""
        if self.disconnected:
            return
        if self.response_started:
            raise RuntimeError(f"a whole answer of status {message['status']} within another")
        self.response_started = True
        self.waiting_for_100_continue = False
        self.chunked_encoding = False
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        body: bytes = message["body"]
        head = b"".join((STATUS_LINE[message["status"]], *map(_LINE, self.default_headers), message["head"], end))
        if len(body) <= _SMALL:
            # A write is a system call, and costs as much as all of the above ten times over.
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _without_chunks(self, message: HTTPResponseStartEvent) -> None:
        if all(name.lower() != b"content-length" for name, _ in message.get("headers", ())):
            self.ends_by_close = True
            self.chunked_encoding = False

    def _sent(self, message: HTTPResponseStartEvent) -> bool:
        """Write the head, if the answer is a usual one and there is nothing to wait for."""
        if self.response_started or self.disconnected or self.flow.write_paused or self.access_log:
            return False
        headers = [*self.default_headers, *message.get("headers", ())]
        fields = dict(headers)
        length = fields.get(b"content-length", b"")
        lines = b"\r\n".join(map(b": ".join, headers))
        if (
            len(fields) != len(headers)
            or not length.isdigit()
            or not _are_plain(fields.keys())
            # Of CR and LF there are those between the lines.
            or len(lines) - len(lines.translate(None, _UNSAFE)) != 2 * (len(headers) - 1)
        ):
            return False
        self.response_started = True
        self.waiting_for_100_continue = False
        self.chunked_encoding = False
        self.expected_content_length = int(length)
        end = b"\r\n\r\n" if self.keep_alive else b"\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[message["status"]] + lines + end)
        return True

    def _finished(self, message: HTTPResponseBodyEvent) -> bool:
        """Write the body, if it comes as a whole after such a head and there is nothing to wait for."""
        body = message.get("body", b"")
        if (
            len(body) != self.expected_content_length
            or message.get("more_body", False)
            or self.chunked_encoding is not False
            or not self.response_started
            or self.response_complete
            or self.disconnected
            or self.flow.write_paused
            or self.scope["method"] == "HEAD"
        ):
            return False
        self.expected_content_length = 0
        self.transport.write(body)
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True
