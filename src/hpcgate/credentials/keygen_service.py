"""The SSH service of CSCS: makes a key and a certificate for the bearer of a token."""

import asyncio
from typing import Literal

import asyncssh
from pydantic import Field

from hpcgate.auth import Principal
from hpcgate.credentials.base import Credential
from hpcgate.credentials.certificates import UNREADABLE
from hpcgate.credentials.signing import SigningService, SigningSettings, field_of
from hpcgate.errors import CredentialRefused

DURATION = "1min"
"""How long the certificates that are asked for hold."""
_MAX_KEY = 8192
"""Characters of a private key: RSA with 8192 bits has 6,400. Checking a larger one takes seconds."""


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
            {"Authorization": f"Bearer {principal.bearer}"},
        )
        try:
            private, public = field_of(text, "sshKey", "privateKey"), field_of(text, "sshKey", "publicKey")
        except ValueError:
            raise CredentialRefused(f"The {self.service} gave no usable key for {principal.username}") from None
        return await asyncio.to_thread(self._read, private, public, principal)

    def _read(self, private: str, public: str, principal: Principal) -> Credential:
        try:
            if len(private) > _MAX_KEY:
                raise ValueError("too long")
            key = asyncssh.import_private_key(private.strip() + "\n")
        except UNREADABLE:
            raise CredentialRefused(f"The {self.service} gave no usable key for {principal.username}") from None
        return self.certified(public, key, principal)
