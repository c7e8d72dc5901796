"""What an answer costs the event loop does not grow with those who wait: counted in calls, which no machine changes."""

import asyncio
import math
import sys
import time
from collections import deque
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from hpcgate.admission.queue import BYTES_EACH, FLOOR, Admission
from hpcgate.http import disconnect
from hpcgate.server.front import Front
from hpcgate.server.http_protocol import Http
from hpcgate.server.refusals import HOLD, Lobby, Refusals

USERS = 50
ANSWERS = 1000
"""Answers that are counted."""
LOOK = 50
"""Answers between two looks, as on a machine of five hundred a second."""
MORE = 1.1
"""Times as many calls an answer may take beside thousands."""
UNREAD = 0.25
"""The share of an answer's calls that a request may take which is left unread; the answer's here has no work in it."""


class Wire(asyncio.Transport):
    """The gateway's end of a connection."""

    def __init__(self, crowd: "Crowd", number: int) -> None:
        super().__init__()
        self.crowd = crowd
        self.number = number

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.1", 1), "sockname": ("192.0.2.2", 80)}.get(name, default)

    def write(self, data: Any) -> None:
        if bytes(data).startswith(b"HTTP/1.1 200 "):
            self.crowd.answered.append(self.number)
        self.crowd.refused += bytes(data).startswith(b"HTTP/1.1 503 ")

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        assert self.crowd.over, "nothing is wrong with this connection"

    abort = close

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Crowd:
    """Clients in a closed loop, before a gateway at its limit whose requests end in the order in which they began.

    Args:
        clients: How many there are.
        most: Requests at a time, those that wait included.
        users: Whose they are, in turn.
        room: Bytes that may lie unread; None is as many as there are.
    """

    def __init__(self, clients: int, most: int = 100_000, users: int = USERS, room: int | None = None) -> None:
        self.admission = Admission(most, 1e9)
        self.lobby = Lobby(clients * BYTES_EACH if room is None else room)
        self.wall = 0.0
        self.overflow = Refusals(math.inf, lambda: 0.0, lambda: self.wall)
        self.refused = 0
        self.running: deque[asyncio.Future[None]] = deque()
        self.answered: deque[int] = deque()
        self.over = False
        self.state = ServerState()
        front = Front(
            admission=self.admission,
            lobby=self.lobby,
            overflow=self.overflow,
            refusals=Refusals(most),
            caller=lambda token, source: token,
        )
        config = uvicorn.Config(
            self.serve, interface="asgi3", log_config=None, access_log=False, timeout_keep_alive=3600
        )
        config.load()
        self.look()
        self.clients: list[tuple[Http, bytes]] = []
        for number in range(clients):
            http = Http(config=config, server_state=self.state, app_state={}, front=front)
            http.connection_made(Wire(self, number))
            request = f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer u{number % users}\r\n\r\n"
            self.clients.append((http, request.encode()))

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        end = asyncio.get_running_loop().create_future()
        self.running.append(end)
        await end
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def look(self) -> None:
        self.admission.look(idle=0.0, seconds=0.1, had=0.1, running=len(self.state.tasks), done=LOOK)
        self.lobby.look(0.1)

    async def ask(self) -> None:
        """Have all clients ask for the first time."""
        for http, request in self.clients:
            http.data_received(request)
        for _ in range(3):
            self.look()
            await asyncio.sleep(0)

    async def next(self) -> int:
        """Answer the request that has run for longest, and return the number of its client."""
        while not self.running:
            await asyncio.sleep(0)
        self.running.popleft().set_result(None)
        while not self.answered:
            await asyncio.sleep(0)
        number = self.answered.popleft()
        while not self.clients[number][0].resting():
            await asyncio.sleep(0)
        return number

    async def answer(self, count: int) -> None:
        """Answer so many requests, each of whose clients then asks again."""
        for number in range(count):
            http, request = self.clients[await self.next()]
            http.data_received(request)
            if number % LOOK == LOOK - 1:
                self.look()

    async def leave(self) -> None:
        """Have all clients hang up."""
        self.over = True
        for http, _ in self.clients:
            http.connection_lost(None)
        while self.state.tasks:
            while self.running:
                self.running.popleft().set_result(None)
            await asyncio.sleep(0)


