"""Reading key documents."""

import base64
import datetime
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcgate.auth.keys import ALGORITHMS, NUMBERS, NoKeys, decode_base64url, decode_json, parse_keys

from .idp import KEY_OF_ALGORITHM, b64, b64_int, jwk, private_key, signature

# The machine that runs the tests may be busy: no example has a time limit.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
GOOD = jwk("P-256", kid="good")


def parse(*keys: Any, default: str | None = None) -> tuple[Any, ...]:
    return parse_keys(json.dumps({"keys": list(keys)}).encode(), default)


@pytest.mark.parametrize("algorithm", KEY_OF_ALGORITHM)
def test_a_key_verifies_what_its_private_half_signed(algorithm: str) -> None:
    kind = KEY_OF_ALGORITHM[algorithm]
    (key,) = parse(jwk(kind))
    signed = signature(private_key(kind), algorithm, b"message")
    assert key.verifies(algorithm, b"message", signed)
    assert not key.verifies(algorithm, b"massage", signed)
    assert not key.verifies(algorithm, b"message", signed[:-1])
    assert not key.verifies(algorithm, b"message", b"")
    assert not key.verifies(algorithm, b"message", bytes(len(signed)))


@pytest.mark.parametrize(
    ("kind", "algorithms"),
    [
        ("RSA", {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        ("P-256", {"ES256"}),
        ("P-384", {"ES384"}),
        ("P-521", {"ES512"}),
        ("Ed25519", {"EdDSA", "Ed25519"}),
        ("Ed448", {"EdDSA", "Ed448"}),
    ],
)
def test_the_type_of_a_key_bounds_its_algorithms(kind: str, algorithms: set[str]) -> None:
    (key,) = parse(jwk(kind))
    assert key.algorithms == algorithms <= ALGORITHMS


@pytest.mark.parametrize("algorithm", KEY_OF_ALGORITHM)
def test_a_named_algorithm_is_the_only_one(algorithm: str) -> None:
    (key,) = parse(jwk(KEY_OF_ALGORITHM[algorithm], alg=algorithm), default="RS384")
    assert algorithm in key.algorithms
    assert key.algorithms <= {algorithm} | {"EdDSA", "Ed25519", "Ed448"}


def test_the_configured_algorithm_is_that_of_keys_that_name_none() -> None:
    named, unnamed = parse(jwk("RSA", alg="PS512"), jwk("RSA", 1), jwk("P-256"), default="RS256")
    assert named.algorithms == {"PS512"}
    assert unnamed.algorithms == {"RS256"}


@pytest.mark.parametrize(
    "bad",
    [
        {"kty": "oct", "k": b64(b"secret" * 8), "kid": "s", "alg": "HS256"},
        {"kty": "oct", "k": b64(b"secret" * 8), "kid": "s"},
        jwk("RSA", use="enc"),
        jwk("RSA", use=["sig"]),
        jwk("RSA", alg="RSA-OAEP"),
        jwk("RSA", alg="HS256"),
        jwk("RSA", alg="none"),
        jwk("RSA", alg=256),
        jwk("RSA", alg="ES256"),
        jwk("P-256", alg="ES384"),
        jwk("P-384", crv="P-256"),
        jwk("P-256", x=b64(bytes(32))),
        jwk("P-256", y=None),
        jwk("P-256", crv=None),
        jwk("P-256", crv=["P-256"]),
        jwk("secp256k1"),
        jwk("Ed25519", crv="X25519"),
        jwk("Ed25519", x="short"),
        jwk("RSA-1024"),
        jwk("RSA", n=None),
        jwk("RSA", n=5),
        jwk("RSA", n="!!!"),
        jwk("RSA", e=b64_int(2)),
        jwk("RSA", e=""),
        jwk("RSA", kid=True),
        jwk("RSA", kid=[7]),
        jwk("RSA", key_ops=["encrypt"]),
        jwk("RSA", key_ops="verify"),
        {"kty": "AKP", "kid": "post-quantum", "alg": "ML-DSA-44", "pub": "AAAA"},
        {"kty": None},
        {},
        [],
        "key",
        None,
    ],
    # The keys are made anew in each process, which pytest-xdist's workers would take for different tests.
    ids=lambda bad: (
        " ".join(f"{name}={value}" for name, value in bad.items() if len(str(value)) < 20)
        if isinstance(bad, dict)
        else repr(bad)
    ),
)
def test_a_key_that_cannot_verify_is_left_out_and_the_others_are_taken(bad: Any) -> None:
    (key,) = parse(bad, GOOD, bad)
    assert key.kid == "good"
    with pytest.raises(NoKeys):
        parse(bad)


def padded(key: dict[str, Any]) -> dict[str, Any]:
    return {name: value + "=" * (-len(value) % 4) if name in NUMBERS else value for name, value in key.items()}


def plain_base64(key: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.replace("-", "+").replace("_", "/") if name in NUMBERS else value for name, value in key.items()
    }


def with_nulls(key: dict[str, Any]) -> dict[str, Any]:
    return {**dict.fromkeys(("use", "alg", "key_ops", "x5c", "x5t", "oth", "crv", "y", "d", "k"), None), **key}


def with_empties(key: dict[str, Any]) -> dict[str, Any]:
    return {"use": "", "alg": "", "key_ops": [], "x5c": [], "oth": "", "d": "", **key}


def certificate(kind: str, subject: str = "idp") -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.datetime.now(datetime.UTC)
    key = private_key(kind)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(1))
    return builder.sign(key, None if kind.startswith("Ed") else hashes.SHA256())


def by_certificate_alone(key: dict[str, Any]) -> dict[str, Any]:
    (kind,) = (kind for kind in KINDS if jwk(kind) == key)
    der = base64.b64encode(certificate(kind).public_bytes(Encoding.DER)).decode()
    return {name: key[name] for name in ("kty", "kid", "alg") if name in key} | {"x5c": [der]}


KINDS = ("RSA", "P-256", "P-384", "P-521", "Ed25519", "Ed448")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "written",
    [
        with_empties,
        by_certificate_alone,
        padded,
        plain_base64,
        lambda key: padded(plain_base64(key)),
        with_nulls,
        lambda key: {**key, "use": "sig", "key_ops": ["verify"], "issuer": "https://idp", "ext": True, "nbf": 1.5},
    ],
    ids=[
        "empty members",
        "a certificate alone",
        "padded",
        "the other alphabet",
        "both",
        "nulls",
        "members that nobody knows",
    ],
)
def test_a_key_is_the_same_however_it_is_written(kind: str, written: Callable[[Any], Any]) -> None:
    assert parse(written(jwk(kind))) == parse(jwk(kind))


