"""Scripts of jobs at paths on the login node, each read once for all jobs of a request."""

import asyncio
from collections.abc import Awaitable, Callable


class Scripts:
    """What has been read, by path, for one user."""

    def __init__(self) -> None:
        self._turns: dict[bytes, asyncio.Lock] = {}
        self._read: dict[bytes, bytes] = {}

    async def get(self, path: bytes, read: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return what `read` returns for a path; what it raises is raised for this job alone."""
        async with self._turns.setdefault(path, asyncio.Lock()):
            if path not in self._read:
                self._read[path] = await read()
            return self._read[path]
