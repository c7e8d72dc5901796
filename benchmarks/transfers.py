"""`python -m benchmarks.transfers`: how fast files stream through the gateway, beside OpenSSH's own sftp.

Each way moves the same file on the same cluster in turn, several times over, sftp among them with the same cipher; the
table has the medians, and their ratio to sftp's. Then `stat` is asked for again and again, first alone and then beside
streams that never end.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import aiohttp
from rich.console import Console
from rich.table import Table

from benchmarks.machine import description
from benchmarks.measure import Measurement, hammer
from benchmarks.raw_ssh import CIPHER
from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.packages import ensure_installed, program
from hpcgate.demo.users import User

RESULTS = Path(__file__).with_name("transfers.md")
MIB = 1024 * 1024
STREAMS = 4
"""Streams beside which small requests are measured."""
STAT_CLIENTS = 4
COLUMNS = ("direction", "way", "MB/s", "of sftp", "gateway CPU s/GB", "gateway memory MB")


@dataclass(frozen=True, slots=True)
class Way:
    """One way to move the file.

    Attributes:
        direction: Down or up.
        name: What it is called in the table.
        run: Moves it once.
    """

    direction: str
    name: str
    run: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Taken:
    """One run: seconds, CPU seconds of the gateway, and its peak of memory in bytes beyond that at rest."""

    seconds: float
    cpu: float
    memory: int


@dataclass(frozen=True, slots=True)
class Bench:
    """The cluster and what is moved.

    Attributes:
        local: The file on this side.
        remote: The directory on the login node's side, which holds `file`.
        size: Bytes.
    """

    cluster: Cluster
    gateway: Gateway
    user: User
    local: Path
    remote: Path
    size: int

    def ways(self) -> list[Way]:
        """Return all ways, sftp first in each direction."""
        url = f"{self.gateway.url}/filesystem/demo/files"
        there = quote(str(self.remote))
        return [
            Way("down", "sftp", lambda: self.sftp(f"get {self.remote}/file /dev/null")),
            Way("down", "GET content", lambda: self.curl("-o", "/dev/null", f"{url}/content?path={there}/file")),
            Way("down", "GET content, 4 ranges at once", lambda: self.aria2(f"{url}/content?path={there}/file")),
            Way("down", "GET archive, tar", lambda: self.curl("-o", "/dev/null", f"{url}/archive?path={there}/file")),
            Way("up", "sftp, with fsync", lambda: self.sftp(f"put -f {self.local} {self.remote}/by-sftp")),
            Way("up", "PUT content", lambda: self.curl("-T", str(self.local), f"{url}/content?path={there}/by-put")),
            Way("up", "tus, one chunk", lambda: self.tus(f"{url}/uploads?path={there}")),
        ]

    def sftp(self, line: str) -> None:
        """Run one line of sftp."""
        sshd = self.cluster.sshd
        known = self.cluster.directory / "bench-known-hosts"
        known.write_text(sshd.known_hosts_line + "\n")
        options = {
            "Ciphers": CIPHER,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(known),
            "BatchMode": "yes",
        }
        argv = [program("sftp"), "-q", "-b", "-", "-P", str(sshd.port), "-i", str(self.user.private_key)]
        argv += [f"-o{name}={value}" for name, value in options.items()]
        argv.append(f"{self.user.name}@{sshd.host}")
        subprocess.run(argv, input=line.encode(), check=True, capture_output=True)

    def curl(self, *arguments: str) -> str:
        """Run curl with the user's token."""
        argv = [program("curl"), "-sSf", "-H", f"Authorization: Bearer {self.cluster.token(self.user)}", *arguments]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def aria2(self, url: str) -> None:
        """Fetch four parts at a time."""
        argv = [program("aria2c"), "-q", "--no-conf", "-x4", "-s4", "--allow-overwrite=true", "--file-allocation=none"]
        argv += [f"--header=Authorization: Bearer {self.cluster.token(self.user)}", "-d", str(self.local.parent)]
        subprocess.run([*argv, "-o", "by-aria2", url], check=True)

    def tus(self, url: str) -> None:
        """Begin an upload and send all of it in one chunk."""
        headers = ["-H", "Tus-Resumable: 1.0.0"]
        name = ["-H", "Upload-Metadata: filename YnktdHVz", "-H", f"Upload-Length: {self.size}"]
        made = self.curl("-X", "POST", *headers, *name, "-D", "-", url)
        location = next(line.split(": ", 1)[1] for line in made.splitlines() if line.lower().startswith("location"))
        kind = ["-H", "Content-Type: application/offset+octet-stream", "-H", "Upload-Offset: 0"]
        self.curl("-X", "PATCH", *headers, *kind, "-T", str(self.local), self.gateway.url + location.strip())

    def take(self, way: Way) -> Taken:
        """Move the file once."""
        # Each run finds the same memory free, and all of it touched before: in a virtual machine the first touch of
        # a page costs more than all else.
        for path in (*self.remote.glob("by-*"), *self.local.parent.glob("by-*")):
            path.unlink()
        at_rest = _memory(self.gateway.pid)
        peak = at_rest
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.05):
                peak = max(peak, _memory(self.gateway.pid))

        watching = threading.Thread(target=watch)
        watching.start()
        cpu, started = _cpu(self.gateway.pid), time.perf_counter()
        try:
            way.run()
            seconds = time.perf_counter() - started
        finally:
            done.set()
            watching.join()
        return Taken(seconds, _cpu(self.gateway.pid) - cpu, peak - at_rest)

    def stat(self, user: User, seconds: float) -> Measurement:
        """Ask for stat again and again."""
        return asyncio.run(self._stat(user, seconds))

    async def _stat(self, user: User, seconds: float) -> Measurement:
        url = f"{self.gateway.url}/filesystem/demo/ops/stat"
        headers = {"Authorization": f"Bearer {self.cluster.token(user)}"}
        async with aiohttp.ClientSession(headers=headers) as http:

            async def ask() -> None:
                async with http.get(url, params={"path": str(user.home)}) as answer:
                    answer.raise_for_status()
                    await answer.read()

            await hammer(ask, STAT_CLIENTS, 1)
            return await hammer(ask, STAT_CLIENTS, seconds)

    @contextlib.contextmanager
    def streams(self) -> Iterator[None]:
        """Keep streams going, half of them down and half of them up."""
        url = f"{self.gateway.url}/filesystem/demo/files/content?path={quote(str(self.remote))}"
        down = f"while :; do curl -sS -o /dev/null -H \"$0\" '{url}/file'; done"
        up = f"while :; do curl -sS -T '{self.local}' -H \"$0\" '{url}/stream-'$1; done"
        header = f"Authorization: Bearer {self.cluster.token(self.user)}"
        with contextlib.ExitStack() as stack:
            for number in range(STREAMS):
                argv = ["sh", "-c", down if number % 2 else up, header, str(number)]
                process = stack.enter_context(subprocess.Popen(argv, start_new_session=True))
                stack.callback(_end_group, process)
            time.sleep(1)
            yield


