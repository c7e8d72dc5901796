"""Scripts at paths are read once for all jobs of a request."""

import asyncio

import pytest

from hpcgate.errors import TimedOut
from hpcgate.schedulers.scripts import Scripts


async def test_a_script_is_read_once() -> None:
    """However many ask for it at a time."""
    read: list[str] = []

    async def reading() -> bytes:
        read.append("a")
        await asyncio.sleep(0)
        return b"script"

    scripts = Scripts()
    assert await asyncio.gather(*(scripts.get(b"/a", reading) for _ in range(5))) == [b"script"] * 5
    assert read == ["a"]
    await scripts.get(b"/b", reading)
    assert len(read) == 2


async def test_what_could_not_be_read_is_read_again() -> None:
    """An error is one job's."""

    async def failing() -> bytes:
        raise TimedOut("too slow")

    async def reading() -> bytes:
        return b"script"

    scripts = Scripts()
    with pytest.raises(TimedOut):
        await scripts.get(b"/a", failing)
    assert await scripts.get(b"/a", reading) == b"script"
