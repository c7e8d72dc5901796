"""`python -m benchmarks.polling`: what many clients that poll for jobs cost the scheduler.

A hundred clients of one user ask for the user's jobs, or each for a job of its own, again and again; squeue and sacct
on the login node count how often they are run. Each poll by itself would run both once.
"""

import argparse
import asyncio
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table

from benchmarks.counted_slurm import COMMANDS, CountedSlurm
from benchmarks.machine import description
from benchmarks.measure import Measurement, hammer
from hpcgate.demo.cluster import Cluster

RESULTS = Path(__file__).with_name("polling.md")
JOBS = 100
COLUMNS = (
    "what is polled",
    "read_cache",
    "clients",
    "polls/s",
    "p50 ms",
    "p99 ms",
    "errors",
    "queries",
    "polls a query",
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table; `queries` counts the runs of squeue and sacct together."""

    what: str
    cache: float
    clients: int
    measured: Measurement
    queries: int

    @property
    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        found = self.measured
        polls = f"{found.done * len(COMMANDS) / self.queries:.0f}" if self.queries else "all"
        figures = (f"{found.rate:.0f}", f"{found.p50:.0f}", f"{found.p99:.0f}", str(found.errors), str(self.queries))
        return (self.what, f"{self.cache:g} s", str(self.clients), *figures, polls)


def measure(cluster: Cluster, clients: int, seconds: float, console: Console) -> list[Row]:
    """Measure each kind of poll, alone, by many clients, and with a cache."""
    counted = CountedSlurm(cluster)
    systems = [
        cluster.cluster_settings("demo", sshd=counted.sshd),
        cluster.cluster_settings("cached", sshd=counted.sshd, scheduler={"read_cache": 2}),
    ]
    config = cluster.write_gateway_config(cluster.directory / "polling.yaml", clusters=systems)
    gateway = cluster.start_gateway(config)
    user = cluster.users[0]
    wrap = "for i in $(seq $0); do sbatch --parsable --hold --wrap true; done"
    ids = cluster.as_user(user, ["sh", "-c", wrap, str(JOBS)], timeout=120).stdout.split()
    headers = {"Authorization": f"Bearer {cluster.token(user)}"}
    ways = (("GET jobs", [""]), ("GET jobs/{id}, each its own", [f"/{job_id}" for job_id in ids]))

    async def poll(url: str, paths: Sequence[str], count: int) -> Measurement:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as http:
            turns = itertools.cycle(paths)

            async def ask() -> None:
                async with http.get(url + next(turns)) as answer:
                    answer.raise_for_status()
                    await answer.read()

            await hammer(ask, count, 1)
            before[0] = counted.queries()
            return await hammer(ask, count, seconds)

    before = [0]
    rows = []
    for what, paths in ways:
        for system, cache, count in (("demo", 0.0, 1), ("demo", 0.0, clients), ("cached", 2.0, clients)):
            measured = asyncio.run(poll(f"{gateway.url}/compute/{system}/jobs", paths, count))
            rows.append(Row(what, cache, count, measured, counted.queries() - before[0]))
            console.print("  ".join(rows[-1].cells))
    return rows


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.polling", description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row (default 4)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the table (default %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 1 if any poll failed."""
    chosen = options(arguments)
    console = Console()
    with Cluster(progress=console.print) as cluster:
        machine = description("a Python client")
        rows = measure(cluster, chosen.clients, chosen.seconds, console)
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row.cells)
    Console(width=max(console.width, 110)).print(table)
    lines = [
        "# Polling for jobs",
        "",
        f"Made by `python -m benchmarks.polling`, in `make bench`: {JOBS} jobs of one user on a cluster with",
        "accounting, asked for by kept-open connections. A poll by itself costs two queries: squeue asks the",
        "controller, sacct the database. The last column says how many polls such a pair of queries answered.",
        "",
        *(f"- {line}" for line in machine),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|" + "---:|" * (len(COLUMNS) - 1),
        *("| " + " | ".join(row.cells) + " |" for row in rows),
    ]
    chosen.output.write_text("\n".join(lines) + "\n")
    return 1 if any(row.measured.errors for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
