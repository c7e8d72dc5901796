"""What the tests of streams share: places on the cluster and contents."""

import itertools
import os
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpcgate.demo.cluster import Gateway
from hpcgate.demo.packages import ensure_installed, program
from tests.people import Person

SYSTEMS = ("demo", "commands")
LARGE = random.Random(4).randbytes(20_000_003)
_numbers = itertools.count()


@pytest.fixture
def place(alice: Person) -> Iterator[Path]:
    """A directory of the first user."""
    path = alice.user.home / f"streams-{next(_numbers)}"
    alice.run("mkdir", str(path))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def aria2c() -> str:
    """The program of that name, installed if need be."""
    ensure_installed({"aria2c": "aria2"}, lambda line: None)
    return program("aria2c")


def make(alice: Person, path: Path, content: bytes) -> Path:
    """Make a file of the user's."""
    path.write_bytes(content)
    os.chown(path, alice.user.uid, alice.user.gid)
    return path


def etag_of(path: Path) -> str:
    """Return the entity tag that a file should have."""
    found = path.stat()
    mtime, fraction = divmod(found.st_mtime_ns // 10**6, 1000)
    return f'"{found.st_ino:x}-{found.st_size:x}-{mtime:x}-{fraction:x}"'


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def token(person: Person) -> str:
    return person.http.headers["authorization"]


def begun(gateway: Gateway, person: Person, method: str, target: str, headers: str = "") -> socket.socket:
    """Send the head of a request and return its connection."""
    host, port = gateway.url.removeprefix("http://").split(":")
    raw = socket.create_connection((host, int(port)), timeout=600)
    raw.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: {token(person)}\r\n{headers}\r\n".encode())
    return raw


def memory(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))
