"""OpenSSH user certificates, as the services that sign them hand them out."""

import struct
from dataclasses import dataclass

import asyncssh

from hpcgate.errors import CredentialRefused

_FOREVER = 2**64 - 1
"""A certificate without end, PROTOCOL.certkeys of OpenSSH."""


def user_certificate(text: str, private_key: asyncssh.SSHKey, what: str) -> asyncssh.SSHCertificate:
    """Read a certificate and see that it is one of that key.

    Args:
        text: One line in OpenSSH's format.
        private_key: The key that it should belong to.
        what: What to call it in messages.

    Raises:
        CredentialRefused: It is none, or of another key.
    """
    try:
        certificate = asyncssh.import_certificate(text.strip())
    except (asyncssh.KeyImportError, ValueError):
        raise CredentialRefused(f"{what} cannot be read") from None
    if certificate.key.public_data != private_key.public_data:
        raise CredentialRefused(f"{what} belongs to another key")
    return certificate


@dataclass(frozen=True, slots=True)
class Contents:
    """What a certificate says: its number, its name, the users that it is for, and its end in Unix seconds, if any."""

    serial: int
    key_id: str
    principals: tuple[str, ...]
    valid_before: float | None


def contents(certificate: asyncssh.SSHCertificate) -> Contents:
    """Return what a certificate says.

    asyncssh checks it but does not tell, so it is read from the certificate's own encoding: the fields after the public
    key are serial, type, key id, principals, valid after and valid before (OpenSSH, PROTOCOL.certkeys).
    """
    data = memoryview(certificate.public_data)
    kind, offset = _string(data, 0)
    _, offset = _string(data, offset)
    for _ in range(_KEY_FIELDS[bytes(kind).partition(b"-cert-")[0]]):
        _, offset = _string(data, offset)
    (serial,) = struct.unpack_from(">Q", data, offset)
    key_id, offset = _string(data, offset + 8 + 4)
    listed, offset = _string(data, offset)
    principals, position = [], 0
    while position < len(listed):
        name, position = _string(listed, position)
        principals.append(bytes(name).decode("utf-8", "replace"))
    (_, before) = struct.unpack_from(">QQ", data, offset)
    end = None if before == _FOREVER else float(before)
    return Contents(serial, bytes(key_id).decode("utf-8", "replace"), tuple(principals), end)


def expiry(certificate: asyncssh.SSHCertificate) -> float | None:
    """Return when a certificate ends, Unix seconds, or None if it never does."""
    return contents(certificate).valid_before


_KEY_FIELDS = {
    b"ssh-ed25519": 1,
    b"ssh-ed448": 1,
    b"ssh-rsa": 2,
    b"rsa-sha2-256": 2,
    b"rsa-sha2-512": 2,
    b"ssh-dss": 4,
    b"ecdsa-sha2-nistp256": 2,
    b"ecdsa-sha2-nistp384": 2,
    b"ecdsa-sha2-nistp521": 2,
    b"ecdsa-sha2-1.3.132.0.10": 2,
    b"sk-ssh-ed25519": 2,
    b"sk-ecdsa-sha2-nistp256": 3,
}
"""How many strings the public key of each kind of certificate is."""


def _string(data: memoryview, offset: int) -> tuple[memoryview, int]:
    (length,) = struct.unpack_from(">L", data, offset)
    begin = offset + 4
    return data[begin : begin + length], begin + length
