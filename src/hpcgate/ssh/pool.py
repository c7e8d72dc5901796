"""Connections to the login nodes, one a user and another for what is large, kept while they are used.

Where a user's tokens may be given different credentials, requests share a connection only if their tokens stand for the
same (`CredentialSource.standing`).
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from types import TracebackType
from typing import Any, TypeVar

import structlog

from hpcgate.auth import Principal
from hpcgate.config import SshSettings
from hpcgate.credentials.base import Credential, CredentialSource
from hpcgate.errors import (
    ConnectionLost,
    CredentialRefused,
    GatewayError,
    HostKeyRefused,
    LoginNodeError,
    LoginNodeUnreachable,
    PoolExhausted,
    Unavailable,
)
from hpcgate.ssh.brake import Brake, Refusals, brake_of, later
from hpcgate.ssh.connection import Connection
from hpcgate.ssh.errors import fresh_copy
from hpcgate.ssh.files.command_streams import CommandStreams
from hpcgate.ssh.files.login_node import LoginNode
from hpcgate.ssh.host_keys import HostKeys
from hpcgate.ssh.login import Target
from hpcgate.ssh.nodes import Nodes
from hpcgate.ssh.pace import Pace
from hpcgate.ssh.session import FileAccess, Session
from hpcgate.telemetry.base import SILENT, Telemetry
from hpcgate.telemetry.containment import contained, reaped

log = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")

_LOGIN_QUEUE = 60.0
"""Seconds that a login waits at most while `max_logins` others are under way."""
_BULK = "\0bulk"
"""Ends the key of a user's second place; no user name has a NUL in it."""
_MAX_STANDINGS = 8
"""Places of a kind that one user has at a time, by tokens that stand for different things."""
_BULK_PATIENCE = 5.0
"""Seconds that a stream waits at most for a second connection: it can do without."""
_BULK_PAUSE = 60.0
"""Seconds for which one that could not be had is not tried again, at least."""


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


@dataclass(slots=True, eq=False)
class Place:
    """A user's place in the pool: a connection, or the login that will make one.

    Attributes:
        key: What it is found by: the user's name, what else shaped the credential, and whether it is for what is large.
        username: Whose it is.
        token: SHA-256 of the token that the credential was asked for with.
        ungranted: Whether the login failed for want of a credential for that token.
        session: The session, once logged in.
        connection: Its connection.
        leases: How many have it now.
        waiting: How many wait for the login.
        login: The login under way.
        counted: Whether it counts as one of the pool's connections.
        idle_since: When the last lease ended, by the loop's clock.
    """

    key: str
    username: str
    token: bytes = b""
    ungranted: bool = False
    session: Session | None = None
    connection: Connection | None = None
    leases: int = 0
    waiting: int = 0
    login: "asyncio.Task[None] | None" = None
    counted: bool = False
    idle_since: float = 0.0

    @property
    def bulk(self) -> bool:
        """Whether it is for what is large."""
        return self.key.endswith(_BULK)


