"""A slow line to a server, which can break."""

import asyncio

from tests.faults.proxy import Proxy


class Throttle(Proxy):
    """A TCP proxy that lets through only so many bytes a second on each connection, and counts them.

    Args:
        port: The port at 127.0.0.1 that it leads to.
        rate: Bytes a second; may be changed at any time.
    """

    def __init__(self, port: int, rate: float) -> None:
        super().__init__(port)
        self.rate = rate
        self.passed = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, dead: asyncio.Event) -> None:
        try:
            while block := await source.read(16384):
                await asyncio.sleep(len(block) / self.rate)
                sink.write(block)
                await sink.drain()
                self.passed += len(block)
        except OSError:
            pass
        finally:
            self._writers.discard(sink)
            sink.close()
