"""Many commands by one: run by the shells of this machine."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from hpcgate.schedulers import many
from hpcgate.schedulers.many import Command
from hpcgate.schedulers.submitting import Printed

SHELLS = [path for path in ("/bin/dash", "/bin/bash") if Path(path).exists()]


def run(shell: str, commands: list[Command], at_once: int = 3) -> list[Printed | None]:
    last, content = many.composed(commands)
    argv = [shell, "-c", many._SCRIPT, "many", "header", str(at_once), str(last)]
    done = subprocess.run(argv, stdin=_file(content), capture_output=True, check=True)
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


def test_what_several_have_in_common_goes_once() -> None:
    script = b"#!/bin/sh\n" + b"#" * 5000
    long = "y" * 5000
    _, content = many.composed([Command(["sh", "-c", long, str(number)], script) for number in range(100)])
    assert len(content) < 20_000
