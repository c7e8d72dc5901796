"""Token introspection (RFC 7662): the IdP says what a token is worth."""

import time
from base64 import b64encode
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from types import MappingProxyType
from typing import Any
from urllib.parse import quote_plus

import structlog

from hpcgate.config import IntrospectionSettings
from hpcgate.errors import Unavailable
from hpcgate.outbound.client import HttpClient, ServiceError
from hpcgate.sharing.flights import Flights
from hpcgate.sharing.recent import Recent
from hpcgate.telemetry.base import trace_headers

MAX_ANSWER = 64 * 1024
"""Most bytes of an answer."""
MAX_CACHED = 10_000
"""Most answers that are remembered."""
MAX_REFUSAL = 10.0
"""Most seconds that the answer that a token is not active is remembered."""

log = structlog.stdlib.get_logger(__name__)

Claimed = Mapping[str, Any] | None
"""The claims of an active token, None of another one."""


class Introspection:
    """Asks the introspection endpoint, once for callers at the same time, and remembers the answers for a while."""

    def __init__(self, settings: IntrospectionSettings) -> None:
        """Keep the settings; connections are opened at the first question."""
        self._settings = settings
        self._http = HttpClient(connections=settings.max_connections, by_proxy=True)
        self._asking = Flights[bytes, Claimed]("auth.introspection")
        # Apart, since anybody can have a token refused, and refusals must push nothing out that users need.
        self._answers = Recent[bytes, Mapping[str, Any]](MAX_CACHED)
        self._refused = Recent[bytes, bool](MAX_CACHED)
        self._closed = False

    def __repr__(self) -> str:
        """Tell how many answers are remembered and under way."""
        known = len(self._answers) + len(self._refused)
        return f"<Introspection {known} remembered, {len(self._asking)} under way>"

    async def claims(self, token: str) -> Mapping[str, Any] | None:
        """Return the claims of a token, None if it is not active.

        Raises:
            Unavailable: The endpoint cannot be reached, does not answer in time, or not as it should.
        """
        digest = sha256(token.encode()).digest()
        claims = self._answers.get(digest)
        if claims is not None:
            return claims
        if self._refused.get(digest):
            return None
        if self._closed:
            raise _unavailable()
        task = await self._asking.join(digest, partial(self._ask, digest, token))
        if task.cancelled():
            raise _unavailable()
        try:
            return task.result()
        finally:
            # An error leads here by its traceback, and from here to the task, which has the error.
            del task

    async def close(self) -> None:
        """End what is under way and close the connections."""
        self._closed = True
        await self._asking.close()
        await self._http.close()

    async def _ask(self, digest: bytes, token: str) -> Claimed:
        started = time.monotonic()
        claims, reason = None, None
        try:
            claims = await self._post(token)
        except (ServiceError, _Unusable) as error:
            reason = str(error)
        if reason is not None:
            # Raised here, it does not keep the other error, which leads to this task.
            log.warning("introspection.failed", reason=reason, seconds=round(time.monotonic() - started, 3))
            raise _unavailable()
        until = time.monotonic() + self._keep(claims)
        if claims is None:
            self._refused.keep(digest, True, until)
        else:
            self._answers.keep(digest, claims, until)
        return claims

    def _keep(self, claims: Claimed) -> float:
        if claims is None:
            return min(self._settings.cache, MAX_REFUSAL)
        ends = claims.get("exp")
        left = ends - time.time() if isinstance(ends, int | float) and abs(ends) < 1e18 else self._settings.cache
        return min(self._settings.cache, max(0.0, left))

    async def _post(self, token: str) -> Mapping[str, Any] | None:
        settings = self._settings
        form = {"token": token, "token_type_hint": "access_token"}
        headers = {"Accept": "application/json"}
        secret = settings.client_secret.get_secret_value()
        if settings.auth_method == "client_secret_basic":
            # Each is form-encoded first (RFC 6749 section 2.3.1).
            pair = f"{quote_plus(settings.client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": settings.client_id, "client_secret": secret}
        trace_headers(headers)
        # A redirect would carry the token and the secret to wherever it points.
        answer = await self._http.ask(
            "POST", settings.url, seconds=settings.timeout, most=MAX_ANSWER, headers=headers, form=form
        )
        if answer.status != 200:
            raise _Unusable(f"HTTP status {answer.status}")
        try:
            claims = answer.json()
        except ValueError:
            raise _Unusable("the answer is not JSON") from None
        if not isinstance(claims, dict) or not isinstance(claims.get("active"), bool):
            raise _Unusable("the answer does not say whether the token is active")
        return MappingProxyType(claims) if claims["active"] else None


class _Unusable(ValueError):
    """The endpoint answered, and not as RFC 7662 says."""


def _unavailable() -> Unavailable:
    return Unavailable("The identity provider cannot be asked about the token", headers={"Retry-After": "1"})
