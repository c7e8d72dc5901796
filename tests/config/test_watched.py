"""Files that count until they are others: read when they change, and by one thread however many look."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from hpcgate.config.watched import Watched


class Reading:
    """Two files that are read as one text; each time is noted."""

    def __init__(self, directory: Path, most: int = 100) -> None:
        self.one, self.two = directory / "one", directory / "two"
        self.one.write_text("a")
        self.two.write_text("b")
        self.times = 0
        self.watched = Watched("tests.watched", self.parse, self.one, self.two, most=most)

    def parse(self, one: bytes, two: bytes) -> str:
        self.times += 1
        return one.decode() + two.decode()


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    return Reading(tmp_path)


def replaced(path: Path, content: str) -> None:
    path.with_suffix(".new").write_text(content)
    os.replace(path.with_suffix(".new"), path)


def written(path: Path, content: str) -> None:
    """Write as much as before into the same file, within a clock's tick: the kernel's may be as coarse as 10 ms."""
    before = os.stat(path).st_ctime_ns
    while os.stat(path).st_ctime_ns == before:
        path.write_text(content)


@pytest.mark.parametrize("change", [replaced, written])
def test_files_are_read_when_one_of_them_has_changed(reading: Reading, change: object) -> None:
    assert callable(change)
    assert [reading.watched.read() for _ in range(3)] == ["ab"] * 3
    assert (reading.times, reading.watched.version) == (1, 1)
    change(reading.two, "c")
    assert [reading.watched.read() for _ in range(3)] == ["ac"] * 3
    assert (reading.times, reading.watched.version) == (2, 2)


def test_what_is_read_once_is_the_same_object(tmp_path: Path) -> None:
    """By which who looks knows that nothing has changed."""
    (tmp_path / "one").write_text("a")
    watched = Watched("tests.watched", lambda content: [content], tmp_path / "one")
    assert watched.read() is watched.read()


def test_files_that_say_nothing_that_makes_sense_are_read_once(reading: Reading) -> None:
    reading.one.write_bytes(b"\xff")
    for _ in range(3):
        with pytest.raises(UnicodeDecodeError):
            reading.watched.read()
    assert reading.times == 1
    replaced(reading.one, "x")
    assert reading.watched.read() == "xb"


def test_a_file_that_is_not_there_is_looked_for_again(reading: Reading) -> None:
    reading.watched.read()
    reading.one.unlink()
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            reading.watched.read()
    reading.one.write_text("x")
    assert reading.watched.read() == "xb"


def test_a_file_may_be_so_long(tmp_path: Path) -> None:
    reading = Reading(tmp_path, most=3)
    replaced(reading.one, "123")
    assert reading.watched.read() == "123b"
    replaced(reading.one, "1234")
    with pytest.raises(OSError, match="more than 3 bytes"):
        reading.watched.read()


async def test_files_that_hang_hold_one_thread_and_what_they_say_in_the_end_counts(reading: Reading) -> None:
    begun, goes_on = threading.Semaphore(0), threading.Event()
    parse = reading.parse

    def hanging(one: bytes, two: bytes) -> str:
        begun.release()
        goes_on.wait()
        return parse(one, two)

    watched = Watched("tests.watched", hanging, reading.one, reading.two)
    looks = [asyncio.create_task(watched.look(600.0)) for _ in range(20)]
    try:
        assert await asyncio.to_thread(begun.acquire)
        assert watched.under_way
        looks[0].cancel()
        with pytest.raises(TimeoutError):
            await watched.look(0.01)
    finally:
        goes_on.set()
    assert await asyncio.gather(*looks[1:]) == ["ab"] * 19
    assert not begun.acquire(blocking=False)
    assert await watched.look(600.0) == "ab"
    assert reading.times == 1
