"""The server of one process: how it starts, takes up a renewed certificate, and stops without losing a request."""

import asyncio
import math
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Protocol, cast

import structlog
import uvicorn

from hpcgate.admission.queue import BYTES_EACH
from hpcgate.config import Settings
from hpcgate.config.http import HttpSettings
from hpcgate.gateway.gateway import Gateway
from hpcgate.gateway.reload import Gateways, Reloader
from hpcgate.server.absence import Absences, Unheard
from hpcgate.server.front import Front
from hpcgate.server.garbage import Garbage
from hpcgate.server.idleness import Idleness
from hpcgate.server.refusals import HELD, Lobby, Refusals
from hpcgate.server.sink import Ending, Ends
from hpcgate.server.starting import Opening
from hpcgate.server.tls import Pair, Tls
from hpcgate.telemetry.containment import FAULTS, contained, on_loop_error, reaped
from hpcgate.telemetry.writer import WRITERS
from hpcgate.threads import Threads, alone

log = structlog.stdlib.get_logger(__name__)

ASKED_LATELY = 60.0
"""Seconds for which a question about readiness counts as a sign of a load balancer."""

_TICKS_BETWEEN_LOOKS = 20
"""uvicorn ticks ten times a second."""
_TICKS_BETWEEN_NEWS = 10
_TICKS_BETWEEN_ABSENCES = 50
_TICK = 0.1
_ACCEPTING = 0.03
"""The share of the event loop's time for taking connections that the loop has not come round to; the rest that a
connection takes until its first request comes to about three times as much."""
_LINGER = 1.0
"""Seconds that a connection must have been silent in a row before it is closed: a request may be on its way."""
_CANCEL_PATIENCE = 5.0
"""Seconds that requests have to clear up after they were cancelled."""

_LOAD = contained("tick.load")
_ADMISSION = contained("tick.admission")
_LOBBY = contained("tick.lobby")
_REFUSALS = contained("tick.refusals")
_DOOR = contained("tick.door")
_GARBAGE = contained("tick.garbage")
_CERTIFICATE = contained("tick.certificate")
_ENDS = contained("tick.ends")
_ABSENCES = contained("tick.absences")
_RELOAD = contained("tick.reload")
_STOP = contained("tick.stop")
_CONNECTION = contained("http.stop")


class Served(Ending, Unheard, Protocol):
    """A client's connection, as far as its end is concerned."""

    def wind_up(self) -> None:
        """Have the answer that is under way be the last one, if its head is not out yet."""

    def resting(self) -> bool:
        """Say whether no request is under way."""

    def hang_up(self) -> None:
        """Close the connection."""


@dataclass(frozen=True, slots=True)
class _Look:
    """The clock and the requests answered, at one moment."""

    moment: float
    answered: int


