"""Commands that run as another user, as the tests run thousands."""

import ast
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from hpcgate.demo.processes import Identity

NOBODY = pwd.getpwnam("nobody")
TESTS = Path(__file__).parents[1]
FEW = {"cluster/test_modes.py", "pbs/test_standin.py"}
"""Files that let Python fork, for a server that is started once and a handful of commands."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("groups", [(), (NOBODY.pw_gid, 54321)])
def test_a_command_has_the_users_ids_and_groups_and_its_own_words(groups: tuple[int, ...]) -> None:
    identity = Identity(NOBODY.pw_uid, NOBODY.pw_gid, groups)
    said = [
        subprocess.run(identity.command(["id", option]), capture_output=True, text=True, check=True).stdout.split()
        for option in ("-u", "-ru", "-g", "-rg", "-G")
    ]
    uid, gid = [str(NOBODY.pw_uid)], [str(NOBODY.pw_gid)]
    assert said[:-1] == [uid, uid, gid, gid]
    assert set(said[-1]) == {*gid, *map(str, groups)}
    words: list[str | bytes | Path] = ["printf", "%s|", "--reuid=0", b"\xff", " "]
    printed = subprocess.run(identity.command(words), capture_output=True, check=True)
    assert printed.stdout == b"--reuid=0|\xff| |"


def test_whoever_is_not_root_stays_who_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert Identity(1, 2, (3,)).command(["id"]) == ["id"]


def forking_calls(source: bytes) -> list[int]:
    """Return the lines of calls that tell subprocess whose identity to take."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and any(word.arg in ("user", "group", "extra_groups") for word in node.keywords)
        and "subprocess" in ast.unparse(node)
    ]


def test_no_test_has_python_fork_for_another_user() -> None:
    """With `user` and its like Python forks, which takes 40 ms where a process of tests has come to 800 MiB."""
    assert forking_calls(b"asyncio.to_thread(subprocess.run, [], group=3)") == [1]
    forking = set()
    for path in TESTS.rglob("*.py"):
        source = path.read_bytes()
        if b"subprocess" in source and b"user=" in source and forking_calls(source):
            forking.add(str(path.relative_to(TESTS)))
    assert forking == FEW
