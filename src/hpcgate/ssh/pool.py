"""Connections to the login nodes, one a user and another for what is large, kept while they are used.

Where a user's tokens may be given different credentials, requests share a connection only if their tokens stand for the
same (`CredentialSource.standing`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import structlog

from hpcgate.auth import Principal
from hpcgate.config import SshSettings
from hpcgate.credentials.base import CredentialSource
from hpcgate.errors import ConnectionLost, GatewayError, PoolExhausted, Unavailable
from hpcgate.sharing.tasks import Tasks
from hpcgate.ssh.bulk import SecondConnections
from hpcgate.ssh.connection import Connection
from hpcgate.ssh.errors import fresh_copy
from hpcgate.ssh.file_servers import FileAccess
from hpcgate.ssh.files.login_node import LoginNode
from hpcgate.ssh.host_keys import HostKeys
from hpcgate.ssh.login import Target
from hpcgate.ssh.logins import Logins, digest
from hpcgate.ssh.nodes import Nodes
from hpcgate.ssh.pace import Pace
from hpcgate.ssh.places import Place, Places
from hpcgate.ssh.session import Session
from hpcgate.ssh.standings import Standings
from hpcgate.telemetry.base import SILENT, Telemetry
from hpcgate.telemetry.containment import contained

log = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What a pool is doing.

    Attributes:
        connections: Open connections, and those being opened or closed.
        idle: Of these, open and not in use.
        waiting: Requests that wait for a login.
        channels: Open channels on all connections.
        logins: Logins that succeeded, since the start.
        logins_failed: Logins that failed, since the start.
        evictions: Idle connections closed to make room for another user's, since the start.
        channel_waiting: Requests that wait for a channel of their connection.
    """

    connections: int
    idle: int
    waiting: int
    channels: int
    logins: int
    logins_failed: int
    evictions: int
    channel_waiting: int = 0


