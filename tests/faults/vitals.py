"""What a gateway holds, read off its metrics, and whether it comes back to what it was."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

GIVE_UP = 120.0
"""Seconds after which a test gives up: on a slow machine even a hundred answers take their time."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """Tasks of the event loop, descriptors, SSH connections and channels, and bytes of memory."""

    tasks: int
    descriptors: int
    connections: int
    channels: int
    waiting: int
    memory: int


def vitals(url: str) -> Vitals:
    """Ask a gateway whose metrics are at ``/metrics``."""
    text = httpx.get(f"{url}/metrics", timeout=600).text

    def total(name: str) -> int:
        return round(sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)))

    return Vitals(
        total("hpcgate_asyncio_tasks"),
        total("process_open_fds"),
        total("hpcgate_ssh_pool_connections"),
        total("hpcgate_ssh_pool_channels"),
        total("hpcgate_ssh_pool_waiting") + total("hpcgate_ssh_pool_channel_waiting"),
        total("process_resident_memory_bytes"),
    )


def comes_back(url: str, before: Vitals, seconds: float = GIVE_UP) -> None:
    """Wait until a gateway that nobody asks any more holds no more than before, but for what was learned."""

    def well() -> bool:
        now = vitals(url)
        return (
            now.tasks <= before.tasks
            and now.descriptors <= before.descriptors
            and now.connections <= before.connections
            and now.channels <= before.channels
            and now.waiting == 0
        )

    eventually(well, seconds, lambda: f"{vitals(url)}, but before it was {before}")
    now = vitals(url)
    assert now.memory < before.memory + 60e6, (now, before)


def eventually(condition: Callable[[], bool], seconds: float, words: Callable[[], str] = lambda: "") -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, words()
        time.sleep(0.1)
