"""The program that works beneath paths, by each way that a path, a rule, a tree or an archive may be odd."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpcgate.demo.packages import ensure_installed
from hpcgate.filesystem import beneath_program

SECRET = b"nobody may read this"
DENIED = 77


@dataclass(frozen=True)
class Box:
    """A box beside an outside with a secret, and the program to try."""

    path: Path

    @property
    def outside(self) -> Path:
        return self.path.parent / "outside"

    def do(
        self,
        do: str,
        *,
        roots: list[str] | None = None,
        memory: int | None = None,
        files: int = 1000,
        content: bytes = b"",
        **asked: Any,
    ) -> int:
        """Run an operation, with so many bytes of memory and open files, and return how it ended."""
        request = {"do": do, "words": do, "roots": roots or [str(self.path)], **asked}
        argv = [sys.executable, "-I", "-S", str(beneath_program.__file__)]
        limits = f"ulimit -n {files}" if memory is None else f"ulimit -n {files}; ulimit -v {memory // 1024}"
        argv = ["sh", "-c", f'{limits}; exec "$@"', "sh", *argv]
        line = json.dumps(request).encode() + b"\n" + content
        done = subprocess.run(argv, input=line, capture_output=True, timeout=600, check=False)
        assert SECRET not in done.stdout + done.stderr
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        assert done.returncode in (0, 1, 2, DENIED), done
        return done.returncode

    def assert_kept(self) -> None:
        """The outside is as it was, and nothing else has been made beside the box."""
        assert sorted(os.listdir(self.path.parent)) == ["box", "outside"]
        assert os.listdir(self.outside) == ["secret"]
        assert (self.outside / "secret").read_bytes() == SECRET


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    top = Path(os.path.realpath(tmp_path))
    (top / "box" / "sub").mkdir(parents=True)
    (top / "box" / "good").write_text("inside")
    (top / "outside").mkdir()
    (top / "outside" / "secret").write_bytes(SECRET)
    yield Box(top / "box")
    # pytest, which clears up days later, cannot go as deep as some of these trees, and ends with an error.
    subprocess.run(["rm", "-rf", top / "box"], check=True)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("{box}/good", 0),
        ("//{box}//good", 0),
        ("{box}/./sub/.././good", 0),
        ("{box}/../box/good", 0),
        ("/proc/self/root{box}/good", 0),
        ("{box}/good/", 1),
        ("{box}/good/.", 1),
        ("{box}/good/../good", 1),
        ("{box}/missing/../good", 1),
        ("{box}/" + "x" * 255, 1),
        ("{box}/" + "x" * 256, 1),
        ("{box}/" + "é" * 128, 1),
        ("{box}/a\nb", 1),
        ("{box}/\udcff", 1),
        ("{box}/%2e%2e/outside/secret", 1),
        ("{box}/..\\outside\\secret", 1),
        ("{box}/\u2024\u2024/outside/secret", 1),
        ("{box}/../outside/secret", DENIED),
        ("{box}/sub/../../outside/secret", DENIED),
        ("{box}/missing/../../outside/secret", DENIED),
        ("{box}//..//outside//secret", DENIED),
        ("{box}/..", DENIED),
        ("{box}/../", DENIED),
        ("{box}2", DENIED),
        ("{box}2/../outside/secret", DENIED),
        ("/", DENIED),
        (".", DENIED),
        ("outside/secret", DENIED),
        ("/proc/self/root{box}/../outside/secret", DENIED),
        ("/proc/self/cwd", DENIED),
        ("/proc/self/fd/0", DENIED),
        ("/proc/self/exe", DENIED),
        ("/dev/fd/0", DENIED),
        ("/dev/stdin", DENIED),
    ],
)
def test_paths(box: Box, path: str, status: int) -> None:
    """A path is admitted if and only if it stays beneath a root."""
    path = path.replace("{box}", str(box.path))
    assert box.do("read", path=path, offset=0) == status
    assert box.do("checksum", path=path) == status
    box.assert_kept()


def test_the_root_of_a_rule_that_is_a_link(box: Box) -> None:
    box.path.rename(box.outside / "away")
    box.path.symlink_to("outside")
    for path in (f"{box.path}/secret", str(box.path), f"{box.path}/"):
        assert box.do("read", path=path, offset=0) == DENIED
        assert box.do("list", path=path, follow=True, hidden=True) == DENIED
    assert box.do("mkdir", path=f"{box.path}/new", parents=True) == DENIED
    assert box.do("replace", path=f"{box.path}/secret", temporary=".hpcgate-t") == DENIED
    assert sorted(os.listdir(box.outside)) == ["away", "secret"]


def test_the_root_of_a_rule_stays(box: Box) -> None:
    for path in ("", "/", "/.", "/sub/.."):
        assert box.do("remove", path=f"{box.path}{path}") == DENIED
        assert box.do("move", path=f"{box.path}{path}", target=f"{box.path}/sub/x") == DENIED
        assert box.do("rename", path=f"{box.path}{path}", target=f"{box.path}/sub/x") == DENIED
    assert (box.path / "good").exists()


def test_rules_that_overlap(box: Box) -> None:
    """What lies beneath any of several roots is admitted."""
    inner = f"{box.path}/sub"
    for roots in ([str(box.path), inner], [inner, str(box.path)], [f"{box.path}/missing", str(box.path)]):
        assert box.do("read", roots=roots, path=f"{box.path}/good", offset=0) == 0
        assert box.do("read", roots=roots, path=f"{box.outside}/secret", offset=0) == DENIED
    assert box.do("read", roots=[inner], path=f"{inner}/../good", offset=0) == DENIED
    assert box.do("rename", roots=[inner, f"{box.path}/good"], path=f"{box.path}/good", target=f"{inner}/x") == DENIED


@pytest.mark.parametrize(
    ("target", "made"),
    [
        (".", True),
        ("sub", True),
        ("missing/yet", True),
        ("../box/sub", True),
        ("{box}", True),
        ("\n", True),
        ("", False),
        ("..", False),
        ("../outside", False),
        ("./../outside", False),
        ("../box/../outside", False),
        ("sub/../../outside", False),
        ("sub/..", False),  # Inside now, but not once `sub` is a link.
        ("missing/../../outside", False),
        ("{box}/../outside", False),
        ("///{outside}", False),
        ("/", False),
        ("/proc/self/root", False),
        ("/proc/self/cwd", False),
        ("/dev/fd/0", False),
        ("../" * 60, False),
        ("x" * 4096, False),
    ],
)
def test_links(box: Box, target: str, made: bool) -> None:
    """A link is made if and only if it leads to what is admitted."""
    target = target.replace("{box}", str(box.path)).replace("{outside}", str(box.outside))
    assert (box.do("symlink", path=f"{box.path}/link", target=target) == 0) == made
    assert os.path.lexists(box.path / "link") == made
    box.assert_kept()


def test_a_fifo_keeps_nobody_waiting(box: Box) -> None:
    path = f"{box.path}/fifo"
    os.mkfifo(path)
    asks: list[tuple[str, dict[str, Any]]] = [
        ("read", {"offset": 0}), ("checksum", {}), ("open", {}), ("truncate", {"size": 1}), ("sync", {}),
        ("extend", {"offset": 0}), ("replace", {"temporary": ".hpcgate-t"}),
        ("extract", {"target": f"{box.path}/sub", "compression": "none"}),
        ("join", {"path": f"{box.path}/new", "parts": [path]}),
    ]  # fmt: skip
    for do, more in asks:
        assert box.do(do, **{"path": path, **more}) == 1
    more_asks: list[tuple[str, dict[str, Any]]] = [
        ("kind", {}), ("pack", {"compression": "none"}), ("copy", {"target": f"{box.path}/other"})
    ]  # fmt: skip
    for do, more in more_asks:
        assert box.do(do, path=path, **more) == 0
    assert sorted(os.listdir(box.path)) == ["fifo", "good", "other", "sub"]


@pytest.mark.parametrize("depth", [300, 5000])
def test_deep_trees(box: Box, depth: int) -> None:
    """They work, or are too deep; either way nothing crashes or is left behind."""
    (box.path / "deep").mkdir()
    fd = os.open(box.path / "deep", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    path, copied = f"{box.path}/deep", f"{box.path}/copied"
    asks: list[tuple[str, dict[str, Any]]] = [("copy", {"target": copied}), ("remove", {})]
    if depth < 1000:
        asks = [("list", {"recursive": True, "hidden": True}), ("pack", {"compression": "none"}), *asks]
    # How deep one may go is the Python's and the site's, which say how many files may be open at a time.
    for do, more in asks:
        assert box.do(do, path=path, **more) in ({0} if depth < 1000 else {0, 1})
    assert set(os.listdir(box.path)) <= {"good", "sub", "deep", "copied"}


def test_few_files_are_open_at_a_time(box: Box) -> None:
    """However many an operation is about; but a tree's depth counts."""
    (box.path / "many").mkdir()
    names = [f"{box.path}/many/{number}" for number in range(200)]
    for name in names:
        Path(name).touch()
        os.symlink("../sub", f"{name}-link")
    members = [(f"a/{number}", {"size": 4}) for number in range(200)]
    (box.path / "a.tar").write_bytes(_archive(*members))
    asks: list[tuple[str, dict[str, Any]]] = [
        ("extract", {"path": f"{box.path}/a.tar", "target": f"{box.path}/sub", "compression": "none"}),
        ("list", {"path": f"{box.path}/many", "recursive": True, "hidden": True, "follow": True}),
        ("admit", {"paths": names, "links": names, "trees": [f"{box.path}/sub"]}),
        ("join", {"path": f"{box.path}/joined", "parts": names}),
        ("mkdir", {"path": f"{box.path}/new" + "/d" * 200, "parents": True}),
    ]  # fmt: skip
    for follow in (False, True):
        more = {"path": f"{box.path}/many", "dereference": follow}
        asks.append(("copy", {**more, "target": f"{box.path}/copied-{follow}"}))
        asks.append(("compress", {**more, "target": f"{box.path}/{follow}.tar", "compression": "none"}))
    for do, asked in asks:
        assert box.do(do, files=48, **asked) == 0, do


