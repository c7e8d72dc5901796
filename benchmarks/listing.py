"""`python -m benchmarks.listing`: the text and the JSON of squeue and sacct, on a cluster with 10,000 jobs.

For each form: what the command takes on the login node, how much it prints, and what it costs to make jobs of it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import description
from hpcgate.demo.cluster import Cluster, Options
from hpcgate.demo.slurm import SlurmOptions
from hpcgate.schedulers.slurm import sacct, squeue
from hpcgate.schedulers.slurm.delimiters import new_mark
from hpcgate.schedulers.slurm.records import Selection
from hpcgate.schedulers.slurm.rest import history, jobs

RESULTS = Path(__file__).with_name("listing.md")
COLUMNS = ("command", "jobs", "seconds", "MB printed", "bytes a job", "seconds to parse", "CPU s of the daemon")


@dataclass(frozen=True, slots=True)
class Form:
    """One way to ask: the command, and what makes jobs of its output."""

    name: str
    argv: list[str]
    parse: Callable[[str], Sequence[Any]]
    daemon: int
    """The process that answers."""


def measure(cluster: Cluster, form: Form, runs: int) -> tuple[str, ...]:
    """Return the row of one form, the quickest of some runs."""
    best: tuple[float, ...] = (float("inf"),)
    for _ in range(runs):
        cpu, began = _cpu(form.daemon), time.perf_counter()
        environment = {} if "--json" in form.argv else squeue.ENVIRONMENT
        text = cluster.as_user(cluster.users[0], form.argv, env=environment, timeout=120).stdout
        asked = time.perf_counter()
        found = form.parse(text)
        best = min(best, (asked - began, len(found), len(text), time.perf_counter() - asked, _cpu(form.daemon) - cpu))
    seconds, jobs, size, parsing, cpu = best
    return (
        form.name, str(jobs), f"{seconds:.2f}", f"{size / 1e6:.1f}", f"{size / max(jobs, 1):.0f}", f"{parsing:.2f}",
        f"{cpu:.2f}",
    )  # fmt: skip


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main(arguments: Sequence[str]) -> int:
    """Fill a cluster with jobs and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listing", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the table (default %(default)s)")
    chosen = parser.parse_args(arguments)
    console = Console()
    limit = f"MaxJobCount={2 * chosen.jobs}"
    with Cluster(Options(slurm=SlurmOptions(extra=limit)), progress=console.print) as cluster:
        user = cluster.users[0]
        console.print(f"submitting {chosen.jobs} jobs")
        submit = "for i in $(seq $0); do sbatch -Q --exclusive --job-name=job-$i --wrap 'sleep 3600' || exit; done"
        cluster.as_user(user, ["sh", "-c", submit, str(chosen.jobs)], timeout=1800)
        everything, own, mark = Selection(), Selection(user=user.name, window=86400), new_mark()
        assert cluster.slurm.slurmdbd is not None
        controller, database = cluster.slurm.slurmctld.pid, cluster.slurm.slurmdbd.pid
        live = [
            Form("squeue, text", squeue.command(everything, mark), lambda text: squeue.parse(text, mark), controller),
            Form(
                "squeue --json", ["squeue", "--json"], lambda text: jobs.parse(json.loads(text), everything), controller
            ),
        ]
        stored = [
            Form("sacct, text", sacct.command(own, mark), lambda text: sacct.parse(text, mark), database),
            Form(
                "sacct --json",
                ["sacct", "--json", *sacct.select(own)],
                lambda text: history.parse(json.loads(text), own),
                database,
            ),
        ]
        console.print("waiting for the database")
        for _ in range(300):
            found = cluster.as_user(user, stored[0].argv, env=squeue.ENVIRONMENT, timeout=120).stdout
            if len(sacct.parse(found, mark)) >= chosen.jobs:
                break
            time.sleep(2)
        rows = [measure(cluster, form, chosen.runs) for form in (*live, *stored)]
        version = cluster.slurm.version
        machine = description("none")
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row)
    Console(width=max(console.width, 110)).print(table)
    lines = [
        f"# Listing {chosen.jobs} jobs",
        "",
        f"Made by `python -m benchmarks.listing`, with Slurm {version}; the quickest of {chosen.runs} runs each. The",
        "text is what hpcgate asks for; the JSON is made into the same jobs by what reads slurmrestd's answers.",
        "",
        *(f"- {line}" for line in machine[:2]),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|" + "---:|" * (len(COLUMNS) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    chosen.output.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
