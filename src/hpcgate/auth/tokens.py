"""Bearer tokens: from the Authorization header to a `Principal`."""

import math
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from hpcgate.auth.claims import claim, holds, scopes, standing
from hpcgate.auth.introspection import Introspection
from hpcgate.auth.jwks import Jwks
from hpcgate.auth.keys import ALGORITHMS, VerificationKey, decode_base64url, decode_json, key_id
from hpcgate.auth.names import LocalNames
from hpcgate.auth.principal import Principal
from hpcgate.config import OidcSettings
from hpcgate.errors import Forbidden, Unauthenticated, Unavailable

MAX_USERNAME = 256
MAX_CACHED = 10_000
"""Most verified tokens that are remembered."""
MAX_CACHED_BYTES = 128 * 1024 * 1024
"""Most bytes, about, that the verified tokens take which are remembered."""
_VALUE = 64
"""Bytes of a value in claims, about, beside its own text: a list of nothing takes three characters of a token."""
MAX_TRIED = 16
"""Most keys that are tried for a token that does not name its key."""


def bearer(authorization: str | None) -> str:
    """Return the token of an Authorization header (RFC 6750 section 2.1).

    Raises:
        Unauthenticated: There is no header, or it does not hold one bearer token.
    """
    scheme, _, token = (authorization or "").strip(" \t").partition(" ")
    token = token.strip(" \t")
    if scheme.lower() != "bearer" or not token or " " in token or "\t" in token:
        raise Unauthenticated("Not authenticated", headers={"WWW-Authenticate": "Bearer"})
    return token


def _refusal(message: str) -> Unauthenticated:
    return Unauthenticated(message, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})


