"""Clients of both kinds, a directory to work in, and the systems."""

import asyncio
import itertools
import os
import shutil
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import firecrest
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.slurm import Slurm
from hpcgate.demo.sshd import Sshd
from tests.clients.clients import Blocking, CommandLine, Make, Site, command_line
from tests.people import Person

_numbers = itertools.count()


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """The event loop of the asynchronous clients."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as running:
        yield running


@pytest.fixture(scope="session")
def trust() -> ssl.SSLContext:
    """One TLS context for all clients: making it is most of the cost of a client."""
    return ssl.create_default_context()


@pytest.fixture(scope="session")
def login(alice: Person, cluster: Cluster) -> firecrest.ClientCredentialsAuth:
    """pyfirecrest's own way to a token, for the first user."""
    return firecrest.ClientCredentialsAuth(alice.user.client_id, alice.user.client_secret, cluster.idp.token_url)


@pytest.fixture(params=["synchronous", "asynchronous"])
def make_client(
    request: pytest.FixtureRequest,
    gateway: Gateway,
    login: firecrest.ClientCredentialsAuth,
    runner: asyncio.Runner,
    trust: ssl.SSLContext,
) -> Iterator[Make]:
    """A function that makes clients of one kind."""
    made: list[Any] = []

    def make(url: str = gateway.url, authorization: Any = login) -> Any:
        kind = firecrest.v2.Firecrest if request.param == "synchronous" else firecrest.v2.AsyncFirecrest
        client: Any = kind(url, authorization, verify=trust)
        client.timeout = 30
        made.append(client if request.param == "synchronous" else Blocking(client, runner))
        return made[-1]

    yield make
    for client in made:
        client.close_session()


@pytest.fixture
def client(make_client: Make) -> Any:
    """A client of the first user, synchronous and asynchronous in turn."""
    return make_client()


@pytest.fixture
def place(alice: Person) -> Iterator[Path]:
    """A directory of the first user, on the cluster."""
    path = alice.user.home / f"clients-{next(_numbers)}"
    path.mkdir()
    os.chown(path, alice.user.uid, alice.user.gid)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def put(alice: Person) -> Callable[[Path, bytes], Path]:
    """A function that makes a file of the first user, past the gateway."""

    def make(path: Path, content: bytes) -> Path:
        path.write_bytes(content)
        os.chown(path, alice.user.uid, alice.user.gid)
        return path

    return make


@pytest.fixture(params=["demo", "commands"])
def system(request: pytest.FixtureRequest) -> str:
    """A system whose files are reached by SFTP, and one whose files are reached by commands."""
    return str(request.param)


@pytest.fixture(params=["demo", "plain"])
def site(request: pytest.FixtureRequest, cluster: Cluster, plain: tuple[Slurm, Sshd], alice: Person) -> Site:
    """A system with accounting, and one without."""
    return Site(request.param, cluster.slurm if request.param == "demo" else plain[0], cluster, alice.user)


@pytest.fixture
def cli(gateway: Gateway, cluster: Cluster, alice: Person, tmp_path: Path) -> CommandLine:
    """The command `firecrest` of the first user, in a directory of its own."""
    return command_line(gateway.url, alice.user, cluster.idp.token_url, tmp_path)
