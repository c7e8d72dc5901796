"""Vault's SSH engine, played by a stand-in: neither Vault nor OpenBao can be installed here.

It answers as their API documentation says: a login by JWT, a signature, errors as a list.
"""

import time
from collections.abc import AsyncIterator
from typing import Any

import asyncssh
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import ValidationError

from hpcgate.auth import Principal
from hpcgate.credentials.vault import Vault, VaultSettings
from hpcgate.errors import CredentialRefused, Unavailable

ALICE = Principal("alice", "very-secret-token", {"jti": "one"})


class Server:
    """The stand-in; it keeps what it was sent."""

    def __init__(self) -> None:
        self.authority = asyncssh.generate_private_key("ssh-ed25519")
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.refuse: dict[str, Any] | None = None
        app = web.Application()
        app.router.add_post("/v1/auth/{mount}/login", self.login)
        app.router.add_post("/v1/{mount}/sign/{role}", self.sign)
        self.server = TestServer(app, host="127.0.0.1")

    async def _note(self, request: web.Request) -> Any:
        body = await request.json()
        self.seen.append((request.path, {key.lower(): value for key, value in request.headers.items()}, body))
        return body

    async def login(self, request: web.Request) -> web.StreamResponse:
        body = await self._note(request)
        if body["jwt"] != ALICE.token:
            return web.json_response({"errors": ["error validating token: expired"]}, status=400)
        return web.json_response({"auth": {"client_token": "hvs.of-alice", "lease_duration": 60}})

    async def sign(self, request: web.Request) -> web.StreamResponse:
        body = await self._note(request)
        if self.refuse is not None:
            return web.json_response(self.refuse, status=403)
        key = asyncssh.import_public_key(body["public_key"])
        certificate = self.authority.generate_user_certificate(
            key, "vault-jwt-alice", principals=[body["valid_principals"]],
            valid_before=int(time.time()) + int(body["ttl"].removesuffix("s")),
        )  # fmt: skip
        signed = certificate.export_certificate("openssh").decode()
        return web.json_response({"data": {"serial_number": "1", "signed_key": signed}})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    await made.server.start_server()
    yield made
    await made.server.close()


def source(server: Server, **settings: Any) -> Vault:
    url = f"http://127.0.0.1:{server.server.port}"
    return Vault(VaultSettings.model_validate({"type": "Vault", "url": url, "role": "users", **settings}))


async def test_with_a_token_of_its_own(server: Server) -> None:
    vault = source(server, token="hvs.own", mount="ssh-login", namespace="hpc", lifetime=600)
    credential = await vault.credential(ALICE)
    assert credential.certificate is not None
    assert credential.certificate.key.public_data == credential.private_key.public_data
    assert credential.expires_at == pytest.approx(time.time() + 600, abs=60)
    ((path, headers, body),) = server.seen
    assert path == "/v1/ssh-login/sign/users"
    assert (headers["x-vault-token"], headers["x-vault-namespace"]) == ("hvs.own", "hpc")
    assert (body["valid_principals"], body["cert_type"], body["ttl"]) == ("alice", "user", "600s")
    assert ALICE.token not in str(server.seen)
    assert await vault.credential(ALICE) is credential
    await vault.close()


async def test_with_the_users_own_token(server: Server) -> None:
    vault = source(server, auth_role="hpcgate", auth_mount="oidc/hpc")
    with pytest.raises(CredentialRefused):  # the stand-in's mounts have one part
        await vault.credential(ALICE)
    await vault.close()
    vault = source(server, auth_role="hpcgate")
    assert (await vault.credential(ALICE)).certificate is not None
    (login, _, sent), (path, headers, _) = server.seen[-2:]
    assert (login, sent) == ("/v1/auth/jwt/login", {"role": "hpcgate", "jwt": ALICE.token})
    assert (path, headers["x-vault-token"]) == ("/v1/ssh/sign/users", "hvs.of-alice")
    with pytest.raises(CredentialRefused, match="error validating token: expired"):
        await vault.credential(Principal("bob", "another-token"))
    await vault.close()


async def test_what_vault_refuses(server: Server) -> None:
    """What Vault refuses is refused in Vault's words, without the token."""
    vault = source(server, token="hvs.own")
    server.refuse = {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
    with pytest.raises(CredentialRefused, match="alice: 1 error occurred: \\* permission denied") as refused:
        await vault.credential(ALICE)
    assert "hvs.own" not in str(refused.value)
    await vault.close()


async def test_vault_is_down(server: Server) -> None:
    """A Vault that does not answer makes logins unavailable."""
    vault = source(server, token="hvs.own")
    await server.server.close()
    with pytest.raises(Unavailable, match="Vault cannot be reached"):
        await vault.credential(ALICE)
    await vault.close()


@pytest.mark.parametrize("settings", [{}, {"token": "a", "auth_role": "b"}, {"token": "a", "mount": "a b"}])
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VaultSettings.model_validate({"type": "Vault", "url": "http://127.0.0.1", "role": "users", **settings})


def test_secrets_do_not_show() -> None:
    made = VaultSettings.model_validate({"type": "Vault", "url": "http://127.0.0.1", "role": "r", "token": "hvs.own"})
    assert "hvs.own" not in repr(made)
