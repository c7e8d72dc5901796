"""Tokens, good and bad."""

import asyncio
import hmac
import json
import logging
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from hpcgate.auth import Jwks, Principal, TokenVerifier, bearer
from hpcgate.auth import jwks as jwks_module
from hpcgate.auth import tokens as tokens_module
from hpcgate.config import OidcSettings
from hpcgate.errors import Forbidden, GatewayError, Unauthenticated, Unavailable
from tests.auth.idp import MAX_TOKEN

from .conftest import eventually
from .idp import KEY_OF_ALGORITHM, Idp, b64, claims, compact, jwk, private_key, signature, token

Verifier = Callable[..., Awaitable[TokenVerifier]]
# The machine that runs the tests may be busy: no example has a time limit.
UNHURRIED = effort(deadline=None, suppress_health_check=[HealthCheck.too_slow])
INVALID = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


async def refused(verifier: TokenVerifier, text: str, kind: type[GatewayError] = Unauthenticated) -> str:
    """Return the message of the refusal, having seen that nothing of the token is in any of it."""
    with pytest.raises(GatewayError) as caught:
        await verifier.principal(text)
    assert type(caught.value) is kind
    if kind is Unauthenticated:
        assert caught.value.headers == INVALID
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert caught.value.__context__ is None
    for segment in text.split("."):
        assert len(segment) < 8 or segment not in told
    return caught.value.message


@pytest.mark.parametrize("algorithm", KEY_OF_ALGORITHM)
async def test_a_good_token_tells_who_asks(verifier: Verifier, algorithm: str) -> None:
    payload = claims(groups=["a"])
    text = token(algorithm, payload)
    principal = await (await verifier()).principal(text)
    assert principal == Principal("alice", text, payload, float(payload["exp"]))
    assert principal.request_id is None
    assert text not in repr(principal)


async def test_a_token_of_the_specification(settings: Callable[..., OidcSettings], tmp_path: Path) -> None:
    # RFC 8037, appendix A: an Ed25519 key and its signature of "Example of Ed25519 signing".
    key = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    file = tmp_path / "jwks"
    file.write_text(json.dumps({"keys": [key]}))
    text = (
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )
    given = settings(public_certs=(file.as_uri(),))
    async with Jwks(given) as jwks:
        await eventually(lambda: jwks.ready)
        verifier = TokenVerifier(given, jwks, MAX_TOKEN)
        # The signature is good, so that only the payload, which is no JSON, is left to complain of.
        assert await refused(verifier, text) == "Invalid token"
        assert await refused(verifier, text[:-4] + "AAAA") == "Invalid token signature"


@pytest.mark.parametrize("algorithm", KEY_OF_ALGORITHM)
async def test_what_was_tampered_with_is_refused(verifier: Verifier, algorithm: str) -> None:
    verify = await verifier()
    header, payload, signed = token(algorithm).split(".")
    forged = b64(json.dumps(claims(preferred_username="bob")).encode())
    other = token(algorithm, claims(jti="x")).rpartition(".")[2]
    middle = len(signed) // 2
    flipped = signed[:middle] + ("A" if signed[middle] != "A" else "B") + signed[middle + 1 :]
    bad_signature = "Invalid token signature"
    assert await refused(verify, f"{header}.{forged}.{signed}") == bad_signature
    assert await refused(verify, f"{header}.{payload}.{other}") == bad_signature
    assert await refused(verify, f"{header}.{payload}.{flipped}") == bad_signature
    assert await refused(verify, f"{header}.{payload}.") == bad_signature
    assert await refused(verify, f"{header}.{payload}.{b64(bytes(64))}") == bad_signature
    assert await refused(verify, token(algorithm, which=1, header={"kid": f"{KEY_OF_ALGORITHM[algorithm]}-0"}))
    assert (await verify.principal(f"{header}.{payload}.{signed}")).username == "alice"


async def test_every_cut_of_a_token_is_refused(verifier: Verifier) -> None:
    verify = await verifier()
    text = token("ES256")
    for end in range(len(text)):
        await refused(verify, text[:end])
    await refused(verify, text + "A")
    await refused(verify, text + ".A")
    await refused(verify, text + "=")
    await refused(verify, text + "\n")
    await refused(verify, " " + text)


def ready_made(signature: bytes, _: bytes) -> bytes:
    """Sign any message by this."""
    return signature


def digest(secret: bytes, size: str, message: bytes) -> bytes:
    """Sign a message by HMAC."""
    return hmac.digest(secret, message, f"sha{size}")


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "HS256", "RS1", "ES256K", "dir", "RSA-OAEP"])
async def test_algorithms_that_nobody_may_use(verifier: Verifier, idp: Idp, name: str) -> None:
    verify = await verifier()
    for signed in (b"", b"x"):
        text = compact({"alg": name, "kid": "RSA-0"}, claims(), partial(ready_made, signed))
        assert await refused(verify, text) == "Token algorithm not accepted"
    assert idp.requests == 1