def _end_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, 15)
    process.wait()


def _memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(bench: Bench, runs: int, console: Console) -> list[tuple[str, ...]]:
    """Take every way in turn, `runs` times, and return the rows of the table."""
    ways = bench.ways()
    taken: dict[str, list[Taken]] = {way.name: [] for way in ways}
    for number in range(runs):
        for way in ways:
            one = bench.take(way)
            taken[way.name].append(one)
            console.print(
                f"run {number + 1}  {way.direction:5} {way.name:30} {bench.size / one.seconds / 1e6:6.0f} MB/s"
            )
    rows = []
    yardsticks: dict[str, float] = {}
    for way in ways:
        rate = bench.size / statistics.median(one.seconds for one in taken[way.name]) / 1e6
        yardstick = yardsticks.setdefault(way.direction, rate)
        own = "sftp" not in way.name
        cpu = statistics.median(one.cpu for one in taken[way.name]) / bench.size * 1e9
        memory = max(one.memory for one in taken[way.name]) / 1e6
        rows.append(
            (
                way.direction,
                way.name,
                f"{rate:.0f}",
                f"{rate / yardstick:.2f}",
                f"{cpu:.1f}" if own else "",
                f"{memory:.0f}" if own else "",
            )
        )
    return rows


def small_requests(bench: Bench, seconds: float) -> list[tuple[str, ...]]:
    """Measure stat alone and beside streams, of the user who streams and of another."""
    rows = []
    alone = {user.name: bench.stat(user, seconds) for user in bench.cluster.users[:2]}
    with bench.streams():
        for who, user in (("the same user", bench.user), ("another user", bench.cluster.users[1])):
            beside = bench.stat(user, seconds)
            before = alone[user.name]
            rows.append(
                (
                    who,
                    f"{before.p50:.1f}",
                    f"{before.p99:.1f}",
                    f"{beside.p50:.1f}",
                    f"{beside.p99:.1f}",
                    f"{beside.p99 / before.p99:.1f}" if before.p99 else "",
                    str(before.errors + beside.errors),
                )
            )
    return rows


