"""`python -m benchmarks.overload`: what is left of the rate when more ask than can be served, and who is served then.

The mix of the throughput benchmark in a closed loop of ever more clients, and at five times the best rate in an open
one: on a core that the gateway has to itself, and on one that it shares with three busy loops. Then few users beside
many connections without a valid token. Each rate stands as a share of the best one in the same place.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from benchmarks import open_loop, strangers
from benchmarks.machine import description
from benchmarks.measure import Measurement
from benchmarks.processes import cpu_seconds, resident, started
from benchmarks.scaling import balanced
from benchmarks.throughput import Bench
from hpcgate.demo.cluster import Cluster, Gateway, Options

RESULTS = Path(__file__).with_name("overload.md")
USERS = 200
CLIENTS = (100, 200, 500, 1000, 2000)
KEPT = 0.85
"""The share of the best rate that is to be reached under any load."""
UNREFUSED = 1000
"""Of so many clients in a closed loop nobody is refused."""
MEMORY = 100
"""MiB that two thousand waiting requests may take."""
TIMES = 5
OPEN_CONNECTIONS = 6000
"""So many that more wait than may: some are refused."""
FEW = 200
"""So few that nobody is: what the sender of open loops, which takes more of the machine than wrk, has at best."""
BUSY_LOOPS = 3
SHARED_TIMES = 3
"""So many times as long a row is on a shared core, for taking the same connections takes longer there."""
MANY = 1000
"""From so many clients on a row is twice as long, for taking their connections is part of it."""
STRANGERS = (600, 1000, 3000)
BESIDE = 20
"""Users beside the strangers."""
COLUMNS = (
    "where", "load", "good/s", "of the best", "refused or failed", "p50 ms", "p99 ms", "cpu µs each", "MiB more",
    "reached",
)  # fmt: skip
STRANGER_COLUMNS = (
    "strangers", "connections", "users served", "p50 ms", "times alone", "gateway's CPU, times alone", "reached",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the first table; `cpu` is the gateway's own, in seconds."""

    where: str
    load: str
    clients: int
    found: Measurement
    cpu: float
    memory: float
    share: float = 0.0

    @property
    def reached(self) -> bool:
        """Whether it is as it should be."""
        refused = self.found.errors if 0 < self.clients <= UNREFUSED else 0
        return self.share >= KEPT and not refused and (self.memory <= MEMORY or not self.clients)

    @property
    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        found = self.found
        each = f"{self.cpu / max(1, found.done) * 1e6:.0f}"
        return (
            self.where, self.load, f"{found.rate:,.0f}", f"{self.share:.0%}", str(found.errors), f"{found.p50:.0f}",
            f"{found.p99:.0f}", each, f"{self.memory:.0f}", "yes" if self.reached else "**no**",
        )  # fmt: skip


@contextmanager
def shared_core(gateways: Sequence[Gateway]) -> Iterator[None]:
    """Put processes on one core, which three busy loops share with them."""
    core = {min(os.sched_getaffinity(0))}
    everywhere = os.sched_getaffinity(0)
    loops = [subprocess.Popen(["sh", "-c", "while :; do :; done"], start_new_session=True) for _ in range(BUSY_LOOPS)]
    try:
        for loop in loops:
            os.sched_setaffinity(loop.pid, core)
        for gateway in gateways:
            _pin(gateway.pid, core)
        # The load's core is the other one.
        os.sched_setaffinity(0, everywhere - core or everywhere)
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
        os.sched_setaffinity(0, everywhere)
        for gateway in gateways:
            _pin(gateway.pid, everywhere)


def _pin(pid: int, cores: set[int]) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


class Watch:
    """The most memory that processes hold while something goes on, and the CPU seconds that they take."""

    def __init__(self, gateways: Sequence[Gateway]) -> None:
        self._gateways = gateways
        self._over = threading.Event()
        self.most = 0
        self.cpu = 0.0

    def _cpu(self) -> float:
        return sum(cpu_seconds(one.pid) for one in self._gateways)

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.cpu = -self._cpu()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu += self._cpu()
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.5):
            self.most = max(self.most, sum(resident(one.pid) for one in self._gateways))


