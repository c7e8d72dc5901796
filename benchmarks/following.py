"""`python -m benchmarks.following`: what it costs that many follow files that grow.

A thousand follow a hundred files of one user, ten each, by server-sent events; the files grow by 100 KB/s in all.
Beside it ``ssh host tail -F`` by OpenSSH, a process for each who follows, of which fewer tell what one costs.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table

from benchmarks.machine import description
from benchmarks.processes import children, comm, cpu_seconds, family_seconds, resident
from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.packages import program
from hpcgate.demo.sshd import Sshd
from hpcgate.demo.users import User

RESULTS = Path(__file__).with_name("following.md")
FILES = 100
GROWTH = 1000
"""Bytes a second that each file grows by."""
COLUMNS = (
    "how",
    "followers",
    "followers whose bytes differ from the file",
    "looks/s",
    "gateway CPU %",
    "login node CPU %",
    "login node memory MiB",
    "KiB a follower",
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    how: str
    followers: int
    wrong: int
    looks: float | None
    gateway: float | None
    node: float
    memory: int

    @property
    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        return (
            self.how,
            str(self.followers),
            str(self.wrong),
            "" if self.looks is None else f"{self.looks:.0f}",
            "" if self.gateway is None else f"{self.gateway:.0f}",
            f"{self.node:.0f}",
            f"{self.memory / 2**20:.1f}",
            f"{self.memory / 1024 / self.followers:.1f}",
        )


def descendants(pid: int) -> Iterator[int]:
    """Yield the processes below one."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def memory_below(pid: int) -> int:
    """Return the bytes that all processes below one hold for themselves."""
    total = 0
    for each in descendants(pid):
        with contextlib.suppress(OSError, RuntimeError):
            total += resident(each)
    return total


