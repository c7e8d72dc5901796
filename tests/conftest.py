"""One real demo cluster and one gateway before it, for all tests that need them."""

import inspect
import signal
import socket
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as effort

from hpcgate.demo.cluster import Cluster, Gateway, Options
from hpcgate.demo.slurm import Slurm, SlurmOptions
from hpcgate.demo.sshd import Sshd
from tests.mending import mend
from tests.order import LONG, LONGER, LONGEST
from tests.people import Person

# A shell that starts this in the background has SIGINT ignored, which the programs under test would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No example fails for the machine's being slow or busy. `make test-deep` tries many more of them, `make unit` fewer.
effort.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
effort.register_profile("brief", effort.get_profile("unhurried"), max_examples=10)
effort.register_profile("deep", effort.get_profile("unhurried"), max_examples=2000)
effort.load_profile("unhurried")

# httpx gives up after five seconds where it is not told otherwise, which a busy machine may need for an answer.
_patience = inspect.signature(httpx.get).parameters["timeout"].default
_patience.connect = _patience.read = _patience.write = _patience.pool = 120.0

UNITS = {
    "admission", "api", "auth", "config", "credentials", "gateway", "health", "outbound", "rates", "schedulers",
    "sharing", "telemetry",
}  # fmt: skip
"""Directories whose tests need nothing that runs, but for those that ask for a fixture of `RUNNING`."""
RUNNING = {"cluster", "front", "server", "redis", "browser"}
STARTING = {"api/routes/test_pages.py", "rates/test_buckets.py"}
"""Files in them that start a gateway, or a Redis, by themselves."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deal the files that take long like cards, one of each directory in turn; within a directory all stays in order.

    Some directories compute and others wait, and at each moment some of both are to be under way. The longest files
    come first of all. Those that need nothing running are marked for `make unit`.
    """
    here = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(here)
        runs = RUNNING.intersection(getattr(item, "fixturenames", ())) or str(path) in STARTING
        if path.parts[0] in UNITS and path.stem not in LONGER and not runs:
            item.add_marker("unit")
    rooms: dict[str, list[Path]] = {}
    for path in dict.fromkeys(item.path for item in items):
        rooms.setdefault(path.relative_to(here).parts[0], []).append(path)
    turns: dict[Path, float] = {}
    for room, files in rooms.items():
        for number, path in enumerate(files):
            turns[path] = (number + 0.5) / len(files) if room in LONG or path.stem in LONGER else 1.0
    for number, name in enumerate(LONGEST):
        turns[here / f"{name}.py"] = number - len(LONGEST)
    items.sort(key=lambda item: turns[item.path])


_clusters: list[Cluster] = []


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster with accounting and GPUs: sshd, Slurm with slurmdbd, and the identity provider.

    Clients keep their tokens for as long as the tests take, which on a slow machine is more than an hour.
    """
    options = Options(slurm=SlurmOptions(gpus_per_node=2), patience=60, token_lifetime=86_400)
    with Cluster(options) as running:
        _clusters.append(running)
        yield running
        _clusters.clear()


_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember that a test has failed."""
    report = yield
    item.stash[_failed] = report.failed or item.stash.get(_failed, False)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Mend the cluster behind a test that has failed, so that no other fails for what it has left."""
    yield
    if item.stash.get(_failed, False):
        for running in _clusters:
            mend(running)


@pytest.fixture(scope="session")
def plain(cluster: Cluster) -> tuple[Slurm, Sshd]:
    """A second Slurm, without slurmdbd, and its login node."""
    return cluster.start_plain_slurm()


@pytest.fixture(scope="session")
def gateway(cluster: Cluster, plain: tuple[Slurm, Sshd]) -> Iterator[Gateway]:
    """A gateway with three systems: `demo`, `commands` (the same without SFTP) and `plain` (without slurmdbd)."""
    slurm, sshd = plain
    config = cluster.write_gateway_config(
        cluster.directory / "tests-gateway.yaml",
        clusters=[
            cluster.cluster_settings("demo"),
            cluster.cluster_settings("commands", ssh={"files": "commands"}),
            cluster.cluster_settings("plain", slurm=slurm, sshd=sshd),
        ],
    )
    running = cluster.start_gateway(config)
    _wait_for_probes(cluster, running)
    yield running
    running.stop()


def _wait_for_probes(cluster: Cluster, gateway: Gateway) -> None:
    """Wait until all systems were probed: what a test stops meanwhile would be found unhealthy, and stay so."""
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=600) as client:
        while not all(one["servicesHealth"] for one in client.get("/status/systems").json()["systems"]):
            time.sleep(0.05)


@pytest.fixture(scope="session")
def person(cluster: Cluster, gateway: Gateway) -> Iterator[Callable[[str], Person]]:
    """Return a function that gives a user of the cluster by role."""
    people: dict[str, Person] = {}

    def find(role: str) -> Person:
        if role not in people:
            user = cluster.user(role)
            headers = {"Authorization": f"Bearer {cluster.token(user)}"}
            people[role] = Person(user, httpx.Client(base_url=gateway.url, headers=headers, timeout=600), cluster)
        return people[role]

    yield find
    for one in people.values():
        one.http.close()


@pytest.fixture(scope="session")
def alice(person: Callable[[str], Person]) -> Person:
    """The first user."""
    return person("alice")


@pytest.fixture(scope="session")
def bob(person: Callable[[str], Person]) -> Person:
    """The second user."""
    return person("bob")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens, and nobody can begin to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
