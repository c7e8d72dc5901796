"""Accounts as directories of sites have them: names, numbers, groups and homes. Each line meets every operation."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from hpcgate.auth import Principal
from hpcgate.credentials.base import Credential, CredentialSource
from hpcgate.demo.keys import Key
from hpcgate.demo.sshd import Sshd
from hpcgate.demo.users import suffix
from hpcgate.ssh.pool import Pool
from tests.sites.operations import CONTENT, OLD, verb
from tests.sites.test_surroundings import RIGHT, outcomes
from tests.ssh.conftest import nodes, sshd
from tests.ssh.nodes import LoginNodes, principal, settings

__all__ = ["nodes", "sshd"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes accounts")


@dataclass(frozen=True)
class Kind:
    """What an account is like.

    Attributes:
        name: Its name, with ``{}`` for what makes it unique on this machine.
        home: The last component of its home directory.
        uid: Its number, or None for the next one.
        group: The name of a group that it is in, with ``{}``.
        groups: In how many more groups it is.
    """

    name: str = "carol-{}"
    home: bytes = b"carol"
    uid: int | None = None
    group: str = ""
    groups: int = 0


ACCOUNTS = {
    "a home with blanks": Kind(home=b" my  home "),
    "a home with quotes": Kind(home=b'it\'s "mine"'),
    "a home with what a shell expands": Kind(home=b"$(touch ran)`id`$HOME*?[a]~!{a,b}"),
    "a home with a backslash": Kind(home=b"a\\nb\\"),
    "a home that begins with a dash": Kind(home=b"-rf"),
    "a home in another script": Kind(home="h\u00f6me \u5bb6".encode()),
    "a home that is not UTF-8": Kind(home=b"h\xf6me \xff"),
    "a long home": Kind(home=b"x" * 255),
    "a number above 2^31": Kind(uid=3_000_000_000),
    "the largest number": Kind(uid=4_294_967_293),
    "hundreds of groups": Kind(groups=300),
    "a group with blanks": Kind(group="domain users {}"),
    "a group of a domain": Kind(group="EXAMPLE\\staff {}"),
    "a group in another script": Kind(group="gr\u00fcppe-{}"),
    "a name with capitals": Kind(name="Carol.Smith-{}"),
    "a name of a realm": Kind(name="carol{}@example.org"),
    "a name of a domain": Kind(name="EXAMPLE\\carol{}"),
    "a name of digits": Kind(name="0123456{}"),
    "a name with a dollar": Kind(name="carol{}$"),
    "a name with a plus": Kind(name="carol+x{}"),
    "a name in another script": Kind(name="kar\u00f6l{}"),
}


class OneKey(CredentialSource):
    """Gives everybody the same key."""

    def __init__(self, key: Key) -> None:
        self._key = asyncssh.import_private_key(key.private_text())

    async def credential(self, principal: Principal) -> Credential:
        return Credential(self._key)


@dataclass(frozen=True)
class Made:
    """An account.

    Attributes:
        name: Its name.
        place: A directory in its home.
        keys: What it logs in with.
    """

    name: str
    place: Path
    keys: CredentialSource


def patiently(argv: list[str | bytes], **environment: str) -> None:
    """Change accounts, once nobody else does."""
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(argv, capture_output=True, env={**os.environ, **environment}, check=False)
        if not done.returncode:
            return
        assert b"lock" in done.stderr, done.stderr
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.1)


def edit_groups(directory: Path, script: str) -> None:
    """Have a script edit the file of groups, $1: groupadd refuses names that directories have, and takes its time."""
    editor = directory / "editor"
    editor.write_text(script, encoding="utf-8")
    patiently(["vigr", "-q"], EDITOR=f"sh {editor}")


@contextmanager
def account(nodes: LoginNodes, kind: Kind) -> Iterator[Made]:
    mark = suffix()
    name = kind.name.format(mark)
    home = os.fsencode(nodes.directory / "homes") + b"/" + kind.home
    gid = 60_000_000 + int(mark, 16) * 1000
    groups = [kind.group.format(mark)] if kind.group else []
    groups += [f"project-{mark}-{number}" for number in range(kind.groups)]
    key = Key.make("carol")
    authorized = nodes.directory / "ssh" / "authorized_keys" / name
    # From OpenSSH 10.0 on AuthorizedKeysFile is a pattern (glob(7)), in which a name's backslash is no character.
    as_pattern = authorized.with_name(name.replace("\\", ""))
    try:
        if groups:
            lines = [f"{group}:x:{gid + number}:{name}\n" for number, group in enumerate(groups)]
            edit_groups(nodes.directory, "cat >>\"$1\" <<'END'\n" + "".join(lines) + "END\n")
        argv: list[str | bytes] = [
            "useradd",
            "--badname",
            "--no-create-home",
            "--no-log-init",
            "--user-group",
            "--home-dir",
            home,
        ]
        number: list[str | bytes] = [] if kind.uid is None else ["--non-unique", "--uid", str(kind.uid)]
        patiently([*argv, *number, "--shell", "/bin/bash", "--password", "*", name])
        os.mkdir(home, 0o755)
        place = Path(os.fsdecode(home)) / "work"
        place.mkdir()
        (place / "old").write_bytes(OLD)
        for path in (place.parent, place):
            shutil.chown(path, name)
            subprocess.run(["chgrp", name, path], check=True)
        for written in {authorized, as_pattern}:
            written.write_text(key.public_line + "\n")
        yield Made(name, place, OneKey(key))
    finally:
        for written in (authorized, as_pattern):
            written.unlink(missing_ok=True)
        if groups:
            edit_groups(nodes.directory, f"sed -i '/:x:{gid // 1000}[0-9][0-9][0-9]:/d' \"$1\"\n")
        if any(known.pw_name == name for known in pwd.getpwall()):
            patiently(["userdel", "--force", name])
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.parametrize("case", ACCOUNTS)
async def test_all_comes_right_for_an_account(sshd: Sshd, nodes: LoginNodes, case: str) -> None:
    with account(nodes, ACCOUNTS[case]) as made:
        by_commands = Pool("demo", settings(sshd, files="commands"), made.keys)
        async with by_commands.lease(principal(made.name)) as session:
            assert await outcomes(session, made.place) == RIGHT
            (row,) = [entry for entry in await verb(session, "ls", path=made.place) if entry.name == "written"]
            assert (row.user, row.group, int(row.size)) == (made.name, made.name, len(CONTENT))
        await by_commands.close()
        pool = Pool("demo", settings(sshd), made.keys)
        async with pool.lease(principal(made.name)) as session:
            assert await outcomes(session, made.place) == RIGHT
        await pool.close()
