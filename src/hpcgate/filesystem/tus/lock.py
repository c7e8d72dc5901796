"""Who writes to an upload: one request at a time, here and, as far as that can be, anywhere."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from hpcgate.errors import GatewayError, Locked
from hpcgate.filesystem.tus.registry import Interruption
from hpcgate.filesystem.tus.store import UploadStore
from hpcgate.ssh.files.private_directory import PrivateDirectory

LOOK = 1.0
"""Seconds between a writer's looks at its lock."""
GRACE = 3.0
"""Seconds until a writer of another process must have noticed that its lock is taken."""


@dataclass(slots=True)
class Writer:
    """Who writes to an upload.

    Attributes:
        place: Where it lies.
        interruption: Ends the writing.
        over: Whether nothing is left of the upload.
    """

    place: PrivateDirectory
    interruption: Interruption
    over: bool = False


@asynccontextmanager
async def locked(store: UploadStore, place: PrivateDirectory, interruption: Interruption) -> AsyncIterator[Writer]:
    """Hold the lock of an upload on the login node.

    Raises:
        Locked: Another process has taken it over.
    """
    token = secrets.token_hex(16).encode()
    if not await store.lock(place, token):
        await store.relock(place, token)
        await asyncio.sleep(GRACE)
        if await store.token(place) != token:
            raise Locked("Another request took over the upload.", headers={"Retry-After": "2"})
    writer = Writer(place, interruption)
    looking = asyncio.create_task(_look(store, place, token, interruption))
    try:
        yield writer
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        if not writer.over:
            with suppress(GatewayError):
                if interruption.error is None or await store.token(place) == token:
                    await store.unlock(place)


async def _look(store: UploadStore, place: PrivateDirectory, token: bytes, interruption: Interruption) -> None:
    while True:
        await asyncio.sleep(LOOK)
        if await store.token(place) != token:
            interruption.interrupt(Locked("Another request took over the upload."))
            return
