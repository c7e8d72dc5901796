"""`python -m tests.faults.fuzz`: clients that break the rules at every point of a request, while admission is full.

They stall, reset, half-close, pipeline and send garbage, as users and as strangers. Which connection does what follows
from the seed and the connection's number alone: `--seed 7 --only 123` has that one again. Meanwhile somebody asks in an
orderly way, and has every answer. At the end nothing may be held that was not held before, and nothing may have gone
wrong within the gateway.
"""

import argparse
import asyncio
import random
import re
import resource
import socket
import socketserver
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

import aiohttp
import httpx
from rich.console import Console
from rich.table import Table

from hpcgate.demo.cluster import Cluster, Gateway, Options
from hpcgate.server.sink import LINGER_BYTES
from tests.faults.load import Client, Wrong, put_and_get, stat
from tests.faults.vitals import eventually, vitals
from tests.http.test_heads import ODD

AT_ONCE = 64
"""Connections that break the rules at a time."""
MAX_REQUESTS = 256
"""`http.max_requests` of the gateway, so that few strangers fill it."""
STRANGERS = 700
"""Connections of strangers that fill it: those served, as many as may wait, and more."""
PATIENCE = 120.0
"""Seconds for whatever has no reason to take long."""
SILENT = 4.0
"""Seconds after which the gateway closes a connection that asks for nothing."""
TAKEN = 3.0
"""Seconds for which a connection waits to have its bytes taken."""
MEMORY = 24e6
"""Bytes by which memory may differ at the end: caches of the allocator and of what was learned."""
SLACK = 2
"""Tasks and descriptors by which they may: the prober's, and the connection that asks."""
FAULTY = ("internal.error", "Traceback", "Exception in")
"""What stands in the log where something has gone wrong within the gateway."""
ROUND = 1000
"""Scripts of a round."""

