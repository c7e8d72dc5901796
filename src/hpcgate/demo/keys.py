"""Keys and certificates of a demo cluster, made at run time and never used elsewhere."""

from __future__ import annotations

import datetime
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
)

KeyType = Literal["ed25519", "ecdsa", "rsa"]
_Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def write_private(path: Path, content: bytes, owner: tuple[int, int] | None = None) -> Path:
    """Write a file that only its owner (uid, gid; by default the caller) can read, and return its path."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        if owner is not None:
            os.fchown(descriptor, *owner)
        file.write(content)
    return path


@dataclass(frozen=True, slots=True)
class Key:
    """An SSH key pair."""

    private: _Private
    comment: str

    @classmethod
    def make(cls, comment: str, kind: KeyType = "ed25519") -> Key:
        """Make a new key: Ed25519, ECDSA on P-256, or RSA of 3072 bits."""
        match kind:
            case "ed25519":
                return cls(ed25519.Ed25519PrivateKey.generate(), comment)
            case "ecdsa":
                return cls(ec.generate_private_key(ec.SECP256R1()), comment)
            case "rsa":
                return cls(rsa.generate_private_key(public_exponent=65537, key_size=3072), comment)

    @property
    def public_line(self) -> str:
        """The public key as one line of OpenSSH's format, without a newline (sshd(8), AUTHORIZED_KEYS FILE FORMAT)."""
        encoded = self.private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        return f"{encoded.decode()} {self.comment}"

    def private_text(self, passphrase: str | None = None) -> str:
        """The private key in OpenSSH's format, encrypted if there is a passphrase."""
        encryption: KeySerializationEncryption = (
            NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.encode())
        )
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, encryption).decode()

    def write(self, path: Path, passphrase: str | None = None) -> Path:
        """Write the private key to ``path`` (mode 0600) and the public one beside it, with the suffix ``.pub``."""
        path.with_name(path.name + ".pub").write_text(self.public_line + "\n")
        return write_private(path, self.private_text(passphrase).encode())

    def certify(
        self,
        subject: Key,
        principals: list[str],
        *,
        lifetime: float = 86_400.0,
        valid_after: float | None = None,
        host: bool = False,
        key_id: str | None = None,
        force_command: str | None = None,
    ) -> str:
        """Sign an OpenSSH certificate for the public key of ``subject`` with this key and return it as one line.

        It holds from ``valid_after`` (Unix time; by default a minute ago, for clocks that differ) and ``lifetime``
        seconds from now on, or from ``valid_after`` if that is given.
        """
        now = time.time()
        start = now - 60 if valid_after is None else valid_after
        end = (now if valid_after is None else valid_after) + lifetime
        builder = (
            SSHCertificateBuilder()
            .public_key(subject.private.public_key())
            .serial(int.from_bytes(os.urandom(7), "big"))
            .type(SSHCertificateType.HOST if host else SSHCertificateType.USER)
            .key_id((key_id or ",".join(principals)).encode())
            .valid_principals([principal.encode() for principal in principals])
            .valid_after(_clamped(start))
            .valid_before(_clamped(end))
        )
        if not host:
            for extension in (b"permit-port-forwarding", b"permit-pty"):
                builder = builder.add_extension(extension, b"")
            if force_command is not None:
                builder = builder.add_critical_option(b"force-command", force_command.encode())
        return f"{builder.sign(self.private).public_bytes().decode()} {subject.comment}"


def _clamped(moment: float) -> int:
    return int(max(moment, datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC).timestamp()))