class Calls:
    """Counts the calls of functions, Python's and C's, in this thread."""

    def __init__(self) -> None:
        self.made = 0

    def _seen(self, frame: Any, event: str, argument: Any) -> None:
        self.made += event in ("call", "c_call")

    def __enter__(self) -> "Calls":
        self.before = sys.getprofile()
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self.before)


def calls(clients: int, most: int = 100_000) -> float:
    """Return the calls of an answer."""

    async def count() -> float:
        crowd = Crowd(clients, most)
        await crowd.ask()
        await crowd.answer(ANSWERS)
        with Calls() as seen:
            await crowd.answer(ANSWERS)
        await crowd.leave()
        assert crowd.admission.refused == 0
        return seen.made / ANSWERS

    return uvloop.run(count())


@pytest.fixture(scope="module")
def few() -> float:
    """Calls of an answer while a few wait."""
    return calls(200)


@pytest.mark.parametrize("clients", [1000, 5000])
def test_an_answer_takes_no_more_calls_however_many_wait(few: float, clients: int) -> None:
    assert calls(clients) <= MORE * few


def test_a_request_that_would_be_refused_takes_a_fraction_of_an_answer(few: float) -> None:
    async def count() -> float:
        crowd = Crowd(1000, most=100)
        crowd.clients, late = crowd.clients[:500], crowd.clients[500:]
        await crowd.ask()
        before = len(crowd.lobby)
        # One of the users who have most waiting.
        asker, _ = crowd.admission._users.longest()
        request = crowd.clients[int(asker.name[1:])][1]  # type: ignore[union-attr]
        with Calls() as seen:
            for http, _ in late:
                http.data_received(request)
        assert len(crowd.lobby) - before == len(late)
        crowd.clients += late
        await crowd.leave()
        return seen.made / len(late)

    assert uvloop.run(count()) <= UNREAD * few


def test_a_request_that_takes_long_needs_nobody_who_watches_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disconnect, "WATCH_AFTER", 0.0)

    class Watched(Crowd):
        async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
            await disconnect.HangUp(super().serve)(scope, receive, send)

    async def count() -> None:
        crowd = Watched(USERS)
        await crowd.ask()
        while len(crowd.running) < USERS:
            await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0.001)
        assert len(asyncio.all_tasks()) == 1 + USERS
        crowd.over = True
        for http, _ in crowd.clients:
            http.connection_lost(None)
        # They end though nothing of theirs has come to an end.
        async with asyncio.timeout(300):
            while crowd.state.tasks:
                await asyncio.sleep(0)
        assert not any(end.done() and not end.cancelled() for end in crowd.running)

    uvloop.run(count())


def test_single_requests_of_one_user_wait_for_a_few_of_the_five_hundred_of_another() -> None:
    async def most() -> int:
        crowd = Crowd(501, users=1)
        modest, _ = crowd.clients[-1]
        request = b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer modest\r\n\r\n"
        crowd.clients[-1] = (modest, request)
        await crowd.ask()
        # What ran before anybody else was there ends first.
        await crowd.answer(ANSWERS)
        before: list[int] = [0]
        for number in range(ANSWERS):
            client = await crowd.next()
            http, asked = crowd.clients[client]
            if http is modest:
                before.append(0)
            else:
                before[-1] += 1
            http.data_received(asked)
            if number % LOOK == LOOK - 1:
                crowd.look()
        await crowd.leave()
        assert len(before) > 10
        return max(before)

    assert uvloop.run(most()) <= FLOOR


def test_those_for_whom_there_is_no_room_at_all_are_refused_late_as_well() -> None:
    async def refuse() -> None:
        crowd = Crowd(1000, most=100, room=0)
        began = crowd.wall = time.monotonic()
        await crowd.ask()
        turned_back = len(crowd.overflow)
        # A hundred are served, and a hundred may wait.
        assert turned_back >= 800
        crowd.overflow.look(1.0)
        assert (crowd.refused, len(crowd.lobby)) == (0, 0)
        crowd.over = True
        crowd.wall = began + HOLD + (time.monotonic() - began)
        crowd.overflow.look(1.0)
        assert crowd.refused == turned_back
        await crowd.leave()

    uvloop.run(refuse())
