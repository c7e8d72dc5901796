"""Tokens that an attacker would try, over HTTP on the running gateway."""

import base64
import json
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.idp import AUDIENCE, Idp
from hpcgate.demo.signing import SigningKey, encode

COOLDOWN = 30.0
"""Seconds."""
BODY = {"errorType", "message", "causedBy", "data", "user"}


def start_idp(cluster: Cluster) -> Idp:
    idp = Idp(cluster.keeper, cluster.directory / f"idp-{secrets.token_hex(4)}", cluster.take_port, cluster.users)
    idp.start()
    return idp


def start_gateway(cluster: Cluster, idp: Idp, **authentication: Any) -> Gateway:
    config = cluster.write_gateway_config(
        cluster.directory / f"tokens-gateway-{secrets.token_hex(4)}.yaml",
        clusters=[cluster.cluster_settings("demo", probing={"services": None})],
        auth={"authentication": {"token_url": idp.token_url, "public_certs": [idp.jwks_url], **authentication}},
    )
    return cluster.start_gateway(config)


@pytest.fixture(scope="module")
def idp(cluster: Cluster) -> Iterator[Idp]:
    """A provider of these tests' own."""
    running = start_idp(cluster)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gate(cluster: Cluster, idp: Idp) -> Iterator[Gateway]:
    """A gateway that checks all that it can, and has its keys."""
    running = start_gateway(
        cluster,
        idp,
        issuer=idp.issuer,
        audience=AUDIENCE,
        token_types=["at+jwt"],
        required_scopes=["openid"],
        required_claims={"client_id": []},
        leeway=5,
        jwks_cooldown=COOLDOWN,
        jwks_refresh=3600,
    )
    deadline = time.monotonic() + 120
    while httpx.get(f"{running.url}/status/readiness").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def name(cluster: Cluster) -> str:
    """The user name that all the tokens are about."""
    return cluster.user("alice").name


def ask(gate: Gateway, token: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{gate.url}/status/demo/userinfo", headers=headers, timeout=600)


def assert_refused(gate: Gateway, token: str, status: int = 401, words: str = "") -> None:
    answer = ask(gate, token)
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == BODY
    assert words in body["message"]
    assert body["user"] is None
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
    said = answer.text + str(answer.headers) + gate.log.read_text()
    for part in token.split("."):
        assert len(part) < 12 or part not in said


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_a_good_one_is_good(gate: Gateway, idp: Idp, name: str, cluster: Cluster) -> None:
    for alg in ("RS256", "ES256", "PS256", "EdDSA"):
        answer = ask(gate, idp.mint(name, alg=alg))
        assert answer.status_code == 200, answer.text
        assert answer.json()["user"]["name"] == name
    assert ask(gate, idp.token("alice")).status_code == 200


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"alg": "none"}, 401, "algorithm"),
        ({"alg": "HS256"}, 401, "algorithm"),
        ({"alg": "HS512"}, 401, "algorithm"),
        ({"iss": "https://elsewhere.example"}, 401, "issuer"),
        ({"iss": None}, 401, "issuer"),
        ({"iss": ["x"]}, 401, "issuer"),
        ({"aud": "another"}, 401, "audience"),
        ({"aud": None}, 401, "audience"),
        ({"aud": [f"{AUDIENCE}-2"]}, 401, "audience"),
        ({"aud": {AUDIENCE: 1}}, 401, "audience"),
        ({"exp": 1}, 401, "expired"),
        ({"exp": -1e17}, 401, "expired"),
        ({"exp": None}, 401, "no expiry"),
        ({"exp": "9999999999"}, 401, "Invalid token"),
        ({"exp": 1e300}, 401, "Invalid token"),
        ({"exp": True}, 401, "Invalid token"),
        ({"nbf": 4_000_000_000}, 401, "not yet valid"),
        ({"typ": None}, 401, "type"),
        ({"typ": "JWT"}, 401, "type"),
        ({"typ": "dpop+jwt"}, 401, "type"),
        ({"kid": "nobody-has-it"}, 401, "Unknown key"),
        ({"kid": "../../../../dev/null"}, 401, "Unknown key"),
        ({"kid": "' OR 1=1 --"}, 401, "Unknown key"),
        ({"scope": "profile"}, 403, "scope"),
        ({"scope": None}, 403, "scope"),
        ({"client_id": None}, 403, "claim"),
    ],
)
def test_one_thing_wrong(gate: Gateway, idp: Idp, name: str, changes: dict[str, Any], status: int, words: str) -> None:
    """A token that is right but for one claim or header is refused, and the answer says why."""
    assert_refused(gate, idp.mint(name, **changes), status, words)


