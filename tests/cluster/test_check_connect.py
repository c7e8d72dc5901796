"""`hpcgate check --connect` against real login nodes: what they show, and what would be accepted."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpcgate.demo.cluster import Cluster
from hpcgate.demo.keys import Key


def check(cluster: Cluster, tmp_path: Path, **ssh: Any) -> tuple[int, str]:
    config = cluster.write_gateway_config(
        tmp_path / "config.yaml", clusters=[cluster.cluster_settings("demo", ssh={"timeout": {"connection": 5}, **ssh})]
    )
    argv = [sys.executable, "-m", "hpcgate.cli", "check", str(config), "--connect"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


def fingerprint(key: Key) -> str:
    shown = subprocess.run(
        ["ssh-keygen", "-lf", "-"], input=key.public_line, capture_output=True, text=True, check=True
    )
    return shown.stdout.split()[1]


def test_a_key_that_is_expected(cluster: Cluster, tmp_path: Path) -> None:
    status, said = check(cluster, tmp_path)
    assert status == 0
    assert f"\N{CHECK MARK} demo: login node {cluster.sshd.host}:{cluster.sshd.port} shows ssh-ed25519 " in said
    assert fingerprint(cluster.sshd.host_key) in said
    assert "accepted" in said
    # Nobody tried to log in.
    assert "hpcgate-check" not in cluster.sshd.log()


def test_another_key(cluster: Cluster, tmp_path: Path) -> None:
    other = Key.make("other")
    status, said = check(cluster, tmp_path, host_keys=[other.public_line])
    assert status == 1
    assert "\N{BALLOT X} demo: login node" in said
    assert f"refused, for this is expected: {fingerprint(other)}" in said
    assert fingerprint(cluster.sshd.host_key) in said


def test_no_key_is_configured(cluster: Cluster, tmp_path: Path) -> None:
    status, said = check(cluster, tmp_path, host_keys=[])
    assert status == 0
    assert "! demo: login node" in said
    assert " ".join(cluster.sshd.host_public_key.split()[:2]) in said


def test_known_hosts(cluster: Cluster, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(cluster.sshd.known_hosts_line + "\n")
    assert check(cluster, tmp_path, host_keys=[], known_hosts=str(known))[0] == 0
    known.write_text("elsewhere.example.org " + cluster.sshd.host_public_key + "\n")
    status, said = check(cluster, tmp_path, host_keys=[], known_hosts=str(known))
    assert status == 1
    assert "has no key for the login node of demo" in said


def test_nothing_listens(cluster: Cluster, tmp_path: Path) -> None:
    status, said = check(cluster, tmp_path, port=cluster.take_port())
    assert status == 1
    assert "does not answer" in said


@pytest.mark.parametrize("trusted", [True, False])
def test_jump_hosts(cluster: Cluster, tmp_path: Path, trusted: bool) -> None:
    jump = cluster.start_jump_host()
    keys = [jump.host_public_key if trusted else Key.make("other").public_line]
    status, said = check(cluster, tmp_path, proxy_host=jump.host, proxy_port=jump.port, proxy_host_keys=keys)
    assert status == int(not trusted)
    assert f"jump host {jump.host}:{jump.port} shows" in said
    assert "lies behind the jump host and was not looked at" in said
    jump.stop()


def test_each_of_several_login_nodes(cluster: Cluster, tmp_path: Path) -> None:
    second = cluster.start_sshd()
    hosts = [f"{one.host}:{one.port}" for one in (cluster.sshd, second)]
    keys = [one.host_public_key for one in (cluster.sshd, second)]
    status, said = check(cluster, tmp_path, host=hosts, host_keys=keys)
    assert status == 0
    assert all(f"\N{CHECK MARK} demo: login node {host} shows ssh-ed25519 " in said for host in hosts)
    status, said = check(cluster, tmp_path, host=hosts, host_keys=keys[:1])
    assert status == 1
    assert f"\N{BALLOT X} demo: login node {hosts[1]} shows" in said
