"""Between the login and the gateway's command stands the user's start-up file: whatever it does, nothing is lost.

Each line of the tables is a start-up file; each is crossed with all operations and with each way to reach files. An
operation comes out right, or it ends with 424 in words that name the start-up file, in one bounded wait; what it stores
is whole or not there; nothing of it is run by a shell that it was not meant for; nothing stays on the login node; and
once the file is mended, everything works.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hpcgate.demo.sshd import Sshd
from hpcgate.demo.users import User
from hpcgate.errors import BadAnswer, GatewayError, NeverBegan
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.session import Session
from tests.sites.operations import OLD, OPERATIONS, STORED, VERBS, Operation
from tests.ssh.conftest import MakePool, make_pool, nodes, sshd
from tests.ssh.nodes import LoginNodes, principal, processes

__all__ = ["make_pool", "nodes", "sshd"]

HARMLESS = {
    "prints a number": "echo 4711",
    "prints on both outputs": "echo Welcome; echo 'perl: warning: Setting locale failed.' >&2",
    "prints no newline": "printf 'Welcome, '",
    "prints a megabyte": "head -c 1000000 /dev/zero | tr '\\0' x",
    "prints NUL bytes": "head -c 1000 /dev/zero",
    "prints another command's mark": "echo :hpcgate:4711:; echo :hpcgate:4711: >&2; echo 1",
    "prints the command line": 'set -v; set -x; echo "$BASH_EXECUTION_STRING"',
    "unsets PATH": "unset PATH",
    "empties PATH": "export PATH=",
    "has another PATH": "export PATH=/nonexistent",
    "sets options": "set -e -u -f -C -o pipefail; shopt -s nullglob failglob; umask 077",
    "exports functions": "ls() { echo no; }; stat() { echo no; }; cd() { echo no; }; export -f ls stat cd",
    "exports variables": "export LANG=de_DE LC_ALL=POSIX CDPATH=/ ENV=~/.second BASH_ENV=~/.second IFS=0",
    "goes elsewhere": "cd /",
    "says goodbye": "trap 'echo bye' EXIT; trap '' TERM",
    "looks for updates in the background": "(echo Looking for updates; sleep 0.2; echo None) 2>&1 &",
    "runs on in the background": "sleep 0.5 >/dev/null 2>&1 & disown",
    "takes a second": "sleep 1",
    "drops errors": "exec 2>/dev/null",
    "keeps a log of its output": "exec > >(tee -a ~/login.log)",
    "has limits": "ulimit -c 0 -n 64 -t 60; ulimit -s unlimited",
    "has no home": "unset HOME USER LOGNAME SHELL; export TMPDIR=/nonexistent",
    "makes variables read-only": "readonly PATH HOME IFS LC_ALL",
    "redefines commands": "command() { echo no; }; env() { echo no; }; sh() { echo no; }; export -f command env sh",
    "counts on a terminal": "stty -ixon; tty; mesg n; tput clear; bind 'set bell-style none'; set -o vi",
    "is not bash's": "set -o posix; export POSIXLY_CORRECT=1; shopt -s extglob dotglob nocasematch xpg_echo",
    "fails": "false; return 1; if",
    "asks the terminal": "stty erase '^H'; tput bold; mesg n; tset; clear; bind '\"\\e[A\": history-search-backward'",
    "traps every command": "set -o functrace; trap 'echo \"+ $BASH_COMMAND\"' DEBUG",
    "has aliases": "shopt -s expand_aliases; alias ls='ls --color' cat=bat rm='rm -i' sh='sh -l' cd=pushd",
    "allows few files, memory and time": "ulimit -n 16; ulimit -v 400000; ulimit -t 5",
    "leaves a process that keeps the input": "sleep 2 <&0 >/dev/null 2>&1 &",
    "initialises conda": '__conda_setup=$(/nonexistent/conda shell.bash hook) && eval "$__conda_setup"; conda activate',
    "hooks direnv and starship": 'eval "$(direnv hook bash)"; eval "$(starship init bash)"; PROMPT_COMMAND=history',
    "loads modules": 'module() { eval "$(/nonexistent/lmod bash "$@")"; }; export -f module; module load slurm',
    "clears the screen in colours": "printf '\\033[2J\\033[H\\033[1;31mWelcome\\033[0m\\033]0;node\\007\\r\\n'",
    "logs out who is idle": "TMOUT=1; readonly TMOUT; export TMOUT",
    "exports its options": "set -o nounset -o errexit -o noglob -o noclobber -o pipefail; export SHELLOPTS BASHOPTS",
    "traces to a file": "exec 9>>~/trace.log; BASH_XTRACEFD=9; export BASH_XTRACEFD; set -x",
    "has other descriptors open": "exec 3</dev/null 4>/dev/null 5>&1 6>&2 7<&0",
    "runs a coprocess": "coproc cat",
    "goes to a directory that is gone": 'cd "$(mktemp -d)" && rmdir "$PWD"',
    "asks the terminal for a second factor": 'read -r -s -p "Token: " token </dev/tty',
    "has small limits of files and stack": "ulimit -f 200; ulimit -s 256",
    "gives way to others": "renice -n 19 $$ >/dev/null",
    "sources what is not there": ". /nonexistent/setup.sh; source /nonexistent/env.csh",
    "ignores signals": "trap '' PIPE CHLD HUP INT QUIT",
    "leaves new files without rights": "umask 777",
    "fails at an unset name": "set -u; echo $nothing",
    "has job control": "set -m; sleep 0 & wait",
    "puts an unset name before PATH": "export PATH=$UNSET:$PATH:",
    "ends its children when it ends": "trap 'kill 0' EXIT",
    "has another root of names": "export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:; export PYTHONUSERBASE=/nonexistent",
    "allows nobody else": "umask 0177",
    "keeps a history": "HISTFILE=~/.history; set -o history; history -a",
    "is from another system": "setenv LANG C; alias ll 'ls -l'; set path = (/bin)",
    "has Windows line ends": "export EDITOR=vi\r\nalias ll='ls -l'\r\nif [ -f x ]; then\r\n  echo\r\nfi\r",
    "begins with a byte order mark": "\ufeffexport EDITOR=vi",
    "returns where nobody is to be asked": "[[ $- != *i* ]] && return; exec zsh -l",
    "starts an agent": 'eval "$(ssh-agent -s -t 2)"',
    "has arguments of its own": "set -- -c 'echo no' -- \"a b\"; shift",
    "hides its own output": "exec 8>&1 >/dev/null; echo 4711; exec >&8 8>&-",
    "makes functions read-only": "cat() { echo no; }; exec_() { :; }; readonly -f cat; export -f cat",
    "disables built-in commands": "enable -n printf test [ kill echo pwd",
    "remembers wrong places": "hash -p /nonexistent/cat cat; hash -p /nonexistent/sh sh",
    "handles what is missing": "command_not_found_handle() { cat; }; export -f command_not_found_handle; x </dev/null",
    "prints a box of its quota": "printf '\\xe2\\x94\\x8c quota: 4711 GB \\xe2\\x94\\x90\\n' >&2",
    "has arrays and an odd IFS": "declare -a x=(1 2); export IFS=$'\\n:'; declare -A y=([a]=1); export x",
    "cleans the environment": "unset $(compgen -v | grep -E '^(SSH_|LC_|LANG)') 2>/dev/null; unalias -a",
    "has the manual's guard": "case $- in *i*) ;; *) return;; esac; cat",
    "sets a shell option that fails": "shopt -s nothing; set -o nothing; ulimit -n 99999999; ulimit -u unlimited",
}
AMID_SFTP = (
    "prints a number", "prints on both outputs", "prints no newline", "prints a megabyte", "prints NUL bytes",
    "prints another command's mark", "prints the command line", "counts on a terminal", "traps every command",
    "clears the screen in colours", "starts an agent",
    "looks for updates in the background",
)  # fmt: skip
"""Those that print where an SFTP server which the shell starts would speak: what comes first is no SFTP."""
# Where they do not read what is not theirs, they do no harm either; most wait for it until the end.
HARMFUL = {
    "numbers the lines of its output": "exec > >(cat -n)",
    "drops repeated lines": "exec > >(uniq)",
    "keeps the first lines": "exec > >(head -n 20)",
    "keeps the first bytes": "exec > >(head -c 3000)",
    "keeps the last lines": "exec > >(tail -n 20)",
    "stamps its output": "exec > >(sed -u 's/^/12:00 /')",
    "shouts": "exec > >(tr a-z A-Z)",
    "ends lines as Windows does": "exec > >(sed -u 's/$/\\r/')",
    "drops NUL bytes": "exec > >(tr -d '\\0\\r')",
    "folds its output": "exec > >(fold -w 80)",
    "prints amid the output": "(while sleep 0.01; do echo 4711; done) &",
    "prints amid the output now and then": "(while sleep 0.1; do echo 4711; done) &",
    "filters the input": "exec < <(tr a-z A-Z)",
    "drops NUL bytes of its input": "exec < <(tr -d '\\0\\r')",
    "passes on part of the input": "exec < <(head -c 3000)",
    "runs another shell": "exec sh",
    "runs its own shell anew": "exec bash",
    "asks a question": 'read -r -p "Which project? " answer',
    "asks a question for a while": "read -r -t 0.1 answer",
    "eats some bytes": "head -c 5 >/dev/null",
    "eats a byte": "dd bs=1 count=1 of=/dev/null status=none",
    "eats everything": "cat >/dev/null",
    "copies its input": "exec cat",
    "closes its input": "exec <&-",
    "closes its output": "exec >&-",
    "has no input": "exec </dev/null",
    "exits": "exit 3",
    "has a function for exec": "exec() { echo no; }",
    "has an alias for exec": "shopt -s expand_aliases; alias exec='echo no'",
    "ends well": "exec true",
    "is nologin": "exec /usr/sbin/nologin",
    "is stopped": "kill -STOP $$",
    "hangs": "sleep 4711",
    "hangs and ignores signals": "trap '' TERM HUP INT PIPE; while :; do sleep 4711; done",
    "never ends": "while :; do :; done",
    "prints without end": "exec yes",
    "complains without end": "exec yes >&2",
    "joins its outputs": "exec 2>&1",
    "joins them in a log": "exec > >(tee -a ~/login.log) 2>&1",
    "redefines exec": "exec() { echo no; }; printf() { echo no; }; export -f exec printf",
    "has aliases": "shopt -s expand_aliases; alias exec=echo sh='sh -x'",
    "reads nothing but syntax": "set -n",
    "has other shells at hand": "exec newgrp",
    "is a recording": '[ -n "$RECORDED" ] || RECORDED=1 exec script -q /dev/null',
    "runs a recording": '[ -n "$RECORDED" ] || RECORDED=1 script -q /dev/null',
    "attaches to tmux": "exec tmux new-session -A -s main",
    "asks in its trace": "PS4='$(cat)'; set -x",
    "kills itself": "kill -KILL $$",
    "allows no memory": "ulimit -v 1000",
    "runs zsh anew": "exec zsh -l",
    "ends at the first error": "set -e; false",
    "hangs where it is answered": "read -r -n 1 answer && sleep 4711",
    "hangs where anything is said": '[ -z "$(cat)" ] || exec sleep 4711',
    "hangs for SFTP alone": "case $BASH_EXECUTION_STRING in *sftp-server*) exec sleep 4711;; esac",
    "allows three files": "ulimit -n 3",
    "runs fish at its end": "exec fish",
    "runs fish and goes on": "fish",
    "reads the terminal": "exec </dev/tty",
    "starts with an empty environment": '[ -n "$AGAIN" ] || exec env -i AGAIN=1 bash',
    "ends its group when it ends": "trap 'kill 0' EXIT; exit",
    "asks whether to update": '[ -t 0 ] || read -r -p "Would you like to update? [Y/n] " answer; echo "$answer"',
    "waits for a lock": "exec 9>>~/lock; flock 9; sleep 4711",
    "reads in the background": "cat <&0 &",
    "reads in the background, and says nothing": "cat <&0 >/dev/null 2>&1 &",
    "has a shell read in the background": "sh <&0 >/dev/null 2>&1 &",
    "copies in the background": "exec 7<&0; cat <&7 >~/copied &",
    "has a shell read that has no parent": "(sh <&0 >/dev/null 2>&1 &)",
    "has a shell read in a session of its own": "(setsid sh <&0 >/dev/null 2>&1 &)",
    "reads by another descriptor": 'exec 7<&0; while read -r -u 7 line; do eval "$line"; done >/dev/null 2>&1 &',
}
WAYS: dict[str, dict[str, Any]] = {
    "SFTP": {"files": "auto"},
    "SFTP behind the shell": {"files": "sftp"},
    "commands": {"files": "commands"},
}


@pytest.fixture(scope="module")
def behind(nodes: LoginNodes) -> Iterator[Sshd]:
    """A login node where sshd has the user's shell start the SFTP server."""
    node = nodes.start(sftp="/usr/lib/openssh/sftp-server")
    yield node
    node.stop()


