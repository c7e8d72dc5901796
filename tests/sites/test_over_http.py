"""The same over HTTP: a job's script and an upload's content meet start-up files that would take them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hpcgate.demo.cluster import Cluster
from hpcgate.demo.users import User

SCRIPT = "#!/bin/sh\ntouch ~/ran-by-the-wrong-shell\nsleep 0\n"
CONTENT = "".join(f"line {number}\n" for number in range(1000))
SYSTEMS = ("demo", "commands")
START_UP = {
    "runs another shell": "exec sh",
    "asks a question": "read -r -p 'Project? ' answer",
    "eats some bytes": "head -c 5 >/dev/null",
    "has no input": "exec </dev/null",
    "ends": "echo Closed for today; exit 7",
}


@pytest.fixture(scope="module")
def bob(cluster: Cluster) -> User:
    return cluster.user("bob")


@pytest.fixture(scope="module")
def http(cluster: Cluster, bob: User) -> Iterator[httpx.Client]:
    """A client of a gateway that soon gives up waiting for a login shell."""
    config = cluster.write_gateway_config(
        cluster.directory / "start-up-gateway.yaml",
        clusters=[
            cluster.cluster_settings("demo", ssh={"start_up_timeout": 1}),
            cluster.cluster_settings("commands", ssh={"start_up_timeout": 1, "files": "commands"}),
        ],
    )
    gateway = cluster.start_gateway(config)
    headers = {"Authorization": f"Bearer {cluster.token(bob)}"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=300) as client:
        yield client
    gateway.stop()


@pytest.fixture
def start_up(bob: User) -> Iterator[Path]:
    """Bob's start-up file, gone again afterwards."""
    file = bob.home / ".bashrc"
    yield file
    file.unlink(missing_ok=True)


@pytest.mark.parametrize("text", START_UP.values(), ids=START_UP)
def test_a_start_up_file_in_the_way_is_named_and_takes_nothing(
    http: httpx.Client, bob: User, start_up: Path, text: str
) -> None:
    home = bob.home
    start_up.write_text(text + "\n")
    for system in SYSTEMS:
        job = {"job": {"script": SCRIPT, "workingDirectory": str(home)}}
        submitted = http.post(f"/compute/{system}/jobs", json=job)
        uploaded = http.post(
            f"/filesystem/{system}/ops/upload",
            params={"path": str(home), "fileName": "uploaded"},
            files={"file": ("uploaded", CONTENT)},
        )
        put = http.put(f"/filesystem/{system}/files/content", params={"path": str(home / "put")}, content=CONTENT)
        for answer, name in ((submitted, None), (uploaded, "uploaded"), (put, "put")):
            if answer.is_success:
                if name is not None:
                    assert (home / name).read_text() == CONTENT
                    (home / name).unlink()
            else:
                assert answer.status_code == 424, answer.text
                assert "start-up file" in json.loads(answer.text)["message"]
                assert name is None or not (home / name).exists()
        assert not submitted.is_success, "a submission has input"
    assert not (home / "ran-by-the-wrong-shell").exists()
    start_up.unlink()
    deadline = time.monotonic() + 120
    for system in SYSTEMS:
        url, params = f"/filesystem/{system}/files/content", {"path": str(home / "put")}
        while (put := http.put(url, params=params, content=CONTENT)).status_code == 424:
            assert time.monotonic() < deadline, put.text
        assert put.is_success, put.text
        assert (home / "put").read_text() == CONTENT
        (home / "put").unlink()