def test_the_clock_may_be_off_by_the_leeway(gate: Gateway, idp: Idp, name: str) -> None:
    now = int(time.time())
    assert_refused(gate, idp.mint(name, exp=now - 6), words="expired")
    assert_refused(gate, idp.mint(name, nbf=now + 600), words="not yet valid")
    assert ask(gate, idp.mint(name, nbf=now + 4, iat=now + 4)).status_code == 200


def signed(idp: Idp, name: str, sign: Callable[[str, bytes], bytes], **header: Any) -> str:
    claims: dict[str, Any] = {
        "iss": idp.issuer,
        "aud": AUDIENCE,
        "sub": name,
        "preferred_username": name,
        "scope": "openid",
    }
    claims |= {"client_id": "c", "exp": int(time.time()) + 600}
    return encode({"alg": "RS256", "typ": "at+jwt", **header}, claims, sign)


def test_keys_that_come_with_the_token(gate: Gateway, idp: Idp, name: str) -> None:
    mine = SigningKey.make("RS256")
    theirs = idp.keys.key("RS256").kid
    for header in (
        {},
        {"kid": theirs},
        {"jwk": mine.public_jwk},
        {"jwk": mine.public_jwk, "kid": theirs},
        {"jku": f"{idp.url}/jwks", "kid": mine.kid},
        {"x5u": "file:///etc/passwd", "x5c": ["AAAA"]},
    ):
        assert_refused(gate, signed(idp, name, mine._signature, **header))


def test_headers_that_change_what_is_signed(gate: Gateway, idp: Idp, name: str) -> None:
    key = idp.keys.key("RS256")
    good = {"kid": key.kid}
    assert ask(gate, signed(idp, name, key._signature, **good)).status_code == 200
    changes: list[dict[str, Any]] = [
        {"crit": ["exp"]}, {"b64": False}, {"zip": "DEF"}, {"enc": "A128GCM"}, {"alg": ["RS256"]}, {"alg": "rs256"},
        {"kid": 1}, {"kid": ["x"]}, {"typ": {"at+jwt": 1}},
    ]  # fmt: skip
    for change in changes:
        token = signed(idp, name, lambda _, message: key._signature("RS256", message), **{**good, **change})
        assert_refused(gate, token)


def test_broken_signatures(gate: Gateway, idp: Idp, name: str) -> None:
    """A token is refused whatever was done to its signature."""
    good = idp.mint(name)
    head, payload, signature = good.split(".")
    other = idp.mint("root").split(".")[1]
    curve = idp.keys.key("ES256").kid
    for token in (
        f"{head}.{payload}.",
        f"{head}.{payload}",
        f"{head}..{signature}",
        f"{head}.{other}.{signature}",
        f"{head}.{payload}.{b64(bytes(256))}",
        f"{head}.{payload}.{signature[:-4]}",
        f"{head}.{payload}.{signature}.",
        f"{head}.{payload}.{signature}=",
        # Zeros as an ECDSA signature, which some libraries took for one of anything.
        signed(idp, name, lambda *_: bytes(64), alg="ES256", kid=curve),
        # A key of one kind asked to be one of another.
        signed(idp, name, lambda *_: bytes(64), alg="ES256", kid=idp.keys.key("RS256").kid),
        idp.mint(name, alg="PS256", kid=idp.keys.key("RS256").kid),
    ):
        assert_refused(gate, token)


def test_tokens_within_tokens(gate: Gateway, idp: Idp, name: str) -> None:
    """Nested, encrypted and deep tokens, and those without claims, are refused."""
    key = idp.keys.key("RS256")
    inner = idp.mint(name)
    message = f"{b64(json.dumps({'alg': 'RS256', 'cty': 'JWT', 'kid': key.kid}).encode())}.{b64(inner.encode())}"
    assert_refused(gate, f"{message}.{b64(key._signature('RS256', message.encode()))}")
    encrypted = b64(json.dumps({"alg": "RSA-OAEP", "enc": "A128GCM", "cty": "JWT"}).encode())
    assert_refused(gate, f"{encrypted}.{b64(b'key')}.{b64(b'iv')}.{b64(inner.encode())}.{b64(b'tag')}")
    deep = b64(b"[" * 5000 + b"]" * 5000)
    assert_refused(gate, f"{deep}.{deep[:12]}.AAAA")
    message = f"{b64(json.dumps({'alg': 'RS256', 'kid': key.kid}).encode())}.{b64(b'[' * 5000)}"
    assert_refused(gate, f"{message}.{b64(key._signature('RS256', message.encode()))}")
    for payload in (b"null", b"[]", b'"text"', b"7", b"\xff", b'{"exp": NaN}', b""):
        message = f"{b64(json.dumps({'alg': 'RS256', 'typ': 'at+jwt', 'kid': key.kid}).encode())}.{b64(payload)}"
        assert_refused(gate, f"{message}.{b64(key._signature('RS256', message.encode()))}")


