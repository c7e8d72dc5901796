"""SSHService and SSHCA before a real sshd that trusts nothing but the authority of a service over HTTP."""

import httpx
import pytest

from hpcgate.demo.cluster import Cluster
from tests.attack.key_service import KeyService


@pytest.mark.parametrize("kind", ["SSHService", "SSHCA"])
def test_from_the_token_to_the_login_node(cluster: Cluster, kind: str) -> None:
    sshd = cluster.start_sshd(static_keys=False)
    alice, bob = (cluster.user(role) for role in ("alice", "bob"))
    with KeyService(cluster.authority.private_text(), lifetime=300) as service:
        config = cluster.write_gateway_config(
            cluster.directory / f"{kind}.yaml",
            clusters=[cluster.cluster_settings("demo", sshd=sshd)],
            ssh_credentials={"type": kind, "url": service.url, "keys": None},
        )
        gateway = cluster.start_gateway(config)
        with httpx.Client(base_url=gateway.url, timeout=300) as http:

            def who(role: str) -> httpx.Response:
                return http.get("/status/demo/userinfo", headers={"Authorization": f"Bearer {cluster.token(role)}"})

            for _ in range(3):
                assert who("alice").json()["user"] == {"id": str(alice.uid), "name": alice.name}
            # The health check is alice, too, but by a token of another client.
            assert service.asked_by[alice.client_id] == 1
            assert f"ID {alice.name}" in sshd.log()
            service.stop()
            # The service is down: who is connected goes on, who is not is told.
            assert who("alice").status_code == 200
            assert who("bob").status_code == 503
        gateway.stop()
    assert bob.name not in service.issued
    sshd.stop()
