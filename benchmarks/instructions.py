"""`python -m benchmarks.instructions`: how many instructions an answer takes, where a clock would tell of other work.

Callgrind counts those of the gateway's process for `stat` of one user, and those of both yardsticks: the HTTP server's
constant answer, and one `lstat` of a bare asyncssh loop. What else the machine does is not in it, nor is the kernel's
part. Two runs differ by some hundredths. It takes minutes, for a program runs at a fiftieth of its speed.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncssh
import uvloop

from benchmarks.raw_ssh import CIPHER
from benchmarks.throughput import _make_files, accepts
from hpcgate.demo.cluster import Cluster, Options
from hpcgate.demo.ports import HOST

CLIENTS = 100
WARM = 300
PATIENT = 600
"""Seconds for all that has a time limit: those of a machine fifty times as slow."""


async def ask(port: int, request: bytes, total: int, clients: int = CLIENTS) -> None:
    """Send so many requests on so many connections, each as soon as the one before it is answered."""
    left = total

    async def one() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection(HOST, port)
        while left > 0:
            left -= 1
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            if length is None or not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(head)
            await reader.readexactly(int(length[1]))
        writer.close()

    await asyncio.gather(*(one() for _ in range(clients)))


async def loop_alone(asked: dict[str, Any]) -> None:
    """Be the bare asyncssh loop: say a line when ready for each of the numbers of `lstat`, and go on when told."""
    known = asyncssh.import_known_hosts(f"[{asked['host']}]:{asked['port']} {asked['host_key']}\n")
    async with (
        asyncssh.connect(
            asked["host"], asked["port"], username=asked["user"], client_keys=[asked["key"]], known_hosts=known,
            config=None, agent_path=None, encryption_algs=[CIPHER], login_timeout=PATIENT,
        ) as connection,
        connection.start_sftp_client() as sftp,
    ):  # fmt: skip
        for total in (WARM, asked["total"], 0):
            print("ready", flush=True)
            # Nothing else goes on in this loop.
            sys.stdin.readline()
            left = total

            async def one() -> None:
                nonlocal left
                while left > 0:
                    left -= 1
                    await sftp.lstat(asked["file"])

            await asyncio.gather(*(one() for _ in range(CLIENTS)))


@contextmanager
def counted(directory: Path, command: Sequence[str], **options: Any) -> Iterator[tuple[Any, Callable[..., int]]]:
    """Run a program under callgrind; the second of the pair counts the instructions of a call."""
    out = directory / "callgrind.out"
    process = subprocess.Popen(
        ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}", *command],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        stderr=subprocess.DEVNULL,
        **options,
    )

    def control(*asked: str) -> None:
        subprocess.run(["callgrind_control", *asked, str(process.pid)], check=True, capture_output=True)

    def count(warm: Callable[[], object], work: Callable[[], object]) -> int:
        control("-i", "on")
        warm()
        control("-z")
        work()
        control("-d")
        dumped = max(directory.glob("callgrind.out.*"))
        totals = [line for line in dumped.read_text().splitlines() if line.startswith(("summary:", "totals:"))]
        return int(totals[-1].split()[1])

    try:
        yield process, count
    finally:
        process.kill()
        process.wait()
        for dumped in directory.glob("callgrind.out*"):
            dumped.unlink()


def of_a_server(directory: Path, command: Sequence[str], port: int, request: bytes, total: int) -> float:
    """Return the instructions of one answer of a server."""
    with counted(directory, command, stdout=subprocess.DEVNULL) as (process, count):
        deadline = time.monotonic() + PATIENT
        while not accepts(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[1:3]} did not start")
            time.sleep(0.3)
        uvloop.run(ask(port, request, 1, 1))
        warm = lambda: uvloop.run(ask(port, request, WARM))  # noqa: E731
        return count(warm, lambda: uvloop.run(ask(port, request, total))) / total


def of_the_loop(cluster: Cluster, total: int) -> float:
    """Return the instructions of one `lstat` of the bare asyncssh loop."""
    user, sshd = cluster.users[0], cluster.sshd
    asked = {
        "host": sshd.host, "port": sshd.port, "host_key": sshd.host_public_key, "user": user.name, "total": total,
        "key": str(user.private_key), "file": str(user.home / "bench" / "file-4k.txt"),
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.instructions", "--loop", json.dumps(asked)]
    with counted(cluster.directory, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as (process, count):

        def step() -> None:
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()

        process.stdout.readline()
        return count(step, step) / total


def measure(cluster: Cluster, total: int) -> list[tuple[str, float]]:
    """Count for both yardsticks and for the gateway."""
    user = cluster.users[0]
    _make_files(user)
    timeouts = {"command_execution": PATIENT, "connection": PATIENT, "login": PATIENT, "keep_alive": PATIENT}
    ssh = {"timeout": timeouts, "start_up_timeout": PATIENT}
    settings = cluster.write_gateway_config(
        cluster.directory / "instructions.yaml",
        clusters=[cluster.cluster_settings("demo", ssh=ssh)],
        metrics={"path": "/metrics"},
        http={"max_delay": PATIENT},
    )
    path = f"/filesystem/demo/ops/stat?path={quote(str(user.home / 'bench' / 'file-4k.txt'))}"
    authorization = f"Host: {HOST}\r\nAuthorization: Bearer {cluster.token(user)}\r\n\r\n"
    request = f"GET {path} HTTP/1.1\r\n{authorization}".encode()
    http, gateway = cluster.take_port(), cluster.take_port()
    constant = [sys.executable, str(Path(__file__).with_name("raw_http.py")), str(http)]
    serve = [sys.executable, "-m", "hpcgate.cli", "serve", "--config", str(settings), "--host", HOST]
    return [
        ("HTTP alone", of_a_server(cluster.directory, constant, http, request, total)),
        ("asyncssh alone", of_the_loop(cluster, total)),
        ("stat", of_a_server(cluster.directory, [*serve, "--port", str(gateway)], gateway, request, total)),
    ]


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 2 if there is no valgrind."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--requests", type=int, default=1500, help="that are counted (default 1500)")
    parser.add_argument("--loop", type=json.loads, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.loop is not None:
        uvloop.run(loop_alone(chosen.loop))
        return 0
    if shutil.which("valgrind") is None:
        print("valgrind is not installed", file=sys.stderr)
        return 2
    with Cluster(Options(roles=("counted",)), progress=print) as cluster:
        found = measure(cluster, chosen.requests)
    for name, each in found:
        print(f"{name:16}{each:12,.0f} instructions each")
    http, ssh, stat = (each for _, each in found)
    print(f"stat takes {stat / (http + ssh):.2f} times what both yardsticks take together")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