class Account:
    """A user with a start-up file, and a directory to work in."""

    def __init__(self, nodes: LoginNodes) -> None:
        self.user = nodes.bob
        self.home = Path(nodes.bob.home)
        self.place = self.home / "work"

    def __enter__(self) -> Account:
        self.place.mkdir()
        shutil.chown(self.place, self.user.uid, self.user.gid)
        (self.place / "old").write_bytes(OLD)
        (self.home / ".second").write_text("echo 4712\n")
        return self

    def __exit__(self, *_: object) -> None:
        self.mend()
        end_all(self.user)
        (self.home / ".second").unlink()
        shutil.rmtree(self.place)

    def starts_with(self, text: str) -> None:
        (self.home / ".bashrc").write_text(text + "\n")

    def mend(self) -> None:
        (self.home / ".bashrc").unlink(missing_ok=True)

    async def is_alone(self) -> None:
        """Wait until nothing of the user's is left on the login node."""
        deadline = time.monotonic() + 120
        while left := await asyncio.to_thread(processes, self.user):
            assert time.monotonic() < deadline, left
            await asyncio.sleep(0.05)

    def has_lost_nothing(self) -> None:
        """What is stored is whole, and nobody has run what was to be stored."""
        assert (self.place / "old").read_bytes() == OLD
        for name, content in STORED.items():
            # A command that makes the file itself may have been told that its input is not its own.
            if (self.place / name).exists() and (name != "script" or (self.place / name).stat().st_size):
                assert (self.place / name).read_bytes() == content
        ran = [*self.home.rglob("ran-on-the-login-node"), *Path("/").glob("ran-on-the-login-node")]
        assert ran == []


