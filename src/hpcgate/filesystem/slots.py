"""How many streams run at a time, and who may change which path now: what one process knows of its own requests."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager

from hpcgate.errors import RateLimited


class StreamSlots:
    """The caps on concurrent streams.

    Args:
        most: Streams at a time, all users together.
        most_per_user: Streams of one user at a time.
    """

    def __init__(self, most: int, most_per_user: int) -> None:
        self._most = most
        self._most_per_user = most_per_user
        self._taken: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<StreamSlots {self.taken}/{self._most}>"

    @property
    def taken(self) -> int:
        """How many streams run now."""
        return self._taken.total()

    @contextmanager
    def hold(self, username: str) -> Iterator[None]:
        """Count as one stream of the user.

        Raises:
            RateLimited: There are too many.
        """
        if self._taken[username] >= self._most_per_user:
            raise RateLimited(
                f"You have {self._most_per_user} streams under way; wait for one to end.", headers={"Retry-After": "5"}
            )
        if self.taken >= self._most:
            raise RateLimited("Too many streams are under way.", headers={"Retry-After": "5"})
        self._taken[username] += 1
        try:
            yield
        finally:
            self._taken[username] -= 1
            if not self._taken[username]:
                del self._taken[username]


class PathLocks:
    """One at a time for each key, in the order of arrival."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, tuple[asyncio.Lock, int]] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def hold(self, key: Hashable) -> AsyncIterator[None]:
        """Wait for the key and hold it."""
        lock, users = self._locks.get(key) or (asyncio.Lock(), 0)
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = (lock, users - 1)
