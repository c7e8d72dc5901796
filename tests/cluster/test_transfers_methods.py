"""Several transfer methods at once, streamer and wormhole among them, through a real Slurm."""

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import firecrest
import httpx
import pytest
import websockets
import websockets.sync.client

from hpcgate.demo.cluster import Cluster, Gateway
from tests.cluster.node_python import node_python
from tests.cluster.transfer_clients import ACCOUNT, LARGE, Bearer, connect, ended, ended_job, place
from tests.transfers.object_store import ObjectStore
from tests.transfers.servers import WormholeServers

__all__ = ["connect", "place"]

# pyfirecrest posts the list of parts in a way that httpx frowns upon.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

Connect = Callable[[str], tuple[Any, httpx.Client]]
WORMHOLE = Path(sys.executable).with_name("wormhole")
UPLOAD = "/filesystem/demo/transfer/upload"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("s3") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def wormholes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WormholeServers]:
    with WormholeServers(tmp_path_factory.mktemp("wormhole")) as running:
        yield running


@pytest.fixture(scope="module")
def site(cluster: Cluster, store: ObjectStore, wormholes: WormholeServers) -> Iterator[Gateway]:
    program = {"python": node_python(cluster), "install": False, "wait_timeout": 120}
    port = cluster.take_port()
    methods = [
        {"service_type": "streamer", "host": "127.0.0.1", "port_range": [port, port + 5], **program},
        store.settings(poll_interval=0.5, wait_timeout=120),
        {
            "service_type": "wormhole",
            "relay_url": wormholes.relay_url,
            "transit_helper": wormholes.transit_helper,
            **program,
        },
    ]
    config = cluster.write_gateway_config(
        cluster.directory / "tests-methods.yaml",
        clusters=[cluster.cluster_settings("demo", data_operation={"data_transfer": methods})],
    )
    running = cluster.start_gateway(config)
    yield running
    running.stop()


@pytest.fixture
def client(site: Gateway, connect: Connect) -> Any:
    return connect(site.url)[0]


@pytest.fixture
def http(site: Gateway, connect: Connect) -> httpx.Client:
    return connect(site.url)[1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(6 * LARGE))
    return path


@pytest.fixture(autouse=True)
def _wormhole_settings(monkeypatch: pytest.MonkeyPatch, wormholes: WormholeServers) -> None:
    """Let pyfirecrest find the command and the servers."""
    monkeypatch.setenv("PATH", f"{WORMHOLE.parent}:{os.environ['PATH']}")
    for name, value in wormholes.environment.items():
        monkeypatch.setenv(name, value)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_s3_beside_the_others(client: Any, place: Path, file: Path, tmp_path: Path) -> None:
    client.upload("demo", str(file), str(place), "file", account=ACCOUNT)
    assert (place / "file").read_bytes() == file.read_bytes()
    client.download("demo", f"{place}/file", str(tmp_path / "back"), account=ACCOUNT)
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


def listening(client: Any, transfer: Any) -> None:
    """Wait until the job says that it listens; pyfirecrest itself only waits until it runs."""
    transfer.wait_for_streamer_job_to_listen()
    log = Path(transfer.transfer_data["transferJob"]["logs"]["outputLog"])
    wait_until(lambda: log.exists() and "listening" in log.read_text(), "the job does not listen")


def test_streamer(client: Any, place: Path, file: Path, tmp_path: Path, cluster: Cluster) -> None:
    """pyfirecrest moves a file both ways by the streamer."""
    options: dict[str, Any] = {"account": ACCOUNT, "transfer_method": "streamer"}
    name = 'it\'s $(id) "x".bin'
    upload = client.upload("demo", str(file), str(place), name, **options)
    upload.wait_for_transfer_job()
    assert (place / name).read_bytes() == file.read_bytes()
    assert (place / name).stat().st_uid == cluster.user("alice").uid
    download = client.download("demo", str(place / name), str(tmp_path / "back"), **options)
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    download.wait_for_transfer_job()
    assert os.listdir(place) == [name]


def test_streamer_not_blocking(client: Any, place: Path, file: Path, tmp_path: Path) -> None:
    """pyfirecrest begins a transfer by the streamer and does not wait for it."""
    options: dict[str, Any] = {"account": ACCOUNT, "blocking": False, "transfer_method": "streamer"}
    upload = client.upload("demo", str(file), str(place), "file", **options)
    listening(client, upload)
    upload.upload_file_streamer()
    wait_until((place / "file").exists, "the file did not appear")
    assert (place / "file").read_bytes() == file.read_bytes()
    download = client.download("demo", f"{place}/file", str(tmp_path / "back"), **options)
    listening(client, download)
    download.download_file_streamer()
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    upload.wait_for_transfer_job()
    download.wait_for_transfer_job()


