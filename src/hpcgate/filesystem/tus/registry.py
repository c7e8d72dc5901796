"""What one process knows of the uploads that pass through it, and how a writer is told to give way."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Hashable
from contextlib import asynccontextmanager

from hpcgate.errors import GatewayError, Locked
from hpcgate.filesystem.tus.state import TusUpload
from hpcgate.sharing.recent import Recent

GIVE_WAY = 15.0
"""Seconds that an earlier request of the same process has to let go of an upload."""
REMEMBERED = 10_000
"""Uploads just completed that are remembered, for clients that did not get the answer."""


class Interruption:
    """Ends a stream of content from outside."""

    def __init__(self) -> None:
        self._error: GatewayError | None = None
        self._deadline: asyncio.Timeout | None = None

    @property
    def error(self) -> GatewayError | None:
        """Why it was interrupted."""
        return self._error

    def interrupt(self, error: GatewayError) -> None:
        """Let the stream fail with `error` as soon as it waits for its source."""
        self._error = self._error or error
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def watch(self, content: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """Yield the same content until interrupted."""
        source = aiter(content)
        while True:
            try:
                async with asyncio.timeout(None) as self._deadline:
                    if self._error is not None:
                        raise self._error
                    block = await anext(source, None)
            except TimeoutError:
                if self._error is None:
                    raise
                raise self._error from None
            finally:
                self._deadline = None
            if block is None:
                return
            yield block


class UploadRegistry:
    """What one process knows of the uploads that pass through it: who writes to which, and which it has completed."""

    def __init__(self) -> None:
        self._writers: dict[Hashable, tuple[Interruption, asyncio.Event]] = {}
        self._completed = Recent[Hashable, TusUpload](REMEMBERED)

    @asynccontextmanager
    async def write(self, key: Hashable) -> AsyncIterator[Interruption]:
        """Become the writer of an upload; the one before is interrupted: its client has lost patience with it.

        Raises:
            Locked: It does not give way.
        """
        mine = (Interruption(), asyncio.Event())
        give_up = asyncio.get_running_loop().time() + GIVE_WAY
        while (other := self._writers.get(key)) is not None:
            other[0].interrupt(Locked("A later request took over the upload."))
            try:
                async with asyncio.timeout_at(give_up):
                    await other[1].wait()
            except TimeoutError:
                raise Locked("Another request writes to the upload.", headers={"Retry-After": "2"}) from None
        self._writers[key] = mine
        try:
            yield mine[0]
        finally:
            del self._writers[key]
            mine[1].set()

    def remember(self, key: Hashable, upload: TusUpload) -> None:
        """Remember a completed upload."""
        self._completed.keep(key, upload)

    def completed(self, key: Hashable) -> TusUpload | None:
        """Return an upload that has been completed here not long ago."""
        return self._completed.get(key)
