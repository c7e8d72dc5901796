"""Somebody else answers at the login node's address: refused before anything of a credential is used there."""

from collections.abc import Callable

import httpx
import pytest

from hpcgate.demo.cluster import Cluster
from hpcgate.demo.keys import Key


@pytest.mark.parametrize("strict", [True, False], ids=["pinned-in-the-settings", "first-key-seen"])
def test_another_host_key_at_the_same_address(cluster: Cluster, strict: bool) -> None:
    genuine = cluster.start_sshd()
    ssh: dict[str, list[str]] = {} if strict else {"host_keys": []}
    config = cluster.write_gateway_config(
        cluster.directory / f"mitm-{strict}.yaml",
        clusters=[cluster.cluster_settings("demo", sshd=genuine, ssh=ssh, probing=None)],
    )
    gateway = cluster.start_gateway(config)
    try:
        with httpx.Client(base_url=gateway.url, timeout=300) as http:
            ask = _asker(http, cluster)
            assert ask("alice") == 200
            genuine.stop()
            impostor = cluster.start_sshd(port=genuine.port, host_key=Key.make("impostor"))
            try:
                for role in ("alice", "bob", "alice"):
                    assert ask(role) == 424
                log = impostor.log()
                # It was called, and nobody tried to log in: no user name, no key was offered.
                assert "Connection from" in log
                for user in cluster.users:
                    assert user.name not in log
                assert "publickey" not in log
            finally:
                impostor.stop()
            back = cluster.start_sshd(port=genuine.port, host_key=genuine.host_key)
            try:
                assert ask("alice") == 200
                assert ask("bob") == 200
            finally:
                back.stop()
        said = gateway.log.read_text()
        assert "host key" in said
        for user in cluster.users:
            assert user.private_key.read_text().splitlines()[1] not in said
    finally:
        gateway.stop()


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned-in-the-settings", "first-key-seen"])
def test_another_jump_host(cluster: Cluster, pinned: bool) -> None:
    """The jump host is verified too, before the login node is reached through it."""
    jump = cluster.start_jump_host()
    keys = [jump.host_public_key] if pinned else []
    ssh = {"proxy_host": jump.host, "proxy_port": jump.port, "proxy_host_keys": keys}
    config = cluster.write_gateway_config(
        cluster.directory / f"mitm-jump-{pinned}.yaml",
        clusters=[cluster.cluster_settings("demo", ssh=ssh, probing=None)],
    )
    gateway = cluster.start_gateway(config)
    try:
        with httpx.Client(base_url=gateway.url, timeout=300) as http:
            ask = _asker(http, cluster)
            assert ask("alice") == 200
            jump.stop()
            impostor = cluster.start_jump_host(port=jump.port, host_key=Key.make("impostor"))
            try:
                assert ask("alice") == 424
                assert ask("bob") == 424
                log = impostor.log()
                assert "Connection from" in log
                assert "publickey" not in log
                assert all(user.name not in log for user in cluster.users)
            finally:
                impostor.stop()
    finally:
        gateway.stop()


def _asker(http: httpx.Client, cluster: Cluster) -> Callable[[str], int]:
    def ask(role: str) -> int:
        path = str(cluster.user(role).home)
        headers = {"Authorization": f"Bearer {cluster.token(role)}"}
        return http.get("/filesystem/demo/ops/stat", params={"path": path}, headers=headers).status_code

    return ask
