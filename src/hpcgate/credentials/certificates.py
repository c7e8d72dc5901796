"""OpenSSH user certificates, as the services that sign them hand them out."""

import struct

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


def expiry(certificate: asyncssh.SSHCertificate) -> float | None:
    """Return when a certificate ends, Unix seconds, or None if it never does.

    asyncssh checks the time but does not tell it, so it is read from the certificate's own encoding: the fields after
    the public key are serial, type, key id, principals, valid after and valid before (OpenSSH, PROTOCOL.certkeys).
    """
    data = memoryview(certificate.public_data)
    kind, offset = _string(data, 0)
    _, offset = _string(data, offset)
    for _ in range(_KEY_FIELDS[bytes(kind).partition(b"-cert-")[0]]):
        _, offset = _string(data, offset)
    offset += 8 + 4
    for _ in range(2):
        _, offset = _string(data, offset)
    (_, before) = struct.unpack_from(">QQ", data, offset)
    return None if before == _FOREVER else float(before)


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
