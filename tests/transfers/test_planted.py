"""Jobs that write in a directory in which somebody else plants links and swaps what the jobs make for themselves."""

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpcgate.transfers.base import Script
from tests.transfers import asked
from tests.transfers.shells import NOBODY, SHELLS, Sh

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")

ATTACKER = 54321
JOBS: dict[str, Callable[[Path, Path], Script]] = {
    "cp": lambda source, target: asked.cp(str(source), str(target)),
    "cp of a tree": lambda source, target: asked.cp(str(source.parent), str(target)),
    "mv": lambda source, target: asked.mv(str(source), str(target)),
    "compress": lambda source, target: asked.compress(str(source), str(target)),
    "compress by pattern": lambda source, target: asked.compress(str(source.parent), str(target), pattern=".*"),
}
# Links of the attacker's on the way, below a target that others may write: to a directory in the place of one, and to a
# file in the place of one.
BELOW: dict[str, Callable[[Path, Path], Script]] = {
    "cp into a tree": lambda source, shared: asked.cp(str(source.parent), str(shared / "tree")),
    "cp behind a link": lambda source, shared: asked.cp(str(source), str(shared / "down" / "key")),
    "mv behind a link": lambda source, shared: asked.mv(str(source), str(shared / "down" / "key")),
    "mv from behind a link": lambda source, shared: asked.mv(str(shared / "down" / "key"), str(source.parent / "got")),
    "rm behind a link": lambda source, shared: asked.rm(str(shared / "down" / "key")),
    "rm of a link with a slash": lambda source, shared: asked.rm(str(shared / "down") + "/"),
    "compress behind a link": lambda source, shared: asked.compress(str(source), str(shared / "down" / "made")),
    "extract into a tree": lambda source, shared: asked.extract(
        str(source.parent / "tree.tar"), str(shared / "tree"), compression="none"
    ),
    "extract behind a link": lambda source, shared: asked.extract(
        str(source.parent / "tree.tar"), str(shared / "down"), compression="none"
    ),
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("job", BELOW)
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o2775])
def test_no_job_follows_a_planted_link(base: Path, shell: str, job: str, mode: int) -> None:
    shared, precious, mine = base / "shared", base / "precious", base / "mine"
    (mine / "d").mkdir()
    (mine / "d" / "key").write_text("new")
    (mine / "key").write_text("new")
    (shared / "tree" / "mine").mkdir(parents=True)
    with tarfile.open(mine / "tree.tar", "w") as tar:
        for name in ("d/key", "key"):
            tar.add(mine / name, name)
    for each in (shared / "tree", shared / "tree" / "mine", *mine.rglob("*")):
        os.chown(each, NOBODY, NOBODY)
    for directory in (shared / "tree", shared / "tree" / "mine"):
        directory.chmod(0o777)
        (directory / "d").symlink_to(precious)
        (directory / "key").symlink_to(precious / "key")
    (shared / "down").symlink_to(precious)
    for link in shared.rglob("*"):
        if link.is_symlink():
            os.chown(link, ATTACKER, ATTACKER, follow_symlinks=False)
    os.chown(shared, 0, NOBODY)
    shared.chmod(mode)
    before = state(precious)
    Sh(shell, mine).run(BELOW[job](mine / "source", shared))
    assert state(precious) == before


