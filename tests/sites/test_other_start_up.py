"""Start-up files that are not bash's, those of zsh, csh and fish and sshd's own, ~/.ssh/rc; and settings of sshd's.

A line each; with each the operations come right in both ways of file access, or where it harms, are 424 and name it.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from hpcgate.demo.sshd import Sshd
from tests.sites.operations import OPERATIONS
from tests.sites.shells import shell_program
from tests.sites.test_shells import shell_of
from tests.sites.test_start_up import Account, comes_right, try_all
from tests.ssh.conftest import MakePool, make_pool, nodes, sshd
from tests.ssh.nodes import LoginNodes, principal

__all__ = ["make_pool", "nodes", "sshd"]

ZSH, CSH, FISH, RC = ".zshenv", ".cshrc", ".config/fish/config.fish", ".ssh/rc"


@dataclass(frozen=True)
class Start:
    """A login shell, and a file that is read before its command."""

    shell: str
    file: str
    text: str
    harmful: bool = False


STARTS = {
    # sorin-ionescu/prezto 1340
    "zsh that prints": Start("zsh", ZSH, "echo executing zshenv; print -u2 zshenv"),
    "zsh with options": Start(
        "zsh", ZSH, "setopt err_exit no_unset no_clobber xtrace ksh_arrays sh_word_split no_multios glob_dots"
    ),
    "zsh with aliases everywhere": Start("zsh", ZSH, "alias -g cat=bat; alias sh='sh -l' rm='rm -i'; unset PATH"),
    # ohmyzsh/ohmyzsh 6813
    "zsh that finds no match": Start("zsh", ZSH, "setopt nomatch; ls /nonexistent/*(N); ls /nonexistent/*"),
    # python/cpython 154399, pypa/virtualenv 332, DIRACGrid/DIRAC 3059, adaptivecomputing/torque 450
    "csh that stops at an unset name": Start("tcsh", CSH, 'set saved="$prompt"\nsetenv NEVER 1'),
    # conda/conda 9281
    "csh that takes itself for a person's": Start(
        "tcsh", CSH, 'set prompt=""\nif ($?prompt) setenv TERM `tset -Q -`\nstty erase ^H\nmesg n'
    ),
    # microsoft/vscode-remote-release 3219
    "csh that prints": Start("tcsh", CSH, "echo Welcome; echo Welcome > /dev/stderr; set term = $term; set filec"),
    "csh with options": Start(
        "tcsh", CSH, "set echo verbose noglob noclobber nonomatch ignoreeof\nalias cat 'echo no'\nlimit descriptors 64"
    ),
    "csh with other commands": Start("tcsh", CSH, "alias sh 'echo no'; alias rm 'rm -i'; set path = (/nonexistent)"),
    # fish-shell/fish-shell 623 and 3473
    "fish that prints": Start("fish", FISH, "echo Welcome; set_color red; echo Welcome >&2"),
    "fish with other commands": Start(
        "fish", FISH, "function sh; echo no; end; function cat; echo no; end; set -gx PATH /nonexistent"
    ),
    "fish that fails": Start("fish", FISH, "if status is-nothing; no-such-command; end; source /nonexistent; return 3"),
    "zsh that runs another": Start("zsh", ZSH, "exec sh", harmful=True),
    "zsh that asks": Start("zsh", ZSH, "read -r answer", harmful=True),
    "zsh that has an alias for exec": Start("zsh", ZSH, "alias exec='echo no'", harmful=True),
    "csh that runs another": Start("tcsh", CSH, "exec sh", harmful=True),
    # microsoft/vscode-remote-release 3958: a file that asks which modules to load
    "csh that asks": Start("tcsh", CSH, "set answer = $<", harmful=True),
    "csh that has an alias for exec": Start("tcsh", CSH, "alias exec 'echo no'", harmful=True),
    # jeanp413/open-remote-ssh 221
    "fish that runs another": Start("fish", FISH, "exec sh", harmful=True),
    "fish that asks": Start("fish", FISH, "read answer", harmful=True),
    "fish that has a function for exec": Start("fish", FISH, "function exec; echo no; end", harmful=True),
    "sshd's own that prints": Start("bash", RC, "echo hello; echo hello >&2"),
    "sshd's own that reads": Start("bash", RC, "cat; read -r line; head -c 5"),
    "sshd's own that fails": Start("bash", RC, "exit 3"),
    "sshd's own that reads the terminal": Start("bash", RC, "read -r line </dev/tty; cat <&2", harmful=True),
    "sshd's own that hangs": Start("bash", RC, "sleep 4711", harmful=True),
}
"""By what it does; a comment names the trackers where somebody was bitten."""


@contextmanager
def starting(account: Account, start: Start) -> Iterator[None]:
    """Write the file, and remove it with whatever directories it needed."""
    path = account.home / start.file
    made = [parent for parent in path.relative_to(account.home).parents if not (account.home / parent).exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(start.text + "\n")
    for part in (*(account.home / parent for parent in made), path):
        shutil.chown(part, account.user.uid, account.user.gid)
    try:
        yield
    finally:
        path.unlink()
        if made:
            shutil.rmtree(account.home / made[-1])


@pytest.mark.parametrize("files", ["auto", "commands"])
@pytest.mark.parametrize("case", STARTS)
async def test_a_start_up_file_of_another_shell(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, case: str, files: str
) -> None:
    start = STARTS[case]
    startup = 0.5 if start.harmful else 60
    pool = make_pool(sshd, files=files, start_up_timeout=startup, timeout={"command_execution": 60})
    with Account(nodes) as account, shell_of(account.user, shell_program(start.shell)):
        with starting(account, start):
            async with pool.lease(principal(account.user)) as session:
                found = await try_all(session, account.place)
            if not start.harmful:
                assert found == dict.fromkeys(OPERATIONS, "right")
            account.has_lost_nothing()
        for operation in OPERATIONS.values() if start.harmful else ():
            await comes_right(pool, account, operation)
        await pool.close()
        account.has_lost_nothing()


SETTINGS = {
    # ronf/asyncssh 662 and 725, sshnet/SSH.NET 1764, hierynomus/sshj 432
    "new keys every 64 KiB": "RekeyLimit 64K",
    "no terminals and no forwarding": "PermitTTY no\nDisableForwarding yes",
    "variables of its own": "SetEnv LANG=de_CH.UTF-8 BASH_ENV=/nonexistent TAR_OPTIONS=-v POSIXLY_CORRECT=1",
    "one cipher, and no compression": "Ciphers aes128-ctr\nMACs hmac-sha2-256\nCompression no",
    # phpseclib/phpseclib 725
    "words for who logs in": "PrintMotd yes\nPrintLastLog yes",
}


@pytest.mark.parametrize("files", ["auto", "commands"])
@pytest.mark.parametrize("case", SETTINGS)
async def test_all_comes_right_with_a_setting_of_sshd(
    make_pool: MakePool, nodes: LoginNodes, case: str, files: str
) -> None:
    node = nodes.start(extra=SETTINGS[case])
    try:
        pool = make_pool(node, files=files, start_up_timeout=60, timeout={"command_execution": 60})
        with Account(nodes) as account:
            async with pool.lease(principal(account.user)) as session:
                assert await try_all(session, account.place) == dict.fromkeys(OPERATIONS, "right")
            await pool.close()
            account.has_lost_nothing()
    finally:
        await asyncio.to_thread(node.stop)