class Pool:
    """The connections of one system.

    Args:
        system: The name of the system.
        settings: Its SSH settings.
        credentials: Where the users' credentials come from.
        telemetry: Who is told of logins and of what takes how long.
        pace: Has streams give way to small requests: that of all pools of the process.
    """

    def __init__(
        self,
        system: str,
        settings: SshSettings,
        credentials: CredentialSource,
        telemetry: Telemetry = SILENT,
        pace: Pace | None = None,
    ) -> None:
        self.system = system
        self.settings = settings
        self.node = LoginNode(helper=settings.helper)
        self.credentials = credentials
        self._telemetry = telemetry
        self.target = Target(
            system,
            settings,
            HostKeys(system, "login node", settings.host_keys, settings.known_hosts, settings.strict_host_keys),
            HostKeys(system, "jump host", settings.proxy_host_keys, settings.known_hosts, settings.strict_host_keys),
            telemetry,
            Nodes(system, settings.nodes, settings.dead_node_pause),
        )
        self._access = FileAccess(settings.files, pace=pace or Pace())
        self._places = Places(settings.max_clients)
        self._logins = Logins(self.target, credentials)
        self._second = SecondConnections(system, settings, self._places, self._logins, self)
        self._standings = Standings(system, self._places)
        self._tasks = Tasks("ssh.pool")
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self._evictions = 0

    def __repr__(self) -> str:
        return f"<Pool {self.system} {self._places!r}>"

    @property
    def stats(self) -> PoolStats:
        """What the pool is doing now."""
        places = self._places
        everyone = places.everyone
        return PoolStats(
            connections=places.taken,
            idle=len(places.idle),
            waiting=sum(place.waiting for place in everyone),
            channels=sum(place.connection.channels.open for place in everyone if place.connection is not None),
            logins=self._logins.succeeded,
            logins_failed=self._logins.failed,
            evictions=self._evictions,
            channel_waiting=sum(
                place.connection.channels.waiting for place in everyone if place.connection is not None
            ),
        )

    @property
    def waiting(self) -> int:
        """How many requests wait for a login."""
        return sum(place.waiting for place in self._places.current.values())

    def warn(self) -> None:
        """Log what is unsafe about the settings, by the name of the system."""
        roles = [("login node", self.target.host_keys)]
        if self.settings.proxy_host is not None:
            roles.append(("jump host", self.target.proxy_host_keys))
        for role, policy in roles:
            if not policy.verifiable:
                log.warning(
                    "ssh.host_keys.unverified",
                    system=self.system,
                    role=role,
                    consequence="the first host key seen is trusted until the next start",
                )

    def lease(self, principal: Principal) -> AbstractAsyncContextManager[Session]:
        """Lend the user's session, connecting first if there is no live connection.

        Entering raises:
            PoolExhausted: Every connection is in use, and none came free within ``pool_wait``.
            CredentialRefused: There is no credential for the user, or the login node does not accept it.
            HostKeyRefused: The login node is not the one that it should be.
            LoginNodeUnreachable: No connection.
            Unavailable: The pool is closed.
        """
        return _Lease(self, principal)

    @asynccontextmanager
    async def lease_bulk(self, principal: Principal, size: int | None = None) -> AsyncIterator[Session]:
        """Lend a session to move so many bytes by.

        What is large (``bulk_from``) has a connection of its own, made by the first that needs it, and by which all
        streams of the user go while there is one. Where three quarters of the pool are taken, or it cannot be made or
        used or takes too long, the user's other connection serves. That one is made first: where a user may log in
        once only, small requests are not kept out, and who cannot log in at all does not try twice.

        Args:
            principal: Whose session it is.
            size: Bytes, None where nobody knows before.

        Raises:
            GatewayError: As `lease`.
        """
        key = self.key(principal)
        place = self._second.warm(key)
        if place is None:
            async with self.lease(principal) as session:
                if self._second.is_bulk(size):
                    place = await self._second.make(principal, key)
                if place is None:
                    yield session
                    return
        try:
            yield place.leased
        finally:
            self.release(place)

    def is_bulk(self, size: int | None) -> bool:
        """Say whether so many bytes are to have a connection of their own."""
        return self._second.is_bulk(size)

    def key(self, principal: Principal) -> str:
        """Return what a place is found by: all that shapes the credential that opens its connection."""
        standing = self.credentials.standing(principal)
        return principal.username if standing == () else f"{principal.username}\0{standing!r}"

    async def perform(self, principal: Principal, work: Callable[[Session], Awaitable[T]], *, retry: bool) -> T:
        """Do some work on a session and return its result.

        Args:
            principal: Whose session it is.
            work: What to do.
            retry: Do it once more if the connection breaks; only for what changes nothing.
        """
        with self._access.pace.small():
            # As `lease` does, which would take two coroutines more.
            key = self.key(principal)
            place = self._places.warm(key) or await self.join(principal, key)
            try:
                return await work(place.leased)
            except ConnectionLost:
                if not retry:
                    raise
            finally:
                self.release(place)
            async with self.lease(principal) as session:
                return await work(session)

    async def close(self) -> None:
        """Close every connection, even if the caller is cancelled meanwhile."""
        self._closed = True
        closing = asyncio.get_running_loop().create_task(self._close_all())
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        closing.result()

    async def enter(self, principal: Principal) -> Place:
        """Return the place of a principal with one lease more, which `release` ends."""
        key = self.key(principal)
        return self._places.warm(key) or await self.join(principal, key)

    async def join(self, principal: Principal, key: str) -> Place:
        """Return a user's place with one lease more, waiting for the login."""
        places, token = self._places, digest(principal)
        deadline = asyncio.get_running_loop().time() + self.settings.pool_wait
        while True:
            if self._closed:
                raise Unavailable(f"The connections to {self.system} are being closed")
            warm = places.warm(key)
            if warm is not None:
                return warm
            place = places.current.get(key)
            if place is not None and place.connection is not None:
                self.retire(place)
                place = None
            if place is None:
                self._logins.check(key, principal.username, token)
                if self._standings.full(principal.username, key):
                    longest_idle = self._standings.evictable(principal.username, key)
                    if longest_idle is None:
                        await self._standings.wait(principal.username, key, deadline)
                        continue
                    self._close(longest_idle, "evicted")
                place = places.current[key] = Place(key, principal.username, token)
                place.login = self._tasks.spawn(self._login(place, principal))
            try:
                if await self._wait_for(place):
                    return place
            except GatewayError:
                # What became of another token says nothing of this one.
                if not place.ungranted or place.token == token:
                    raise

    async def _wait_for(self, place: Place) -> bool:
        """Wait for a login under way. True: it succeeded, and one lease of the place is the caller's."""
        login = place.login
        if login is None:
            return False
        place.waiting += 1
        try:
            await asyncio.shield(login)
        except asyncio.CancelledError:
            if login.done() and not login.cancelled() and login.exception() is None:
                self.release(place)
                raise
            place.waiting -= 1
            task = asyncio.current_task()
            if login.cancelled() and not (task is not None and task.cancelling()):
                raise Unavailable(f"The connections to {self.system} are being closed") from None
            if not place.waiting and not place.counted:
                self._places.remove(place)
                login.cancel()
            raise
        except GatewayError as error:
            place.waiting -= 1
            raise fresh_copy(error) from error.__cause__
        return True

    async def _login(self, place: Place, principal: Principal) -> None:
        """Make the connection of a place, and give each of those that wait for it a lease."""
        started = time.monotonic()
        try:
            await self._admit(place)
            connection = await self._logins.log_in(place, principal)
        except BaseException as error:
            self._places.remove(place)
            self._free(place)
            if isinstance(error, GatewayError):
                self._logins.note_failure(place, error, time.monotonic() - started)
            raise
        self._logins.note_success(place, connection, time.monotonic() - started)
        session = Session(connection, self.node, self._access, dedicated=place.bulk)
        if place.bulk:
            try:
                await self._second.check(place, connection, session)
            except BaseException:
                place.connection = connection
                self._close(place, "refused")
                raise
        self._enter(place, connection, session)

    def _enter(self, place: Place, connection: Connection, session: Session) -> None:
        """The place has its connection: those that wait for it have leases now."""
        place.connection, place.session = connection, session
        place.login = None
        place.leases, place.waiting = place.waiting, 0
        connection.on_lost = lambda: self._on_lost(place)
        if not connection.alive:
            self._on_lost(place)
        elif not place.leases:
            self._rest(place)

    async def _admit(self, place: Place) -> None:
        """Wait until the pool has room for one more connection."""
        if place.bulk and not self._places.has_headroom:
            raise PoolExhausted(f"There is no room for second connections to {self.system}")
        if self._places.admit(place):
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._places.wait(place, waiter)
        self._evict()
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.pool_wait):
                await waiter
        except TimeoutError:
            if place.counted:
                return
            raise PoolExhausted(
                f"All {self.settings.max_clients} connections to {self.system} are in use",
                headers={"Retry-After": "1"},
            ) from None
        finally:
            self._places.leave(place, waiter)
            self._telemetry.waited(self.system, "connection", time.monotonic() - started)

    def release(self, place: Place) -> None:
        """End a lease."""
        place.leases -= 1
        if place.leases:
            return
        connection = place.connection
        if connection is None or not connection.alive:
            return
        if place.ending == "retired":
            self._close(place, "expired")
        elif not self._closed:
            self._rest(place)

    def _rest(self, place: Place) -> None:
        """Keep a connection that nobody uses, until it has been idle too long or somebody needs the room."""
        now = asyncio.get_running_loop().time()
        place.idle_since = now
        if place.connection is not None:
            place.connection.rest()
        self._places.idle[place] = None
        self._standings.wake()
        if self._places.queue:
            self._evict()
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_at(now + self.settings.timeout.idle_timeout, self._sweep_idle)

    @contained("ssh.pool.sweep")
    def _sweep_idle(self) -> None:
        """Close what has been idle too long; set the timer for the next."""
        self._sweep = None
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        while (place := next(iter(self._places.idle), None)) is not None:
            due = place.idle_since + self.settings.timeout.idle_timeout
            if due > loop.time():
                self._sweep = loop.call_at(due, self._sweep_idle)
                return
            self._close(place, "idle")

    def _evict(self) -> None:
        while (place := self._places.evictable()) is not None:
            self._evictions += 1
            self._close(place, "evicted")

    def retire(self, place: Place, why: str = "expired") -> None:
        """The credential of a connection has expired, or it is dead, or of no use: nobody gets it any more."""
        if place.ending == "closing":
            # Evicted when its last lease ended, a moment ago.
            return
        if place.connection is not None and not place.connection.alive:
            self._places.remove(place)
            self._free(place)
        elif place.leases:
            self._places.retire(place)
        else:
            self._close(place, why)

    def _close(self, place: Place, why: str) -> None:
        self._places.close(place)
        self._tasks.spawn(self._close_one(place, why))

    async def _close_one(self, place: Place, why: str) -> None:
        try:
            if place.connection is not None:
                place.connection.on_lost = None
                await place.connection.close()
        finally:
            self._places.closed(place)
            self._standings.wake()
            # It may have made no room: it was lost before, and somebody has had its place since.
            self._evict()
            log.info("ssh.close", system=self.system, user=place.username, why=why)

    def _on_lost(self, place: Place) -> None:
        """The connection ended by itself."""
        self._places.remove(place)
        self._free(place)
        log.info("ssh.close", system=self.system, user=place.username, why="lost")

    def _free(self, place: Place) -> None:
        self._places.free(place)
        self._standings.wake()

    async def _close_all(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for place in list(self._places.current.values()):
            if place.login is not None:
                place.login.cancel()
        for place in self._places.everyone:
            if place.connection is not None:
                self._close(place, "stop")
        await self._tasks.finish()


class _Lease:
    """The context of one lease."""

    __slots__ = ("_place", "_pool", "_principal")

    def __init__(self, pool: Pool, principal: Principal) -> None:
        self._pool = pool
        self._principal = principal
        self._place: Place | None = None

    async def __aenter__(self) -> Session:
        self._place = place = await self._pool.enter(self._principal)
        return place.leased

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._place is not None:
            self._pool.release(self._place)
            self._place = None
