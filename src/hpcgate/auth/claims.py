"""What a token's claims say."""

from collections.abc import Mapping, Sequence
from typing import Any


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim, None if it is not there.

    A name with dots that is no claim's own leads into nested objects: ``realm_access.roles``.
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
