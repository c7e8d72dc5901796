"""Many commands by one: run by the shells of this machine."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from hpcgate.errors import ConnectionLost, GatewayError
from hpcgate.schedulers import many
from hpcgate.schedulers.bulk import Commands
from hpcgate.schedulers.many import UNKNOWN, Command
from hpcgate.schedulers.submitting import MAX, Printed
from tests.sites.shells import shell_program

SHELLS = [path for path in ("/bin/dash", "/bin/bash") if Path(path).exists()]


def run(shell: str, commands: list[Command], at_once: int = 3, **env: str) -> list[Printed | None]:
    content = many.composed(commands)
    argv = [shell, "-c", many._SCRIPT, "many", "header", str(at_once)]
    done = subprocess.run(argv, stdin=_file(content), capture_output=True, check=True, env={**os.environ, **env})
    assert done.stderr == b""
    return many.parsed(done.stdout.decode(), "header", len(commands))


def _file(content: bytes) -> int:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        return os.dup(file.fileno())


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_each_command_has_its_input_its_arguments_and_its_answer(shell: str, at_once: int) -> None:
    long = "x" * 300 + "'\"$(id)\n"
    commands = [
        Command(["sh", "-c", 'cat; printf "%s" "$1"; exit 3', "sh", long], b"one\0two"),
        Command(["sh", "-c", 'cat; printf "%s" "$1"', "sh", long], b"one\0two"),
        Command(["printf", "%s\\n", "$HOME", "a b", "", "é\n'"]),
        Command(["sh", "-c", "echo out; echo error >&2; kill -9 $$"]),
        Command(["no-such-command"], b"x\n"),
        *[Command(["echo", str(number)]) for number in range(20)],
    ]
    found = run(shell, commands, at_once)
    assert found[0] == Printed("one\0two" + long, 3)
    assert found[1] == Printed("one\0two" + long, 0)
    assert found[2] == Printed("$HOME\na b\n\né\n'\n", 0)
    assert found[3] is not None
    assert (found[3].text.startswith("out\nerror\n"), found[3].exit_status) == (True, 137)
    assert found[4] is not None
    assert (found[4].exit_status, "not found" in found[4].text) == (127, True)
    assert [one and one.text for one in found[5:]] == [f"{number}\n" for number in range(20)]


@pytest.mark.parametrize("shell", [*SHELLS, "mksh"])
def test_an_input_may_be_longer_than_an_argument(shell: str) -> None:
    """Where printf is a program it takes no word of 128 KiB."""
    path = shell_program(shell) if shell == "mksh" else shell
    inputs = [b"it's\n" * 60_000, b"\0" * 100_000, "é".encode() * 100_000, b""]
    found = run(path, [Command(["md5sum"], one) for one in inputs])
    assert [one and one.text.split()[0] for one in found] == [hashlib.md5(one).hexdigest() for one in inputs]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", [None, None]),
        ("h begin 1\n", [Printed("", None, timed_out=True), None]),
        ("h begin 1\nh begin 2\nh out 1\nsaid\n\nh end 1 7\nh out 2\nhalf", [
            Printed("said\n", 7), Printed("", None, timed_out=True),
        ]),
    ],
)  # fmt: skip
def test_what_was_broken_off_is_told_from_what_was_not_begun(text: str, found: list[Printed | None]) -> None:
    assert many.parsed(text, "h", 2) == found


def test_of_what_one_command_says_without_end_both_ends_are_kept() -> None:
    text = "first" + "x" * (2 * MAX) + "last"
    (one,) = many.parsed(f"h begin 1\nh out 1\n{text}\nh end 1 0\n", "h", 1)
    assert one is not None
    assert (len(one.text), one.text[:5], one.text[-4:]) == (MAX, "first", "last")


def test_what_several_have_in_common_goes_once() -> None:
    script = b"#!/bin/sh\n" + b"#" * 5000
    long = "y" * 5000
    content = many.composed([Command(["sh", "-c", long, str(number)], script) for number in range(100)])
    assert len(content) < 20_000


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("mode", "used"), [(0o700, True), (0o1777, True), (0o775, False), (0o777, False)])
def test_nobody_else_can_exchange_what_is_run(shell: str, mode: int, used: bool, tmp_path: Path) -> None:
    """Where others may rename what is the user's, nothing of it is kept."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    temporary.chmod(mode)
    (found,) = run(shell, [Command(["readlink", "/proc/self/fd/0"])], HOME=str(home), TMPDIR=str(temporary))
    assert found is not None
    assert Path(found.text).parent.parent == (temporary if used else home)


