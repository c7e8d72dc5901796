"""Certificates signed by the SSH secrets engine of Vault or OpenBao.

https://developer.hashicorp.com/vault/api-docs/secret/ssh#sign-ssh-key,
https://developer.hashicorp.com/vault/api-docs/auth/jwt#jwt-login
"""

import asyncio
from typing import Literal

import asyncssh
from pydantic import Field, model_validator

from hpcgate.auth import Principal
from hpcgate.config import Secret
from hpcgate.credentials.base import Credential
from hpcgate.credentials.signing import SigningService, SigningSettings, field_of
from hpcgate.errors import CredentialRefused


class VaultSettings(SigningSettings):
    """Certificates from Vault or OpenBao."""

    type: Literal["Vault"] = Field(
        "Vault", description="Vault: certificates signed by Vault's or OpenBao's SSH engine."
    )
    mount: str = Field("ssh", pattern=r"^[\w./-]+$", description="Where the SSH engine is mounted.")
    role: str = Field(pattern=r"^[\w.-]+$", description="The engine's role to sign by.")
    token: Secret | None = Field(None, description="hpcgate's own token for Vault.")
    auth_role: str | None = Field(
        None, min_length=1, description="The role of the JWT auth method, with which each user's own token logs in."
    )
    auth_mount: str = Field("jwt", pattern=r"^[\w./-]+$", description="Where the JWT auth method is mounted.")
    namespace: str | None = Field(None, min_length=1, description="The namespace of Vault Enterprise or OpenBao.")
    lifetime: int = Field(300, ge=60, description="Seconds of the certificates; the role may allow fewer.")

    @model_validator(mode="after")
    def _one_way_in(self) -> "VaultSettings":
        if (self.token is None) == (self.auth_role is None):
            raise ValueError("exactly one of token and auth_role says how Vault knows who asks")
        if self.max_lifetime is not None and self.lifetime > self.max_lifetime:
            raise ValueError("lifetime is more than max_lifetime, so no certificate would be used")
        return self


class Vault(SigningService):
    """``POST {url}/v1/{mount}/sign/{role}`` with a new Ed25519 key; the private half never leaves this process."""

    Settings = VaultSettings
    service = "Vault"

    def __init__(self, settings: VaultSettings) -> None:
        super().__init__(settings)
        self._vault = settings

    @property
    def judges_tokens(self) -> bool:
        """Whether Vault sees the user's token; with one of hpcgate's own it is told the name alone."""
        return self._vault.auth_role is not None

    async def sign(self, principal: Principal) -> Credential:
        """Make a key and have it signed."""
        settings = self._vault
        key = await asyncio.to_thread(asyncssh.generate_private_key, "ssh-ed25519")
        headers = {} if settings.namespace is None else {"X-Vault-Namespace": settings.namespace}
        token = settings.token.get_secret_value() if settings.token is not None else None
        if token is None:
            login = {"role": settings.auth_role, "jwt": principal.bearer}
            text = await self.post(f"/v1/auth/{settings.auth_mount}/login", login, principal, headers)
            token = self._field(text, principal, "auth", "client_token")
        body = {
            "public_key": key.export_public_key("openssh").decode("ascii").strip(),
            "valid_principals": principal.username,
            "cert_type": "user",
            "ttl": f"{settings.lifetime}s",
        }
        path = f"/v1/{settings.mount}/sign/{settings.role}"
        text = await self.post(path, body, principal, headers | {"X-Vault-Token": token}, token)
        signed = self._field(text, principal, "data", "signed_key")
        return self.certified(signed, key, principal)

    def _field(self, text: str, principal: Principal, *names: str) -> str:
        try:
            return field_of(text, *names)
        except ValueError:
            raise CredentialRefused(f"{self.service} gave no certificate for {principal.username}") from None