def test_a_token_as_long_as_a_header_may_be(gate: Gateway, idp: Idp, name: str) -> None:
    token = idp.mint(name, padding="x" * 40_000)
    assert 53_000 < len(token) < 64 * 1024
    assert ask(gate, token).status_code == 200
    assert_refused(gate, f"{token[:-8]}AAAAAAAA", words="signature")


@pytest.mark.parametrize("size", [60_000, 1_000_000, 8_000_000])
def test_huge_tokens(gate: Gateway, idp: Idp, name: str, size: int) -> None:
    """A huge token is refused, and the next one is served."""
    assert_too_much(gate, idp.mint(name, padding="x" * size))
    assert ask(gate, idp.mint(name)).status_code == 200


def assert_too_much(gate: Gateway, token: str) -> None:
    try:
        answer = ask(gate, token)
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        return  # refused while it was still being sent
    assert answer.status_code in (400, 401, 431)
    assert set(answer.json()) == BODY
    assert len(answer.content) < 1000


@pytest.mark.parametrize(
    "username",
    [
        "root", "bin", "slurm", "sshd", "-oProxyCommand=touch /tmp/hpcgate-canary", "-l", "../x", "..", ".", "a/b",
        "a b", "", " ", "a\n", "\nroot", "a\0b", "$(id)", "`id`", "a;id", "a'b", 'a"b', "a\\b", "~root", "a@b", "%u",
        "a:b", "r\u00f6\u00f6t", "\u202eroot", "\uff41\uff4c\uff49\uff43\uff45", "ALICE", "0", "a" * 64, "a" * 1000,
        "*", "{username}",
    ],
)  # fmt: skip
def test_user_names(gate: Gateway, idp: Idp, username: str) -> None:
    """A token whose user name is not that of an ordinary account is refused, and no part of the name is run."""
    canary = Path("/tmp/hpcgate-canary")
    canary.unlink(missing_ok=True)
    assert_refused(gate, idp.mint(username), 403)
    assert not canary.exists()


def test_a_user_name_of_a_megabyte(gate: Gateway, idp: Idp) -> None:
    assert_too_much(gate, idp.mint("a" * 1_000_000))


@pytest.mark.parametrize("username", [None, 0, True, ["root"], {"name": "root"}, 1.5])
def test_user_names_that_are_no_text(gate: Gateway, idp: Idp, name: str, username: Any) -> None:
    assert_refused(gate, idp.mint(name, preferred_username=username), words="no user name")


def test_floods_of_unknown_keys(gate: Gateway, idp: Idp, name: str) -> None:
    before, started = idp.requests("/jwks"), time.monotonic()
    tokens = [idp.mint(name, kid=f"flood-{number}") for number in range(150)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda token: ask(gate, token), tokens))
    assert {answer.status_code for answer in answers} == {401}
    assert idp.requests("/jwks") - before <= 1 + (time.monotonic() - started) // COOLDOWN
    assert ask(gate, idp.mint(name)).status_code == 200


def test_a_key_that_is_revoked(cluster: Cluster, name: str) -> None:
    idp = start_idp(cluster)
    gate = start_gateway(cluster, idp, jwks_cooldown=0.2, jwks_refresh=0.5)
    try:
        stolen = idp.mint(name)
        assert until_status(gate, stolen, 200)
        # Rotated, the old key is good as long as it is published.
        idp.rotate()
        assert until_status(gate, idp.mint(name), 200)
        assert ask(gate, stolen).status_code == 200
        idp.drop_old_keys()
        assert until_status(gate, stolen, 401)
        assert ask(gate, idp.mint(name)).status_code == 200
        assert_refused(gate, stolen, words="Unknown key")
    finally:
        gate.stop()
        idp.stop()


def until_status(gate: Gateway, token: str, status: int) -> bool:
    deadline = time.monotonic() + 120
    while ask(gate, token).status_code != status:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
