"""The account of one system for what the gateway does by itself: probes, and whatever looks at all of its jobs."""

import time

from hpcgate.auth import Principal
from hpcgate.auth.client_credentials import TokenRefused, fetch_token
from hpcgate.auth.tokens import TokenVerifier
from hpcgate.config import OidcSettings, ServiceAccount
from hpcgate.errors import GatewayError, Unavailable

MARGIN = 60.0
"""Seconds before its end from which a token is no longer used; at most half of its life."""


class ServiceLogin:
    """Gets the service account's token at the IdP and keeps it while it is valid."""

    def __init__(self, account: ServiceAccount, oidc: OidcSettings, tokens: TokenVerifier) -> None:
        """Keep what is needed; nothing is opened."""
        self._account = account
        self._oidc = oidc
        self._tokens = tokens
        self._token: str | None = None
        self._renew_at = 0.0

    async def principal(self) -> Principal:
        """Return who the service account is.

        Raises:
            Unavailable: The IdP gave no token.
            GatewayError: The token is not accepted here.
        """
        if self._token is not None and time.time() < self._renew_at:
            try:
                return await self._verified(self._token)
            except GatewayError:
                # The IdP may have changed its keys since: a new token will do.
                self._token = None
        asked = time.time()
        try:
            granted = await fetch_token(
                self._oidc.token_url,
                self._account.client_id,
                self._account.secret.get_secret_value(),
                scope=self._account.scope,
                method=self._oidc.token_endpoint_auth_method,
            )
        except TokenRefused as error:
            raise Unavailable(f"The service account got no token: {error}") from error
        principal = await self._verified(granted.access_token)
        ends = principal.expires_at or asked + float(granted.expires_in or 0)
        self._token = granted.access_token
        self._renew_at = ends - min(MARGIN, (ends - asked) / 2)
        return principal

    async def _verified(self, token: str) -> Principal:
        username = self._account.username
        return await (self._tokens.principal(token) if username is None else self._tokens.client(token, username))
