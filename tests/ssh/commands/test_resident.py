"""A process that answers requests one after the other: each gets its own answer, and one that lies is ended."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from hpcgate.errors import BadAnswer, ConnectionLost, GatewayError, NeverReached, NotSupported, TimedOut, TooLarge
from hpcgate.ssh.channels import Channels
from hpcgate.ssh.commands import resident
from hpcgate.ssh.commands.resident import Worker

WORD = "hpcgate-test"
BEGUN = f":{WORD}:begins:\n:{WORD}:4711:\n:{WORD}:fed:\n".encode()
STDERR = 1
LIMIT = 100


class Channel:
    """Stands for asyncssh's: keeps what is written to it."""

    def __init__(self) -> None:
        self.written = b""
        self.ended = self.closed = False
        self.status: int | None = None

    def write(self, data: bytes) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_exit_status(self) -> int | None:
        return self.status


class Site:
    """One worker, and what it has told."""

    def __init__(self, worker: Worker, channel: Channel) -> None:
        self.worker, self.channel = worker, channel
        self.told: list[object] = []
        self.crowded = False

    @classmethod
    async def open(cls, *, patience: float = 3600.0, start_up: float = 3600.0) -> Site:
        slot = await Channels(None, lambda: None).acquire()
        site: Site
        worker = Worker(
            slot, "perl", LIMIT, patience, start_up=start_up, word=WORD,
            crowded=lambda: site.crowded, began=lambda: site.told.append("began"),
            kill=lambda _: site.told.append("killed"), refused=lambda error: site.told.append(type(error)),
        )  # fmt: skip
        site = cls(worker, Channel())
        worker.connection_made(cast(Any, site.channel))
        return site

    def ask(self, *requests: bytes) -> list[asyncio.Task[bytes]]:
        return [asyncio.ensure_future(self.worker.ask(request)) for request in requests]

    async def turn(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    def say(self, data: bytes) -> None:
        self.worker.data_received(data, None)


async def test_requests_are_sent_once_it_has_begun_and_share_a_packet() -> None:
    site = await Site.open()
    one, two = site.ask(b"one", b"two")
    await site.turn()
    assert site.channel.written == b""
    site.say(BEGUN)
    assert site.told == ["began"]
    assert site.channel.written == f"{WORD}\n".encode() + b"one\0two\0"
    site.say(b"1\0")
    site.say(b"2")
    site.say(b"2\0")
    assert (await one, await two) == (b"1", b"22")
    assert site.worker.idle


async def test_who_does_not_wait_any_more_takes_nobody_elses_answer() -> None:
    site = await Site.open()
    site.say(BEGUN)
    one, two = site.ask(b"one", b"two")
    await site.turn()
    one.cancel()
    await site.turn()
    site.say(b"1\0" + b"2\0")
    assert await two == b"2"


LIES: dict[str, tuple[bytes, type[GatewayError]]] = {
    "another answer": (b"1\0" + b"2\0", BadAnswer),
    "the beginning of another": (b"1\0" + b"2", BadAnswer),
    "an answer without end": (b"x" * (LIMIT + 1), TooLarge),
}


@pytest.mark.parametrize("lie", LIES)
async def test_one_that_says_more_than_it_was_asked_is_killed(lie: str) -> None:
    said, error = LIES[lie]
    site = await Site.open()
    site.say(BEGUN)
    (asked,) = site.ask(b"one")
    await site.turn()
    site.say(said)
    with pytest.raises(error):
        await asked
    assert site.told == ["began", error, "killed"]
    with pytest.raises(error):
        await site.worker.ask(b"again")


async def test_errors_without_end_have_it_killed() -> None:
    site = await Site.open()
    site.say(BEGUN)
    (asked,) = site.ask(b"one")
    await site.turn()
    site.worker.data_received(b"x" * (resident._MAX_ASIDE + 1), STDERR)
    with pytest.raises(BadAnswer, match="without end"):
        await asked
    assert "killed" in site.told


@pytest.mark.parametrize(("said", "error"), [(b"", NeverReached), (BEGUN, TimedOut)], ids=["start-up", "answer"])
async def test_one_that_takes_too_long_is_killed(said: bytes, error: type[GatewayError]) -> None:
    site = await Site.open(patience=0.01, start_up=0.01)
    if said:
        site.say(said)
    (asked,) = site.ask(b"one")
    with pytest.raises(error):
        await asked
    assert site.told[-1] == "killed"


async def test_the_time_of_what_is_asked_counts_from_the_beginning_of_the_process() -> None:
    """However long a start-up file has taken."""
    site = await Site.open(patience=3600.0, start_up=3600.0)
    (asked,) = site.ask(b"one")
    await site.turn()
    before = site.worker._pending[0][1]
    await asyncio.sleep(0.01)
    site.say(BEGUN)
    assert site.worker._pending[0][1] > before
    site.say(b"1\0")
    assert await asked == b"1"


async def test_one_that_is_to_leave_answers_what_is_under_way_first() -> None:
    site = await Site.open()
    site.say(BEGUN)
    (asked,) = site.ask(b"one")
    await site.turn()
    site.worker.leave()
    assert site.channel.written.endswith(b"one\0")
    assert (site.channel.ended, site.channel.closed) == (False, False)
    site.say(b"1\0")
    assert await asked == b"1"
    assert (site.channel.ended, site.channel.closed) == (True, True)


async def test_one_that_is_idle_makes_room_for_those_who_wait_for_the_channel() -> None:
    site = await Site.open()
    site.say(BEGUN)
    (asked,) = site.ask(b"one")
    await site.turn()
    site.crowded = True
    site.say(b"1\0")
    assert await asked == b"1"
    assert site.channel.closed


@pytest.mark.parametrize(
    ("said", "status", "error"),
    [
        (b"", 127, NotSupported),
        (BEGUN, 2, NotSupported),
        (BEGUN + b"0\0", 2, ConnectionLost),
        (BEGUN, None, ConnectionLost),
    ],
    ids=["never began", "answered nothing", "has answered", "the connection broke"],
)
async def test_who_asks_one_that_has_ended_is_told_whether_it_can_be_run_at_all(
    said: bytes, status: int | None, error: type[GatewayError]
) -> None:
    site = await Site.open()
    if said.endswith(b"\0"):
        (first,) = site.ask(b"first")
        await site.turn()
        site.say(said)
        await first
    elif said:
        site.say(said)
    (asked,) = site.ask(b"one")
    await site.turn()
    site.channel.status = status
    site.worker.connection_lost(None)
    with pytest.raises(error):
        await asked
    with pytest.raises(GatewayError):
        await site.worker.ask(b"again")