@pytest.mark.parametrize("kind", ["RSA", "P-256", "Ed25519"])
@pytest.mark.parametrize("size", ["256", "384", "512"])
async def test_a_public_key_is_no_shared_secret(verifier: Verifier, idp: Idp, kind: str, size: str) -> None:
    public = private_key(kind).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    published = jwk(kind)
    secrets = [
        pem,
        pem.strip(),
        der,
        json.dumps(published).encode(),
        published.get("n", published.get("x", "")).encode(),
    ]
    idp.keys.append({"kty": "oct", "k": b64(b"published by mistake" * 4), "kid": "oct"})
    secrets.append(b"published by mistake" * 4)
    verify = await verifier()
    for secret in secrets:
        for kid in (f"{kind}-0", "oct", None):
            text = compact(
                {"alg": f"HS{size}", "kid": kid},
                claims(),
                partial(digest, secret, size),
            )
            await refused(verify, text)


@pytest.mark.parametrize("algorithm", ["PS256", "RS384", "PS512", "ES256", "EdDSA"])
async def test_a_key_that_names_its_algorithm_takes_no_other(verifier: Verifier, idp: Idp, algorithm: str) -> None:
    idp.keys = [jwk("RSA", alg="RS256")]
    verify = await verifier()
    kind = KEY_OF_ALGORITHM[algorithm]
    assert await refused(verify, token(algorithm, header={"kid": "RSA-0"})) == "Token algorithm not accepted"
    # A signature by the right key and the wrong algorithm, under the right name, is none either.
    if kind == "RSA":
        key = private_key("RSA")
        text = compact({"alg": "RS256", "kid": "RSA-0"}, claims(), lambda message: signature(key, algorithm, message))
        assert await refused(verify, text) == "Invalid token signature"
    assert (await verify.principal(token("RS256"))).username == "alice"


async def test_the_configured_algorithm_holds_for_keys_without(verifier: Verifier) -> None:
    verify = await verifier(jwk_algorithm="PS256")
    assert (await verify.principal(token("PS256"))).username == "alice"
    assert await refused(verify, token("RS256")) == "Token algorithm not accepted"


@pytest.mark.parametrize(("algorithm", "kind"), [("ES256", "P-384"), ("ES384", "P-256"), ("ES512", "P-384")])
async def test_a_curve_has_one_algorithm(verifier: Verifier, algorithm: str, kind: str) -> None:
    verify = await verifier()
    assert await refused(verify, token(algorithm, kind=kind)) == "Token algorithm not accepted"


async def test_a_null_signature_of_the_curve_is_refused(verifier: Verifier) -> None:
    verify = await verifier()
    for forged in (bytes(64), bytes(32) + b"\xff" * 32, b"\xff" * 64, b"\0" * 31 + b"\1" + b"\0" * 31 + b"\1"):
        text = compact({"alg": "ES256", "kid": "P-256-0"}, claims(), partial(ready_made, forged))
        assert await refused(verify, text) == "Invalid token signature"


async def test_a_key_in_the_token_itself_is_not_used(verifier: Verifier, idp: Idp) -> None:
    verify = await verifier(jwks_cooldown=60)
    for header in (
        {"jwk": jwk("RSA", 9), "kid": "RSA-0"},
        {"jwk": jwk("RSA", 9), "kid": None},
        {"jku": idp.url, "kid": "RSA-9"},
        {"x5u": idp.url, "kid": "RSA-9"},
        {"kid": "../../../../dev/null"},
        {"kid": "' OR 1=1"},
    ):
        await refused(verify, token("RS256", which=9, header=header))
    assert idp.requests == 1


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"b64": False, "crit": ["b64"]},
        {"b64": True},
        {"enc": "A128GCM"},
        {"zip": "DEF"},
    ],
)
async def test_headers_that_change_the_meaning_are_refused(verifier: Verifier, header: dict[str, Any]) -> None:
    assert await refused(await verifier(), token(header=header)) == "Token header not accepted"


@pytest.mark.parametrize(
    "header", [{"kid": 7.5}, {"kid": ["RSA-0"]}, {"kid": {}}, {"kid": True}, {"alg": 5}, {"alg": ["RS256"]}]
)
async def test_header_values_of_the_wrong_type_are_refused(verifier: Verifier, header: dict[str, Any]) -> None:
    assert await refused(await verifier(), token(header=header)) == "Invalid token"


@pytest.mark.parametrize(
    "header", [[], "RS256", None, 5, {}, {"kid": "RSA-0"}, b"", b"{", b"\xff", b"[" * 5000, b'{"alg":NaN}']
)
async def test_headers_that_are_none_are_refused(verifier: Verifier, header: Any) -> None:
    text = compact(header, claims(), lambda message: signature(private_key("RSA"), "RS256", message))
    assert await refused(await verifier(), text) == "Invalid token"


@pytest.mark.parametrize(
    "payload", [[], "claims", 5, b"", b"{", b"\xff", b"[" * 5000, b"null", b'{"exp": NaN}', b'{"exp":1e999}']
)
async def test_claims_that_are_no_object_are_refused(verifier: Verifier, payload: Any) -> None:
    assert await refused(await verifier(), token(payload=payload)) == "Invalid token"