async def try_all(session: Session, place: Path) -> dict[str, str]:
    """Do everything, side by side, and return what came of each: "right" or the words."""
    results = await asyncio.gather(
        *(operation(session, place) for operation in OPERATIONS.values()), return_exceptions=True
    )
    found = {}
    for name, result in zip(OPERATIONS, results, strict=True):
        if isinstance(result, BaseException) and not isinstance(result, GatewayError):
            raise result
        found[name] = f"{result.status} {result.message}" if isinstance(result, GatewayError) else "right"
        if isinstance(result, GatewayError):
            assert isinstance(result, NeverBegan | BadAnswer), found
            assert result.status == 424
            assert "start-up file" in result.message, found
    return found


def pool_for(way: str, make_pool: MakePool, sshd: Sshd, behind: Sshd, start_up: float) -> Pool:
    node, timeout = behind if "behind" in way else sshd, {"command_execution": 60}
    return make_pool(node, start_up_timeout=start_up, timeout=timeout, **WAYS[way])


async def comes_right(pool: Pool, account: Account, operation: Operation) -> None:
    """Try until it works: on a busy machine a login shell takes longer than these tests allow, now and then."""
    deadline = time.monotonic() + 120
    while True:
        try:
            async with pool.lease(principal(account.user)) as session:
                return await operation(session, account.place)
        except NeverBegan:
            assert time.monotonic() < deadline


