"""The program that works beneath paths: whatever is swapped between two of its steps, nothing is touched outside."""

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcgate.filesystem import beneath_program
from tests.filesystem import beneath_others
from tests.filesystem.beneath_steps import UPLOAD, archive, directories

PROGRAM = beneath_program.__file__
STEPS = Path(__file__).with_name("beneath_steps.py")
MARK = ".mark"
CONTENT = b"4\nevil0\n"
UNPACKED = archive("file", "new", "dir/file", "dir/deep/new", MARK)
UNPACKED_TREE = archive("way/file", "way/new", "way/dir/deep/new", "leaf", MARK)
EVERY = os.environ.get("HPCGATE_SWAP_EVERY", "8")
"""A swap is tried before each step of this many; 1 tries them all, for some minutes."""


def cases(top: str) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """Yield each operation, what it is asked, and what comes on its standard input; `way` and `leaf` are swapped."""
    tree, way, leaf, still = f"{top}/tree", f"{top}/tree/way", f"{top}/tree/leaf", f"{top}/still"
    out, into = f"{top}/out", f"{way}/out"
    file = f"{way}/file"
    paths = {"paths": [file, leaf], "links": [file, leaf], "trees": [way, tree]}
    yield "admit", paths, b""
    for path in (file, leaf, f"{top}/link/file", f"{way}/../way/file"):
        yield "stat", {"path": path, "follow": True}, b""
        yield "realpath", {"path": path}, b""
    yield "stat", {"path": file, "follow": False}, b""
    yield "entry", {"path": file}, b""
    for follow in (False, True):
        for path in (way, tree):
            yield "list", {"path": path, "hidden": True, "recursive": True, "follow": follow}, b""
    for path in (file, leaf):
        yield "read", {"path": path, "offset": 0}, b""
        yield "open", {"path": path}, b"0 2\n2\n"
        yield "checksum", {"path": path}, b""
        yield "kind", {"path": path}, b""
        yield "chmod", {"path": path, "mode": 0o777}, b""
        yield "change", {"path": path, "tool": "chmod", "to": "777"}, b""
        for above in (-1, 1_000_000):
            yield "look", {"path": path, "above": above, "start": 0, "size": 10}, b""
        yield "truncate", {"path": path, "size": 1}, b""
        yield "sync", {"path": path}, b""
        yield "extend", {"path": path, "offset": 1}, CONTENT
        yield "adopt", {"old": f"{still}/file", "path": path}, b""
        yield "adopt", {"old": path, "path": f"{still}/file"}, b""
        yield "join", {"path": out, "parts": [f"{still}/file", path]}, b""
    for path in (file, f"{way}/dir", way, f"{way}/", leaf):
        yield "remove", {"path": path}, b""
    for parents in (False, True):
        yield "mkdir", {"path": into, "parents": parents}, b""
    yield "mkdir", {"path": f"{way}/dir/a/b", "parents": True}, b""
    yield "mkdir", {"path": into, "parents": False, "mode": 0o700}, b""
    for do in ("truncate", "extend", "sync", "remove"):
        yield (
            do,
            {"path": f"{way}/{UPLOAD}/.hpcgate-content", "size": 1, "offset": 1},
            CONTENT if do == "extend" else b"",
        )
    yield "symlink", {"path": into, "target": f"{still}/file"}, b""
    yield "symlink", {"path": out, "target": file}, b""
    for exclusive in (False, True):
        yield "rename", {"path": file, "target": out, "exclusive": exclusive}, b""
        yield "rename", {"path": f"{still}/file", "target": into, "exclusive": exclusive}, b""
        for path in (into, file, leaf):
            more = {"temporary": ".hpcgate-t", "exclusive": exclusive, "ask": True}
            yield "replace", {"path": path, **more}, CONTENT + b"go\n"
    yield "create", {"path": into}, b""
    yield "join", {"path": into, "parts": [f"{still}/file"]}, b""
    yield "private", {"path": f"{way}/{UPLOAD}"}, b""
    yield "rmdir", {"path": f"{way}/empty"}, b""
    yield "sweep", {"path": way, "minutes": 1}, b""
    for path in (way, tree, file):
        yield "pack", {"path": path, "compression": "gzip"}, b""
    yield "compress", {"path": tree, "target": out, "compression": "none"}, b""
    for path in (tree, leaf):
        yield "compress", {"path": path, "target": out, "compression": "none", "dereference": True}, b""
    yield "compress", {"path": way, "target": out, "compression": "none", "pattern": ".*file"}, b""
    for target in (into, leaf):
        yield "compress", {"path": still, "target": target, "compression": "none"}, b""
    yield "extract", {"path": f"{still}/good.tar", "target": way, "compression": "none"}, b""
    yield "extract", {"path": f"{way}/good.tar", "target": still, "compression": "none"}, b""
    yield "extract", {"path": f"{top}/way.tar", "target": tree, "compression": "none"}, b""
    unpacked = {"temporary": ".hpcgate-t", "mark": MARK}
    yield "unpack", {"path": way, **unpacked}, UNPACKED
    yield "unpack", {"path": into, **unpacked}, UNPACKED
    yield "unpack", {"path": tree, **unpacked}, UNPACKED_TREE
    for do, how in (("copy", {}), ("copy", {"dereference": True}), ("move", {})):
        for path in (leaf, tree):
            yield do, {"path": path, "target": out, **how}, b""
        for target in (file, leaf, way):
            yield do, {"path": f"{still}/file", "target": target, **how}, b""
        yield do, {"path": still, "target": into, **how}, b""


