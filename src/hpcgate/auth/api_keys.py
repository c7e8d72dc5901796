"""API keys: from the X-API-Key header to a `Principal`.

A key is 32 random bytes with a prefix that searches for leaked secrets find. Nobody guesses one, so its SHA-256 is all
that the configuration holds, and a look-up by it is all that a try costs: what the time of that tells is about digests
that nobody can choose.
"""

import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_network
from types import MappingProxyType

import structlog

from hpcgate.auth.claims import standing
from hpcgate.auth.networks import lies_in
from hpcgate.auth.principal import Principal
from hpcgate.config import ApiKeySettings
from hpcgate.errors import Forbidden, Unauthenticated

HEADER = "X-API-Key"
PREFIX = "hpcgate_"
_KEY = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")

log = structlog.stdlib.get_logger(__name__)


def new_key() -> str:
    """Return a new key."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """Return what a configuration holds of a key."""
    return f"sha256:{sha256(key.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class _Key:
    """A key of the configuration, and whom it makes of a request."""

    principal: Principal
    scopes: frozenset[str]
    networks: tuple[IPv4Network | IPv6Network, ...]
    expires_at: float


class ApiKeys:
    """The keys that are accepted.

    Args:
        settings: The keys.
        local: Returns a user name if it may be served, and raises `Forbidden` if not.
        required_scopes: Scopes that a key must have, as a token must.
    """

    def __init__(
        self, settings: Iterable[ApiKeySettings], local: Callable[[str], str], required_scopes: Iterable[str] = ()
    ) -> None:
        self._keys = {bytes.fromhex(each.hash.removeprefix("sha256:")): _key(each) for each in settings}
        self._local = local
        self._required = frozenset(required_scopes)

    def __repr__(self) -> str:
        """Tell how many there are."""
        return f"<ApiKeys {len(self._keys)}>"

    def principal(self, key: str, source: str | None) -> Principal:
        """Verify a key and return who it speaks for.

        Args:
            key: What the client has sent.
            source: The client's IP address, None if it has none.

        Raises:
            Unauthenticated: The key is not accepted; why is for the log alone.
            Forbidden: Its user is not served, or it lacks a required scope.
        """
        found = self._find(key)
        if found is None:
            raise _refusal()
        if time.time() >= found.expires_at:
            log.warning("api_key.refused", key=found.principal.client_id, reason="expired", source=source)
            raise _refusal()
        if found.networks and not lies_in(source, found.networks):
            log.warning("api_key.refused", key=found.principal.client_id, reason="network", source=source)
            raise _refusal()
        if not self._required <= found.scopes:
            raise Forbidden("The API key lacks a required scope")
        self._local(found.principal.username)
        return found.principal

    def caller(self, key: str, source: Callable[[], str | None]) -> str | None:
        """Return whose key it is, None if nobody's. It decides whose turn a request takes, never what it may.

        Args:
            key: What the client has sent.
            source: Returns the client's IP address, None if it has none.
        """
        found = self._find(key)
        if found is None or time.time() >= found.expires_at:
            return None
        if found.networks and not lies_in(source(), found.networks):
            return None
        return found.principal.username

    def _find(self, key: str) -> _Key | None:
        # What no key looks like is none, whatever hash somebody may have put into the configuration.
        return self._keys.get(sha256(key.encode()).digest()) if _KEY.fullmatch(key) else None


def _refusal() -> Unauthenticated:
    return Unauthenticated("Invalid API key", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})


def _key(settings: ApiKeySettings) -> _Key:
    claims = {"client_id": settings.name, "scope": " ".join(settings.scopes), "jti": f"api-key:{settings.name}"}
    expires_at = settings.expires.timestamp()
    return _Key(
        Principal(
            username=settings.username,
            token=f"API key {settings.name}",
            claims=MappingProxyType(claims),
            expires_at=expires_at,
            known_standing=standing("", {**claims, "api_key": settings.name}),
            api_key=settings.name,
        ),
        frozenset(settings.scopes),
        tuple(ip_network(text) for text in settings.networks),
        expires_at,
    )