Moment = Literal["full", "refused", "one by one"]
"""When a storm of strangers ends: once no more may wait, once refusals are said, or from then on one by one."""
Act = Literal["send", "wait", "read", "half", "reset", "close", "end"]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a connection does: send bytes, wait for seconds, read what is there, shut down its sending side,
    reset, close, or read to the end."""

    act: Act
    content: bytes = b""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Site:
    """What requests name: a token, a home directory, and the system."""

    token: str
    home: str
    system: str = "demo"

    def head(self, method: str, path: str, *lines: str) -> bytes:
        """Return the head of a good request."""
        fields = ("Host: gateway.example.org", f"Authorization: Bearer {self.token}", *lines)
        return "\r\n".join((f"{method} {path} HTTP/1.1", *fields, "", "")).encode()

    def good(self, rng: random.Random) -> bytes:
        """Return a request that is served."""
        files, here = f"/filesystem/{self.system}", quote(self.home)
        name = f"{here}/fuzz-{rng.randrange(8)}"
        block = rng.randbytes(rng.choice((0, 1, 1000, 70_000)))
        kind = rng.randrange(10)
        if kind < 3:
            what = rng.choice(("stat", "ls", "checksum", "head"))
            return self.head("GET", f"{files}/ops/{what}?path={here if what in ('stat', 'ls') else '/etc/passwd'}")
        if kind == 3:
            body = f'{{"path": "{self.home}/fuzz", "parent": true}}'.encode()
            return self.head("POST", f"{files}/ops/mkdir", f"Content-Length: {len(body)}") + body
        if kind == 4:
            return self.head("PUT", f"{files}/files/content?path={name}", f"Content-Length: {len(block)}") + block
        if kind == 5:
            pieces = (b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (block[:500], block[500:]) if piece)
            put = self.head("PUT", f"{files}/files/content?path={name}", "Transfer-Encoding: chunked")
            return put + b"".join(pieces) + b"0\r\n\r\n"
        if kind == 6:
            lines: tuple[str, ...] = (f"Content-Length: {len(block)}", "Expect: 100-continue")
            return self.head("PUT", f"{files}/files/content?path={name}", *lines) + block
        if kind == 7:
            lines = ("Tus-Resumable: 1.0.0", "Upload-Length: 100000", "Content-Length: 0")
            return self.head("POST", f"{files}/files/uploads?path={name}", *lines)
        if kind == 8:
            path = rng.choice(("/openapi.json", "/status/liveness", "/status/systems"))
            return self.head(rng.choice(("GET", "HEAD", "OPTIONS")), path)
        return self.head("GET", f"{files}/files/content?path={rng.choice((name, '/etc/services'))}")

    def every(self) -> list[bytes]:
        """Return one request of each kind of body, to be cut at every byte."""
        body = b'{"path": "/x"}'
        mkdir = f"/filesystem/{self.system}/ops/mkdir"
        put = f"/filesystem/{self.system}/files/content?path={quote(self.home)}/fuzz-cut"
        short = Site("cut", self.home, self.system)
        return [
            short.head("GET", f"/filesystem/{self.system}/ops/stat?path=/", "X: y"),
            short.head("POST", mkdir, f"Content-Length: {len(body)}") + body,
            self.head("PUT", put, "Transfer-Encoding: chunked") + b"4;x=y\r\nabcd\r\n2\r\nef\r\n0\r\nX: y\r\n\r\n",
        ]


GARBAGE: tuple[Callable[[random.Random], bytes], ...] = (
    lambda rng: rng.randbytes(rng.choice((1, 2, 20, 3000))),
    lambda rng: bytes([rng.choice(b"\0\r\n \t:;,/\x7f\xff")]) * rng.choice((1, 2, 500)),
    lambda rng: b"A" * 200_000,
    lambda rng: b"X: " + b"y" * rng.choice((10, 70_000)) + b"\r\n",
    lambda rng: rng.choice(list(ODD.values()))[1],
    lambda rng: b"0\r\n\r\n",
    lambda rng: b"fffffff\r\n",
    lambda rng: b"\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n",
)


def cuts(site: Site) -> Iterator[list[Step]]:
    """Yield scripts that cut requests at every byte, in each way."""
    for request in site.every():
        at = request.find(site.token.encode())
        for position in range(1, len(request)):
            if 0 <= at < position < at + len(site.token) - 1:
                continue  # one byte of a token is as good as another
            begun = Step("send", request[:position])
            yield [begun, Step("reset")]
            yield [begun, Step("half"), Step("end")]
            yield [begun, Step("send", b"\0\r\n"), Step("end")]


def script(site: Site, seed: int, number: int) -> list[Step]:
    """Return what one connection does."""
    rng = random.Random(f"{seed}:{number}")
    several = rng.choice((1, 1, 1, 2, 3, 30))
    stranger = Site(rng.randbytes(12).hex(), site.home, site.system)
    content = b"".join((stranger if rng.random() < 0.2 else site).good(rng) for _ in range(several))
    if rng.random() < 0.2:
        content = rng.choice(list(ODD.values()))[1] + content
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        at = rng.randrange(len(content) + 1)
        match rng.randrange(3):
            case 0:
                content = content[:at] + rng.choice(GARBAGE)(rng) + content[at:]
            case 1:
                content = content[:at] + content[at + rng.choice((1, 1, 30)) :]
            case _:
                content = content[:at] + content[max(0, at - rng.choice((2, 50))) :]
    # Heads are short beside bodies: half of the cuts lie in what comes first.
    most = [rng.choice((len(content), min(len(content), 300))) for _ in range(rng.choice((0, 1, 2, 5)))]
    places = sorted(rng.randrange(one + 1) for one in most)
    steps: list[Step] = []
    for begin, end in zip(chain((0,), places), chain(places, (len(content),)), strict=True):
        steps.append(Step("send", content[begin:end]))
        steps.extend(rng.choice(BETWEEN)(rng))
    steps.extend(rng.choice(LAST))
    return steps


BETWEEN: tuple[Callable[[random.Random], list[Step]], ...] = (
    lambda rng: [],
    lambda rng: [],
    lambda rng: [Step("wait", seconds=rng.choice((0.0, 0.01, 0.1)))],
    lambda rng: [Step("wait", seconds=rng.choice((0.5, 2.0)))] if rng.random() < 0.3 else [],
    lambda rng: [Step("read")],
)
LAST = (
    [Step("end")],
    [Step("end")],
    [Step("reset")],
    [Step("close")],
    [Step("read"), Step("reset")],
    [Step("half"), Step("end")],
    [Step("half"), Step("reset")],
)


@dataclass
class Found:
    """What came of a round."""

    answers: Counter[int] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    orderly: int = 0
    late: int = 0
    wrong: list[str] = field(default_factory=list)


async def alive(client: Client) -> None:
    """Ask whether the process lives."""
    await client.ask("GET", "/status/liveness")


async def play(port: int, steps: list[Step]) -> tuple[bytes, str]:
    """Have a connection do what it is to do, and return what it was sent and how it ended."""
    loop = asyncio.get_running_loop()
    asked: float | None = None
    received = bytearray()
    with socket.socket() as connection:
        connection.setblocking(False)
        # The gateway's time runs from the handshake, which the kernel makes: this process may learn of it late.
        begun = loop.time()
        try:
            await loop.sock_connect(connection, ("127.0.0.1", port))
            for step in steps:
                match step.act:
                    case "send":
                        with suppress(ConnectionError, TimeoutError):
                            # Who is not read from goes on to the next step.
                            async with asyncio.timeout(TAKEN):
                                await loop.sock_sendall(connection, step.content)
                        if asked is None and step.content.strip(b"\r\n"):
                            asked = loop.time() - begun
                    case "wait":
                        await asyncio.sleep(step.seconds)
                    case "read":
                        with suppress(BlockingIOError):
                            received += connection.recv(65536)
                    case "half":
                        connection.shutdown(socket.SHUT_WR)
                    case "reset":
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                        return bytes(received), "reset"
                    case "close":
                        return bytes(received), "closed"
                    case "end":
                        async with asyncio.timeout(PATIENCE):
                            while block := await loop.sock_recv(connection, 65536):
                                received += block
        except TimeoutError:
            return bytes(received), "stuck"
        except OSError as error:
            return bytes(received), type(error).__name__
    # Who asks for nothing is told nothing.
    return bytes(received), "ended" if asked is None or asked < SILENT / 2 else "silent"


_RESET = struct.pack("ii", 1, 0)
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def judge(steps: list[Step], received: bytes, end: str, *, full: bool) -> str:
    """Say what is wrong with what a connection was sent; nothing if all is well.

    Args:
        steps: What it did.
        received: What it was sent.
        end: How it ended.
        full: Whether the gateway had more requests than may wait: only who sends all at once is sure to come in time.
    """
    if received and not received.startswith(b"HTTP/1.1 "):
        return f"not HTTP: {received[:60]!r}"
    for status in _STATUS.findall(received):
        if status[:1] == b"5" and status not in (b"503", b"504", b"507"):
            return f"status {status.decode()}"
    if end == "stuck":
        return "not closed"
    asked = b"".join(step.content for step in steps).lstrip(b"\r\n")
    # Who sends no more after a whole request has left, as far as the gateway can tell.
    waits = steps[-1].act == "end" and all(step.act != "half" for step in steps)
    at_once = sum(step.act == "send" for step in steps) == 1
    if waits and asked and not received and (at_once or not full) and end != "silent":
        return f"no answer ({end})"
    # What has rested may be closed just when more comes, and who sends without end is not read without end.
    if waits and at_once and end == "ConnectionResetError" and len(asked) < LINGER_BYTES:
        return f"reset after {len(received)} bytes"
    return ""


class Fuzz:
    """Rounds of connections that break the rules, to one gateway.

    Args:
        gateway: The gateway.
        site: What they ask for.
        orderly: Who asks in an orderly way meanwhile.
        seed: Where their scripts come from.
    """

    def __init__(self, gateway: Gateway, site: Site, orderly: Site, seed: int) -> None:
        self._gateway = gateway
        self._port = urlsplit(gateway.url).port or 0
        self.site = site
        self._orderly = orderly
        self._seed = seed

    async def round(self, first: int, count: int, *, cut: bool = False, full: bool = True) -> Found:
        """Run so many scripts, and those that cut requests everywhere if asked to."""
        found = Found()
        # Whoever is to have every answer is known: among strangers of the same address a newcomer waits as they do.
        if (status := await self.orderly()) != 200:
            found.wrong.append(f"orderly: status {status} before anybody else came")
        scripts: list[tuple[str, list[Step]]] = [
            (f"--seed {self._seed} --only {number}", script(self.site, self._seed, number))
            for number in range(first, first + count)
        ]
        if cut:
            scripts += [(f"cut {number}", steps) for number, steps in enumerate(cuts(self.site))]
        todo = iter(scripts)

        async def work() -> None:
            for name, steps in todo:
                received, end = await play(self._port, steps)
                found.ends[end] += 1
                found.answers.update(int(status) for status in _STATUS.findall(received))
                if wrong := judge(steps, received, end, full=full):
                    found.wrong.append(f"{name}: {wrong}")

        async with self._asking(found), self._crowd(STRANGERS if full else 0), asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
        return found

    async def orderly(self) -> int:
        """Ask for one thing in an orderly way, and return the status."""
        headers = {"Authorization": f"Bearer {self._orderly.token}"}
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        path = f"/filesystem/{self._orderly.system}/ops/stat"
        async with (
            aiohttp.ClientSession(self._gateway.url, headers=headers, timeout=timeout) as http,
            http.get(path, params={"path": self._orderly.home}) as answer,
        ):
            return answer.status

    async def storm(self, connections: int, moment: Moment) -> None:
        """Have so many strangers come, more than may wait and each with a token of its own, and leave by a reset."""
        loop = asyncio.get_running_loop()
        rng = random.Random(f"{self._seed}:storm")
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(connections)]
            for one in sockets:
                one.setblocking(False)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                await loop.sock_connect(one, ("127.0.0.1", self._port))
                stranger = Site(rng.randbytes(16).hex(), "/")
                await loop.sock_sendall(one, stranger.head("GET", "/filesystem/demo/ops/stat?path=/"))
            await self._filled()
            async with asyncio.timeout(PATIENCE):
                while moment != "full" and not any(map(_is_refused, sockets)):
                    await asyncio.sleep(0.01)
            for one in sockets:
                one.close()
                if moment == "one by one":
                    await asyncio.sleep(0.002)

    @asynccontextmanager
    async def _asking(self, found: Found) -> AsyncIterator[None]:
        over = asyncio.Event()
        task = asyncio.create_task(self._ask(found, over))
        try:
            yield
        finally:
            over.set()
            await task

    async def _ask(self, found: Found, over: asyncio.Event) -> None:
        headers = {"Authorization": f"Bearer {self._orderly.token}"}
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
            client = Client(http, self._gateway.url, self._orderly.system, self._orderly.home, 0)
            while not over.is_set():
                for action in (put_and_get, stat, alive):
                    try:
                        await action(client)
                        found.orderly += 1
                    except Wrong as wrong:
                        # A slow machine may have no time for a while, and says so.
                        if wrong.status != 503:
                            found.wrong.append(f"orderly: {wrong}")
                        found.late += 1
                    except (aiohttp.ClientError, OSError) as error:
                        # A connection that has rested is closed at some time, perhaps now.
                        if not isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
                            found.wrong.append(f"orderly: {error!r}")
                        found.late += 1
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def _crowd(self, connections: int) -> AsyncIterator[None]:
        """Have strangers there, more than may wait, who leave by a reset after a moment."""
        tasks = [asyncio.create_task(self._stranger(number)) for number in range(connections)]
        try:
            if connections:
                await self._filled()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _filled(self) -> None:
        """Wait until no more may wait. On a slow machine fewer may, and then some have waited for too long."""
        before: float | None = None
        async with asyncio.timeout(PATIENCE), aiohttp.ClientSession(self._gateway.url) as http:
            while True:
                async with http.get("/metrics") as answer:
                    text = await answer.text()
                refused = metric(text, "hpcgate_http_requests_refused_total")
                before = refused if before is None else before
                if metric(text, "hpcgate_http_requests_waiting") >= MAX_REQUESTS or refused > before:
                    return
                await asyncio.sleep(0.05)

    async def _stranger(self, number: int) -> None:
        rng = random.Random(f"{self._seed}:stranger:{number}")
        while True:
            token = rng.randbytes(16).hex()
            request = Site(token, "/").head("GET", "/filesystem/demo/ops/stat?path=/")
            await play(self._port, [Step("send", request), Step("wait", seconds=rng.choice((1, 3, 15))), Step("reset")])


def _is_refused(connection: socket.socket) -> bool:
    """Say whether an answer is there that tells of overload."""
    try:
        return b'"overload"' in connection.recv(65536, socket.MSG_PEEK)
    except OSError:  # nothing is there, or the connection has ended
        return False


def metric(text: str, name: str) -> float:
    """Return the sum of a metric's values."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


