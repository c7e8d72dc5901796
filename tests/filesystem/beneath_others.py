"""Run operations of the program that works beneath paths while somebody else renames directories where they work.

In a directory that others may write lies one of the user's alone, `hers`. Before a step, each in turn, it takes the
place of a directory there: as somebody else may have it who may rename what is there, but not enter or change it.

It is a program of its own, for it forks: ``python -m tests.filesystem.beneath_others DIRECTORY PROGRAM EVERY``, fed and
read as `beneath_steps`.
"""

import contextlib
import json
import os
import runpy
import shutil
import socket
import stat
import sys
from collections.abc import Callable
from typing import Any

from tests.filesystem.beneath_steps import AT_FDCWD, EXCHANGE, Case, forked, libc


def prepare() -> None:
    """Make the box: what is copied and unpacked, and the directory that others may write."""
    shutil.rmtree("box", ignore_errors=True)
    for name in ("source/d", "source/new", "broken", "shared/d", "shared/hers"):
        os.makedirs(f"box/{name}", 0o755)
    for name in ("source/file", "source/d/file", "source/new/file", "shared/file", "shared/d/other"):
        with open(f"box/{name}", "wb") as file:
            file.write(b"mine")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("box/broken/socket")  # which cannot be copied
    with open("box/shared/hers/key", "wb") as file:
        file.write(b"hers")
    os.chmod("box/shared/hers/key", 0o600)
    os.chmod("box/shared/hers", 0o700)
    for name in ("shared", "shared/d"):
        os.chmod(f"box/{name}", 0o777)


def swap() -> bool:
    """Exchange `hers` with a directory beside it, best with one that has just been made; say whether there is one."""
    names = [entry.name for entry in os.scandir("box/shared") if entry.is_dir(follow_symlinks=False)]
    names = sorted((name for name in names if name != "hers"), key=lambda name: (name[0] != ".", name == "d", name))
    if not names or "hers" not in os.listdir("box/shared"):
        return False
    paths = [os.fsencode(f"{TOP}/box/shared/{name}") for name in ("hers", names[0])]
    return not libc.renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], EXCHANGE)


def hers() -> list[Any]:
    """Return all there is to know of the directory, wherever it is by now."""
    for directory, _, files in os.walk("box"):
        if "key" in files and os.path.exists(f"{directory}/key"):
            with open(f"{directory}/key", "rb") as file:
                content = file.read().decode()
            seen = [os.stat(path) for path in (directory, f"{directory}/key")]
            return [content, *[(info.st_ino, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) for info in seen]]
    return []


def swap_at(at: int) -> Callable[[int], bool]:
    """Return what swaps before a step, and before no other."""
    return lambda step: step == at and swap()


def explore(program: dict[str, Any], case: Case, every: int, offset: int) -> dict[str, Any]:
    """Run a case with a swap before each of its steps."""
    wrong = []
    at = swaps = 0
    while True:
        prepare()
        if case["before"]:
            swap()
        before = hers()
        status, steps, content, swapped = forked(program, case, swap_at(at))
        written = content[-500:].decode(errors="replace")
        swaps += swapped
        if at == 0:
            undisturbed = status
        if status not in (0, 1, 2, 77):
            wrong.append(f"swap at {at}: ended with {status}: {written}")
        if (after := hers()) != before:
            wrong.append(f"swap at {at}: {before} became {after}: {written}")
        if at > steps or len(wrong) > 5:
            return {"wrong": wrong, "swaps": swaps, "undisturbed": undisturbed, "steps": steps}
        at += every if at else 1 + offset % every


if __name__ == "__main__":
    TOP = os.path.realpath(sys.argv[1])
    os.chdir(TOP)
    os.umask(0o022)
    names = runpy.run_path(sys.argv[2], run_name="program")
    for number, line in enumerate(sys.stdin):
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(explore(names, json.loads(line), int(sys.argv[3]), number)), flush=True)
