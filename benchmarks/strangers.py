"""Connections without a valid token, as many as are asked for: `python -m benchmarks.strangers < JSON`.

A process of its own. Each connection sends what its kind sends, and another one follows when it has ended, a little
later, so that no kind asks for more than a few connections a second each. It says "there" once each has tried to
connect.
"""

import asyncio
import contextlib
import json
import random
import sys
from base64 import urlsafe_b64encode
from collections import Counter

import uvloop

KINDS = ("random", "forged", "none", "slow-heads", "slow-bodies", "half-open", "resets")
PAUSE = 0.2
"""Seconds between two connections in a row."""
PATH = "/filesystem/demo/ops/stat?path=/"


def _encoded(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


class Strangers:
    """Connections of one kind.

    Args:
        token: A valid token, whose head forged ones have.
        addresses: How many addresses of 127.0.0.0/8 they come from.
    """

    def __init__(self, host: str, port: int, kind: str, token: str, addresses: int = 1) -> None:
        self._where = (host, port)
        self._kind = kind
        self._head = token.partition(".")[0]
        self._payload = token.split(".")[1]
        self._addresses = addresses
        self.statuses: Counter[str] = Counter()
        self._missing = 0

    def request(self) -> bytes:
        """Return what one of them sends."""
        lines = [f"GET {PATH} HTTP/1.1", f"Host: {self._where[0]}:{self._where[1]}"]
        if self._kind in ("random", "resets"):
            lines.append(f"Authorization: Bearer {random.randbytes(16).hex()}")
        elif self._kind == "forged":
            signature = _encoded(random.randbytes(256))
            lines.append(f"Authorization: Bearer {self._head}.{self._payload}.{signature}")
        elif self._kind == "slow-bodies":
            lines[0] = "POST /filesystem/demo/ops/mkdir HTTP/1.1"
            lines.append("Content-Length: 1000")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def run(self, connections: int, seconds: float) -> None:
        """Keep so many going for so long."""
        self._missing = connections
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
                for number in range(connections):
                    tasks.create_task(self._one(number, connections))

    async def _one(self, number: int, connections: int) -> None:
        local = (f"127.0.1.{1 + number % self._addresses}", 0) if self._addresses > 1 else None
        # They come over a second: a thousand at once are another matter.
        await asyncio.sleep(number / connections)
        first = True
        while True:
            writer: asyncio.StreamWriter | None = None
            try:
                try:
                    reader, writer = await asyncio.open_connection(*self._where, local_addr=local)
                finally:
                    self._missing -= first
                    if first and not self._missing:
                        print("there", flush=True)
                    first = False
                await self._talk(reader, writer)
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                self.statuses[type(error).__name__] += 1
            finally:
                if writer is not None:
                    writer.transport.abort()
            await asyncio.sleep(PAUSE)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._kind == "half-open":
            await reader.read()
            return
        if self._kind == "slow-heads":
            for byte in self.request():
                writer.write(bytes([byte]))
                await asyncio.sleep(1)
        while True:
            writer.write(self.request())
            if self._kind == "resets":
                await asyncio.sleep(3)
                return
            if self._kind == "slow-bodies":
                for _ in range(1000):
                    writer.write(b" ")
                    await asyncio.sleep(1)
            head = await reader.readuntil(b"\r\n\r\n")
            self.statuses[head.split(b" ", 2)[1].decode()] += 1
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            await reader.readexactly(length)
            if b"connection: close" in head.lower():
                return


def main() -> None:
    """Read what to do, do it, and print how often each answer came."""
    asked = json.load(sys.stdin)
    strangers = Strangers(asked["host"], asked["port"], asked["kind"], asked["token"], asked.get("addresses", 1))
    uvloop.run(strangers.run(asked["connections"], asked["seconds"]))
    print(json.dumps(strangers.statuses))


if __name__ == "__main__":
    main()
