"""Who asks, as far as it can be told before the request is verified: whose token it was before, or which address."""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

Headers = Iterable[tuple[bytes, bytes]]

PEEK = 256
"""Bytes among which the path of a question that is always answered is found."""

PREFIX = 64
"""Bits of an IPv6 address that one client has to itself."""


TOKEN_PROTOCOL = "hpcgate.bearer."  # noqa: S105 (what a token follows)
"""Before a token among the protocols that a WebSocket's client offers, of which it is never the one that is chosen."""
_TOKEN_PROTOCOL = TOKEN_PROTOCOL.encode()


class User(NamedTuple):
    """Somebody whose token was verified before: all of a user's tokens share a turn.

    Each request has its asker looked up a dozen times over; a dataclass would be hashed in Python.
    """

    name: str


class Stranger(NamedTuple):
    """Somebody whose token was not verified before, told apart by address.

    Attributes:
        address: The client's.
        bearer: Whether there is a token at all: who has none does not keep out who has.
    """

    address: str
    bearer: bool


Asker = User | Stranger


def token_of(headers: Headers) -> str | None:
    """Return what looks like a request's bearer token, or else its API key; None if there is neither.

    Of a WebSocket a browser shows it as a protocol.
    """
    key: str | None = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.strip(b" \t").partition(b" ")
            token = token.strip(b" \t")
            if scheme.lower() == b"bearer" and token and token.isascii():
                return token.decode()
            return None
        if name == b"x-api-key" and value.isascii():
            key = value.strip(b" \t").decode() or None
        elif name == b"sec-websocket-protocol" and value.isascii():
            offered = (protocol.strip(b" \t") for protocol in value.split(b","))
            shown = next((one for one in offered if one.startswith(_TOKEN_PROTOCOL)), b"")
            key = shown.removeprefix(_TOKEN_PROTOCOL).decode() or key
    return key


_AUTHORIZATION = b"\r\nauthorization:"
_API_KEY = b"\r\nx-api-key:"
_VISIBLE = bytes(range(0x21, 0x7F))
# Blanks are taken off afterwards: tried in each way to share them out, a packet of them held the loop for minutes.
_FORWARDED = re.compile(rb"(?i)\r\nx-forwarded-for:([^\r\n]*+)(?=\r\n)")


def token_in(head: bytes) -> str | None:
    """Return what looks like the token of a request that was not parsed yet. It tells who may be read, and no more."""
    # An expression that disregards case takes twice as long, and every request that is left unread is looked at.
    lower = head.lower()
    at = lower.find(_AUTHORIZATION)
    if at < 0:
        return _key_in(head, lower.find(_API_KEY))
    end = head.find(b"\r\n", at + 2)
    if end < 0:
        return None
    scheme, _, token = head[at + len(_AUTHORIZATION) : end].strip(b" \t").partition(b" ")
    token = token.strip(b" \t")
    if scheme.lower() != b"bearer" or not token or token.translate(None, _VISIBLE):
        return None
    return token.decode()


def _key_in(head: bytes, at: int) -> str | None:
    end = head.find(b"\r\n", at + 2)
    if at < 0 or end < 0:
        return None
    key = head[at + len(_API_KEY) : end].strip(b" \t")
    return None if not key or key.translate(None, _VISIBLE) else key.decode()


def forwarded_in(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return the ``X-Forwarded-For`` of a request that was not parsed yet."""
    return [(b"x-forwarded-for", value.strip(b" \t")) for value in _FORWARDED.findall(head)]


def path_in(head: bytes) -> str:
    """Return what looks like the path of a request that was not parsed yet, empty if there is none."""
    _, _, rest = head[:PEEK].partition(b" ")
    target, space, _ = rest.partition(b" ")
    return target.partition(b"?")[0].rstrip(b"/").decode("latin-1") if space else ""


def address_of(peer: str, headers: Headers, forwarded: Callable[[str], str] | None) -> str:
    """Return the address of a client.

    Args:
        peer: The address of the connection's other end.
        headers: Of the request.
        forwarded: Returns the client's address of an ``X-Forwarded-For``; None if the peer is not trusted with that.
    """
    if forwarded is not None:
        values = [value for name, value in headers if name == b"x-forwarded-for"]
        if values:
            peer = forwarded(b", ".join(values).decode("latin-1")) or peer
    return peer


@lru_cache(1024)
def network(address: str) -> str:
    """Return an address as strangers are told apart by: of IPv6 the first 64 bits."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Address(int(parsed) >> (128 - PREFIX) << (128 - PREFIX)))
