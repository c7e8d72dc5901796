"""What is answered before a request comes to the application, in the shape of all other answers."""

import json
import random
import time
from dataclasses import dataclass

from hpcgate.http.envelope import new_id
from hpcgate.http.heads import Refusal
from hpcgate.server.sockets import MAX_LINE

MAX_PIPELINED = 1000
"""Requests of one connection that wait for an earlier one of it."""


def problem(message: str, data: dict[str, str] | None = None) -> bytes:
    """Return the body of a refusal, in the shape of all others."""
    body = {"errorType": "error", "message": message, "causedBy": None, "data": data, "user": None}
    return json.dumps(body).encode()


LINE_TOO_LONG = Refusal(431, "Request Header Fields Too Large", f"A line of the head takes more than {MAX_LINE} bytes.")
LINE = Refusal(400, "Bad Request", "The request's first line is not one of HTTP/1.1 (RFC 9112, section 3).")
NO_HTTP = Refusal(400, "Bad Request", "Invalid HTTP request received.")
BROKEN_OFF = Refusal(400, "Bad Request", "The request broke off.")
PADDED = Refusal(400, "Bad Request", "The body's chunks hold more padding than content.")
PIPELINED = Refusal(400, "Bad Request", f"More than {MAX_PIPELINED} requests wait on this connection.")
CRASHED = Refusal(500, "Internal Server Error", "Internal server error")

OVERLOADED = problem("The gateway has more requests than it can serve.", {"reason": "overload"})


@dataclass(frozen=True, slots=True)
class Answers:
    """Writes such answers.

    Attributes:
        version: The gateway's.
        extra: Further header lines of each.
    """

    version: str = ""
    extra: bytes = b""

    def overloaded(
        self, request_id: str | None = None, correlation_id: str | None = None, *, close: bool, whole: bool
    ) -> bytes:
        """Return the answer that there are too many requests, with its body or without."""
        head = self.head(503, "Service Unavailable", len(OVERLOADED), request_id, correlation_id)
        # Not all of them are to come again at the same time.
        retry = b"Retry-After: %d\r\n" % random.randint(1, 3)  # noqa: S311
        end = b"Connection: close\r\n\r\n" if close else b"\r\n"
        return head + retry + end + (OVERLOADED if whole else b"")

    def head(
        self, status: int, phrase: str, length: int, request_id: str | None = None, correlation_id: str | None = None
    ) -> bytes:
        """Return the head of what is answered here, without its end."""
        fresh = request_id or new_id()
        return (
            f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
            f"F7T-Timestamp: {time.time()!r}\r\nF7T-AppVersion: {self.version}\r\n"
            f"X-Request-ID: {fresh}\r\nX-Correlation-ID: {correlation_id or fresh}\r\n"
        ).encode() + self.extra
