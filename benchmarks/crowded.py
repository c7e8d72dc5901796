"""`python -m benchmarks.crowded`: what an answer costs among thousands who wait, beside what it costs among few.

One gateway has both crowds of connections, which take turns of some thousands of requests, each asking again as soon as
it is answered. What is compared is the CPU time of the gateway for each good answer, by the kernel's count of
nanoseconds: a loop at its limit answers as many as that allows, whatever share of a core it gets. So the share of the
goodput that is left with many can be told while the machine does other work, if there are turns enough: the lowest
quartile of them is what is compared.
"""

import argparse
import asyncio
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast
from urllib.parse import quote

import uvloop

from benchmarks.throughput import _make_files
from hpcgate.demo.cluster import Cluster, Options
from hpcgate.demo.ports import HOST

KEPT = 3600
"""Seconds for which a connection may rest while the other crowd has its turn."""
AT_ONCE = 100
"""Connections that are opened at a time."""


def nanoseconds(pid: int) -> int:
    """Return the CPU time of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


class Client(asyncio.Protocol):
    """One connection, which asks again once it is answered, as long as there is something to ask."""

    def __init__(self, crowd: "Crowd") -> None:
        self.crowd = crowd
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]):
            self.received = b""
            self.crowd.answered(self, head[9:12].decode())

    def connection_lost(self, exc: Exception | None) -> None:
        self.crowd.lost()


class Crowd:
    """Some connections to the gateway."""

    def __init__(self, request: bytes, count: int) -> None:
        self.request = request
        self.count = count
        self.each: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.clients: list[Client] = []
        self.left = self.under_way = 0
        self.over = asyncio.Event()

    async def connect(self, port: int) -> None:
        """Open all of them."""
        loop = asyncio.get_running_loop()
        for begun in range(0, self.count, AT_ONCE):
            some = range(min(AT_ONCE, self.count - begun))
            made = await asyncio.gather(*(loop.create_connection(lambda: Client(self), HOST, port) for _ in some))
            self.clients += [client for _, client in made]

    async def turn(self, total: int, pid: int) -> float:
        """Ask so many times, at least once on each connection; return the microseconds of CPU of a good answer."""
        self.over.clear()
        self.statuses.clear()
        self.left = max(total, self.count)
        before = nanoseconds(pid)
        for client in self.clients:
            self._ask(client)
        await self.over.wait()
        return (nanoseconds(pid) - before) / 1000 / max(1, self.statuses["200"])

    def _ask(self, client: Client) -> None:
        self.left -= 1
        self.under_way += 1
        client.transport.write(self.request)

    def answered(self, client: Client, status: str) -> None:
        """Take down an answer, and ask on."""
        self.statuses[status] += 1
        self.under_way -= 1
        if self.left:
            self._ask(client)
        elif not self.under_way:
            self.over.set()

    def lost(self) -> None:
        """A connection has ended, which none is to before the end."""
        self.statuses["lost"] += 1
        self.under_way -= 1
        if not self.under_way:
            self.over.set()


async def compare(cluster: Cluster, chosen: argparse.Namespace) -> list[Crowd]:
    """Have both crowds take turns."""
    user = cluster.users[0]
    _make_files(user)
    http = {"keep_alive": KEPT, "header_timeout": KEPT}
    gateway = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "crowded.yaml", http=http))
    path = f"/filesystem/demo/ops/stat?path={quote(str(user.home / 'bench' / 'file-4k.txt'))}"
    head = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {cluster.token(user)}\r\n\r\n"
    crowds = [Crowd(head.encode(), count) for count in (chosen.few, chosen.many)]
    for crowd in crowds:
        await crowd.connect(int(gateway.url.rpartition(":")[2]))
        await crowd.turn(chosen.requests, gateway.pid)
    for number in range(chosen.turns):
        for crowd in crowds if number % 2 else crowds[::-1]:
            crowd.each.append(await crowd.turn(chosen.requests, gateway.pid))
            print(f"{crowd.count:6,} connections: {crowd.each[-1]:6.0f} µs each, {dict(crowd.statuses)}", flush=True)
    return crowds


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crowded", description=__doc__)
    parser.add_argument("--few", type=int, default=200, help="connections (default 200)")
    parser.add_argument("--many", type=int, default=5000, help="connections (default 5000)")
    parser.add_argument("--turns", type=int, default=8, help="of each (default 8)")
    parser.add_argument("--requests", type=int, default=5000, help="of a turn (default 5000)")
    chosen = parser.parse_args(arguments)
    with Cluster(Options(roles=("crowded",)), progress=print) as cluster:
        crowds = uvloop.run(compare(cluster, chosen))
    lowest = [statistics.quantiles(crowd.each, n=4)[0] for crowd in crowds]
    print(f"{lowest[0]:.0f} µs of CPU for an answer among few, {lowest[1]:.0f} among many: {lowest[0] / lowest[1]:.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
