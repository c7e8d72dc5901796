"""A Redis that lies, over a bare socket: whatever it says, a replica counts by itself, in time and bounded memory."""

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from hpcgate.config.rates import Rate, RedisSettings
from hpcgate.rates.base import Bucket
from hpcgate.rates.redis import MAX_ANSWER, RedisCounter

Lie = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

BUCKET = Bucket("user:fs:read:alice", Rate(rate=0.001, burst=2))
SECONDS = 1.0


def says(answer: bytes) -> Lie:
    """Say just that to each question."""

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(answer)
            await writer.drain()

    return lie


def endless(begin: bytes, block: bytes, pause: float = 0.0) -> Lie:
    """Begin like that once asked, and go on for ever."""

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(begin)
        while True:
            writer.write(block)
            await writer.drain()
            await asyncio.sleep(pause)

    return lie


LIES: dict[str, Lie] = {
    "an error": says(b"-ERR no\r\n"),
    "nonsense": says(b"\x00\xff\r\n"),
    "nothing": says(b"*0\r\n"),
    "null": says(b"*-1\r\n"),
    "a number": says(b":1\r\n"),
    "a number that is none": says(b":x\r\n"),
    "a length that is none": says(b"$x\r\n"),
    "a length below zero": says(b"$-5\r\nabc\r\n"),
    "a count below zero": says(b"*-7\r\n"),
    "a text": says(b"+OK\r\n"),
    "not a number": says(b"*1\r\n$3\r\nnan\r\n"),
    "without end": says(b"*1\r\n$3\r\ninf\r\n"),
    "two for one": says(b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n"),
    "lists in lists": says(b"*1\r\n*1\r\n$1\r\n1\r\n"),
    "bytes that are no text": says(b"*1\r\n$2\r\n\xff\xfe\r\n"),
    "a script that it does not know, time and again": says(b"-NOSCRIPT No matching script\r\n"),
    "elsewhere": says(b"-MOVED 1 127.0.0.1:1\r\n"),
    "still loading": says(b"-LOADING wait\r\n"),
    "depth": says(b"*1\r\n" * 100_000),
    "a long text": endless(b"$4000000000\r\n", b"x" * 65536),
    "a long line": endless(b"+", b"x" * 65536),
    "a long list": endless(b"*2000000000\r\n", b":1\r\n" * 10_000),
    "a long list of nothing": endless(b"*2000000000\r\n", b"*0\r\n" * 10_000),
    "answers without end": endless(b"", b"+OK\r\n" * 10_000),
    "a map": says(b"%1\r\n$1\r\na\r\n$1\r\nb\r\n"),
    "news": endless(b"", b">2\r\n+message\r\n+x\r\n" * 1000),
    "silence": endless(b"", b"", 0.05),
    "drops": endless(b"$1000\r\n", b"x", 0.01),
}


@asynccontextmanager
async def liar(lie: Lie) -> AsyncIterator[int]:
    """Run it and yield its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(OSError, asyncio.CancelledError):
            await lie(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("name", LIES)
async def test_a_redis_that_lies_is_one_that_is_down(name: str) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    beside = asyncio.create_task(others())
    async with liar(LIES[name]) as port, asyncio.timeout(300):
        counter = RedisCounter(RedisSettings.model_validate({"url": f"redis://127.0.0.1:{port}/0", "timeout": SECONDS}))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        verdicts = [await counter.take([BUCKET]) for _ in range(3)]
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        assert repr(counter) == "<RedisCounter down>"
        await counter.close()
    beside.cancel()
    assert [verdict.allowed for verdict in verdicts] == [True, True, False]
    assert turns
    assert grown < 1000 * MAX_ANSWER


async def test_an_answer_that_comes_late_is_nobody_elses() -> None:
    """The question was given up; what answers it must not answer the next one, which is of another user."""

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while asked := await reader.read(65536):
            if b"bob" not in asked:
                await asyncio.sleep(3 * SECONDS)
            writer.write(b"*1\r\n$1\r\n%d\r\n" % (0 if b"alice" in asked else 2))

    async with liar(late) as port, asyncio.timeout(300):
        counter = RedisCounter(RedisSettings.model_validate({"url": f"redis://127.0.0.1:{port}/0", "timeout": SECONDS}))
        await counter.take([BUCKET])
        counter._down_until = 0.0
        bob = await counter.take([Bucket("user:fs:read:bob", BUCKET.rate)])
        await counter.close()
    assert bob.allowed
