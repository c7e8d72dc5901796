"""Introspection by a real HTTP service that answers in every way it can."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from hpcgate.auth import Jwks, TokenVerifier
from hpcgate.auth import introspection as introspection_module
from hpcgate.config import OidcSettings
from hpcgate.errors import Forbidden, Unauthenticated, Unavailable
from tests.auth.idp import MAX_TOKEN

from .conftest import Serve, eventually
from .idp import token

Make = Callable[..., Awaitable[TokenVerifier]]
OPAQUE = "an-opaque-secret-token"


class Service:
    """The introspection endpoint."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.body: Any = {"active": True, "preferred_username": "alice", "exp": int(time.time()) + 300}
        self.delay = 0.0
        self.headers: dict[str, str] = {}
        self.requests: list[tuple[str | None, dict[str, Any]]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.headers.get("Authorization"), dict(await request.post())))
        await asyncio.sleep(self.delay)
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        return web.Response(status=self.status, body=body, headers=self.headers)


@pytest.fixture
async def service(serve: Serve) -> Service:
    service = Service()
    service.url = str((await serve(service.answer)).make_url("/introspect"))
    return service


@pytest.fixture
async def make(service: Service, settings: Callable[..., OidcSettings]) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def verifier(changes: dict[str, Any] | None = None, **oidc: Any) -> TokenVerifier:
            given = {"url": service.url, "client_id": "hpcgate", "client_secret": "sesame", **(changes or {})}
            made = settings(introspection=given, **oidc)
            it = TokenVerifier(made, await stack.enter_async_context(Jwks(made)), MAX_TOKEN)
            stack.push_async_callback(it.close)
            return it

        yield verifier


async def test_the_proxy_of_the_environment(make: Make, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", service.url.removesuffix("/introspect"))
    monkeypatch.delenv("no_proxy", raising=False)
    it = await make({"url": "http://idp.invalid/introspect"}, public_certs=())
    assert (await it.principal(OPAQUE)).username == "alice"


async def test_an_opaque_token(make: Make, service: Service) -> None:
    """A token that is not a JWT is what the IdP says of it."""
    it = await make(public_certs=())
    assert it.ready
    principal = await it.principal(OPAQUE)
    assert principal.username == "alice"
    assert principal.expires_at == service.body["exp"]
    assert principal.token == OPAQUE
    assert await it.principal(OPAQUE) == principal
    ((authorization, form),) = service.requests
    assert authorization == "Basic aHBjZ2F0ZTpzZXNhbWU="
    assert form == {"token": OPAQUE, "token_type_hint": "access_token"}


async def test_the_secret_in_the_form(make: Make, service: Service) -> None:
    await (await make({"auth_method": "client_secret_post"})).principal(OPAQUE)
    ((authorization, form),) = service.requests
    assert authorization is None
    assert form["client_id"] == "hpcgate"
    assert form["client_secret"] == "sesame"


async def test_which_tokens_are_asked_about(make: Make, service: Service) -> None:
    it = await make()
    await it._jwks.renew()
    assert (await it.principal(token())).username == "alice"
    assert not service.requests
    service.body["active"] = False
    assert await it.principal(token()) is not None
    every = await make({"tokens": "all"})
    with pytest.raises(Unauthenticated):
        await every.principal(token())
    assert len(service.requests) == 1


async def test_a_token_that_is_not_active(make: Make, service: Service) -> None:
    it = await make()
    service.body = {"active": False}
    for _ in range(3):
        with pytest.raises(Unauthenticated, match="Invalid token") as caught:
            await it.principal(OPAQUE)
        assert caught.value.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        assert OPAQUE not in str(caught.value)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("changes", "oidc", "error"),
    [
        ({"exp": 1}, {}, Unauthenticated),
        ({"exp": None}, {}, Unauthenticated),
        ({"nbf": 4e9}, {}, Unauthenticated),
        ({"iss": "x"}, {"issuer": "y"}, Unauthenticated),
        ({"aud": "x"}, {"audience": "y"}, Unauthenticated),
        ({"scope": "a b"}, {"required_scopes": ["c"]}, Forbidden),
        ({}, {"required_claims": {"acr": "2"}}, Forbidden),
        ({"preferred_username": "root"}, {}, Forbidden),
        ({"preferred_username": None}, {}, Unauthenticated),
    ],
)
async def test_the_rest_is_checked_as_for_jwts(
    make: Make, service: Service, changes: dict[str, Any], oidc: dict[str, Any], error: type[Exception]
) -> None:
    service.body |= changes
    it = await make(**oidc)
    for _ in range(2):
        with pytest.raises(error):
            await it.principal(OPAQUE)


