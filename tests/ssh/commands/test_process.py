"""A command that is fed and read while it runs: neither side runs ahead of the other, and neither waits for ever."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from hpcgate.errors import ConnectionLost, TimedOut, TooLarge
from hpcgate.ssh.channels import Channels
from hpcgate.ssh.commands import process as processes
from hpcgate.ssh.commands.command import MAX_ERRORS
from hpcgate.ssh.commands.process import Process

WORD = "hpcgate-test"
BEGUN = f":{WORD}:begins:\n:{WORD}:4711:\n:{WORD}:fed:\n".encode()
STDERR = 1


class Channel:
    """Stands for asyncssh's: keeps what is written to it, and whether it is read from."""

    def __init__(self) -> None:
        self.written = b""
        self.ended = False
        self.paused = 0
        self.reading = True
        self.status: int | None = None

    def write(self, data: bytes) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.paused += 1
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_returncode(self) -> int | None:
        return self.status


async def begun(stall: float = 3600.0) -> tuple[Process, Channel]:
    slot = await Channels(None, lambda: None).acquire()
    process, channel = Process(slot, "tool", stall, lambda: ConnectionLost("lost"), WORD), Channel()
    process.connection_made(cast(Any, channel))
    process.data_received(BEGUN, None)
    return process, channel


def over(process: Process, channel: Channel, status: int) -> None:
    channel.status = status
    process.exit_status_received(status)
    process.connection_lost(None)


async def test_output_comes_as_it_is_written_and_ends_with_the_command() -> None:
    process, channel = await begun()
    output = process.output()
    process.data_received(b"one", None)
    assert await anext(output) == b"one"
    process.data_received(b"two", None)
    over(process, channel, 3)
    assert [block async for block in output] == [b"two"]
    assert await process.ended() == 3


async def test_what_comes_with_the_mark_of_the_beginning_is_output() -> None:
    slot = await Channels(None, lambda: None).acquire()
    process, channel = Process(slot, "tool", 3600.0, lambda: ConnectionLost("lost"), WORD), Channel()
    process.connection_made(cast(Any, channel))
    process.data_received(b"Welcome!\n" + BEGUN + b"first", None)
    over(process, channel, 0)
    assert [block async for block in process.output()] == [b"first"]


async def test_a_command_whose_output_nobody_takes_has_to_wait() -> None:
    process, channel = await begun()
    process.data_received(b"x" * (processes._MAX_WAITING - 1), None)
    assert channel.paused == 0
    process.data_received(b"x", None)
    assert channel.paused == 1
    output = process.output()
    assert len(await anext(output)) == processes._MAX_WAITING - 1
    await anext(output)
    waiting = asyncio.ensure_future(anext(output))
    await asyncio.sleep(0)
    assert channel.reading  # again
    over(process, channel, 0)
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_standard_error_is_kept_apart_and_words_in_it_are_found_across_its_pieces() -> None:
    process, channel = await begun()
    process.listen_for(b"file shrank")
    for piece in (b"tar: fi", b"le shr"):
        process.data_received(piece, STDERR)
        assert not process.said
    process.data_received(b"ank by 7 bytes", STDERR)
    assert process.said
    over(process, channel, 1)
    assert [block async for block in process.output()] == []


async def test_errors_without_end_end_the_reading() -> None:
    process, _ = await begun()
    process.data_received(b"x" * (MAX_ERRORS + 1), STDERR)
    with pytest.raises(TooLarge, match="standard error"):
        await anext(process.output())


async def test_a_command_that_writes_nothing_runs_out_of_time() -> None:
    process, _ = await begun(stall=0.01)
    with pytest.raises(TimedOut, match=r"tool made no progress for 0\.01 s"):
        await anext(process.output())


async def test_something_else_that_keeps_the_output_open_is_waited_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command has ended; a child of it that goes on is not what was asked for."""
    monkeypatch.setattr(processes, "MAX_SILENCE", 0.01)
    process, channel = await begun()
    output = process.output()
    waiting = asyncio.ensure_future(anext(output, None))
    await asyncio.sleep(0)
    channel.status = 0
    process.exit_status_received(0)
    assert await waiting is None
    assert await process.ended() == 0


async def test_what_is_fed_after_the_end_is_not_taken() -> None:
    process, channel = await begun()
    assert await process.feed_block(b"a")
    process.feed_end()
    assert (channel.written, channel.ended) == (b"a", True)
    over(process, channel, 0)
    assert not await process.feed_block(b"b")
    assert channel.written == b"a"


async def test_a_connection_that_breaks_is_no_exit_status() -> None:
    process, _ = await begun()
    process.connection_lost(OSError("gone"))
    with pytest.raises(ConnectionLost, match="lost"):
        await process.ended()
