"""Reading the log of a running gateway, whose lines are written by a thread, a moment after what they tell of."""

import time
import uuid
from pathlib import Path

import httpx


def settled(url: str, log: Path) -> str:
    """Return a gateway's log as it is once all is written that was told before this call.

    Lines keep their order: a request of its own is waited for.
    """
    mark = str(uuid.uuid4())
    httpx.get(f"{url}/status/liveness", headers={"X-Request-ID": mark}, timeout=600).raise_for_status()
    deadline = time.monotonic() + 120
    while mark not in (text := log.read_text()):
        assert time.monotonic() < deadline, text[-2000:]
        time.sleep(0.02)
    return text
