"""`python -m benchmarks.scaling`: one gateway process, and two of them behind HAProxy, under the same load.

The two share this machine's cores with sshd and the load generator, so the rates say what a second process costs
and brings here; the figures of each connection, login and request are what larger sites can be worked out from.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.machine import description
from benchmarks.processes import cpu_seconds, resident
from benchmarks.throughput import WARM_UP, Bench, accepts, metric
from hpcgate.demo.cluster import Cluster, Gateway, Options
from hpcgate.demo.packages import ensure_installed, program
from hpcgate.demo.ports import HOST
from hpcgate.demo.processes import Daemon

RESULTS = Path(__file__).with_name("scaling.md")
CLIENTS = 200
COLUMNS = (
    "processes",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "errors",
    "µs of CPU each",
    "connections",
    "of HAProxy, µs each",
)

PROXY = """\
defaults
    mode http
    timeout connect 5s
    timeout client 75s
    timeout server 75s
    timeout http-keep-alive 60s
frontend api
    bind {host}:{port}
    default_backend gateways
backend gateways
    balance hdr(Authorization)
    hash-type consistent
{servers}
"""


def balanced(cluster: Cluster, gateways: Sequence[Gateway]) -> tuple[Daemon, str]:
    """Start HAProxy in front of gateways, each user's requests always at the same one."""
    ensure_installed({"haproxy": "haproxy"}, cluster.progress)
    port = cluster.take_port()
    addresses = [gateway.url.removeprefix("http://") for gateway in gateways]
    servers = "\n".join(f"    server gateway-{number} {address}" for number, address in enumerate(addresses))
    config = cluster.directory / "scaling.cfg"
    config.write_text(PROXY.format(host=HOST, port=port, servers=servers))
    url = f"http://{HOST}:{port}"
    daemon = Daemon(
        cluster.keeper,
        "scaling-haproxy",
        [program("haproxy"), "-db", "-f", str(config)],
        log=cluster.directory / "scaling-haproxy.log",
        ready=lambda _: accepts(port),
        env=dict(os.environ),
    )
    daemon.start()
    return daemon, url


def measure(bench: Bench, seconds: float, console: Console) -> tuple[list[tuple[str, ...]], dict[str, float]]:
    """Measure both arrangements, and what a login and a connection cost a fresh process."""
    rows = []
    users = len(bench.cluster.users)
    second = bench.cluster.start_gateway(bench.gateway.configuration)
    proxy, url = balanced(bench.cluster, [bench.gateway, second])
    costs: dict[str, float] = {}
    for name, address, gateways in (
        ("1", bench.gateway.url, [bench.gateway]),
        ("2 behind HAProxy", url, [bench.gateway, second]),
    ):
        for gateway in gateways:
            gateway.restart()
        before, memory = sum(cpu_seconds(one.pid) for one in gateways), sum(resident(one.pid) for one in gateways)
        bench.load.measure_mix(address, bench.asked, CLIENTS, WARM_UP)
        if not costs:
            done = metric(bench.gateway.url, "hpcgate_http_requests_total")
            costs["start"] = cpu_seconds(bench.gateway.pid) - before
            costs["warm-up requests"] = done
            costs["KiB a user"] = (resident(bench.gateway.pid) - memory) / users / 1024
        bench.load.measure_mix(address, bench.asked, CLIENTS, WARM_UP)
        before, of_proxy = sum(cpu_seconds(one.pid) for one in gateways), cpu_seconds(proxy.pid)
        found = bench.load.measure_mix(address, bench.asked, CLIENTS, seconds)
        each = (sum(cpu_seconds(one.pid) for one in gateways) - before) / found.done * 1e6
        proxied = (cpu_seconds(proxy.pid) - of_proxy) / found.done * 1e6
        connections = sum(metric(one.url, "hpcgate_ssh_pool_connections") for one in gateways)
        if name == "1":
            costs["login ms"] = (costs["start"] - costs["warm-up requests"] * each / 1e6) / users * 1000
            costs["request µs"] = each
            costs["login node MiB a user"] = _of_users(bench.cluster) / users / 2**20
        rows.append(
            (
                name,
                f"{found.rate:,.0f}",
                f"{found.p50:.0f}",
                f"{found.p99:.0f}",
                str(found.errors),
                f"{each:.0f}",
                f"{connections:.0f}",
                f"{proxied:.0f}",
            )
        )
        console.print("  ".join(rows[-1]))
        time.sleep(1)
    return rows, costs


def _of_users(cluster: Cluster) -> int:
    """Return the bytes of memory that the users' processes on the login node hold for themselves."""
    owners = {user.uid for user in cluster.users}
    total = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid in owners:
                total += resident(int(entry.name))
        except (OSError, RuntimeError):
            continue
    return total


def markdown(rows: Sequence[Sequence[str]], costs: dict[str, float], machine: Sequence[str], users: int) -> str:
    """Return the page that is kept."""
    lines = [
        "# One process and two",
        "",
        "Made by `python -m benchmarks.scaling`, in `make bench`: the mix of [the throughput table](results.md) by",
        f"{users} users and {CLIENTS} clients, all on one machine.",
        "",
        *(f"- {line}" for line in machine),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|" + "---:|" * (len(COLUMNS) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        "What a fresh process takes:",
        "",
        "| | |",
        "|---|---:|",
        f"| CPU time of a login, its helper included | {costs['login ms']:.0f} ms |",
        f"| CPU time of a request of the mix | {costs['request µs']:.0f} µs |",
        f"| memory of a connected user in the gateway | {costs['KiB a user']:.0f} KiB |",
        f"| memory of a connected user on the login node, sshd and helper | {costs['login node MiB a user']:.1f} MiB |",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 1 if a request failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each row (default 8)")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the table (default %(default)s)")
    chosen = parser.parse_args(arguments)
    console = Console()
    roles = tuple(f"u{number:03}" for number in range(chosen.users))
    with Cluster(Options(roles=roles), progress=console.print) as cluster:
        bench = Bench(cluster, chosen.seconds, console)
        machine = description("wrk")
        rows, costs = measure(bench, chosen.seconds, console)
    chosen.output.write_text(markdown(rows, costs, machine, chosen.users))
    console.print(chosen.output.read_text())
    return 1 if any(row[4] != "0" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
