"""The Unix users of a demo cluster."""

from __future__ import annotations

import grp
import os
import pwd
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from hpcgate.demo.keys import Key, write_private
from hpcgate.demo.problems import DemoError
from hpcgate.demo.processes import Identity, Keeper

DENIED_GROUPS = ("root", "bin", "admin", "sys")
"""Groups whose members the login nodes do not let in."""


@dataclass(frozen=True, slots=True)
class User:
    """A user of the demo cluster: a Unix account here, with an SSH key and a client at the identity provider."""

    name: str
    """The Unix name, unique on this machine, for instance ``alice-1f3a``."""
    role: str
    """The name without the suffix that makes it unique: ``alice``, ``bob``, or the name again."""
    uid: int
    gid: int
    groups: tuple[str, ...]
    """Names of all groups, the primary one first."""
    home: Path
    """Where the user works in the demo. For an ordinary user, whose home it is not, so that nothing is left there."""
    key: Key = field(repr=False)
    private_key: Path
    certificate: Path
    client_id: str
    client_secret: str = field(repr=False)

    @property
    def identity(self) -> Identity:
        """What a process needs to run as this user."""
        return Identity(self.uid, self.gid, tuple(os.getgrouplist(self.name, self.gid)))


def suffix() -> str:
    """Return four random hexadecimal digits."""
    return secrets.token_hex(2)


def make_users(keeper: Keeper, homes: Path, keys: Path, authority: Key, roles: tuple[str, ...]) -> list[User]:
    """Make the users of a demo: one Unix account a role as root, else the current user alone.

    Their homes are made in ``homes``, their keys and certificates, signed by ``authority``, written to ``keys``. All of
    them share a supplementary group, too. The keeper removes them at the end.
    """
    if os.geteuid() != 0:
        name = _current_user()
        return [_equip(name, name, homes, keys, authority)]
    mark = _unused_mark(roles)
    group = f"project-{mark}"
    keeper.make("group", group, ["groupadd", group])
    users = []
    for role in roles:
        name = f"{role}-{mark}"
        keeper.make(
            "user",
            name,
            [
                "useradd",
                "--no-create-home",
                "--home-dir",
                str(homes / name),
                "--user-group",
                "--groups",
                group,
                "--shell",
                "/bin/bash",
                # No password that would open it, and not locked either, which sshd would refuse keys for.
                "--password",
                "*",
                name,
            ],
        )
        users.append(_equip(name, role, homes, keys, authority))
    return users


def _equip(name: str, role: str, homes: Path, keys: Path, authority: Key) -> User:
    account = pwd.getpwnam(name)
    home = homes / name
    home.mkdir(mode=0o755)
    os.chown(home, account.pw_uid, account.pw_gid)
    key = Key.make(name)
    private_key = key.write(keys / name)
    certificate = write_private(keys / f"{name}-cert.pub", (authority.certify(key, [name]) + "\n").encode())
    gids = [account.pw_gid, *(gid for gid in os.getgrouplist(name, account.pw_gid) if gid != account.pw_gid)]
    return User(
        name=name,
        role=role,
        uid=account.pw_uid,
        gid=account.pw_gid,
        groups=tuple(_group_name(gid) for gid in gids),
        home=home,
        key=key,
        private_key=private_key,
        certificate=certificate,
        client_id=f"demo-{role}",
        client_secret=secrets.token_urlsafe(24),
    )


def _current_user() -> str:
    """Return the name of the user who runs this; raise DemoError if the demo's login node would not let them in."""
    try:
        account = pwd.getpwuid(os.geteuid())
    except KeyError:
        raise DemoError(
            f"uid {os.geteuid()} has no name on this machine, and without one sshd lets nobody in"
        ) from None
    groups = {_group_name(gid) for gid in os.getgrouplist(account.pw_name, account.pw_gid)}
    if denied := sorted(groups & set(DENIED_GROUPS)):
        raise DemoError(
            f"{account.pw_name} is in the group {' and '.join(denied)}, whose members the demo's sshd does not let in"
            " (DenyGroups); run the demo as root or as another user"
        )
    return account.pw_name


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _unused_mark(roles: tuple[str, ...]) -> str:
    taken = {account.pw_name for account in pwd.getpwall()}
    while True:
        mark = suffix()
        if not any(f"{role}-{mark}" in taken for role in roles):
            return mark
