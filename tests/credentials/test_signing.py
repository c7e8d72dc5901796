from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import asyncssh
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hpcgate import __version__
from hpcgate.auth import Principal
from hpcgate.credentials import certificate_cache
from hpcgate.credentials.deic_ca import DeicCa, DeicCaSettings
from hpcgate.credentials.keygen_service import KeygenService, KeygenServiceSettings
from hpcgate.credentials.signing import SigningService
from hpcgate.errors import CredentialRefused, Unavailable

ALICE = Principal("alice", "very-secret-token", request_id="req-1", correlation_id="cor-1")


class Authority:
    """A real certificate authority behind HTTP that speaks both dialects, and misbehaves when told to."""

    def __init__(self) -> None:
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.lifetime = 60
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        self.cut = 0
        self.delay = 0.0
        app = web.Application()
        app.router.add_post("/api/v1/ssh-keys", self.keys)
        app.router.add_post("/sign", self.sign)
        self.server = TestServer(app, host="127.0.0.1")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def take(self, request: web.Request) -> web.StreamResponse | None:
        self.requests.append((request.path, {k.lower(): v for k, v in request.headers.items()}, await request.json()))
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.cut:
            self.cut -= 1
            assert request.transport is not None
            request.transport.abort()
        return await self.answer(request) if self.answer is not None else None

    def certify(self, key: asyncssh.SSHKey, user: str) -> str:
        certificate = self.key.generate_user_certificate(
            key, user, principals=[user], valid_before=int(time.time()) + self.lifetime
        )
        return certificate.export_certificate("openssh").decode()

    async def keys(self, request: web.Request) -> web.StreamResponse:
        if (special := await self.take(request)) is not None:
            return special
        key = asyncssh.generate_private_key("ssh-ed25519")
        user = self.requests[-1][2]["username"]
        pair = {"privateKey": key.export_private_key("openssh").decode(), "publicKey": self.certify(key, user)}
        return web.json_response({"sshKey": pair}, status=201)

    async def sign(self, request: web.Request) -> web.StreamResponse:
        if (special := await self.take(request)) is not None:
            return special
        key = asyncssh.import_public_key(self.requests[-1][2]["PublicKey"])
        user = {ALICE.token: "alice", "other": "bob"}[self.requests[-1][2]["OTT"]]
        return web.Response(text=self.certify(key, user))


@pytest.fixture
async def authority() -> AsyncIterator[Authority]:
    authority = Authority()
    await authority.server.start_server()
    yield authority
    await authority.server.close()


def make(kind: str, url: str, **changes: Any) -> SigningService:
    if kind == "SSHService":
        return KeygenService(KeygenServiceSettings(url=url, **changes))
    return DeicCa(DeicCaSettings(url=url, **changes))


@pytest.fixture(params=["SSHService", "SSHCA"])
async def source(request: pytest.FixtureRequest, authority: Authority) -> AsyncIterator[SigningService]:
    source = make(request.param, authority.url + "/", timeout=20)
    yield source
    await source.close()


async def test_a_certificate_for_the_key_and_its_end(source: SigningService, authority: Authority) -> None:
    credential = await source.credential(ALICE)
    assert credential.certificate is not None
    assert credential.certificate.key.public_data == credential.private_key.public_data
    assert credential.expires_at == pytest.approx(time.time() + 60, abs=20)


async def test_what_the_service_is_sent(source: SigningService, authority: Authority) -> None:
    await source.credential(ALICE)
    path, headers, body = authority.requests[0]
    if isinstance(source, KeygenService):
        assert (path, body) == ("/api/v1/ssh-keys", {"duration": "1min", "username": "alice"})
        assert headers["authorization"] == "Bearer very-secret-token"
    else:
        assert path == "/sign"
        assert body["OTT"] == "very-secret-token"
        assert body["PublicKey"].startswith("ssh-ed25519 ")
        assert set(body) == {"OTT", "PublicKey"}
    assert headers["x-client-type"] == "api"
    assert headers["x-client-name"] == "hpcgate"
    assert headers["x-client-version"] == __version__
    assert headers["x-request-id"] == "req-1"
    assert headers["x-correlation-id"] == "cor-1"


async def test_one_request_however_many_wait(source: SigningService, authority: Authority) -> None:
    authority.delay = 0.05
    many = await asyncio.gather(*(source.credential(ALICE) for _ in range(100)))
    assert len(authority.requests) == 1
    assert all(credential is many[0] for credential in many)
    await asyncio.gather(source.credential(ALICE), source.credential(Principal("bob", "other")))
    assert len(authority.requests) == 2


