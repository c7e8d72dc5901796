"""The places of a pool: who has which, in which state, and who gets the next one. Plain and synchronous."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from hpcgate.ssh.connection import Connection
from hpcgate.ssh.session import Session

BULK = "\0bulk"
"""Ends the key of a user's second place; no user name has a NUL in it."""


@dataclass(slots=True, eq=False)
class Place:
    """A user's place in the pool: a connection, or the login that will make one.

    Its states, and what leads from one to the next::

                      fails, or nobody waits for it any more
            login --------------------------------------------> gone
              | succeeds                                         ^
              v        the last lease ends                       |
            in use --------------------------> idle              |
              | ^ <--------------------------- |  |              |
              | |             warm             |  | `idle_timeout`, evicted, stop
              | retire                  retire |  |              |
              v                                v  v              |
            retired ------------------------> closing -----------+
                       the last lease ends                closed |
                                                                 |
            in use, idle, retired ------- lost ------------------+

    A user has two at most of each standing: one for small requests and a bulk one, which differ by their keys alone.

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
        ending: Whether it is on its way out: "retired" while there are leases, then "closing".
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
    ending: Literal["retired", "closing"] | None = None

    def __repr__(self) -> str:
        kind = " bulk" if self.bulk else ""
        return f"<Place {self.username}{kind} {self.state} leases={self.leases} waiting={self.waiting}>"

    @property
    def state(self) -> Literal["login", "in use", "idle", "retired", "closing", "lost"]:
        """Its state, as in the picture."""
        if self.ending == "closing":
            return "closing"
        if self.connection is None:
            return "login"
        if not self.connection.alive:
            return "lost"
        if self.ending is not None:
            return self.ending
        return "in use" if self.leases else "idle"

    @property
    def leased(self) -> Session:
        """The session, of a place with a lease: that has one."""
        assert self.session is not None  # noqa: S101 (only a place with a connection is leased)
        return self.session

    @property
    def bulk(self) -> bool:
        """Whether it is for what is large."""
        return self.key.endswith(BULK)


class Places:
    """The pool's bookkeeping: who has which place, and who gets the next one.

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
    def everyone(self) -> list[Place]:
        """All places but those that are being closed."""
        return [*self.current.values(), *self.retired]

    def elsewhere(self, key: str, connection: Connection) -> bool:
        """Say whether a connection is to another login node than the user's first one: each has files of its own."""
        first = self.current.get(key)
        return first is not None and first.connection is not None and first.connection.node != connection.node

    def others(self, username: str, key: str) -> list[Place]:
        """Return the user's places of the same kind as that of `key`, which other tokens of theirs have."""
        bulk = key.endswith(BULK)
        return [
            place for place in self.everyone if place.username == username and place.bulk == bulk and place.key != key
        ]

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
        place.ending = "retired"
        self.retired.add(place)

    def close(self, place: Place) -> None:
        """Take a place out whose connection is being closed."""
        self.remove(place)
        place.ending = "closing"
        self.closing += 1

    def closed(self, place: Place) -> None:
        """Its connection is closed."""
        self.closing -= 1
        self.free(place)

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
