"""What a token's claims say."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

PASSING = frozenset({"exp", "nbf", "iat", "jti", "uti", "at_hash", "nonce", "aio", "rh"})
"""Claims that name or date one token and give no right: RFC 7519, OpenID Connect, Entra ID.

Those of the session (``sid``, ``session_state``, ``auth_time``) are not among them: a service may judge by how, and how
long ago, somebody logged in.
"""


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim, None if it is not there.

    A name with dots that is not a claim's own leads into nested objects: ``realm_access.roles``.
    """
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def holds(claims: Mapping[str, Any], name: str, wanted: Sequence[str | bool | int]) -> bool:
    """Tell whether a claim is, or as a list holds, one of the values; with none wanted, whether it is there."""
    value = claim(claims, name)
    if not wanted:
        return value is not None
    held = value if isinstance(value, list) else [value]
    # True is 1 to Python, and not to JSON.
    return any(type(item) is type(one) and item == one for item in held for one in wanted)


def texts(claims: Mapping[str, Any], name: str) -> frozenset[str]:
    """Return the texts in a claim, which is one or a list."""
    value = claim(claims, name)
    return frozenset(item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str))


def scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the scopes of a token: ``scope`` (RFC 8693 section 4.2) or ``scp``, each a string or a list."""
    return frozenset(scope for name in ("scope", "scp") for item in texts(claims, name) for scope in item.split())


def standing(token: str, claims: Mapping[str, Any]) -> str:
    """Return a digest of all claims but the `PASSING` ones; of the token itself if there are no claims.

    The order of a list's items does not count, nor that of scopes: identity providers keep them in sets.
    """
    if not claims:
        return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
    lasting = {name: _orderless(name, value) for name, value in claims.items() if name not in PASSING}
    return sha256(_text(lasting).encode()).hexdigest()


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr)


def _orderless(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _orderless("", item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted((_orderless("", item) for item in value), key=_text)
    if name in ("scope", "scp") and isinstance(value, str):
        return sorted(set(value.split()))
    return value