def test_every_operation_is_tried() -> None:
    assert {do for do, _, _ in cases("/")} == set(beneath_program.OPERATIONS)


@pytest.fixture
def top() -> Iterator[str]:
    """A directory with a short path, in memory if there is such a place: each step of the way is one to swap at."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield os.path.realpath(made)


@pytest.mark.parametrize("do", sorted(beneath_program.OPERATIONS))
def test_a_swap_between_any_two_steps_leads_nowhere(top: str, do: str) -> None:
    box = f"{top}/box"
    tried = [case for case in cases(box) if case[0] == do]
    lines = [
        json.dumps({"request": {"do": do, "words": do, "roots": [box], **asked}, "stdin": stdin.hex()}) + "\n"
        for _, asked, stdin in tried
    ]
    argv = [sys.executable, str(STEPS), top, PROGRAM, EVERY]
    done = subprocess.run(argv, input="".join(lines), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for (_, asked, _), line in zip(tried, done.stdout.splitlines(), strict=True):
        told = json.loads(line)
        assert not told["wrong"], (asked, told)
        assert told["steps"] > 4, (asked, told)
        assert told["runs"] > told["steps"] // int(EVERY), (asked, told)
        # Where nobody interferes it does what it should, but for what must not be there yet.
        assert told["undisturbed"] == (1 if _is_there(asked) else 0), (asked, told)


OF_A_DIRECTORY = directories("d", "new", "new/deep") + archive("d/file", "new/file", MARK)
"""Members that are directories anybody may write."""
BESIDE_OTHERS: dict[str, tuple[str, dict[str, Any], bytes, int]] = {
    "an archive is unpacked": ("extract", {"path": "open.tar", "target": "shared", "compression": "none"}, b"", 0),
    "an archive comes": ("unpack", {"path": "shared", "temporary": ".hpcgate-t", "mark": MARK}, OF_A_DIRECTORY, 0),
    "an archive comes into a new directory": (
        "unpack",
        {"path": "shared/made", "temporary": ".hpcgate-t", "mark": MARK},
        OF_A_DIRECTORY,
        0,
    ),
    "an archive breaks off": (
        "unpack",
        {"path": "shared/made", "temporary": ".hpcgate-t", "mark": MARK},
        OF_A_DIRECTORY[:1600],
        1,
    ),
    "a tree is copied": ("copy", {"path": "source", "target": "shared/copied"}, b"", 0),
    "a tree is copied into what is there": ("copy", {"path": "source/d", "target": "shared"}, b"", 0),
    "a tree is copied over it": ("copy", {"path": "source", "target": "shared/."}, b"", 0),
    "a tree cannot be copied": ("copy", {"path": "broken", "target": "shared/copied"}, b"", 1),
    "a directory is made": ("mkdir", {"path": "shared/made/deep", "parents": True}, b"", 0),
    "uploads are swept up": ("sweep", {"path": "shared", "minutes": 1}, b"", 0),
}
"""What is done where others write: an operation, what it is asked, what comes on its standard input, how it ends."""


@pytest.mark.parametrize("name", BESIDE_OTHERS)
def test_what_others_rename_there_keeps_what_it_is(top: str, name: str) -> None:
    """A directory of the user's alone that takes another's place keeps its mode, its group and all that is in it."""
    do, asked, content, ends = BESIDE_OTHERS[name]
    box = f"{top}/box"
    words = {key: f"{box}/{asked[key]}" if key in ("path", "target") else asked[key] for key in asked}
    request = {"do": do, "words": do, "roots": [box], **words}
    Path(top, "open.tar").write_bytes(OF_A_DIRECTORY)
    if words["path"].endswith("open.tar"):
        request |= {"path": f"{top}/open.tar", "roots": [top]}
    lines = [json.dumps({"request": request, "stdin": content.hex(), "before": before}) + "\n" for before in (0, 1)]
    argv = [sys.executable, "-m", beneath_others.__name__, top, PROGRAM, "1"]
    done = subprocess.run(
        argv, input="".join(lines), capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    for number, line in enumerate(done.stdout.splitlines()):
        told = json.loads(line)
        assert not told["wrong"], told
        assert told["steps"] > 4, told
        assert number or (told["swaps"] and told["undisturbed"] == ends), told


def _is_there(asked: dict[str, Any]) -> bool:
    return bool(asked.get("exclusive")) and asked["path"].endswith(("/file", "/leaf")) and "temporary" in asked


# Runs the program with a signal before each name that it removes.
INTERRUPTED = """\
import os, runpy, signal, sys
for name in ("unlink", "rmdir"):
    def interrupted(*words, real=getattr(os, name), **keywords):
        signal.raise_signal(signal.SIGTERM)
        return real(*words, **keywords)
    setattr(os, name, interrupted)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
