"""Requests at a fixed rate, however long the answers take, as the world sends them.

`python -m benchmarks.open_loop < JSON` is a process of its own, so that it keeps its pace while the gateway has the
other core. Each request has its moment, and its latency counts from there: also while it waits for a connection to be
free.
"""

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, cast

import uvloop

from benchmarks.processes import cpu_seconds


@dataclass(slots=True)
class Result:
    """What became of all requests: seconds of each, by status."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    broken: int = 0
    unanswered: int = 0
    """Those that were not sent, or not answered before patience was out."""
    without_retry_after: int = 0
    cpu: float = 0.0
    """Processor seconds that those who answer have taken while requests were sent."""


class Line(asyncio.Protocol):
    """One connection, which takes the next request as soon as it is free.

    One of the first asks for liveness before it is free: until it is answered the other side has not taken it, and a
    crowd of new connections is not what is measured.
    """

    def __init__(self, load: "OpenLoop", *, greets: bool) -> None:
        self.load = load
        self.greets = greets
        self.due: float | None = None
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.greets:
            self.transport.write(f"GET /status/liveness HTTP/1.1\r\nHost: {self.load.host}\r\n\r\n".encode())
        else:
            self.load.free.append(self)

    def ask(self, due: float) -> None:
        """Send one request."""
        self.due, self.received = due, b""
        self.transport.write(next(self.load.requests))

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end or (self.due is None and not self.greets):
            return
        lowered = head.lower()
        if len(body) < int(lowered.partition(b"content-length:")[2].split(b"\r\n", 1)[0]):
            return
        if self.due is None:
            self.received, self.greets = b"", False
            self.load.greeted()
            self.load.free.append(self)
            return
        status = int(head.split(b" ", 2)[1])
        self.load.result.seconds.setdefault(status, []).append(time.perf_counter() - self.due)
        self.load.result.without_retry_after += status in (429, 503) and b"\r\nretry-after:" not in lowered
        self.due = None
        self.load.under_way -= 1
        if b"\r\nconnection: close" in lowered:
            return
        self.load.free.append(self)
        self.load.feed()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.load.free:
            self.load.free.remove(self)
        if self.greets:
            self.load.greeted()
        if self.due is not None:
            self.load.result.broken += 1
            self.load.under_way -= 1
        if not self.load.over:
            self.load.connect()


class OpenLoop:
    """Sends requests at a rate for some seconds on at most so many connections."""

    def __init__(
        self, host: str, port: int, asked: Sequence[tuple[str, str]], connections: int, pids: Sequence[int] = ()
    ) -> None:
        self.pids = pids
        self.host, self.port = host, port
        self.requests = cycle(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
            for path, token in asked
        )
        self.connections = connections
        self.free: deque[Line] = deque()
        self.queue: deque[float] = deque()
        self.under_way = 0
        self.missing = connections
        self.there = asyncio.Event()
        self.over = False
        self.result = Result()
        self.tasks: set[asyncio.Task[Any]] = set()

    def connect(self, *, greets: bool = False) -> None:
        """Open one more connection."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.create_connection(lambda: Line(self, greets=greets), self.host, self.port))
        self.tasks.add(task)
        task.add_done_callback(self._connected)

    def _connected(self, task: "asyncio.Task[Any]") -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.result.broken += 1
            self.greeted()

    def greeted(self) -> None:
        """One of the first connections is there, or will not be."""
        self.missing -= 1
        if not self.missing:
            self.there.set()

    def feed(self) -> None:
        """Give what is due to free connections."""
        while self.queue and self.free:
            self.under_way += 1
            self.free.popleft().ask(self.queue.popleft())

    def _cpu(self) -> float:
        return sum(map(cpu_seconds, self.pids))

    async def run(self, rate: float, seconds: float, patience: float) -> Result:
        """Send, then wait for the answers that are missing."""
        for _ in range(self.connections):
            self.connect(greets=True)
        await self.there.wait()
        self.result.cpu = -self._cpu()
        start = time.perf_counter()
        sent = 0
        while (now := time.perf_counter() - start) < seconds:
            while sent < now * rate:
                self.queue.append(start + sent / rate)
                sent += 1
            self.feed()
            await asyncio.sleep(0.002)
        self.result.cpu += self._cpu()
        deadline = time.perf_counter() + patience
        while (self.queue or self.under_way) and time.perf_counter() < deadline:
            self.feed()
            await asyncio.sleep(0.01)
        self.over = True
        self.result.unanswered = len(self.queue) + self.under_way
        return self.result


def main() -> None:
    """Read what to do as JSON, print what became of it as JSON."""
    asked = json.load(sys.stdin)
    load = OpenLoop(asked["host"], asked["port"], asked["asked"], asked["connections"], asked.get("pids", ()))
    result = uvloop.run(load.run(asked["rate"], asked["seconds"], asked.get("patience", 10)))
    shown = {
        "broken": result.broken,
        "cpu": result.cpu,
        "unanswered": result.unanswered,
        "without_retry_after": result.without_retry_after,
        "statuses": {
            str(status): {
                "count": len(times),
                "least": min(times),
                "p50": sorted(times)[len(times) // 2],
                "p99": sorted(times)[int(len(times) * 0.99)],
                "most": max(times),
            }
            for status, times in result.seconds.items()
        },
    }
    print(json.dumps(shown))


if __name__ == "__main__":
    main()