def _damaged(how: Callable[[bytes], bytes]) -> bytes:
    """Return an archive of two members, each a header and a block, after something has happened to it."""
    return how(_archive(("first", {"size": 4}), ("second", {"size": 4})))


def _archive(*members: tuple[str, dict[str, Any]]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, attributes in members:
            member = tarfile.TarInfo(name)
            for attribute, value in attributes.items():
                setattr(member, attribute, value)
            tar.addfile(member, io.BytesIO(b"evil" * 256))
    return made.getvalue()


def _sparse(name: str, size: int) -> bytes:
    headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,4", "GNU.sparse.size": str(size)}
    return _archive(("x", {"size": 4, "pax_headers": {**headers, "GNU.sparse.name": name}}))


def _header_bomb() -> bytes:
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 2**31
    return member.tobuf(tarfile.USTAR_FORMAT) + bytes(512 * 2**20)


ARCHIVES: dict[str, tuple[Callable[[], bytes], int]] = {
    "a name in an extended header": (lambda: _archive(("x", {"pax_headers": {"path": "../outside/new"}})), DENIED),
    "a target in an extended header": (
        lambda: _archive(("x", {"type": tarfile.SYMTYPE, "linkname": "x", "pax_headers": {"linkpath": "../../x"}})),
        DENIED,
    ),
    "a block device": (lambda: _archive(("x", {"type": tarfile.BLKTYPE})), DENIED),
    "a type that nobody knows": (lambda: _archive(("x", {"type": b"Z"})), DENIED),
    "a sparse file elsewhere": (lambda: _sparse("../outside/new", 4), DENIED),
    "a sparse file without end": (lambda: _sparse("sparse", 2**42), 0),
    "a time that nothing can have": (lambda: _archive(("x", {"mtime": 2**70})), 1),
    "a header of two GiB": (_header_bomb, 1),
    "a negative size": (lambda: _archive(("x", {"pax_headers": {"size": "-4"}})), 1),
    "a header that makes no sense": (lambda: _damaged(lambda whole: whole[:1024] + b"x" * 512 + whole[1536:]), 1),
    "a header that is cut short": (lambda: _damaged(lambda whole: whole[: 1024 + 100]), 1),
    "no end but whole members": (lambda: _damaged(lambda whole: whole[:2048]), 0),
    "set-user-ID": (lambda: _archive(("x", {"mode": 0o6755})), 0),
    "a name of 255 bytes": (lambda: _archive(("x" * 255, {"size": 4})), 0),
    "a name of 256 bytes": (lambda: _archive(("x" * 256, {"size": 4})), 1),
    "a newline": (lambda: _archive(("a\nb", {"size": 4})), 0),
    "no bytes": (lambda: b"", 1),
    "no archive": (lambda: b"PK\x03\x04" + bytes(2000), 1),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives(box: Box, kind: str) -> None:
    """No archive writes outside its target, or takes memory without bound."""
    make, status = ARCHIVES[kind]
    (box.path / "a.tar.gz").write_bytes(gzip.compress(make(), 1))
    asked: dict[str, Any] = {"path": f"{box.path}/a.tar.gz", "target": f"{box.path}/sub", "compression": "gzip"}
    assert box.do("extract", memory=400 * 2**20, **asked) == status
    for path in (box.path / "sub").iterdir():
        info = path.lstat()
        assert info.st_mode & 0o7000 == 0
        assert info.st_blocks * 512 < 2**20
    box.assert_kept()


@pytest.mark.parametrize(
    ("listed", "mode", "made"),
    [
        # What the directory is, and what comes of members of 0755, 0644 and 0666, with umask 022.
        (None, 0o755, {"d": 0o755, "d/key": 0o644, "d/open": 0o644, "e": 0o755, "e/key": 0o644}),
        (None, 0o2775, {"d": 0o2755, "d/key": 0o644, "d/open": 0o644, "e": 0o2755, "e/key": 0o644}),
        ("g::rwx,o::-", 0o755, {"d": 0o750, "d/key": 0o640, "d/open": 0o660, "e": 0o770, "e/key": 0o640}),
        ("g::rwx,o::-", 0o2775, {"d": 0o2750, "d/key": 0o640, "d/open": 0o660, "e": 0o2770, "e/key": 0o640}),
        ("u:54324:rwx,g::-,o::-", 0o2775, {"d": 0o2750, "d/key": 0o640, "d/open": 0o660, "e": 0o2770}),
    ],
)
@pytest.mark.parametrize("do", ["extract", "unpack"])
def test_what_is_unpacked_gets_what_the_place_says(
    box: Box, do: str, listed: str | None, mode: int, made: dict[str, int]
) -> None:
    top = box.path / "sub"
    top.chmod(mode)
    if listed is not None:
        ensure_installed({"setfacl": "acl"}, lambda _: None)
        subprocess.run(["setfacl", "-d", "-m", listed, top], check=True)
    members: list[tuple[str, dict[str, Any]]] = [
        ("d", {"type": tarfile.DIRTYPE, "mode": 0o755}),
        ("d/key", {"size": 4, "mode": 0o644}),
        ("d/open", {"size": 4, "mode": 0o666}),
        ("e/key", {"size": 4, "mode": 0o644}),
    ]
    archive = _archive(*members, ("mark", {}))
    (box.path / "a.tar").write_bytes(archive)
    before = os.umask(0o022)
    try:
        # What is there already does not get wider either.
        for _ in range(2):
            if do == "extract":
                asked: dict[str, Any] = {"path": f"{box.path}/a.tar", "target": str(top), "compression": "none"}
                assert box.do("extract", **asked) == 0
            else:
                asked = {"path": str(top), "temporary": ".hpcgate-x", "mark": "mark"}
                assert box.do("unpack", content=archive, **asked) == 0
            found = {name: (top / name).stat().st_mode & 0o7777 for name in made}
            assert found == made
    finally:
        os.umask(before)
