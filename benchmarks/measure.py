"""What a measurement is, and how it is taken from a loop of coroutines in this process."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a number of clients, each asking again as soon as it has its answer, have seen in a while."""

    done: int
    """Good answers."""
    errors: int
    """Answers that are not 2xx, broken connections, time-outs, exceptions."""
    seconds: float
    p50: float
    """Milliseconds."""
    p99: float
    """Milliseconds."""
    cpu: float = 0.0
    """CPU seconds of whoever did it, where that is known."""

    @property
    def cpu_each(self) -> float:
        """Microseconds of CPU for a good answer."""
        return self.cpu / max(1, self.done) * 1e6

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.done / self.seconds


async def hammer(work: Callable[[], Awaitable[None]], clients: int, seconds: float) -> Measurement:
    """Do ``work`` again and again in as many tasks as there are clients; an exception in it counts as an error."""
    latencies: list[float] = []
    errors = 0
    started, cpu = time.perf_counter(), time.thread_time()
    end = started + seconds

    async def client() -> None:
        nonlocal errors
        while (asked := time.perf_counter()) < end:
            try:
                await work()
            except Exception:
                errors += 1
                # A refused connection must not become a busy loop.
                await asyncio.sleep(0.01)
            else:
                latencies.append(time.perf_counter() - asked)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client())
    elapsed, cpu = time.perf_counter() - started, time.thread_time() - cpu
    latencies.sort()
    return Measurement(len(latencies), errors, elapsed, _percentile(latencies, 50), _percentile(latencies, 99), cpu)


def _percentile(ordered: list[float], percent: int) -> float:
    """Return the percentile in milliseconds, 0 if there is nothing."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1000