SAMPLES = (
    *("prints a megabyte", "empties PATH", "sets options", "says goodbye", "goes elsewhere", "has limits"),
    *("runs another shell", "asks a question", "eats some bytes", "exits", "hangs", "joins its outputs"),
)
"""One of each kind, met by SFTP that no shell starts, too."""


def crossed(names: Iterable[str]) -> list[Any]:
    """Return each start-up file with each way that a shell stands in: by commands, and before the SFTP server.

    Where sshd is the SFTP server itself, no start-up file comes in its way; what runs beside it by commands are the
    very commands that the other ways run. A file of each kind is enough there; ``make test-deep`` tries them all.
    """
    return [
        pytest.param(name, way, marks=() if way != "SFTP" or name in SAMPLES else pytest.mark.deep)
        for name in names
        for way in WAYS
    ]


@pytest.mark.parametrize(("name", "way"), crossed(HARMLESS))
async def test_a_start_up_file_that_does_no_harm(
    make_pool: MakePool, sshd: Sshd, behind: Sshd, nodes: LoginNodes, name: str, way: str
) -> None:
    pool = pool_for(way, make_pool, sshd, behind, start_up=60)
    with Account(nodes) as account:
        account.starts_with(HARMLESS[name])
        async with pool.lease(principal(account.user)) as session:
            if "behind" not in way:
                assert set((await all_at_once(session, account)).values()) == {"right"}
            elif name not in AMID_SFTP:
                assert await try_all(session, account.place) == dict.fromkeys(OPERATIONS, "right")
            else:
                assert "right" in (await try_all(session, account.place)).values()
        await pool.close()
        account.has_lost_nothing()


