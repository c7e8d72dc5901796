"""Services that lie, over a bare socket: what no well-behaved HTTP server can be made to send."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Lie = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Liar:
    """Answers each request by a lie.

    Attributes:
        url: Where it listens.
        asked: The heads of the requests.
        bodies: Their bodies.
    """

    def __init__(self, lie: Lie) -> None:
        self.url = ""
        self.asked: list[bytes] = []
        self.bodies: list[bytes] = []
        self.lie = lie

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.asked.append(head)
                lengths = [line[15:] for line in head.lower().splitlines() if line.startswith(b"content-length:")]
                self.bodies.append(await reader.readexactly(int(lengths[0]) if lengths else 0))
                await self.lie(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()


@asynccontextmanager
async def liar(lie: Lie) -> AsyncIterator[Liar]:
    """Run a service that lies."""
    it = Liar(lie)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        # The streams of Python 3.11 take a cancelled task for one that failed.
        with suppress(asyncio.CancelledError):
            await it.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield it
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def says(answer: bytes) -> Lie:
    """Say just that."""

    async def lie(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return lie


def endless(head: bytes, block: bytes, pause: float = 0.0) -> Lie:
    """Go on for ever."""

    async def lie(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(block)
            await writer.drain()
            await asyncio.sleep(pause)

    return lie


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """Return a whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def _bomb(packed: bytes, encoding: str) -> Lie:
    return says(answer(packed, "201 Created", f"Content-Encoding: {encoding}"))


_ZEROS = bytes(8 * 1024 * 1024)
_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"

LIES: dict[str, Lie] = {
    "gzip bomb": _bomb(gzip.compress(_ZEROS), "gzip"),
    "deflate bomb": _bomb(zlib.compress(_ZEROS), "deflate"),
    "bomb in a bomb": _bomb(gzip.compress(gzip.compress(_ZEROS)), "gzip, gzip"),
    "br": _bomb(b"\x5b\xff\xff\xff\xff", "br"),
    "zstd": _bomb(b"\x28\xb5\x2f\xfd", "zstd"),
    "coding that nobody knows": _bomb(b"{}", "x-own"),
    "endless body": endless(_OK + b"\r\n", b"x" * 65536),
    "endless chunks": endless(_CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "endless tiny chunks": endless(_CHUNKED, b"1\r\nx\r\n" * 4096),
    "endless chunk extension": endless(_CHUNKED + b"5;", b"x" * 65536),
    "endless trailers": endless(_CHUNKED + b"0\r\n", b"X: y\r\n" * 1024),
    "huge length": endless(_OK + b"Content-Length: 99999999999\r\n\r\n", b"x" * 65536),
    "dripping body": endless(_OK + b"Content-Length: 100000\r\n\r\n", b"x", 0.02),
    "dripping head": endless(_OK, b"X", 0.02),
    "dripping headers": endless(_OK, b"X: y\r\n", 0.02),
    "endless header": endless(_OK + b"X: ", b"x" * 65536),
    "endless headers": endless(_OK, b"X: y\r\n" * 1024),
    "endless status line": endless(b"HTTP/1.1 200 ", b"x" * 65536),
    "endless interim answers": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.001),
    "silence": endless(b"", b"", 0.1),
    "nothing of HTTP": says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "NULs": says(bytes(4096)),
    "no status": says(b"HTTP/1.1\r\n\r\n"),
    "bad length": says(_OK + b"Content-Length: -1\r\n\r\n"),
    "two lengths": says(_OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
    "bad chunk": says(_CHUNKED + b"zz\r\n"),
    "header that is no header": says(_OK + b"\x00\xff: \r\n\r\n"),
    "switched protocols": says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"),
}
"""By name: each is an answer that no client can use."""
