"""How many messages that nobody asked for a login node may send: as many as a fair one, and no more."""

from types import SimpleNamespace
from typing import Any

import pytest

from hpcgate.ssh.unasked import Unasked

IGNORE, KEXINIT, GLOBAL_REQUEST, OPEN, ADJUST, DATA, REQUEST = 2, 20, 80, 90, 93, 94, 98


class Handler:
    """What takes messages: a connection, or a channel."""

    def process_packet(self, kind: int, number: int, packet: Any) -> bool:
        return True

    def send_packet(self, kind: int, *args: bytes) -> None:
        pass

    def add_channel(self, channel: Any) -> int:
        return 0


class Counted:
    """A connection with one channel, and how often it was found to be flooded."""

    def __init__(self) -> None:
        self.floods = 0
        connection: Any = Handler()
        self.connection = connection
        self.channel: Any = Handler()
        Unasked(self.connection, self._flooded)
        self.connection.add_channel(self.channel)

    def _flooded(self) -> None:
        self.floods += 1

    def receive(self, kind: int, size: int = 0, times: int = 1) -> None:
        handler = self.channel if kind >= ADJUST else self.connection
        packet = SimpleNamespace(get_full_payload=lambda: bytes(9 + size))
        for _ in range(times):
            assert handler.process_packet(kind, 0, packet)


@pytest.mark.parametrize("kind", [IGNORE, GLOBAL_REQUEST, OPEN, ADJUST, REQUEST, DATA, 200])
async def test_as_many_of_each_kind_and_no_more(kind: int) -> None:
    it = Counted()
    it.receive(kind, times=1000)
    assert it.floods == 0
    # However long that has taken: some more may come in each second.
    it.receive(kind, times=20_000)
    assert it.floods == 1


async def test_what_is_long_counts_by_its_length() -> None:
    it = Counted()
    it.receive(IGNORE, 30_000, times=1000)
    assert it.floods == 1


async def test_an_exchange_of_keys_counts_as_many() -> None:
    it = Counted()
    it.receive(KEXINIT, times=1000)
    assert it.floods == 1


async def test_whoever_is_asked_may_answer_with_as_much_beside() -> None:
    """Twenty thousand small answers, each with a window that grows, a status and something to be ignored."""
    it = Counted()
    for _ in range(20_000):
        it.connection.send_packet(REQUEST)
        it.receive(IGNORE)
        it.receive(DATA, 100)
        it.receive(IGNORE)
        it.receive(ADJUST)
        it.receive(REQUEST)
    assert it.floods == 0


async def test_new_keys_for_each_eight_megabytes_are_fine() -> None:
    it = Counted()
    for _ in range(1000):
        it.receive(KEXINIT)
        it.receive(DATA, 32 * 1024, times=256)
    assert it.floods == 0


async def test_the_gateways_own_answers_do_not_count() -> None:
    it = Counted()
    for _ in range(20_000):
        it.receive(GLOBAL_REQUEST)
        it.connection.send_packet(82)
    assert it.floods == 1
