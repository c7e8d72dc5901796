"""pyfirecrest and plain HTTP, as one user of the transfer tests has them."""

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import firecrest
import httpx
import pytest

from hpcgate.demo.cluster import Cluster

ACCOUNT = "demo"
LARGE = 1024 * 1024
"""Bytes from which the tests have pyfirecrest call a file large."""

_numbers = itertools.count()


class Bearer:
    """A token as pyfirecrest takes it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_access_token(self) -> str:
        return self._token


@pytest.fixture
def place(cluster: Cluster) -> Iterator[Path]:
    """A directory of the first user, on the cluster."""
    user = cluster.user("alice")
    path = user.home / f"transfers-{next(_numbers)}"
    path.mkdir()
    os.chown(path, user.uid, user.gid)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def connect(cluster: Cluster) -> Iterator[Callable[[str], tuple[Any, httpx.Client]]]:
    """A function that returns the first user's pyfirecrest and HTTP clients of a gateway."""
    opened: list[Any] = []

    def make(url: str) -> tuple[Any, httpx.Client]:
        token = cluster.token("alice")
        client = firecrest.v2.Firecrest(url, Bearer(token))
        client.MAX_DIRECT_UPLOAD_SIZE = LARGE
        client.timeout = 60
        http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=300)
        opened.extend((client.close_session, http.close))
        return client, http

    yield make
    for close in opened:
        close()


def ended(http: httpx.Client, answer: httpx.Response, *, seconds: float = 120) -> dict[str, Any]:
    """Wait until the job of a transfer has ended; return its state and exit code, and what its logs say."""
    assert answer.status_code in (200, 201), answer.text
    return ended_job(http, answer.json()["transferJob"], seconds=seconds)


def ended_job(http: httpx.Client, job: dict[str, Any], *, seconds: float = 120) -> dict[str, Any]:
    """Do so for a ``transferJob``."""
    deadline = time.monotonic() + seconds
    while True:
        found = http.get(f"/compute/{job['system']}/jobs/{job['jobId']}")
        assert found.status_code == 200, found.text
        status = found.json()["jobs"][0]["status"]
        if status["state"] not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
            break
        assert time.monotonic() < deadline, f"{status}\n{log(job)}"
        time.sleep(0.2)
    return {"state": status["state"], "exit": status["exitCode"], **log(job)}


def log(job: dict[str, Any]) -> dict[str, str]:
    """Return what the logs of a transfer job say, read past the gateway."""
    paths = {"output": Path(job["logs"]["outputLog"]), "errors": Path(job["logs"]["errorLog"])}
    return {name: path.read_text() if path.exists() else "" for name, path in paths.items()}