async def test_encrypted_and_nested_tokens_are_refused(verifier: Verifier) -> None:
    verify = await verifier()
    assert await refused(verify, ".".join([b64(b'{"alg":"dir","enc":"A128GCM"}'), "", "AAAA", "AAAA", "AAAA"]))
    assert await refused(verify, token(payload=token().encode(), header={"cty": "JWT"})) == "Invalid token"
    assert await refused(verify, json.dumps({"payload": "AAAA", "signatures": []})) == "Invalid token"


async def test_a_token_may_be_long_but_not_longer(verifier: Verifier) -> None:
    verify = await verifier()
    long = token(payload=claims(groups=[f"/projects/2026/department-{number:04}" for number in range(600)]))
    assert 24_000 < len(long) <= 64 * 1024
    assert (await verify.principal(long)).username == "alice"
    assert (await verify.principal(long)).username == "alice"
    assert await refused(verify, token(payload=claims(groups=["g" * 50_000]))) == "Token too long"
    assert await refused(verify, "x" * 50_000_000) == "Token too long"


async def test_where_headers_may_be_longer_tokens_may_too(settings: Callable[..., OidcSettings]) -> None:
    """Whoever makes a verifier has to say how long: the gateway, `hpcgate check --connect` and `hpcgate token`."""
    given = settings()
    long = token(payload=claims(groups=["g" * 60_000]))
    assert MAX_TOKEN < len(long) < 2 * MAX_TOKEN
    async with Jwks(given) as jwks:
        await eventually(lambda: jwks.ready)
        assert await refused(TokenVerifier(given, jwks, MAX_TOKEN), long) == "Token too long"
        assert (await TokenVerifier(given, jwks, 2 * MAX_TOKEN).principal(long)).username == "alice"


@pytest.mark.parametrize(
    "header", [{"typ": "at+jwt"}, {"typ": None}, {"typ": "application/at+jwt", "x5t": "x", "jku": "y"}]
)
async def test_headers_that_change_nothing_are_allowed(verifier: Verifier, header: dict[str, Any]) -> None:
    assert (await (await verifier()).principal(token(header=header))).username == "alice"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exp": 0}, "Token expired"),
        ({"exp": -1}, "Token expired"),
        ({"exp": -(10**300)}, "Invalid token"),
        ({"exp": 10**300}, "Invalid token"),
        ({"exp": 10**4000}, "Invalid token"),
        ({"exp": "9999999999"}, "Invalid token"),
        ({"exp": True}, "Invalid token"),
        ({"exp": []}, "Invalid token"),
        ({"exp": {}}, "Invalid token"),
        ({"exp": None}, "Token has no expiry"),
        ({"exp": float("nan")}, "Invalid token"),
        ({"exp": float("inf")}, "Invalid token"),
        ({"nbf": 9_999_999_999}, "Token not yet valid"),
        ({"nbf": "0"}, "Invalid token"),
        ({"preferred_username": None}, "Token has no user name"),
        ({"preferred_username": 5}, "Token has no user name"),
        ({"preferred_username": ["alice"]}, "Token has no user name"),
        ({"preferred_username": {"alice": 1}}, "Token has no user name"),
        ({"preferred_username": False}, "Token has no user name"),
    ],
)
async def test_claims_that_are_not_accepted(verifier: Verifier, changes: dict[str, Any], message: str) -> None:
    assert await refused(await verifier(), token(payload=claims(**changes))) == message


@pytest.mark.parametrize("iat", [9_999_999_999, 9_999_999_999.5, "2026-11-29T12:00:00Z", False, [], None, 1e300])
async def test_when_a_token_was_made_is_not_a_reason_to_refuse_it(verifier: Verifier, iat: Any) -> None:
    assert (await (await verifier()).principal(token(payload=claims(iat=iat)))).username == "alice"


