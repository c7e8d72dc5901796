"""An end for requests whose client has gone, so that what they started on a login node ends too."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpcgate.telemetry.containment import contained, reaped

WATCH_AFTER = 0.25
"""Seconds after which a running request begins to watch for its client hanging up.

Most are done by then, also where a hundred of them wait for each other. A watch is a task, which costs a quarter of
what all the rest of HTTP costs.
"""


CLIENT_GONE = 499
"""The status in the access log of a request whose client went away, as nginx writes it."""


_HANG_UP = contained("http.hang_up")


CONNECTED = "connected"
"""In the state of a request: whether its client is there. A server that says so tells when the client goes."""


_ON_GONE = "on_gone"


class HangUp:
    """Cancels a request whose client has gone, so that what it started on a login node ends too.

    While its body is being read that is not done: the body's reader notices by itself. The gateway's own server tells
    (`tell_gone`), at no cost to those who stay. With any other a request is watched after `WATCH_AFTER` seconds, at
    most twice as many, and once its body has been read: one timer looks after all of them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._young: set[_DisconnectWatch] = set()
        self._older: set[_DisconnectWatch] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (an ASGI server calls within a task)
        state = scope["state"]
        watch = _DisconnectWatch(task, receive, has_body="body" in state)
        connected = state.get(CONNECTED)
        if connected is None:
            self._young.add(watch)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._look)
        else:
            state[_ON_GONE] = watch.gone
            if not connected:
                watch.gone()
        try:
            await self.app(scope, watch.receive, send)
        except asyncio.CancelledError:
            if not watch.hung_up or task.uncancel() > 0:
                raise
        finally:
            if connected is None:
                self._young.discard(watch)
                self._older.discard(watch)
                if watch.watching:
                    await watch.stop()
            else:
                # It leads back here.
                del state[_ON_GONE]

    @contained("http.hang_up")
    def _look(self) -> None:
        """Watch those that were running at the last look already."""
        due, self._older, self._young = self._older, self._young, set()
        # The timer first: whatever happens below, it goes on for the others.
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._look) if self._older else None
        for watch in due:
            with _HANG_UP:
                watch.start()


class _DisconnectWatch:
    """Waits for the end of one client's connection."""

    __slots__ = ("_body_read", "_kept", "_reading", "_receive", "_task", "_waiter", "_watcher", "hung_up")

    def __init__(self, task: asyncio.Task[Any], receive: Receive, *, has_body: bool) -> None:
        self.hung_up = False
        self._task = task
        self._receive = receive
        self._body_read = not has_body
        self._reading = False
        self._waiter: asyncio.Event | None = None
        self._kept: list[Message] = []
        self._watcher: asyncio.Task[None] | None = None

    @property
    def watching(self) -> bool:
        """Whether it has begun to watch."""
        return self._watcher is not None

    def start(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        if not self._body_read:
            self._waiter = asyncio.Event()
            await self._waiter.wait()
        while (message := await self._receive())["type"] != "http.disconnect":
            self._kept.append(message)
        self.gone()

    def gone(self) -> None:
        """Cancel the request, unless its body is still being read. It may be told several times."""
        if (self._body_read or not self._reading) and not self.hung_up:
            self.hung_up = True
            self._task.cancel()

    async def receive(self) -> Message:
        if self._watcher is not None and self._body_read:
            # The watcher is the one reader now: it has kept an empty body, or there is only the hang-up to wait for.
            await asyncio.sleep(0)
            if self._kept:
                return self._kept.pop(0)
            await asyncio.shield(self._watcher)
            return {"type": "http.disconnect"}
        self._reading = True
        message = await self._receive()
        if message["type"] != "http.request":
            # The application knows now, and may still have to put away what it was sent: it is not cut off.
            return message
        if not message.get("more_body", False):
            self._body_read = True
            if self._waiter is not None:
                self._waiter.set()
        return message

    async def stop(self) -> None:
        if self._watcher is not None and not self._watcher.done():
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        elif self._watcher is not None:
            reaped(self._watcher, "http.hang_up")
        # It leads back here.
        self._watcher = None


class Presence:
    """Does what `HangUp` does for a request that has no body, on a server that tells when the client goes."""

    __slots__ = ("_gone", "_state", "_task")

    def __init__(self, state: MutableMapping[str, Any]) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (an ASGI server calls within a task)
        self._task = task
        self._gone = False
        self._state = state
        state[_ON_GONE] = self.gone
        if not state[CONNECTED]:
            self.gone()

    def gone(self) -> None:
        """Cancel the request. It may be told several times."""
        if not self._gone:
            self._gone = True
            self._task.cancel()

    def has_gone(self) -> bool:
        """Say whether that is why the request was cancelled, and take it back."""
        return self._gone and self._task.uncancel() == 0

    def over(self) -> None:
        """The request has ended. What is told when the client goes leads back here."""
        del self._state[_ON_GONE]