@pytest.mark.parametrize(
    "changes",
    [
        {"x5c": []},
        {"x5c": "text"},
        {"x5c": [7]},
        {"x5c": ["!"]},
        {"x5c": ["AAAA"]},
        {"kty": "EC"},
        {"alg": "ES256"},
        {"use": "enc"},
        {"kid": True},
    ],
    ids=str,
)
def test_a_certificate_that_does_not_fit_is_left_out(changes: dict[str, Any]) -> None:
    with pytest.raises(NoKeys):
        parse(by_certificate_alone(jwk("RSA")) | changes)


def test_so_many_keys_of_a_document_are_taken_and_no_more() -> None:
    keys = [jwk("Ed25519", which, kid=str(which)) for which in range(300)]
    assert [key.kid for key in parse(*keys)] == [str(which) for which in range(256)]


@pytest.mark.parametrize("bits", [1024, 2047, 16_385, 40_000])
def test_a_modulus_that_is_too_short_or_takes_too_long_is_left_out(bits: int) -> None:
    """The size alone counts: to verify by 40,000 bits takes the event loop half a second."""
    modulus = (1 << (bits - 1)) + 1
    public = rsa.RSAPublicNumbers(65537, modulus).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for document in (json.dumps({"kty": "RSA", "n": b64_int(modulus), "e": b64_int(65537)}).encode(), pem):
        with pytest.raises(NoKeys):
            parse_keys(document, None)


def test_an_empty_key_id_is_none() -> None:
    (key,) = parse(jwk("P-256", kid=""))
    assert key.kid is None


