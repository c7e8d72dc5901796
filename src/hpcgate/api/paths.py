"""One spelling for each path, so that the rules of a proxy in front hold for what is served here."""

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from hpcgate.api.problems import problem
from hpcgate.heads import odd_path


class PlainPaths:
    """Answers 404 to paths that a proxy may take for others than they are: see `hpcgate.heads.odd_path`.

    They name nothing here, and say so in the message.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            raw: bytes = scope.get("raw_path") or b""
            if (b"%" in raw or b"//" in raw or b"/." in raw or b"\\" in raw) and (wrong := odd_path(raw)):
                await problem(Request(scope), 404, f"Not Found: {wrong}")(scope, receive, send)
                return
        await self.app(scope, receive, send)
