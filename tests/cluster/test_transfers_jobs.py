"""mv, cp, rm, compress and extract as jobs of a real Slurm."""

import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from firecrest.FirecrestException import TransferJobFailedException

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.transfers.jobs import log_mark
from tests.cluster.transfer_clients import ACCOUNT, connect, ended, place

__all__ = ["connect", "place"]

Connect = Callable[[str], tuple[Any, httpx.Client]]
NAME = 'it\'s $(id) "x"\n*'
TRANSFER = "/filesystem/demo/transfer"


@pytest.fixture
def client(gateway: Gateway, connect: Connect) -> Any:
    return connect(gateway.url)[0]


@pytest.fixture
def http(gateway: Gateway, connect: Connect) -> httpx.Client:
    return connect(gateway.url)[1]


def test_pyfirecrest(client: Any, place: Path, cluster: Cluster) -> None:
    """pyfirecrest moves, copies, packs and removes by jobs."""
    cluster.as_user("alice", ["sh", "-c", 'echo content >"$0"', str(place / NAME)])
    info = client.cp("demo", str(place / NAME), f"{place}/copy", account=ACCOUNT)
    job = info["transferJob"]
    assert job["system"] == "demo"
    assert job["workingDirectory"] == str(cluster.user("alice").home)
    assert os.path.basename(job["logs"]["outputLog"]).startswith(".f7t_file_handling_job_")
    assert (place / "copy").read_text() == "content\n"
    client.mv("demo", f"{place}/copy", f"{place}/moved", account=ACCOUNT)
    assert sorted(os.listdir(place)) == sorted([NAME, "moved"])
    assert (place / "moved").stat().st_uid == cluster.user("alice").uid
    client.compress("demo", str(place), f"{place}/all.tgz", account=ACCOUNT)
    client.rm("demo", f"{place}/moved", account=ACCOUNT)
    assert sorted(os.listdir(place)) == sorted([NAME, "all.tgz"])


def test_pyfirecrest_not_blocking(client: Any, http: httpx.Client, place: Path) -> None:
    """pyfirecrest starts a job and does not wait for it."""
    info = client.mv("demo", f"{place}/absent", f"{place}/x", account=ACCOUNT, blocking=False)
    assert set(info["transferJob"]) == {"jobId", "system", "workingDirectory", "logs"}


def test_pyfirecrest_sees_a_failure(client: Any, place: Path) -> None:
    with pytest.raises(TransferJobFailedException):
        client.cp("demo", f"{place}/absent", f"{place}/x", account=ACCOUNT)


def test_http(http: httpx.Client, place: Path, cluster: Cluster) -> None:
    """A transfer job is answered with its id and logs."""
    tree = place / "tree"
    cluster.as_user("alice", ["sh", "-c", 'mkdir "$0" && echo a >"$0/a.txt" && echo b >"$0/b"', str(tree)])
    packed = ended(
        http,
        http.post(
            f"{TRANSFER}/compress",
            json={
                "path": str(tree),
                "target_path": f"{place}/{NAME}",
                "match_pattern": r"\./.*\.txt",
                "compression": "xz",
                "account": ACCOUNT,
            },
        ),
    )
    assert (packed["state"], packed["exit"], packed["errors"]) == ("COMPLETED", 0, "")
    with tarfile.open(place / NAME, "r:xz") as archive:
        assert archive.getnames() == ["./a.txt"]
    body = {"sourcePath": f"{place}/{NAME}", "targetPath": str(tree), "compression": "xz", "account": ACCOUNT}
    assert ended(http, http.post(f"{TRANSFER}/extract", json=body))["output"] == "Files were successfully extracted.\n"
    wrong = ended(http, http.post(f"{TRANSFER}/extract", json={**body, "compression": "bzip2"}))
    assert (wrong["state"], wrong["exit"]) == ("FAILED", 2)
    assert "successfully" not in wrong["output"]
    assert "bzip2" in wrong["errors"]
    removed = http.delete(f"{TRANSFER}/rm", params={"path": str(tree), "account": ACCOUNT})
    assert removed.status_code == 200
    assert ended(http, removed)["output"] == "Files were successfully removed.\n"
    assert not tree.exists()
    again = ended(http, http.delete(f"{TRANSFER}/rm", params={"path": str(tree), "account": ACCOUNT}))
    assert (again["state"], again["exit"]) == ("FAILED", 1)
    assert "No such file or directory" in again["errors"]


