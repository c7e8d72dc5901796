"""`python -m benchmarks`: measure the gateway on a demo cluster of its own.

Requests go to 127.0.0.1 alone. Each cell is warmed up, then measured for a short fixed time, beside a bare asyncssh
loop that does the same operation for as many clients on one connection, and a constant answer of the same HTTP stack.
"""

import argparse
import os
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from rich.console import Console
from rich.table import Table

from benchmarks.http_load import Load, best_load
from benchmarks.machine import description
from benchmarks.measure import Measurement
from benchmarks.raw_ssh import RawSsh
from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.users import User

RESULTS = Path(__file__).with_name("operations.md")
OPERATIONS = ("stat", "ls", "head", "download", "jobs")
CLIENTS = (1, 16, 100)
WARM_UP = 1.0
"""Seconds of load before a cell is measured."""
FILES = 20
JOBS = 10
COLUMNS = ("operation", "way", "clients", "requests/s", "p50 ms", "p99 ms", "errors", "of raw asyncssh")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    operation: str
    way: str
    clients: int
    measured: Measurement
    raw: Measurement | None
    """The yardstick, or None for the yardsticks themselves."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        measured = self.measured
        ratio = f"{measured.rate / self.raw.rate:.2f}" if self.raw is not None and self.raw.done else ""
        return (
            self.operation,
            self.way,
            str(self.clients),
            f"{measured.rate:.0f}",
            f"{measured.p50:.1f}",
            f"{measured.p99:.1f}",
            str(measured.errors),
            ratio,
        )


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured, and against what."""

    gateway: Gateway
    load: Load
    raw: RawSsh
    headers: dict[str, str]
    seconds: float

    def rows(self, operations: Sequence[str], clients: Sequence[int]) -> Iterator[Row]:
        """Measure cell after cell."""
        for count in clients:
            yield Row("(constant)", "HTTP alone", count, self.http("/status/liveness/", count), None)
        for operation in operations:
            for count in clients:
                raw = self.raw.measure(operation, count, self.seconds, WARM_UP)
                yield Row(operation, "raw asyncssh", count, raw, None)
                for system, way in WAYS[operation]:
                    yield Row(operation, way, count, self.http(self.path(operation, system), count), raw)

    def path(self, operation: str, system: str) -> str:
        """Return what is asked for."""
        if operation == "jobs":
            return f"/compute/{system}/jobs"
        target = self.raw.directory if operation == "ls" else self.raw.file
        return f"/filesystem/{system}/ops/{operation}?path={quote(str(target))}"

    def http(self, path: str, clients: int) -> Measurement:
        """Measure one path, which must answer 200 to begin with."""
        url = self.gateway.url + path
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(url, headers=self.headers), timeout=20) as answer:
            answer.read()
        self.load.measure(url, self.headers, clients, WARM_UP)
        return self.load.measure(url, self.headers, clients, self.seconds)


FILE_WAYS = (("demo", "SFTP"), ("commands", "commands"))
WAYS = {"stat": FILE_WAYS, "ls": FILE_WAYS, "head": FILE_WAYS, "download": FILE_WAYS, "jobs": (("demo", "commands"),)}


def prepare(cluster: Cluster, user: User) -> RawSsh:
    """Make the files and the jobs that are asked for."""
    directory = user.home / "bench"
    directory.mkdir()
    for number in range(FILES - 1):
        (directory / f"file-{number:02}.txt").write_text("some lines\n" * number)
    line = "0123456789 0123456789 0123456789 0123456789 0123456789 12345678\n"
    file = directory / "file-4k.txt"
    file.write_text(line * (4096 // len(line)))
    if os.geteuid() == 0:
        for path in (directory, *directory.iterdir()):
            os.chown(path, user.uid, user.gid)
    for number in range(JOBS):
        cluster.as_user(user, ["sbatch", "--hold", f"--job-name=bench-{number}", "--wrap", "true"])
    return RawSsh(cluster, user, directory, file)


def start_gateway(cluster: Cluster) -> Gateway:
    """Start a gateway with one system for each way to reach files."""
    systems = [cluster.cluster_settings("demo"), cluster.cluster_settings("commands", ssh={"files": "commands"})]
    return cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "bench.yaml", clusters=systems))


def markdown(rows: Sequence[Row], machine: Sequence[str], seconds: float) -> str:
    """Return the page that is kept."""
    lines = [
        "# Requests a second, operation by operation",
        "",
        "Made by `make bench`. One user asks again and again on a number of kept-open connections;",
        f"each cell is {seconds:g} s after {WARM_UP:g} s of warming up. An answer that is not 2xx is an error and no",
        "request done. The last column is the rate divided by that of a bare asyncssh loop in the same run, which does",
        "the same for as many clients over one connection and one SFTP channel, without HTTP (for `jobs`: runs",
        "`squeue` once for each request, which is the least that has to be asked).",
        "",
        *(f"- {line}" for line in machine),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---:|" * (len(COLUMNS) - 2),
        *("| " + " | ".join(row.cells) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the table."""
    table = Table(*COLUMNS)
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row.cells, style="red" if row.measured.errors else None)
    # A pipe has 80 columns by default, in which the table cannot be read.
    Console(width=max(console.width, 100)).print(table)


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each cell (default 2)")
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the table (default %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 1 if any cell has errors."""
    chosen = options(arguments)
    console = Console()
    rows: list[Row] = []
    with Cluster(progress=console.print) as cluster:
        user = cluster.users[0]
        raw = prepare(cluster, user)
        load = best_load(cluster.directory, console.print)
        machine = description(load.name)
        headers = {"Authorization": f"Bearer {cluster.token(user)}"}
        bench = Bench(start_gateway(cluster), load, raw, headers, chosen.seconds)
        started = time.monotonic()
        for row in bench.rows(chosen.operations, chosen.clients):
            rows.append(row)
            console.print("  ".join(row.cells))
        console.print(f"measured in {time.monotonic() - started:.0f} s")
    show(rows, console)
    chosen.output.write_text(markdown(rows, machine, chosen.seconds))
    return 1 if any(row.measured.errors for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
