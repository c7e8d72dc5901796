"""One spelling for each path, so that the rules of a proxy in front hold for what is served here."""

import re
from collections.abc import Awaitable

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from hpcgate.api.errors import problem
from hpcgate.http.heads import may_be_odd, odd_path

_SLASHES = re.compile("/{2,}")

MERGED = "merged_slashes"
"""Of a request's state: its path had slashes in a row."""


class PlainPaths:
    """Answers 404 to paths that a proxy may take for others than they are: see `hpcgate.http.heads.odd_path`.

    They name nothing here, and say so in the message. Slashes in a row, which come about where a base URL ends in one,
    can be taken for one; the door does not let such a request in to routes from which a proxy keeps others away.

    Args:
        app: What serves the others.
        merge: Whether slashes in a row are one.
    """

    def __init__(self, app: ASGIApp, *, merge: bool = False) -> None:
        self.app = app
        self._merge = merge

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle one request."""
        if scope["type"] != "lifespan":
            raw: bytes = scope.get("raw_path") or b""
            if b"//" in raw and self._merge:
                raw = _SLASHES.sub("/", raw.decode("latin-1")).encode("latin-1")
                scope["path"] = _SLASHES.sub("/", scope["path"])
                scope["raw_path"] = raw
                scope["state"][MERGED] = True
            if may_be_odd(raw) and (wrong := odd_path(raw)):
                return problem(HTTPConnection(scope), 404, f"Not Found: {wrong}")(scope, receive, send)
        return self.app(scope, receive, send)
