"""A client that follows: it reads server-sent events, and comes back where it was."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass(frozen=True)
class Event:
    """One event, as it came."""

    name: str
    id: str | None
    data: Any


@contextmanager
def following(url: str, headers: dict[str, str], last: str | None = None, **params: Any) -> Iterator[Iterator[Event]]:
    """Yield the events of a stream, which is 200, without its heartbeats."""
    given = headers | {"Accept": "text/event-stream"} | ({} if last is None else {"Last-Event-ID": last})
    with httpx.stream("GET", url, params=params, headers=given, timeout=600) as answer:
        if answer.status_code != 200:
            answer.read()
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events_in(answer.iter_bytes())


def events_in(blocks: Iterator[bytes]) -> Iterator[Event]:
    """Parse server-sent events. What is cut off is not one."""
    buffer = b""
    for block in blocks:
        *whole, buffer = (buffer + block).split(b"\n\n")
        for text in whole:
            lines = [line.split(": ", 1) for line in text.decode().split("\n") if not line.startswith(":")]
            fields = {name: value for name, value in lines if name != "data"}
            if data := "\n".join(value for name, value in lines if name == "data"):
                yield Event(fields["event"], fields.get("id"), json.loads(data))


@dataclass
class Reading:
    """What a client has read of a file, byte by byte: the text of events, as long as it is the same file."""

    content: str = ""
    position: int | None = None
    mark: str | None = None
    names: list[str] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Add an event, and see that it begins where the last one has ended."""
        self.names.append(event.name)
        if event.name == "truncated":
            self.content, self.position = "", 0
        if event.name == "output":
            assert event.data["offset"] == (self.position if self.position is not None else event.data["offset"])
            self.content += event.data["text"]
            self.mark = event.data["mark"]
        if event.id is not None:
            self.position = int(event.id)

    def until(self, events: Iterator[Event], fact: Callable[[], bool]) -> None:
        """Take events until something is so."""
        while not fact():
            self.take(next(events))


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Run something beside the block, and to its end; what it raises, the block raises."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failed:
        raise failed[0]