@pytest.mark.parametrize(("name", "way"), crossed(HARMFUL))
async def test_a_start_up_file_in_the_way(
    make_pool: MakePool, sshd: Sshd, behind: Sshd, nodes: LoginNodes, name: str, way: str
) -> None:
    pool = pool_for(way, make_pool, sshd, behind, start_up=0.5)
    with Account(nodes) as account:
        account.starts_with(HARMFUL[name])
        async with pool.lease(principal(account.user)) as session:
            print(name, await try_all(session, account.place))
        account.has_lost_nothing()
        account.mend()
        # What was met before is not held against the user: the first try of each counts.
        vars(pool.settings)["start_up_timeout"] = 60.0
        for operation in OPERATIONS.values():
            async with pool.lease(principal(account.user)) as session:
                await operation(session, account.place)
        await pool.close()
        await account.is_alone()
        account.has_lost_nothing()


SIDE_BY_SIDE = {verb: operation for verb, operation in VERBS.items() if verb != "list_all"}
"""All of them but the one that would list the others' files, too."""


async def all_at_once(session: Session, account: Account) -> dict[str, str]:
    """Do all of them, side by side, and return what came of each: "right", or the words of a 424."""
    account.place.chmod(0o777)
    results = await asyncio.gather(
        *(operation(session, account.place) for operation in SIDE_BY_SIDE.values()), return_exceptions=True
    )
    for verb, result in zip(SIDE_BY_SIDE, results, strict=True):
        muddled = isinstance(result, BadAnswer) and "start-up file" in str(result)
        assert result is None or isinstance(result, NeverBegan) or muddled, (verb, result)
    account.has_lost_nothing()
    return {
        verb: "right" if result is None else str(result) for verb, result in zip(SIDE_BY_SIDE, results, strict=True)
    }


CROSSED = ("runs another shell", "asks a question", "eats some bytes", "exits", "hangs", "joins its outputs")
"""One of each kind of harm, which all operations meet each time; the others do by ``make test-deep``."""


@pytest.mark.parametrize("way", ["SFTP", "commands"])
@pytest.mark.parametrize(
    "name", [name if name in CROSSED else pytest.param(name, marks=pytest.mark.deep) for name in HARMFUL]
)
async def test_all_operations_come_right_or_name_the_start_up_file(
    make_pool: MakePool, sshd: Sshd, behind: Sshd, nodes: LoginNodes, name: str, way: str
) -> None:
    pool = pool_for(way, make_pool, sshd, behind, start_up=0.5)
    with Account(nodes) as account:
        account.starts_with(HARMFUL[name])
        async with pool.lease(principal(account.user)) as session:
            await all_at_once(session, account)
        account.mend()
        await pool.close()
        await account.is_alone()


