"""The provider's tokens, verified by joserfc, which had no part in making them."""

from __future__ import annotations

import json
import stat
import warnings
from pathlib import Path
from typing import Any, cast

import pytest
from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import KeySet

from hpcgate.demo.problems import DemoError
from hpcgate.demo.signing import ALGORITHMS, KeyRing, SigningKey

EVERY = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


def verify(text: str, keys: dict[str, Any], algorithms: tuple[str, ...] = EVERY) -> jwt.Token:
    with warnings.catch_warnings():
        # joserfc warns that EdDSA has a newer name; identity providers still say EdDSA.
        warnings.simplefilter("ignore", SecurityWarning)
        return jwt.decode(text, KeySet.import_key_set(cast("Any", keys)), algorithms=list(algorithms))


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    ring = KeyRing(tmp_path)
    ring.create()
    return ring


@pytest.mark.parametrize("alg", EVERY)
def test_a_token_verifies_with_the_published_key_and_fails_when_altered(alg: str) -> None:
    key = SigningKey.make(alg)
    token = key.token({"sub": "alice", "n": 1})
    decoded = verify(token, {"keys": [key.public_jwk]}, (alg,))
    assert decoded.claims == {"sub": "alice", "n": 1}
    assert decoded.header == {"alg": alg, "typ": "at+jwt", "kid": key.kid}
    header, _, signature = token.split(".")
    foreign = SigningKey.make(alg).token({"sub": "root"}).split(".")[1]
    with pytest.raises(JoseError):
        verify(f"{header}.{foreign}.{signature}", {"keys": [key.public_jwk]}, (alg,))


def test_the_files_hold_all_public_keys_and_no_private_one(ring: KeyRing, tmp_path: Path) -> None:
    published = json.loads(ring.jwks_file.read_text())["keys"]
    assert [key["alg"] for key in published] == list(ALGORITHMS)
    assert not any({"d", "p", "q"} & set(key) for key in published)
    assert [key["alg"] for key in json.loads(ring.rsa_jwks_file.read_text())["keys"]] == ["RS256"]
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


def test_rotation_signs_with_new_keys_and_publishes_the_old_until_they_are_dropped(
    ring: KeyRing, tmp_path: Path
) -> None:
    old = ring.key("ES256")
    before = old.token({"sub": "alice"})
    other_process = KeyRing(tmp_path)
    assert other_process.key("ES256").kid == old.kid
    ring.rotate()
    assert other_process.key("ES256").kid != old.kid
    assert verify(before, json.loads(ring.jwks_file.read_text())).claims["sub"] == "alice"
    assert (
        verify(ring.key("ES256").token({"sub": "bob"}), json.loads(ring.jwks_file.read_text())).claims["sub"] == "bob"
    )
    ring.drop_old()
    assert len(ring.published()) == len(ALGORITHMS)
    with pytest.raises((JoseError, ValueError)):
        verify(before, json.loads(ring.jwks_file.read_text()))
    ring.rotate(drop=True)
    assert len(ring.published()) == len(ALGORITHMS)


def test_a_key_is_found_by_algorithm_by_family_and_by_id(ring: KeyRing) -> None:
    assert ring.key().alg == "RS256"
    assert ring.key("PS256").alg == "PS256"
    assert ring.key("RS512").alg == "RS256"
    assert ring.key("HS256").alg == "RS256"
    assert ring.key("none").alg == "RS256"
    wanted = ring.key("EdDSA")
    assert ring.key("RS256", kid=wanted.kid).kid == wanted.kid
    with pytest.raises(DemoError, match="no key for ES512"):
        ring.key("ES512")


def test_bad_tokens_are_as_bad_as_they_should_be(ring: KeyRing) -> None:
    key = ring.key()
    unsigned = key.token({"sub": "alice"}, alg="none")
    assert unsigned.endswith(".")
    for text in (unsigned, key.token({"sub": "alice"}, alg="HS256"), key.token({"sub": "alice"}, kid="unheard-of")):
        with pytest.raises((JoseError, ValueError)):
            verify(text, json.loads(ring.jwks_file.read_text()))
    nameless = key.token({"sub": "alice"}, kid="", typ=None)
    assert verify(nameless, {"keys": [key.public_jwk]}).header.keys() == {"alg"}
    with pytest.raises(DemoError, match="cannot sign with ES256"):
        key.token({}, alg="ES256")
