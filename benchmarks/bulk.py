"""`python -m benchmarks.bulk`: many jobs in one request, beside as many requests and beside a shell loop of sbatch.

All submit the same jobs, held, to the same Slurm, one after the other in each round, and in another order in each. The
loop is a shell of the user's on the login node's machine. What no program can do without that runs as many sbatch at a
time as the gateway does is shown by xargs, which does nothing else. The login node's CPU is the time of sshd and all
behind it, and of the loop; sbatch is in it, and the gateway and slurmctld are not. Needs root, for the users.
"""

import argparse
import random
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.machine import description
from benchmarks.processes import cpu_seconds, family_seconds
from hpcgate.config.base import SchedulerSettings
from hpcgate.demo.cluster import Cluster, Gateway, Options
from hpcgate.demo.slurm import SlurmOptions
from hpcgate.demo.users import User

RESULTS = Path(__file__).with_name("bulk.md")
COLUMNS = ("", "jobs", "seconds", "of the loop", "login node CPU", "of the loop", "gateway CPU", "slurmctld CPU")
SCRIPT = "#!/bin/bash\n#SBATCH --hold\nexec sleep 600\n"
LOOP = 'i=0; while [ "$i" -lt "$1" ]; do sbatch --parsable "$2" || exit; i=$((i + 1)); done'
SOME = 'seq "$1" | xargs -P "$3" -I "{}" sbatch --parsable "$2"'
LOOP_NAME = "sbatch in a shell loop"
AT_ONCE: int = SchedulerSettings.model_fields["bulk_at_once"].default
MOST = 1000
"""Most jobs of one bulk request."""


@dataclass(slots=True)
class Taken:
    """What one way took in each round, in seconds."""

    wall: list[float] = field(default_factory=list)
    login: list[float] = field(default_factory=list)
    gateway: list[float] = field(default_factory=list)
    slurmctld: list[float] = field(default_factory=list)


class Trial:
    """Ways to submit the same jobs.

    Args:
        cluster: Where.
        gateway: Before it.
        user: Who.
        jobs: How many.
    """

    def __init__(self, cluster: Cluster, gateway: Gateway, user: User, jobs: int) -> None:
        self._cluster = cluster
        self._gateway = gateway
        self._user = user
        self._jobs = jobs
        headers = {"Authorization": f"Bearer {cluster.token(user)}"}
        self._http = httpx.Client(base_url=gateway.url, headers=headers, timeout=600)
        self._job = {"workingDirectory": str(user.home), "script": SCRIPT}
        self._path = str(user.home / "job.sh")
        cluster.as_user(user, ["tee", self._path], input=SCRIPT)
        self.ways: dict[str, Callable[[], None]] = {
            LOOP_NAME: self.loop,
            f"sbatch by xargs, {AT_ONCE} at a time": self.some,
            "one bulk request": self.bulk,
            "one bulk request, a key each": self.keyed,
            "single requests": self.single,
        }
        self.taken = {name: Taken() for name in self.ways}

    def loop(self) -> None:
        """Submit by a shell."""
        self._cluster.as_user(self._user, ["sh", "-c", LOOP, "sh", str(self._jobs), self._path])

    def some(self) -> None:
        """Submit as many at a time as the gateway does, by as little as there can be."""
        self._cluster.as_user(self._user, ["sh", "-c", SOME, "sh", str(self._jobs), self._path, str(AT_ONCE)])

    def bulk(self) -> None:
        """Submit by as few requests as there can be."""
        self._send([{"job": self._job} for _ in range(self._jobs)])

    def keyed(self) -> None:
        """Submit as `bulk`, each once."""
        self._send([{"job": self._job, "idempotencyKey": str(uuid4())} for _ in range(self._jobs)])

    def _send(self, jobs: list[dict[str, object]]) -> None:
        for start in range(0, len(jobs), MOST):
            answer = self._http.post("/compute/demo/jobs/bulk", json={"jobs": jobs[start : start + MOST]})
            answer.raise_for_status()
            errors = [one["error"] for one in answer.json()["jobs"] if one["error"]]
            if errors:
                raise SystemExit(f"not submitted: {errors[0]}")

    def single(self) -> None:
        """Submit by a request each, one after the other."""
        for _ in range(self._jobs):
            self._http.post("/compute/demo/jobs", json={"job": self._job}).raise_for_status()

    def round(self, chance: random.Random) -> None:
        """Try each way once."""
        self.single_warm()
        names = list(self.ways)
        chance.shuffle(names)
        for name in names:
            taken = self.taken[name]
            pids = (self._gateway.daemon.pid, self._cluster.slurm.slurmctld.pid)
            before = [cpu_seconds(pid) for pid in pids]
            login = self._login_node()
            began = time.perf_counter()
            self.ways[name]()
            taken.wall.append(time.perf_counter() - began)
            taken.login.append(self._login_node() - login)
            spent = [cpu_seconds(pid) - was for pid, was in zip(pids, before, strict=True)]
            taken.gateway.append(spent[0])
            taken.slurmctld.append(spent[1])
            queue = self._cluster.slurm.run(["squeue", "-h", "-u", self._user.name, "-o", "%i"]).split()
            if len(queue) != self._jobs:
                raise SystemExit(f"{name}: {len(queue)} jobs instead of {self._jobs}")
            self._cluster.slurm.run(["scancel", f"--user={self._user.name}"])

    def _login_node(self) -> float:
        """Return what sshd and all behind it has taken, and the loop, which is a child of this process."""
        loop = resource.getrusage(resource.RUSAGE_CHILDREN)
        return family_seconds(self._cluster.sshd.pid) + loop.ru_utime + loop.ru_stime

    def single_warm(self) -> None:
        """Have a connection to the login node."""
        self._http.get("/compute/demo/jobs").raise_for_status()

    def rows(self) -> list[list[str]]:
        """Return the table's rows: medians, and of the ratios of each round median, least and largest."""
        loop = self.taken[LOOP_NAME]
        rows = []
        for name, taken in self.taken.items():
            cells = []
            for mine, theirs in ((taken.wall, loop.wall), (taken.login, loop.login)):
                ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
                spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(set(ratios)) > 1 else ""
                cells += [f"{statistics.median(mine):.1f}", f"{statistics.median(ratios):.2f}{spread}"]
            cells += [f"{statistics.median(spent):.2f}" for spent in (taken.gateway, taken.slurmctld)]
            rows.append([name, str(self._jobs), *cells])
        return rows


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the table (default %(default)s)")
    options = parser.parse_args()
    # Those of one round are remembered in the next.
    slurm = SlurmOptions(extra=f"MaxJobCount={10_000 + 4 * options.jobs * options.rounds}")
    with Cluster(Options(slurm=slurm, patience=60)) as cluster:
        gateway = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "gateway.yaml"))
        trial = Trial(cluster, gateway, cluster.user("alice"), options.jobs)
        chance = random.Random(1)
        for number in range(options.rounds):
            trial.round(chance)
            # What breaks off a later round leaves those before it.
            options.output.write_text(page(trial.rows(), number + 1))
        gateway.stop()
    table = Table(*COLUMNS)
    for row in trial.rows():
        table.add_row(*row)
    Console().print(table)


def page(rows: list[list[str]], rounds: int) -> str:
    """Return the table of so many rounds as a page."""
    lines = ["# Many jobs at a time", "", *description("benchmarks.bulk"), f"{rounds} rounds; medians", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
