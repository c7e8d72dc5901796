"""How a place of the pool comes by its connection: who may try, when, and what is remembered of a try that failed."""

import asyncio
import time
from hashlib import sha256

import structlog

from hpcgate.auth import Principal
from hpcgate.config import SshSettings
from hpcgate.credentials.base import Credential, CredentialSource
from hpcgate.errors import CredentialRefused, GatewayError, HostKeyRefused, LoginNodeUnreachable, PoolExhausted
from hpcgate.ssh.brake import Brake, Refusals, brake_of, later
from hpcgate.ssh.connection import Connection
from hpcgate.ssh.errors import fresh_copy
from hpcgate.ssh.login import Target
from hpcgate.ssh.places import Place
from hpcgate.telemetry.base import Telemetry

log = structlog.stdlib.get_logger(__name__)

_QUEUE = 60.0
"""Seconds that a login waits at most while `max_logins` others are under way."""
_BULK_PAUSE = 60.0
"""Seconds for which a second connection that could not be had is not tried again, at least."""


class Logins:
    """The logins of one system.

    Args:
        target: The system's login nodes.
        credentials: Where the users' credentials come from.

    Attributes:
        succeeded: How many have, since the start.
        failed: How many have not.
    """

    def __init__(self, target: Target, credentials: CredentialSource) -> None:
        settings: SshSettings = target.settings
        self.succeeded = 0
        self.failed = 0
        self._system = target.system
        self._target = target
        self._telemetry: Telemetry = target.telemetry
        self._credentials = credentials
        self._refusals = Refusals(settings.failed_login_pause, settings.failed_login_pause_most)
        self._brakes = {node: brake_of(node, settings.refused_logins) for node in settings.nodes}
        self._gate = asyncio.Semaphore(settings.max_logins)

    def __repr__(self) -> str:
        return f"<Logins {self._system} succeeded={self.succeeded} failed={self.failed}>"

    def check(self, key: str, username: str, token: bytes) -> None:
        """Keep a user who was refused the last time from another try for a while.

        Raises:
            GatewayError: What the user was told the last time, or that the login node has refused too many.
        """
        refusal = self._refusals.get(key) or self._refusals.get(_ungranted(key, token))
        if refusal is not None:
            raise fresh_copy(refusal)
        self._brake(username)

    def is_refused(self, key: str) -> bool:
        """Say whether a place could not be had and is not to be tried for yet."""
        return self._refusals.get(key) is not None

    async def log_in(self, place: Place, principal: Principal) -> Connection:
        """Make the connection of a place, once it is its turn.

        Raises:
            PoolExhausted: Too many log in.
            GatewayError: It failed.
        """
        credential = await self._credential(place, principal)
        started = time.monotonic()
        try:
            async with asyncio.timeout(_QUEUE):
                await self._brake_of(principal.username).turn(principal.username)
                await self._gate.acquire()
        except TimeoutError:
            raise PoolExhausted(
                f"Too many users log in to {self._system} at once", headers={"Retry-After": "5"}
            ) from None
        finally:
            self._telemetry.waited(self._system, "login", time.monotonic() - started)
        try:
            if _expired(credential):
                credential = await self._credential(place, principal)
            with self._telemetry.stage("connect", self._system, ""):
                return await self._open(principal.username, credential)
        finally:
            self._gate.release()

    def note_success(self, place: Place, connection: Connection, seconds: float) -> None:
        """Count and log a login, and forget what was refused before."""
        self.succeeded += 1
        self._refusals.forget(place.key)
        self._telemetry.login(self._system, "ok")
        log.info(
            "ssh.connect",
            system=self._system,
            user=place.username,
            bulk=place.bulk,
            node=connection.node,
            seconds=round(seconds, 3),
        )

    def note_failure(self, place: Place, error: GatewayError, seconds: float) -> None:
        """Count and log a login that failed, and remember it if the next one would fail, too."""
        self.failed += 1
        self._telemetry.login(self._system, _outcome(error))
        if place.bulk and not isinstance(error, PoolExhausted):
            self._refusals.add(place.key, error, least=_BULK_PAUSE)
        elif isinstance(error, CredentialRefused):
            self._refusals.add(_ungranted(place.key, place.token) if place.ungranted else place.key, error)
        log.warning(
            "ssh.connect_failed",
            system=self._system,
            user=place.username,
            bulk=place.bulk,
            seconds=round(seconds, 3),
            error=error.message,
        )

    def refuse_bulk(self, key: str, username: str, error: GatewayError) -> None:
        """Take note that a second connection cannot be had, or is of no use."""
        log.warning("ssh.bulk.refused", system=self._system, user=username, error=error.message)
        self._refusals.add(key, error, least=_BULK_PAUSE)

    async def _open(self, username: str, credential: Credential) -> Connection:
        brake = self._brake_of(username)
        async with brake.trying(username):
            self._brake(username)
            try:
                connection = await Connection.open(self._target, username, credential)
            except CredentialRefused:
                brake.refused(username)
                raise
            brake.worked(username)
            return connection

    async def _credential(self, place: Place, principal: Principal) -> Credential:
        with self._telemetry.stage("credential", self._system, ""):
            try:
                return await self._credentials.credential(principal)
            except GatewayError:
                place.ungranted = self._credentials.judges_tokens
                raise

    def _brake(self, username: str) -> None:
        """Keep a user who was refused the last time from another try while the login node has refused too many.

        Raises:
            CredentialRefused: It has.
        """
        brake = self._brake_of(username)
        if brake.doubts(username) and (wait := brake.wait(username)) > 0:
            raise later(
                CredentialRefused(f"The login node of {self._system} refused the SSH credential of {username}"), wait
            )

    def _brake_of(self, username: str) -> Brake:
        return self._brakes[self._target.nodes.home(username)]


def digest(principal: Principal) -> bytes:
    """Return what stands for a principal's token."""
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
