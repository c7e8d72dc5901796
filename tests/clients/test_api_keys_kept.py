"""Whoever the gateway works with for the holder of an API key never sees the key."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from hpcgate.auth.api_keys import hash_of, new_key
from hpcgate.demo.cluster import Cluster, Gateway
from tests.people import Person

KEY = new_key()


class Recorder:
    """A service that refuses whatever it is asked, and keeps it all."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    async def _answer(self, request: web.Request) -> web.Response:
        body = (await request.read()).decode("utf-8", "replace")
        self.seen.append(f"{request.method} {request.raw_path}\n{dict(request.headers)}\n{body}")
        return web.json_response({"errors": [{"error": "refused"}], "allowed": True}, status=200)

    async def _start(self) -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])

    def __enter__(self) -> "Recorder":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(300)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(300)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(300)
        self._loop.close()


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with Recorder() as running:
        yield running


def credentials(kind: str, **settings: Any) -> dict[str, Any]:
    return {"ssh_credentials": {"keys": None, "type": kind, "url": "URL", **settings}}


S3 = {
    "service_type": "s3",
    "name": "s3",
    "private_url": "URL",
    "public_url": "URL",
    "access_key_id": "id",
    "secret_access_key": "secret",
    "region": "r",
    "ttl": 60,
}
INTROSPECTION = {"url": "URL", "client_id": "c", "client_secret": "s", "tokens": "all"}
SERVICES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "SSHService": (credentials("SSHService"), {}, False),
    "SSHCA": (credentials("SSHCA"), {}, False),
    "Vault as the user": (credentials("Vault", role="r", auth_role="a"), {}, False),
    "Vault as the gateway": (credentials("Vault", role="r", token="hvs.own"), {}, True),
    "the policy's service": ({"auth": {"authorization": {"url": "URL"}}}, {}, False),
    "slurmrestd": ({}, {"scheduler": {"connection_mode": "rest", "api_url": "URL", "api_version": "0.0.38"}}, False),
    "S3": ({}, {"data_operation": {"data_transfer": S3}}, True),
    "the identity provider": (
        {"auth": {"authentication": {"introspection": INTROSPECTION, "public_certs": None}}},
        {},
        False,
    ),
    "the login node": ({}, {}, False),
}
"""Settings of the gateway and of its system, and whether the service is asked at all for a key's holder."""


def put(value: Any, url: str) -> Any:
    """Put the recorder's address where it is to stand."""
    if isinstance(value, dict):
        return {key: put(inner, url) for key, inner in value.items()}
    return url if value == "URL" else value


@pytest.fixture(scope="module", params=SERVICES)
def asked(
    request: pytest.FixtureRequest, cluster: Cluster, alice: Person, recorder: Recorder
) -> Iterator[tuple[Gateway, list[str], bool]]:
    """A gateway that works with the service, and what the service has seen once all kinds of requests were made."""
    settings, system, wanted = SERVICES[request.param]
    recorder.seen.clear()
    key = {"name": "nightly", "hash": hash_of(KEY), "username": alice.user.name, "expires": "2999-01-01T00:00:00Z"}
    overrides = put(settings, recorder.url)
    overrides["auth"] = overrides.get("auth", {}) | {"api_keys": [key]}
    config = cluster.write_gateway_config(
        cluster.directory / f"keys-{len(request.param)}-{request.param[:4].strip()}.yaml",
        clusters=[cluster.cluster_settings("demo", probing={"services": None}, **put(system, recorder.url))],
        logger={"level": "debug", "enable_tracing_log": True},
        audit={"to": "stdout"},
        **overrides,
    )
    running = cluster.start_gateway(config)
    home = str(alice.user.home)
    job = {"workingDirectory": home, "script": "#!/bin/sh\nenv > environment\n"}
    upload = {"path": f"{home}/x", "transferDirectives": {"transferMethod": "s3", "fileSize": 1}}
    with httpx.Client(base_url=running.url, headers={"X-API-Key": KEY}, timeout=600) as client:
        for method, path, body in (
            ("GET", "/status/demo/userinfo", None),
            ("GET", f"/filesystem/demo/ops/ls?path={home}", None),
            ("GET", f"/filesystem/demo/ops/ls?path={home}/none", None),
            ("POST", "/compute/demo/jobs", {"job": job}),
            ("GET", "/compute/demo/jobs", None),
            ("POST", "/filesystem/demo/transfer/upload", upload),
            ("GET", f"/{KEY[8:20]}", None),
        ):
            answer = client.request(method, path, json=body)
            assert answer.status_code != 401, answer.text
            assert KEY not in answer.text + str(answer.headers), path
    yield running, list(recorder.seen), wanted
    running.stop()


def test_a_service_does_not_see_the_key(asked: tuple[Gateway, list[str], bool], alice: Person) -> None:
    running, seen, wanted = asked
    assert bool(seen) is wanted
    assert not [text for text in seen if KEY in text]
    assert KEY not in Path(running.log).read_text()
    for path in Path(alice.user.home).rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
