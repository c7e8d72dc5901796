"""The policy: which rule decides, and what it decides."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.auth import Principal
from hpcgate.auth.claims import claim, holds, scopes
from hpcgate.auth.policy import FREE, Grant, Policy, Question
from hpcgate.config import PolicySettings
from hpcgate.config.groups import Group
from hpcgate.errors import Denied

ALICE = Principal(
    "alice",
    "token",
    claims={
        "groups": ["staff", "climate"],
        "scope": "openid jobs",
        "client_id": "ci",
        "acr": "2",
        "vip": True,
        "realm_access": {"roles": ["hpc"]},
        "entitlement": ["a", "b"],
    },
)
ASKED = Question("Alps", Group.FS_READ, "10.1.2.3")


def decide(rule: dict[str, Any] | None = None, question: Question = ASKED, **policy: Any) -> Grant:
    rules = [] if rule is None else [{"name": "r", **rule}]
    return Policy(PolicySettings.model_validate({"rules": rules, **policy})).decide(ALICE, question)


def test_no_policy_allows_everything() -> None:
    assert Policy(None).decide(ALICE, ASKED) is FREE
    assert FREE.covers(b"/anything")


def test_the_default() -> None:
    """What no rule applies to is decided by the default."""
    with pytest.raises(Denied, match="no rule of the policy allows it") as caught:
        decide()
    assert caught.value.rule == "default"
    assert caught.value.data == {"reason": "policy", "rule": "default"}
    assert decide(default="allow") is FREE


HOLDS = [
    {},
    {"users": ["bob", "alice"]},
    {"groups": ["climate", "other"]},
    {"scopes": ["jobs", "openid"]},
    {"clients": ["web", "ci"]},
    {"claims": {"acr": "2"}},
    {"claims": {"acr": ["1", "2"], "entitlement": ["b"]}},
    {"claims": {"vip": True}},
    {"claims": {"realm_access.roles": "hpc"}},
    {"claims": {"vip": []}},
    {"networks": ["10.1.0.0/16"]},
    {"networks": ["192.0.2.1", "10.1.2.3"]},
    {"systems": ["ALPS"]},
    {"operations": ["fs:read", "fs:write"]},
]
FAILS = [
    {"users": ["bob"]},
    {"groups": ["Staff"]},
    {"scopes": ["jobs", "admin"]},
    {"clients": ["web"]},
    {"claims": {"acr": "1"}},
    {"claims": {"acr": 2}},
    {"claims": {"vip": 1}},
    {"claims": {"vip": "true"}},
    {"claims": {"acr": "2", "missing": []}},
    {"claims": {"realm_access.nothing": "hpc"}},
    {"networks": ["10.2.0.0/16", "::/0"]},
    {"systems": ["eiger"]},
    {"operations": ["fs:write", "transfer"]},
]


@pytest.mark.parametrize("conditions", HOLDS)
def test_conditions_that_hold(conditions: dict[str, Any]) -> None:
    """A rule whose conditions hold decides, for or against."""
    assert decide(conditions).rule == "r"
    with pytest.raises(Denied) as caught:
        decide({**conditions, "effect": "deny"}, default="allow")
    assert caught.value.rule == "r"
    assert "'r'" in caught.value.message


@pytest.mark.parametrize("conditions", FAILS)
def test_conditions_that_do_not(conditions: dict[str, Any]) -> None:
    with pytest.raises(Denied) as caught:
        decide(conditions)
    assert caught.value.rule == "default"
    assert decide({**conditions, "effect": "deny"}, default="allow") is FREE


@pytest.mark.parametrize("first", HOLDS)
@pytest.mark.parametrize("second", FAILS)
def test_all_conditions_must_hold(first: dict[str, Any], second: dict[str, Any]) -> None:
    if not first.keys() & second.keys():
        with pytest.raises(Denied):
            decide(first | second)


def test_the_first_rule_that_applies_decides() -> None:
    rules = [
        {"name": "others", "users": ["bob"]},
        {"name": "reads", "operations": ["fs:read"], "paths": ["/data"]},
        {"name": "no", "effect": "deny"},
        {"name": "late"},
    ]
    policy = Policy(PolicySettings.model_validate({"rules": rules, "default": "allow"}))
    assert policy.decide(ALICE, ASKED) == Grant("reads", (b"/data",))
    with pytest.raises(Denied, match="'no'"):
        policy.decide(ALICE, dataclasses.replace(ASKED, group=Group.FS_WRITE))


@pytest.mark.parametrize(
    ("source", "network", "there"),
    [
        ("::ffff:10.1.2.3", "10.1.0.0/16", True),
        ("2001:db8::1", "2001:db8::/32", True),
        ("10.1.2.3", "2001:db8::/32", False),
        (None, "0.0.0.0/0", False),
        ("testclient", "0.0.0.0/0", False),
    ],
)
def test_source_networks(source: str | None, network: str, there: bool) -> None:
    """A rule with networks applies to requests from there alone."""
    question = dataclasses.replace(ASKED, source=source)
    rule = {"networks": [network]}
    if there:
        assert decide(rule, question).rule == "r"
    else:
        with pytest.raises(Denied):
            decide(rule, question)


def test_paths() -> None:
    """A rule with paths allows these and what is beneath them."""
    grant = decide({"paths": ["/scratch/{username}/ci/", "/data"]})
    assert grant.paths == (b"/scratch/alice/ci", b"/data")
    for path in (b"/scratch/alice/ci", b"/scratch/alice/ci/x", b"/data/\xff"):
        assert grant.covers(path)
    for path in (b"/scratch/alice", b"/scratch/alice/ci2", b"/scratch/bob/ci", b"/", b"/data2", b""):
        assert not grant.covers(path)
    assert decide({"paths": ["/"]}).covers(b"/anything")


@given(st.text("ab/.", max_size=12))
def test_a_covered_path_begins_with_the_prefix(text: str) -> None:
    covered = Grant("r", (b"/a/b",)).covers(text.encode())
    assert covered == (text.split("/")[:3] == ["", "a", "b"])


def test_claims_of_every_shape() -> None:
    claims = {"a.b": 1, "a": {"b": 2}, "list": [1, "x", None], "scp": ["r", 3], "scope": "s t"}
    assert claim(claims, "a.b") == 1
    assert claim({"a": {"b": 2}}, "a.b") == 2
    assert claim({"a": "text"}, "a.b") is None
    assert holds(claims, "list", ("x",))
    assert not holds(claims, "list", (True,))
    assert scopes(claims) == {"r", "s", "t"}
