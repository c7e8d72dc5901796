"""One user's many kinds of tokens: they have a place each, and must not take the pool."""

import asyncio

from hpcgate.errors import PoolExhausted
from hpcgate.ssh.places import BULK, Place, Places

_MAX = 8
"""Places of a kind that one user has at a time, by tokens that stand for different things."""


class Standings:
    """Bounds the places that one user has at a time, and has requests wait that are beyond.

    Args:
        system: The name of the system.
        places: The pool's places.
    """

    def __init__(self, system: str, places: Places) -> None:
        self._system = system
        self._places = places
        self._waiting: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<Standings {self._system} waiting={len(self._waiting)}>"

    def full(self, username: str, key: str) -> bool:
        """Say whether a user has as many places as they may besides that of `key`."""
        return len(self._places.others(username, key)) >= _MAX

    def evictable(self, username: str, key: str) -> Place | None:
        """Return the place of the user's other tokens that has been idle longest, None if all are in use."""
        others = self._places.others(username, key)
        return next((place for place in self._places.idle if place in others), None)

    async def wait(self, username: str, key: str, deadline: float) -> None:
        """Wait until one of the pool's connections rests or ends.

        Args:
            username: Who waits.
            key: What the place that is wanted will be found by.
            deadline: By the loop's clock.

        Raises:
            PoolExhausted: None did in time. What is large does not wait: it can do without a connection of its own.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            async with asyncio.timeout_at(0 if key.endswith(BULK) else deadline):
                await waiter
        except TimeoutError:
            raise PoolExhausted(
                f"The user {username} has connections to {self._system} in use by {_MAX} kinds of tokens",
                headers={"Retry-After": "1"},
            ) from None
        finally:
            self._waiting.discard(waiter)

    def wake(self) -> None:
        """Have those who wait look again."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
