"""compress, extract and rm of pyfirecrest where the operation takes too long, and becomes a job."""

import asyncio
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import firecrest
import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from tests.clients.clients import Blocking
from tests.cluster.transfer_clients import ACCOUNT, Bearer, connect, ended_job, place

__all__ = ["connect", "place"]

Connect = Callable[[str], tuple[Any, httpx.Client]]
FORMS = {"none": "", "gzip": "gz", "bzip2": "bz2", "xz": "xz"}
"""Compressions, and what tarfile calls them."""


@pytest.fixture(scope="module")
def hasty(cluster: Cluster) -> Iterator[Gateway]:
    """A gateway that gives an operation no time to speak of; its scheduler has all that it needs."""
    config = cluster.write_gateway_config(
        cluster.directory / "tests-hasty.yaml",
        clusters=[cluster.cluster_settings("demo", ssh={"timeout": {"command_execution": 0.001}})],
    )
    running = cluster.start_gateway(config)
    yield running
    running.stop()


def late(request: httpx.Request) -> httpx.Response | None:
    """Return the answer to an operation that takes too long, None for all else."""
    if request.url.path.endswith(("/ops/compress", "/ops/extract", "/ops/rm")):
        return httpx.Response(408, json={"errorType": "error", "message": "Command timed out"}, request=request)
    return None


class Late(httpx.HTTPTransport):
    """HTTP to a gateway where some operations always take too long, and others do not."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return late(request) or super().handle_request(request)


class AsyncLate(httpx.AsyncHTTPTransport):
    """The same for asyncio."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return late(request) or await super().handle_async_request(request)


def client_of(kind: str, url: str, cluster: Cluster, runner: asyncio.Runner, *, blocking: bool) -> Any:
    """Return one of pyfirecrest's clients.

    One that waits also reads the jobs' logs, for which the hasty gateway gives it no time: it goes to another, on a
    line that has the operations time out.
    """
    made = getattr(firecrest.v2, kind)(url, Bearer(cluster.token("alice")))
    made.timeout = 60
    if kind == "Firecrest":
        if blocking:
            made._session = httpx.Client(transport=Late())
        return made
    if blocking:
        made._session = httpx.AsyncClient(transport=AsyncLate())
    made.polling_sleep_times = [0.2] * 250
    return Blocking(made, runner)


@pytest.fixture
def tree(cluster: Cluster, place: Path) -> Path:
    make = 'mkdir "$0" && cd "$0" && echo a >"a b.txt" && echo b >b && ln -s b l.txt && ln -s absent dangling'
    cluster.as_user("alice", ["sh", "-c", make, f"{place}/it's $(id)"])
    return place / "it's $(id)"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["Firecrest", "AsyncFirecrest"])
@pytest.mark.parametrize("blocking", [True, False])
def test_every_verb(
    gateway: Gateway, hasty: Gateway, cluster: Cluster, place: Path, tree: Path, kind: str, blocking: bool
) -> None:
    """Each transfer job runs and does what it says."""
    with asyncio.Runner() as runner:
        client = client_of(kind, (gateway if blocking else hasty).url, cluster, runner, blocking=blocking)
        try:
            every_verb(client, place, tree, blocking)
        finally:
            client.close_session()


def every_verb(client: Any, place: Path, tree: Path, blocking: bool) -> None:
    options: dict[str, Any] = {"account": ACCOUNT, "blocking": blocking}
    client.cp("demo", str(tree), f"{place}/copy", **options)
    wait_or_see(blocking, (place / "copy").exists)
    assert sorted(os.listdir(place / "copy")) == ["a b.txt", "b", "dangling", "l.txt"]
    client.mv("demo", f"{place}/copy", f"{place}/moved", **options)
    wait_or_see(blocking, lambda: (place / "moved").exists() and not (place / "copy").exists())
    client.compress("demo", str(tree), f"{place}/packed", **options)
    wait_or_see(blocking, (place / "packed").exists)
    (place / "out").mkdir()
    os.chown(place / "out", tree.stat().st_uid, tree.stat().st_gid)
    client.extract("demo", f"{place}/packed", f"{place}/out", **options)
    wait_or_see(blocking, lambda: os.path.lexists(place / "out" / tree.name / "dangling"))
    client.rm("demo", str(tree), **options)
    wait_or_see(blocking, lambda: not tree.exists())
    until(lambda: sorted(os.listdir(place)) == ["moved", "out", "packed"])


def wait_or_see(blocking: bool, condition: Callable[[], bool]) -> None:
    """See that something is so: at once after a call that waits, else within a while."""
    if blocking:
        assert condition()
    else:
        until(condition)


@pytest.mark.parametrize("compression", FORMS)
@pytest.mark.parametrize("pattern", [None, r"\./.*\.txt"])
@pytest.mark.parametrize("dereference", [False, True])
def test_compressions(
    gateway: Gateway,
    cluster: Cluster,
    place: Path,
    tree: Path,
    compression: str,
    pattern: str | None,
    dereference: bool,
) -> None:
    """A transfer packs by each compression what it is asked for."""
    with asyncio.Runner() as runner:
        client = client_of("Firecrest", gateway.url, cluster, runner, blocking=True)
        try:
            there_and_back(client, place, tree, compression, pattern, dereference)
        finally:
            client.close_session()


def there_and_back(
    client: Any, place: Path, tree: Path, compression: str, pattern: str | None, dereference: bool
) -> None:
    (tree / "dangling").unlink()
    archive = place / "packed"
    client.compress(
        "demo",
        str(tree),
        str(archive),
        account=ACCOUNT,
        compression=compression,
        match_pattern=pattern,
        dereference=dereference,
    )
    with tarfile.open(archive, cast("Any", f"r:{FORMS[compression]}")) as packed:
        members = {member.name: member for member in packed}
    if pattern is None:
        assert set(members) == {tree.name} | {f"{tree.name}/{name}" for name in ("a b.txt", "b", "l.txt")}
        assert members[f"{tree.name}/l.txt"].issym() != dereference
    else:
        assert set(members) == {"./a b.txt"} | ({"./l.txt"} if dereference else set())
    out = place / "out"
    out.mkdir()
    os.chown(out, tree.stat().st_uid, tree.stat().st_gid)
    client.extract("demo", str(archive), str(out), account=ACCOUNT, compression=compression)
    base = out if pattern else out / tree.name
    assert (base / "a b.txt").read_text() == "a\n"


def test_a_cancelled_job_leaves_nothing(cluster: Cluster, hasty: Gateway, connect: Connect, place: Path) -> None:
    _, http = connect(hasty.url)
    # Read as zeros without end, as far as this test is concerned.
    make = 'echo old >"$0/archive" && truncate -s 1T "$0/huge"'
    cluster.as_user("alice", ["sh", "-c", make, str(place)])
    body = {"path": f"{place}/huge", "targetPath": f"{place}/archive", "account": ACCOUNT}
    job = http.post("/filesystem/demo/transfer/compress", json=body).json()["transferJob"]
    until(lambda: any(place.glob(".hpcgate-*/new")))
    assert http.delete(f"/compute/demo/jobs/{job['jobId']}").status_code == 204
    done = ended_job(http, job)
    assert (done["state"], done["output"]) == ("CANCELLED", "")
    until(lambda: sorted(os.listdir(place)) == ["archive", "huge"])
    assert (place / "archive").read_text() == "old\n"
