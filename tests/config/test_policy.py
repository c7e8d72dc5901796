"""The policy's mistakes are found before anything runs."""

from pathlib import Path
from typing import Any

import pytest

from hpcgate.config.check import report

from .conftest import Writer


def with_policy(config: Writer, **policy: Any) -> Any:
    document = config.base()
    document["clusters"][0]["ssh"]["known_hosts"] = "/dev/null"
    document["auth"]["policy"] = policy
    return document


@pytest.mark.parametrize(
    ("rule", "key", "message"),
    [
        ({"systems": ["ALPS", "eiger"]}, "systems[1]", "there is no system 'eiger'"),
        ({"operations": ["fs:erase"]}, "operations[0]", "must be 'status:read', 'compute:read'"),
        ({"networks": ["10.1.2.3/16"]}, "networks[0]", "must be an IP address or a network"),
        ({"networks": ["login.example.org"]}, "networks[0]", "must be an IP address or a network"),
        ({"paths": ["scratch"]}, "paths[0]", "must be an absolute path"),
        ({"paths": ["/a/../b"]}, "paths[0]", "must be a plain path"),
        ({"paths": ["/a//b"]}, "paths[0]", "must be a plain path"),
        ({"paths": ["/a/{user}"]}, "paths[0]", "may hold {username}"),
        ({"paths": []}, None, "paths must not be empty"),
        ({"paths": ["/a"], "effect": "deny"}, None, "paths are for rules that allow"),
        ({"effect": "permit"}, "effect", "must be 'allow' or 'deny'"),
        ({"group": ["x"]}, "group", "did you mean 'groups'?"),
    ],
)
def test_mistakes(config: Writer, rule: dict[str, Any], key: str | None, message: str) -> None:
    """A mistake in a policy is named with its key."""
    found, words = config.mistake(with_policy(config, rules=[{"name": "r", **rule}]))
    assert found == "auth.policy.rules[0]" + (f".{key}" if key else "")
    assert message in words
    assert report(config.path)[1] == 1


@pytest.mark.parametrize("names", [["a", "a"], ["default"]])
def test_names(config: Writer, names: list[str]) -> None:
    """Two rules may not have one name, and none may be called default."""
    key, _ = config.mistake(with_policy(config, rules=[{"name": name} for name in names]))
    assert key == "auth.policy.rules"


def test_both_spellings(config: Writer) -> None:
    """Settings of a policy may be spelt either way."""
    settings = config.load(with_policy(config, groupsClaim="roles", rules=[{"name": "r", "systems": ["Alps"]}]))
    assert settings.auth.policy is not None
    assert settings.auth.policy.groups_claim == "roles"
    assert settings.auth.policy.default == "deny"


@pytest.mark.parametrize(
    ("policy", "warning"),
    [
        ({}, "no rule allows anything, so nobody may use any system"),
        ({"rules": [{"name": "r", "effect": "deny"}]}, "no rule allows anything"),
        ({"default": "allow", "rules": [{"name": "r"}]}, "default is allow and no rule restricts anything"),
        ({"rules": [{"name": "r"}, {"name": "s"}]}, "the rule r applies to every request, so those after it never do"),
    ],
)
def test_warnings(config: Writer, policy: Any, warning: str) -> None:
    """What a policy allows by oversight is warned of."""
    config.load(with_policy(config, **policy))
    lines, status = report(config.path)
    assert status == 0
    assert any(warning in line for line in lines)


def test_no_warning_of_a_policy_that_makes_sense(config: Writer) -> None:
    config.load(with_policy(config, rules=[{"name": "r", "groups": ["x"]}, {"name": "s", "paths": ["/a"]}]))
    assert report(config.path) == (["ok: 1 system"], 0)


def test_files_of_names(config: Writer, tmp_path: Path) -> None:
    """A file that maps values to names is checked line by line."""
    file = tmp_path / "names"
    document = config.base()
    oidc = document["auth"]["authentication"]
    oidc["username_map"] = str(file)
    assert "cannot read" in config.mistake(document)[1]
    for text, message in (
        ("a b c", "line 1 is not a value and a name"),
        ("a b\n\na c", "line 3 repeats the value of an earlier one"),
        ('"a b', "line 1 is not a value and a name"),
        ('a ""', "line 1 is not a value and a name"),
    ):
        file.write_text(text)
        assert message in config.mistake(document)[1]
    file.write_bytes(b"a \xff")
    assert "is not UTF-8 text" in config.mistake(document)[1]
    file.write_text('# comment\n\n"CN=A B" ab\nx#y z\n')
    assert config.load(document).auth.authentication.username_map == str(file)
    oidc["username_template"] = "{claim}"
    assert "stands alone" in config.mistake(document)[1]


@pytest.mark.parametrize("template", ["{name}", "{claim.x}", "{", "{0}", "{claim[0]}", "{}", "{claim!r:{claim}}"])
def test_templates(config: Writer, template: str) -> None:
    """A template of a user name holds nothing but the claim and the named groups."""
    document = config.base()
    document["auth"]["authentication"] |= {"username_match": "(?P<local>.*)@x", "username_template": template}
    assert "may hold {claim}, {local}" in config.mistake(document)[1]


def test_introspection(config: Writer) -> None:
    """The settings of introspection are checked."""
    document = config.base()
    oidc = document["auth"]["authentication"]
    oidc["public_certs"] = []
    oidc["introspection"] = {"url": "https://idp.example.org/introspect", "client_id": "c", "client_secret": "sesame"}
    settings = config.load(document)
    assert "sesame" not in repr(settings)
    assert not any("public_certs" in line for line in report(config.path)[0])
    del oidc["introspection"]["client_secret"]
    assert config.mistake(document)[0] == "auth.authentication.introspection.client_secret"
