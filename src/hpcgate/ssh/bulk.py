"""Second connections: which streams get one, and what it has to show before one goes by it.

One sshd process serves a connection: it encrypts all that goes over it, and a small answer stands in line.
"""

import asyncio
from typing import Protocol

from hpcgate.auth import Principal
from hpcgate.config import SshSettings
from hpcgate.errors import GatewayError, LoginNodeError, LoginNodeUnreachable
from hpcgate.ssh.connection import Connection
from hpcgate.ssh.files.command_streams import CommandStreams
from hpcgate.ssh.logins import Logins
from hpcgate.ssh.places import BULK, Place, Places
from hpcgate.ssh.session import Session

_PATIENCE = 5.0
"""Seconds that a stream waits at most for a second connection: it can do without."""


class Leases(Protocol):
    """What gives and takes leases of places: the pool."""

    async def join(self, principal: Principal, key: str) -> Place:
        """Return a place with one lease more, waiting for the login."""

    def release(self, place: Place) -> None:
        """End a lease."""

    def retire(self, place: Place, why: str) -> None:
        """Have nobody get a place any more."""


class SecondConnections:
    """The second connections of one system's users.

    Args:
        system: The name of the system.
        settings: Its SSH settings.
        places: The pool's places.
        logins: The pool's logins.
        leases: The pool.
    """

    def __init__(self, system: str, settings: SshSettings, places: Places, logins: Logins, leases: Leases) -> None:
        self._system = system
        self._least = settings.bulk_from
        self._places = places
        self._logins = logins
        self._leases = leases

    def is_bulk(self, size: int | None) -> bool:
        """Say whether so many bytes are to have a connection of their own."""
        return size is not None and self._least is not None and size >= self._least

    def warm(self, key: str) -> Place | None:
        """Return a lease of the user's place for what is large if it is there, and where the user's other one is."""
        place = self._places.warm(key + BULK)
        if place is None or place.connection is None or not self._places.elsewhere(key, place.connection):
            return place
        self._leases.release(place)
        self._leases.retire(place, "elsewhere")
        return None

    async def make(self, principal: Principal, key: str) -> Place | None:
        """Return a lease of the user's place for what is large, made if need be, or None if it cannot be had.

        Args:
            principal: Whose.
            key: What the user's other place is found by.
        """
        key += BULK
        place = self._places.current.get(key)
        under_way = place is not None and place.connection is None
        if not (self._places.has_headroom or under_way) or self._logins.is_refused(key):
            return None
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._leases.join(principal, key)
        except TimeoutError:
            error = LoginNodeUnreachable(f"No second connection to {self._system} within {_PATIENCE:g} s")
            self._logins.refuse_bulk(key, principal.username, error)
            return None
        except GatewayError:  # It is in the log.
            return None

    async def check(self, place: Place, connection: Connection, session: Session) -> None:
        """Find out whether streams can go by a second connection, before something is sent that cannot be sent again.

        Raises:
            GatewayError: They cannot.
        """
        try:
            if self._places.elsewhere(place.key.removesuffix(BULK), connection):
                raise LoginNodeUnreachable(f"The second connection is to another login node, {connection.node}")
            async with session.bulk() as streams:
                # Where PAM refuses the session, sshd opens channels all the same and ends each command at once.
                if isinstance(streams, CommandStreams) and not (await session.run(["true"])).ok:
                    raise LoginNodeError(f"The login node of {self._system} runs no commands on a second connection")
        except GatewayError as error:
            self._logins.refuse_bulk(place.key, place.username, error)
            raise