def test_without_accounts(http: httpx.Client, place: Path) -> None:
    """A transfer job runs where there are no accounts."""
    body = {"path": f"{place}/absent", "targetPath": f"{place}/x"}
    assert ended(http, http.post("/filesystem/plain/transfer/mv", json=body))["errors"]


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("mv", {"path": "/HOME/a", "targetPath": "/HOME/b"}, "account is required"),
    ("mv", {"path": "/HOME/a", "targetPath": "/HOME/b", "account": ""}, "account is required"),
    ("mv", {"path": "/HOME/a", "targetPath": "/HOME/b", "account": "x\n#SBATCH --uid=0"}, "Not a valid account"),
    ("cp", {"path": "/HOME/a", "targetPath": "/HOME/b", "account": "nonesuch"}, "ccount"),
    ("cp", {"path": "a", "targetPath": "/HOME/b", "account": "demo"}, "Validation"),
    ("cp", {"path": "/HOME/a", "account": "demo"}, "Validation"),
    ("cp", {"path": "/HOME/a\0", "targetPath": "/HOME/b", "account": "demo"}, "Validation"),
    ("cp", {"path": "/etc/passwd", "targetPath": "/HOME/b", "account": "demo"}, "not in a file system"),
    ("cp", {"path": "/HOME/a", "targetPath": "/etc/b", "account": "demo"}, "not in a file system"),
    ("compress", {"path": "/HOME/a", "targetPath": "/HOME/b", "compression": "zip", "account": "demo"}, "Validation"),
    ("upload", {"path": "/HOME/a", "transferDirectives": {"transferMethod": "s3", "fileSize": 1}}, "not available"),
    ("upload", {"path": "/HOME/a", "transferDirectives": {"transferMethod": "carrier pigeon"}}, "not available"),
    ("upload", {"path": "/HOME/a", "transferDirectives": {"transferMethod": "s3", "fileSize": -1}}, "Validation"),
    ("upload", {"path": "/HOME/a", "transferDirectives": {"transferMethod": "wormhole"}}, "Validation"),
    ("upload", {"path": "/HOME/a", "transferDirectives": {}}, "Validation"),
    ("upload", {"path": "/HOME/a"}, "Validation"),
    ("download", {"path": "/HOME/a", "transfer_directives": {"transfer_method": "wormhole"}}, "not available"),
    ("download", {"path": "/HOME/a", "transferDirectives": None}, "Validation"),
]


@pytest.mark.parametrize(("verb", "body", "message"), BAD)
def test_refused(http: httpx.Client, cluster: Cluster, verb: str, body: dict[str, Any], message: str) -> None:
    """A transfer job that cannot be is refused."""
    home = str(cluster.user("alice").home)
    sent = {key: value.replace("/HOME", home) if isinstance(value, str) else value for key, value in body.items()}
    answer = http.post(f"{TRANSFER}/{verb}", json=sent)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["message"]


def test_logs_are_swept_after_seven_days_where_nothing_else_is_set(
    http: httpx.Client, place: Path, cluster: Cluster
) -> None:
    user, week = cluster.user("alice"), 7 * 24 * 3600
    ages = {"younger": week - 3600, "older": week + 3600}
    logs = {name: user.home / f".f7t_file_handling_job_{log_mark()}.log" for name in ages}
    try:
        for name, path in logs.items():
            path.touch()
            os.chown(path, user.uid, user.gid)
            moment = time.time() - ages[name]
            os.utime(path, (moment, moment))
        body = {"path": f"{place}/absent", "targetPath": f"{place}/x", "account": ACCOUNT}
        ended(http, http.post(f"{TRANSFER}/mv", json=body))
        assert {name for name, path in logs.items() if path.exists()} == {"younger"}
    finally:
        for path in logs.values():
            path.unlink(missing_ok=True)