BROKEN: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "an upload": ("replace", {"path": "file", "temporary": ".hpcgate-x", "mode": None, "sync": False}, b"4\nev"),
    "an archive": ("unpack", {"path": "", "temporary": ".hpcgate-x", "mark": MARK}, archive("new", "dir/new")[:600]),
    "parts joined": ("join", {"path": "new", "parts": ["file", "gone"]}, b""),
    "a copy": ("copy", {"path": "dir", "target": "new", "dereference": False}, b""),
}
"""What fails, and so removes what it has made: an operation, what it is asked, what comes on its standard input."""


@pytest.mark.parametrize("name", BROKEN)
def test_a_signal_does_not_keep_it_from_clearing_up(tmp_path: Path, name: str) -> None:
    do, asked, content = BROKEN[name]
    box = tmp_path / "box"
    (box / "dir").mkdir(parents=True)
    (box / "file").write_bytes(b"old")
    os.mknod(box / "dir" / "socket", stat.S_IFSOCK | 0o600)
    before = sorted(box.rglob("*"))
    words = {key: asked[key] for key in asked if key not in ("path", "target", "parts", "temporary", "mark")}
    words |= {key: f"{box}/{asked[key]}" for key in ("path", "target") if key in asked}
    words |= {key: asked[key] for key in ("temporary", "mark") if key in asked}
    if "parts" in asked:
        words["parts"] = [f"{box}/{part}" for part in asked["parts"]]
    request = json.dumps({"do": do, "words": do, "roots": [str(box)], **words}).encode() + b"\n"
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, PROGRAM], input=request + content, capture_output=True, timeout=300
    )
    assert done.returncode == 143, done
    assert sorted(box.rglob("*")) == before, done
