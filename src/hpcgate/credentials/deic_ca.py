"""DeiC's SSH certificate authority: signs a public key that is made here for the bearer of a token."""

import asyncio
from typing import Literal

import asyncssh
from pydantic import Field

from hpcgate.auth import Principal
from hpcgate.credentials.base import Credential
from hpcgate.credentials.signing import SigningService, SigningSettings


class DeicCaSettings(SigningSettings):
    """Certificates from DeiC's authority."""

    type: Literal["SSHCA"] = Field("SSHCA", description="SSHCA: certificates signed by a service for keys made here.")


class DeicCa(SigningService):
    """``POST {url}/sign`` with a new Ed25519 key; the private half never leaves this process."""

    Settings = DeicCaSettings
    service = "SSH certificate authority"

    async def sign(self, principal: Principal) -> Credential:
        """Make a key and have it signed."""
        key = await asyncio.to_thread(asyncssh.generate_private_key, "ssh-ed25519")
        public = key.export_public_key("openssh").decode("ascii").strip()
        text = await self.post("/sign", {"PublicKey": public, "OTT": principal.bearer}, principal, {})
        return self.certified(text, key, principal)