async def test_one_who_gives_up_does_not_spoil_it_for_the_others(source: SigningService, authority: Authority) -> None:
    authority.delay = 0.1
    first = asyncio.create_task(source.credential(ALICE))
    await asyncio.sleep(0.02)
    second = asyncio.create_task(source.credential(ALICE))
    await asyncio.sleep(0.02)
    first.cancel()
    assert (await second).certificate is not None
    assert len(authority.requests) == 1


async def test_renewed_thirty_seconds_before_the_end(
    source: SigningService, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.lifetime = 600
    first = await source.credential(ALICE)
    end = first.expires_at
    assert end is not None
    monkeypatch.setattr(certificate_cache, "time", SimpleNamespace(time=lambda: end - 30.5))
    assert await source.credential(ALICE) is first
    monkeypatch.setattr(certificate_cache, "time", SimpleNamespace(time=lambda: end - 29.5))
    assert await source.credential(ALICE) is not first
    assert len(authority.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 302])
async def test_the_services_own_words_reach_the_user(source: SigningService, authority: Authority, status: int) -> None:
    async def no(request: web.Request) -> web.Response:
        text = json.dumps({"message": "OTP wrong for very-secret-token\n" + "x" * 5000})
        return web.Response(status=status, text=text, headers={"Location": "http://127.0.0.1:1/"})

    authority.answer = no
    with pytest.raises(CredentialRefused) as caught:
        await source.credential(ALICE)
    assert "OTP wrong for ***" in caught.value.message
    assert len(caught.value.message) < 500
    assert "very-secret-token" not in repr(caught.value.__cause__) + caught.value.message
    assert len(authority.requests) == 1
    authority.answer = None
    assert (await source.credential(ALICE)).certificate is not None, "a refusal is not kept"


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"sshKey": {"privateKey": 1, "publicKey": "x"}}', "\0\xff"])
async def test_nonsense_for_an_answer(source: SigningService, authority: Authority, text: str) -> None:
    async def nonsense(request: web.Request) -> web.Response:
        return web.Response(status=201, text=text)

    authority.answer = nonsense
    with pytest.raises(CredentialRefused):
        await source.credential(ALICE)


async def test_a_certificate_of_another_key(authority: Authority) -> None:
    source = make("SSHCA", authority.url)

    async def other(request: web.Request) -> web.Response:
        return web.Response(text=authority.certify(asyncssh.generate_private_key("ssh-ed25519"), "alice"))

    authority.answer = other
    with pytest.raises(CredentialRefused, match="another key"):
        await source.credential(ALICE)
    await source.close()


async def test_a_cut_connection_is_tried_twice_more(source: SigningService, authority: Authority) -> None:
    authority.cut = 2
    assert (await source.credential(ALICE)).certificate is not None
    assert len(authority.requests) == 3


async def test_a_service_that_is_down(source: SigningService, authority: Authority) -> None:
    authority.cut = 99
    with pytest.raises(Unavailable, match="cannot be reached"):
        await source.credential(ALICE)
    assert len(authority.requests) == 3
    await authority.server.close()
    with pytest.raises(Unavailable) as caught:
        await source.credential(ALICE)
    assert "127.0.0.1" not in caught.value.message


@pytest.mark.parametrize("kind", ["SSHService", "SSHCA"])
async def test_a_service_that_hangs_is_not_tried_again(authority: Authority, kind: str) -> None:
    ended = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        await ended.wait()
        return web.Response(status=500)

    authority.answer = hang
    source = make(kind, authority.url, timeout=0.5)
    with pytest.raises(Unavailable, match="in time"):
        await source.credential(ALICE)
    assert len(authority.requests) == 1
    ended.set()
    await source.close()


async def test_connections_are_bounded(authority: Authority) -> None:
    """No more requests are under way than connections are allowed."""
    authority.delay = 0.05
    together = most = 0

    async def count(request: web.Request) -> web.Response:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await asyncio.sleep(0.05)
        together -= 1
        return web.Response(status=403)

    authority.answer = count
    source = make("SSHService", authority.url, max_connections=3, timeout=5)
    users = [Principal(f"user{number}", "t") for number in range(12)]
    await asyncio.gather(*(source.credential(user) for user in users), return_exceptions=True)
    assert most == 3
    await source.close()


async def test_closing_ends_what_is_under_way(source: SigningService, authority: Authority) -> None:
    authority.delay = 1.2
    waiting = asyncio.create_task(source.credential(ALICE))
    await asyncio.sleep(0.05)
    before = asyncio.all_tasks()
    await source.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(asyncio.all_tasks()) < len(before)
