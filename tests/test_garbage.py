"""Reference cycles do not stand in a running gateway, however few and small their objects are."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from hpcgate import garbage
from hpcgate.garbage import REST, SOONEST, Garbage


class Held:
    """Something in a cycle."""

    def __init__(self) -> None:
        self.itself = self


class Clock:
    """The time, and that of the core."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.busy = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(garbage.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(garbage.time, "thread_time", lambda: clock.busy)
    return clock


@pytest.fixture
def nothing_by_itself() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def stands() -> "weakref.ref[Held]":
    return weakref.ref(Held())


@pytest.mark.usefixtures("nothing_by_itself")
def test_a_cycle_goes_with_the_next_look(clock: Clock) -> None:
    looks = Garbage()
    looks.tick()
    for _ in range(3):
        cycle = stands()
        looks.tick()
        assert cycle() is not None
        clock.now += SOONEST
        looks.tick()
        assert cycle() is None


@pytest.mark.parametrize("took", [0.001, 0.05, 1.0])
def test_looks_take_no_more_than_a_share_of_the_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, took: float
) -> None:
    """Whatever the machine, and however much there is to look through."""

    def look() -> None:
        clock.busy += took

    monkeypatch.setattr(garbage.gc, "collect", look)
    looks = Garbage()
    began = clock.now
    for _ in range(20_000):
        looks.tick()
        clock.now += 0.1
    looked = clock.now - began
    assert looked / max(SOONEST + 0.2, REST * took + 0.2) <= clock.busy / took <= looked / (REST * took) + 1


def test_what_is_loaded_is_not_looked_through_again() -> None:
    program = "import gc; from hpcgate import app, garbage; garbage.set_up(); print(len(gc.get_objects()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000
