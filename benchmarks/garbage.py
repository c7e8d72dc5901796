"""`python -m benchmarks.garbage`: what regimes of Python's garbage collector cost, and what they let stand.

For each regime a gateway of its own, first under load, then at rest. Under load every rejected body leaves a reference
cycle that holds 1 MiB, as a fault in a library would. Times are those of the thread, so that others on the machine
count little.
"""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.auth import idp
from tests.front import Front, command, write_config
from tests.transfers.servers import free_port, wait_for_port

MIB = 1024 * 1024
REGIMES = {
    "Python's own": "gc.unfreeze(); gc.set_threshold(700, 10, 10); Garbage.tick = nothing",
    "Python's own, what is loaded apart": "gc.set_threshold(700, 10, 10); Garbage.tick = nothing",
    "by large numbers (20,000, 20, 50)": "gc.set_threshold(20_000, 20, 50); Garbage.tick = nothing",
    "by large numbers, and by time": "gc.set_threshold(20_000, 20, 50)",
    "Python's own, what is loaded apart, and by time": "gc.set_threshold(700, 10, 10)",
    "the youngest by number, and by time": "pass",
    "none": "gc.disable(); Garbage.tick = nothing",
}
"""What is done in the gateway's process after `garbage.set_up`."""

RUNNER = """
import gc, sys, time
from hpcgate.server import garbage
from hpcgate.server.garbage import Garbage
from hpcgate.api import errors as problems
told, began, set_up, answer_to = open({told!r}, "w", 1), [0.0], garbage.set_up, problems.answer_to
def nothing(self): pass
def seen(phase, info):
    if phase == "start":
        began[0] = time.thread_time()
    else:
        told.write(str(time.thread_time() - began[0]) + "\\n")
def as_asked():
    set_up()
    {regime}
    gc.callbacks.append(seen)
def faulty(request, error):
    cycle = [bytearray(1024 * 1024)]
    cycle.append(cycle)
    return answer_to(request, error)
garbage.set_up, problems.answer_to = as_asked, faulty
from hpcgate.cli.commands import main
main()
"""


async def ask(port: int, request: bytes, until: float, pause: float = 0.0) -> int:
    """Send one request after the other on a connection, and return how many were answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answered = 0
    with contextlib.suppress(asyncio.IncompleteReadError):
        while time.monotonic() < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.findall(rb"(?i)content-length: (\d+)", head)[0]))
            answered += 1
            await asyncio.sleep(pause)
    writer.close()
    return answered


def memory(front: Front) -> int:
    """Return the bytes that the gateway has in memory."""
    return int(Path(f"/proc/{front.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def load(front: Front, token: str, clients: int, seconds: float) -> tuple[int, int]:
    """Return how many requests were answered, and by how many bytes the memory grew at most."""
    head = f"Host: x\r\nAuthorization: Bearer {token}\r\n"
    good = f"GET /status/systems HTTP/1.1\r\n{head}\r\n".encode()
    bad = f"POST /compute/demo/jobs HTTP/1.1\r\n{head}Content-Length: 1\r\n\r\nx".encode()
    await ask(front.port, good, time.monotonic() + 1)
    before = most = memory(front)
    until = time.monotonic() + seconds
    tasks = [asyncio.create_task(ask(front.port, good, until)) for _ in range(clients)]
    faulty = asyncio.create_task(ask(front.port, bad, until, 0.05))
    while time.monotonic() < until:
        await asyncio.sleep(0.05)
        most = max(most, memory(front))
    await faulty
    return sum(await asyncio.gather(*tasks)), most - before


@contextlib.contextmanager
def gateway(directory: Path, regime: str) -> Iterator[Front]:
    """Run a gateway."""
    keys = directory / "keys.json"
    keys.write_text(json.dumps({"keys": [idp.jwk("RSA")]}))
    config = write_config(
        directory,
        auth={"authentication": {"token_url": "http://127.0.0.1:9/token", "public_certs": [keys.as_uri()]}},
        clusters=[
            {
                "name": "demo",
                "ssh": {"host": "127.0.0.1", "port": 9},
                "scheduler": {"type": "slurm", "version": "22.05.8", "timeout": 5},
                "file_systems": [{"path": "/", "data_type": "scratch", "default_work_dir": True}],
            }
        ],
    )
    port, log = free_port(), directory / "log"
    runner = RUNNER.format(told=str(directory / "pauses"), regime=regime)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", runner, *command(config, port)[3:]], stdout=output, stderr=output
        )
    try:
        wait_for_port(port, process)
        yield Front(port, log, process)
    finally:
        process.kill()
        process.wait()


def busy(front: Front) -> float:
    """Return the seconds that the gateway has had of a core."""
    fields = Path(f"/proc/{front.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def row(name: str, clients: int, seconds: float) -> str:
    """Measure a regime and return its line."""
    payload = idp.claims(preferred_username="alice", exp=int(time.time()) + 3000)
    with tempfile.TemporaryDirectory() as place, gateway(Path(place), REGIMES[name]) as front:
        time.sleep(1)
        before = busy(front)
        answered, grown = asyncio.run(load(front, idp.token(payload=payload), clients, seconds))
        took = busy(front) - before
        pauses = [float(line) for line in (Path(place) / "pauses").read_text().split()]
    return (
        f"| {name} | {1e6 * took / answered:.0f} | {sum(pauses) / took:.2%} | {len(pauses)} | "
        f"{1e3 * max(pauses, default=0):.1f} | {grown / MIB:.0f} |"
    )


def main() -> None:
    """Print the table."""
    clients, seconds = (int(given) for given in sys.argv[1:3]) if len(sys.argv) > 2 else (200, 10)
    print(f"{clients} clients, {seconds} s each")
    print("| regime | µs of a core a request | of it for garbage | looks | longest ms | MiB more at most |")
    print("|---|--:|--:|--:|--:|--:|")
    for name in REGIMES:
        print(row(name, clients, seconds), flush=True)


if __name__ == "__main__":
    main()
