"""Tokens by client credentials: how the client is shown, by which way, and what is said if there is none."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from hpcgate.auth.client_credentials import TokenRefused, fetch_token


class Endpoint:
    """A token endpoint that gives a set answer, or a proxy on the way to one."""

    def __init__(self) -> None:
        self.status = 200
        self.text = '{"access_token": "a.b.c", "expires_in": 300}'
        self.hosts: list[str] = []
        self.headers: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.hosts.append(request.headers["Host"])
        self.headers.append(request.headers.get("Authorization", ""))
        return web.Response(status=self.status, text=self.text)


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
async def url(endpoint: Endpoint) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/token", endpoint.answer)
    async with TestServer(app) as server:
        yield str(server.make_url("/token"))


async def test_basic_is_form_encoded_first(endpoint: Endpoint, url: str) -> None:
    """As RFC 6749, section 2.3.1 has it, and as the introspection does."""
    await fetch_token(url, "a:b", "50%+ c", method="client_secret_basic")
    scheme, _, value = endpoint.headers[0].partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(value) == b"a%3Ab:50%25%2B+c"


async def test_the_proxy_of_the_environment(endpoint: Endpoint, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", url.removesuffix("/token"))
    monkeypatch.delenv("no_proxy", raising=False)
    granted = await fetch_token("http://idp.invalid/token", "client", "s3cret")
    assert granted.access_token == "a.b.c"
    assert endpoint.hosts == ["idp.invalid"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": 502, "text": "<html>"}, "The token endpoint answered 502: Bad Gateway"),
        ({"status": 400, "text": '{"error": "invalid_scope"}'}, "The token endpoint answered 400: invalid_scope"),
        ({"text": "<html>"}, "The response did not come from a token endpoint: it has no access_token."),
        ({"text": '{"keys": []}'}, "The response did not come from a token endpoint: it has no access_token."),
        ({"text": '{"access_token": 1}'}, "The response did not come from a token endpoint: it has no access_token."),
    ],
)
async def test_no_token(endpoint: Endpoint, url: str, answer: dict[str, Any], words: str) -> None:
    """Whatever comes instead of a token is refused with words that say why."""
    for name, value in answer.items():
        setattr(endpoint, name, value)
    with pytest.raises(TokenRefused) as caught:
        await fetch_token(url, "client", "s3cret")
    assert str(caught.value) == words


@pytest.mark.parametrize(("said", "seconds"), [(300, 300), (0, 0), (-1, None), (1e12, None), (10**400, None)])
async def test_a_token_s_life_is_a_plausible_one(
    endpoint: Endpoint, url: str, said: float, seconds: float | None
) -> None:
    """What reckons with it adds it to the time."""
    endpoint.text = json.dumps({"access_token": "a.b.c", "expires_in": said})
    assert (await fetch_token(url, "client", "s3cret")).expires_in == seconds


async def test_nobody_to_ask() -> None:
    """Where no token endpoint answers, the error names it and not the secret."""
    for url, words in (
        (f"http://127.0.0.1:{unused_port()}/token", "The token endpoint could not be used: .*127.0.0.1"),
        ("idp.example.org/token", "The address of the token endpoint is not a URL."),
    ):
        with pytest.raises(TokenRefused, match=words) as caught:
            await fetch_token(url, "client", "s3cret")
        assert "s3cret" not in str(caught.value)