@dataclass(frozen=True, slots=True)
class Held:
    """What the gateway's process holds, as the kernel and its metrics have it."""

    descriptors: int
    tasks: int
    memory: int


@dataclass(frozen=True, slots=True)
class Scene:
    """A gateway that strangers keep busy, for the service that is to tell what their tokens are worth never answers."""

    cluster: Cluster
    gateway: Gateway

    def fuzz(self, seed: int) -> Fuzz:
        """Return rounds of this seed."""
        return Fuzz(self.gateway, self._site("bob"), self._site("alice"), seed)

    def _site(self, role: str) -> Site:
        user = self.cluster.user(role)
        return Site(self.cluster.token(user), str(user.home))

    def rest(self, before: Held | None = None) -> Held:
        """Wait until nobody is connected, and no more is held than before, and return what is held."""

        def well() -> bool:
            if vitals(self.gateway.url).connections:
                return False
            now = self.held()
            return before is None or (
                now.tasks <= before.tasks + SLACK and now.descriptors <= before.descriptors + SLACK
            )

        eventually(well, PATIENCE, lambda: f"{self.held()}, but before it was {before}")
        return self.held()

    def held(self) -> Held:
        """Look at the process."""
        process = Path("/proc", str(self.gateway.pid))
        pages = int((process / "statm").read_text().split()[1])
        tasks = vitals(self.gateway.url).tasks
        return Held(len(list((process / "fd").iterdir())), tasks, pages * resource.getpagesize())

    def faults(self) -> list[str]:
        """Return what has gone wrong within the gateway."""
        text = httpx.get(f"{self.gateway.url}/metrics", timeout=PATIENCE).text
        found = [
            line
            for line in text.splitlines()
            if re.match(r'hpcgate_internal_errors_total|hpcgate_http_requests_total.*status="500"', line)
            and not line.endswith(" 0.0")
        ]
        with self.gateway.log.open(errors="replace") as log:
            return found + [line for line in log if any(words in line for words in FAULTY)]