async def test_another_claim_for_the_name(make: Make, service: Service) -> None:
    service.body = {"active": True, "username": "bob", "exp": int(time.time()) + 300}
    assert (await (await make(username_claim="username")).principal(OPAQUE)).username == "bob"


async def test_answers_are_kept_for_a_while_and_never_after_exp(make: Make, service: Service) -> None:
    asks_always = await make({"cache": 0})
    await asks_always.principal(OPAQUE)
    await asks_always.principal(OPAQUE)
    assert len(service.requests) == 2
    introspection = introspection_module.Introspection((await make({"cache": 60}))._settings.introspection)  # type: ignore[arg-type]
    now = time.time()
    assert introspection._keep({"exp": now + 1000}) == 60
    assert 0 < introspection._keep({"exp": now + 30}) <= 30
    assert introspection._keep({"exp": now - 5}) == 0
    assert introspection._keep({}) == 60
    assert introspection._keep(None) == introspection_module.MAX_REFUSAL


async def test_the_memory_is_bounded(make: Make, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(introspection_module, "MAX_CACHED", 3)
    it = await make()
    for number in range(6):
        await it.principal(f"token-{number}")
    assert repr(it._introspection) == "<Introspection 3 remembered, 0 under way>"


async def test_refused_tokens_push_out_no_good_one(
    make: Make, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can have tokens refused, and as many as there is time for."""
    monkeypatch.setattr(introspection_module, "MAX_CACHED", 3)
    it = await make(public_certs=())
    await it.principal(OPAQUE)
    service.body = {"active": False}
    for number in range(5):
        with pytest.raises(Unauthenticated):
            await it.principal(f"junk-{number}")
    service.requests.clear()
    await it.principal(OPAQUE)
    assert not service.requests


async def test_who_leaves_takes_the_question_along(make: Make, service: Service) -> None:
    """Else those who ask and go would have the connections, and what is under way would have no end."""
    it = await make({"max_connections": 2, "timeout": 600}, public_certs=())
    service.delay = 3600.0
    strangers = [asyncio.create_task(it.principal(f"junk-{number}")) for number in range(50)]
    await eventually(lambda: len(service.requests) == 2)
    for stranger in strangers:
        stranger.cancel()
    await asyncio.wait(strangers)
    service.delay = 0.0
    assert (await it.principal(OPAQUE)).username == "alice"
    assert it._introspection is not None
    assert len(it._introspection._asking) == 0


async def test_callers_at_the_same_time_share_one_request(make: Make, service: Service) -> None:
    it = await make()
    service.delay = 0.2
    asking = [asyncio.create_task(it.principal(OPAQUE)) for _ in range(20)]
    await asyncio.sleep(0)
    asking[0].cancel()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert {one.username for one in found[1:] if not isinstance(one, BaseException)} == {"alice"}
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {"active": True}),
        (401, {"active": True}),
        (302, b""),
        (200, b"not json"),
        (200, b"[]"),
        (200, {"active": "true"}),
        (200, {}),
        (200, b" " * 100_000),
    ],
)
async def test_an_answer_that_is_none(
    make: Make, service: Service, status: int, body: Any, logs: list[MutableMapping[str, Any]]
) -> None:
    service.status, service.body = status, body
    service.headers = {"Location": "/elsewhere"}
    it = await make()
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await it.principal(OPAQUE)
        assert caught.value.headers == {"Retry-After": "1"}
    # An error is not remembered.
    assert len(service.requests) == 2
    told = [event for event in logs if event["event"] == "introspection.failed"]
    assert len(told) == 2
    assert OPAQUE not in str(told)
    assert "sesame" not in str(told) + repr(it) + repr(it._introspection)


async def test_no_answer_in_time_and_no_service(make: Make, service: Service) -> None:
    service.delay = 5
    with pytest.raises(Unavailable):
        await (await make({"timeout": 0.1})).principal(OPAQUE)
    with pytest.raises(Unavailable):
        await (await make({"url": "http://127.0.0.1:1/"})).principal(OPAQUE)


async def test_closing_while_asked(make: Make, service: Service) -> None:
    """Who waits for the IdP is told when the gateway closes."""
    it = await make()
    service.delay = 5
    asking = asyncio.create_task(it.principal(OPAQUE))
    await eventually(lambda: bool(service.requests))
    await it.close()
    with pytest.raises(Unavailable):
        await asking
    with pytest.raises(Unavailable):
        await it.principal(OPAQUE)