class Overload:
    """Measures one arrangement.

    Args:
        url: Where requests go.
        gateways: The processes that serve them.
        where: What the arrangement is called.
        times: By how much rows are longer.
    """

    def __init__(
        self, bench: Bench, url: str, gateways: Sequence[Gateway], where: str, console: Console, times: float = 1
    ) -> None:
        self.bench = bench
        self.url = url
        self.gateways = gateways
        self.where = where
        self.console = console
        self.seconds = bench.seconds * times
        self._at_rest = 0

    def rows(self, clients: Sequence[int], *, cold: int = 0) -> list[Row]:
        """Measure closed loops of so many clients, then an open one."""
        bench = self.bench
        bench.load.measure_mix(self.url, bench.asked, 100, 5)
        self._at_rest = sum(resident(one.pid) for one in self.gateways)
        rows = [self._closed(count, 2 if count >= MANY else 1) for count in clients]
        best = max(row.found.rate for row in rows)
        # What this sender takes of the machine is the same in both.
        few = self._open(TIMES * best, FEW)
        many = self._open(TIMES * best, OPEN_CONNECTIONS)
        rows += [replace(few, share=1.0), replace(many, share=many.found.rate / few.found.rate)]
        if cold:
            for gateway in self.gateways:
                gateway.restart()
            rows.append(replace(self._closed(cold, 2), load=f"{cold:,} clients, cold", memory=0, share=1.0))
        rows = [replace(row, share=row.share or row.found.rate / best) for row in rows]
        return rows

    def _closed(self, clients: int, times: float = 1.0) -> Row:
        bench = self.bench
        seconds = self.seconds * times
        with Watch(self.gateways) as watch:
            found = bench.load.measure_mix(self.url, bench.asked, clients, seconds)
        return self._told(Row(self.where, f"{clients:,} clients", clients, found, watch.cpu, self._more(watch)))

    def _open(self, rate: float, connections: int) -> Row:
        with Watch(self.gateways) as watch:
            found, cpu = sent(self.gateways, self.url, self.bench.asked, rate, self.seconds, connections)
        load = f"{TIMES} times the best rate, open loop, {connections:,} connections"
        return self._told(Row(self.where, load, 0, found, cpu, self._more(watch)))

    def _more(self, watch: Watch) -> float:
        return (watch.most - self._at_rest) / 2**20

    def _told(self, row: Row) -> Row:
        # What share of the best it is is not known yet.
        self.console.print(f"{row.where}, {row.load}: {row.found.rate:,.0f}/s, {row.found.errors} refused or failed")
        return row


def sent(
    gateways: Sequence[Gateway],
    url: str,
    asked: Sequence[tuple[str, str]],
    rate: float,
    seconds: float,
    connections: int,
    patience: float = 0,
) -> tuple[Measurement, float]:
    """Send requests at a rate; the answers of the time of sending count, and the CPU seconds of the gateways."""
    parts = urlsplit(url)
    process = started(
        open_loop,
        {
            "host": parts.hostname,
            "port": parts.port,
            "asked": list(asked),
            "connections": connections,
            "rate": rate,
            "seconds": seconds,
            "patience": patience,
            "pids": [one.pid for one in gateways],
        },
    )
    found = json.loads(process.communicate(timeout=seconds + patience + 60)[0])
    good = found["statuses"].get("200", {"count": 0, "p50": 0, "p99": 0})
    bad = sum(of["count"] for status, of in found["statuses"].items() if status != "200")
    return Measurement(good["count"], bad, seconds, good["p50"] * 1000, good["p99"] * 1000), found["cpu"]


def beside_strangers(bench: Bench, counts: Sequence[int], console: Console) -> list[tuple[str, ...]]:
    """Measure twenty users beside strangers of each kind."""
    parts = urlsplit(bench.gateway.url)
    users = bench.cluster.users[:BESIDE]
    tokens = {bench.tokens[user] for user in users}
    asked = [pair for pair in bench.asked if pair[1] in tokens]
    best = bench.load.measure_mix(bench.gateway.url, asked, BESIDE, 4).rate
    rate, seconds = best / 4, bench.seconds

    def measure() -> tuple[Measurement, float]:
        return sent([bench.gateway], bench.gateway.url, asked, rate, seconds, BESIDE, patience=10)

    rows = []
    for kind in strangers.KINDS:
        # Once for each kind: what else the machine does is about the same then.
        alone, cpu_alone = measure()
        for count in counts:
            crowd = started(
                strangers,
                {
                    "host": parts.hostname,
                    "port": parts.port,
                    "kind": kind,
                    "token": bench.tokens[users[0]],
                    "connections": count,
                    "seconds": 60 + seconds,
                },
            )
            assert crowd.stdout is not None
            crowd.stdout.readline()
            found, cpu = measure()
            crowd.kill()
            crowd.communicate()
            served = found.done / max(1, rate * seconds)
            ratio = found.p50 / alone.p50
            reached = served >= 0.99 and ratio <= 2
            row = (
                kind,
                f"{count:,}",
                f"{served:.1%}",
                f"{found.p50:.1f}",
                f"{ratio:.1f}",
                f"{cpu / cpu_alone:.1f}",
                "yes" if reached else "**no**",
            )
            console.print("  ".join(row))
            rows.append(row)
            time.sleep(1)
    return rows


