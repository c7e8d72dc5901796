"""The sshd block that docs/security.md recommends, on a real sshd with the gateway before it."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hpcgate.demo.cluster import Cluster

PAGE = Path(__file__).parents[2] / "docs" / "security.md"


def recommended() -> list[str]:
    """Return the lines within the recommended Match block."""
    block = re.search(r"```sshd_config\nMatch Address .*\n((?:    .*\n)+)```", PAGE.read_text())
    assert block is not None
    return [line.strip() for line in block[1].splitlines()]


def test_every_line_of_it_is_explained() -> None:
    table = PAGE.read_text().partition("| line | why |")[2]
    for line in recommended():
        assert f"`{line.split()[0]}" in table, line


@pytest.fixture(scope="module")
def http(cluster: Cluster) -> Iterator[httpx.Client]:
    """A client of a gateway whose login node is set up as recommended, but for the paths and the groups."""
    theirs = ("TrustedUserCAKeys", "DenyGroups")  # which the demo cluster has its own values for
    lines = [line for line in recommended() if not line.startswith(theirs)]
    assert len(lines) > 10
    sshd = cluster.start_sshd(static_keys=False, match_extra="\n    ".join(lines))
    keys = {
        user.name: {
            "private_key": f"secret_file:{user.private_key}",
            "public_cert": f"secret_file:{user.certificate}",
        }
        for user in cluster.users
    }
    config = cluster.write_gateway_config(
        cluster.directory / "recommended-gateway.yaml",
        clusters=[
            cluster.cluster_settings("demo", sshd=sshd),
            cluster.cluster_settings("commands", sshd=sshd, ssh={"files": "commands"}),
        ],
        ssh_credentials={"keys": keys},
    )
    gateway = cluster.start_gateway(config)
    headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=300) as client:
        yield client
    gateway.stop()
    sshd.stop()


@pytest.mark.parametrize("system", ["demo", "commands"])
def test_the_gateway_works_with_it(system: str, http: httpx.Client, cluster: Cluster) -> None:
    home = str(cluster.user("alice").home)
    assert http.get(f"/status/{system}/userinfo").json()["user"]["name"] == cluster.user("alice").name
    assert http.get(f"/status/{system}/nodes").status_code == 200
    assert http.get(f"/filesystem/{system}/ops/ls", params={"path": home}).status_code == 200
    sent = http.post(
        f"/filesystem/{system}/ops/upload", params={"path": home}, files={"file": (f"sent-{system}", b"content")}
    )
    assert sent.status_code == 204
    got = http.get(f"/filesystem/{system}/ops/download", params={"path": f"{home}/sent-{system}"})
    assert got.content == b"content"
    job = {"workingDirectory": home, "script": "#!/bin/sh\ntrue\n"}
    job_id = http.post(f"/compute/{system}/jobs", json={"job": job}).json()["jobId"]
    assert http.get(f"/compute/{system}/jobs/{job_id}").json()["jobs"][0]["jobId"] == job_id
