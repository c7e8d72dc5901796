"""Variables and tools as users and sites have them: every operation of every case, in both ways of file access."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hpcgate.demo.sshd import Sshd
from hpcgate.errors import GatewayError
from hpcgate.ssh.connection import Connection
from hpcgate.ssh.session import Session
from tests.sites.operations import VERBS, Failed
from tests.sites.surroundings import TOOLS, UMASKS, VARIABLES
from tests.sites.test_start_up import Account
from tests.ssh.conftest import MakePool, make_pool, nodes, sshd
from tests.ssh.nodes import LoginNodes, principal

__all__ = ["make_pool", "nodes", "sshd"]

WAYS = ("auto", "commands")
RIGHT = dict.fromkeys(VERBS, "right")


async def outcomes(session: Session, place: Path) -> dict[str, str]:
    """Do everything, one after the other, and return what came of each."""
    found = {}
    for name, operation in VERBS.items():
        try:
            await operation(session, place)
            found[name] = "right"
        except GatewayError as error:
            found[name] = f"{error.status} {error.message}"
        except Failed as failed:
            found[name] = f"exit {failed}"
        except AssertionError as wrong:
            found[name] = f"wrong: {wrong}"
    return found


def exporting(variables: Mapping[str, str]) -> str:
    """Return a start-up file that exports variables; it becomes another program, as only so they can have any name."""
    exports = [shlex.quote(f"{name}={value}") for name, value in variables.items()]
    again = 'exec env HPCGATE_ZOO=1 {} bash -c "$BASH_EXECUTION_STRING"'.format(" ".join(exports))
    return f'[ -n "$HPCGATE_ZOO" ] || {again}'


@pytest.mark.parametrize("files", WAYS)
@pytest.mark.parametrize("case", VARIABLES)
async def test_variables_of_the_users_own_change_nothing(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, case: str, files: str
) -> None:
    with Account(nodes) as account:
        account.starts_with(exporting(VARIABLES[case]))
        pool = make_pool(sshd, files=files, start_up_timeout=60, timeout={"command_execution": 60})
        async with pool.lease(principal(account.user)) as session:
            assert await outcomes(session, account.place) == RIGHT
        await pool.close()
        account.has_lost_nothing()


@pytest.mark.parametrize("files", WAYS)
@pytest.mark.parametrize("umask", UMASKS)
async def test_a_umask_changes_nothing_but_modes(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, umask: str, files: str
) -> None:
    with Account(nodes) as account:
        account.starts_with(f"umask {umask}")
        pool = make_pool(sshd, files=files, start_up_timeout=60, timeout={"command_execution": 60})
        async with pool.lease(principal(account.user)) as session:
            assert await outcomes(session, account.place) == RIGHT
        await pool.close()
        account.has_lost_nothing()


@pytest.mark.parametrize("files", WAYS)
@pytest.mark.parametrize("case", TOOLS)
async def test_tools_as_sites_have_them(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, case: str, files: str
) -> None:
    tools = TOOLS[case]
    with Account(nodes) as account:
        directory = account.place / "site tools"
        directory.mkdir()
        for name, text in tools.shims.items():
            (directory / name).write_text("#!/bin/sh\n" + text.replace("{real}", str(shutil.which(name))) + "\n")
            (directory / name).chmod(0o755)
        account.starts_with(f"PATH={shlex.quote(str(directory))}:$PATH")
        pool = make_pool(sshd, files=files, start_up_timeout=60, timeout={"command_execution": 60})
        async with pool.lease(principal(account.user)) as session:
            found = await outcomes(session, account.place)
        await pool.close()
        account.has_lost_nothing()
    for name, outcome in found.items():
        if name in tools.fails and outcome != "right":
            assert outcome.startswith(("4", "501")), (name, outcome)
            assert tools.fails[name] in outcome
        else:
            assert outcome == "right", (name, outcome)


@pytest.mark.parametrize("files", WAYS)
async def test_a_start_up_file_is_read_once_a_command(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, files: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the login shell that sshd starts; a bash that it started in turn would read the file again (bash(1))."""
    lines: list[bytes] = []
    create = Connection._create

    async def counted(connection: Connection, slot: Any, session: Any, command: bytes | None, subsystem: Any) -> Any:
        lines.extend([] if command is None else [command])
        return await create(connection, slot, session, command, subsystem)

    monkeypatch.setattr(Connection, "_create", counted)
    with Account(nodes) as account:
        reads = account.place / "reads"
        reads.touch()
        shutil.chown(reads, account.user.uid)
        account.starts_with(f"echo read >>{reads}")
        pool = make_pool(sshd, files=files, start_up_timeout=60, timeout={"command_execution": 60})
        async with pool.lease(principal(account.user)) as session:
            assert await outcomes(session, account.place) == RIGHT
        await pool.close()
        assert len(reads.read_text().splitlines()) == len(lines)
    assert len(lines) > 5
