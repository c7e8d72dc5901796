"""`python -m benchmarks.throughput`: the high-throughput regime, row by row beside what is to be reached.

Two hundred Unix users, each on a connection of their own to a real sshd, ask for a mix of operations; then single
operations of one user; then what connections cost that nobody uses. Each figure stands beside a yardstick of the same
run: a bare asyncssh loop over as many connections, and a constant answer of the HTTP server alone. So does the CPU time
that the gateway takes for an answer.
"""

import argparse
import asyncio
import http.client
import json
import os
import random
import socket
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import aiohttp
from joserfc import jwt
from joserfc.jwk import RSAKey
from rich.console import Console
from rich.table import Table

from benchmarks.http_load import Wrk
from benchmarks.machine import description
from benchmarks.measure import Measurement
from benchmarks.processes import cpu_seconds, resident
from benchmarks.raw_ssh import RawMix, RawSsh
from hpcgate.demo.cluster import Cluster, Gateway, Options
from hpcgate.demo.keys import Key
from hpcgate.demo.ports import HOST
from hpcgate.demo.processes import Daemon
from hpcgate.demo.users import User

RESULTS = Path(__file__).with_name("results.md")
USERS = 200
FILES = 20
JOBS = 10
IDLE_CONNECTIONS = 1000
WARM_UP = 3.0
PATIENCE = 20
"""Seconds after which a request counts as failed."""
MIX = {"stat": 30, "ls": 30, "download": 20, "head": 20}
"""Percent of the requests."""
COLUMNS = (
    "load", "requests/s", "p50 ms", "p99 ms", "errors", "µs of CPU each", "to reach", "reached", "yardstick",
    "CPU, times the yardsticks",
)  # fmt: skip
MIX_TIMES = 1.8
"""The mix may take so many times the CPU time of the bare asyncssh loop."""
STAT_TIMES = 1.5
"""A single operation may take so many times what asyncssh and HTTP alone take together."""
TURNS = 4
"""The yardsticks and the gateway take turns when their CPU time is compared."""
ROWS = ("mix-200", "mix-500", "cold", "stat", "jobs", "commands", "fair", "memory", "idle")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table; `cpu` is the gateway's own, microseconds a request."""

    load: str
    figures: tuple[str, str, str, str, str]
    goal: str
    reached: bool
    yardstick: str = ""
    times: str = ""

    @classmethod
    def of(
        cls,
        load: str,
        found: Measurement,
        cpu: float,
        *,
        rate: float,
        p99: float | None = None,
        yardstick: str = "",
    ) -> "Row":
        """Return the line of a rate that has been measured."""
        each = cpu / found.done * 1e6 if found.done else 0.0
        goal = f"{rate:,.0f}/s" + (f", p99 ≤ {p99:.0f} ms" if p99 is not None else "") + ", 0 errors"
        reached = found.rate >= rate and not found.errors and (p99 is None or found.p99 <= p99)
        figures = (
            f"{found.rate:,.0f}",
            f"{found.p50:.0f}",
            f"{found.p99:.0f}",
            str(found.errors),
            f"{each:.0f}",
        )
        return cls(load, figures, goal, reached, yardstick)

    @property
    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        return (self.load, *self.figures, self.goal, "yes" if self.reached else "**no**", self.yardstick, self.times)