# Takes away whatever a job makes for itself, and puts a link to the victim's directory, or a directory of links, there.
SWAPPING = """\
import contextlib, itertools, os, sys
shared, precious, attacker = sys.argv[1:]
os.setgroups([])
os.setresgid(*[int(attacker)] * 3)
os.setresuid(*[int(attacker)] * 3)
os.chdir(shared)
print("on", flush=True)
for number in itertools.count():
    for name in os.listdir("."):
        with contextlib.suppress(OSError):
            if name.startswith(".hpcgate-") and os.lstat(name).st_uid != os.geteuid():
                os.rename(name, f"away-{number}")
                os.symlink(precious, name) if number % 2 else os.mkdir(name, 0o777)
                if not number % 2:
                    os.symlink(f"{precious}/key", f"{name}/new")
"""
DIRECTORIES = (("shared", 0o777, ATTACKER), ("mine", 0o700, NOBODY), ("precious", 0o700, NOBODY))


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hpcgate-transfers-", dir="/tmp") as name:
        base = Path(name)
        base.chmod(0o755)
        for directory, mode, owner in (
            ("shared", 0o777, ATTACKER),
            ("mine", 0o700, NOBODY),
            ("precious", 0o700, NOBODY),
        ):
            (base / directory).mkdir()
            (base / directory).chmod(mode)
            os.chown(base / directory, owner, owner)
        for path in (base / "mine" / "source", base / "precious" / "key", base / "precious" / "new"):
            path.write_text(path.name)
            os.chown(path, NOBODY, NOBODY)
        yield base


def state(directory: Path) -> dict[str, tuple[int, str]]:
    return {path.name: (path.lstat().st_mode, path.read_text()) for path in directory.iterdir()}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_planted_link_is_not_written_through(base: Path, shell: str, job: str, mode: int) -> None:
    shared, precious = base / "shared", base / "precious"
    before = state(precious)
    (shared / "out").symlink_to(precious / "key")
    os.chown(shared / "out", ATTACKER, ATTACKER, follow_symlinks=False)
    os.chown(shared, 0, NOBODY)
    shared.chmod(mode)
    done = Sh(shell, shared).run(JOBS[job](base / "mine" / "source", shared / "out"))
    assert state(precious) == before
    if job != "mv":  # which replaces a link, unless it is in a sticky directory
        assert done.status != 0
        assert "Permission denied" in done.errors


TOOLS = ("cat", "chmod", "cp", "dd", "grep", "id", "ls", "mkdir", "mktemp", "mv", "readlink", "rm", "stat", "tar")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("path", [".", "", "bin"])
def test_no_job_takes_tools_from_where_it_stands(base: Path, shell: str, job: str, path: str) -> None:
    """Some have a dot in their PATH, or an empty part, and jobs stand in directories that others write."""
    shared = base / "shared"
    (shared / "bin").mkdir()
    for name in TOOLS:
        for tool in (shared / name, shared / "bin" / name):
            tool.write_text(f'#!/bin/sh\necho caught >>{shared}/caught\nexec /usr/bin/{name} "$@"\n')
            tool.chmod(0o755)
    done = Sh(shell, base / "mine").run(
        JOBS[job](base / "mine" / "source", shared / "out"), PATH=f"{path}:{os.environ['PATH']}"
    )
    assert done.status == 0, done
    assert not (shared / "caught").exists()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("job", JOBS)
def test_no_job_loads_libraries_from_where_it_stands(base: Path, shell: str, job: str) -> None:
    """Many have an empty part in LD_LIBRARY_PATH; a program that loads what lies there does not start."""
    for name in ("libc.so.6", "libselinux.so.1", "libacl.so.1"):
        (base / "shared" / name).write_text("no library")
    done = Sh(shell, base / "mine").run(
        JOBS[job](base / "mine" / "source", base / "shared" / "out"), LD_LIBRARY_PATH=":"
    )
    assert done.status == 0, done


@pytest.mark.parametrize("job", JOBS)
def test_what_a_job_makes_for_itself_leads_nowhere_else(base: Path, job: str) -> None:
    shared, precious = base / "shared", base / "precious"
    before = state(precious)
    argv = [sys.executable, "-I", "-S", "-c", SWAPPING, str(shared), str(precious), str(ATTACKER)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as swapping:
        assert swapping.stdout is not None
        assert swapping.stdout.readline() == b"on\n"
        try:
            for number in range(6):
                (base / "mine" / "source").write_text("source")
                os.chown(base / "mine" / "source", NOBODY, NOBODY)
                Sh(SHELLS[0], base / "mine").run(JOBS[job](base / "mine" / "source", shared / f"out{number}"))
                assert state(precious) == before
        finally:
            swapping.kill()
