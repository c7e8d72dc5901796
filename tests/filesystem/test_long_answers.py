"""Commands that are asked for one thing: what they print is read in a time that grows with its length alone."""

from __future__ import annotations

from contextlib import suppress

import pytest

from hpcgate.filesystem import identity

LONG = 300_000
ANSWERS = {
    "groups that never begin": "uid=1 gid=" + " gid=" * LONG,
    "brackets": "uid=1 gid=1 groups=" + "1(" * LONG,
    "digits": "uid=1 gid=1 groups=" + "1" * LONG,
    "contexts": "uid=1 gid=1 groups=1" + " context=" * LONG,
    "lines": "uid=1 gid=1 groups=1" + "\n" * LONG + "x",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_no_line_of_id_takes_for_ever(answer: str) -> None:
    """With a square of its length in steps, this would take hours."""
    with suppress(ValueError, IndexError):
        identity.parse(ANSWERS[answer])


@pytest.mark.parametrize(
    ("line", "groups"),
    [
        ("uid=1(a) gid=2(b) groups=2(b),3", [("2", "b"), ("3", "3")]),
        ("uid=1(a) gid=2(b) groups=2(b c),3(d) context=unconfined_u:r", [("2", "b c"), ("3", "d")]),
        ("uid=1(a) gid=2(b) groups=2(d (e),3(f)", [("2", "d (e"), ("3", "f")]),
    ],
)
def test_groups_of_any_name(line: str, groups: list[tuple[str, str]]) -> None:
    assert identity.parse(line).user.name == "a"
    assert [(group.id, group.name) for group in identity.parse(line).groups] == groups
