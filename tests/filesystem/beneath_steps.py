"""Run operations of the program that works beneath paths, and swap directories and links between any two steps.

It is a program of its own, for it forks: ``python beneath_steps.py DIRECTORY PROGRAM EVERY < requests``, JSON lines of
cases. A swap is tried before each EVERYth step. It prints one line of JSON for each case: how many steps there are, how
many runs there were, and what was wrong in any.
"""

import contextlib
import ctypes
import functools
import gzip
import io
import json
import os
import runpy
import shutil
import stat
import sys
import tarfile
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

Case = dict[str, Any]
Outcome = tuple[int, int, bytes, int]
Seen = tuple[str, int, int, int, int, int, "bytes | None"]

AT_FDCWD = -100
EXCHANGE = 2
UPLOAD = ".hpcgate-upload-" + "a" * 32
FORMER = ".hpcgate-upload-" + "b" * 32
SECRET = b"nobody may read this"
ONLY = "name-of-the-outside"
INSIDE = "box/tree"
NAMED = frozenset(
    [
        "open",
        "mkdir",
        "rename",
        "link",
        "unlink",
        "rmdir",
        "symlink",
        "stat",
        "listdir",
        "readlink",
        "chmod",
        "chown",
        "utime",
        "listxattr",
        "access",
        "mkfifo",
        "fork_exec",
    ]
)
"""Calls that take a name, and the start of a tool. A swap before any other is one before the next of these."""
libc = ctypes.CDLL(None, use_errno=True)


