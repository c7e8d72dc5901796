"""An identity provider for the tests: keys made at run time, tokens signed without the library that verifies them."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

MAX_TOKEN = 64 * 1024
"""Most characters of a token, for the verifiers of tests."""
HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1(), "secp256k1": ec.SECP256K1()}
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

KEY_OF_ALGORITHM = {
    "RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
    "ES256": "P-256", "ES384": "P-384", "ES512": "P-521",
    "EdDSA": "Ed25519", "Ed25519": "Ed25519", "Ed448": "Ed448",
}  # fmt: skip


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def b64_int(number: int, size: int | None = None) -> str:
    return b64(number.to_bytes(size or (number.bit_length() + 7) // 8))


def private_key(kind: str, which: int = 0) -> PrivateKey:
    """Return the which-th key of a kind: RSA, RSA-1024, a curve of NIST's, Ed25519 or Ed448."""
    return _generated(kind, which)


@cache
def _generated(kind: str, which: int) -> PrivateKey:
    if kind.startswith("RSA"):
        return rsa.generate_private_key(65537, int(kind.partition("-")[2] or 2048))
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "Ed448":
        return ed448.Ed448PrivateKey.generate()
    return ec.generate_private_key(CURVES[kind])


def jwk(kind: str, which: int = 0, **members: Any) -> dict[str, Any]:
    """Return the public JWK of a key with further members, of which None leaves one out."""
    key = private_key(kind, which)
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        data: dict[str, Any] = {"kty": "RSA", "n": b64_int(numbers.n), "e": b64_int(numbers.e)}
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        point = key.public_key().public_numbers()
        size = (key.key_size + 7) // 8
        data = {"kty": "EC", "crv": kind, "x": b64_int(point.x, size), "y": b64_int(point.y, size)}
    else:
        data = {"kty": "OKP", "crv": kind, "x": b64(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))}
    return {name: value for name, value in {**data, "kid": f"{kind}-{which}", **members}.items() if value is not None}


def signature(key: PrivateKey, algorithm: str, message: bytes) -> bytes:
    """Sign as RFC 7518 section 3 and RFC 8037 say."""
    if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        return key.sign(message)
    digest = HASHES[algorithm[2:]]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        size = (key.key_size + 7) // 8
        r, s = decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
        return r.to_bytes(size) + s.to_bytes(size)
    if algorithm.startswith("PS"):
        return key.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    return key.sign(message, padding.PKCS1v15(), digest)


def compact(header: Any, payload: Any, sign: Callable[[bytes], bytes]) -> str:
    """Make a compact JWS; header and payload are JSON values, or bytes to take as they are."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    message = ".".join(b64(part) for part in parts)
    return f"{message}.{b64(sign(message.encode()))}"


def claims(**others: Any) -> dict[str, Any]:
    """Return good claims with changes, of which None leaves one out."""
    now = int(time.time())
    good = {"preferred_username": "alice", "exp": now + 300, "iat": now, "iss": "https://idp.example.org"}
    return {name: value for name, value in {**good, **others}.items() if value is not None}


def token(
    algorithm: str = "RS256",
    payload: Any = None,
    *,
    which: int = 0,
    kind: str | None = None,
    header: dict[str, Any] | None = None,
) -> str:
    """Return a token signed by the which-th key of the algorithm's kind, or of another kind."""
    kind = kind or KEY_OF_ALGORITHM[algorithm]
    whole = {"alg": algorithm, "typ": "JWT", "kid": f"{kind}-{which}", **(header or {})}
    whole = {name: value for name, value in whole.items() if value is not None}
    key = private_key(kind, which)
    return compact(whole, claims() if payload is None else payload, lambda message: signature(key, algorithm, message))


class Idp:
    """What the key endpoint does next, and how often it was asked."""

    def __init__(self) -> None:
        self.keys: list[Any] = [jwk(kind) for kind in ("RSA", "P-256", "P-384", "P-521", "Ed25519", "Ed448")]
        self.body: bytes | None = None
        self.status = 200
        self.delay = 0.0
        self.location: str | None = None
        self.requests = 0
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        await asyncio.sleep(self.delay)
        if self.location is not None and request.path == "/jwks":
            raise web.HTTPFound(self.location)
        body = self.body if self.body is not None else json.dumps({"keys": self.keys}).encode()
        return web.Response(status=self.status, body=body, content_type="application/json")
