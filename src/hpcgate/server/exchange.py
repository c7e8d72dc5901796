"""One request and its answer, as uvicorn has it, but for how the head of an answer is written."""

from collections.abc import Set

from uvicorn._types import ASGISendEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import HEADER_RE, STATUS_LINE, RequestResponseCycle

_UNSAFE = bytes((*range(0x09), *range(0x0A, 0x20), 0x7F))
"""What no header may hold (RFC 9110, section 5.5)."""
_DECIDING = frozenset({b"connection", b"transfer-encoding"})
"""Headers that uvicorn reads, beside the length."""


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


class Exchange(RequestResponseCycle):
    """Writes the heads of usual answers at a third of what uvicorn takes, which looks at each header by itself.

    A usual answer says how long it is, and has no header twice. All others, and those that must not be sent, are left
    to uvicorn.

    Attributes:
        ends_by_close: Whether only the end of the connection tells where the answer ends: HTTP/1.0 knows no chunks
            (RFC 9112, section 6.1).
    """

    ends_by_close = False

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of an answer."""
        if message["type"] == "http.response.start":
            if self._sent(message):
                return
            if self.scope["http_version"] == "1.0" and not self.response_started:
                self._without_chunks(message)
        elif self.ends_by_close and message["type"] == "http.response.body":
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)

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
        values = b"".join(fields.values())
        if (
            len(fields) != len(headers)
            or not length.isdigit()
            or not _are_plain(fields.keys())
            or len(values.translate(None, _UNSAFE)) != len(values)
        ):
            return False
        self.response_started = True
        self.waiting_for_100_continue = False
        self.chunked_encoding = False
        self.expected_content_length = int(length)
        lines = b"\r\n".join(map(b": ".join, headers))
        end = b"\r\n\r\n" if self.keep_alive else b"\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[message["status"]] + lines + end)
        return True