@dataclass
class Shell:
    """A process, as it is seen from here.

    Attributes:
        said: What it says at once.
        then: What breaks it off after that.
        ends: Whether it ends by itself.
        rest: What it has still written when it is ended.
        exit_status: How it ended.
        closed: Whether its channel is.
        error: Why its connection has ended.
    """

    said: str
    then: GatewayError | None = None
    ends: bool = False
    rest: str = ""
    exit_status: int | None = None
    closed: bool = False
    error: Exception | None = None

    async def output(self) -> AsyncGenerator[bytes]:
        if not self.closed:
            yield self.said.encode()
            if self.then is not None:
                raise self.then
            if not self.ends:
                await asyncio.Event().wait()
        elif self.rest:
            yield self.rest.encode()

    async def feed_block(self, block: bytes) -> bool:
        return True

    def feed_end(self) -> None:
        pass

    async def ended(self) -> int:
        return 0


class LoginNode:
    """A pool, and its session, whose processes are these shells, one after another."""

    def __init__(self, *shells: Shell) -> None:
        self.shells = list(shells)

    async def perform(self, _: object, work: Callable[[Any], Awaitable[Any]], *, retry: bool) -> Any:
        assert not retry
        return await work(self)

    @asynccontextmanager
    async def process(self, argv: list[str], **_: object) -> AsyncIterator[Shell]:
        shell = self.shells.pop(0)
        shell.said = shell.said.replace("HEADER", argv[-2])
        shell.rest = shell.rest.replace("HEADER", argv[-2])
        try:
            yield shell
        finally:
            shell.closed = True


LOST = ConnectionLost("The connection is gone")
ONE = "HEADER begin 1\nHEADER out 1\n1\nHEADER end 1 0\n"
DONE = Printed("1", 0)
BROKEN: dict[str, tuple[list[Shell], list[Printed | None]]] = {
    "the connection breaks": (
        [Shell(f"{ONE}HEADER begin 2\n", then=LOST)],
        [DONE, UNKNOWN, UNKNOWN],
    ),
    "the connection breaks, though the end has come": (
        [Shell(ONE, then=LOST, exit_status=1, error=ConnectionResetError())],
        [DONE, UNKNOWN, UNKNOWN],
    ),
    "one takes too long, and one more has begun meanwhile": (
        [Shell("HEADER begin 1\n", rest="HEADER begin 2\n", exit_status=1), Shell(ONE, ends=True, exit_status=0)],
        [UNKNOWN, UNKNOWN, DONE],
    ),
    "one takes too long, and cannot be ended": (
        [Shell("HEADER begin 1\n")],
        [UNKNOWN, UNKNOWN, UNKNOWN],
    ),
    "the connection breaks with those that are begun later": (
        [Shell("HEADER begin 1\n", exit_status=1), Shell("", then=LOST)],
        [UNKNOWN, UNKNOWN, UNKNOWN],
    ),
    "there is no room after the first": (
        [Shell(ONE, ends=True, exit_status=1), Shell("", ends=True, exit_status=1)],
        [DONE, None, None],
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
async def test_what_may_have_begun_is_not_begun_again(how: str) -> None:
    shells, found = BROKEN[how]
    node = LoginNode(*shells)
    commands = [Command(["sbatch", str(number)]) for number in range(3)]
    assert await Commands(cast("Any", node), 0.01, {}, 1).run(cast("Any", None), commands) == found
    assert node.shells == []


async def test_of_what_is_lost_with_its_connection_nothing_is_known() -> None:
    node = LoginNode(Shell("", then=LOST), Shell(ONE, ends=True, exit_status=0))
    with pytest.raises(ConnectionLost):
        await Commands(cast("Any", node), 0.01, {}, 1).run(cast("Any", None), [Command(["sbatch"])])
    assert len(node.shells) == 1


async def test_nothing_goes_on_behind_a_fault() -> None:
    ended = []

    async def work(number: int) -> int:
        if number == 0:
            raise RuntimeError("a fault")
        await asyncio.sleep(0)
        ended.append(number)
        return number

    with pytest.raises(RuntimeError, match="a fault"):
        await many.each(range(5), 2, work)
    assert ended == [1, 2, 3, 4]
