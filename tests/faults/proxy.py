"""A TCP proxy before a login node whose network can fail: cut, or go silent as when packets are dropped."""

import asyncio
import socket
import struct
import threading
from typing import Self


class Proxy:
    """A context manager; runs in a thread of its own.

    Args:
        port: The port at 127.0.0.1 that it leads to.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent = False

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(300)
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(300)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Reset every connection."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(300)

    def silence(self) -> None:
        """Let nothing through any more, in either direction, and end nothing."""
        self._silent = True

    def heal(self) -> None:
        """Let new connections through; what went on before stays dead, as after a firewall forgot it."""
        self._silent = False

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.1)

    async def _cut(self) -> None:
        writers, self._writers = self._writers, set()
        for writer in writers:
            if not writer.transport.is_closing():
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        dead = asyncio.Event()
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink, dead))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._writers |= {writer, far_writer}

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, dead: asyncio.Event) -> None:
        try:
            while block := await source.read(65536):
                if self._silent or dead.is_set():
                    dead.set()
                    continue
                sink.write(block)
                await sink.drain()
        except OSError:
            pass
        finally:
            if not dead.is_set():
                self._writers.discard(sink)
                sink.close()
