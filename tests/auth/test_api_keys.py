"""API keys: whom they stand for, when they do not, and that nothing else does."""

import datetime
import hashlib
from collections.abc import MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from hpcgate.auth import api_keys as module
from hpcgate.auth.api_keys import ApiKeys, hash_of, new_key
from hpcgate.config import ApiKeySettings
from hpcgate.config.auth import AuthSettings
from hpcgate.errors import Forbidden, NotSupported, Unauthenticated

Logs = list[MutableMapping[str, Any]]
KEY, OTHER = new_key(), new_key()
NEVER = "2999-01-01T00:00:00Z"


def settings(key: str = KEY, **changes: Any) -> ApiKeySettings:
    return ApiKeySettings.model_validate(
        {"name": "nightly", "hash": hash_of(key), "username": "alice", "expires": NEVER} | changes
    )


def keys(*which: ApiKeySettings, required: tuple[str, ...] = ()) -> ApiKeys:
    return ApiKeys(which or (settings(),), served, required)


def served(username: str) -> str:
    if username == "root":
        raise Forbidden("The user root is not served")
    return username


def refused(held: ApiKeys, key: str, source: str | None = "192.0.2.1") -> None:
    """See that a key is refused, and that the refusal is the same for whatever reason and tells nothing."""
    with pytest.raises(Unauthenticated) as caught:
        held.principal(key, source)
    assert caught.value.message == "Invalid API key"
    assert caught.value.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    assert caught.value.__context__ is None


def test_a_key_stands_for_its_user() -> None:
    held = keys(settings(scopes=["a", "b"]), settings(OTHER, name="other", username="bob"))
    alice = held.principal(KEY, "192.0.2.1")
    assert (alice.username, alice.client_id, alice.token_id) == ("alice", "nightly", "api-key:nightly")
    assert alice.claims["scope"] == "a b"
    assert alice.asking("1", "2").api_key == "nightly"
    bob = held.principal(OTHER, None)
    assert bob.username == "bob"
    assert alice.standing != bob.standing
    assert [held.caller(key, lambda: None) for key in (KEY, OTHER, new_key())] == ["alice", "bob", None]


def test_the_key_itself_is_nowhere() -> None:
    held = keys()
    principal = held.principal(KEY, None)
    for shown in (repr(held), repr(principal), repr(vars(held)), principal.token, str(principal.claims)):
        assert KEY not in shown
        assert KEY.removeprefix("hpcgate_") not in shown


def test_a_service_that_wants_a_token_is_not_given_the_key() -> None:
    principal = keys().principal(KEY, None)
    with pytest.raises(NotSupported, match="an API key is not one"):
        _ = principal.bearer


@pytest.mark.parametrize(
    "key",
    [
        "", " ", "x", OTHER, KEY[:-1], KEY + "A", KEY.upper(), f" {KEY}", f"{KEY} ", f"{KEY}\n", f"Bearer {KEY}",
        KEY.removeprefix("hpcgate_"), hash_of(KEY), hash_of(KEY).removeprefix("sha256:"), KEY.replace("_", "\u0332", 1),
        "hpcgate_" + "A" * 43, "x" * 1_000_000, "\udcff", "\0", "*", "' OR 1=1 --",
    ],
    # Every process makes keys of its own, and all must call the tests the same.
    ids=lambda _: "key",
)  # fmt: skip
def test_whatever_else_is_sent_is_refused_alike(key: str) -> None:
    held = keys()
    refused(held, key)
    assert held.caller(key, lambda: None) is None


def test_a_key_that_somebody_made_up_is_none_though_its_hash_is_configured() -> None:
    for weak in ("password", "hpcgate_password", ""):
        refused(keys(settings(weak)), weak)


def test_guesses_leave_nothing_behind_and_let_nobody_in() -> None:
    held = keys()
    before = repr(sorted(vars(held)))
    for _ in range(10_000):
        refused(held, new_key())
    assert repr(held) == "<ApiKeys 1>"
    assert repr(sorted(vars(held))) == before
    assert held.principal(KEY, None).username == "alice"


def test_a_key_is_looked_up_by_a_digest_that_nobody_can_choose() -> None:
    # What the time of a look-up tells is about SHA-256 digests, not about keys: no character of one is ever compared.
    assert list(vars(keys())["_keys"]) == [hashlib.sha256(KEY.encode()).digest()]


def test_new_keys_are_random() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(len(key) == len("hpcgate_") + 43 for key in made)


def test_a_key_ends(monkeypatch: pytest.MonkeyPatch, logs: Logs) -> None:
    """A key counts until the moment of its end, and no longer."""
    end = datetime.datetime(2027, 6, 30, tzinfo=datetime.UTC)
    held = keys(settings(expires="2027-06-30T02:00:00+02:00"))
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: end.timestamp() - 0.01))
    assert held.principal(KEY, None).expires_at == end.timestamp()
    assert held.caller(KEY, lambda: None) == "alice"
    monkeypatch.setattr(module, "time", SimpleNamespace(time=end.timestamp))
    refused(held, KEY)
    assert held.caller(KEY, lambda: None) is None
    assert [(event["event"], event["key"], event["reason"]) for event in logs] == [
        ("api_key.refused", "nightly", "expired")
    ]
    assert KEY not in repr(logs)


@pytest.mark.parametrize(
    ("source", "good"),
    [
        ("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("2001:db8::1", True), ("10.2.0.1", False), ("", False),
        (None, False), ("unix", False), ("2001:db9::1", False), ("10.1.2.3, 1.1.1.1", False),
    ],
)  # fmt: skip
def test_a_key_comes_from_its_networks(logs: Logs, source: str | None, good: bool) -> None:
    held = keys(settings(networks=["10.1.0.0/16", "2001:db8::/32"]))
    # From elsewhere it takes none of its user's turns either.
    assert held.caller(KEY, lambda: source) == ("alice" if good else None)
    if good:
        assert held.principal(KEY, source).username == "alice"
    else:
        refused(held, KEY, source)
        assert logs[0]["reason"] == "network"


def test_scopes_and_names_hold_as_for_tokens() -> None:
    assert keys(settings(scopes=["hpc", "x"]), required=("hpc",)).principal(KEY, None)
    with pytest.raises(Forbidden, match="lacks a required scope"):
        keys(settings(scopes=["x"]), required=("hpc",)).principal(KEY, None)
    with pytest.raises(Forbidden, match="root is not served"):
        keys(settings(username="root")).principal(KEY, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"hash": KEY}, {"hash": "sha256:abc"}, {"hash": "md5:" + "0" * 64}, {"hash": hash_of(KEY).upper()},
        {"hash": ""},
        {"name": ""}, {"name": "a b"}, {"username": ""}, {"expires": None}, {"expires": "2027-01-01T00:00:00"},
        {"networks": ["10.1.2.3/8"]}, {"api_key": KEY},
    ],
)  # fmt: skip
def test_what_a_configuration_may_not_hold(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(**changes)
    assert KEY not in str(caught.value)


def test_two_keys_differ() -> None:
    """Two keys have neither a name nor a hash in common."""
    oidc = {"token_url": "http://127.0.0.1/token"}
    one = settings().model_dump()
    for other in ({**one, "name": "other"}, {**one, "hash": hash_of(OTHER)}):
        with pytest.raises(ValidationError, match="two have the same"):
            AuthSettings.model_validate({"authentication": oidc, "api_keys": [one, other]})
