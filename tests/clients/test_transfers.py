"""What the clients do by jobs of the system, and by S3: waiting for it, and not."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from tests.clients.clients import CommandLine, Make, command_line
from tests.people import Person
from tests.transfers.object_store import ObjectStore

# pyfirecrest posts the list of parts in a way that httpx frowns upon.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

Put = Callable[[Path, bytes], Path]
ACCOUNT = "demo"
LARGE = 2 * 1024 * 1024
"""Bytes of a file that the clients send by a transfer."""


@pytest.fixture(scope="module")
def moving(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose system moves data by S3."""
    with ObjectStore(tmp_path_factory.mktemp("s3") / "data") as store:
        transfer = {"data_transfer": store.settings(poll_interval=0.2)}
        config = cluster.write_gateway_config(
            cluster.directory / "tests-clients-transfers.yaml",
            clusters=[cluster.cluster_settings("demo", data_operation=transfer)],
        )
        running = cluster.start_gateway(config)
        yield running
        running.stop()


@pytest.fixture
def client(make_client: Make, moving: Gateway) -> Any:
    return make_client(moving.url)


@pytest.fixture
def cli(moving: Gateway, cluster: Cluster, alice: Person, tmp_path: Path) -> CommandLine:
    return command_line(moving.url, alice.user, cluster.idp.token_url, tmp_path)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_jobs_that_move_files(client: Any, place: Path, put: Put) -> None:
    put(place / "data", b"content")
    (place / "link").symlink_to("data")
    os.chown(place / "link", place.stat().st_uid, place.stat().st_gid, follow_symlinks=False)
    copied = client.cp(
        "demo", f"{place}/link", f"{place}/copy", dereference=True, account=ACCOUNT, blocking=True, timeout=600
    )
    assert copied["transferJob"]["system"] == "demo"
    assert not (place / "copy").is_symlink()
    assert (place / "copy").read_bytes() == b"content"
    client.mv("demo", f"{place}/copy", f"{place}/moved", account=ACCOUNT, blocking=True, timeout=600)
    assert sorted(os.listdir(place)) == ["data", "link", "moved"]
    client.rm("demo", f"{place}/moved", account=ACCOUNT, blocking=False, timeout=600)
    until(lambda: not (place / "moved").exists())


def test_jobs_that_pack_files(client: Any, place: Path, put: Put) -> None:
    put(place / "data", b"content")
    client.compress("demo", f"{place}/data", f"{place}/packed", account=ACCOUNT, blocking=True)
    (place / "data").unlink()
    client.extract("demo", f"{place}/packed", str(place), account=ACCOUNT, blocking=True)
    assert (place / "data").read_bytes() == b"content"


def test_large_files_there_and_back(client: Any, place: Path, tmp_path: Path) -> None:
    if hasattr(client, "set_maximum_s3_connections"):  # the asynchronous client alone has it
        client.set_maximum_s3_connections(2)
    local, back = tmp_path / "local", tmp_path / "back"
    local.write_bytes(os.urandom(LARGE))
    client.upload("demo", local, str(place), "data", account=ACCOUNT, blocking=True, transfer_method="s3")
    assert (place / "data").read_bytes() == local.read_bytes()
    client.download("demo", f"{place}/data", back, account=ACCOUNT, blocking=True, transfer_method="s3")
    assert back.read_bytes() == local.read_bytes()


def test_the_command_moves_files(cli: CommandLine, place: Path, put: Put) -> None:
    put(place / "data", b"content")
    (place / "link").symlink_to("data")
    os.chown(place / "link", place.stat().st_uid, place.stat().st_gid, follow_symlinks=False)
    cli("cp", "--dereference", "--account", ACCOUNT, place / "link", place / "copy")
    assert (place / "copy").read_bytes() == b"content"
    assert not (place / "copy").is_symlink()
    cli("mv", "--account", ACCOUNT, place / "copy", place / "moved")
    assert sorted(os.listdir(place)) == ["data", "link", "moved"]
    cli("compress", "--account", ACCOUNT, place / "moved", place / "packed")
    cli("rm", "--force", "--account", ACCOUNT, place / "moved")
    assert not (place / "moved").exists()
    cli("extract", "--account", ACCOUNT, place / "packed", place)
    assert (place / "moved").read_bytes() == b"content"


def test_the_command_moves_large_files(cli: CommandLine, place: Path) -> None:
    content = os.urandom(LARGE)
    (cli.directory / "local").write_bytes(content)
    cli("upload", "--account", ACCOUNT, "local", place, "data")
    assert (place / "data").read_bytes() == content
    cli("download", "--account", ACCOUNT, place / "data", "back")
    assert (cli.directory / "back").read_bytes() == content


def test_clients_log(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The client writes to the log of its own."""
    with caplog.at_level(logging.INFO):
        client.log(logging.INFO, "a line")
    assert "a line" in caplog.text
