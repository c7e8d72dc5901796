"""Public keys that tokens are verified with, and how they are read from a JWKS or PEM document."""

import base64
import binascii
import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificate
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from hpcgate.outbound.documents import decoded

FAMILIES: Mapping[tuple[str, str], frozenset[str]] = {
    ("RSA", ""): frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA", "Ed25519"}),
    ("OKP", "Ed448"): frozenset({"EdDSA", "Ed448"}),
}
"""The signature algorithms that each key type and curve can have: RFC 7518 section 3.1, RFC 8037, RFC 9864."""

ALGORITHMS: frozenset[str] = frozenset().union(*FAMILIES.values())
"""Every algorithm that a token may name. No symmetric one, and not ``none``."""

NUMBERS = ("n", "e", "x", "y")
PUBLIC_MEMBERS = ("kty", "crv", *NUMBERS)
_ALPHABET = str.maketrans("+/", "-_")
MIN_RSA_BITS = 2048
"""RFC 7518 sections 3.3 and 3.5."""
MAX_RSA_BITS = 16384
MAX_KEYS = 256
"""Most keys that are taken from one document."""


PublicKey = RSAKey | ECKey | OKPKey


class NoKeys(ValueError):
    """The document is not one of keys, or none of its keys can verify a signature."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One public key.

    Attributes:
        kid: The key id, or None where the document gives none.
        algorithms: What may be verified with it; decided by the key and the settings, never by a token.
        identity: Equal for equal keys with equal id and algorithms.
    """

    kid: str | None
    algorithms: frozenset[str]
    identity: str
    key: PublicKey = field(repr=False, compare=False)

    def verifies(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Tell whether the signature is this key's over the message by that algorithm, one of `algorithms`."""
        if algorithm not in self.algorithms:
            return False
        # The two names of RFC 9864 are the older EdDSA with the curve spelt out, and the key fixes the curve.
        model = JWSRegistry.algorithms["EdDSA" if algorithm in {"Ed25519", "Ed448"} else algorithm]
        try:
            return model.verify(message, signature, self.key)
        except (JoseError, ValueError):
            return False


def parse_keys(document: bytes, default_algorithm: str | None) -> tuple[VerificationKey, ...]:
    """Read the keys of a JWKS (RFC 7517 section 5), of a single JWK, or of a PEM public key or certificate.

    Symmetric keys, encryption keys, RSA keys that are too short and keys that cannot be understood are left out;
    private members are never read.

    Args:
        document: What a source gave.
        default_algorithm: The algorithm of keys that do not name theirs.

    Raises:
        NoKeys: Nothing usable is in the document. The message quotes nothing of it.
    """
    if document.lstrip().startswith(b"-----BEGIN "):
        found: Iterable[VerificationKey | None] = (_from_pem(document, default_algorithm),)
    else:
        found = (_from_jwk(jwk, default_algorithm) for jwk in _jwks(document)[:MAX_KEYS])
    keys = {key.identity: key for key in found if key is not None}
    if not keys:
        raise NoKeys("no key in it can verify a signature")
    return tuple(keys.values())


def decode_base64url(text: str) -> bytes | None:
    """Decode unpadded base64url (RFC 7515 section 2); None unless it is spelt in the one canonical way."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.urlsafe_b64encode(data).rstrip(b"=").decode() == text else None


def decode_json(data: bytes, *, strict: bool = False) -> Any:
    """Decode JSON as `documents.decoded` does; None for what that refuses."""
    try:
        return decoded(data, strict=strict)
    except ValueError:
        return None


def _jwks(document: bytes) -> list[Any]:
    data = decode_json(document.removeprefix(BOM_UTF8))
    if isinstance(data, dict) and isinstance(data.get("keys"), list):
        return list(data["keys"])
    if isinstance(data, dict) and "kty" in data:
        return [data]
    raise NoKeys("it is neither a JWKS nor a PEM public key")


def _algorithms(kty: str, curve: str, named: Any, default: str | None) -> frozenset[str]:
    family = FAMILIES.get((kty, curve), frozenset())
    if named is None:
        named = default
    if named is None:
        return family
    if not isinstance(named, str) or named not in family:
        return frozenset()
    return family if kty == "OKP" else frozenset({named})


def key_id(value: Any) -> str | None:
    """Return a key id as text; some libraries write numbers.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or isinstance(value, str):
        return value
    raise ValueError("not a key id")


def _from_jwk(given: Any, default_algorithm: str | None) -> VerificationKey | None:
    if not isinstance(given, dict):
        return None
    # Nothing says no more than a member that is not there: serialisers write it for all that they know.
    jwk = {name: value for name, value in given.items() if value not in (None, "", [])}
    if jwk.get("use", "sig") != "sig":
        return None
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    kty, curve = jwk.get("kty"), jwk.get("crv", "")
    if not isinstance(kty, str) or not isinstance(curve, str):
        return None
    if not any(name in jwk for name in NUMBERS):
        return _from_certificate(jwk, default_algorithm)
    algorithms = _algorithms(kty, "" if kty == "RSA" else curve, jwk.get("alg"), default_algorithm)
    public: dict[str, Any] = {name: jwk[name] for name in PUBLIC_MEMBERS if name in jwk}
    if not algorithms or not all(isinstance(value, str) for value in public.values()):
        return None
    public |= {name: _base64url(public[name]) for name in NUMBERS if name in public}
    if kty == "RSA" and not _fair_size(public.get("n", "")):
        return None
    try:
        kid = key_id(jwk.get("kid"))
        key: PublicKey
        if kty == "RSA":
            key = RSAKey.import_key(public)
        elif kty == "EC":
            key = ECKey.import_key(public)
        else:
            key = OKPKey.import_key(public)
        return _verification_key(key, kid, algorithms)
    except (JoseError, ValueError, KeyError, TypeError, UnsupportedAlgorithm):
        return None


def _from_certificate(jwk: Mapping[str, Any], default_algorithm: str | None) -> VerificationKey | None:
    """Read a key that is told by its certificate alone (x5c, RFC 7517 section 4.7)."""
    chain = jwk.get("x5c")
    try:
        if not isinstance(chain, list) or not isinstance(chain[0], str):
            return None
        public = load_der_x509_certificate(base64.b64decode(chain[0], validate=True)).public_key()
        kid = key_id(jwk.get("kid"))
    except (ValueError, UnsupportedAlgorithm):
        return None
    key = _from_public(public, kid, jwk.get("alg"), default_algorithm)
    return key if key is not None and key.key.key_type == jwk.get("kty") else None


def _base64url(text: str) -> str:
    """Return base64 of either alphabet, padded or not, as RFC 7515 has it."""
    return text.rstrip("=").translate(_ALPHABET)


def _fair_size(modulus: str) -> bool:
    data = decode_base64url(modulus)
    return data is not None and MIN_RSA_BITS <= int.from_bytes(data).bit_length() <= MAX_RSA_BITS


def _from_pem(document: bytes, default_algorithm: str | None) -> VerificationKey | None:
    public: object
    try:
        if b"-----BEGIN CERTIFICATE-----" in document:
            public = load_pem_x509_certificate(document).public_key()
        else:
            public = load_pem_public_key(document)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return _from_public(public, None, None, default_algorithm)


def _from_public(
    public: object, kid: str | None, algorithm: object, default_algorithm: str | None
) -> VerificationKey | None:
    key: PublicKey
    if isinstance(public, RSAPublicKey):
        if not MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS:
            return None
        kty, curve, key = "RSA", "", RSAKey.import_key(public)
    elif isinstance(public, EllipticCurvePublicKey):
        try:
            key = ECKey.import_key(public)
            kty, curve = "EC", key.curve_name
        except KeyError:
            return None
    elif isinstance(public, Ed25519PublicKey | Ed448PublicKey):
        key = OKPKey.import_key(public)
        kty, curve = "OKP", key.curve_name
    else:
        return None
    algorithms = _algorithms(kty, curve, algorithm, default_algorithm)
    return _verification_key(key, kid, algorithms) if algorithms else None


def _verification_key(key: PublicKey, kid: str | None, algorithms: frozenset[str]) -> VerificationKey:
    identity = json.dumps([kid, key.thumbprint(), sorted(algorithms)])
    return VerificationKey(kid, algorithms, identity, key)