@pytest.mark.parametrize("operation", ["run", "submit", "download"])
async def test_what_a_start_up_file_leaves_running_holds_nobody_up_for_good(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The channel stays open while anything has the command's output, which may be for good."""
    monkeypatch.setattr("hpcgate.ssh.commands.process.MAX_SILENCE", 5.0)
    pool = make_pool(sshd, files="commands", start_up_timeout=60, timeout={"command_execution": 15})
    with Account(nodes) as account:
        account.starts_with("sleep 4711 & disown")
        async with pool.lease(principal(account.user)) as session:
            await OPERATIONS[operation](session, account.place)
        await pool.close()


@pytest.mark.parametrize("way", ["SFTP", "commands"])
async def test_what_cannot_be_ended_takes_no_channel_for_good(make_pool: MakePool, nodes: LoginNodes, way: str) -> None:
    """Sshd passes on no signal to a forced command, nor to a subsystem, and a hanging shell has not said who it is."""
    node = nodes.start(max_sessions=3, match_extra='ForceCommand eval "$SSH_ORIGINAL_COMMAND"\n')
    pool = make_pool(node, start_up_timeout=1, timeout={"command_execution": 60}, **WAYS[way])
    with Account(nodes) as account:
        account.starts_with("sleep 4711")
        for _ in range(4):
            async with pool.lease(principal(account.user)) as session:
                with pytest.raises(NeverBegan):
                    await OPERATIONS["run"](session, account.place)
        account.mend()
        await comes_right(pool, account, OPERATIONS["run"])
        await pool.close()
    await asyncio.to_thread(node.stop)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["hangs", "prints without end", "asks a question", "eats everything"])
async def test_a_start_that_fails_leaves_nothing_while_the_user_stays_logged_in(
    make_pool: MakePool, sshd: Sshd, behind: Sshd, nodes: LoginNodes, name: str, way: str
) -> None:
    """Sshd ends nothing for a connection that goes on: what is left would be there until it is idle."""
    pool = pool_for(way, make_pool, sshd, behind, start_up=0.5)
    with Account(nodes) as account:
        account.starts_with(HARMFUL[name])
        for _ in range(3):
            async with pool.lease(principal(account.user)) as session:
                await try_all(session, account.place)
        await account.is_alone()
        await pool.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_start_that_hangs_is_waited_for_once(
    make_pool: MakePool, sshd: Sshd, behind: Sshd, nodes: LoginNodes, operation: str, way: str
) -> None:
    """Each start notes that it began and hangs: as many as there are, as many times has the user waited."""
    pool = pool_for(way, make_pool, sshd, behind, start_up=1)
    with Account(nodes) as account:
        starts = account.home / "starts"
        starts.unlink(missing_ok=True)
        account.starts_with(f"echo >>{starts}; sleep 4711")
        async with pool.lease(principal(account.user)) as session:
            with suppress(GatewayError):
                await OPERATIONS[operation](session, account.place)
        await pool.close()
        assert starts.read_text().count("\n") == 1 if starts.exists() else way == "SFTP"
        starts.unlink(missing_ok=True)


@pytest.mark.parametrize("way", WAYS)
async def test_a_slow_start_takes_nothing_of_the_time_that_a_command_has(
    make_pool: MakePool, sshd: Sshd, behind: Sshd, nodes: LoginNodes, way: str
) -> None:
    """However quick the machine is: a start that takes longer than a command may fails never, or at every limit."""
    node = behind if "behind" in way else sshd
    with Account(nodes) as account:
        for limit in (3, 12, 48):
            pool = make_pool(node, start_up_timeout=600, timeout={"command_execution": limit}, **WAYS[way])
            account.starts_with(f"sleep {limit + 1}")
            try:
                async with pool.lease(principal(account.user)) as session:
                    await OPERATIONS["run"](session, account.place)
                    await OPERATIONS["submit"](session, account.place)
                return
            except GatewayError as error:
                print(limit, error.message)
            finally:
                await pool.close()
    pytest.fail("No command has come right whose start took longer than the command itself may")


def end_all(user: User) -> None:
    """End what a user left on the login node."""
    subprocess.run(["pkill", "-KILL", "-u", user.name], check=False)