async def test_clocks_may_differ_by_five_seconds(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    now = int(time.time())
    monkeypatch.setattr(tokens_module, "time", SimpleNamespace(time=lambda: now))
    verify = await verifier()
    assert await verify.principal(token(payload=claims(exp=now - 4, nbf=now + 5)))
    assert await refused(verify, token(payload=claims(exp=now - 5))) == "Token expired"
    assert await refused(verify, token(payload=claims(nbf=now + 6))) == "Token not yet valid"


async def test_times_may_be_fractions(verifier: Verifier) -> None:
    verify = await verifier()
    exp = time.time() + 100.25
    assert (await verify.principal(token(payload=claims(exp=exp, nbf=0.5, iat=1.5)))).expires_at == exp


async def test_leeway_forgives_clocks(verifier: Verifier) -> None:
    """Times of a token are forgiven by the leeway, and by no more."""
    now = time.time()
    verify = await verifier(leeway=60)
    assert await verify.principal(token(payload=claims(exp=now - 30, nbf=now + 30, iat=now + 30)))
    assert await refused(verify, token(payload=claims(exp=now - 61))) == "Token expired"
    assert await refused(verify, token(payload=claims(nbf=now + 90))) == "Token not yet valid"


async def test_a_token_without_expiry_where_that_is_allowed(verifier: Verifier) -> None:
    verify = await verifier(require_expiry=False, min_token_ttl=10)
    text = token(payload=claims(exp=None))
    assert (await verify.principal(text)).expires_at is None
    assert (await verify.principal(text)).username == "alice"
    assert await refused(verify, token(payload=claims(exp=1))) == "Token expired"


async def test_a_token_that_is_about_to_expire_is_refused(verifier: Verifier) -> None:
    verify = await verifier(min_token_ttl=60, leeway=5)
    now = time.time()
    assert await refused(verify, token(payload=claims(exp=now + 59))) == "Token expires within 60 seconds"
    assert await refused(verify, token(payload=claims(exp=now - 10))) == "Token expired"
    assert await verify.principal(token(payload=claims(exp=now + 70)))


@pytest.mark.parametrize(("ttl", "message"), [(0, "Token expired"), (60, "Token expires within 60 seconds")])
async def test_a_remembered_token_ends_when_it_should(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch, ttl: float, message: str
) -> None:
    now = int(time.time())
    clock = SimpleNamespace(time=lambda: now)
    monkeypatch.setattr(tokens_module, "time", clock)
    verify = await verifier(min_token_ttl=ttl, leeway=0)
    text = token(payload=claims(iat=now, exp=now + 300))
    principal = await verify.principal(text)
    clock.time = lambda: now + 300 - ttl - 0.01
    assert await verify.principal(text) is principal
    clock.time = lambda: now + 300 - ttl
    assert await refused(verify, text) == message
    assert "0 tokens" in repr(verify)
    assert await refused(verify, text) == message


async def test_leeway_holds_for_remembered_tokens_too(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    now = int(time.time())
    clock = SimpleNamespace(time=lambda: now)
    monkeypatch.setattr(tokens_module, "time", clock)
    verify = await verifier(leeway=30)
    text = token(payload=claims(iat=now, exp=now + 300))
    principal = await verify.principal(text)
    clock.time = lambda: now + 329
    assert await verify.principal(text) is principal
    clock.time = lambda: now + 330
    assert await refused(verify, text) == "Token expired"


async def test_issuer_audience_and_scopes(verifier: Verifier) -> None:
    verify = await verifier(issuer="https://idp.example.org", audience="gate", required_scopes=("read", "write"))
    good = {"aud": ["other", "gate"], "scope": "openid write read"}
    assert await verify.principal(token(payload=claims(**good)))
    assert await verify.principal(token(payload=claims(aud="gate", scp=["read", "write", 5])))
    for issuer in (None, "", "https://idp.example.org/", ["https://idp.example.org"], 5):
        assert await refused(verify, token(payload=claims(**good, iss=issuer))) == "Token issuer not accepted"
    for audience in (None, "", "gateway", "ga", ["gat", "e"], {"gate": 1}, 5, [["gate"]]):
        text = token(payload=claims(scope=good["scope"], aud=audience))
        assert await refused(verify, text) == "Token audience not accepted"
    for scope in (None, "", "read", "readwrite", "read,write", {"read": 1, "write": 1}, 5, ["read"], "READ WRITE"):
        text = token(payload=claims(aud="gate", scope=scope))
        assert await refused(verify, text, Forbidden) == "The token lacks a required scope"


async def test_issuer_and_audience_are_not_looked_at_unless_configured(verifier: Verifier) -> None:
    assert await (await verifier()).principal(token(payload=claims(iss=5, aud={"x": 1}, scope=7)))


IMPLAUSIBLE = [
    "-oProxyCommand=x", "../x", "..", ".", "a b", "", "a" * 64, "Alice", "alice\n", "\nalice", "alice\0", "ali/ce",
    "a$(id)", "a;id", "a`id`", "a'b", 'a"b', "a\\b", "a|b", "älice", "\u0430lice", "alice\u200b", "\uff11",
    "alice@x", "0day", "$", " alice", "alice ", "a\tb", "a\rb", "a\ufffd", "x" * 9000,
]  # fmt: skip


@pytest.mark.parametrize("name", IMPLAUSIBLE, ids=ascii)
@pytest.mark.parametrize("pattern", [None, r"(?s).*"], ids=["pattern", "no pattern"])
async def test_a_name_that_is_no_posix_account(verifier: Verifier, name: str, pattern: str | None) -> None:
    verify = await verifier(**({} if pattern is None else {"username_pattern": pattern}))
    text = token(payload=claims(preferred_username=name))
    always = (
        name.startswith(("-", "."))
        or not name.isprintable()
        or any(c in " /\ufffd" for c in name)
        or not 0 < len(name) < 257
    )
    if pattern is None or always:
        message = await refused(verify, text, Forbidden)
        assert message == "The token's user name is not one of a POSIX account"
    else:
        assert (await verify.principal(text)).username == name


@pytest.mark.parametrize(
    "claim", [{"preferred_username": "alice\ud800"}, {"groups": ["staff", "\udfff"]}, {"x": {"\ud800": 1}}], ids=ascii
)
async def test_half_a_character_in_any_claim_is_refused(verifier: Verifier, claim: dict[str, Any]) -> None:
    """Two values that differ in such halves alone would become one."""
    assert await refused(await verifier(), token(payload=claims(**claim))) == "Invalid token"


async def test_a_name_of_a_megabyte_is_refused_by_the_length_of_its_token(verifier: Verifier) -> None:
    assert (
        await refused(await verifier(), token(payload=claims(preferred_username="a" * 1_000_000))) == "Token too long"
    )


@pytest.mark.parametrize("name", ["root", "bin", "daemon", "adm", "slurm", "munge"])
async def test_system_accounts_are_not_served(verifier: Verifier, name: str) -> None:
    text = token(payload=claims(preferred_username=name))
    assert await refused(await verifier(), text, Forbidden) == f"The user {name} is not served"
    free = await verifier(denied_users=())
    if name == "root":
        assert await refused(free, text, Forbidden) == "The user root is not served"
    else:
        assert (await free.principal(text)).username == name


@pytest.mark.parametrize("name", ["Root", "ROOT", "Slurm", "\u017flurm"])
async def test_system_accounts_are_not_served_in_any_case(verifier: Verifier, name: str) -> None:
    """Directories such as Active Directory find an account by a name in any case."""
    verify = await verifier(username_pattern=".*")
    text = token(payload=claims(preferred_username=name))
    assert await refused(verify, text, Forbidden) == f"The user {name} is not served"


@pytest.mark.parametrize("name", ["alice,root", "alice:x", "alice/root", "-l", ".", "a b", "a\n", "a\0b", "\ufffd"])
async def test_what_means_more_than_a_name_is_none(verifier: Verifier, name: str) -> None:
    """Whatever a site's pattern takes: a comma makes two principals of one, or two users, where a list is wanted."""
    verify = await verifier(username_pattern="(?s).*")
    message = await refused(verify, token(payload=claims(preferred_username=name)), Forbidden)
    assert message == "The token's user name is not one of a POSIX account"


@pytest.mark.parametrize("part", ["header", "claims"])
async def test_a_name_twice_is_no_token(verifier: Verifier, part: str) -> None:
    """Whoever reads the first and whoever reads the last would take it for the tokens of two users (RFC 7519, 4)."""
    key = private_key("RSA", 0)
    header = json.dumps({"alg": "RS256", "kid": "RSA-0"})
    payload = json.dumps(claims(preferred_username="alice"))
    if part == "header":
        header = header.replace("{", '{"alg": "RS256", ', 1)
    else:
        payload = payload.replace("{", '{"preferred_username": "bob", ', 1)
    signed = f"{b64(header.encode())}.{b64(payload.encode())}"
    text = f"{signed}.{b64(signature(key, 'RS256', signed.encode()))}"
    assert await refused(await verifier(), text) == "Invalid token"


@pytest.mark.parametrize("name", ["alice", "_svc", "a.b-c_9", "machine$", "a" * 63])
async def test_plausible_names(verifier: Verifier, name: str) -> None:
    """A name that an account can have is taken."""
    assert (await (await verifier()).principal(token(payload=claims(preferred_username=name)))).username == name


async def test_the_claim_of_the_name_is_a_setting(verifier: Verifier) -> None:
    verify = await verifier(username_claim="sub")
    assert (await verify.principal(token(payload=claims(sub="bob")))).username == "bob"
    assert await refused(verify, token()) == "Token has no user name"


async def test_the_claim_of_the_name_may_be_nested(verifier: Verifier) -> None:
    verify = await verifier(username_claim="posix.user.name")
    assert (await verify.principal(token(payload=claims(posix={"user": {"name": "bob"}})))).username == "bob"
    # A claim that is called so goes before: names that are URLs have dots.
    both = claims(**{"posix.user.name": "carol"}, posix={"user": {"name": "bob"}})
    assert (await verify.principal(token(payload=both))).username == "carol"
    names: list[Any] = [None, "bob", {"user": "bob"}, {"user": {"name": ["bob"]}}, {"user": {}}]
    for posix in names:
        assert await refused(verify, token(payload=claims(posix=posix))) == "Token has no user name"


async def test_key_ids_may_be_numbers(verifier: Verifier, idp: Idp) -> None:
    idp.keys[:] = [jwk("P-256", kid=7)]
    verify = await verifier()
    for kid in (7, "7"):
        assert (await verify.principal(token("ES256", header={"kid": kid}))).username == "alice"
    assert await refused(verify, token("ES256", header={"kid": True})) == "Invalid token"


@pytest.mark.parametrize("in_key", ["", None])
@pytest.mark.parametrize("in_token", ["", None])
async def test_key_ids_may_be_empty(verifier: Verifier, idp: Idp, in_key: str | None, in_token: str | None) -> None:
    idp.keys[:] = [jwk("P-256", kid=in_key)]
    text = token("ES256", header={"kid": in_token})
    assert (await (await verifier()).principal(text)).username == "alice"


async def test_a_pattern_of_a_site(verifier: Verifier) -> None:
    verify = await verifier(username_pattern="x[0-9]+|y")
    assert (await verify.principal(token(payload=claims(preferred_username="x12")))).username == "x12"
    for name in ("alice", "x12a", "ax12", "xy"):
        await refused(verify, token(payload=claims(preferred_username=name)), Forbidden)


async def test_a_flood_of_unknown_keys_costs_the_idp_one_request(
    verifier: Verifier, idp: Idp, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 1000.0)
    monkeypatch.setattr(jwks_module, "time", clock)
    verify = await verifier(jwks_cooldown=5)
    assert await refused(verify, token("EdDSA", header={"kid": "unknown"})) == "Unknown key"
    assert idp.requests == 1
    clock.monotonic = lambda: 1005.0
    idp.delay = 0.02
    texts = [token("EdDSA", header={"kid": f"unknown-{number}"}) for number in range(300)]
    messages = await asyncio.gather(*(refused(verify, text) for text in texts))
    assert set(messages) == {"Unknown key"}
    for text in texts[:50]:
        assert await refused(verify, text) == "Unknown key"
    assert idp.requests == 2
    clock.monotonic = lambda: 1010.0
    assert await refused(verify, texts[0]) == "Unknown key"
    assert idp.requests == 3


async def test_bad_tokens_by_known_keys_do_not_ask_the_idp(verifier: Verifier, idp: Idp) -> None:
    verify = await verifier()
    for _ in range(20):
        await asyncio.sleep(0.002)
        await refused(verify, token("ES256", which=1, header={"kid": "P-256-0"}))
    assert idp.requests == 1


@pytest.mark.parametrize("kid", [True, False], ids=["with kid", "without kid"])
async def test_a_rotated_key_is_fetched_when_its_first_token_comes(verifier: Verifier, idp: Idp, kid: bool) -> None:
    verify = await verifier(jwks_refresh=600)
    idp.keys = [jwk("RSA", 1), jwk("RSA", 0)]
    await asyncio.sleep(0.01)
    header = None if kid else {"kid": None}
    assert (await verify.principal(token(which=1, header=header))).username == "alice"
    assert idp.requests == 2


async def test_an_idp_that_is_down_for_an_hour_is_not_missed(verifier: Verifier, idp: Idp) -> None:
    verify = await verifier(jwks_refresh=0.01)
    idp.status = 503
    # As many refreshes fail as there are in an hour, and more.
    await eventually(lambda: idp.requests > 20)
    assert (await verify.principal(token())).username == "alice"
    assert await refused(verify, token(which=1)) == "Unknown key"
    idp.status, idp.keys = 200, [jwk("RSA"), jwk("RSA", 1)]
    assert (await verify.principal(token(which=1))).username == "alice"


async def test_a_withdrawn_key_takes_its_remembered_tokens_along(verifier: Verifier, idp: Idp) -> None:
    verify = await verifier(jwks_refresh=600)
    old, other = token("RS256"), token("ES256")
    await verify.principal(old)
    await verify.principal(other)
    idp.keys = [jwk("RSA", 1), jwk("P-256")]
    await asyncio.sleep(0.01)
    await verify.principal(token("RS256", which=1))
    assert verify.remembered(other) is not None
    assert verify.remembered(old) is None
    assert await refused(verify, old) == "Unknown key"


async def test_a_key_withdrawn_under_the_same_id_takes_its_tokens_along(verifier: Verifier, idp: Idp) -> None:
    verify = await verifier(jwks_refresh=0.02)
    old = token("RS256")
    await verify.principal(old)
    idp.keys = [jwk("RSA", 1, kid="RSA-0")]
    await eventually(lambda: verify.remembered(old) is None)
    assert await refused(verify, old) == "Invalid token signature"


@pytest.mark.parametrize("in_key", [True, False])
@pytest.mark.parametrize("in_token", [True, False])
async def test_key_ids_may_be_missing(verifier: Verifier, idp: Idp, in_key: bool, in_token: bool) -> None:
    names = {} if in_key else {"kid": None}
    idp.keys = [jwk("RSA", 1, **names), jwk("P-256", 0, **names), jwk("RSA", 0, **names)]
    verify = await verifier()
    assert await verify.principal(token("RS256", header={} if in_token else {"kid": None}))
    assert await refused(verify, token("RS256", which=2, header={} if in_token else {"kid": None}))


async def test_only_so_many_keys_are_tried_for_a_token_that_names_none(verifier: Verifier, idp: Idp) -> None:
    others = [jwk("P-256", number) for number in range(20)]
    idp.keys = [*others, *(jwk("Ed25519", number) for number in range(1, 16)), jwk("Ed25519")]
    verify = await verifier(jwks_cooldown=60)
    assert await verify.principal(token("EdDSA", header={"kid": None}))
    idp.keys.insert(0, jwk("Ed25519", 16))
    verify = await verifier(jwks_cooldown=60)
    assert await verify.principal(token("EdDSA"))
    assert await refused(verify, token("EdDSA", header={"kid": None})) == "Invalid token signature"


async def test_an_idp_that_is_down_at_the_start_is_503_until_it_is_up(
    idp: Idp, settings: Callable[..., OidcSettings]
) -> None:
    idp.status = 503
    given = settings(jwks_cooldown=0.05, jwks_refresh=600)
    async with Jwks(given) as jwks:
        verify = TokenVerifier(given, jwks, MAX_TOKEN)
        with pytest.raises(Unavailable) as caught:
            await verify.principal(token())
        assert caught.value.status == 503
        assert int(caught.value.headers["Retry-After"]) >= 1
        assert await refused(verify, "nonsense") == "Invalid token"
        idp.status = 200
        await eventually(lambda: jwks.ready)
        assert (await verify.principal(token())).username == "alice"
        assert await refused(verify, token(which=7)) == "Unknown key"


async def test_a_source_that_never_came_up_is_503_for_keys_that_may_be_its(
    idp: Idp, settings: Callable[..., OidcSettings], tmp_path: Path
) -> None:
    given = settings(public_certs=(idp.url, (tmp_path / "none").as_uri()))
    async with Jwks(given) as jwks:
        await eventually(lambda: jwks.ready)
        verify = TokenVerifier(given, jwks, MAX_TOKEN)
        assert await verify.principal(token())
        with pytest.raises(Unavailable):
            await verify.principal(token(which=7))
        assert await refused(verify, token(which=7, header={"kid": "RSA-0"})) == "Invalid token signature"


async def test_remembered_tokens_are_not_verified_again(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    verify = await verifier()
    text = token()
    assert verify.remembered(text) is None
    principal = await verify.principal(text)
    monkeypatch.setattr(tokens_module, "_take_apart", None)
    assert await verify.principal(text) is principal
    assert verify.remembered(text) is principal
    with pytest.raises(TypeError):
        await verify.principal(token(payload=claims(jti="other")))


async def test_claims_cannot_be_changed_by_those_who_share_them(verifier: Verifier) -> None:
    principal = await (await verifier()).principal(token())
    with pytest.raises(TypeError):
        principal.claims["preferred_username"] = "root"  # type: ignore[index]


async def test_a_client_of_the_gateways_own_is_a_local_user_for_the_gateway_alone(verifier: Verifier) -> None:
    verify = await verifier(required_scopes=("access",), required_claims={"groups": ("hpc",)}, audience="hpcgate")
    payload = claims(aud="hpcgate") | {"preferred_username": None}
    text = token(payload=payload)
    principal = await verify.client(text, "health")
    assert (principal.username, principal.expires_at) == ("health", payload["exp"])
    # Whoever else has it gets nowhere with it.
    assert verify.remembered(text) is None
    assert await refused(verify, text, Forbidden) == "The token lacks a required scope"
    for username in ("root", "bin", "-x", "a/b"):
        with pytest.raises(Forbidden):
            await verify.client(text, username)
    for wrong, words in (
        (token(payload=claims(aud="another")), "audience not accepted"),
        (token(payload=payload | {"exp": time.time() - 600}), "expired"),
        (text[:-4] + "AAAA", "signature"),
        ("x" * 70_000, "too long"),
        ("x", "Invalid token"),
    ):
        with pytest.raises(Unauthenticated, match=words):
            await verify.client(wrong, "health")


async def test_a_user_of_an_accepted_token_is_not_changed_by_a_client(verifier: Verifier) -> None:
    verify = await verifier()
    text = token(payload=claims())
    assert (await verify.principal(text)).username == "alice"
    assert (await verify.client(text, "health")).username == "health"
    assert (await verify.principal(text)).username == "alice"


async def test_refused_tokens_are_not_remembered(verifier: Verifier) -> None:
    verify = await verifier()
    for text, kind in (
        (token(payload=claims(preferred_username="root")), Forbidden),
        (token(payload=claims(exp=1)), Unauthenticated),
    ):
        for _ in range(2):
            await refused(verify, text, kind)
    assert "0 tokens" in repr(verify)


CLAIMS: dict[str, Any] = {
    "many groups": [f"group-{number:04}" for number in range(700)],
    "lists of nothing": [[]] * 9000,
    "objects of nothing": [{}] * 9000,
    "numbers": list(range(5000)),
}


@pytest.mark.parametrize("said", CLAIMS)
async def test_what_is_remembered_counts_with_its_claims(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """Of a token of 50 KiB they may take 800."""
    verify = await verifier()
    texts = [token(payload=claims(said=CLAIMS[said], jti=str(number))) for number in range(6)]
    taken = [held(json.loads(json.dumps(claims(said=CLAIMS[said])))) + 2 * len(text) for text in texts]
    monkeypatch.setattr(tokens_module, "MAX_CACHED_BYTES", 3 * taken[0])
    for text in texts:
        await verify.principal(text)
    kept = [text for text in texts if verify.remembered(text) is not None]
    assert 1 <= len(kept) <= 4
    assert kept == texts[-len(kept) :]


def held(value: Any) -> int:
    """Return the bytes that a value of JSON takes."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sys.getsizeof(value) + sum(map(held, inner))


async def test_the_longest_unused_token_is_forgotten_first(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "MAX_CACHED", 3)
    verify = await verifier()
    texts = [token("EdDSA", claims(jti=str(number))) for number in range(4)]
    for text in texts[:3]:
        await verify.principal(text)
    assert verify.remembered(texts[0]) is not None
    await verify.principal(texts[3])
    assert [verify.remembered(text) is not None for text in texts] == [True, False, True, True]


async def test_long_tokens_are_remembered_up_to_a_size_in_all(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [token(payload=claims(jti=str(number), groups=["g" * 1000])) for number in range(9)]
    monkeypatch.setattr(tokens_module, "MAX_CACHED_BYTES", 3 * tokens_module._size(texts[0]) + 100)
    verify = await verifier()
    for text in texts * 2:
        await verify.principal(text)
    assert "3 tokens" in repr(verify)


async def test_the_text_of_a_token_is_kept_once(verifier: Verifier) -> None:
    """A principal has its token, for the services that are shown it: nothing else is to keep another copy."""
    verify = await verifier()
    text = token()
    for _ in range(3):
        await verify.principal("".join(text))
    [(key, entry)] = verify._verified.items()
    assert key is entry.principal.token


async def test_a_token_is_found_by_all_of_its_text(verifier: Verifier) -> None:
    verify = await verifier()
    text = token()
    await verify.principal(text)
    assert verify.remembered(text) is not None
    for other in (text[:-1], text + "A", text[:-1] + ("A" if text[-1] != "A" else "B"), text.swapcase(), ""):
        assert verify.remembered(other) is None


async def test_no_token_is_in_any_log(
    verifier: Verifier, logs: list[MutableMapping[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    verify = await verifier()
    good = token()
    bad = [token(which=7), token(payload=claims(exp=1)), token(payload=b"\xff\xffsecret"), good[:-3], "x.y.z"]
    await verify.principal(good)
    for text in bad:
        await refused(verify, text)
    written = repr(logs) + caplog.text
    assert "jwks.refresh" in written
    for text in (good, *bad):
        for segment in text.split("."):
            assert len(segment) < 8 or segment not in written


@pytest.fixture(scope="module")
def anything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], GatewayError | Principal]]:
    """Verify a text against keys from a file, on a loop of its own that lives for the whole module."""
    file = tmp_path_factory.mktemp("keys") / "jwks.json"
    file.write_text(json.dumps({"keys": [jwk(kind) for kind in ("RSA", "P-256", "Ed25519")]}))
    given = OidcSettings(token_url="http://127.0.0.1/token", public_certs=(file.as_uri(),), jwks_cooldown=60)
    with asyncio.Runner() as runner:

        async def opened() -> tuple[Jwks, TokenVerifier]:
            jwks = Jwks(given)
            await jwks.open()
            await eventually(lambda: jwks.ready)
            return jwks, TokenVerifier(given, jwks, MAX_TOKEN)

        async def tried(text: str) -> GatewayError | Principal:
            try:
                return await verify.principal(text)
            except GatewayError as error:
                return error

        jwks, verify = runner.run(opened())
        yield lambda text: runner.run(tried(text))
        runner.run(jwks.close())


SEGMENTS = st.binary(max_size=60).map(b64) | st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from(["RS256", "ES256", "EdDSA", "none", "HS256", "PS512"]) | JSON,
        "kid": st.sampled_from(["RSA-0", "P-256-0", "Ed25519-0", "other"]) | JSON,
        "typ": JSON,
        "crit": JSON,
    },
)


@UNHURRIED
@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")) | st.lists(SEGMENTS, max_size=6).map(".".join))
def test_random_text_is_unauthenticated(anything: Callable[[str], Any], text: str) -> None:
    error = anything(text)
    assert type(error) is Unauthenticated
    assert error.headers == INVALID


@UNHURRIED
@given(HEADERS, JSON, st.binary(max_size=100) | st.sampled_from([bytes(64), bytes(256)]))
def test_unsigned_tokens_of_any_form_are_unauthenticated(
    anything: Callable[[str], Any], header: Any, payload: Any, forged: bytes
) -> None:
    assert type(anything(compact(header, payload, lambda message: forged))) is Unauthenticated


@UNHURRIED
@given(st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "preferred_username", "iss", "aud", "scope"]), JSON))
def test_signed_claims_of_any_form_are_judged(anything: Callable[[str], Any], payload: Any) -> None:
    result = anything(token("EdDSA", payload))
    if isinstance(result, Principal):
        assert result.expires_at is not None
        assert result.expires_at > time.time()
        assert result.username.isascii()
    else:
        assert type(result) in (Unauthenticated, Forbidden)


@pytest.mark.parametrize(
    "header", ["Bearer abc", "bearer abc", "BEARER abc", "Bearer   abc", " Bearer abc ", "bEaReR\x20abc\t"]
)
def test_the_header_holds_one_bearer_token(header: str) -> None:
    assert bearer(header) == "abc"


@pytest.mark.parametrize(
    "header",
    [None, "", " ", "Bearer", "Bearer ", "abc", "Basic abc", "Bearer a b", "Bearer a\tb", "Bearerabc", "Bearer: abc x"],
)
def test_a_header_without_a_token_is_not_authenticated(header: str | None) -> None:
    with pytest.raises(Unauthenticated, match=r"^Not authenticated$") as caught:
        bearer(header)
    assert caught.value.headers == {"WWW-Authenticate": "Bearer"}


async def test_so_many_keys_are_tried_for_a_token_and_no_more(verifier: Verifier) -> None:
    tried = 0

    class Key:
        algorithms = frozenset({"RS256"})

        def verifies(self, *_: object) -> bool:
            nonlocal tried
            tried += 1
            return False

    it = await verifier()
    it._jwks = SimpleNamespace(candidates=lambda kid: (Key(),) * 1000)  # type: ignore[assignment]
    assert it._verifying_key(tokens_module._Jws("RS256", None, None, b"", b"", b"")) is None
    assert tried == tokens_module.MAX_TRIED
