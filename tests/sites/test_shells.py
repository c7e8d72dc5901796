"""Login shells and accounts as sites have them: what can be done is done, the rest is 424 in the refusal's words."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpcgate.demo.sshd import Sshd
from hpcgate.demo.users import User
from hpcgate.errors import GatewayError
from tests.sites.operations import VERBS, Failed
from tests.sites.shells import shell_program
from tests.sites.test_start_up import Account, behind
from tests.ssh.conftest import MakePool, make_pool, nodes, sshd
from tests.ssh.nodes import LoginNodes, principal

__all__ = ["behind", "make_pool", "nodes", "sshd"]

RIGHT = dict.fromkeys(VERBS, "right")
SHELLS = ("bash", "dash", "zsh", "mksh", "ksh93", "busybox", "tcsh", "fish")
BY_SFTP = ("ls", "view", "upload", "put", "head")
"""Operations that need no command where sshd has an SFTP server of its own; it does not tell inode numbers."""


@contextmanager
def shell_of(user: User, shell: str) -> Iterator[None]:
    """Give a user another login shell."""
    subprocess.run(["usermod", "--shell", shell, user.name], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["usermod", "--shell", "/bin/bash", user.name], check=True, capture_output=True)


UNDONE: dict[str, Callable[[Path], bool]] = {
    "mkdir": lambda place: not (place / "made").exists(),
    "symlink": lambda place: not (place / "link").is_symlink(),
    "chmod": lambda place: (place / "old").stat().st_mode & 0o777 == 0o644,
    "rm": lambda place: (place / "gone" / "file").exists(),
    "extract": lambda place: not (place / "unpacked" / "old").exists(),
}
"""How it shows that what was answered with an error has changed nothing."""


async def outcomes(
    make_pool: MakePool, node: Sshd, account: Account, files: str, start_up: float = 60
) -> dict[str, str]:
    """Do everything, one after the other, and return what came of each."""
    pool = make_pool(node, files=files, start_up_timeout=start_up, timeout={"command_execution": 60})
    found = {}
    async with pool.lease(principal(account.user)) as session:
        for name, operation in VERBS.items():
            try:
                await operation(session, account.place)
                found[name] = "right"
            except GatewayError as error:
                found[name] = f"{error.status} {error.message}"
            except Failed as failed:
                found[name] = f"exit {failed}"
    await pool.close()
    account.has_lost_nothing()
    for name, is_undone in UNDONE.items():
        assert found[name] == "right" or is_undone(account.place), (name, found[name])
    return found


@pytest.mark.parametrize("files", ["auto", "commands"])
@pytest.mark.parametrize("shell", SHELLS)
async def test_any_login_shell_does(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, shell: str, files: str, tmp_path: Path
) -> None:
    program = shell_program(shell)
    if shell == "busybox":
        # It goes by the name that it is called by.
        (nodes.directory / "sh").unlink(missing_ok=True)
        (nodes.directory / "sh").symlink_to(program)
        program = str(nodes.directory / "sh")
    with Account(nodes) as account, shell_of(account.user, program):
        assert await outcomes(make_pool, sshd, account, files) == RIGHT


REFUSALS = {
    # Shells that run no command of ours, and their words.
    "/bin/rbash": "restricted",
    "/usr/sbin/nologin": "This account is currently not available",
    "/bin/false": "exit 1",
    "/bin/true": "exit 0",
    "/bin/cat": "cat --help",
}


@pytest.mark.parametrize("shell", REFUSALS)
async def test_a_shell_that_runs_nothing_is_told_of_in_its_words(
    make_pool: MakePool, sshd: Sshd, behind: Sshd, nodes: LoginNodes, shell: str
) -> None:
    with Account(nodes) as account, shell_of(account.user, shell):
        by_commands = await outcomes(make_pool, sshd, account, "commands")
        by_sftp = await outcomes(make_pool, sshd, account, "auto")
        by_shell = await outcomes(make_pool, behind, account, "sftp")
    for name in VERBS:
        assert by_commands[name].startswith("424 "), (name, by_commands[name])
        assert REFUSALS[shell] in by_commands[name]
        assert by_shell[name].startswith("424 "), (name, by_shell[name])
    assert without_commands(by_sftp) == {*BY_SFTP}


def without_commands(outcomes: Mapping[str, str]) -> set[str]:
    """Return what came right; all else is 424."""
    right = {name for name, outcome in outcomes.items() if outcome == "right"}
    assert all(outcomes[name].startswith("424 ") for name in outcomes.keys() - right), outcomes
    return right


FORCED = {
    # What sshd runs in the place of our command, and the words.
    'echo "Password change required but no TTY available." >&2; exit 1': "Password change required",
    'echo "Your account has expired; please contact your system administrator."; exit 1': "account has expired",
    'echo "Please log in by the web." >&2': "log in by the web",
    "echo 1 web, 2 shell; read -r choice; exec $choice": "1 web, 2 shell",
    "internal-sftp": "sftp connections only",
}


@pytest.mark.parametrize("command", FORCED)
async def test_a_command_that_sshd_runs_instead_is_told_of_in_its_words(
    make_pool: MakePool, nodes: LoginNodes, command: str
) -> None:
    node = nodes.start(match_extra=f"ForceCommand {command}\n")
    with Account(nodes) as account:
        by_commands = await outcomes(make_pool, node, account, "commands", start_up=1)
        by_sftp = await outcomes(make_pool, node, account, "auto", start_up=1)
    await asyncio.to_thread(node.stop)
    for name in VERBS:
        assert by_commands[name].startswith("424 "), (name, by_commands[name])
        assert FORCED[command] in by_commands[name]
    assert without_commands(by_sftp) == ({*BY_SFTP} if command == "internal-sftp" else set())


@pytest.mark.parametrize("files", ["auto", "commands"])
async def test_a_banner_of_a_megabyte(make_pool: MakePool, nodes: LoginNodes, files: str) -> None:
    banner = nodes.directory / "banner"
    banner.write_text("All use is monitored.\n" * 50_000)
    node = nodes.start(extra=f"Banner {banner}")
    with Account(nodes) as account:
        assert await outcomes(make_pool, node, account, files) == RIGHT
    await asyncio.to_thread(node.stop)


@pytest.mark.parametrize("files", ["auto", "commands"])
async def test_a_home_that_is_not_there(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, files: str, tmp_path: Path
) -> None:
    with Account(nodes) as account:
        aside = account.home.with_name("aside")
        place = nodes.directory / "elsewhere"
        shutil.copytree(account.place, place)
        shutil.chown(place, account.user.uid, account.user.gid)
        account.home.rename(aside)
        try:
            account.place = place
            assert await outcomes(make_pool, sshd, account, files) == RIGHT
        finally:
            aside.rename(account.home)
            shutil.rmtree(place)
            account.place = account.home / "work"


@pytest.mark.parametrize("files", ["auto", "commands"])
async def test_no_more_processes(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, files: str) -> None:
    """A user who may start no more processes is answered with an error that says so."""
    with Account(nodes) as account:
        account.starts_with("ulimit -u 1")
        found = await outcomes(make_pool, sshd, account, files)
    for name, outcome in found.items():
        assert outcome == "right" or (outcome.startswith(("424 ", "exit 2")) and "fork" in outcome), (name, outcome)
