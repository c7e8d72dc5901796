"""What the tests of tokens and authorisation share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from hpcgate.auth import Jwks, TokenVerifier
from hpcgate.config import OidcSettings
from tests.auth.idp import MAX_TOKEN

from .idp import Idp

Serve = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[TestServer]]


@pytest.fixture
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    with capture_logs() as events:
        yield events


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve a handler at every path on a free port until the test ends."""
    async with AsyncExitStack() as stack:

        async def start(handler: Callable[[web.Request], Awaitable[web.StreamResponse]], **options: Any) -> TestServer:
            application = web.Application()
            application.router.add_route("*", "/{path:.*}", handler)
            server = TestServer(application, **options)
            await server.start_server()
            stack.push_async_callback(server.close)
            return server

        yield start


@pytest.fixture
async def idp(serve: Serve) -> Idp:
    idp = Idp()
    idp.url = str((await serve(idp.answer)).make_url("/jwks"))
    return idp


@pytest.fixture
def settings(idp: Idp) -> Callable[..., OidcSettings]:
    """Make settings whose keys come from the IdP; a cool-down that is over at once unless the test says otherwise."""

    def make(**changes: Any) -> OidcSettings:
        given = {"token_url": "http://127.0.0.1/token", "public_certs": (idp.url,), "jwks_cooldown": 1e-6, **changes}
        return OidcSettings(**given)

    return make


@pytest.fixture
async def verifier(settings: Callable[..., OidcSettings]) -> AsyncIterator[Callable[..., Awaitable[TokenVerifier]]]:
    """Open keys and make a verifier of them, once the first keys are there; closed at the end."""
    async with AsyncExitStack() as stack:

        async def make(**changes: Any) -> TokenVerifier:
            given = settings(**changes)
            jwks = await stack.enter_async_context(Jwks(given))
            await eventually(lambda: jwks.ready)
            return TokenVerifier(given, jwks, MAX_TOKEN)

        yield make


async def eventually(true: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something is true; TimeoutError if it never is."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.002)
