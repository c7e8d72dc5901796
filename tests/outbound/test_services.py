"""Each client of a service before services that lie in HTTP: an error of its own, in time, and nobody else waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from hpcgate.auth import Jwks, OpenFga, Principal
from hpcgate.auth.client_credentials import TokenRefused, fetch_token
from hpcgate.auth.introspection import Introspection
from hpcgate.config import IntrospectionSettings, OidcSettings, OpenFgaSettings
from hpcgate.errors import CommandFailed, GatewayError, Unavailable
from hpcgate.schedulers.slurm.rest.client import RestClient
from hpcgate.schedulers.slurm.rest.versions import api_version
from hpcgate.transfers.s3_settings import S3Settings
from hpcgate.transfers.store import Store
from tests.outbound.lies import LIES, answer, liar, says

ALICE = Principal("alice", "a-token-of-alices-that-nobody-may-see", {"preferred_username": "alice"})
SECONDS = 0.7
SECRET = "a-secret-of-the-gateways-own"

Ask = Callable[[str], Awaitable[None]]


async def introspection(url: str) -> None:
    it = Introspection(IntrospectionSettings(url=url, client_id="c", client_secret=SECRET, timeout=SECONDS))
    try:
        with pytest.raises(Unavailable) as caught:
            await it.claims(ALICE.token)
    finally:
        await it.close()
    silent(caught.value)


async def openfga(url: str) -> None:
    it = OpenFga(OpenFgaSettings(url=url, timeout=SECONDS, cache=60))
    try:
        with pytest.raises(Unavailable) as caught:
            await it.authorize(ALICE, "daint")
    finally:
        await it.close()
    silent(caught.value)


async def keys(url: str) -> None:
    settings = OidcSettings(token_url=url, public_certs=(url,), jwks_timeout=SECONDS)
    async with Jwks(settings) as it:
        assert not it.ready


async def token_endpoint(url: str) -> None:
    # Its time is fixed, and longer than a test wants to wait.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("hpcgate.auth.client_credentials.TIMEOUT", SECONDS)
        with pytest.raises(TokenRefused) as caught:
            await fetch_token(url, "client", SECRET)
    silent(caught.value)


async def store(url: str) -> None:
    settings = {
        "name": "store", "private_url": url, "public_url": url, "access_key_id": "AK", "secret_access_key": SECRET,
        "region": "eu", "ttl": 60, "timeout": SECONDS,
    }  # fmt: skip
    it = Store(url, S3Settings.model_validate({"service_type": "s3", **settings}))
    try:
        with pytest.raises(Unavailable) as caught:
            await it.open_upload("bucket", "key")
    finally:
        await it.close()
    silent(caught.value)


async def slurmrestd(url: str) -> None:
    it = RestClient("demo", url, api_version("0.0.42"), SECONDS)
    try:
        with pytest.raises(GatewayError) as caught:
            await it.controller(ALICE, "GET", "jobs", jobs)
    finally:
        await it.close()
    # FirecREST has 408 for what took too long.
    assert caught.value.status == 408 or caught.value.status >= 500
    silent(caught.value)


def jobs(status: int, content: Any) -> list[Any]:
    if status != 200 or not isinstance(content, dict):
        raise CommandFailed("slurmrestd gave no answer that can be read")
    return list(content["jobs"])


def silent(error: Exception) -> None:
    assert ALICE.token[:16] not in str(error)
    assert SECRET[:16] not in str(error)


SERVICES: Mapping[str, Ask] = MappingProxyType(
    {ask.__name__: ask for ask in (introspection, openfga, keys, token_endpoint, store, slurmrestd)}
)


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_in_http_is_an_error_of_its_own_in_time(lie: str) -> None:
    """All services at a time tell it, and others have their turn meanwhile."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    beside = asyncio.create_task(others())
    async with liar(LIES[lie]) as service, asyncio.timeout(300):
        await asyncio.gather(*(ask(f"{service.url}/x") for ask in SERVICES.values()))
    beside.cancel()
    assert turns


BOUNDS: Mapping[str, tuple[Any, int]] = MappingProxyType(
    {
        # What each takes for an answer, and in how many bytes.
        "introspection": ({"active": True}, 64 * 1024),
        "openfga": ({"allowed": True}, 64 * 1024),
        "token_endpoint": ({"access_token": "a.b.c", "expires_in": 300}, 256 * 1024),
    }
)


@pytest.mark.parametrize("service", BOUNDS)
async def test_a_good_answer_has_a_bound(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many blanks behind it as are taken it is one, and with one more it is not."""
    monkeypatch.setattr("tests.outbound.test_services.SECONDS", 200)
    content, most = BOUNDS[service]
    ask = SERVICES[service]
    async with liar(says(answer(json.dumps(content).encode().ljust(most + 1)))) as lying:
        await ask(f"{lying.url}/x")
    async with liar(says(answer(json.dumps(content).encode().ljust(most)))) as honest:
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            await ask(f"{honest.url}/x")


async def test_services_that_are_not_there() -> None:
    async with liar(says(b"")) as service:
        url = service.url
    async with asyncio.timeout(300):
        await asyncio.gather(*(ask(url) for ask in SERVICES.values()))
