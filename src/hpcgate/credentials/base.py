"""What logs a user in on a login node, and where it comes from."""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import asyncssh

from hpcgate.auth import Principal
from hpcgate.config import PluginSettings

KEYS = (asyncssh.SSHKey, asyncssh.SSHCertificate, asyncssh.SSHKeyPair)
"""The types of what logs a user in."""


@dataclass(frozen=True, slots=True)
class Credential:
    """One user's SSH credential.

    Attributes:
        private_key: The decrypted private key; never printed.
        certificate: The OpenSSH user certificate that belongs to it, if there is one.
        expires_at: When the credential ends, Unix seconds, or None if it does not.
    """

    private_key: asyncssh.SSHKey = field(repr=False)
    certificate: asyncssh.SSHCertificate | None = field(default=None, repr=False)
    expires_at: float | None = None


class CredentialSource(ABC):
    """Gives the SSH credential of a user. Found by the entry points ``hpcgate.credentials``."""

    Settings: ClassVar[type[PluginSettings]]

    @abstractmethod
    def __init__(self, settings: Any) -> None:
        """Keep the settings, an instance of ``Settings``; open nothing."""

    @abstractmethod
    async def credential(self, principal: Principal) -> Credential:
        """Return the credential of the principal.

        Raises:
            CredentialRefused: There is none for this user, or the service said no.
        """

    @property
    def judges_tokens(self) -> bool:
        """Whether a token is seen where the credential comes from, so that another of the same user may fare otherwise.

        Then a kept credential is for one token, and one token's refusal is not another's.
        """
        return True

    def standing(self, principal: Principal) -> Hashable:
        """Return what of the principal shapes the credential, beside the user name; the empty tuple for nothing.

        Requests of one user share a connection if it is equal. By default it is all that the token stands for.
        """
        return principal.standing

    async def close(self) -> None:  # noqa: B027 (a source with nothing open has nothing to close)
        """Close what is open."""
