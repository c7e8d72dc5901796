"""Transfer jobs under a rule with paths: what is swapped after the check at submission is seen when they run."""

import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcgate.api.confined_jobs import confined
from hpcgate.auth.policy import Grant
from hpcgate.errors import Denied
from hpcgate.transfers.base import Script
from hpcgate.transfers.jobs import MAX_SCRIPT
from hpcgate.transfers.script import job_script
from tests.transfers import asked
from tests.transfers.shells import Sh, own

DENIED = 77


@pytest.fixture
def box(sh: Sh) -> Path:
    """A box with a tree and an archive, beside an outside with a secret."""
    box, outside = sh.directory / "box", sh.directory / "outside"
    for directory in (box / "tree" / "sub", box / "to", outside):
        directory.mkdir(parents=True)
    for file in (box / "tree" / "sub" / "file", box / "file"):
        file.write_text("inside")
    (outside / "secret").write_text("secret")
    with tarfile.open(box / "a.tar.gz", "w:gz") as tar:
        tar.add(box / "tree", "tree")
    own(sh.directory)
    return box


def held(script: Script, box: Path) -> Script:
    return confined(script, Grant("box", (os.fsencode(os.path.realpath(box)),)))


SCRIPTS: dict[str, Callable[[str], Script]] = {
    "mv": lambda box: asked.mv(f"{box}/tree", f"{box}/to"),
    "cp": lambda box: asked.cp(f"{box}/tree", f"{box}/to"),
    "cp followed": lambda box: asked.cp(f"{box}/tree", f"{box}/to", dereference=True),
    "rm": lambda box: asked.rm(f"{box}/tree"),
    "compress": lambda box: asked.compress(f"{box}/tree", f"{box}/to/new.tar.gz"),
    "compress followed": lambda box: asked.compress(f"{box}/tree", f"{box}/to/new.tar.gz", dereference=True),
    "compress a pattern": lambda box: asked.compress(f"{box}/tree", f"{box}/to/new.tar.gz", pattern=".*file"),
    "extract": lambda box: asked.extract(f"{box}/a.tar.gz", f"{box}/to"),
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_they_do_what_the_others_do(sh: Sh, box: Path, kind: str) -> None:
    ended = sh.run(held(SCRIPTS[kind](str(box)), box))
    assert ended.succeeded, ended
    made = {"rm": "", "compress": "new.tar.gz"}.get(kind.partition(" ")[0], "tree/sub/file")
    assert (box / "to" / made).exists()
    assert (box / "tree").exists() == (kind not in ("mv", "rm"))


@pytest.mark.parametrize("kind", [kind for kind in SCRIPTS if kind != "rm"])
def test_a_target_that_has_become_a_link(sh: Sh, box: Path, kind: str) -> None:
    script = held(SCRIPTS[kind](str(box)), box)
    (box / "to").rmdir()
    (box / "to").symlink_to("../outside")
    ended = sh.run(script)
    assert ended.status == DENIED, ended
    assert "hpcgate: denied: " in ended.errors
    assert os.listdir(box.parent / "outside") == ["secret"]


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_source_that_has_become_a_link(sh: Sh, box: Path, kind: str) -> None:
    """Whether the link itself is meant, or what it leads to: nothing of that is touched."""
    script = held(SCRIPTS[kind](str(box)), box)
    (box / "tree").rename(box / "away")
    (box / "tree").symlink_to("../outside")
    ended = sh.run(script)
    assert not kind.endswith("followed") or ended.status == DENIED, ended
    assert (box.parent / "outside" / "secret").read_text() == "secret"
    assert not list((box / "to").rglob("secret"))
    packed = box / "to" / "new.tar.gz"
    if packed.exists():
        with tarfile.open(packed) as tar:
            assert not [name for name in tar.getnames() if "secret" in name]


@pytest.mark.parametrize(
    "name", ["it's", "$(id)", "a\nb", "a\\", " ", "é€😀", "x" * 255, "-rf", "\x01\x7f", "END_OF_PROGRAM"]
)
def test_nasty_names(sh: Sh, box: Path, name: str) -> None:
    """Jobs within a rule take any file name."""
    (box / "file").rename(box / name)
    assert sh.run(held(asked.cp(f"{box}/{name}", f"{box}/copy"), box)).succeeded
    assert sh.run(held(asked.mv(f"{box}/copy", f"{box}/to/{name}"), box)).succeeded
    assert (box / "to" / name).read_text() == "inside"
    assert sh.run(held(asked.rm(f"{box}/to/{name}"), box)).succeeded
    assert not os.listdir(box / "to")


def test_a_script_fits(box: Path) -> None:
    """The longest paths fit into a script and an argument."""
    script = held(asked.cp("/" + "é/" * 2000, "/" + "é/" * 2000), box)
    assert len(job_script([], script).encode()) < MAX_SCRIPT
    # Linux takes no longer argument: execve(2), MAX_ARG_STRLEN.
    assert len(script.values["request"]) < 128 * 1024
    subprocess.run(["sh", "-n"], input=job_script([], script), text=True, check=True)


def test_what_is_not_known_is_denied() -> None:
    script = Script("transfer-new", {"source": "/box/x"}, "true\n")
    with pytest.raises(Denied):
        confined(script, Grant("box", (b"/box",)))
    assert confined(script, Grant("all", None)) is script
