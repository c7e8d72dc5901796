"""The SSH service of CSCS: makes a key and a certificate for the bearer of a token."""

import asyncio
from typing import Literal

import asyncssh
from pydantic import Field

from hpcgate.auth import Principal
from hpcgate.credentials.base import Credential
from hpcgate.credentials.certificates import expiry, user_certificate
from hpcgate.credentials.signing import SigningService, SigningSettings, field_of
from hpcgate.errors import CredentialRefused

DURATION = "1min"
"""How long the certificates that are asked for hold."""


class KeygenServiceSettings(SigningSettings):
    """Keys and certificates from an SSH service."""

    type: Literal["SSHService"] = Field(
        "SSHService", description="SSHService: keys and certificates made by a service."
    )


class KeygenService(SigningService):
    """``POST {url}/api/v1/ssh-keys`` with the user's bearer token; the answer holds the private key, too."""

    Settings = KeygenServiceSettings
    service = "SSH key service"

    async def sign(self, principal: Principal) -> Credential:
        """Ask for a new key and its certificate."""
        text = await self.post(
            "/api/v1/ssh-keys",
            {"duration": DURATION, "username": principal.username},
            principal,
            {"Authorization": f"Bearer {principal.token}"},
        )
        try:
            private, public = field_of(text, "sshKey", "privateKey"), field_of(text, "sshKey", "publicKey")
        except ValueError:
            raise CredentialRefused(f"The {self.service} gave no usable key for {principal.username}") from None
        return await asyncio.to_thread(self._read, private, public, principal.username)

    def _read(self, private: str, public: str, username: str) -> Credential:
        try:
            key = asyncssh.import_private_key(private.strip() + "\n")
        except (asyncssh.KeyImportError, ValueError):
            raise CredentialRefused(f"The {self.service} gave no usable key for {username}") from None
        certificate = user_certificate(public, key, f"The certificate of the {self.service} for {username}")
        return Credential(key, certificate, expiry(certificate))