class Server(uvicorn.Server):
    """uvicorn's server, with an end in three steps.

    From SIGTERM on it is not ready, and every answer is its connection's last. For `http.drain` seconds new connections
    are still taken, for load balancers to notice. Then none are, and what runs has `http.graceful_stop` seconds.
    """

    tls: Tls | None = None
    settings = HttpSettings()
    load: Callable[[], Settings] | None = None
    """Reads the configuration anew, if it is to be done on SIGHUP."""
    ends: Ends | None = None
    """Who goes on sending after the end of a TLS connection."""
    _began_to_stop: float | None = None
    _last_look: _Look | None = None
    _hurried = False
    _lag = 0.0
    _had = 0.0
    """Seconds between the last two looks that were the event loop's own."""

    def __init__(self, config: uvicorn.Config, front: Front) -> None:
        super().__init__(config)
        self._front = front
        self._idleness = Idleness()
        self._garbage = Garbage()
        self._absences = Absences()
        self._door: socket.socket | None = None
        self._looking: asyncio.Future[Pair | None] | None = None
        self._adopting: set[asyncio.Task[None]] = set()
        self.reloader = Reloader(self._reload)

    @property
    def _gateway(self) -> Gateway:
        return cast("Gateway", cast("Any", self.config.app).state.gateway)

    @property
    def _gateways(self) -> Gateways:
        return cast("Gateways", cast("Any", self.config.app).state.gateways)

    @property
    def _connections(self) -> list[Served]:
        return cast("list[Served]", list(self.server_state.connections))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take note of a signal. Whoever sits at the terminal does not wait for a load balancer."""
        self._hurried = self._hurried or sig == signal.SIGINT
        super().handle_exit(sig, frame)

    async def _serve(self, sockets: list[socket.socket] | None = None) -> None:
        await super()._serve(sockets)
        # The signal that has ended it is raised again: nothing comes after this, and nobody is left to wait.
        WRITERS.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the gateway, and then the door to it."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(on_loop_error)
        loop.set_default_executor(Threads("worker"))
        with Opening(lambda: self.should_exit):
            await self._start(sockets)
        if self.started:
            self._door = sockets[0].dup() if sockets else None
            if self._door is not None:
                self._door.setblocking(False)
            front, admission = self._front, self._gateway.admission
            front.refusals = Refusals(max(admission.most, HELD))
            front.lobby = Lobby(admission.most * BYTES_EACH)
            front.caller = lambda token, source: self._gateway.caller(token, source)
            front.admission = admission

    async def _start(self, sockets: list[socket.socket] | None) -> None:
        """Open everything, unless a signal comes first: what is opened may hang, and nobody is served yet."""
        opening = asyncio.ensure_future(super().startup(sockets))
        try:
            while not opening.done():
                await asyncio.wait((opening,), timeout=_TICK)
                if self.should_exit and not opening.done():
                    log.warning("server.start_cut_off", reason="a signal has come before everything was opened")
                    return
            await opening
        finally:
            opening.cancel()

    async def on_tick(self, counter: int) -> bool:
        """See how late the loop is, and for a renewed certificate now and then. True ends new connections.

        Whatever fails in a part of it, the other parts and the next tick come.
        """
        with _LOAD:
            self._look_at_load(counter)
        with _GARBAGE:
            self._garbage.tick(self._had)
        if self.tls is not None and counter % _TICKS_BETWEEN_LOOKS == 0:
            with _CERTIFICATE:
                self._look_at_certificate(self.tls)
        if self.tls is not None and self.ends is not None:
            with _ENDS:
                self.ends.look(self._connections)
        if counter % _TICKS_BETWEEN_ABSENCES == 0:
            with _ABSENCES:
                self._absences.look(self._connections)
        if not await self._is_over(counter):
            with _RELOAD:
                self.reloader.tick()
            return False
        if self._began_to_stop is None:
            self._began_to_stop = time.monotonic()
            with _STOP:
                self._begin_to_stop()
        drain = 0.0
        with _STOP:
            drain = self._drain()
        return time.monotonic() >= self._began_to_stop + drain

    def _look_at_certificate(self, tls: Tls) -> None:
        """Have a thread look for a renewed certificate, one at a time, and take it up at the next look."""
        looking = self._looking
        if looking is not None and not looking.done():
            return
        self._looking = None
        if looking is not None and (pair := looking.result()) is not None:
            tls.renew(pair)
        self._looking = asyncio.ensure_future(alone(tls.changed))

    async def _is_over(self, counter: int) -> bool:
        try:
            return await super().on_tick(counter)
        except Exception as error:  # a fault of the library's
            FAULTS.note("tick.uvicorn", error)
            return self.should_exit

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, let what runs finish, and close everything."""
        for step in (self.reloader.stop, partial(self._stop_listening, sockets or []), self._end_requests):
            try:
                await step()
            except Exception as error:  # the steps that follow close what others rely upon
                FAULTS.note("stop", error)
        if not self.force_exit:
            await self.lifespan.shutdown()

    async def _end_requests(self) -> None:
        if not await self._finish():
            await self._cancel()

    def _look_at_load(self, counter: int) -> None:
        admission = self._gateway.admission
        now = _Look(time.monotonic(), self.server_state.total_requests - self._front.refusals.said)
        then, self._last_look = self._last_look, now
        if then is None or now.moment <= then.moment:
            self._idleness.since(0.0, lag=0.0)
            return
        seconds = now.moment - then.moment
        # uvicorn rests for a tick between two calls.
        self._lag = max(0.0, seconds - _TICK)
        rest = self._idleness.since(seconds, lag=self._lag)
        self._had = rest.had
        running, done = len(self.server_state.tasks), now.answered - then.answered
        with _ADMISSION:
            admission.look(idle=rest.idle, seconds=seconds, had=rest.had, running=running, done=done)
        with _LOBBY:
            self._front.lobby.look(rest.had)
        with _REFUSALS:
            self._front.refusals.look(rest.had)
            self._front.overflow.look(rest.had)
        if admission.busy:
            with _DOOR:
                self._accept(_ACCEPTING * rest.had)
        if counter % _TICKS_BETWEEN_NEWS == 0:
            self._tell_of_overload()

    def _tell_of_overload(self) -> None:
        admission = self._gateway.admission
        if refused := admission.news():
            log.warning(
                "server.overloaded",
                refused=refused,
                limit=admission.limit,
                running=admission.running,
                waiting=admission.waiting,
                lag=round(self._lag, 3),
            )

    async def _reload(self) -> None:
        if self.load is not None:
            await self._gateways.reload(self.load, lambda: self.server_state.tasks)

    def _begin_to_stop(self) -> None:
        gateway = self._gateway
        gateway.stopping = True
        self._gateways.wind_up("stop")
        self._front.stopping = True
        for connection in self._connections:
            with _CONNECTION:
                connection.wind_up()
        log.info("server.draining", seconds=self._drain(), requests=len(self.server_state.tasks))

    def _drain(self) -> float:
        asked = self._gateway.asked_ready_at
        if self._hurried or asked is None or asked < (self._began_to_stop or 0) - ASKED_LATELY:
            return 0
        return self.settings.drain

    def _accept(self, seconds: float = math.inf) -> None:
        """Take connections that wait in the kernel, for so many CPU seconds.

        The event loop takes a few each time round, which is seldom while it has much to do: whoever comes then would
        wait behind all who came before, however soon his request could be served.
        """
        until = time.thread_time() + seconds
        while self._door is not None and time.thread_time() < until:
            try:
                connection, _ = self._door.accept()
            except OSError:  # none is left, or there is no descriptor for it
                return
            connection.setblocking(False)
            task = asyncio.get_running_loop().create_task(self._adopt(connection))
            self._adopting.add(task)
            task.add_done_callback(self._adopted)

    @contained("tick.door")
    def _adopted(self, task: "asyncio.Task[None]") -> None:
        self._adopting.discard(task)
        reaped(task, "tick.door")

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        """Close the listening sockets, but take those connections first that the kernel has accepted already."""
        for server in self.servers:
            server.close()
        for sock in sockets:
            sock.close()
        await asyncio.sleep(_TICK)
        self._accept()
        if self._door is not None:
            self._door.close()
            self._door = None
        if self._adopting:
            await asyncio.wait(self._adopting)

    async def _adopt(self, connection: socket.socket) -> None:
        def protocol() -> asyncio.Protocol:
            return self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )

        try:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, connection, ssl=self.config.ssl)
        except OSError:  # it has gone again, or TLS was not to be agreed on
            connection.close()
        except BaseException:
            connection.close()
            raise

    async def _finish(self) -> bool:
        """Wait for the requests under way, and close connections that stay silent. False: some take too long."""
        give_up = time.monotonic() + self.settings.graceful_stop
        silent: dict[Served, float] = {}
        while (self.server_state.connections or self.server_state.tasks) and not self.force_exit:
            now = time.monotonic()
            # Those that wait for their turn are served, too, as long as there is time.
            with _LOAD:
                self._look_at_load(0)
            silent = {one: silent.get(one, now) for one in self._connections if one.resting()}
            for connection, since in silent.items():
                if self._hurried or now - since >= _LINGER:
                    with _CONNECTION:
                        connection.hang_up()
            if now >= give_up:
                return False
            await asyncio.sleep(_TICK)
        return True

    async def _cancel(self) -> None:
        admission = self._gateway.admission
        log.warning("server.requests_cut_off", requests=len(self.server_state.tasks), waiting=admission.waiting)
        for place in (self._front.lobby, admission, self._front.refusals, self._front.overflow):
            with _STOP:
                place.clear()
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_PATIENCE)
        for connection in self._connections:
            with _CONNECTION:
                connection.hang_up()
