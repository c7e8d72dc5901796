"""The files of one system that are followed, each by one reader for all of a user."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hpcgate.auth import Principal
from hpcgate.auth.policy import Grant
from hpcgate.filesystem.base import Lender, Limits
from hpcgate.filesystem.confined_session import ConfinedPool
from hpcgate.filesystem.following.follower import Follower, Start
from hpcgate.filesystem.following.reader import Pace, Reader
from hpcgate.sharing.tasks import Tasks
from hpcgate.ssh.pool import Pool


class Following:
    """The files of one system that are followed.

    Args:
        pool: The system's connections.
        limits: What the system allows.
        pace: How often a file is looked at.

    Attributes:
        looks: How often files have been looked at.
    """

    def __init__(self, pool: Pool, limits: Limits, pace: Pace | None = None) -> None:
        self._pool = pool
        self._limits = limits
        self._pace = pace or Pace()
        self._readers: dict[tuple[str, bytes, Grant], Reader] = {}
        self._past_looks = 0
        self._tasks = Tasks("filesystem.following")

    def __repr__(self) -> str:
        return f"<Following {len(self)} files of {self._pool.system}>"

    def __len__(self) -> int:
        return len(self._readers)

    @property
    def looks(self) -> int:
        """How often files have been looked at."""
        return self._past_looks + sum(reader.looks for reader in self._readers.values())

    @asynccontextmanager
    async def follow(
        self, principal: Principal, grant: Grant, path: bytes, start: Start, rate: float
    ) -> AsyncIterator[Follower]:
        """Follow a file for as long as the context lasts.

        Args:
            principal: Who follows it.
            grant: What the user may touch, which holds for each look.
            path: The file.
            start: Where to begin.
            rate: The most bytes a second.

        Raises:
            GatewayError: It cannot be followed; that it is not there is no error.
        """
        key = self._pool.key(principal), path, grant
        reader = self._readers.get(key)
        if reader is None or reader.failed is not None:
            lender: Lender = self._pool if grant.paths is None else ConfinedPool(self._pool, grant)
            reader = self._readers[key] = Reader(path, principal, lender, self._pace)
            reader.task = self._tasks.spawn(reader.run())
        follower = Follower(principal, reader, rate)
        reader.followers.add(follower)
        try:
            await follower.begin(start, self._limits)
            yield follower
        finally:
            reader.followers.discard(follower)
            if not reader.followers:
                self._end(key, reader, principal)

    def _end(self, key: tuple[str, bytes, Grant], reader: Reader, principal: Principal) -> None:
        if self._readers.get(key) is reader:
            del self._readers[key]
        self._past_looks += reader.looks
        if reader.task is not None:
            reader.task.cancel()
        self._tasks.spawn(reader.release(principal))

    async def close(self) -> None:
        """Follow nothing any more."""
        await self._tasks.close()
