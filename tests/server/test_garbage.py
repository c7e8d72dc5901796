"""Reference cycles do not stand in a running gateway, however few and small their objects are."""

import asyncio
import gc
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from hpcgate.http.disconnect import WATCH_AFTER, HangUp
from hpcgate.server.garbage import REST, SOONEST, Garbage
from hpcgate.server.http_protocol import Http


class Held:
    """Something in a cycle."""

    def __init__(self) -> None:
        self.itself = self


class Clock:
    """The time of the core."""

    def __init__(self) -> None:
        self.busy = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "thread_time", lambda: clock.busy)
    return clock


@pytest.fixture
def nothing_by_itself() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def stands() -> "weakref.ref[Held]":
    return weakref.ref(Held())


@pytest.mark.usefixtures("nothing_by_itself")
def test_a_cycle_goes_with_the_next_look(clock: Clock) -> None:
    looks = Garbage()
    looks.tick(0.0)
    for _ in range(3):
        cycle = stands()
        looks.tick(0.0)
        assert cycle() is not None
        looks.tick(SOONEST)
        assert cycle() is None


@pytest.mark.parametrize("took", [0.001, 0.05, 1.0])
def test_looks_take_no_more_than_a_share_of_the_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, took: float
) -> None:
    """Of its own time, whatever the machine, what else it does, and however much there is to look through."""

    def look() -> None:
        clock.busy += took

    monkeypatch.setattr(gc, "collect", look)
    # They stay as many as they are.
    monkeypatch.setattr(sys, "getallocatedblocks", lambda: 1000)
    looks = Garbage()
    had = 0.025
    for _ in range(80_000):
        looks.tick(had)
    looked = 80_000 * had
    assert looked / max(SOONEST + 0.2, REST * took + 0.2) <= clock.busy / took <= looked / (REST * took) + 1


@pytest.mark.parametrize("times", [1, 3, 100])
def test_a_look_at_many_that_have_come_is_put_off(clock: Clock, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The time that a look takes is within its share before it begins, not only made up for afterwards."""
    each = 1e-5
    loaded, waiting = 300_000, 0
    had = 0.1
    since = 0.0
    looks: list[tuple[float, float]] = []

    def look() -> None:
        clock.busy += each * waiting
        looks.append((each * waiting, since))

    monkeypatch.setattr(gc, "collect", look)
    monkeypatch.setattr(sys, "getallocatedblocks", lambda: loaded + waiting)
    garbage_looks = Garbage()
    waiting = 10_000
    for moment in range(20_000):
        if moment == 1000:
            waiting *= times
        before = len(looks)
        since += had
        garbage_looks.tick(had)
        if len(looks) > before:
            since = 0.0
    assert len(looks) >= 0.9 * 20_000 * had / (REST * each * waiting)
    assert all(REST * took <= after + had / 2 for took, after in looks[1:])


def test_what_is_loaded_is_not_looked_through_again() -> None:
    program = "import gc; from hpcgate.server import app, garbage; garbage.set_up(); print(len(gc.get_objects()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000


def test_what_waits_is_not_looked_through_again_and_again() -> None:
    """However many objects come and stay: by number Python looks at the youngest alone."""
    program = (
        "import gc; from hpcgate.server import garbage; garbage.set_up(); before = gc.get_stats();"
        "kept = [[] for _ in range(300_000)];"
        "print(*(now['collections'] - then['collections'] for now, then in zip(gc.get_stats(), before)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    youngest, *older = map(int, done.stdout.split())
    assert youngest > 0
    assert not any(older)


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LEFT = {
    # What a client sends before it leaves by a reset.
    "nothing": b"",
    "half a head": GET[:20],
    "a request": GET,
    "requests in a row": GET * 3,
    "what is not HTTP": b"\0\r\n\r\n",
    "half a body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab",
    "a request that fails": GET.replace(b"/", b"/failing", 1),
    "a request that waits": GET.replace(b"/", b"/waiting", 1),
    "a request and one that waits": GET + GET.replace(b"/", b"/waiting", 1) + GET,
}


async def answered(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/failing":
        raise ValueError
    if scope["path"] == "/waiting":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.usefixtures("nothing_by_itself")
@pytest.mark.parametrize("what", LEFT)
def test_a_connection_that_has_ended_leaves_no_cycle(what: str) -> None:
    connections: list[weakref.ref[Http]] = []
    ended: list[bool] = []

    class Noted(Http):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            connections.append(weakref.ref(self))

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            ended.append(True)

    async def come_and_leave() -> None:
        config = uvicorn.Config(HangUp(answered), http=Noted, log_config=None, timeout_keep_alive=3600)
        config.load()
        state = ServerState()
        serving = await asyncio.get_running_loop().create_server(
            lambda: Noted(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        async with serving:
            for _ in range(2):
                connection = socket.create_connection(serving.sockets[0].getsockname())
                connection.sendall(LEFT[what])
                await asyncio.sleep(2.5 * WATCH_AFTER if "waits" in what else 0.05)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
            while len(ended) < 2 or state.tasks:
                await asyncio.sleep(0.01)
            # The last one may still be in the frame of whoever called it.
            assert len(connections) == 2
            async with asyncio.timeout(300):
                while connections[0]() is not None:
                    await asyncio.sleep(0.01)

    uvloop.run(come_and_leave())