STAT_COLUMNS = ("stat by", "p50 alone", "p99 alone", "p50 beside streams", "p99 beside streams", "p99 ratio", "errors")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table in Markdown."""
    rule = "|---|" + "---:|" * (len(columns) - 1)
    return ["| " + " | ".join(columns) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)]


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfers", description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="of the file in MiB (default 2048)")
    parser.add_argument("--runs", type=int, default=3, help="of each way (default 3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of stat beside streams (default 5)")
    parser.add_argument("--disk", action="store_true", help="keep the files on the disk of /tmp, not in memory")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the table (default %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark."""
    chosen = options(arguments)
    console = Console()
    size = chosen.size * MIB
    ensure_installed({"aria2c": "aria2"}, console.print)
    with Cluster(progress=console.print) as cluster:
        user = cluster.users[0]
        if chosen.disk:
            remote = user.home / "bench"
            remote.mkdir()
            os.chown(remote, user.uid, user.gid)
            near = cluster.directory / "near"
            near.mkdir()
        else:
            remote = cluster.mount_tmpfs(f"{6 * chosen.size + 64}M", user=user)
            near = cluster.mount_tmpfs(f"{2 * chosen.size + 64}M")
        bench = Bench(cluster, start(cluster), user, near / "file", remote, size)
        block = os.urandom(MIB)
        for path in (bench.local, remote / "file"):
            with path.open("wb") as file:
                for _ in range(chosen.size):
                    file.write(block)
            path.chmod(0o644)
        for place in (remote, near):
            touched = place / "by-touch"
            with touched.open("wb") as file:
                for _ in range(chosen.size):
                    file.write(block)
        machine = description("curl, sftp and aria2c")
        bench.curl("-o", "/dev/null", f"{bench.gateway.url}/filesystem/demo/files/content?path={remote}/file")
        rows = measure(bench, chosen.runs, console)
        stats = small_requests(bench, chosen.seconds)
    lines = [
        "# Streams",
        "",
        f"Made by `python -m benchmarks.transfers`: a file of {chosen.size} MiB "
        + ("on a disk" if chosen.disk else "in memory (tmpfs)")
        + f", the median of {chosen.runs} runs in turn.",
        f"sftp is OpenSSH's own with {CIPHER}, which the gateway uses too. The gateway's memory is its peak beyond",
        "that at rest. Below, milliseconds of `stat` by 4 clients, alone and beside 2 streams down and 2 up of a user.",
        "",
        *(f"- {line}" for line in machine),
        "",
        *table(COLUMNS, rows),
        "",
        *table(STAT_COLUMNS, stats),
    ]
    for columns, content in ((COLUMNS, rows), (STAT_COLUMNS, stats)):
        shown = Table(*columns)
        for row in content:
            shown.add_row(*row)
        Console(width=max(console.width, 110)).print(shown)
    chosen.output.write_text("\n".join(lines) + "\n")
    return 0


def start(cluster: Cluster) -> Gateway:
    """Start a gateway with one system."""
    systems = [cluster.cluster_settings("demo")]
    return cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "streams.yaml", clusters=systems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
