"""Login nodes whose /bin/sh is another shell than Debian's: Red Hat's and SUSE's is bash, which takes functions."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hpcgate.demo.packages import program
from hpcgate.demo.sshd import Sshd
from tests.sites.machines import machine
from tests.sites.shells import shell_program
from tests.sites.surroundings import VARIABLES
from tests.sites.test_start_up import HARMLESS, Account
from tests.sites.test_surroundings import RIGHT, exporting, outcomes
from tests.ssh.conftest import MakePool, make_pool, nodes
from tests.ssh.nodes import LoginNodes, principal

__all__ = ["make_pool", "nodes"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
WAYS = ("auto", "commands")
SYSTEM_SHELLS = ("bash", "busybox", "ksh93")
TAKEN_OVER = (
    "exports functions", "redefines commands", "sets options", "exports its options", "loads modules",
    "exports variables", "is not bash's", "traps every command", "drops errors",
)  # fmt: skip
"""Start-up files of which such an sh takes over something, or might."""
READ = ("what a shell reads", "options of bash", "limits of bash", "a function of bash, exported")
"""Variables that such an sh reads."""


@pytest.fixture(scope="module")
def with_bash(nodes: LoginNodes) -> Iterator[Sshd]:
    with machine(nodes, {program("dash"): shell_program("bash")}) as node:
        yield node


async def all_right(make_pool: MakePool, node: Sshd, account: Account, files: str) -> None:
    pool = make_pool(node, files=files, start_up_timeout=60, timeout={"command_execution": 60})
    async with pool.lease(principal(account.user)) as session:
        assert await outcomes(session, account.place) == RIGHT
    await pool.close()
    account.has_lost_nothing()


@pytest.mark.parametrize("files", WAYS)
@pytest.mark.parametrize("shell", SYSTEM_SHELLS)
async def test_another_shell_as_sh(make_pool: MakePool, nodes: LoginNodes, shell: str, files: str) -> None:
    with machine(nodes, {program("dash"): shell_program(shell)}) as node, Account(nodes) as account:
        await all_right(make_pool, node, account, files)


@pytest.mark.parametrize("case", TAKEN_OVER)
async def test_start_up_files_where_sh_is_bash(
    make_pool: MakePool, with_bash: Sshd, nodes: LoginNodes, case: str
) -> None:
    with Account(nodes) as account:
        account.starts_with(HARMLESS[case])
        await all_right(make_pool, with_bash, account, "commands")


@pytest.mark.parametrize("case", READ)
async def test_variables_where_sh_is_bash(make_pool: MakePool, with_bash: Sshd, nodes: LoginNodes, case: str) -> None:
    with Account(nodes) as account:
        account.starts_with(exporting(VARIABLES[case]))
        await all_right(make_pool, with_bash, account, "commands")
