"""Certificates that are kept until shortly before they end, and asked for once however many wait."""

import time
from abc import abstractmethod
from collections.abc import Hashable
from functools import partial
from hashlib import sha256
from typing import Final

import structlog

from hpcgate.auth import Principal
from hpcgate.credentials.base import Credential, CredentialSource
from hpcgate.credentials.certificates import contents
from hpcgate.errors import CredentialRefused, Unavailable
from hpcgate.sharing.flights import Flights
from hpcgate.sharing.recent import Recent

_Key = tuple[str, Hashable, bytes]
"""User name, standing, and SHA-256 of the token where it is judged."""

audit = structlog.get_logger("hpcgate.audit")

RENEW_BEFORE: Final = 30.0
"""Seconds before its end from which on a certificate is not handed out any more."""
_KEEP_ENDLESS: Final = 3600.0
_MAX_KEPT: Final = 10_000


class CertificateSource(CredentialSource):
    """Gets a certificate for a user and keeps it until shortly before it ends.

    However many ask for one user's credential at a time, it is signed once; but each token that is judged elsewhere has
    its own, and so has each `standing`.
    """

    service: str
    """What to call in messages what signs."""

    def __init__(self) -> None:
        self._kept = Recent[_Key, Credential](_MAX_KEPT, lambda: time.time())
        self._asking = Flights[_Key, Credential]("credentials")

    @abstractmethod
    async def sign(self, principal: Principal) -> Credential:
        """Get a new credential of the principal."""

    async def credential(self, principal: Principal) -> Credential:
        """Return the credential of the principal, a kept one while it holds for at least 30 more seconds.

        Raises:
            CredentialRefused: The service said no, or gave something that is none.
            Unavailable: The service cannot be reached, or does not answer in time.
        """
        key = self._key(principal)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        try:
            return await self._asking.share(key, partial(self._ask, key, principal))
        except (CredentialRefused, Unavailable) as error:
            raise type(error)(error.message, headers=error.headers) from error.__cause__

    async def close(self) -> None:
        """End what is under way."""
        await self._asking.close()

    def _key(self, principal: Principal) -> "_Key":
        """Return what a credential is kept by: all that had a say in it."""
        token = sha256(principal.token.encode()).digest() if self.judges_tokens else b""
        return principal.username, self.standing(principal), token

    async def _ask(self, key: "_Key", principal: Principal) -> Credential:
        credential = await self.sign(principal)
        if credential.certificate is not None:
            said = contents(credential.certificate)
            audit.info(
                "certificate.issued",
                user=principal.username,
                client_id=principal.client_id,
                token_id=principal.token_id,
                by=self.service,
                serial=said.serial,
                key_id=said.key_id,
                principals=said.principals,
                valid_before=said.valid_before,
                options=dict(said.options),
                request_id=principal.request_id,
                correlation_id=principal.correlation_id,
            )
        now = time.time()
        until = now + _KEEP_ENDLESS if credential.expires_at is None else credential.expires_at - RENEW_BEFORE
        self._kept.forget(key)
        if until > now:
            self._kept.keep(key, credential, until)
        return credential