# pyfirecrest leaves the pipes of the command that it starts to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_wormhole(client: Any, place: Path, file: Path, tmp_path: Path, cluster: Cluster) -> None:
    """A file goes both ways by magic-wormhole."""
    name = 'it\'s $(id) "x".bin'
    client.upload("demo", str(file), str(place), name, account=ACCOUNT, transfer_method="wormhole")
    assert (place / name).read_bytes() == file.read_bytes()
    assert (place / name).stat().st_uid == cluster.user("alice").uid
    download = client.download(
        "demo", str(place / name), str(tmp_path / "back"), account=ACCOUNT, blocking=False, transfer_method="wormhole"
    )
    # Not receive_file_wormhole(): it calls the command with an option that it does not have.
    receive = [WORMHOLE, "receive", "--accept-file", "-o", str(tmp_path / "back"), download.wormhole_code]
    subprocess.run(receive, check=True, capture_output=True, timeout=300)
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    download.wait_for_transfer_job()
    assert os.listdir(place) == [name]


@pytest.mark.parametrize("method", ["s3", "streamer", "wormhole"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_asynchronous_client(
    site: Gateway, cluster: Cluster, place: Path, file: Path, tmp_path: Path, method: str
) -> None:
    """The asynchronous client moves files both ways by each method."""

    async def there_and_back() -> None:
        client = firecrest.v2.AsyncFirecrest(site.url, Bearer(cluster.token("alice")))
        client.MAX_DIRECT_UPLOAD_SIZE = LARGE
        client.timeout = 60
        vars(client)["polling_sleep_times"] = [0.2] * 250
        options: dict[str, Any] = {"account": ACCOUNT, "transfer_method": method}
        try:
            await client.upload("demo", str(file), str(place), "file", **options)
            if method == "streamer":
                # It returns once the file is sent, not once the job has it on disk.
                await asyncio.to_thread(wait_until, (place / "file").exists, "the file did not appear")
            assert (place / "file").read_bytes() == file.read_bytes()
            if method != "wormhole":  # whose receiving calls the command with an option that it does not have
                await client.download("demo", f"{place}/file", str(tmp_path / "back"), **options)
                assert (tmp_path / "back").read_bytes() == file.read_bytes()
        finally:
            await client.close_session()

    asyncio.run(there_and_back())


def test_all_methods_are_named(http: httpx.Client) -> None:
    [system] = http.get("/status/systems").json()["systems"]
    assert system["dataOperation"]["data_transfer"]["serviceType"] == "streamer"
    assert system["dataOperation"]["transfer_methods"] == ["streamer", "s3", "wormhole"]


def test_answers(http: httpx.Client, place: Path) -> None:
    """The answer to a transfer has what its method needs."""
    for directives, key in (
        ({"transferMethod": "s3", "fileSize": 1}, "partsUploadUrls"),
        ({"transferMethod": "streamer"}, "coordinates"),
        ({"transferMethod": "wormhole", "wormholeCode": "1-a-b"}, "wormholeCode"),
    ):
        answer = http.post(UPLOAD, json={"path": f"{place}/x", "account": ACCOUNT, "transferDirectives": directives})
        assert answer.status_code == 201, answer.text
        assert answer.json()["transferDirectives"]["transferMethod"] == directives["transferMethod"]
        assert key in answer.json()["transferDirectives"]
        http.delete(f"/compute/demo/jobs/{answer.json()['transferJob']['jobId']}")


def connected_by_hand(transfer: Any) -> Any:
    """Connect to a streamer job as its client does, and return the connection."""
    where = json.loads(base64.urlsafe_b64decode(transfer.transfer_data["transferDirectives"]["coordinates"]))
    headers = {"Authorization": f"Bearer {where['secret']}"}
    for port in range(where["ports"][0], where["ports"][1] + 1):
        with contextlib.suppress(OSError, websockets.exceptions.InvalidHandshake):
            return websockets.sync.client.connect(f"ws://127.0.0.1:{port}", additional_headers=headers)
    raise AssertionError("the job does not listen")


@pytest.mark.parametrize("when", ["while it waits", "while bytes flow"])
@pytest.mark.parametrize("method", ["streamer", "wormhole"])
def test_cancelled_upload_leaves_nothing(
    client: Any, http: httpx.Client, place: Path, file: Path, cluster: Cluster, method: str, when: str
) -> None:
    cluster.as_user("alice", ["sh", "-c", 'echo old >"$0"', f"{place}/file"])
    with contextlib.ExitStack() as stack:
        if method == "streamer":
            options: dict[str, Any] = {"account": ACCOUNT, "blocking": False, "transfer_method": "streamer"}
            transfer = client.upload("demo", str(file), str(place), "file", **options)
            job = transfer.transfer_data["transferJob"]
            listening(client, transfer)
            if when == "while bytes flow":
                socket = stack.enter_context(connected_by_hand(transfer))
                socket.send(json.dumps({"type": "init", "num_chunks": 2, "file_size": 2 * LARGE}).encode())
                socket.send(bytes(LARGE))
                wait_until(lambda: any(place.glob(".hpcgate-*/new")), "nothing arrives")
        else:
            code = "987654321-nobody-has-it"
            if when == "while bytes flow":
                huge = stack.enter_context(tempfile.NamedTemporaryFile())
                huge.truncate(20 * 1024**3)
                code = stack.enter_context(sending(Path(huge.name)))
            body = {
                "path": f"{place}/file",
                "account": ACCOUNT,
                "transferDirectives": {"transferMethod": "wormhole", "wormholeCode": code},
            }
            job = http.post(UPLOAD, json=body).json()["transferJob"]
            begun = ".hpcgate-*/new.tmp" if when == "while bytes flow" else ".hpcgate-*"
            wait_until(lambda: any(place.glob(begun)), "the job does not begin")
        cluster.as_user("alice", ["scancel", job["jobId"]])
        wait_until(lambda: os.listdir(place) == ["file"], "something is left")
        done = ended_job(http, job)
    assert done["state"] == "CANCELLED"
    assert "successfully transferred" not in done["output"]
    assert (place / "file").read_text() == "old\n"


@contextlib.contextmanager
def sending(path: Path) -> Iterator[str]:
    """Send a file by wormhole; gives the code."""
    command: list[str | Path] = [WORMHOLE, "send", path, "--code-length", "4", "--hide-progress"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        yield next(line.split(":")[-1].strip() for line in process.stderr if "Wormhole code is:" in line)
    finally:
        process.kill()
        process.communicate()


def test_streamer_job_that_nobody_calls(cluster: Cluster, connect: Connect, place: Path) -> None:
    port = cluster.take_port()
    program = {"python": node_python(cluster), "install": False, "wait_timeout": 1}
    method = {"service_type": "streamer", "host": "127.0.0.1", "port_range": [port, port], **program}
    config = cluster.write_gateway_config(
        cluster.directory / "tests-streamer.yaml",
        clusters=[cluster.cluster_settings("demo", data_operation={"data_transfer": method})],
    )
    gateway = cluster.start_gateway(config)
    try:
        _, http = connect(gateway.url)
        body = {"path": f"{place}/x", "account": ACCOUNT, "transferDirectives": {"transferMethod": "streamer"}}
        done = ended(http, http.post(UPLOAD, json=body))
        assert (done["state"], done["exit"]) == ("FAILED", 1)
        assert "No file was transferred" in done["errors"]
        assert os.listdir(place) == []
    finally:
        gateway.stop()


@pytest.mark.parametrize(
    ("verb", "directives"),
    [
        ("upload", {"transferMethod": "s3", "fileSize": 20}),
        ("upload", {"transferMethod": "streamer"}),
        ("upload", {"transferMethod": "wormhole", "wormholeCode": "7-a-b"}),
        ("download", {"transferMethod": "s3"}),
        ("download", {"transferMethod": "streamer"}),
        ("download", {"transferMethod": "wormhole"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["transferMethod"],
)
def test_a_transfer_that_is_sent_twice_is_one_transfer(
    http: httpx.Client, place: Path, cluster: Cluster, verb: str, directives: dict[str, Any]
) -> None:
    source = place / "source"
    source.write_bytes(b"x" * 20)
    body = {"sourcePath": str(source), "account": ACCOUNT, "transferDirectives": directives}
    headers = {"Idempotency-Key": str(uuid4())}
    path = f"/filesystem/demo/transfer/{verb}"
    first = http.post(path, json=body, headers=headers)
    assert first.status_code == 201, first.text
    try:
        again = http.post(path, json=body, headers=headers)
        assert (again.status_code, again.json()) == (201, first.json())
        assert again.headers["Idempotency-Replayed"] == "true"
        other = http.post(path, json={**body, "sourcePath": f"{source}2"}, headers=headers)
        assert other.status_code == 422
    finally:
        cluster.slurm.run(["scancel", first.json()["transferJob"]["jobId"]])