@dataclass(frozen=True, slots=True)
class Bench:
    """The cluster, and the files that grow.

    Attributes:
        seconds: How long they do.
    """

    cluster: Cluster
    sshd: Sshd
    gateway: Gateway
    user: User
    paths: tuple[Path, ...]
    seconds: float

    async def grow(self) -> None:
        """Have each file grow, once a second; at the end each has a last line."""
        line = b"x" * (GROWTH - 1) + b"\n"
        for _ in range(int(self.seconds)):
            for path in self.paths:
                with path.open("ab") as file:
                    file.write(line)
                await asyncio.sleep(1 / len(self.paths))

    def empty(self) -> None:
        """Begin anew."""
        for path in self.paths:
            path.write_bytes(b"")

    async def by_gateway(self, followers: int) -> Row:
        """Follow by server-sent events."""
        self.empty()
        headers = {"Authorization": f"Bearer {self.cluster.token(self.user)}", "Accept": "text/event-stream"}
        got = [bytearray() for _ in range(followers)]
        size = int(self.seconds) * GROWTH
        async with aiohttp.ClientSession(
            headers=headers, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        ) as http:
            begun = asyncio.Semaphore(0)
            tasks = [
                asyncio.create_task(self._follow(http, self.paths[number % len(self.paths)], got[number], size, begun))
                for number in range(followers)
            ]
            for _ in tasks:
                await begun.acquire()
            looks, cpu = await self._looks(http), cpu_seconds(self.gateway.pid)
            node, started = family_seconds(self.sshd.pid), time.monotonic()
            await self.grow()
            took, memory = time.monotonic() - started, memory_below(self.sshd.pid)
            row = Row(
                "GET files/follow",
                followers,
                0,
                (await self._looks(http) - looks) / took,
                100 * (cpu_seconds(self.gateway.pid) - cpu) / took,
                100 * (family_seconds(self.sshd.pid) - node) / took,
                memory,
            )
            async with asyncio.timeout(600):
                await asyncio.gather(*tasks)
        wrong = sum(content != self.paths[number % len(self.paths)].read_bytes() for number, content in enumerate(got))
        return Row(row.how, row.followers, wrong, row.looks, row.gateway, row.node, row.memory)

    async def _follow(
        self, http: aiohttp.ClientSession, path: Path, got: bytearray, size: int, begun: asyncio.Semaphore
    ) -> None:
        url = f"{self.gateway.url}/filesystem/demo/files/follow"
        async with http.get(url, params={"path": str(path)}) as answer:
            answer.raise_for_status()
            buffer = b""
            first = True
            async for block in answer.content.iter_any():
                if first:
                    begun.release()
                    first = False
                *events, buffer = (buffer + block).split(b"\n\n")
                for event in events:
                    if event.startswith(b"event: output"):
                        got += json.loads(event.rpartition(b"\ndata: ")[2])["text"].encode()
                if len(got) >= size:
                    return

    async def _looks(self, http: aiohttp.ClientSession) -> float:
        async with http.get(f"{self.gateway.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("hpcgate_follow_looks_total"))

    def by_ssh(self, followers: int) -> Row:
        """Follow by a ``tail -F`` each, over a connection of its own."""
        self.empty()
        known = self.cluster.directory / "bench-known-hosts"
        known.write_text(self.sshd.known_hosts_line + "\n")
        argv = [program("ssh"), "-q", "-T", "-p", str(self.sshd.port), "-i", str(self.user.private_key)]
        argv += ["-oIdentitiesOnly=yes", f"-oUserKnownHostsFile={known}", "-oBatchMode=yes"]
        argv.append(f"{self.user.name}@{self.sshd.host}")
        with contextlib.ExitStack() as stack:
            outputs = []
            for number in range(followers):
                output = stack.enter_context((self.cluster.directory / f"bench-tail-{number}").open("w+b"))
                path = self.paths[number % len(self.paths)]
                process = subprocess.Popen([*argv, f"exec tail -n +1 -F {path}"], stdout=output, stdin=subprocess.PIPE)
                stack.callback(process.wait)
                stack.callback(process.kill)
                outputs.append((path, output))
                # One at a time: sshd drops those beyond its MaxStartups.
                while self.tails() <= number:
                    time.sleep(0.02)
            node, started = family_seconds(self.sshd.pid), time.monotonic()
            asyncio.run(self.grow())
            took, memory = time.monotonic() - started, memory_below(self.sshd.pid)
            cpu = 100 * (family_seconds(self.sshd.pid) - node) / took
            time.sleep(3)
            wrong = sum(Path(output.name).read_bytes() != path.read_bytes() for path, output in outputs)
        return Row("ssh host tail -F", followers, wrong, None, None, cpu, memory)

    def tails(self) -> int:
        """Count the tails that run."""
        return sum(comm(pid) == "tail" for pid in descendants(self.sshd.pid))


def measure(chosen: argparse.Namespace, console: Console) -> list[Row]:
    """Measure both ways."""
    rows = []
    with Cluster(progress=console.print) as cluster:
        streams = {"max_followers": 10 * chosen.followers, "max_followers_per_user": 10 * chosen.followers}
        config = cluster.write_gateway_config(
            cluster.directory / "following.yaml", streams=streams, metrics={"path": "/metrics"}
        )
        gateway = cluster.start_gateway(config)
        user = cluster.users[0]
        paths = tuple(user.home / f"grows-{number}" for number in range(FILES))
        for path in paths:
            path.write_bytes(b"")
            os.chown(path, user.uid, user.gid)
        ways: list[Callable[[Bench], Row]] = [
            lambda bench: asyncio.run(bench.by_gateway(chosen.followers)),
            lambda bench: bench.by_ssh(chosen.tails),
        ]
        for way in ways:
            rows.append(way(Bench(cluster, cluster.sshd, gateway, user, paths, chosen.seconds)))
            console.print("  ".join(rows[-1].cells))
    return rows


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.following", description=__doc__)
    parser.add_argument("--followers", type=int, default=1000)
    parser.add_argument("--tails", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each row (default 20)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the table (default %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 1 if a byte was lost or doubled."""
    chosen = options(arguments)
    console = Console()
    machine = description("a Python client")
    rows = measure(chosen, console)
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row.cells)
    Console(width=max(console.width, 130)).print(table)
    ours, theirs = rows
    ratio = (theirs.memory / theirs.followers) / (ours.memory / ours.followers)
    lines = [
        "# Following files",
        "",
        f"Made by `python -m benchmarks.following`: {FILES} files of one user grow by {FILES * GROWTH // 1000} KB/s in",
        f"all for {chosen.seconds:g} s. Percents are of one core. On the login node a follower by `ssh` takes",
        f"{ratio:.0f} times the memory.",
        "",
        *(f"- {line}" for line in machine),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|" + "---:|" * (len(COLUMNS) - 1),
        *("| " + " | ".join(row.cells) + " |" for row in rows),
    ]
    chosen.output.write_text("\n".join(lines) + "\n")
    return 1 if any(row.wrong for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
