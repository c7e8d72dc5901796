"""Lines of id(1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.filesystem.identity import Identified, parse


@pytest.mark.parametrize(
    ("line", "groups"),
    [
        ("uid=1000(alice) gid=100(users) groups=100(users),27(sudo)\n", ["users", "sudo"]),
        ("uid=1000(alice) gid=100(users) groups=100(users),5(domain users)", ["users", "domain users"]),
        ("uid=1000(alice) gid=100 groups=100,77", ["100", "77"]),
        ("uid=1000(alice) gid=100(users) groups=100(users) context=unconfined_u:unconfined_r", ["users"]),
    ],
)
def test_parse(line: str, groups: list[str]) -> None:
    """A line of id is parsed, whatever the names of groups."""
    found = parse(line)
    assert found.user == Identified("1000", "alice")
    assert found.group.id == "100"
    assert [group.name for group in found.groups] == groups


@given(st.text())
def test_noise(text: str) -> None:
    """What is not a line of id is an error."""
    with pytest.raises(ValueError, match="not a line of id"):
        parse(text)
