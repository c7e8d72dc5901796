"""A connection at rest is closed `keep_alive` seconds after its last answer, by one timer for many answers."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hpcgate.server.http_protocol import Http

KEEP_ALIVE = 5.0


class Loop:
    """A clock and its timers, which are called when they are due."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[SimpleNamespace] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., None], *args: Any) -> SimpleNamespace:
        timer = SimpleNamespace(when=when, callback=callback, args=args)
        timer.cancel = lambda: self.timers.remove(timer)
        self.timers.append(timer)
        return timer

    def call_later(self, delay: float, callback: Callable[..., None], *args: Any) -> SimpleNamespace:
        return self.call_at(self.now + delay, callback, *args)

    def go(self, until: float) -> None:
        while due := [timer for timer in self.timers if timer.when <= until]:
            first = min(due, key=lambda timer: timer.when)
            self.timers.remove(first)
            self.now = first.when
            first.callback(*first.args)
        self.now = until


@pytest.mark.parametrize(
    ("answers", "closed"),
    [
        pytest.param([], False, id="none yet"),
        pytest.param([(0, None)], True, id="long ago"),
        pytest.param([(0, 4), (4.5, None)], False, id="a short while ago"),
        pytest.param([(0, 4)], False, id="under way"),
        pytest.param([(0, 5.005), (5.006, None)], False, id="asked at the last moment"),
        pytest.param([(0, 5.005)], False, id="asked at the last moment and under way"),
        pytest.param([(0, 1), (1, 2), (2, 3), (3, None)], True, id="several"),
    ],
)
def test_a_connection_is_closed_when_it_has_rested_for_long_enough(
    answers: list[tuple[float, float | None]], closed: bool
) -> None:
    """After 9 seconds; each answer has the moment when it is out, and that of the next request."""
    loop, ends = Loop(), list[float]()
    protocol = Http.__new__(Http)
    protocol.loop = cast("Any", loop)
    protocol.timeout_keep_alive = cast("Any", KEEP_ALIVE)
    protocol.timeout_keep_alive_task = None
    protocol.transport = cast(
        "Any", SimpleNamespace(is_closing=lambda: bool(ends), close=lambda: ends.append(loop.now))
    )
    for out, asked in answers:
        loop.go(out)
        protocol._rest()
        assert len(loop.timers) == 1
        if asked is not None:
            loop.go(asked)
            protocol._unset_keepalive_if_required()
    loop.go(9)
    assert bool(ends) is closed
    assert all(end == pytest.approx(answers[-1][0] + KEEP_ALIVE, abs=0.02) for end in ends)
    assert len(loop.timers) <= 1
