"""Load by several users in a thread of its own, with a record of what became of each request."""

import asyncio
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp

GIVE_UP = 120
"""Seconds in which a hundred things are done on any machine."""
TIMEOUT = 60
"""Seconds after which a request counts as stuck."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request.

    Attributes:
        action: What was asked for.
        began: When, by the monotonic clock.
        seconds: How long it took.
        error: None, or what was wrong: the status and the message, or the client's error.
        status: The HTTP status, 0 if there was none.
        client: The number of the client.
    """

    action: str
    began: float
    seconds: float
    error: str | None
    status: int
    client: int


class Wrong(Exception):
    """An answer that is not the right one."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status} {words}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Client:
    """One user's client: what the actions need.

    Attributes:
        http: The HTTP client.
        base: The gateway's URL.
        system: The system's name.
        home: The user's home directory.
        number: The client's number.
    """

    http: aiohttp.ClientSession
    base: str
    system: str
    home: str
    number: int

    @property
    def file(self) -> str:
        """A file of the client's own, which it stores before all else."""
        return f"{self.home}/faults-{self.number}"

    async def ask(self, method: str, path: str, **options: Any) -> bytes:
        """Return the body of a good answer; a bad one raises Wrong."""
        async with self.http.request(method, f"{self.base}{path}", **options) as answer:
            body = await answer.read()
            if answer.status >= 400:
                raise Wrong(answer.status, body[:300].decode(errors="replace"))
            return body

    async def operate(self, operation: str, **parameters: str) -> bytes:
        """Run a filesystem operation that only reads."""
        return await self.ask("GET", f"/filesystem/{self.system}/ops/{operation}", params=parameters)


Action = Callable[[Client], Awaitable[None]]


async def stat(client: Client) -> None:
    """Look at one file."""
    await client.operate("stat", path=client.home)


async def ls(client: Client) -> None:
    """List one directory."""
    await client.operate("ls", path=client.home)


async def checksum(client: Client) -> None:
    """Run a command."""
    await client.operate("checksum", path=client.file)


async def head(client: Client) -> None:
    """Read the beginning of a file."""
    await client.operate("head", path=client.file)


async def jobs(client: Client) -> None:
    """List the jobs."""
    await client.ask("GET", f"/compute/{client.system}/jobs")


async def put_and_get(client: Client) -> None:
    """Store a file and read it again."""
    where = f"/filesystem/{client.system}/files/content"
    content = random.randbytes(100_000)
    await client.ask("PUT", where, params={"path": client.file}, data=content)
    if await client.ask("GET", where, params={"path": client.file}) != content:
        raise Wrong(200, "other content than was stored")


READS: Mapping[str, Action] = {"stat": stat, "ls": ls, "head": head, "checksum": checksum}


@dataclass
class Load:
    """A context manager that asks until it is left.

    Args:
        base: The gateway's URL.
        tokens: A token and a home directory for each client.
        actions: What the clients do, chosen at random each time.
        system: The system's name.
        pause: Seconds that a client rests between two requests.
        trust: What is needed to believe the server's certificate; None where the system's authorities will do.
    """

    base: str
    tokens: Sequence[tuple[str, str]]
    actions: Mapping[str, Action]
    system: str = "demo"
    pause: float = 0.0
    trust: ssl.SSLContext | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def errors(self) -> list[Outcome]:
        """All that went wrong."""
        return [outcome for outcome in self.outcomes if outcome.error is not None]

    def summary(self, since: float = 0.0) -> Counter[str]:
        """Count the outcomes by action and error."""
        return Counter(
            f"{outcome.action}: {outcome.error or 'ok'}" for outcome in self.outcomes if outcome.began >= since
        )

    def good_since(self, moment: float) -> list[Outcome]:
        """Return what began after a moment and went well."""
        return [outcome for outcome in self.outcomes if outcome.began >= moment and outcome.error is None]

    def go_on(self, count: int = 100) -> None:
        """Wait until so many things have been done that were asked for from now on."""
        began = time.monotonic()
        while sum(outcome.began >= began for outcome in list(self.outcomes)) < count:
            assert time.monotonic() < began + GIVE_UP, self.summary()
            time.sleep(0.05)

    def go_well(self, each: int = 20, *, action: str | None = None) -> None:
        """Wait until so many things that each client asked for from now on have gone well, and nobody's failed since.

        With an ``action`` only its outcomes count.
        """
        began = time.monotonic()
        while True:
            seen = [one for one in list(self.outcomes) if one.began >= began and action in (None, one.action)]
            failed = max((one.began for one in seen if one.error is not None), default=began)
            well = Counter(one.client for one in seen if one.began > failed)
            if all(well[number] >= each for number in range(len(self.tokens))):
                return
            assert time.monotonic() < began + GIVE_UP, self.summary(began)
            time.sleep(0.05)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number, (token, home) in enumerate(self.tokens):
                group.create_task(self._client(number, token, home))

    async def _client(self, number: int, token: str, home: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        connector = aiohttp.TCPConnector(ssl=self.trust or True)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as http:
            client = Client(http, self.base, self.system, home, number)
            await self._once(client, "put_and_get", put_and_get)
            while not self._stop.is_set():
                name = random.choice(list(self.actions))
                await self._once(client, name, self.actions[name])
                await asyncio.sleep(self.pause)

    async def _once(self, client: Client, name: str, action: Action) -> None:
        began = time.monotonic()
        error: str | None = None
        status = 200
        try:
            await action(client)
        except Wrong as wrong:
            error, status = str(wrong), wrong.status
        except (aiohttp.ClientError, TimeoutError, OSError) as broken:
            error, status = f"{type(broken).__name__}: {broken}", 0
        self.outcomes.append(Outcome(name, began, time.monotonic() - began, error, status, client.number))