class _Silent(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with suppress(OSError):
            while self.request.recv(65536):
                pass


class _Silence(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def silent() -> Iterator[int]:
    """Yield the port of a server that takes requests and never answers."""
    with _Silence(("127.0.0.1", 0), _Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def scene(cluster: Cluster) -> Iterator[Scene]:
    """Start a gateway to be tried, and end it."""
    with silent() as port:
        introspection = {
            "url": f"http://127.0.0.1:{port}/",
            "client_id": "hpcgate",
            "client_secret": "fuzz",
            "timeout": 1,
        }
        config = cluster.write_gateway_config(
            cluster.directory / "fuzz.yaml",
            clusters=[cluster.cluster_settings(ssh={"timeout": {"idle_timeout": 1.5}}, probing=None)],
            auth={"authentication": {"introspection": introspection}},
            metrics={"path": "/metrics"},
            http={
                "max_requests": MAX_REQUESTS,
                "max_delay": 10,
                "header_timeout": SILENT,
                "keep_alive": 1,
                "body_timeout": 2,
                "send_timeout": 3,
                "drain": 0,
            },
            streams={"stall_timeout": 2},
        )
        gateway = cluster.start_gateway(config)
        try:
            yield Scene(cluster, gateway)
        finally:
            gateway.stop()


def soak(seconds: float, seed: int, console: Console) -> list[str]:
    """Run rounds for about so many seconds, tell what came of them, and return what is wrong."""
    wrong: list[str] = []
    answers: Counter[int] = Counter()
    table = Table("seconds", "tasks", "descriptors", "MB", "orderly", "late", title="held while at rest")
    with Cluster(Options(roles=("alice", "bob"))) as cluster, scene(cluster) as tried:
        begun = time.monotonic()
        first: Held | None = None
        number = 0
        while first is None or time.monotonic() - begun < seconds:
            # The first round is for what is learned and loaded once.
            found = asyncio.run(tried.fuzz(seed).round(number, ROUND, cut=not number, full=bool(number)))
            number += ROUND
            held = tried.rest(first)
            answers += found.answers
            wrong += found.wrong
            numbers = (held.tasks, held.descriptors, f"{held.memory / 1e6:.0f}", found.orderly, found.late)
            table.add_row(f"{time.monotonic() - begun:.0f}", *map(str, numbers))
            console.print(f"{time.monotonic() - begun:5.0f} s: {number} scripts, {held}, {len(wrong)} wrong")
            if number == 2 * ROUND:
                first = held
        if first is not None and held.memory > first.memory + MEMORY:
            wrong.append(f"bytes of memory: {first.memory} after the second round, {held.memory} at the end")
        wrong += tried.faults()
    console.print(table)
    console.print("answers:", ", ".join(f"{status}: {count}" for status, count in sorted(answers.items())))
    return wrong


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--only", type=int, help="the number of a connection, to do what that one did")
    given = parser.parse_args()
    console = Console()
    if given.only is not None:
        with Cluster(Options(roles=("alice", "bob"))) as cluster, scene(cluster) as tried:
            site = tried.fuzz(given.seed).site
            steps = script(site, given.seed, given.only)
            for step in steps:
                console.print(step)
            port = urlsplit(tried.gateway.url).port or 0
            received, end = asyncio.run(play(port, steps))
            console.print(received, end, judge(steps, received, end, full=False))
        return 0
    console.print(f"seed {given.seed}")
    wrong = soak(given.seconds, given.seed, console)
    for line in wrong:
        console.print(f"wrong: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
