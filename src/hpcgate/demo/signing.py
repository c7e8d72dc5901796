"""The identity provider's signing keys, and tokens of every kind, good ones and deliberately bad ones.

Signatures are made here with `cryptography` alone (RFC 7515, 7518, 8037), not with the library that the gateway
verifies with: an error in one of the two shows.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from hpcgate.demo.keys import write_private
from hpcgate.demo.problems import DemoError

_Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

ALGORITHMS = ("RS256", "ES256", "PS256", "EdDSA")
"""A key of its own is kept for each; the first is the default."""

_CURVES: dict[str, tuple[ec.EllipticCurve, str]] = {
    "ES256": (ec.SECP256R1(), "P-256"),
    "ES384": (ec.SECP384R1(), "P-384"),
    "ES512": (ec.SECP521R1(), "P-521"),
}
_HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


def base64url(data: bytes) -> str:
    """Return unpadded base64url (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unsigned(number: int, length: int | None = None) -> str:
    return base64url(number.to_bytes(length or (number.bit_length() + 7) // 8, "big"))


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key with its key id and the algorithm that it is for."""

    kid: str
    alg: str
    private: _Private
    current: bool = True
    """False once it has been rotated out: still published, no longer signed with."""

    @classmethod
    def make(cls, alg: str) -> SigningKey:
        """Make a new key for one of the asymmetric algorithms of RFC 7518 or for EdDSA."""
        private: _Private
        if alg in _CURVES:
            private = ec.generate_private_key(_CURVES[alg][0])
        elif alg == "EdDSA":
            private = ed25519.Ed25519PrivateKey.generate()
        else:
            private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return cls(f"{alg.lower()}-{secrets.token_hex(4)}", alg, private)

    @property
    def public_jwk(self) -> dict[str, str]:
        """The public key as a JSON Web Key."""
        about = {"kid": self.kid, "alg": self.alg, "use": "sig"}
        match self.private:
            case rsa.RSAPrivateKey():
                numbers = self.private.public_key().public_numbers()
                return about | {"kty": "RSA", "n": _unsigned(numbers.n), "e": _unsigned(numbers.e)}
            case ec.EllipticCurvePrivateKey():
                point = self.private.public_key().public_numbers()
                length = (self.private.key_size + 7) // 8
                names = {curve.name: name for curve, name in _CURVES.values()}
                return about | {
                    "kty": "EC",
                    "crv": names[self.private.curve.name],
                    "x": _unsigned(point.x, length),
                    "y": _unsigned(point.y, length),
                }
            case ed25519.Ed25519PrivateKey():
                raw = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
                return about | {"kty": "OKP", "crv": "Ed25519", "x": base64url(raw)}

    @property
    def private_pem(self) -> str:
        """The private key in PKCS #8."""
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    @property
    def public_pem(self) -> str:
        """The public key as SubjectPublicKeyInfo."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def token(
        self, claims: Mapping[str, Any], *, alg: str | None = None, kid: str | None = None, typ: str | None = "at+jwt"
    ) -> str:
        """Return a signed JWT. The algorithm and the key id in the header may be made to lie; ``kid=""`` leaves it out.

        ``alg="none"`` gives an unsigned token, ``HS256`` and its like one signed with the *public* key's PEM as the
        shared secret, as an attacker would do.
        """
        header: dict[str, Any] = {"alg": alg or self.alg}
        if typ is not None:
            header["typ"] = typ
        if kid != "":
            header["kid"] = kid or self.kid
        return encode(header, claims, self._signature)

    def _signature(self, alg: str, message: bytes) -> bytes:
        if alg == "none":
            return b""
        if alg.startswith("HS"):
            return hmac.new(self.public_pem.encode(), message, getattr(hashlib, f"sha{alg[2:]}")).digest()
        match self.private:
            case rsa.RSAPrivateKey() if alg.startswith("RS"):
                return self.private.sign(message, padding.PKCS1v15(), _HASHES[alg[2:]])
            case rsa.RSAPrivateKey() if alg.startswith("PS"):
                digest = _HASHES[alg[2:]]
                return self.private.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
            case ec.EllipticCurvePrivateKey() if alg.startswith("ES"):
                length = (self.private.key_size + 7) // 8
                r, s = decode_dss_signature(self.private.sign(message, ec.ECDSA(_HASHES[alg[2:]])))
                return r.to_bytes(length, "big") + s.to_bytes(length, "big")
            case ed25519.Ed25519PrivateKey() if alg == "EdDSA":
                return self.private.sign(message)
        raise DemoError(f"a key for {self.alg} cannot sign with {alg}")


def encode(header: Mapping[str, Any], claims: Mapping[str, Any], sign: Any) -> str:
    """Return the compact serialisation of a JWS (RFC 7515, section 3.1)."""
    message = ".".join(base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    return f"{message}.{base64url(sign(header['alg'], message.encode()))}"


class KeyRing:
    """The signing keys in a file that the provider's process and the demo's share; safe for many threads.

    Three files are kept in the directory: ``keys.json`` (private, mode 0600), ``jwks.json`` (all public keys) and
    ``rsa.jwks.json`` (the RS256 ones alone, for Slurm, which stumbles over others).
    """

    def __init__(self, directory: Path) -> None:
        self._private = directory / "keys.json"
        self.jwks_file = directory / "jwks.json"
        self.rsa_jwks_file = directory / "rsa.jwks.json"
        self._lock = threading.Lock()
        self._loaded: tuple[tuple[int, int], list[SigningKey]] | None = None

    def create(self, algorithms: Iterable[str] = ALGORITHMS) -> None:
        """Make a new key for each algorithm and write the files."""
        self._write([SigningKey.make(alg) for alg in algorithms])

    def published(self) -> list[SigningKey]:
        """Return all published keys, those in use first."""
        with self._lock:
            status = self._private.stat()
            version = (status.st_mtime_ns, status.st_ino)
            if self._loaded is None or self._loaded[0] != version:
                keys = [
                    SigningKey(entry["kid"], entry["alg"], _load(entry["pem"]), entry["current"])
                    for entry in json.loads(self._private.read_text())
                ]
                self._loaded = (version, keys)
            return list(self._loaded[1])

    def key(self, alg: str | None = None, kid: str | None = None) -> SigningKey:
        """Return the key with this id; else the current one for the algorithm, or one whose type can sign with it."""
        keys = self.published()
        if kid is not None and (named := [key for key in keys if key.kid == kid]):
            return named[0]
        wanted = alg or ALGORITHMS[0]
        families = {"PS": "RS", "HS": "RS", "no": "RS"}
        candidates = [key for key in keys if key.current and key.alg == wanted] or [
            key
            for key in keys
            if key.current and key.alg[:2] == families.get(wanted[:2], wanted[:2]) and wanted not in _CURVES
        ]
        if not candidates:
            raise DemoError(f"no key for {wanted}")
        return candidates[0]

    def rotate(self, *, drop: bool = False) -> None:
        """Put a new key in the place of each current one; the old ones stay published unless ``drop``."""
        old = [replace(key, current=False) for key in self.published()]
        algorithms = dict.fromkeys(key.alg for key in old)
        self._write([SigningKey.make(alg) for alg in algorithms] + ([] if drop else old))

    def drop_old(self) -> None:
        """Publish the current keys only."""
        self._write([key for key in self.published() if key.current])

    def _write(self, keys: list[SigningKey]) -> None:
        entries = [{"kid": key.kid, "alg": key.alg, "current": key.current, "pem": key.private_pem} for key in keys]
        public = [key.public_jwk for key in keys]
        rsa_only = [jwk for jwk in public if jwk["alg"] == "RS256"]
        for path, content in ((self.jwks_file, {"keys": public}), (self.rsa_jwks_file, {"keys": rsa_only})):
            new = path.with_suffix(".new")
            new.write_text(json.dumps(content, indent=1))
            new.replace(path)
        new = write_private(self._private.with_suffix(".new"), json.dumps(entries).encode())
        os.replace(new, self._private)


def _load(pem: str) -> _Private:
    key = load_pem_private_key(pem.encode(), None)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise DemoError(f"not a signing key: {type(key).__name__}")
    return key