@dataclass(frozen=True, slots=True)
class _Jws:
    """A compact JWS, taken apart and not yet verified."""

    algorithm: str
    kid: str | None
    typ: str | None
    signed: bytes
    payload: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token that was found good, and until when it is without a further look."""

    principal: Principal
    key: str
    names: int
    expires_at: float
    refused_from: float
    size: int


class TokenVerifier:
    """Turns bearer tokens into principals.

    Verified tokens are remembered until they expire, and forgotten as soon as the key that signed them is no longer
    published. They are found by their text, which a principal holds anyway: a digest, made twice a request, would take
    longer than all else that is done to find them.
    """

    def __init__(self, settings: OidcSettings, jwks: Jwks, longest: int) -> None:
        """Keep the settings and the keys, which the caller opens and closes.

        Args:
            settings: How tokens are verified.
            jwks: The IdP's keys.
            longest: Most characters of a token.
        """
        self._settings = settings
        self._longest = longest
        self._jwks = jwks
        self._username = re.compile(settings.username_pattern)
        # Whatever a site lists: nobody becomes root by a token.
        # Directories such as Active Directory take names in any case.
        self._denied = frozenset(name.casefold() for name in ("root", *settings.denied_users))
        self._scopes = frozenset(settings.required_scopes)
        self._types = frozenset(map(_media_type, settings.token_types))
        self._names = LocalNames(settings)
        self._introspection = None if settings.introspection is None else Introspection(settings.introspection)
        self._verified: OrderedDict[str, _Verified] = OrderedDict()
        self._size = 0
        self._asked: OrderedDict[bytes, str] = OrderedDict()

    def __repr__(self) -> str:
        """Tell how many tokens are remembered."""
        return f"<TokenVerifier {len(self._verified)} tokens remembered>"

    async def principal(self, token: str) -> Principal:
        """Verify a token and return who it speaks for.

        Raises:
            Unauthenticated: The token is not accepted.
            Forbidden: It is genuine, but its user name is not served or a required scope is missing.
            Unavailable: The IdP's keys have not been loaded yet, or it cannot be asked about the token.
        """
        if self._names.due:
            await self._names.refresh()
        known = self.remembered(token)
        if known is not None:
            return known
        digest = sha256(token.encode()).digest()
        # It is somebody's again when it has been found good again.
        self._asked.pop(digest, None)
        claims, key = await self._genuine(token)
        expires_at = self._check_times(claims)
        self._check_origin(claims)
        self._check_rights(claims)
        principal = _principal(self._check_username(claims), token, claims, expires_at)
        if key is not None:
            self._remember(token, principal, key, expires_at)
        else:
            self._asked[digest] = principal.username
            while len(self._asked) > MAX_CACHED:
                self._asked.popitem(last=False)
        return principal

    def caller(self, token: str) -> str | None:
        """Return the user whom a token was last found to speak for, None if it was not.

        It decides whose turn a request takes, never what it may: whoever is let in is verified.
        """
        try:
            known = self.remembered(token)
        except Unauthenticated:
            return None
        return known.username if known is not None else self._asked.get(sha256(token.encode()).digest())

    async def client(self, token: str, username: str) -> Principal:
        """Verify a token that the gateway got for a client of its own, and return that client as a local user.

        What such a token says of a user, its scopes and its other claims do not count. It is not remembered: whoever
        else sends it is verified as any user is.

        Raises:
            Unauthenticated: The token is not accepted.
            Forbidden: The user is not served.
            Unavailable: The IdP's keys have not been loaded yet, or it cannot be asked about the token.
        """
        self._check_text(token)
        claims, _ = await self._genuine(token)
        expires_at = self._check_times(claims)
        self._check_origin(claims)
        return _principal(self.local(username), token, claims, expires_at)

    @property
    def ready(self) -> bool:
        """Whether there is anything to verify tokens with: keys, or an IdP that is asked about all."""
        return self._jwks.ready or self._asks_about_all or self._asks_only

    async def close(self) -> None:
        """Close the connections to the introspection endpoint."""
        if self._introspection is not None:
            await self._introspection.close()

    @property
    def _asks_about_all(self) -> bool:
        return self._settings.introspection is not None and self._settings.introspection.tokens == "all"

    @property
    def _asks_only(self) -> bool:
        return self._settings.introspection is not None and not self._settings.public_certs

    async def _genuine(self, token: str) -> tuple[Mapping[str, Any], VerificationKey | None]:
        """Return the claims of a token that the IdP has made, and the key that says so, if it is not the IdP itself."""
        claims: Any
        if self._introspection is not None and (self._asks_about_all or token.count(".") != 2):
            claims, key = await self._introspection.claims(token), None
        else:
            jws = _take_apart(token)
            key = await self._key(jws)
            if self._types and (jws.typ is None or _media_type(jws.typ) not in self._types):
                raise _refusal("Token type not accepted")
            claims = decode_json(jws.payload, strict=True)
        if not isinstance(claims, Mapping):
            raise _refusal("Invalid token")
        return claims, key

    def remembered(self, token: str) -> Principal | None:
        """Return the principal of a token that was verified before; None if it has to be verified.

        Raises:
            Unauthenticated: The token is too long or no ASCII, or has expired since.
        """
        entry = self._verified.get(token)
        if entry is None:
            self._check_text(token)
            return None
        if entry.key not in self._jwks.identities or entry.names != self._names.version:
            self._forget(token)
            return None
        now = time.time()
        if now >= entry.refused_from:
            self._forget(token)
            self._check_expiry(entry.expires_at, now)
        self._verified.move_to_end(token)
        return entry.principal

    def _remember(self, token: str, principal: Principal, key: VerificationKey, expires_at: float) -> None:
        ttl = self._settings.min_token_ttl
        refused_from = expires_at - ttl if ttl else expires_at + self._settings.leeway
        if token in self._verified:
            self._forget(token)
        size = _size(token)
        # The principal's own text: another would be kept beside it.
        self._verified[principal.token] = _Verified(
            principal, key.identity, self._names.version, expires_at, refused_from, size
        )
        self._size += size
        while len(self._verified) > MAX_CACHED or self._size > MAX_CACHED_BYTES:
            self._forget(next(iter(self._verified)))

    def _forget(self, token: str) -> None:
        self._size -= self._verified.pop(token).size

    async def _key(self, jws: _Jws) -> VerificationKey:
        key = self._verifying_key(jws)
        # Keys are fetched anew for an id that no key has, and for a token without one: its key may be newer than ours.
        if key is None and not self._jwks.has(jws.kid) and await self._jwks.renew():
            key = self._verifying_key(jws)
        if key is not None:
            return key
        if not self._jwks.ready or not (self._jwks.complete or self._jwks.has(jws.kid)):
            raise Unavailable(
                "The identity provider's keys are not loaded yet",
                headers={"Retry-After": str(self._jwks.retry_after)},
            )
        candidates = self._jwks.candidates(jws.kid)
        if not candidates:
            raise _refusal("Unknown key")
        if not any(jws.algorithm in candidate.algorithms for candidate in candidates):
            raise _refusal("Token algorithm not accepted")
        raise _refusal("Invalid token signature")

    def _verifying_key(self, jws: _Jws) -> VerificationKey | None:
        fitting = [key for key in self._jwks.candidates(jws.kid) if jws.algorithm in key.algorithms]
        for key in fitting[:MAX_TRIED]:
            if key.verifies(jws.algorithm, jws.signed, jws.signature):
                return key
        return None

    def _check_times(self, claims: Mapping[str, Any]) -> float:
        """Check exp and nbf (RFC 7519 section 4.1) and return exp in Unix seconds, infinite without one.

        iat says when a token was made, not from when it holds: an IdP whose clock is ahead is not a reason to refuse.
        """
        now = time.time()
        expires_at = _numeric_date(claims, "exp")
        if expires_at is None:
            if self._settings.require_expiry:
                raise _refusal("Token has no expiry")
            expires_at = math.inf
        self._check_expiry(expires_at, now)
        not_before = _numeric_date(claims, "nbf")
        if not_before is not None and not_before > now + self._settings.leeway:
            raise _refusal("Token not yet valid")
        return expires_at

    def _check_expiry(self, expires_at: float, now: float) -> None:
        if now >= expires_at + self._settings.leeway:
            raise _refusal("Token expired")
        ttl = self._settings.min_token_ttl
        if ttl and now >= expires_at - ttl:
            raise _refusal(f"Token expires within {ttl:g} seconds")

    def _check_origin(self, claims: Mapping[str, Any]) -> None:
        issuer, audience = self._settings.issuer, self._settings.audience
        if issuer is not None and claims.get("iss") != issuer:
            raise _refusal("Token issuer not accepted")
        if audience is not None:
            held = claims.get("aud")
            if audience not in (held if isinstance(held, list) else [held]):
                raise _refusal("Token audience not accepted")

    def _check_rights(self, claims: Mapping[str, Any]) -> None:
        if self._scopes and not self._scopes <= scopes(claims):
            raise Forbidden(
                "The token lacks a required scope",
                headers={"WWW-Authenticate": 'Bearer error="insufficient_scope"'},
            )
        for name, wanted in self._settings.required_claims.items():
            if not holds(claims, name, wanted):
                raise Forbidden("The token lacks a required claim")

    def _check_username(self, claims: Mapping[str, Any]) -> str:
        value = claim(claims, self._settings.username_claim)
        if not isinstance(value, str):
            raise _refusal("Token has no user name")
        return self.local(self._names.local(value))

    def _check_text(self, token: str) -> None:
        if len(token) > self._longest:
            raise _refusal("Token too long")
        if not token.isascii():
            raise _refusal("Invalid token")

    def local(self, username: str) -> str:
        """Return a local user name that may be served.

        Raises:
            Forbidden: It may not.
        """
        # All but the pattern holds whatever a site configures: the name becomes part of paths and command lines.
        if (
            not 0 < len(username) <= MAX_USERNAME
            or username.startswith(("-", "."))
            # U+FFFD stands for what could not be read: two names may become one by it. A comma makes two of one where
            # a list of names is wanted (Vault's valid_principals, squeue --user); no account has a colon.
            or any(not char.isprintable() or char.isspace() or char in "/,:\ufffd" for char in username)
            or self._username.fullmatch(username) is None
        ):
            raise Forbidden("The token's user name is not one of a POSIX account")
        if username.casefold() in self._denied:
            raise Forbidden(f"The user {username} is not served")
        return username


def _principal(username: str, token: str, claims: Mapping[str, Any], expires_at: float) -> Principal:
    return Principal(
        username=username,
        token=token,
        claims=MappingProxyType(dict(claims)),
        expires_at=None if math.isinf(expires_at) else expires_at,
        known_standing=standing(token, claims),
    )


def _size(token: str) -> int:
    """Return the bytes that a token takes with its claims, about."""
    payload = decode_base64url(token.split(".")[1]) or b""
    return 2 * len(token) + _VALUE * (payload.count(b",") + payload.count(b"[") + payload.count(b"{"))


def _take_apart(token: str) -> _Jws:
    """Split a compact JWS (RFC 7515 section 7.1) and check its header; Unauthenticated if it is none that we take."""
    segments = token.split(".")
    if len(segments) != 3:
        raise _refusal("Invalid token")
    header_bytes, payload, signature = map(decode_base64url, segments)
    if not header_bytes or not payload or signature is None:
        raise _refusal("Invalid token")
    header = decode_json(header_bytes, strict=True)
    if not isinstance(header, dict):
        raise _refusal("Invalid token")
    algorithm, typ = header.get("alg"), header.get("typ")
    if not isinstance(algorithm, str) or not (typ is None or isinstance(typ, str)):
        raise _refusal("Invalid token")
    kid = _key_id(header.get("kid"))
    # crit and b64 change what is signed or meant, enc is a JWE's; none of them is understood here.
    if any(name in header for name in ("crit", "b64", "enc", "zip")):
        raise _refusal("Token header not accepted")
    if algorithm not in ALGORITHMS:
        raise _refusal("Token algorithm not accepted")
    if not signature:
        raise _refusal("Invalid token signature")
    return _Jws(algorithm, kid, typ, token.rpartition(".")[0].encode(), payload, signature)


def _key_id(value: Any) -> str | None:
    try:
        return key_id(value) or None
    except ValueError:
        pass
    raise _refusal("Invalid token")


def _numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a NumericDate claim (RFC 7519 section 2) in Unix seconds, None if it is missing."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18:
        return float(value)
    raise _refusal("Invalid token")


def _media_type(typ: str) -> str:
    """Return a typ as it is compared: case makes no difference, nor ``application/`` (RFC 7515 section 4.1.9)."""
    return typ.lower().removeprefix("application/")