def test_numbers_for_key_ids_are_their_text() -> None:
    (key,) = parse(jwk("P-256", kid=7))
    assert key.kid == "7"


def test_a_document_may_begin_with_a_byte_order_mark() -> None:
    assert parse_keys(b"\xef\xbb\xbf" + json.dumps({"keys": [GOOD], "next": None}).encode(), None) == parse(GOOD)


def test_private_members_are_never_read() -> None:
    private = private_key("RSA")
    assert isinstance(private, rsa.RSAPrivateKey)
    numbers = private.private_numbers()
    (key,) = parse({**jwk("RSA"), "d": b64_int(numbers.d), "p": b64_int(numbers.p), "q": "nonsense"})
    assert not key.key.is_private
    assert "d" not in key.key.dict_value
    assert key == parse(jwk("RSA"))[0]


def test_keys_show_no_material_in_a_repr() -> None:
    (key,) = parse(jwk("RSA"))
    assert jwk("RSA")["n"][:20] not in repr(key)


def test_a_key_twice_is_one_key() -> None:
    assert len(parse(GOOD, GOOD, {**GOOD, "x5t": "ignored"})) == 1
    assert len(parse(GOOD, {**GOOD, "kid": "other"})) == 2


def test_a_single_jwk_is_a_document() -> None:
    (key,) = parse_keys(json.dumps(GOOD).encode(), None)
    assert key.kid == "good"


@pytest.mark.parametrize("kind", ["RSA", "P-256", "P-384", "P-521", "Ed25519", "Ed448"])
def test_a_pem_public_key_is_a_document(kind: str) -> None:
    public = private_key(kind).public_key()
    (key,) = parse_keys(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), None)
    assert key.kid is None
    assert key.algorithms == parse(jwk(kind))[0].algorithms


def test_a_certificate_is_a_document() -> None:
    key = private_key("RSA")
    pem = certificate("RSA").public_bytes(Encoding.PEM)
    (found,) = parse_keys(pem, "PS256")
    assert found.verifies("PS256", b"message", signature(key, "PS256", b"message"))
    assert not found.verifies("RS256", b"message", signature(key, "RS256", b"message"))


@pytest.mark.parametrize("kind", ["RSA-1024", "secp256k1"])
def test_a_pem_key_that_cannot_verify_is_refused(kind: str) -> None:
    with pytest.raises(NoKeys):
        parse_keys(private_key(kind).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), None)


def test_a_private_pem_key_is_refused() -> None:
    pem = private_key("P-256").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(NoKeys):
        parse_keys(pem, None)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": NaN}',
        b"-----BEGIN x",
        b"\xff",
    ],
)
def test_what_is_no_key_document_is_refused(document: bytes) -> None:
    with pytest.raises(NoKeys):
        parse_keys(document, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(GOOD)), inner, max_size=8),
    max_leaves=20,
)


@UNHURRIED
@given(st.lists(JSON, max_size=5), st.sampled_from(["RSA", "EC", "OKP", "oct"]))
def test_no_document_does_worse_than_give_no_keys(keys: list[Any], kty: str) -> None:
    typed = [{**key, "kty": kty, "crv": "P-256"} if isinstance(key, dict) else key for key in keys]
    with pytest.raises(NoKeys):
        parse(*keys, *typed)


@UNHURRIED
@given(st.binary(max_size=200))
def test_base64url_has_one_spelling(data: bytes) -> None:
    assert decode_base64url(b64(data)) == data


@pytest.mark.parametrize("text", ["A", "AB", "AA==", "AA=", "A A", "AA\n", "+/8", "AAAA=", "é", "AAAAA"])
def test_other_spellings_of_base64url_are_refused(text: str) -> None:
    assert decode_base64url(text) is None


@pytest.mark.parametrize("data", [b"NaN", b"[Infinity]", b"-Infinity", b"\xff", "1".encode("utf-16"), b"[" * 100_000])
def test_json_is_strict(data: bytes) -> None:
    """What strict readers of JSON refuse is not read."""
    assert decode_json(data) is None