class Places:
    """The pool's bookkeeping: who has which place, and who gets the next one. Plain and synchronous.

    Args:
        most: How many connections there may be.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self.closing = 0
        self.current: dict[str, Place] = {}
        self.retired: set[Place] = set()
        self.idle: dict[Place, None] = {}
        self.queue: deque[tuple[Place, asyncio.Future[None]]] = deque()

    def __repr__(self) -> str:
        return f"<Places taken={self.taken}/{self.most} idle={len(self.idle)} queue={len(self.queue)}>"

    def warm(self, key: str) -> Place | None:
        """Return a user's place with one lease more, if there is a live connection whose credential holds."""
        place = self.current.get(key)
        if place is None or (connection := place.connection) is None or not connection.alive or connection.spent:
            return None
        if connection.expires_at is not None and connection.expires_at <= time.time():
            return None
        if not place.leases:
            self.idle.pop(place, None)
            connection.wake()
        place.leases += 1
        return place

    @property
    def has_headroom(self) -> bool:
        """Whether so much room is left that one user may have two connections."""
        return not self.queue and self.taken < self.most * 3 // 4

    def admit(self, place: Place) -> bool:
        """Give the place one of the pool's connections if there is one and nobody waits for it already."""
        if self.queue or self.taken >= self.most:
            return False
        self._count(place)
        return True

    def wait(self, place: Place, waiter: "asyncio.Future[None]") -> None:
        """Queue for a connection."""
        self.queue.append((place, waiter))

    def leave(self, place: Place, waiter: "asyncio.Future[None]") -> None:
        """Give up waiting."""
        if (place, waiter) in self.queue:
            self.queue.remove((place, waiter))

    def evictable(self) -> Place | None:
        """Return the connection that has been idle longest if somebody waits for whom none is being closed yet."""
        if self.closing + max(self.most - self.taken, 0) >= len(self.queue):
            return None
        return next(iter(self.idle), None)

    def remove(self, place: Place) -> None:
        """Take a place out, so that nobody gets it any more; it counts until it is freed."""
        if self.current.get(place.key) is place:
            del self.current[place.key]
        self.retired.discard(place)
        self.idle.pop(place, None)

    def retire(self, place: Place) -> None:
        """Take a place out for new leases while those that are out go on."""
        self.remove(place)
        self.retired.add(place)

    def free(self, place: Place) -> None:
        """The connection is closed, or was never made: hand what it counted for to those who wait."""
        if place.counted:
            place.counted = False
            self.taken -= 1
        while self.queue and self.taken < self.most:
            waiting, waiter = self.queue.popleft()
            if not waiter.done():
                self._count(waiting)
                waiter.set_result(None)

    def _count(self, place: Place) -> None:
        place.counted = True
        self.taken += 1


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
        self._refusals = Refusals(settings.failed_login_pause, settings.failed_login_pause_most)
        self._brakes = {node: brake_of(node, settings.refused_logins) for node in settings.nodes}
        self._gate = asyncio.Semaphore(settings.max_logins)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._crowd: set[asyncio.Future[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self._logins = 0
        self._logins_failed = 0
        self._evictions = 0

    def __repr__(self) -> str:
        return f"<Pool {self.system} {self._places!r}>"

    @property
    def stats(self) -> PoolStats:
        """What the pool is doing now."""
        places = self._places
        everyone = [*places.current.values(), *places.retired]
        return PoolStats(
            connections=places.taken,
            idle=len(places.idle),
            waiting=sum(place.waiting for place in everyone),
            channels=sum(place.connection.channels.open for place in everyone if place.connection is not None),
            logins=self._logins,
            logins_failed=self._logins_failed,
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

        One sshd process serves a connection: it encrypts all that goes over it, and a small answer stands in line.
        So what is large (``bulk_from``) has a connection of its own, made by the first that needs it, and by which all
        streams of the user go while there is one. Where three quarters of the pool are taken, or it cannot be made or
        used or takes too long, the user's other connection serves. That one is made first: where a user may log in
        once only, small requests are not kept out, and who cannot log in at all does not try twice.

        Args:
            principal: Whose session it is.
            size: Bytes, None where nobody knows before.

        Raises:
            GatewayError: As `lease`.
        """
        place = self._warm_bulk(self._key(principal))
        if place is None:
            async with self.lease(principal) as session:
                if self.is_bulk(size):
                    place = await self._bulk_place(principal)
                if place is None:
                    yield session
                    return
        try:
            assert place.session is not None  # noqa: S101 (a place with a connection has a session)
            yield place.session
        finally:
            self._release(place)

    def is_bulk(self, size: int | None) -> bool:
        """Say whether so many bytes are to have a connection of their own."""
        least = self.settings.bulk_from
        return size is not None and least is not None and size >= least

    def _key(self, principal: Principal) -> str:
        """Return what a place is found by: all that shapes the credential that opens its connection."""
        standing = self.credentials.standing(principal)
        return principal.username if standing == () else f"{principal.username}\0{standing!r}"

    def _warm_bulk(self, key: str) -> Place | None:
        """Return a lease of the user's place for what is large if it is there, and where the user's other one is."""
        place = self._places.warm(key + _BULK)
        if place is None or place.connection is None or not self._elsewhere(key, place.connection):
            return place
        self._release(place)
        self._retire(place, "elsewhere")
        return None

    async def _bulk_place(self, principal: Principal) -> Place | None:
        """Return a lease of the user's place for what is large, made if need be, or None if it cannot be had."""
        places, key = self._places, self._key(principal) + _BULK
        place = places.current.get(key)
        under_way = place is not None and place.connection is None
        if not (places.has_headroom or under_way) or self._refusals.get(key) is not None:
            return None
        try:
            async with asyncio.timeout(_BULK_PATIENCE):
                return await self._join(principal, key)
        except TimeoutError:
            error = LoginNodeUnreachable(f"No second connection to {self.system} within {_BULK_PATIENCE:g} s")
            self._refuse_bulk(key, principal.username, error)
            return None
        except GatewayError:  # It is in the log.
            return None

    def _refuse_bulk(self, key: str, username: str, error: GatewayError) -> None:
        log.warning("ssh.bulk.refused", system=self.system, user=username, error=error.message)
        self._refusals.add(key, error, least=_BULK_PAUSE)

    def _elsewhere(self, key: str, connection: Connection) -> bool:
        """Say whether a connection is to another login node than the user's first one: each has files of its own."""
        first = self._places.current.get(key)
        return first is not None and first.connection is not None and first.connection.node != connection.node

    async def _rehearse(self, key: str, connection: Connection, session: Session) -> None:
        """Find out whether streams can go by a second connection, before something is sent that cannot be sent again.

        Raises:
            GatewayError: They cannot.
        """
        if self._elsewhere(key, connection):
            raise LoginNodeUnreachable(f"The second connection is to another login node, {connection.node}")
        async with session.bulk() as streams:
            # Where PAM refuses the session, sshd opens channels all the same and ends each command at once.
            if isinstance(streams, CommandStreams) and not (await session.run(["true"])).ok:
                raise LoginNodeError(f"The login node of {self.system} runs no commands on a second connection")

    async def perform(self, principal: Principal, work: Callable[[Session], Awaitable[T]], *, retry: bool) -> T:
        """Do some work on a session and return its result.

        Args:
            principal: Whose session it is.
            work: What to do.
            retry: Do it once more if the connection breaks; only for what changes nothing.
        """
        with self._access.pace.small():
            # As `lease` does, which would take two coroutines more.
            key = self._key(principal)
            place = self._places.warm(key) or await self._join(principal, key)
            try:
                assert place.session is not None  # noqa: S101 (a place with a connection has a session)
                return await work(place.session)
            except ConnectionLost:
                if not retry:
                    raise
            finally:
                self._release(place)
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

    async def _join(self, principal: Principal, key: str) -> Place:
        """Return a user's place with one lease more, waiting for the login."""
        places, token = self._places, _digest(principal)
        deadline = asyncio.get_running_loop().time() + self.settings.pool_wait
        while True:
            if self._closed:
                raise Unavailable(f"The connections to {self.system} are being closed")
            warm = places.warm(key)
            if warm is not None:
                return warm
            place = places.current.get(key)
            if place is not None and place.connection is not None:
                self._retire(place)
                place = None
            if place is None:
                refusal = self._refusals.get(key) or self._refusals.get(_ungranted(key, token))
                if refusal is not None:
                    raise fresh_copy(refusal)
                self._brake(principal.username)
                if not self._make_room_for_standing(principal.username, key):
                    await self._wait_in_crowd(principal.username, key, deadline)
                    continue
                place = places.current[key] = Place(key, principal.username, token)
                place.login = self._spawn(self._login(place, principal))
            try:
                if await self._wait_for(place):
                    return place
            except GatewayError:
                # What became of another token says nothing of this one.
                if not place.ungranted or place.token == token:
                    raise

    def _brake(self, username: str) -> None:
        """Keep a user who was refused the last time from another try while the login node has refused too many.

        Raises:
            CredentialRefused: It has.
        """
        brake = self._brake_of(username)
        if brake.doubts(username) and (wait := brake.wait(username)) > 0:
            raise later(
                CredentialRefused(f"The login node of {self.system} refused the SSH credential of {username}"), wait
            )

    def _brake_of(self, username: str) -> Brake:
        return self._brakes[self.target.nodes.home(username)]

    def _make_room_for_standing(self, username: str, key: str) -> bool:
        """Keep one user's many kinds of tokens from taking the pool: close the longest idle connection of them.

        Returns:
            Whether there is room; if not, all are in use.
        """
        bulk = key.endswith(_BULK)
        others = [
            place
            for place in (*self._places.current.values(), *self._places.retired)
            if place.username == username and place.bulk == bulk and place.key != key
        ]
        if len(others) < _MAX_STANDINGS:
            return True
        for place in self._places.idle:
            if place in others:
                self._close(place, "evicted")
                return True
        return False

    async def _wait_in_crowd(self, username: str, key: str, deadline: float) -> None:
        """Wait until one of the pool's connections rests or ends.

        Raises:
            PoolExhausted: None did in time. What is large does not wait: it can do without a connection of its own.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._crowd.add(waiter)
        try:
            async with asyncio.timeout_at(0 if key.endswith(_BULK) else deadline):
                await waiter
        except TimeoutError:
            raise PoolExhausted(
                f"The user {username} has connections to {self.system} in use by {_MAX_STANDINGS} kinds of tokens",
                headers={"Retry-After": "1"},
            ) from None
        finally:
            self._crowd.discard(waiter)

    def _wake_crowd(self) -> None:
        for waiter in self._crowd:
            if not waiter.done():
                waiter.set_result(None)

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
                self._release(place)
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
            connection = await self._connect(place, principal)
        except BaseException as error:
            self._places.remove(place)
            self._free(place)
            if isinstance(error, GatewayError):
                self._logins_failed += 1
                self._telemetry.login(self.system, _outcome(error))
                if place.bulk and not isinstance(error, PoolExhausted):
                    self._refusals.add(place.key, error, least=_BULK_PAUSE)
                elif isinstance(error, CredentialRefused):
                    self._refusals.add(_ungranted(place.key, place.token) if place.ungranted else place.key, error)
                log.warning(
                    "ssh.connect_failed",
                    system=self.system,
                    user=place.username,
                    bulk=place.bulk,
                    seconds=round(time.monotonic() - started, 3),
                    error=error.message,
                )
            raise
        self._logins += 1
        self._refusals.forget(place.key)
        self._telemetry.login(self.system, "ok")
        log.info(
            "ssh.connect",
            system=self.system,
            user=place.username,
            bulk=place.bulk,
            node=connection.node,
            seconds=round(time.monotonic() - started, 3),
        )
        session = Session(connection, self.node, self._access, dedicated=place.bulk)
        if place.bulk:
            try:
                await self._rehearse(place.key.removesuffix(_BULK), connection, session)
            except BaseException as error:
                place.connection = connection
                self._close(place, "refused")
                if isinstance(error, GatewayError):
                    self._refuse_bulk(place.key, place.username, error)
                raise
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

    async def _connect(self, place: Place, principal: Principal) -> Connection:
        credential = await self._credential(place, principal)
        started = time.monotonic()
        try:
            async with asyncio.timeout(_LOGIN_QUEUE):
                await self._brake_of(principal.username).turn(principal.username)
                await self._gate.acquire()
        except TimeoutError:
            raise PoolExhausted(
                f"Too many users log in to {self.system} at once", headers={"Retry-After": "5"}
            ) from None
        finally:
            self._telemetry.waited(self.system, "login", time.monotonic() - started)
        try:
            if _expired(credential):
                credential = await self._credential(place, principal)
            with self._telemetry.stage("connect", self.system, ""):
                return await self._open(principal.username, credential)
        finally:
            self._gate.release()

    async def _open(self, username: str, credential: Credential) -> Connection:
        brake = self._brake_of(username)
        async with brake.trying(username):
            self._brake(username)
            try:
                connection = await Connection.open(self.target, username, credential)
            except CredentialRefused:
                brake.refused(username)
                raise
            brake.worked(username)
            return connection

    async def _credential(self, place: Place, principal: Principal) -> Credential:
        with self._telemetry.stage("credential", self.system, ""):
            try:
                return await self.credentials.credential(principal)
            except GatewayError:
                place.ungranted = self.credentials.judges_tokens
                raise

    def _release(self, place: Place) -> None:
        """End a lease."""
        place.leases -= 1
        if place.leases:
            return
        connection = place.connection
        if connection is None or not connection.alive:
            return
        if place in self._places.retired:
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
        self._wake_crowd()
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

    def _retire(self, place: Place, why: str = "expired") -> None:
        """The credential of a connection has expired, or it is dead, or of no use: nobody gets it any more."""
        if place.connection is not None and not place.connection.alive:
            self._places.remove(place)
            self._free(place)
        elif place.leases:
            self._places.retire(place)
        else:
            self._close(place, why)

    def _close(self, place: Place, why: str) -> None:
        self._places.remove(place)
        self._places.closing += 1
        self._spawn(self._close_one(place, why))

    async def _close_one(self, place: Place, why: str) -> None:
        try:
            if place.connection is not None:
                place.connection.on_lost = None
                await place.connection.close()
        finally:
            self._places.closing -= 1
            self._free(place)
            log.info("ssh.close", system=self.system, user=place.username, why=why)

    def _on_lost(self, place: Place) -> None:
        """The connection ended by itself."""
        self._places.remove(place)
        self._free(place)
        log.info("ssh.close", system=self.system, user=place.username, why="lost")

    def _free(self, place: Place) -> None:
        self._places.free(place)
        self._wake_crowd()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    @contained("ssh.pool")
    def _reap(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        reaped(task, "ssh.pool")

    async def _close_all(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for place in list(self._places.current.values()):
            if place.login is not None:
                place.login.cancel()
        for place in [*self._places.current.values(), *self._places.retired]:
            if place.connection is not None:
                self._close(place, "stop")
        while self._tasks:
            await asyncio.wait(list(self._tasks))


class _Lease:
    """The context of one lease."""

    __slots__ = ("_place", "_pool", "_principal")

    def __init__(self, pool: Pool, principal: Principal) -> None:
        self._pool = pool
        self._principal = principal
        self._place: Place | None = None

    async def __aenter__(self) -> Session:
        pool = self._pool
        key = pool._key(self._principal)
        place = pool._places.warm(key)
        if place is None:
            place = await pool._join(self._principal, key)
        self._place = place
        assert place.session is not None  # noqa: S101 (a place with a connection has a session)
        return place.session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._place is not None:
            self._pool._release(self._place)
            self._place = None


def _digest(principal: Principal) -> bytes:
    return sha256(principal.token.encode("utf-8", "surrogatepass")).digest()


def _ungranted(key: str, token: bytes) -> str:
    """Return what the refusal of a credential is kept by."""
    return f"{key}\0{token.hex()}"


def _expired(credential: Credential) -> bool:
    return credential.expires_at is not None and credential.expires_at <= time.time() + 5


def _outcome(error: GatewayError) -> str:
    """Return the label of a login that failed."""
    match error:
        case CredentialRefused():
            return "refused"
        case HostKeyRefused():
            return "host_key"
        case LoginNodeUnreachable():
            return "unreachable"
        case PoolExhausted():
            return "pool_full"
        case _:
            return "failed"
