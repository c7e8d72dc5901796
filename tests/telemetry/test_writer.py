"""Lines on their way to a file that hangs, fails or is slow: nobody waits for it, and what is lost is counted."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from hpcgate.telemetry import writer as writing
from hpcgate.telemetry.writer import WRITERS, Writer, Writers


class File:
    """Takes lines while its gate is open, and hangs else."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.lines: list[str] = []

    def write(self, lines: Sequence[str]) -> int:
        self.gate.wait(120)
        self.lines += lines
        return len(lines)


@pytest.mark.parametrize(
    ("most", "lines", "kept"),
    [
        ({"most_lines": 3}, ["a"] * 5, 3),
        ({"most_bytes": 30}, ["a" * 10] * 5, 3),
        ({"most_bytes": 30}, ["a" * 31, "b"], 1),
        ({}, ["a"] * 100_005, 100_000),
        ({}, ["a" * 1024 * 1024] * 20, 16),
    ],
)
async def test_a_file_that_hangs_holds_nobody_and_takes_so_much_memory(
    most: dict[str, Any], lines: list[str], kept: int
) -> None:
    file, told = File(), threading.Semaphore(0)
    dropped: list[int] = []

    def on_dropped(count: int) -> None:
        dropped.append(count)
        told.release()

    writer = Writer("test", file.write, on_dropped=on_dropped, **most)
    for line in lines:
        writer.put(line, len(line))
    assert (writer.waiting, writer.dropped) == (kept, len(lines) - kept)
    assert dropped == []
    file.gate.set()
    assert await asyncio.to_thread(told.acquire, timeout=600)
    assert dropped == [len(lines) - kept]
    assert writer.close(120) == 0
    assert len(file.lines) == kept


def test_who_has_nothing_else_to_do_waits_for_a_moment_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    wait_for = threading.Condition.wait_for

    def noted(self: threading.Condition, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        if timeout is not None:
            waits.append(timeout)
        return wait_for(self, predicate, 0.01 if timeout is not None else None)

    monkeypatch.setattr(threading.Condition, "wait_for", noted)
    file = File()
    writer = Writer("test", file.write)
    for _ in range(3):
        writer.put("line", 4)
    assert waits == [writing.PATIENCE]
    assert writer.close() == 3
    file.gate.set()


def test_what_is_not_written_is_tried_again_and_a_fault_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "AGAIN", 0.0)
    written: list[str] = []
    answers = iter([0, 1, 0, 2])

    def write(lines: Sequence[str]) -> int:
        if lines[0] == "worse":
            raise ZeroDivisionError
        done = min(next(answers, len(lines)), len(lines))
        written.extend(lines[:done])
        return done

    writer = Writer("test", write)
    for line in ("a", "b", "worse", "c"):
        writer.put(line, 1)
    assert writer.close(120) == 0
    assert written == ["a", "b", "c"]


def test_what_is_lost_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PATIENCE", 0.01)
    lost: list[int] = []
    writers = Writers()
    first = writers.add(Writer("one", lambda _: 0, on_lost=lost.append))
    first.put("line", 4)
    assert first.close(0.01) == 1
    first.put("another", 7)
    assert first.close(0.01) == 2
    writers.add(Writer("one", lambda _: 0))
    assert lost == [1, 1]


def test_one_takes_the_place_of_another_of_its_name() -> None:
    writers, file = Writers(), File()
    file.gate.set()
    first = writers.add(Writer("one", file.write))
    first.put("line", 4)
    second = writers.add(Writer("one", file.write))
    assert list(writers) == [second]
    assert file.lines == ["line"]
    assert WRITERS is not writers
