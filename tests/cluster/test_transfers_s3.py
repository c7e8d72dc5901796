"""Large files through S3 and jobs of a real Slurm, by pyfirecrest."""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from firecrest.FirecrestException import TransferJobFailedException

from hpcgate.demo.cluster import Cluster, Gateway
from tests.cluster.transfer_clients import ACCOUNT, LARGE, connect, ended, ended_job, place
from tests.transfers.object_store import SECRET_KEY, ObjectStore
from tests.transfers.throttle import Throttle

__all__ = ["connect", "place"]

# pyfirecrest posts the list of parts in a way that httpx frowns upon.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

Connect = Callable[[str], tuple[Any, httpx.Client]]
MIB = 1024 * 1024
PART = 5 * MIB
UPLOAD = "/filesystem/demo/transfer/upload"
DOWNLOAD = "/filesystem/demo/transfer/download"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("s3") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def site(cluster: Cluster, store: ObjectStore) -> Iterator[Gateway]:
    settings = store.settings(
        multipart={"max_part_size": PART, "parallel_runs": 2}, poll_interval=0.5, wait_timeout=120
    )
    config = cluster.write_gateway_config(
        cluster.directory / "tests-s3.yaml",
        clusters=[
            cluster.cluster_settings("demo", data_operation={"data_transfer": settings}),
            cluster.cluster_settings("commands", ssh={"files": "commands"}, data_operation={"data_transfer": settings}),
        ],
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


@pytest.mark.parametrize("size", [0, 1, LARGE - 1, LARGE, PART + 1, 2 * PART])
def test_there_and_back(client: Any, place: Path, cluster: Cluster, tmp_path: Path, size: int) -> None:
    """A file goes to the cluster and back by S3."""
    # Files of up to a byte go by S3, too, where it is allowed no bytes or none at all.
    client.MAX_DIRECT_UPLOAD_SIZE = size - 1 if size < 2 else LARGE
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    name = 'it\'s $(id) "x".bin'
    client.upload("demo", str(tmp_path / "file"), str(place), name, account=ACCOUNT)
    assert (place / name).read_bytes() == content
    assert (place / name).stat().st_uid == cluster.user("alice").uid
    client.download("demo", str(place / name), str(tmp_path / "back"), account=ACCOUNT)
    assert (tmp_path / "back").read_bytes() == content
    assert os.listdir(place) == [name]


def test_not_blocking(client: Any, http: httpx.Client, place: Path, tmp_path: Path) -> None:
    """pyfirecrest begins a transfer by S3 and does not wait for it."""
    (tmp_path / "file").write_bytes(os.urandom(LARGE))
    upload = client.upload("demo", str(tmp_path / "file"), str(place), "file", account=ACCOUNT, blocking=False)
    assert not (place / "file").exists()
    upload.upload_file_to_stage()
    upload.wait_for_transfer_job()
    assert (place / "file").read_bytes() == (tmp_path / "file").read_bytes()
    download = client.download("demo", f"{place}/file", str(tmp_path / "back"), account=ACCOUNT, blocking=False)
    download.wait_for_transfer_job()
    download.download_file_from_stage()
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()


def test_upload_that_is_given_up(
    cluster: Cluster, store: ObjectStore, connect: Connect, place: Path, tmp_path: Path
) -> None:
    settings = store.settings(poll_interval=0.2, wait_timeout=1)
    config = cluster.write_gateway_config(
        cluster.directory / "tests-s3-impatient.yaml",
        clusters=[cluster.cluster_settings("demo", data_operation={"data_transfer": settings})],
    )
    impatient = cluster.start_gateway(config)
    try:
        client, _ = connect(impatient.url)
        cluster.as_user("alice", ["sh", "-c", 'echo old >"$0"', f"{place}/target"])
        (tmp_path / "file").write_bytes(os.urandom(LARGE))
        upload = client.upload("demo", str(tmp_path / "file"), str(place), "target", account=ACCOUNT, blocking=False)
        with pytest.raises(TransferJobFailedException):
            upload.wait_for_transfer_job()
        directives = upload.transfer_data["transferDirectives"]
        assert httpx.put(directives["partsUploadUrls"][0], content=b"x").status_code == 404
        assert (place / "target").read_text() == "old\n"
        assert os.listdir(place) == ["target"]
    finally:
        impatient.stop()


def test_cancelled_job_leaves_nothing(
    client: Any, http: httpx.Client, place: Path, tmp_path: Path, cluster: Cluster
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(LARGE))
    before = temporary(cluster)
    upload = client.upload("demo", str(tmp_path / "file"), str(place), "target", account=ACCOUNT, blocking=False)
    until(lambda: temporary(cluster) != before, "the job does not begin")
    client.cancel_job("demo", upload.transfer_data["transferJob"]["jobId"])
    url = upload.transfer_data["transferDirectives"]["partsUploadUrls"][0]
    deadline = time.monotonic() + 120
    while httpx.put(url, content=b"x").status_code != 404:
        assert time.monotonic() < deadline, "the multipart is still there"
        time.sleep(0.2)
    assert os.listdir(place) == []


@pytest.fixture
def slow(cluster: Cluster, store: ObjectStore, connect: Connect) -> Iterator[tuple[Throttle, Any, httpx.Client]]:
    """A slow line between cluster and store, and clients of a gateway that knows the store by it."""
    with Throttle(store.port, 2 * MIB) as line:
        settings = store.settings(
            private_url=line.url,
            multipart={"max_part_size": PART, "parallel_runs": 2},
            poll_interval=0.2,
            wait_timeout=120,
        )
        config = cluster.write_gateway_config(
            cluster.directory / "tests-s3-slow.yaml",
            clusters=[cluster.cluster_settings("demo", data_operation={"data_transfer": settings})],
        )
        gateway = cluster.start_gateway(config)
        try:
            yield (line, *connect(gateway.url))
        finally:
            gateway.stop()


def begin(way: str, line: Throttle, client: Any, cluster: Cluster, place: Path, tmp_path: Path) -> tuple[Any, bytes]:
    """Begin a transfer of three parts that takes some seconds, and return once the job moves bytes."""
    content = os.urandom(3 * PART)
    if way == "in":
        (tmp_path / "file").write_bytes(content)
        cluster.as_user("alice", ["sh", "-c", 'echo old >"$0"', f"{place}/file"])
        transfer = client.upload("demo", str(tmp_path / "file"), str(place), "file", account=ACCOUNT, blocking=False)
        transfer.upload_file_to_stage()
    else:
        user = cluster.user("alice")
        (place / "file").write_bytes(content)
        os.chown(place / "file", user.uid, user.gid)
        transfer = client.download("demo", f"{place}/file", str(tmp_path / "back"), account=ACCOUNT, blocking=False)
    until(lambda: line.passed > MIB, "the job does not begin")
    return transfer, content


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def temporary(cluster: Cluster) -> set[Path]:
    """Return what the user has in /tmp, where jobs keep notes."""
    uid = cluster.user("alice").uid
    found = set()
    for path in Path("/tmp").glob("tmp.*"):
        # Those of others come and go meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_uid == uid:
                found.add(path)
    return found


@pytest.mark.parametrize("way", ["in", "out"])
def test_a_broken_part_is_sent_again(
    slow: tuple[Throttle, Any, httpx.Client], place: Path, cluster: Cluster, tmp_path: Path, way: str
) -> None:
    line, client, _ = slow
    transfer, content = begin(way, line, client, cluster, place, tmp_path)
    line.cut()
    line.rate = 100 * MIB
    transfer.wait_for_transfer_job()
    if way == "out":
        transfer.download_file_from_stage()
        assert (tmp_path / "back").read_bytes() == content
    assert (place / "file").read_bytes() == content
    assert os.listdir(place) == ["file"]


@pytest.mark.parametrize("way", ["in", "out"])
def test_a_store_that_is_killed_during_the_job(
    slow: tuple[Throttle, Any, httpx.Client],
    store: ObjectStore,
    place: Path,
    cluster: Cluster,
    tmp_path: Path,
    way: str,
) -> None:
    line, client, http = slow
    before = temporary(cluster)
    transfer, content = begin(way, line, client, cluster, place, tmp_path)
    notes = temporary(cluster) - before
    assert notes
    store.stop()
    try:
        line.rate = 100 * MIB
        done = ended_job(http, transfer.transfer_data["transferJob"])
        assert done["state"] == "FAILED"
        assert "successfully" not in done["output"]
        assert "object store" in done["errors"]
    finally:
        store.start()
    assert (place / "file").read_bytes() == (b"old\n" if way == "in" else content)
    assert os.listdir(place) == ["file"]
    until(lambda: not any(path.exists() for path in notes), "the job's notes are still there")
    if way == "in":
        client.upload("demo", str(tmp_path / "file"), str(place), "file", account=ACCOUNT)
        assert (place / "file").read_bytes() == content


@pytest.mark.parametrize("way", ["in", "out"])
def test_a_job_that_is_cancelled_while_bytes_flow(
    slow: tuple[Throttle, Any, httpx.Client],
    store: ObjectStore,
    place: Path,
    cluster: Cluster,
    tmp_path: Path,
    way: str,
) -> None:
    line, client, http = slow
    before, objects = temporary(cluster), store.objects()
    transfer, content = begin(way, line, client, cluster, place, tmp_path)
    notes = temporary(cluster) - before
    assert notes
    job = transfer.transfer_data["transferJob"]
    cluster.as_user("alice", ["scancel", job["jobId"]])
    assert ended_job(http, job)["state"] == "CANCELLED"
    until(lambda: not any(path.exists() for path in notes), "the job's notes are still there")
    until(lambda: set(store.objects()) <= set(objects), "the object is still there")
    assert os.listdir(place) == ["file"]
    assert (place / "file").read_bytes() == (b"old\n" if way == "in" else content)
    if way == "out":
        script = cluster.as_user("alice", ["scontrol", "write", "batch_script", job["jobId"], "-"]).stdout
        stem, signature = (
            re.findall(rf"^{name}='?([^ '\n]+)", script, re.MULTILINE)[0] for name in ("part_url", "signatures")
        )
        url = f"{stem}&partNumber=1&X-Amz-Signature={signature}"
        until(lambda: httpx.put(url, content=b"x").status_code == 404, "the multipart is still there")


def test_answer(http: httpx.Client, place: Path, store: ObjectStore, cluster: Cluster) -> None:
    """The answer to a transfer by S3 has the URLs that the client needs."""
    cluster.as_user("alice", ["sh", "-c", 'echo x >"$0"', f"{place}/file"])
    body = {"path": f"{place}/file", "account": ACCOUNT, "transferDirectives": {"transferMethod": "s3"}}
    answer = http.post(DOWNLOAD, json=body)
    assert ended(http, answer)["output"] == "Multipart file upload successfully completed.\n"
    directives = answer.json()["transferDirectives"]
    assert directives["transferMethod"] == "s3"
    assert httpx.get(directives["downloadUrl"]).text == "x\n"
    assert store.url not in answer.text
    systems = http.get("/status/systems").text
    assert SECRET_KEY not in answer.text + systems
    assert store.url not in systems


BAD: list[tuple[str, str, dict[str, Any], int, str]] = [
    (UPLOAD, "file", {"transferMethod": "s3"}, 400, "fileSize is required"),
    (UPLOAD, "file", {"transferMethod": "s3", "fileSize": -1}, 400, "Validation"),
    (UPLOAD, "file", {"transferMethod": "s3", "fileSize": 10_000 * PART + 1}, 400, "too large"),
    (UPLOAD, "file", {"transferMethod": "s3", "fileSize": "many"}, 400, "Validation"),
    (UPLOAD, "", {"transferMethod": "s3", "fileSize": 1}, 400, "Is a directory"),
    (UPLOAD, "locked/x", {"transferMethod": "s3", "fileSize": 1}, 403, "Permission denied"),
    (UPLOAD, "absent/x", {"transferMethod": "s3", "fileSize": 1}, 404, "No such file or directory"),
    (UPLOAD, "file/x", {"transferMethod": "s3", "fileSize": 1}, 400, "Not a directory"),
    (UPLOAD, "fifo", {"transferMethod": "s3", "fileSize": 1}, 400, "Not a regular file"),
    (UPLOAD, "file", {"transferMethod": "streamer"}, 400, "Requested transfer method is not available."),
    (UPLOAD, "file", {"transferMethod": "wormhole", "wormholeCode": "1-a-b"}, 400, "not available"),
    (DOWNLOAD, "absent", {"transferMethod": "s3"}, 404, "No such file or directory"),
    (DOWNLOAD, "", {"transferMethod": "s3"}, 400, "Is a directory"),
    (DOWNLOAD, "secret", {"transferMethod": "s3"}, 403, "Permission denied"),
    (DOWNLOAD, "fifo", {"transferMethod": "s3"}, 400, "Not a regular file"),
]


@pytest.mark.parametrize("system", ["demo", "commands"])
@pytest.mark.parametrize(("url", "name", "directives", "status", "message"), BAD)
def test_refused(
    http: httpx.Client,
    place: Path,
    cluster: Cluster,
    system: str,
    url: str,
    name: str,
    directives: Any,
    status: int,
    message: str,
) -> None:
    """A transfer by S3 that cannot be is refused."""
    url = url.replace("/demo/", f"/{system}/")
    make = 'cd "$0" && echo x >file && echo x >secret && chmod 0 secret && mkdir -m 555 locked && mkfifo fifo'
    cluster.as_user("alice", ["sh", "-c", make, str(place)])
    answer = http.post(url, json={"path": f"{place}/{name}", "account": ACCOUNT, "transferDirectives": directives})
    assert answer.status_code == status, answer.text
    assert message in answer.json()["message"]


def test_store_is_down(http: httpx.Client, place: Path, store: ObjectStore) -> None:
    """A transfer while the store is down is an error that says so."""
    body = {"path": f"{place}/x", "account": ACCOUNT, "transferDirectives": {"transferMethod": "s3", "fileSize": 1}}
    store.stop()
    try:
        answer = http.post(UPLOAD, json=body)
        assert answer.status_code == 503
        assert "does not answer" in answer.json()["message"]
        assert store.url not in answer.text
    finally:
        store.start()
    assert http.post(UPLOAD, json=body).status_code == 201