def markdown(rows: Sequence[Row], beside: Sequence[tuple[str, ...]], machine: Sequence[str], seconds: float) -> str:
    """Return the page that is kept."""
    lines = [
        "# More than can be served",
        "",
        "Made by `python -m benchmarks.overload`, in `make bench`: the mix of [the throughput table](results.md) by",
        f"{USERS} users, {seconds:g} s a row, twice as long from {MANY:,} clients on, and all of it {SHARED_TIMES}",
        f"times as long on a shared core. That is one that the gateway shares with {BUSY_LOOPS} busy loops, each in a",
        "session of its own, for the kernel shares a core among sessions first.",
        f"To reach: {KEPT:.0%} of the best rate by the same sender in the same place (closed loops are sent by wrk,",
        f"open ones by `benchmarks/open_loop.py`), nobody refused of up to {UNREFUSED:,} clients, and",
        f"{MEMORY} MiB of memory more for a closed loop. CPU time is the gateway's, by good answers; that of new",
        "connections is part of it, but for open loops, whose connections are there before. The load, sshd and Slurm",
        "share the other core, or what the gateway leaves.",
        "",
        *(f"- {line}" for line in machine),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---:|" * 7 + "---|",
        *("| " + " | ".join(row.cells) + " |" for row in rows),
        "",
        f"{BESIDE} users at a quarter of what they could ask for, beside connections without a valid token. To reach:",
        "99 % served, and a median of at most twice.",
        "",
        "| " + " | ".join(STRANGER_COLUMNS) + " |",
        "|---|" + "---:|" * 5 + "---|",
        *("| " + " | ".join(row) + " |" for row in beside),
    ]
    return "\n".join(lines) + "\n"


def measure(bench: Bench, chosen: argparse.Namespace, console: Console) -> list[Row]:
    """Measure the closed and the open loops in each arrangement."""
    rows: list[Row] = []
    one = [bench.gateway]
    if "free" in chosen.where:
        rows += Overload(bench, bench.gateway.url, one, "a core", console).rows(chosen.clients, cold=1000)
    if "shared" in chosen.where:
        with shared_core(one):
            rows += Overload(bench, bench.gateway.url, one, "a shared core", console, SHARED_TIMES).rows(chosen.clients)
    if "two" in chosen.where:
        second = bench.cluster.start_gateway(bench.gateway.configuration)
        both = [bench.gateway, second]
        with ExitStack() as stack:
            stack.callback(second.stop)
            proxy, url = balanced(bench.cluster, both)
            stack.callback(proxy.stop)
            rows += Overload(bench, url, both, "two processes", console).rows(chosen.clients)
    return rows


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 1 if a row was not reached."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each row (default 8)")
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--where", nargs="*", choices=("free", "shared", "two"), default=["free", "shared", "two"])
    parser.add_argument("--strangers", type=int, nargs="*", default=list(STRANGERS))
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the tables (default %(default)s)")
    chosen = parser.parse_args(arguments)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    console = Console(width=160)
    roles = tuple(f"u{number:03}" for number in range(chosen.users))
    with Cluster(Options(roles=roles), progress=console.print) as cluster:
        bench = Bench(cluster, chosen.seconds, console)
        machine = description("wrk")
        rows = measure(bench, chosen, console)

        beside = beside_strangers(bench, chosen.strangers, console) if chosen.strangers else []
    chosen.output.write_text(markdown(rows, beside, machine, chosen.seconds))
    console.print(chosen.output.read_text())
    return 0 if all(row.reached for row in rows) and all(row[-1] == "yes" for row in beside) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
