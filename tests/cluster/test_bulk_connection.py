"""What is large goes by a second connection of its user, on a real cluster."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from tests.cluster.streaming import LARGE, etag_of, make, place, token
from tests.log_lines import settled
from tests.people import Person

__all__ = ["place"]

SMALL = LARGE[:1_000_000]
FILES = "/filesystem/demo/files"
TUS = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}

Connections = Callable[[], list[bool]]


@pytest.fixture
def large_gateway(cluster: Cluster) -> Iterator[Gateway]:
    """A gateway that takes 10 MB for large, and has no connections yet."""
    settings = [cluster.cluster_settings("demo", ssh={"bulk_from": 10_000_000})]
    running = cluster.start_gateway(cluster.write_gateway_config(cluster.directory / "bulk.yaml", clusters=settings))
    yield running
    running.stop()


@pytest.fixture
def http(large_gateway: Gateway, alice: Person) -> Iterator[httpx.Client]:
    """The first user's client."""
    with httpx.Client(base_url=large_gateway.url, headers={"Authorization": token(alice)}, timeout=600) as client:
        yield client


@pytest.fixture
def connections(large_gateway: Gateway) -> Connections:
    """Return a function that says of each login for a request so far whether it was for what is large."""

    def logged() -> list[bool]:
        lines = settled(large_gateway.url, large_gateway.log).rpartition("\n")[0].splitlines()
        found = [json.loads(line) for line in lines if '"ssh.connect"' in line]
        return [line["bulk"] for line in found if "request_id" in line]

    return logged


def test_down(http: httpx.Client, connections: Connections, alice: Person, place: Path) -> None:
    """A large download has a connection of its own, a small one does not."""
    small, large = make(alice, place / "small", SMALL), make(alice, place / "large", LARGE)
    assert http.get(f"{FILES}/content", params={"path": str(small)}).content == SMALL
    assert http.head(f"{FILES}/content", params={"path": str(large)}).headers["content-length"] == str(len(LARGE))
    for name, status in (("If-None-Match", 304), ("If-Match", 412)):
        tag = etag_of(large) if status == 304 else '"another"'
        assert http.get(f"{FILES}/content", params={"path": str(large)}, headers={name: tag}).status_code == status
    assert connections() == [False], "nothing large is sent"
    for _ in range(2):
        assert http.get(f"{FILES}/content", params={"path": str(large)}).content == LARGE
    part = http.get(f"{FILES}/content", params={"path": str(large)}, headers={"Range": "bytes=7-9"})
    assert (part.status_code, part.content) == (206, LARGE[7:10])
    assert http.get(f"{FILES}/archive", params={"path": str(place)}).status_code == 200
    assert http.get("/filesystem/demo/ops/stat", params={"path": str(large)}).status_code == 200
    assert connections() == [False, True]


def test_up(http: httpx.Client, connections: Connections, place: Path) -> None:
    """A large upload has a connection of its own, a small one does not."""
    target = {"path": str(place / "new")}
    assert http.put(f"{FILES}/content", params=target, content=SMALL).status_code == 201
    assert connections() == [False]
    assert http.put(f"{FILES}/content", params=target, content=LARGE).status_code == 204
    assert connections() == [False, True]
    assert (place / "new").read_bytes() == LARGE
    assert http.get("/filesystem/demo/ops/checksum", params=target).json()["output"]["checksum"] == (
        hashlib.sha256(LARGE).hexdigest()
    )


def test_tus(http: httpx.Client, connections: Connections, place: Path) -> None:
    """A large part of a resumable upload has a connection of its own, a small one does not."""
    head = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(LARGE) + len(SMALL)), "Upload-Metadata": "filename bmV3"}
    made = http.post(f"{FILES}/uploads", params={"path": str(place)}, headers=head)
    where = made.headers["location"]
    assert http.patch(where, content=SMALL, headers={**TUS, "Upload-Offset": "0"}).status_code == 204
    assert connections() == [False]
    assert http.patch(where, content=LARGE, headers={**TUS, "Upload-Offset": str(len(SMALL))}).status_code == 204
    assert connections() == [False, True]
    assert (place / "new").read_bytes() == SMALL + LARGE
