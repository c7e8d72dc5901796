"""pyfirecrest's ApiKeyAuth, and what API keys may not do, on a real gateway."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import firecrest
import httpx
import pytest

from hpcgate.auth.api_keys import hash_of, new_key
from hpcgate.demo.cluster import Cluster, Gateway
from tests.clients.clients import Make, command_line
from tests.people import Person

GOOD, AFAR, OVER, SERVICE = (new_key() for _ in range(4))


@pytest.fixture(scope="module")
def keyed(cluster: Cluster, alice: Person) -> Iterator[Gateway]:
    """A gateway that accepts keys, and has a system that asks for tokens."""

    def key(name: str, value: str, **more: Any) -> dict[str, Any]:
        until = "2999-01-01T00:00:00Z"
        return {"name": name, "hash": hash_of(value), "username": alice.user.name, "expires": until, **more}

    config = cluster.write_gateway_config(
        cluster.directory / "tests-api-keys.yaml",
        auth={
            "api_keys": [
                key("nightly", GOOD, networks=["127.0.0.0/8"]),
                key("afar", AFAR, networks=["192.0.2.0/24"]),
                key("over", OVER, expires="2020-01-01T00:00:00Z"),
            ]
        },
        logger={"enable_tracing_log": True, "loggable_request_headers": [{"input": "X-API-Key", "output": "key"}]},
    )
    running = cluster.start_gateway(config)
    yield running
    running.stop()


def test_pyfirecrest_with_a_key(make_client: Make, keyed: Gateway, alice: Person) -> None:
    client = make_client(keyed.url, firecrest.ApiKeyAuth(GOOD))
    assert client.userinfo("demo")["user"]["name"] == alice.user.name
    script = f"#!/bin/sh\n#SBATCH --output={alice.user.home}/%j.out\ntrue\n"
    assert client.submit("demo", working_dir=str(alice.user.home), script_str=script)["jobId"]


def test_the_command_with_a_key(keyed: Gateway, alice: Person, cluster: Cluster, tmp_path: Path) -> None:
    cli = command_line(keyed.url, alice.user, cluster.idp.token_url, tmp_path)
    names = ("PATH", "HOME", "FIRECREST_URL", "FIRECREST_SYSTEM")
    bare = dataclasses.replace(cli, environment={name: cli.environment[name] for name in names})
    (system,) = bare.json("--api-key", GOOD, "--api-key-header", "X-API-Key", "systems")
    assert system["name"] == "demo"
    assert bare.json("id", "--json", FIRECREST_API_KEY=GOOD)["user"]["name"] == alice.user.name
    refused = bare("--api-key", AFAR, "systems", check=False)
    assert refused.returncode == 1
    assert "Invalid API key" in refused.stdout + refused.stderr


@pytest.mark.parametrize(
    "key",
    [AFAR, OVER, SERVICE, GOOD[:-1], "", "x" * 50_000],
    ids=["afar", "over", "a service", "cut short", "empty", "long"],
)
def test_other_keys(keyed: Gateway, key: str) -> None:
    """A key that is not in force is refused, and the answer does not repeat it."""
    answer = httpx.get(f"{keyed.url}/status/systems", headers={"X-API-Key": key})
    assert (answer.status_code, answer.json()["message"]) == (401, "Invalid API key")
    assert len(key) < 8 or key not in answer.text


def test_a_key_in_another_place_is_none(keyed: Gateway) -> None:
    for name, value in (("Authorization", f"Bearer {GOOD}"), ("Authorization", GOOD), ("Cookie", f"X-API-Key={GOOD}")):
        headers = {name: value}
        assert httpx.get(f"{keyed.url}/status/systems", headers=headers).status_code == 401
    assert httpx.get(f"{keyed.url}/status/systems", params={"X-API-Key": GOOD}).status_code == 401


def test_a_token_goes_before_a_key(keyed: Gateway, cluster: Cluster, bob: Person) -> None:
    url = f"{keyed.url}/status/demo/userinfo"
    both = {"Authorization": f"Bearer {cluster.token(bob.user)}", "X-API-Key": GOOD}
    assert httpx.get(url, headers=both).json()["user"]["name"] == bob.user.name
    assert httpx.get(url, headers={"Authorization": "Bearer x", "X-API-Key": GOOD}).status_code == 401
    twice = [("X-API-Key", GOOD), ("X-API-Key", AFAR)]
    assert httpx.get(url, headers=twice).status_code == 400


def test_keys_are_off_unless_there_are_some(gateway: Gateway) -> None:
    answer = httpx.get(f"{gateway.url}/status/systems", headers={"X-API-Key": GOOD})
    assert (answer.status_code, answer.json()["message"]) == (401, "Not authenticated")
    document = httpx.get(f"{gateway.url}/openapi.json").json()
    assert "APIKeyHeader" not in document["components"]["securitySchemes"]


def test_the_document_names_the_header(keyed: Gateway) -> None:
    document = httpx.get(f"{keyed.url}/openapi.json").json()
    assert document["components"]["securitySchemes"]["APIKeyHeader"]["name"] == "X-API-Key"
    assert {"APIKeyHeader": []} in document["paths"]["/status/systems"]["get"]["security"]


def test_no_key_is_in_any_log(keyed: Gateway) -> None:
    for key in (GOOD, AFAR, OVER, SERVICE):
        httpx.get(f"{keyed.url}/status/systems", headers={"X-API-Key": key})
        httpx.get(f"{keyed.url}/filesystem/demo/ops/ls", params={"path": "/no"}, headers={"X-API-Key": key})
    until = time.monotonic() + 300
    while "api_key.refused" not in (text := keyed.log.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    assert "api_key.refused" in text
    for key in (GOOD, AFAR, OVER, SERVICE):
        assert key not in text
        assert key.removeprefix("hpcgate_")[:20] not in text
