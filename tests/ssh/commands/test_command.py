"""When what a command is to read goes out: not before it has begun, and then without waiting for another answer."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from hpcgate.errors import NeverReached
from hpcgate.ssh.channels import Channels
from hpcgate.ssh.commands.command import Command

WORD = "hpcgate-test"
BEGUN = f":{WORD}:begins:\n:{WORD}:4711:\n".encode()
SHARED = f":{WORD}:shared:\n".encode()
FED = f":{WORD}:fed:\n".encode()


class Channel:
    """Keeps what is written to it."""

    def __init__(self) -> None:
        self.written = b""
        self.ended = False

    def write(self, data: bytes) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return False


async def opened() -> tuple[Command, Channel]:
    command, channel = Command(await Channels(None, lambda: None).acquire(), 1000, WORD, feeds=True), Channel()
    command.connection_made(cast(Any, channel))
    return command, channel


async def send(command: Command) -> None:
    await command.reached(3600)
    await command.write(b"content")


@pytest.mark.parametrize("noise", [b"", b"Welcome\n", b":hpcgate:1:\n"])
async def test_input_costs_one_answer_of_the_login_node(noise: bytes) -> None:
    """The mark, and no other: a round trip beyond that of the channel itself."""
    command, channel = await opened()
    sending = asyncio.create_task(send(command))
    await asyncio.sleep(0)
    command.data_received(noise, None)
    await asyncio.sleep(0)
    assert (channel.written, channel.ended) == (b"", False)
    command.data_received(BEGUN, None)
    await sending
    assert (channel.written, channel.ended) == (f"{WORD}\ncontent".encode(), True)


async def test_who_shares_the_input_gets_a_line_of_ours_and_nothing_else() -> None:
    command, channel = await opened()
    command.data_received(SHARED + BEGUN, None)
    sending = asyncio.create_task(send(command))
    for _ in range(3):
        await asyncio.sleep(0)
    assert channel.written == f"{WORD}\n".encode()
    command.data_received(FED, None)
    await sending
    assert (channel.written, channel.ended) == (f"{WORD}\ncontent".encode(), True)


async def test_a_command_that_never_begins_is_sent_nothing() -> None:
    command, channel = await opened()
    with pytest.raises(NeverReached, match="nothing was sent"):
        await command.reached(0)
    assert (channel.written, channel.ended) == (b"", False)
