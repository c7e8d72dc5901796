"""What goes on for ever comes to an end here: what is read on the way to one answer has a bound, whoever sends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from hpcgate.errors import BadAnswer, GatewayError, TimedOut, TooLarge
from hpcgate.filesystem import excerpt, ls, unpacking
from hpcgate.filesystem.base import Limits
from hpcgate.filesystem.tar_stream import END
from hpcgate.ssh.files.protocol import Attributes, Entry

LIMITS = Limits(1024 * 1024)
DIRECTORY = Attributes(0o40755, 1, 1, 1, 0, 0, 0, 0, 0, 0)
MANY = [Entry(b"name", 0o100644, 0, 0, 1, 1)] * 10_000


class Files:
    """Every file is as long as it takes, and holds no end of a line."""

    async def stat(self, path: bytes, *, follow: bool = True) -> Attributes:
        return DIRECTORY

    async def read(self, path: bytes, *, offset: int = 0, size: int | None = None, tool: str = "cat") -> bytes:
        return bytes(size or 0)


class Streams(Files):
    """Every directory goes on."""

    def __init__(self, pause: Callable[[], Awaitable[object]]) -> None:
        self._pause = pause

    async def scan(self, path: bytes, **_: Any) -> AsyncGenerator[list[Entry]]:
        while True:
            await self._pause()
            yield MANY


class Process:
    """Takes all that it is fed, and prints on and on."""

    exit_status = None
    stderr = SimpleNamespace(content=b"")
    name = "tar"
    stall = 600.0

    async def output(self) -> AsyncGenerator[bytes]:
        yield b"ready\n"
        while True:
            yield bytes(1000)

    async def feed_block(self, block: bytes) -> bool:
        return True

    def feed_end(self) -> None:
        pass

    async def ended(self) -> int:
        return 0


class Session:
    """A login node where nothing ends."""

    username = "alice"

    def __init__(self, pause: Callable[[], Awaitable[object]]) -> None:
        self._pause = pause

    async def files(self) -> Files:
        return Files()

    @asynccontextmanager
    async def bulk(self) -> AsyncIterator[Streams]:
        yield Streams(self._pause)

    @asynccontextmanager
    async def process(self, *_: Any, **__: Any) -> AsyncIterator[Process]:
        yield Process()


async def archive() -> AsyncIterator[bytes]:
    yield END


def page(session: Any) -> Awaitable[object]:
    return ls.Ls(ls.LsParameters(path="/x", limit=2), LIMITS).run(session)


ENDLESS: dict[str, tuple[Callable[[Any], Awaitable[object]], type[GatewayError]]] = {
    "the directory of a page": (page, TooLarge),
    "a line that is far on": (lambda _: excerpt.Excerpt(Files(), b"/x", "tail", LIMITS).start_of_line(9), TooLarge),  # type: ignore[arg-type]
    "what tar prints": (lambda session: unpacking.unpack(session, b"/x", archive(), limit=None), BadAnswer),
}


async def at_once() -> None:
    """Wait for nothing."""


@pytest.mark.parametrize("what", ENDLESS)
async def test_what_never_ends_is_an_error(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ls, "MAX_SCANNED", 100_000)
    monkeypatch.setattr(excerpt, "MAX_SEARCHED", 64 * 1024 * 1024)
    ask, error = ENDLESS[what]
    with pytest.raises(error):
        await ask(Session(at_once))


async def test_a_directory_that_trickles_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ls, "PAGE_PATIENCE", 0.05)
    with pytest.raises(TimedOut):
        await page(Session(asyncio.Event().wait))
