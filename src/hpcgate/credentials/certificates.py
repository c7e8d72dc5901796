"""OpenSSH user certificates: read, and checked before they are used."""

import struct
import time
from dataclasses import dataclass

import asyncssh
from asyncssh.public_key import SSHOpenSSHCertificate
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import ssh

from hpcgate.errors import CredentialRefused

ANY = "*"
"""Stands for any principal, or none."""
MAX_TEXT = 64 * 1024
"""Characters of a certificate; one with 256 principals, the most that sshd takes, has some 20,000."""
OPTIONS = frozenset({b"force-command", b"source-address"})
"""The critical options that sshd knows of keys like ours (PROTOCOL.certkeys); it accepts no certificate with others."""
UNREADABLE = (
    asyncssh.KeyImportError,
    UnsupportedAlgorithm,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    struct.error,
)
"""What the readers of keys and certificates raise. Those after `ValueError` are of readers that take what they read for
what it should be, as with a negative exponent."""
_FOREVER = 2**64 - 1
"""A certificate without end, PROTOCOL.certkeys of OpenSSH."""


def user_certificate(text: str, private_key: asyncssh.SSHKey, what: str) -> asyncssh.SSHCertificate:
    """Read a certificate and see that it is one for users, whole, signed, and of that key.

    Args:
        text: One line in OpenSSH's format.
        private_key: The key that it should belong to.
        what: What to call it in messages.

    Raises:
        CredentialRefused: It is none, or of another key.
    """
    try:
        if len(text) > MAX_TEXT:
            raise ValueError("too long")
        line = text.strip().encode()
        parsed = _parsed(line)
        if parsed.type is not ssh.SSHCertificateType.USER:
            raise CredentialRefused(f"{what} is one for hosts")
        unknown = sorted(_text(name) for name in parsed.critical_options.keys() - OPTIONS)
        if unknown:
            raise CredentialRefused(f"{what} has a critical option that is not known: {unknown[0][:64]!r}")
        # This verifies the signature against the authority's key that the certificate itself names.
        certificate = asyncssh.import_certificate(line)
        if not isinstance(certificate, SSHOpenSSHCertificate):
            raise ValueError("another kind of certificate")
    except UNREADABLE:
        raise CredentialRefused(f"{what} cannot be read") from None
    if certificate.key.public_data != private_key.public_data:
        raise CredentialRefused(f"{what} belongs to another key")
    return certificate


@dataclass(frozen=True, slots=True)
class Contents:
    """What a certificate says.

    Attributes:
        serial: Its number.
        key_id: Its name, which sshd logs.
        principals: The names that it is for; none is all.
        valid_before: When it ends, Unix seconds, or None if it never does.
        valid_after: When it begins, Unix seconds.
        options: Its critical options, with their values.
    """

    serial: int
    key_id: str
    principals: tuple[str, ...]
    valid_before: float | None
    valid_after: float
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a certificate has to be.

    Attributes:
        principals: One of these is among its own; `ANY` is any, or none.
        authorities: The public keys that may have signed it, in SSH's encoding; any if empty.
        max_lifetime: Most seconds from now to its end; None for any.
        leeway: Seconds that it may begin after now.
    """

    principals: tuple[str, ...]
    authorities: frozenset[bytes] = frozenset()
    max_lifetime: float | None = None
    leeway: float = 0


def checked(certificate: asyncssh.SSHCertificate, expected: Expectation, what: str) -> Contents:
    """Return what a certificate says if it is as it has to be.

    Whatever its principals are mapped to on the login node is known there alone; here it is seen that a service did not
    give the certificate of somebody else, nor one that could not work, nor one that is good for years.

    Args:
        certificate: A user certificate whose key and signature were seen to be right.
        expected: What it has to be.
        what: What to call it in messages.

    Raises:
        CredentialRefused: It is not.
    """
    said = contents(certificate)
    now = time.time()
    if ANY not in expected.principals and not set(said.principals) & set(expected.principals):
        wanted = " or ".join(expected.principals)
        others = "for nobody by name" if not said.principals else "for somebody else"
        raise CredentialRefused(f"{what} is {others}: {wanted} is not among its principals")
    if expected.authorities and _signer(certificate) not in expected.authorities:
        raise CredentialRefused(f"{what} is signed by an authority that is not configured")
    if said.valid_before is not None and said.valid_before <= max(now, said.valid_after):
        raise CredentialRefused(f"{what} has expired; the clocks may differ")
    if said.valid_after > now + expected.leeway:
        raise CredentialRefused(f"{what} is not valid yet; the clocks may differ")
    if expected.max_lifetime is not None and (
        said.valid_before is None or said.valid_before - now > expected.max_lifetime
    ):
        raise CredentialRefused(f"{what} is valid for longer than {expected.max_lifetime:g} s")
    return said


def contents(certificate: asyncssh.SSHCertificate) -> Contents:
    """Return what a certificate says.

    asyncssh checks it but does not tell.

    Raises:
        ValueError: It is not one in OpenSSH's format.
    """
    parsed = _parsed(certificate.export_certificate("openssh"))
    before = parsed.valid_before
    return Contents(
        parsed.serial,
        _text(parsed.key_id),
        tuple(map(_text, parsed.valid_principals)),
        None if before == _FOREVER else float(before),
        float(parsed.valid_after),
        tuple((_text(name), _text(value)) for name, value in parsed.critical_options.items()),
    )


def expiry(certificate: asyncssh.SSHCertificate) -> float | None:
    """Return when a certificate ends, Unix seconds, or None if it never does."""
    return contents(certificate).valid_before


def _parsed(line: bytes) -> ssh.SSHCertificate:
    parsed = ssh.load_ssh_public_identity(line)
    if not isinstance(parsed, ssh.SSHCertificate):
        raise ValueError("not a certificate")
    return parsed


def _signer(certificate: asyncssh.SSHCertificate) -> bytes:
    assert isinstance(certificate, SSHOpenSSHCertificate)  # noqa: S101 (user_certificate gives no other)
    return certificate.signing_key.public_data


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
