"""The scripts of transfer jobs, run by real shells."""

import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcgate.transfers.base import Script
from hpcgate.transfers.jobs import Compression
from tests.transfers import asked
from tests.transfers.shells import SHELLS, Sh, either, own

COMPRESSIONS: tuple[Compression, ...] = ("none", "gzip", "bzip2", "xz")
NASTY = [
    "plain", "-rf", "--help", "it's", 'a"b', "$(id)", "`id`", "a\nb", "\n", "a\n", "a\r\nb", "\\n", "a\\", "*", "?[a]",
    " ", "#SBATCH --x", "é€😀", "a:b", "!x", "~", "%j", "x" * 255, "\x01\x7f", "\udcff\udcfe", "é\udce9\\1\n\udcff'",
]  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_nasty_names(sh: Sh, name: str) -> None:
    """Jobs take hostile file names."""
    d = sh.directory
    (d / name).write_text("content")
    own(d)
    assert sh.run(asked.cp(f"{d}/{name}", f"{d}/copy")).succeeded
    assert (d / "copy").read_text() == "content"
    assert sh.run(asked.mv(f"{d}/copy", f"{d}/{name}")).succeeded
    assert not (d / "copy").exists()
    assert sh.run(asked.compress(f"{d}/{name}", f"{d}/a.tar")).succeeded
    (d / "out").mkdir()
    own(d)
    assert sh.run(asked.extract(f"{d}/a.tar", f"{d}/out")).succeeded
    assert (d / "out" / name).read_text() == "content"
    assert sh.run(asked.rm(f"{d}/{name}")).succeeded
    assert sorted(os.listdir(d)) == ["a.tar", "out"]


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda name: name not in (".", "..") and len(name.encode()) <= 240
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(source=NAMES, target=NAMES, shell=st.sampled_from(SHELLS))
def test_any_name(source: str, target: str, shell: str) -> None:
    """Jobs take any file name."""
    with tempfile.TemporaryDirectory(prefix="hpcgate-transfers-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        d = Path(name) / "work"
        d.mkdir()
        (d / "in").mkdir()
        (d / "in" / source).write_text("content")
        (d / "out").mkdir()
        own(d)
        sh = Sh(shell, d)
        assert sh.run(asked.cp(f"{d}/in/{source}", f"{d}/in/2{target}")).succeeded
        assert sh.run(asked.compress(f"{d}/in", f"{d}/t{target}", compression="none")).succeeded
        assert sh.run(asked.extract(f"{d}/t{target}", f"{d}/out", compression="none")).succeeded
        assert {path.name for path in (d / "out" / "in").iterdir()} == {source, f"2{target}"}
        assert sh.run(asked.mv(f"{d}/in", f"{d}/out/m{target}")).succeeded
        assert sh.run(asked.rm(f"{d}/out/m{target}")).succeeded
        assert os.listdir(d / "out") == ["in"]
        assert sh.left_over() == []


VERBS: dict[str, Callable[[str, str], Script]] = {
    "mv": lambda source, target: asked.mv(source, target),
    "cp": lambda source, target: asked.cp(source, target),
    "cp -L": lambda source, target: asked.cp(source, target, dereference=True),
    "rm": lambda source, _: asked.rm(source),
    "compress": lambda source, target: asked.compress(source, target),
    "compress match": lambda source, target: asked.compress(source, target, pattern=".*"),
    "extract": lambda source, target: asked.extract(source, target),
}


@pytest.mark.parametrize("verb", VERBS)
def test_missing_source(sh: Sh, verb: str) -> None:
    """A job whose source is missing fails, and the target stays."""
    (sh.directory / "target").write_text("old")
    done = sh.run(VERBS[verb](f"{sh.directory}/absent", f"{sh.directory}/target"))
    assert not done.succeeded
    assert "No such file or directory" in done.errors
    assert (sh.directory / "target").read_text() == "old"
    assert sh.left_over() == []


@pytest.mark.parametrize("verb", ["cp", "cp -L", "compress", "compress match"])
def test_failure_half_way_leaves_the_old_target(sh: Sh, verb: str) -> None:
    tree = sh.directory / "tree"
    tree.mkdir()
    (tree / "good").write_text("x")
    (tree / "secret").write_text("y")
    (sh.directory / "target").write_text("old")
    own(sh.directory)
    (tree / "secret").chmod(0)
    done = sh.run(VERBS[verb](str(tree), f"{sh.directory}/target"))
    assert not done.succeeded
    assert "Permission denied" in done.errors or "cannot overwrite" in done.errors
    assert (sh.directory / "target").read_text() == "old"
    assert sh.left_over() == []


@pytest.mark.parametrize("verb", ["mv", "cp", "rm", "compress"])
def test_directory_that_may_not_be_written(sh: Sh, verb: str) -> None:
    locked = sh.directory / "locked"
    locked.mkdir()
    (locked / "file").write_text("x")
    (locked / "file").chmod(0o444)
    (sh.directory / "other").write_text("y")
    own(sh.directory)
    locked.chmod(0o555)
    source = f"{locked}/file" if verb == "rm" else f"{sh.directory}/other"
    done = sh.run(VERBS[verb](source, f"{locked}/file"))
    assert not done.succeeded
    assert "Permission denied" in done.errors
    assert (locked / "file").read_text() == "x"


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("content", ["", "y", "longer than it was\n" * 50_000])
def test_a_copy_goes_into_a_file_whose_directory_may_not_be_written(sh: Sh, content: str, follow: bool) -> None:
    locked, source = sh.directory / "locked", sh.directory / "other"
    locked.mkdir()
    (locked / "file").write_text("what it was")
    source.write_text(content)
    own(sh.directory)
    (locked / "file").chmod(0o640)
    locked.chmod(0o555)
    inode = (locked / "file").stat().st_ino
    assert sh.run(asked.cp(str(source), f"{locked}/file", dereference=follow)).succeeded
    assert (locked / "file").read_text() == source.read_text() == content
    now = (locked / "file").stat()
    assert (now.st_ino, now.st_mode & 0o777) == (inode, 0o640)
    locked.chmod(0o755)
    assert sh.left_over() == []


@either
def test_into_a_directory(sh: Sh) -> None:
    """A job moves and copies into a directory as mv and cp do."""
    d = sh.directory
    for name in ("a", "b"):
        (d / name).write_text(name)
    (d / "into").mkdir()
    (d / "tree").mkdir()
    (d / "tree" / "leaf").write_text("leaf")
    own(d)
    assert sh.run(asked.mv(f"{d}/a", f"{d}/into")).succeeded
    assert sh.run(asked.cp(f"{d}/b", f"{d}/into/")).succeeded
    assert sh.run(asked.cp(f"{d}/tree/", f"{d}/into")).succeeded
    assert sh.run(asked.cp(f"{d}/tree", f"{d}/new/")).succeeded
    assert sorted(str(path.relative_to(d)) for path in d.rglob("*")) == [
        "b", "into", "into/a", "into/b", "into/tree", "into/tree/leaf", "new", "new/leaf", "tree", "tree/leaf",
    ]  # fmt: skip
    (d / "tree" / "leaf").write_text("newer")
    assert sh.run(asked.cp(f"{d}/tree", f"{d}/into")).succeeded
    assert (d / "into" / "tree" / "leaf").read_text() == "newer"
    assert not sh.run(asked.cp(f"{d}/b", f"{d}/absent/")).succeeded
    assert not sh.run(asked.cp(f"{d}/b", f"{d}/absent/x")).succeeded
    assert not sh.run(asked.cp(f"{d}/tree", f"{d}/tree/inner")).succeeded
    assert not sh.run(asked.cp(f"{d}/b", f"{d}/b")).succeeded
    assert not sh.run(asked.mv(f"{d}/b", f"{d}/b")).succeeded
    assert (d / "b").read_text() == "b"
    assert sh.left_over() == []


@either
def test_links(sh: Sh) -> None:
    """A job treats links as mv and cp do."""
    d = sh.directory
    (d / "file").write_text("new")
    (d / "old").write_text("old")
    (d / "link").symlink_to("file")
    (d / "through").symlink_to("old")
    (d / "dangling").symlink_to("nowhere")
    own(d)
    assert sh.run(asked.cp(f"{d}/link", f"{d}/same")).succeeded
    assert os.readlink(d / "same") == "file"
    assert sh.run(asked.cp(f"{d}/link", f"{d}/content", dereference=True)).succeeded
    assert not (d / "content").is_symlink()
    assert (d / "content").read_text() == "new"
    assert sh.run(asked.cp(f"{d}/file", f"{d}/through")).succeeded
    assert (d / "through").is_symlink()
    assert (d / "old").read_text() == "new"
    assert sh.run(asked.mv(f"{d}/dangling", f"{d}/moved")).succeeded
    assert os.readlink(d / "moved") == "nowhere"
    assert not sh.run(asked.cp(f"{d}/moved", f"{d}/x", dereference=True)).succeeded
    assert sh.run(asked.rm(f"{d}/link")).succeeded
    assert (d / "file").exists()


@either
def test_modes_and_times_are_kept(sh: Sh) -> None:
    d = sh.directory
    (d / "file").write_text("x")
    own(d)
    (d / "file").chmod(0o751)
    os.utime(d / "file", (1_000_000_000, 1_000_000_000))
    assert sh.run(asked.cp(f"{d}/file", f"{d}/copy")).succeeded
    assert (d / "copy").stat().st_mode & 0o7777 == 0o751
    assert (d / "copy").stat().st_mtime == 1_000_000_000


def test_move_to_another_file_system(sh: Sh, elsewhere: Path) -> None:
    d = sh.directory
    (d / "tree").mkdir()
    (d / "tree" / "leaf").write_text("leaf")
    (d / "file").write_text("new")
    (elsewhere / "file").write_text("old")
    own(d)
    own(elsewhere)
    assert sh.run(asked.mv(f"{d}/tree", str(elsewhere))).succeeded
    assert (elsewhere / "tree" / "leaf").read_text() == "leaf"
    assert sh.run(asked.mv(f"{d}/file", f"{elsewhere}/file")).succeeded
    assert (elsewhere / "file").read_text() == "new"
    assert os.listdir(d) == []
    assert sorted(os.listdir(elsewhere)) == ["file", "tree"]


@either
def test_failed_move_to_another_file_system_loses_nothing(sh: Sh, elsewhere: Path) -> None:
    d = sh.directory
    (d / "tree").mkdir()
    (d / "tree" / "a").write_text("a")
    (d / "tree" / "secret").write_text("b")
    (elsewhere / "tree").mkdir()
    (elsewhere / "tree" / "old").write_text("old")
    own(d)
    own(elsewhere)
    (d / "tree" / "secret").chmod(0)
    done = sh.run(asked.mv(f"{d}/tree", str(elsewhere)))
    assert not done.succeeded
    assert sorted(os.listdir(d / "tree")) == ["a", "secret"]
    assert os.listdir(elsewhere / "tree") == ["old"]
    assert os.listdir(elsewhere) == ["tree"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("pattern", [None, r"\./[ab].*\.txt"])
@pytest.mark.parametrize("dereference", [False, True])
def test_compress(sh: Sh, compression: Compression, pattern: str | None, dereference: bool) -> None:
    """A job packs what is asked for, by each compression."""
    d = sh.directory
    tree = d / "tree"
    (tree / "sub").mkdir(parents=True)
    for name in ("a.txt", "b c.txt", "c.txt", "sub/a.txt", "-x.txt"):
        (tree / name).write_text(name)
    (tree / "al.txt").symlink_to("c.txt")
    own(d)
    script = asked.compress(
        str(tree), f"{d}/archive", compression=compression, pattern=pattern, dereference=dereference
    )
    assert sh.run(script).succeeded
    magic = {"none": b"tree/" if pattern is None else b"./", "gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ"}
    assert (d / "archive").read_bytes().startswith(magic[compression])
    with tarfile.open(d / "archive") as archive:
        found = {member.name: member for member in archive}
    if pattern is None:
        assert set(found) == {"tree", "tree/sub", "tree/al.txt"} | {
            f"tree/{name}" for name in ("a.txt", "b c.txt", "c.txt", "sub/a.txt", "-x.txt")
        }
        assert found["tree/al.txt"].issym() != dereference
    else:
        assert set(found) == {"./a.txt", "./b c.txt", *(["./al.txt"] if dereference else [])}
    assert (d / "archive").stat().st_mode & 0o777 == 0o644
    (d / "out").mkdir()
    own(d)
    assert sh.run(asked.extract(f"{d}/archive", f"{d}/out", compression=compression)).succeeded
    base = d / "out" if pattern else d / "out" / "tree"
    assert (base / "a.txt").read_text() == "a.txt"


@either
def test_archive_inside_its_source(sh: Sh) -> None:
    tree = sh.directory / "tree"
    tree.mkdir()
    (tree / "a").write_text("a")
    own(sh.directory)
    for pattern, expected in ((None, ["tree", "tree/a"]), (".*", ["./a"])):
        for _ in range(2):
            assert sh.run(asked.compress(str(tree), f"{tree}/all.tgz", pattern=pattern)).succeeded
            with tarfile.open(tree / "all.tgz") as archive:
                assert archive.getnames() == expected
    assert sh.left_over() == []


def test_bad_pattern(sh: Sh) -> None:
    """A pattern that is not one makes no archive."""
    (sh.directory / "tree").mkdir()
    done = sh.run(asked.compress(f"{sh.directory}/tree", f"{sh.directory}/x", pattern=r"\(")).succeeded
    assert not done
    assert not (sh.directory / "x").exists()


@pytest.mark.parametrize(
    ("words", "succeeded"),
    [
        ("tar: x: file changed as we read it", True),
        ("tar: x: File shrank by 9 bytes; padding with zeros", False),
    ],
)
def test_compress_while_a_file_changes(sh: Sh, words: str, succeeded: bool) -> None:
    d = sh.directory
    (d / "bin").mkdir()
    (d / "bin/tar").write_text(f"#!/bin/sh\n/usr/bin/tar \"$@\"\necho '{words}' >&2\nexit 1\n")
    (d / "bin/tar").chmod(0o755)
    (d / "file").write_text("content")
    own(d)
    ended = sh.run(asked.compress(f"{d}/file", f"{d}/archive"), PATH=f"{d}/bin:{os.environ['PATH']}")
    assert ended.succeeded is succeeded
    assert words in ended.errors
    assert (d / "archive").exists() is succeeded
    assert sh.left_over() == []


def test_compress_opens_nothing_to_another_group(sh: Sh) -> None:
    d = sh.directory
    for name in ("file", "archive"):
        (d / name).write_text("content")
    own(d)
    if os.geteuid() == 0:
        os.chown(d / "archive", -1, 54322)
    (d / "archive").chmod(0o660)
    assert sh.run(asked.compress(f"{d}/file", f"{d}/archive")).succeeded
    assert (d / "archive").stat().st_mode & 0o777 == (0o600 if os.geteuid() == 0 else 0o660)


def test_extract_takes_no_backslash_for_an_escape(sh: Sh) -> None:
    d = sh.directory
    (d / "file").write_text("content")
    for name in ("a\\tb", "a\tb"):
        (d / name).mkdir()
    own(d)
    assert sh.run(asked.compress(f"{d}/file", f"{d}/archive")).succeeded
    assert sh.run(asked.extract(f"{d}/archive", f"{d}/a\\tb")).succeeded
    assert os.listdir(d / "a\\tb") == ["file"]
    assert os.listdir(d / "a\tb") == []


def test_extract_refuses_what_is_no_archive(sh: Sh) -> None:
    d = sh.directory
    (d / "text").write_text("no archive")
    (d / "out").mkdir()
    own(d)
    for compression in COMPRESSIONS:
        assert not sh.run(asked.extract(f"{d}/text", f"{d}/out", compression=compression)).succeeded
    assert not sh.run(asked.extract(f"{d}/text", f"{d}/absent")).succeeded
    assert not sh.run(asked.extract(str(d), f"{d}/out")).succeeded


def test_extract_stays_inside(sh: Sh) -> None:
    """A job unpacks nothing outside its target."""
    d = sh.directory
    (d / "out").mkdir()
    (d / "evil").write_text("evil")
    with tarfile.open(d / "bad.tar", "w") as archive:
        archive.add(d / "evil", "../escaped")
    own(d)
    assert not sh.run(asked.extract(f"{d}/bad.tar", f"{d}/out", compression="none")).succeeded
    assert not (d / "escaped").exists()


def test_user_settings_of_tar_do_not_count(sh: Sh) -> None:
    (sh.directory / "a").write_text("a")
    own(sh.directory)
    done = sh.run(asked.compress(f"{sh.directory}/a", f"{sh.directory}/t"), TAR_OPTIONS="--remove-files")
    assert done.succeeded
    assert (sh.directory / "a").exists()


@either
def test_full_disk(sh: Sh, small: Path) -> None:
    """A job on a full disk fails, and the old target stays whole."""
    (small / "target").write_text("old")
    own(small)
    (sh.directory / "big").write_bytes(os.urandom(200_000))
    own(sh.directory)
    for script in (
        asked.cp(f"{sh.directory}/big", f"{small}/target"),
        asked.mv(f"{sh.directory}/big", f"{small}/target"),
        asked.compress(f"{sh.directory}/big", f"{small}/target"),
    ):
        done = sh.run(script)
        assert not done.succeeded
        assert "No space left on device" in done.errors
        assert (small / "target").read_text() == "old"
        assert os.listdir(small) == ["target"]
    assert (sh.directory / "big").stat().st_size == 200_000
