"""`python -m benchmarks.paired --before TREE`: what each row of `make bench` costs with another version, and with this.

TREE is a checkout of the other version with an environment of its own, as `scripts/prepare` makes it there in `.venv`.
Both versions run on one cluster and take many short turns. They are compared by the CPU time of their processes for
each good answer in neighbouring turns, so that what else the machine does counts little. At the same moment they would
share out the machine by chance: on a busy one the ratios are then off by a fifth.
"""

import argparse
import asyncio
import copy
import itertools
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from rich.console import Console

from benchmarks import transfers
from benchmarks.counted_slurm import CountedSlurm
from benchmarks.http_load import Wrk
from benchmarks.machine import description
from benchmarks.measure import Measurement
from benchmarks.overload import sent
from benchmarks.processes import cpu_seconds
from benchmarks.scaling import balanced
from benchmarks.throughput import IDLE_CONNECTIONS, Bench, Crowd
from hpcgate.demo.cluster import Cluster, Gateway, Options
from hpcgate.demo.packages import ensure_installed
from hpcgate.demo.processes import Daemon

RESULTS = Path(__file__).with_name("paired.md")
BUSY = 100
"""Clients of most rows."""
CLOSED = (1000, 2000)
OPEN = (200, 6000)
OPEN_RATE = 15_000
"""Requests a second of open loops: more than any version has served."""
OPERATIONS = ("stat", "ls", "head", "download")
FEW = (1, 16)
"""Clients of the rows of one operation; a hundred are in the table of rates."""
POLLED = 100
"""Jobs, and clients that poll for them."""
TOLERANCE = 1.02
"""What the same version differs from itself by, in the median of a few turns."""
COLUMNS = ("row", "of", "before", "after", "after / before", "least and most", "failed", "slower")
MIB = 1024 * 1024

Taken = tuple[float | None, int]
"""A figure, None if too little was done for one, and how many requests failed."""
Take = Callable[["Version"], Taken]
"""Measures a version once."""
LEAST = 50
"""Good answers in a turn that make a figure."""


class Version:
    """One version of the gateway on the cluster.

    Attributes:
        python: Its interpreter.
        bench: The load on its gateway.
    """

    def __init__(self, name: str, python: str, bench: Bench, gateway: Gateway) -> None:
        self.name = name
        self.python = python
        self.bench = copy.copy(bench)
        self.bench.gateway = gateway
        directory = bench.cluster.directory / f"load-{name}"
        directory.mkdir()
        self.bench.load = Wrk(directory, bench.console.print, bench.load.patience)

    @property
    def gateway(self) -> Gateway:
        """The process of most rows."""
        return self.bench.gateway

    @property
    def cluster(self) -> Cluster:
        """Where it runs."""
        return self.bench.cluster

    def another(self, configuration: Path) -> Gateway:
        """Start one more process of this version."""
        return self.cluster.start_gateway(configuration, python=self.python)

    def ask(self, path: str, clients: int, seconds: float) -> Measurement:
        """Have the first user ask for one thing."""
        headers = {"Authorization": f"Bearer {self.bench.tokens[self.bench.first]}"}
        return self.bench.load.measure(self.gateway.url + path, headers, clients, seconds)