def metric(url: str, name: str) -> float:
    """Return the sum of a metric's samples."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url + "/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


class Bench:
    """The cluster, its gateway and the load.

    Args:
        cluster: Two hundred users and a login node.
        seconds: For each row.
        directory: For the files of the load generator.
    """

    def __init__(self, cluster: Cluster, seconds: float, console: Console) -> None:
        self.cluster = cluster
        self.seconds = seconds
        self.console = console
        self.load = Wrk(cluster.directory, console.print, PATIENCE)
        self.tokens = {user: cluster.token(user) for user in cluster.users}
        for user in cluster.users:
            _make_files(user)
        self.first = cluster.users[0]
        for number in range(JOBS):
            cluster.as_user(self.first, ["sbatch", "--hold", f"--job-name=bench-{number}", "--wrap", "true"])
        pool = {"max_clients": 2 * len(cluster.users), "timeout": {"idle_timeout": 600}}
        systems = [
            cluster.cluster_settings("demo", ssh=pool),
            cluster.cluster_settings("commands", ssh={"files": "commands"}),
        ]
        self.gateway = cluster.start_gateway(
            cluster.write_gateway_config(
                cluster.directory / "bench.yaml", clusters=systems, metrics={"path": "/metrics"}
            )
        )
        self.http = self._raw_http()
        self.asked = self._mix()

    def mix(self, clients: int, rate: float, p99: float) -> Row:
        """The mix of all users on warm connections."""
        self._warm_up(clients)
        found, cpu = self._spent(lambda: self.load.measure_mix(self.gateway.url, self.asked, clients, self.seconds))
        ssh = RawMix(self.cluster, self.cluster.users, MIX)
        raw, compared = [], []
        with ssh.connected() as measure:
            measure(WARM_UP)
            for _ in range(TURNS):
                raw.append(measure(self.seconds / TURNS))
                turn = self._timed(
                    lambda: self.load.measure_mix(self.gateway.url, self.asked, clients, self.seconds / TURNS)
                )
                compared.append(turn.cpu_each / raw[-1].cpu_each)
        yardstick = f"asyncssh alone {statistics.median(one.rate for one in raw):,.0f}/s"
        row = Row.of(f"mix, {len(self.cluster.users)} users, {clients} clients", found, cpu, rate=rate, p99=p99,
                     yardstick=yardstick)  # fmt: skip
        return replace(row, times=_times(compared, MIX_TIMES))

    def cold(self, clients: int, within: float) -> Row:
        """The mix from no connection at all."""
        self.gateway.restart()
        everyone = len(self.cluster.users)
        started = time.monotonic()
        connected: list[float] = []

        def watch() -> None:
            while time.monotonic() - started < 60:
                if metric(self.gateway.url, "hpcgate_ssh_logins_total") >= everyone:
                    connected.append(time.monotonic() - started)
                    return
                time.sleep(0.25)

        watcher = threading.Thread(target=watch)
        watcher.start()
        found, cpu = self._spent(
            lambda: self.load.measure_mix(self.gateway.url, self.asked, clients, max(self.seconds, within + 5))
        )
        watcher.join()
        seconds = connected[0] if connected else float("inf")
        row = Row.of(f"the same, {clients} clients, cold", found, cpu, rate=0)
        reached = not found.errors and seconds <= within
        goal = f"0 errors, all connected within {within:.0f} s"
        return Row(row.load, row.figures, goal, reached, f"all connected after {seconds:.1f} s")

    def single(self, load: str, path: str, rate: float, clients: int = 100, *, raw: str | None = None) -> Row:
        """One request of one user again and again."""
        url = self.gateway.url + path
        headers = {"Authorization": f"Bearer {self.tokens[self.first]}"}
        self.load.measure(url, headers, clients, WARM_UP)
        found, cpu = self._spent(lambda: self.load.measure(url, headers, clients, self.seconds))
        seconds = self.seconds / TURNS
        ssh = RawSsh(self.cluster, self.first, self.first.home / "bench", self.first.home / "bench" / "file-4k.txt")
        constants, bare, compared = [], [], []
        for _ in range(TURNS):
            constants.append(self._timed(lambda: self.load.measure(self.http, headers, clients, seconds), self.raw.pid))
            if raw is not None:
                turn = self._timed(lambda: self.load.measure(url, headers, clients, seconds))
                bare.append(ssh.measure(raw, clients, seconds, 0.5))
                compared.append(turn.cpu_each / (constants[-1].cpu_each + bare[-1].cpu_each))
        yardstick = f"HTTP alone {statistics.median(one.rate for one in constants):,.0f}/s"
        if bare:
            yardstick = f"asyncssh alone {statistics.median(one.rate for one in bare):,.0f}/s, " + yardstick
        row = Row.of(load, found, cpu, rate=rate, yardstick=yardstick)
        return replace(row, times=_times(compared, STAT_TIMES) if compared else "")

    def fair(self, clients: int, most: float) -> Row:
        """What a user who asks for one thing at a time notices of another who asks for many."""
        path = f"/filesystem/demo/ops/stat?path={quote(str(self.first.home / 'bench' / 'file-4k.txt'))}"
        headers = {"Authorization": f"Bearer {self.tokens[self.first]}"}
        self._seconds_each(10)
        alone = self._seconds_each(150)
        found: list[Measurement] = []
        load = threading.Thread(
            target=lambda: found.append(self.load.measure(self.gateway.url + path, headers, clients, 8))
        )
        load.start()
        time.sleep(2)
        beside = self._seconds_each(150)
        load.join()
        ratio = beside / alone
        figures = (f"{found[0].rate:,.0f}", f"{beside * 1000:.1f}", "", "", "")
        return Row(
            f"stat of one user beside {clients} of another",
            figures,
            f"median at most {most:.0f} times",
            ratio <= most,
            f"{ratio:.1f} times {alone * 1000:.1f} ms alone",
        )

    def _seconds_each(self, count: int) -> float:
        """Return the median of the seconds that one request after the other of the second user takes."""
        user = self.cluster.users[1]
        client = http.client.HTTPConnection(HOST, int(self.gateway.url.rpartition(":")[2]), timeout=PATIENCE)
        path = f"/filesystem/demo/ops/stat?path={quote(str(user.home / 'bench' / 'file-4k.txt'))}"
        taken = []
        for _ in range(count):
            began = time.perf_counter()
            client.request("GET", path, headers={"Authorization": f"Bearer {self.tokens[user]}"})
            answer = client.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(answer.status)
            taken.append(time.perf_counter() - began)
            time.sleep(0.02)
        client.close()
        return statistics.median(taken)

    def idle(self, most: float) -> Row:
        """What the gateway takes of a core with a connection of each user that nobody uses."""
        self._warm_up(200)
        open_now = metric(self.gateway.url, "hpcgate_ssh_pool_connections")
        time.sleep(2)
        before, began = cpu_seconds(self.gateway.pid), time.monotonic()
        time.sleep(20)
        percent = 100 * (cpu_seconds(self.gateway.pid) - before) / (time.monotonic() - began)
        figures = ("", "", "", "", "")
        return Row(f"idle, {open_now:.0f} connections", figures, f"< {most:.0f} % of a core", percent < most,
                   f"{percent:.2f} % of a core")  # fmt: skip

    def memory(self, most: float) -> Row:
        """What a thousand pooled connections take, each with SFTP opened, in front of a light SSH server."""
        crowd = Crowd(self.cluster, IDLE_CONNECTIONS)
        try:
            before, after, errors = asyncio.run(crowd.connect())
        finally:
            crowd.stop()
        mib = (after - before) / 2**20
        figures = ("", "", "", str(errors), "")
        return Row(f"memory of {IDLE_CONNECTIONS:,} idle connections", figures, f"≤ {most:.0f} MB above start",
                   mib <= most and not errors, f"{mib:.0f} MiB above {before / 2**20:.0f}")  # fmt: skip

    def _warm_up(self, clients: int) -> None:
        """Run the mix for a while, and on until every user has a connection."""
        for _ in range(5):
            self.load.measure_mix(self.gateway.url, self.asked, clients, WARM_UP)
            if metric(self.gateway.url, "hpcgate_ssh_pool_connections") >= len(self.cluster.users):
                return

    def _timed(self, work: Callable[[], Measurement], pid: int | None = None) -> Measurement:
        """Return what was measured with the CPU time of a process, by default the gateway's."""
        before = cpu_seconds(pid or self.gateway.pid)
        found = work()
        return replace(found, cpu=cpu_seconds(pid or self.gateway.pid) - before)

    def _spent(self, work: Callable[[], Measurement]) -> tuple[Measurement, float]:
        before = cpu_seconds(self.gateway.pid)
        found = work()
        return found, cpu_seconds(self.gateway.pid) - before

    def _raw_http(self) -> str:
        port = self.cluster.take_port()
        url = f"http://{HOST}:{port}/"
        self.raw = Daemon(
            self.cluster.keeper,
            "raw-http",
            [sys.executable, str(Path(__file__).with_name("raw_http.py")), str(port)],
            log=self.cluster.directory / "raw-http.log",
            ready=lambda _: _listens(url),
            env=dict(os.environ),
        )
        self.raw.start()
        return url

    def _mix(self) -> list[tuple[str, str]]:
        """Return pairs of a path and a token, twenty of each user, in an order that is the same in each run."""
        asked = []
        for user, token in self.tokens.items():
            directory = quote(str(user.home / "bench"))
            for operation, percent in MIX.items():
                target = directory if operation == "ls" else f"{directory}/file-4k.txt"
                asked += [(f"/filesystem/demo/ops/{operation}?path={target}", token)] * (percent // 10)
        random.Random(1).shuffle(asked)
        return asked


class Crowd:
    """Many users who do not exist, on a gateway of their own in front of a light SSH server."""

    def __init__(self, cluster: Cluster, count: int, python: str = sys.executable) -> None:
        port = cluster.take_port()
        directory = cluster.directory / f"crowd-{port}"
        directory.mkdir()
        self._names = [f"u{number:04}" for number in range(count)]
        key = Key.make("crowd")
        key.write(directory / "host_key")
        self._sshd = Daemon(
            cluster.keeper,
            "light-sshd",
            [sys.executable, str(Path(__file__).with_name("light_sshd.py")), str(port), str(directory / "host_key")],
            log=directory / "sshd.log",
            ready=lambda _: accepts(port),
            env=dict(os.environ),
        )
        self._sshd.start()
        self._signer = RSAKey.generate_key(2048, {"kid": "crowd", "alg": "RS256", "use": "sig"})
        jwks = directory / "jwks.json"
        jwks.write_text(json.dumps({"keys": [self._signer.as_dict(private=False)]}))
        login_key = cluster.users[0].private_key
        system = cluster.cluster_settings(
            "crowd",
            ssh={
                "port": port,
                "host_keys": [key.public_line],
                "max_clients": count + 100,
                "max_logins": 20,
                "timeout": {"idle_timeout": 600, "connection": 30, "login": 30, "keep_alive": 30},
            },
            file_systems=[],
            probing=None,
        )
        config = cluster.write_gateway_config(
            directory / "crowd.yaml",
            clusters=[system],
            auth={"authentication": {"public_certs": [f"file://{jwks}"]}},
            ssh_credentials={"keys": {name: {"private_key": f"secret_file:{login_key}"} for name in self._names}},
            logger={"level": "warning"},
        )
        self._gateway: Gateway = cluster.start_gateway(config, python=python)

    def stop(self) -> None:
        """End both processes."""
        self._gateway.stop()
        self._sshd.stop()

    async def connect(self) -> tuple[int, int, int]:
        """Connect everybody and return the gateway's memory before and after, in bytes, and how many failed."""
        before = resident(self._gateway.pid)
        gate = asyncio.Semaphore(20)
        url = f"{self._gateway.url}/filesystem/crowd/ops/ls?path=/etc/ssl"

        async with aiohttp.ClientSession() as session:

            async def enter(name: str) -> int:
                claims = {"preferred_username": name, "exp": int(time.time()) + 3600}
                token = jwt.encode({"alg": "RS256", "kid": "crowd"}, claims, self._signer)
                async with gate, session.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
                    await answer.read()
                    return int(answer.status != 200)

            errors = sum(await asyncio.gather(*map(enter, self._names)))
        await asyncio.sleep(3)
        return before, resident(self._gateway.pid), errors


def _times(compared: Sequence[float], goal: float) -> str:
    """Say what the gateway took in times of the yardsticks, turn by turn, and what it is to be."""
    return f"{statistics.median(compared):.2f} ({min(compared):.2f} to {max(compared):.2f}), goal {goal:g}"


def _make_files(user: User) -> None:
    directory = user.home / "bench"
    directory.mkdir()
    line = "0123456789 0123456789 0123456789 0123456789 0123456789 12345678\n"
    for number in range(FILES - 1):
        (directory / f"file-{number:02}.txt").write_text("some lines\n" * number)
    (directory / "file-4k.txt").write_text(line * (4096 // len(line)))
    if os.geteuid() == 0:
        for path in (directory, *directory.iterdir()):
            os.chown(path, user.uid, user.gid)


def _listens(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def accepts(port: int) -> bool:
    """Say whether something listens on a port."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def measure(bench: Bench, wanted: Sequence[str]) -> list[Row]:
    """Measure the rows that are wanted."""
    file = quote(str(bench.first.home / "bench" / "file-4k.txt"))
    ways: dict[str, Callable[[], Row]] = {
        "cold": lambda: bench.cold(500, 15),
        "mix-200": lambda: bench.mix(200, 2500, 300),
        "mix-500": lambda: bench.mix(500, 2300, 800),
        "idle": lambda: bench.idle(2),
        "stat": lambda: bench.single(
            "stat, 1 user, 100 clients", f"/filesystem/demo/ops/stat?path={file}", 5000, raw="stat"
        ),
        "jobs": lambda: bench.single("GET jobs, 1 user, 100 clients", "/compute/demo/jobs", 2000),
        "commands": lambda: bench.single(
            "stat by commands, 1 user, 100 clients", f"/filesystem/commands/ops/stat?path={file}", 660
        ),
        "fair": lambda: bench.fair(500, 2),
        "memory": lambda: bench.memory(150),
    }
    rows = []
    for name, way in ways.items():
        if name in wanted:
            rows.append(way())
            bench.console.print("  ".join(rows[-1].cells))
    return rows


def markdown(rows: Sequence[Row], machine: Sequence[str], seconds: float, users: int) -> str:
    """Return the page that is kept."""
    parts = ", ".join(f"{percent} % {operation}" for operation, percent in MIX.items())
    lines = [
        "# The high-throughput regime",
        "",
        f"Made by `python -m benchmarks.throughput`, in `make bench`. The mix is {parts}",
        f"(a file of 4 KiB, a directory of {FILES}) of {users} Unix users, each on a connection of their own to a real",
        f"sshd with its default MaxStartups; each row is {seconds:g} s after {WARM_UP:g} s of warming up, or more",
        f"until every user is connected. An answer that is not 2xx within {PATIENCE} s is an error. The CPU time is",
        "that of the gateway's process. The load generator, sshd and its processes of each user, and Slurm share the",
        "machine with it.",
        "",
        *(f"- {line}" for line in machine),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|" + "---:|" * 5 + "---|---|---|---|",
        *("| " + " | ".join(row.cells) + " |" for row in rows),
        "",
        f"The last column compares the CPU time of an answer in {TURNS} turns each: the mix with the bare asyncssh",
        "loop, stat with asyncssh and HTTP alone together. The median is given, and the least and the most.",
    ]
    return "\n".join(lines) + "\n"


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each row (default 8)")
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the table (default %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 1 if a row was not reached."""
    chosen = options(arguments)
    console = Console()
    roles = tuple(f"u{number:03}" for number in range(chosen.users))
    with Cluster(Options(roles=roles), progress=console.print) as cluster:
        console.print(f"making the files and tokens of {chosen.users} users")
        bench = Bench(cluster, chosen.seconds, console)
        machine = description("wrk")
        rows = measure(bench, chosen.rows)
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row.cells, style=None if row.reached else "red")
    Console(width=max(console.width, 150)).print(table)
    chosen.output.write_text(markdown(rows, machine, chosen.seconds, chosen.users))
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
