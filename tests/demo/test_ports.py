"""Ports that nobody else has."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from hpcgate.demo.ports import HOST, Ports, listens
from hpcgate.demo.problems import DemoError


def test_ports_are_distinct_and_outside_of_the_range_that_the_kernel_gives_away() -> None:
    one, other = Ports(), Ports()
    try:
        taken = [one.take() for _ in range(20)] + [other.take() for _ in range(20)]
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
        assert len(set(taken)) == 40
        assert not any(low <= port <= high for port in taken)
    finally:
        one.close()
        other.close()


def test_a_port_that_is_reserved_or_in_use_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Ports(), Ports()
    try:
        wanted = first.take()
        spare = first.take()
        first.close()
        offers = iter([wanted, wanted, spare])
        monkeypatch.setattr(random, "randrange", lambda *_: next(offers))
        assert first.take() == wanted
        with socket.socket() as busy:
            busy.bind((HOST, spare))
            busy.listen()
            with pytest.raises((DemoError, StopIteration)):
                second.take()
        first.close()
        monkeypatch.setattr(random, "randrange", lambda *_: wanted)
        assert second.take() == wanted
    finally:
        first.close()
        second.close()


def test_listening_is_seen_without_connecting() -> None:
    with socket.socket() as server:
        server.bind((HOST, 0))
        port = server.getsockname()[1]
        assert not listens(port)
        server.listen()
        server.setblocking(False)
        assert listens(port)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not listens(port)
