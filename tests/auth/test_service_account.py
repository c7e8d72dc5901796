"""The service account's token: asked for by client credentials, kept, and asked for again when it is due."""

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hpcgate.auth import Jwks, TokenVerifier
from hpcgate.auth.service_account import MARGIN, ServiceLogin
from hpcgate.config import OidcSettings, ServiceAccount
from hpcgate.errors import GatewayError, Unavailable
from tests.auth.idp import MAX_TOKEN, claims, jwk, token


class Provider:
    """An identity provider's two endpoints: its keys, and tokens for one client."""

    def __init__(self) -> None:
        self.which = 0
        self.lifetime = 300.0
        self.user: str | None = "health"
        self.status = 200
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def keys(self, request: web.Request) -> web.Response:
        return web.json_response({"keys": [jwk("RSA", self.which)]})

    async def token(self, request: web.Request) -> web.Response:
        self.asked.append((request.headers.get("Authorization", ""), dict(await request.post())))
        if self.status != 200:
            return web.json_response({"error": "invalid_client"}, status=self.status)
        made = token(payload=claims(preferred_username=self.user, exp=time.time() + self.lifetime), which=self.which)
        return web.json_response({"access_token": made, "expires_in": self.lifetime})


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
async def server(provider: Provider) -> AsyncIterator[TestServer]:
    app = web.Application()
    app.router.add_get("/jwks", provider.keys)
    app.router.add_post("/token", provider.token)
    running = TestServer(app)
    async with running:
        yield running


@pytest.fixture
def oidc(server: TestServer) -> OidcSettings:
    return OidcSettings(
        token_url=str(server.make_url("/token")),
        public_certs=(str(server.make_url("/jwks")),),
        jwks_cooldown=1e-6,
    )


@pytest.fixture
async def account(oidc: OidcSettings) -> AsyncIterator[ServiceLogin]:
    async with Jwks(oidc) as jwks:
        yield ServiceLogin(
            ServiceAccount(client_id="probe", secret="s3cret"), oidc, TokenVerifier(oidc, jwks, MAX_TOKEN)
        )


async def test_client_credentials_and_one_token_for_many_rounds(account: ServiceLogin, provider: Provider) -> None:
    for _ in range(3):
        assert (await account.principal()).username == "health"
    basic = "Basic " + base64.b64encode(b"probe:s3cret").decode()
    assert provider.asked == [(basic, {"grant_type": "client_credentials"})]


async def test_a_token_is_renewed_before_it_ends(
    account: ServiceLogin, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await account.principal()
    now = time.time()
    monkeypatch.setattr("hpcgate.auth.service_account.time.time", lambda: now + provider.lifetime - MARGIN - 5)
    await account.principal()
    assert len(provider.asked) == 1
    monkeypatch.setattr("hpcgate.auth.service_account.time.time", lambda: now + provider.lifetime - MARGIN + 5)
    await account.principal()
    assert len(provider.asked) == 2


async def test_new_keys_of_the_provider_cost_one_more_token(
    oidc: OidcSettings, server: TestServer, provider: Provider
) -> None:
    async with Jwks(oidc) as jwks:
        account = ServiceLogin(
            ServiceAccount(client_id="probe", secret="s3cret"),
            oidc,
            TokenVerifier(oidc, jwks, MAX_TOKEN),
        )
        await account.principal()
        await jwks.renew()  # joins the first fetch, up to its very end
        provider.which = 1
        await jwks.renew()
        assert (await account.principal()).username == "health"
    assert len(provider.asked) == 2


async def test_a_provider_that_refuses(account: ServiceLogin, provider: Provider) -> None:
    provider.status = 401
    with pytest.raises(Unavailable, match=r"^The service account got no token: .*401") as caught:
        await account.principal()
    assert "s3cret" not in json.dumps([caught.value.message, str(caught.value.__cause__)])
    provider.status = 200
    assert (await account.principal()).username == "health"


async def test_an_account_that_may_not_be_served(account: ServiceLogin, provider: Provider) -> None:
    provider.lifetime = -60
    with pytest.raises(GatewayError, match="Token expired"):
        await account.principal()


async def test_a_provider_whose_tokens_for_a_client_name_nobody(
    oidc: OidcSettings, server: TestServer, provider: Provider
) -> None:
    provider.user = None
    settings = oidc.model_copy(update={"required_scopes": ("access",)})
    client = {"client_id": "probe", "secret": "s3cret", "scope": "api://hpcgate/.default"}
    async with Jwks(settings) as jwks:
        verifier = TokenVerifier(settings, jwks, MAX_TOKEN)
        nameless = ServiceLogin(ServiceAccount.model_validate(client), settings, verifier)
        with pytest.raises(GatewayError, match="lacks a required scope"):
            await nameless.principal()
        named = ServiceLogin(ServiceAccount.model_validate(client | {"username": "health"}), settings, verifier)
        for _ in range(2):
            assert (await named.principal()).username == "health"
    assert len(provider.asked) == 2
    assert all(form["scope"] == "api://hpcgate/.default" for _, form in provider.asked)
