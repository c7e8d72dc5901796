"""A stand-in for slurmrestd: an HTTP server that answers what was recorded of a real one, and knows nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from .recordings import of_version, recorded


@dataclass(frozen=True, slots=True)
class Received:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass(slots=True)
class StandIn:
    """Answers by method and path; `play` chooses which recording answers."""

    number: int
    url: str = ""
    received: list[Received] = field(default_factory=list)
    delay: float = 0.0
    """Seconds before every answer."""
    refused: tuple[str, str, int, Any] | None = None
    """A path, a parameter that is refused there, and the status and answer then."""
    slow: str | None = None
    """What paths begin with that are answered after 5 s."""
    _playing: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)

    def play(self, label: str, path: str | None = None) -> None:
        """Answer from now on with this recording, at its own path or at another one."""
        entry = recorded(self.number, label)
        shown = entry.path.replace("/v0.0.45/", f"/v0.0.{self.number}/")
        self._playing[entry.method, path or shown.rstrip("/")] = (entry.status, entry.answer)

    def say(self, method: str, path: str, status: int, answer: Any) -> None:
        """Answer from now on with something that is not recorded."""
        self._playing[method, path] = (status, answer)

    def _recorded(self, method: str, path: str) -> tuple[int, Any] | None:
        """Return an answer that was recorded of this path, rather of the path alone than with a query."""
        found = [
            entry
            for entry in of_version(self.number)
            if (entry.method, entry.path.rstrip("/"), entry.status) == (method, path, 200)
            and not entry.label.startswith(("auth-", "down-", "submit-"))
        ]
        found.sort(key=lambda entry: "?" in entry.url_path)
        return (200, found[0].answer) if found else None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        path = request.path.rstrip("/")
        received = Received(
            request.method, path, dict(request.query), dict(request.headers), json.loads(body) if body else None
        )
        self.received.append(received)
        await asyncio.sleep(5.0 if self.slow is not None and path.startswith(self.slow) else self.delay)
        if self.refused is not None and path == self.refused[0] and self.refused[1] in request.query:
            return web.json_response(self.refused[3], status=self.refused[2])
        known = self._playing.get((request.method, path))
        if known is None:
            known = self._recorded(request.method, path)
        if known is None and "/job/" in path and (self.number > 38 or request.method == "GET"):
            name = "db-job-unknown" if path.startswith("/slurmdb/") else "job-unknown"
            known = recorded(self.number, name).status, recorded(self.number, name).answer
        status, answer = known or (404, "Unable to find requested URL.")
        if isinstance(answer, str):
            return web.Response(status=status, text=answer)
        return web.json_response(answer, status=status)


@asynccontextmanager
async def stand_in(number: int) -> AsyncIterator[StandIn]:
    """Run a stand-in for a slurmrestd that serves this data version."""
    made = StandIn(number)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        made.url = f"http://{host}:{port}"
        yield made
    finally:
        await runner.cleanup()