@dataclass(frozen=True, slots=True)
class Case:
    """A row before it is measured; `warm` is done once with each version."""

    name: str
    unit: str
    take: Take
    warm: Callable[[Version], object] = lambda version: None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what the versions took in each turn."""

    case: Case
    before: tuple[float, ...]
    after: tuple[float, ...]
    failed: tuple[int, int]

    @property
    def ratios(self) -> list[float]:
        """What this version took of what the other one did, turn by turn."""
        return [after / before for before, after in zip(self.before, self.after, strict=True)]

    @property
    def slower(self) -> bool:
        """Whether this version took more in three turns of four, and more than chance makes it."""
        ratios = sorted(self.ratios)
        return bool(ratios) and ratios[len(ratios) // 4] > 1 and statistics.median(ratios) > TOLERANCE

    @property
    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        ratios = self.ratios
        if not ratios:
            return (self.case.name, self.case.unit, "", "", "not measured", "", " and ".join(map(str, self.failed)), "")
        digits = 0 if statistics.median(self.before) >= 100 else 1
        return (
            self.case.name,
            self.case.unit,
            f"{statistics.median(self.before):,.{digits}f}",
            f"{statistics.median(self.after):,.{digits}f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
            " and ".join(map(str, self.failed)),
            "**yes**" if self.slower else "no",
        )


def each(gateways: Sequence[Gateway], work: Callable[[], Measurement]) -> Taken:
    """Return the microseconds of CPU that processes take for a good answer."""
    before = sum(cpu_seconds(one.pid) for one in gateways)
    found = work()
    return per_answer(sum(cpu_seconds(one.pid) for one in gateways) - before, found), found.errors


def per_answer(cpu: float, found: Measurement) -> float | None:
    """Return the microseconds of a good answer."""
    return cpu / found.done * 1e6 if found.done >= LEAST else None


def measured(case: Case, before: Version, after: Version, turns: int) -> Row:
    """Measure a row so many times."""
    for version in (before, after):
        case.warm(version)
    taken: list[tuple[Taken, Taken]] = []
    for turn in range(turns):
        if turn % 2:
            second = case.take(after)
            first = case.take(before)
        else:
            first, second = map(case.take, (before, after))
        taken.append((first, second))
    pairs = [(one, other) for (one, _), (other, _) in taken if one and other]
    return Row(
        case,
        tuple(one for one, _ in pairs),
        tuple(other for _, other in pairs),
        (sum(errors for (_, errors), _ in taken), sum(errors for _, (_, errors) in taken)),
    )


CPU = "µs of CPU an answer"


class Rows:
    """The rows of each benchmark, one after the other.

    Args:
        seconds: For each turn of a version.
        stack: Ends what rows start.
    """

    def __init__(self, bench: Bench, versions: Sequence[Version], seconds: float, stack: ExitStack) -> None:
        self.bench = bench
        self.versions = versions
        self.seconds = seconds
        self.stack = stack
        self.file = quote(str(bench.first.home / "bench" / "file-4k.txt"))
        self.directory = quote(str(bench.first.home / "bench"))

    def _mix(self, name: str, clients: int) -> Case:
        return Case(
            name,
            CPU,
            lambda version: each(
                [version.gateway],
                lambda: version.bench.load.measure_mix(version.gateway.url, self.bench.asked, clients, self.seconds),
            ),
            warm=lambda version: version.bench._warm_up(clients),
        )

    def _one(self, name: str, path: str, clients: int) -> Case:
        return Case(
            name,
            CPU,
            lambda version: each([version.gateway], lambda: version.ask(path, clients, self.seconds)),
            warm=lambda version: version.ask(path, clients, 1),
        )

    def throughput(self) -> Iterator[Case]:
        """The rows of `results.md`."""
        everyone = f"mix, {len(self.bench.cluster.users)} users"
        yield self._mix(f"{everyone}, 200 clients", 200)
        yield self._mix(f"{everyone}, 500 clients", 500)

        def cold(version: Version) -> Taken:
            version.gateway.restart()
            # Logins are part of it.
            return each(
                [version.gateway],
                lambda: version.bench.load.measure_mix(version.gateway.url, self.bench.asked, 500, 2 * self.seconds),
            )

        yield Case("the same, 500 clients, cold", CPU, cold)
        yield self._one("stat, 1 user, 100 clients", f"/filesystem/demo/ops/stat?path={self.file}", BUSY)
        yield self._one("GET jobs, 1 user, 100 clients", "/compute/demo/jobs", BUSY)
        yield self._one(
            "stat by commands, 1 user, 100 clients", f"/filesystem/commands/ops/stat?path={self.file}", BUSY
        )
        yield self._one("stat, 1 user, 500 clients", f"/filesystem/demo/ops/stat?path={self.file}", 500)

        def idle(version: Version) -> Taken:
            before, began = cpu_seconds(version.gateway.pid), time.monotonic()
            # The clock that counts processor time has a hundred ticks a second.
            time.sleep(max(10.0, self.seconds))
            return 1e6 * (cpu_seconds(version.gateway.pid) - before) / (time.monotonic() - began), 0

        yield Case("idle, with a connection of each user", "µs of CPU a second", idle,
                   warm=lambda version: version.bench._warm_up(200))  # fmt: skip

    def memory(self) -> Iterator[Case]:
        """The row of `results.md` about memory."""

        def connected(version: Version) -> Taken:
            crowd = Crowd(version.cluster, IDLE_CONNECTIONS, version.python)
            try:
                before, after, errors = asyncio.run(crowd.connect())
            finally:
                crowd.stop()
            return (after - before) / MIB, errors

        yield Case(f"memory of {IDLE_CONNECTIONS:,} idle connections", "MiB", connected)

    def scaling(self) -> Iterator[Case]:
        """The row of `scaling.md` that is not in `results.md`."""
        pairs: dict[str, tuple[list[Gateway], str]] = {}

        def proxied(version: Version) -> Daemon:
            both = [version.gateway, version.another(version.gateway.configuration)]
            self.stack.callback(both[1].stop)
            proxy, url = balanced(version.cluster, both)
            self.stack.callback(proxy.stop)
            pairs[version.name] = both, url
            version.bench.load.measure_mix(url, self.bench.asked, 200, 3)
            return proxy

        def take(version: Version) -> Taken:
            both, url = pairs[version.name]
            return each(both, lambda: version.bench.load.measure_mix(url, self.bench.asked, 200, self.seconds))

        yield Case("mix, two processes behind HAProxy, 200 clients", CPU, take, warm=proxied)

    def overload(self) -> Iterator[Case]:
        """The rows of `overload.md` on a core of the gateway's own."""
        for clients in CLOSED:
            yield self._mix(f"mix, closed loop, {clients:,} clients", clients)

        def opened(connections: int) -> Take:
            def take(version: Version) -> Taken:
                gateway = version.gateway
                found, cpu = sent([gateway], gateway.url, self.bench.asked, OPEN_RATE, 2 * self.seconds, connections)
                time.sleep(1)
                # What is refused is not a failure here.
                return per_answer(cpu, found), 0

            return take

        for connections in OPEN:
            yield Case(f"mix, open loop, {connections:,} connections", CPU, opened(connections))

    def operations(self) -> Iterator[Case]:
        """The rows of `operations.md` that are not in `results.md`."""
        for operation, clients in itertools.product(OPERATIONS, FEW):
            for system, way in (("demo", "SFTP"), ("commands", "commands")):
                target = self.directory if operation == "ls" else self.file
                path = f"/filesystem/{system}/ops/{operation}?path={target}"
                yield self._one(f"{operation}, {way}, {clients} clients", path, clients)
        for clients in FEW:
            yield self._one(f"GET jobs, {clients} clients", "/compute/demo/jobs", clients)
            yield self._one(f"liveness, {clients} clients", "/status/liveness", clients)

    def polling(self) -> Iterator[Case]:
        """The rows of `polling.md`."""
        cluster = self.bench.cluster
        counted = CountedSlurm(cluster)
        systems = [
            cluster.cluster_settings("demo", sshd=counted.sshd),
            cluster.cluster_settings("cached", sshd=counted.sshd, scheduler={"read_cache": 2}),
        ]
        config = cluster.write_gateway_config(cluster.directory / "polling.yaml", clusters=systems)
        user = self.bench.first
        wrap = "for i in $(seq $0); do sbatch --parsable --hold --wrap true; done"
        ids = cluster.as_user(user, ["sh", "-c", wrap, str(POLLED)], timeout=120).stdout.split()
        gateways = {}
        for version in self.versions:
            gateways[version.name] = version.another(config)
            self.stack.callback(gateways[version.name].stop)
        token = self.bench.tokens[user]
        for what, paths in (("GET jobs", [""]), ("GET jobs/{id}, each its own", [f"/{one}" for one in ids])):
            for system, cache in (("demo", "0 s"), ("cached", "2 s")):
                asked = [(f"/compute/{system}/jobs{path}", token) for path in paths]

                def take(version: Version, asked: list[tuple[str, str]] = asked) -> Taken:
                    one = gateways[version.name]
                    return each([one], lambda: version.bench.load.measure_mix(one.url, asked, POLLED, self.seconds))

                yield Case(f"{what}, read_cache {cache}, {POLLED} clients", CPU, take, warm=take)

    def transfers(self) -> Iterator[Case]:
        """The rows of `transfers.md`, with a smaller file."""
        ensure_installed({"aria2c": "aria2"}, self.bench.console.print)
        cluster, user, size = self.bench.cluster, self.bench.first, 256 * MIB
        remote, near = cluster.mount_tmpfs("2G", user=user), cluster.mount_tmpfs("1G")
        for path in (near / "file", remote / "file"):
            path.write_bytes(os.urandom(MIB) * (size // MIB))
            path.chmod(0o644)
        benches = {
            version.name: transfers.Bench(cluster, version.gateway, user, near / "file", remote, size)
            for version in self.versions
        }
        for number, way in enumerate(benches[self.versions[0].name].ways()):
            if "sftp" in way.name:
                continue

            def take(version: Version, number: int = number) -> Taken:
                bench = benches[version.name]
                # Several times over: each takes few ticks of the clock that counts processor time.
                runs = [bench.take(bench.ways()[number]) for _ in range(4)]
                return 1e3 * sum(one.cpu for one in runs) / (len(runs) * size) * 1e9, 0

            yield Case(f"{way.direction}: {way.name}", "ms of CPU a GB", take, warm=take)


GROUPS = ("throughput", "memory", "scaling", "overload", "operations", "polling", "transfers")


def markdown(rows: Sequence[Row], names: tuple[str, str], machine: Sequence[str], turns: int, seconds: float) -> str:
    """Return the page that is kept."""
    lines = [
        "# Another version and this one",
        "",
        f"Made by `python -m benchmarks.paired --before TREE`: before is {names[0]}, after {names[1]}. Both run on",
        f"one cluster and take {turns} turns of {seconds:g} s each in each row. CPU time is that of the gateway's",
        "processes. The figures are medians, the ratios those of neighbouring turns. A row is slower if this version",
        f"took more in three turns of four, and more in the median by over {TOLERANCE - 1:.0%}.",
        "",
        *(f"- {line}" for line in machine),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---:|" * 5 + "---|",
        *("| " + " | ".join(row.cells) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 1 if a row is slower, or requests failed with this version and not with the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paired", description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the other version with a .venv")
    parser.add_argument("--names", nargs=2, default=("the other version", "this one"), help="what the page calls them")
    parser.add_argument("--turns", type=int, default=12, help="of each version in each row (default 12)")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each turn (default 1)")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--rows", nargs="+", choices=GROUPS, default=list(GROUPS), help="by the table they are of")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the table (default %(default)s)")
    chosen = parser.parse_args(arguments)
    python = str(chosen.before.absolute() / ".venv" / "bin" / "python")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    console = Console(width=160)
    roles = tuple(f"u{number:03}" for number in range(chosen.users))
    rows: list[Row] = []
    with Cluster(Options(roles=roles), progress=console.print) as cluster, ExitStack() as stack:
        bench = Bench(cluster, chosen.seconds, console)
        machine = description("wrk")
        other = cluster.start_gateway(bench.gateway.configuration, python=python)
        before = Version("before", python, bench, other)
        after = Version("after", sys.executable, bench, bench.gateway)
        source = Rows(bench, (before, after), chosen.seconds, stack)
        for group in chosen.rows:
            for case in getattr(source, group)():
                rows.append(measured(case, before, after, chosen.turns))
                console.print("  ".join(rows[-1].cells))
    chosen.output.write_text(markdown(rows, (chosen.names[0], chosen.names[1]), machine, chosen.turns, chosen.seconds))
    return 1 if any(row.slower or row.failed[1] > row.failed[0] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
