"""Checksums that come with a body: Content-Digest and Repr-Digest (RFC 9530)."""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable

from hpcgate.errors import BadRequest

ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512"}
"""The algorithms of RFC 9530 that are not deprecated, by hashlib's names."""

_MEMBER = re.compile(r"[ \t]*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/]*={0,2}):(?:;[^,]*)?[ \t]*")


def parse_digests(headers: Iterable[str | None]) -> list[tuple[str, bytes]]:
    """Return the digests of those headers whose algorithm is known; others are passed over.

    Raises:
        BadRequest: A header is not a dictionary of byte sequences (RFC 8941), or a digest has the wrong length.
    """
    found: list[tuple[str, bytes]] = []
    for header in headers:
        for member in (header or "").split(",") if header else ():
            match = _MEMBER.fullmatch(member)
            if match is None:
                raise BadRequest("Content-Digest and Repr-Digest must read sha-256=:BASE64: or sha-512=:BASE64:")
            algorithm = ALGORITHMS.get(match[1])
            if algorithm is None:
                continue
            try:
                value = base64.b64decode(match[2], validate=True)
            except binascii.Error:
                raise BadRequest(f"The {match[1]} digest is not base64.") from None
            if len(value) != hashlib.new(algorithm).digest_size:
                raise BadRequest(f"The {match[1]} digest has {len(value)} bytes, which cannot be.")
            found.append((match[1], value))
    return found


class Digests:
    """The digests that a body must have, computed while it passes."""

    def __init__(self, wanted: Iterable[tuple[str, bytes]]) -> None:
        self._wanted = list(wanted)
        self._hashes = {name: hashlib.new(ALGORITHMS[name]) for name, _ in self._wanted}

    async def watch(self, content: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """Yield the same content, and fail at its end if it is not what was announced.

        Raises:
            BadRequest: A digest differs.
        """
        async for block in content:
            for one in self._hashes.values():
                one.update(block)
            yield block
        for name, value in self._wanted:
            if not hmac.compare_digest(self._hashes[name].digest(), value):
                raise BadRequest(f"The body does not have the {name} digest that was sent with it; nothing is changed.")
