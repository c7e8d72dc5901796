"""Opaque tokens, revocation and local names, with the demo's identity provider and real logins."""

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.idp import Idp
from tests.cluster.streaming import wait_until
from tests.cluster.test_api_errors import assert_problem

INVALID = 'Bearer error="invalid_token"'


@pytest.fixture(scope="module")
def idp(cluster: Cluster) -> Iterator[Idp]:
    """A provider of these tests' own, to be asked and stopped."""
    directory = cluster.directory / f"idp-{secrets.token_hex(4)}"
    running = Idp(cluster.keeper, directory, cluster.take_port, cluster.users)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def names(cluster: Cluster) -> Path:
    """A file of local names."""
    path = cluster.directory / f"names-{secrets.token_hex(4)}"
    lines = [f"{user.name} {user.name}\n" for user in cluster.users]
    path.write_text("".join(lines) + f'"CN=Alice of Demo" {cluster.user("alice").name}\n')
    return path


@pytest.fixture(scope="module")
def asking(cluster: Cluster, idp: Idp, names: Path) -> Iterator[Gateway]:
    """A gateway that asks the provider about every token, and looks names up in the file."""
    introspection = {
        "url": idp.introspection_url,
        "client_id": idp.service_client_id,
        "client_secret": idp.service_client_secret,
        "tokens": "all",
        "cache": 1,
        "timeout": 5,
    }
    authentication: dict[str, Any] = {
        "token_url": idp.token_url,
        "public_certs": None,
        "issuer": idp.issuer,
        "introspection": introspection,
        "username_map": str(names),
    }
    config = cluster.write_gateway_config(
        cluster.directory / f"asking-gateway-{secrets.token_hex(4)}.yaml",
        clusters=[cluster.cluster_settings("demo", probing={"services": None})],
        auth={"authentication": authentication},
    )
    running = cluster.start_gateway(config)
    yield running
    running.stop()


def ask(gate: Gateway, token: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{gate.url}/status/demo/userinfo", headers=headers, timeout=600)


def test_it_is_ready_without_keys(asking: Gateway) -> None:
    assert httpx.get(f"{asking.url}/status/readiness").status_code == 200


@pytest.mark.parametrize("opaque", [True, False])
def test_a_token_until_it_is_revoked(asking: Gateway, idp: Idp, cluster: Cluster, opaque: bool) -> None:
    alice = cluster.user("alice")
    token = idp.token(alice, opaque=opaque)
    assert ("." in token) is not opaque
    answer = ask(asking, token)
    assert answer.status_code == 200, answer.text
    assert answer.json()["user"]["name"] == alice.name
    idp.revoke(alice, token)
    assert wait_until(lambda: ask(asking, token).status_code == 401)
    assert_problem(ask(asking, token), 401, "Invalid token")
    assert ask(asking, token).headers["www-authenticate"] == INVALID
    assert token not in asking.log.read_text()


@pytest.mark.parametrize("token", ["nonsense", "a.b.c", "x" * 15_000, "%00%0d%0a", "a&active=true", '{"active":true}'])
def test_tokens_that_the_provider_does_not_know(asking: Gateway, token: str) -> None:
    assert_problem(ask(asking, token), 401, "Invalid token")


def test_tokens_of_others(asking: Gateway, idp: Idp, cluster: Cluster) -> None:
    """A token that the provider did not sign is not active, whatever it says."""
    # What the provider did not sign is not active, whatever it says.
    assert_problem(ask(asking, cluster.idp.mint(cluster.user("alice").name)), 401)
    assert_problem(ask(asking, idp.mint(cluster.user("alice").name, alg="HS256")), 401)


def test_an_expired_opaque_token(asking: Gateway, idp: Idp) -> None:
    token = idp.token("alice", opaque=True, lifetime=2)
    assert wait_until(lambda: ask(asking, token).status_code == 401)


def test_answers_are_remembered(asking: Gateway, idp: Idp) -> None:
    """The provider is asked about a token at most once a second."""
    token = idp.token("bob", opaque=True)
    before, started = idp.requests("/introspect"), time.monotonic()
    for _ in range(20):
        assert ask(asking, token).status_code == 200
    assert idp.requests("/introspect") - before <= 1 + (time.monotonic() - started)


def test_a_provider_that_is_down(asking: Gateway, idp: Idp) -> None:
    token = idp.token("alice", opaque=True)
    idp.stop()
    try:
        answer = ask(asking, token)
        assert_problem(answer, 503, "cannot be asked")
        assert "retry-after" in answer.headers
        assert httpx.get(f"{asking.url}/status/liveness/").status_code == 200
    finally:
        idp.start()


def test_local_names_from_a_file_that_changes(asking: Gateway, idp: Idp, names: Path, cluster: Cluster) -> None:
    alice, bob = cluster.user("alice").name, cluster.user("bob").name
    token = idp.mint("CN=Alice of Demo")
    assert ask(asking, token).json()["user"]["name"] == alice
    assert_problem(ask(asking, idp.mint("CN=Nobody")), 403, "no local name")
    old = names.read_text()
    new = names.with_suffix(".new")

    def write(text: str) -> None:
        new.write_text(text)
        os.replace(new, names)

    write(old.replace(f'"CN=Alice of Demo" {alice}', f'"CN=Alice of Demo" {bob}'))
    assert wait_until(lambda: ask(asking, token).json()["user"]["name"] == bob)
    write(f"{alice} {alice}\n")
    assert wait_until(lambda: ask(asking, token).status_code == 403)
    # A file with a mistake changes nothing; one that maps to root serves nobody as root.
    write("half a line of\n")
    assert ask(asking, idp.token("alice", opaque=True)).status_code == 200
    write(f"{alice} root\n")
    assert wait_until(lambda: ask(asking, idp.token("alice", opaque=True)).status_code == 403)
    write(old)
    assert wait_until(lambda: ask(asking, token).status_code == 200)
