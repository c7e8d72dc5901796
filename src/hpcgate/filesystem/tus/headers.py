"""What a client says of an upload in headers: its metadata, and what a chunk's checksum must be."""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from hpcgate.errors import BadRequest

CHECKSUMS = tuple(name for name in ("sha1", "sha256", "sha512", "md5") if name in hashlib.algorithms_available)
"""The algorithms of the checksum extension; sha1 is the one that every server has to know."""
MAX_METADATA = 16 * 1024
"""Characters of a client's metadata."""
HEADER_TEXT = r"^[\t\x20-\x7e\u00a0-\u00ff]*$"
"""What a header can carry: the metadata is told in one."""


@dataclass(frozen=True, slots=True)
class ExpectedDigest:
    """What a chunk must have.

    Attributes:
        algorithm: By hashlib's name.
        value: The digest.
    """

    algorithm: str
    value: bytes

    @classmethod
    def parse(cls, header: str) -> "ExpectedDigest":
        """Read the header Upload-Checksum.

        Raises:
            BadRequest: It is malformed, or the algorithm is not known.
        """
        algorithm, _, text = header.strip().partition(" ")
        if algorithm not in CHECKSUMS:
            raise BadRequest(f"Upload-Checksum: the algorithms are {', '.join(CHECKSUMS)}.")
        try:
            return cls(algorithm, base64.b64decode(text.strip(), validate=True))
        except (binascii.Error, ValueError):
            raise BadRequest("Upload-Checksum: the checksum must be base64.") from None


def parse_metadata(header: str) -> dict[str, bytes]:
    """Read the header Upload-Metadata.

    Raises:
        BadRequest: It is malformed.
    """
    if len(header) > MAX_METADATA:
        raise BadRequest(f"Upload-Metadata: more than {MAX_METADATA} characters.")
    found: dict[str, bytes] = {}
    for pair in header.split(",") if header.strip() else ():
        key, _, text = pair.strip().partition(" ")
        try:
            value = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise BadRequest("Upload-Metadata: values must be base64.") from None
        if not key or not key.isascii() or key in found:
            raise BadRequest("Upload-Metadata: keys must be ASCII, not empty and unique.")
        found[key] = value
    return found
