"""How much the event loop rests."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hpcgate.server.idleness import Idleness


@contextmanager
def crowded_core() -> Iterator[None]:
    """Share one core with three busy processes."""
    cores = os.sched_getaffinity(0)
    core = {min(cores)}
    os.sched_setaffinity(0, core)
    loop = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(loop, start_new_session=True) for _ in range(3)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()
        os.sched_setaffinity(0, cores)


def spin(seconds: float) -> None:
    """Take CPU time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_a_loop_that_sleeps_is_idle_and_one_that_is_kept_from_its_core_is_not() -> None:
    idleness = Idleness()
    try:
        idleness.since(0.0, lag=0.0)
        began = time.monotonic()
        time.sleep(0.3)
        assert idleness.since(time.monotonic() - began, lag=0.0).idle > 0.5
        if idleness._file is None:
            pytest.skip("this kernel does not say how long a thread waited")
        with crowded_core():
            idleness.since(0.0, lag=0.0)
            began = time.monotonic()
            spin(0.3)
            seconds = time.monotonic() - began
            rest = idleness.since(seconds, lag=0.0)
            assert rest.idle < 0.1
            assert 0.2 < rest.had < 0.6 * seconds, "what others had of the core was not its own"
    finally:
        idleness.close()


def test_without_the_kernel_a_late_timer_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError

    monkeypatch.setattr(os, "open", refuse)
    idleness = Idleness()
    now = [0.0]
    monkeypatch.setattr(time, "thread_time", lambda: now[0])
    idleness.since(0.0, lag=0.0)
    for used, lag, idle, had in (
        (0.02, 0.0, 0.8, 0.1),
        (0.05, 0.1, 0.0, 0.05),
        (0.01, 0.1, 0.9, 0.1),
        (0.2, 0.0, 0.0, 0.1),
    ):
        now[0] += used
        rest = idleness.since(0.1, lag=lag)
        assert [rest.idle, rest.had] == pytest.approx([idle, had])
