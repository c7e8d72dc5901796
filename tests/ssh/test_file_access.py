"""What one user finds of how a system's files are reached, and for whom that counts."""

from __future__ import annotations

from typing import Any

import pytest

from hpcgate.demo.sshd import Sshd
from hpcgate.ssh.channels import ChannelRefused
from hpcgate.ssh.connection import Connection
from hpcgate.ssh.file_servers import FileAccess
from hpcgate.ssh.files.command_files import CommandFiles
from hpcgate.ssh.files.sftp_files import SftpFiles
from tests.ssh.conftest import MakePool
from tests.ssh.nodes import LoginNodes, principal


async def test_a_user_without_sftp_has_it_taken_from_nobody(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whoever has as many processes as the login node lets them have, just when the gateway has begun."""
    opened = Connection.open_channel

    async def refused(self: Any, slot: Any, session: Any, patience: float, **options: Any) -> Any:
        if self.username == nodes.alice.name and options.get("subsystem"):
            slot.release()
            raise ChannelRefused("no further process")
        return await opened(self, slot, session, patience, **options)

    monkeypatch.setattr(Connection, "open_channel", refused)
    pool = make_pool(sshd)
    for user, kind in ((nodes.alice, CommandFiles), (nodes.bob, SftpFiles), (nodes.alice, CommandFiles)):
        async with pool.lease(principal(user)) as session:
            assert type(await session.plain_files()) is kind


@pytest.mark.parametrize(
    ("lacking", "way"),
    [(["alice"], None), (["alice", "alice"], None), (["alice", "bob"], "commands"), (["a", "a", "b"], "commands")],
)
def test_two_users_have_to_find_it(lacking: list[str], way: str | None) -> None:
    access = FileAccess("auto")
    for username in lacking:
        access.lack(username)
    assert access.way == way


def test_where_one_has_had_sftp_all_go_on_with_it() -> None:
    access = FileAccess("auto", way="sftp")
    for username in ("alice", "bob"):
        access.lack(username)
    assert access.way == "sftp"