@functools.lru_cache
def archive(*names: str) -> bytes:
    """Return an uncompressed archive of small files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"mine"))
    return made.getvalue()


@functools.lru_cache
def directories(*names: str) -> bytes:
    """Return the beginning of an archive: directories that anybody may write, and no end."""
    members = []
    for name in names:
        member = tarfile.TarInfo(name)
        member.type, member.mode = tarfile.DIRTYPE, 0o777
        members.append(member.tobuf(tarfile.GNU_FORMAT))
    return b"".join(members)


def fill(directory: str, content: bytes) -> None:
    """Make what is inside and outside alike, but for the content."""
    for name in ("dir", "empty", UPLOAD):
        os.makedirs(f"{directory}/{name}", 0o700)
    of_upload = [f"{UPLOAD}/.hpcgate-{name}" for name in ("content", "state", "lock")]
    for name in ("file", "dir/file", FORMER, FORMER + ".json", *of_upload):
        with open(f"{directory}/{name}", "wb") as file:
            file.write(content)
        os.utime(f"{directory}/{name}", (10**9, 10**9))
    with open(f"{directory}/good.tar", "wb") as file:
        file.write(archive(content.decode().replace(" ", "-")))


def prepare() -> None:
    """Make the box, in which `way` and `leaf` can be exchanged with links, and what lies outside."""
    for name in ("box", "outside"):
        shutil.rmtree(name, ignore_errors=True)
    fill("outside", SECRET)
    with open(f"outside/{ONLY}", "wb") as file:
        file.write(SECRET)
    fill(f"{INSIDE}/way", b"mine")
    fill("box/still", b"mine")
    with open(f"{INSIDE}/leaf", "wb") as file:
        file.write(b"mine")
    os.symlink("tree/way", "box/link")
    os.makedirs("box/aside")
    os.symlink(os.path.abspath("outside"), "box/aside/way")
    os.symlink("../../outside/file", "box/aside/leaf")
    with open("box/way.tar", "wb") as file:
        file.write(archive("way/file", "way/new", "way/dir/new", "leaf", "way/dir/deep/new"))


def swap() -> None:
    """Exchange both with their links, as rename(2) does it: at no time is nothing there."""
    for name in ("way", "leaf"):
        one, other = os.fsencode(f"{TOP}/{INSIDE}/{name}"), os.fsencode(f"{TOP}/box/aside/{name}")
        libc.renameat2(AT_FDCWD, one, AT_FDCWD, other, EXCHANGE)


def fingerprint(top: str) -> list[Seen]:
    """Return all there is to know of a tree that a write would change."""
    seen = []
    for directory, directories, files in os.walk(top):
        for name in [".", *directories, *files]:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            content = None
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            seen.append((path, info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_mtime_ns, content))
    return sorted(seen, key=lambda one: one[0])


def leaked(data: bytes) -> bool:
    """Tell whether some bytes, unpacked if need be, hold what only the outside has."""
    if data[:2] == b"\x1f\x8b":
        with contextlib.suppress(OSError, EOFError):
            data = gzip.decompress(data)
    return any(word in data for word in (SECRET, SECRET.replace(b" ", b"-"), ONLY.encode()))


def kept() -> list[str]:
    """Return the files in the box that hold, or are, what lies outside."""
    outside = {(os.lstat(one[0]).st_dev, os.lstat(one[0]).st_ino) for one in fingerprint("outside")}
    wrong = []
    for directory, directories, files in os.walk("box"):
        for name in [*directories, *files]:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            if (info.st_dev, info.st_ino) in outside:
                wrong.append(path)
            elif stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    if leaked(file.read()):
                        wrong.append(path)
    return wrong


def forked(program: dict[str, Any], case: Case, before: Callable[[int], bool]) -> Outcome:
    """Run it in a process of its own.

    Args:
        program: The program's names.
        case: What to do: the request, and what comes on standard input.
        before: Is called before each step with its number, and says whether it has done something.

    Returns:
        The exit status, the number of steps, what was written, how often `before` has done something.
    """
    answer, told = os.pipe()
    with open("output", "wb"):
        pass
    child = os.fork()
    if child == 0:
        status: Any = 125
        try:
            os.close(answer)
            source: Any = io.BytesIO(bytes.fromhex(case["stdin"]))
            source.name = None
            sys.argv = ["program", "--", json.dumps(case["request"])]
            log = os.open("output", os.O_WRONLY | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
            real = program["Request"]
            program["main"].__globals__["Request"] = lambda asked, _, sink: real(asked, source, sink)
            steps = done = 0

            def step(frame: FrameType, event: str, function: Any) -> None:
                nonlocal steps, done
                if event == "c_call" and function.__name__ in NAMED:
                    steps += 1
                    sys.setprofile(None)
                    done += before(steps)
                    sys.setprofile(step)

            sys.setprofile(step)
            try:
                status = program["main"]()
            except SystemExit as end:
                status = end.code
            finally:
                sys.setprofile(None)
                sys.stdout.flush()
                sys.stderr.flush()
            os.write(told, b"%d %d" % (steps, done))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            status = 125
        finally:
            os._exit(status)
    os.close(told)
    with os.fdopen(answer, "rb") as reading:
        steps, done = map(int, reading.read().split() or (0, 0))
    _, ended = os.waitpid(child, 0)
    with open("output", "rb") as file:
        written = file.read()
    return os.waitstatus_to_exitcode(ended), steps, written, done


def run(program: dict[str, Any], case: Case, at: int | None, back: int | None, first: bool) -> Outcome:
    """Run it in a process of its own, swapping before the step `at` and again before `back`.

    Args:
        program: The program's names.
        case: What to do.
        at: The step, or None.
        back: Another step, or None.
        first: Swap before all.
    """

    def before(step: int) -> bool:
        if step in (at, back):
            swap()
        return False

    if first:
        swap()
    return forked(program, case, before)


def judge(case: Case, outcome: Outcome, label: str, before: list[Seen], inodes: set[int]) -> list[str]:
    """Return what was wrong in a run."""
    status, _, written, _ = outcome
    wrong = []
    if status not in (0, 1, 2, 77):
        wrong.append(f"{label}: ended with {status}: {written[-800:].decode(errors='replace')}")
    do, words = case["request"]["do"], written.split()
    identified = do in ("stat", "open") and status == 0 and int(words[1]) in inodes
    if leaked(written) or identified or (do == "realpath" and b"/outside" in written):
        wrong.append(f"{label}: told of the outside: {written[:300]!r}")
    after = fingerprint("outside")
    if after != before:
        wrong.append(f"{label}: changed the outside: {sorted(set(after) ^ set(before))}")
    wrong += [f"{label}: took in {path}" for path in kept()]
    return wrong


def explore(program: dict[str, Any], case: Case, every: int, offset: int) -> dict[str, Any]:
    """Run a case with a swap before each of its steps, from both beginnings.

    Args:
        program: The program's names.
        case: What to do.
        every: So many steps lie between two that a swap is tried before.
        offset: The first of them; every case begins elsewhere.
    """
    wrong = []
    runs = 0
    statuses: dict[Any, int] = {}
    for first, brief in ((False, False), (False, True), (True, False)):
        at = 0
        while True:
            prepare()
            before = fingerprint("outside")
            inodes = {os.lstat(one[0]).st_ino for one in before}
            outcome = run(program, case, at or None, at + 1 if at and brief else None, first)
            runs += 1
            label = f"link first={first} swap at {at} brief={brief}"
            wrong += judge(case, outcome, label, before, inodes)
            statuses[outcome[0]] = statuses.get(outcome[0], 0) + 1
            if at == 0 and not first and not brief:
                undisturbed, steps = outcome[:2]
            if at > outcome[1] or len(wrong) > 5:
                break
            at += every if at else 1 + offset % every
        offset += 1
    return {"steps": steps, "runs": runs, "wrong": wrong[:5], "undisturbed": undisturbed, "statuses": statuses}


if __name__ == "__main__":
    TOP = os.path.realpath(sys.argv[1])
    os.chdir(TOP)
    os.umask(0o022)
    names = runpy.run_path(sys.argv[2], run_name="program")
    for number, line in enumerate(sys.stdin):
        print(json.dumps(explore(names, json.loads(line), int(sys.argv[3]), number)), flush=True)
