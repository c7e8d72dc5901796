"""What others swap between any two steps of a script leads it nowhere else.

The attacker may write in the directories that are written to, and has ready what he puts there: links, and directories
of links. (They belong to somebody else, as links of a directory's owner are followed: `hpcgate.ssh.files.footing`.)
Before a step of the script, each in turn, he exchanges what it is about to use; at the next step, in every second run,
he puts the old one back. Nothing of the victim's elsewhere may change, and nothing of it come to light.
"""

import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpcgate.demo.processes import Identity
from hpcgate.filesystem import compress, extract, unpacking
from hpcgate.filesystem.tus import scripts
from hpcgate.ssh.files import command_attributes, command_scripts, footing, merging, tar_scripts
from hpcgate.transfers.base import Script
from hpcgate.transfers.script import job_script
from tests.ssh.stepping import Shims
from tests.transfers import asked
from tests.transfers.shells import NOBODY

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")

ATTACKER, ACCOMPLICE = 54321, 54322
NEW = b"0123456789"
UPLOAD = NEW + b"w" * 16 + b"%016d" % len(NEW)
SWAP = """\
case $n in
  "$AT")
    for f in $WHAT; do
      if [ -e "$f" ] && mv -T "$f" "$f.mine"; then mv -T "$OTHER" "$f"; echo "$f" >"$STEPS/swapped"; break; fi
    done 2>/dev/null ;;
  "$BACK")
    if read -r f 2>/dev/null <"$STEPS/swapped"; then mv -T "$f" "$OTHER"; mv -T "$f.mine" "$f"; fi ;;
esac
"""
SWAPS = {
    "the directory for a link": ("shared/tree", "to-precious"),
    "the directory for another": ("shared/tree", "links"),
    "a directory in it for a link": ("shared/tree/d", "to-precious"),
    "a directory in it for another": ("shared/tree/d", "links"),
    "a directory in it for one of hers": ("shared/tree/d", "shared/tree/hers"),
    "a file for a link": ("shared/tree/key", "to-key"),
    "what it makes for a link": ("shared/tree/.hpcgate-* shared/.hpcgate-*", "to-precious"),
    "what it makes for another": ("shared/tree/.hpcgate-* shared/.hpcgate-*", "links"),
    "what it makes for one of hers": ("shared/tree/.hpcgate-*", "shared/tree/hers"),
    "the directory above": ("shared", "above"),
}
"""What is exchanged for which of the things that the attacker has ready."""
Making = Callable[[Path], tuple[list[str], bytes]]


def command(text: str, *words: str, fed: bytes = b"", at: str = "") -> Making:
    """Run a remote command; ``{}`` in its words is the top directory."""

    def make(top: Path) -> tuple[list[str], bytes]:
        begin = f"cd '{top}/{at}' || exit\n" if at else ""
        return ["-c", begin + text, "sh", *(word.replace("{}", str(top)) for word in words)], fed

    return make


def job(script: Callable[[str], Script]) -> Making:
    """Run a transfer job on the top directory."""

    def make(top: Path) -> tuple[list[str], bytes]:
        made = script(str(top))
        return ["-c", job_script([], made)], b""

    return make


def archive(*names: str) -> bytes:
    """Return an archive of files with these names."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(NEW), 0o666
            tar.addfile(member, io.BytesIO(NEW))
    return made.getvalue()


def overwrite(top: Path) -> tuple[list[str], bytes]:
    """Write in place, standing in the directory."""
    found = (top / "mine" / "file").stat()
    words = ("key", "{}/mine/file", f"{found.st_dev}:{found.st_ino}", str(len(NEW)), "key")
    return command(footing._PINNED.replace('exec "$@"', command_scripts.OVERWRITE), "{}/shared/tree", *words)(top)


HIDDEN = ".hpcgate-0123456789abcdef"
TREE = "{}/shared/tree"
PART = ".hpcgate-upload-part"
SCRIPTS: dict[str, Making] = {
    "extract": command(extract.SCRIPT, "{}/mine/a.tar", TREE, "", HIDDEN),
    "an archive into a directory": command(unpacking.UNPACK, TREE, HIDDEN, "mark", fed=archive("d/key", "key", "mark")),
    "an archive into a new one": command(unpacking.UNPACK, f"{TREE}/new", HIDDEN, "mark", fed=archive("key", "mark")),
    "compress": command(compress.SCRIPT, "{}/mine/d", "{}/mine", "d", f"{TREE}/key", HIDDEN, "", "", "", "/"),
    "an upload": command(command_scripts.WRITE, f"{TREE}/key", HIDDEN, "w" * 16, "32", "", "atomic", fed=UPLOAD),
    "an upload in place": overwrite,
    "a probe": command(command_scripts.PROBE, f"{TREE}/key", HIDDEN),
    "parts joined": command(
        footing._OWNED.replace('exec "$@"', scripts.JOIN),
        *(TREE, ".hpcgate-upload-whole", "", "./.hpcgate-content", f"{TREE}/d", PART, f"{TREE}/d", PART),
    ),
    "mkdir": command(command_attributes.MKDIR, f"{TREE}/d/made"),
    "mkdir -p": command(command_attributes.MKDIR_PARENTS, f"{TREE}/d/made/deep"),
    "symlink": command(command_attributes.SYMLINK, "nowhere", f"{TREE}/d/made"),
    "rename": command(command_attributes.RENAME, "{}/mine/file", f"{TREE}/d/key"),
    "rename from there": command(command_attributes.RENAME, f"{TREE}/d/key", "{}/mine/got"),
    "rm": command(command_attributes.REMOVE, f"{TREE}/d/key"),
    "rm of a directory": command(command_attributes.REMOVE, f"{TREE}/d/"),
    "chmod": command(command_attributes.CHMOD, f"{TREE}/key", "666"),
    "chmod of what cannot be read": command(command_attributes.CHMOD, f"{TREE}/unreadable", "666"),
    "chown": command(command_attributes.CHOWN, f"{TREE}/key", f"{NOBODY}:{NOBODY}"),
    "cp job": job(lambda top: asked.cp(f"{top}/mine/file", f"{top}/shared/tree/key")),
    "cp job of a tree": job(lambda top: asked.cp(f"{top}/mine/d", f"{top}/shared/tree")),
    "mv job": job(lambda top: asked.mv(f"{top}/mine/file", f"{top}/shared/tree/key")),
    "rm job": job(lambda top: asked.rm(f"{top}/shared/tree/d")),
    "compress job": job(lambda top: asked.compress(f"{top}/mine/d", f"{top}/shared/tree/key")),
    "extract job": job(lambda top: asked.extract(f"{top}/mine/a.tar", f"{top}/shared/tree", compression="none")),
}


NAMED = [
    (name, "a directory in it for one of hers")
    for name in ("rm", "rm of a directory", "rm job", "rename from there", "mv job")
]
"""Whoever has a directory removed by its name has that removed which has the name."""


class Scene:
    """What lies where, made anew for each run."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.shims = Shims(top, SWAP)
        self.precious = top / "precious"

    def prepare(self) -> None:
        """Make the victim's files, and what the attacker has ready."""
        top, precious = self.top, self.precious
        for path in (*top.glob("shared*"), *top.glob("mine*"), *top.glob("above*"), precious, top / "links"):
            shutil.rmtree(path, ignore_errors=True)
        for name in ("to-precious", "to-key"):
            (top / name).unlink(missing_ok=True)
        for directory in (precious, top / "mine"):
            files(directory, NEW if directory != precious else b"precious")
        files(top / "shared" / "tree", b"old")
        (top / "shared" / "tree" / ".hpcgate-upload-whole").mkdir(mode=0o700)
        (top / "shared" / "tree" / "d" / PART / ".hpcgate-content").write_bytes(NEW)
        (top / "mine" / "a.tar").write_bytes(archive("d/key", "d/made", "key"))
        (top / "shared" / "tree" / "hers").mkdir(mode=0o700)
        (top / "shared" / "tree" / "hers" / "of-hers").write_bytes(b"hers alone")
        for directory in (precious, top / "mine", top / "shared" / "tree"):
            for path in (directory, *directory.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        (top / "shared" / "tree" / "unreadable").chmod(0)
        for directory in (top / "shared" / "tree", top / "shared" / "tree" / "d"):
            directory.chmod(0o777)
        precious.chmod(0o700)
        # The attacker's.
        (top / "above").mkdir()
        for directory in (top / "links", top / "above" / "tree"):
            directory.mkdir()
            for path in precious.rglob("*"):
                inside = path.relative_to(precious)
                if "/" not in str(inside):
                    (directory / inside).symlink_to(path)
            (directory / "new").symlink_to(precious / "d")
            (directory / PART).symlink_to(precious / "d" / PART)
        (top / "to-precious").symlink_to(precious)
        (top / "to-key").symlink_to(precious / "key")
        for path in (top / "shared", top / "above", top / "above" / "tree", top / "links"):
            path.chmod(0o777)
        for path in (*(top / "links").iterdir(), *(top / "above" / "tree").iterdir(), *top.glob("to-*")):
            os.chown(path, ATTACKER, ATTACKER, follow_symlinks=False)
        for path in (top / "above" / "tree", top / "links"):
            os.chown(path, ACCOMPLICE, ACCOMPLICE)

    def state(self) -> dict[str, tuple[int, int, bytes | None]]:
        """Return what must stay as it is."""
        found = {}
        for path in (self.precious, *self.precious.rglob("*")):
            info = path.lstat()
            found[str(path)] = (info.st_mode, info.st_ino, path.read_bytes() if path.is_file() else None)
        # Wherever it is by now.
        for path in self.top.glob("shared*/**/of-hers"):
            for name, one in (("hers", path.parent), ("of-hers", path)):
                info = one.stat()
                found[name] = (info.st_mode, info.st_ino, one.read_bytes() if one.is_file() else None)
        return found

    def came_to_light(self) -> list[str]:
        """Return files outside that hold what is precious."""
        return [
            str(path)
            for top in self.top.glob("shared*")
            for path in top.rglob("*")
            if path.is_file() and not path.is_symlink() and b"precious" in path.read_bytes()
        ]

    def run(self, making: Making, swap: str, at: int, *, back: bool) -> int:
        """Run a script with a swap before one of its steps, and return how many it has."""
        self.prepare()
        words, fed = making(self.top)
        what, other = SWAPS[swap]
        before = self.state()
        self.shims.begin()
        done = subprocess.run(
            Identity(NOBODY, NOBODY).command(["dash", *words]),
            cwd=self.top / "mine",
            env={
                **self.shims.environment(),
                **{"HOME": f"{self.top}/mine", "LC_ALL": "C.UTF-8", "AT": str(at), "BACK": str(at + 1 if back else 0)},
                **{"WHAT": " ".join(f"{self.top}/{name}" for name in what.split()), "OTHER": f"{self.top}/{other}"},
            },
            input=fed,
            capture_output=True,
            timeout=300,
            start_new_session=True,
            umask=0o022,
        )
        said = (swap, at, back, done.returncode, done.stdout, done.stderr)
        assert self.state() == before, said
        assert self.came_to_light() == [], said
        if not at:
            assert done.returncode == 0, said
        return self.shims.steps()


def files(directory: Path, content: bytes) -> None:
    """Make a directory with a file under every name that might be written, and one in a directory of it."""
    (directory / "d" / PART).mkdir(parents=True)
    for name in ("key", "file", "unreadable", "d/key", "d/file", f"d/{PART}/.hpcgate-content"):
        (directory / name).write_bytes(content)
        (directory / name).chmod(0o600)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="hpcgate-swaps-", dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Scene(Path(name))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_swap_before_any_step_leads_a_script_nowhere_else(scene: Scene, name: str) -> None:
    """With HPCGATE_ALL_ATTACKS in the environment before every step; else each swap before a few of them."""
    making = SCRIPTS[name]
    steps = scene.run(making, "a file for a link", 0, back=False)
    every = 1 if "HPCGATE_ALL_ATTACKS" in os.environ else 16
    cells = [(swap, at) for swap in SWAPS for at in range(1, steps + 1) if (name, swap) not in NAMED]
    for number, (swap, at) in enumerate(cells[list(SCRIPTS).index(name) % every :: every]):
        scene.run(making, swap, at, back=number % 2 == 1)


@pytest.mark.parametrize("name", ["mine/file", "shared/tree/key"])
def test_a_fifo_in_the_place_of_a_file_holds_nothing_up(scene: Scene, name: str) -> None:
    """What has been taken before is written in place, by a name that others may have given to something else."""
    scene.prepare()
    words, _ = overwrite(scene.top)
    (scene.top / name).unlink()
    os.mkfifo(scene.top / name, 0o666)
    done = subprocess.run(["dash", *words], capture_output=True, timeout=300)
    assert done.returncode == 1
    assert b"has just been put somewhere else" in done.stderr


BY_NAME = re.compile(r"""(?:<>|>>) *"?(?!/(?:dev|proc/self)/fd/)[$./~][^\n]*""")


def test_no_script_opens_for_writing_what_has_a_name_already() -> None:
    """A shell opens nothing so without making it, be it where a link leads that somebody has just put there."""
    modules = (
        command_attributes,
        command_scripts,
        footing,
        compress,
        extract,
        unpacking,
        scripts,
        merging,
        tar_scripts,
    )
    texts = [text for module in modules for text in vars(module).values() if isinstance(text, str)]
    texts += [making(Path("/top"))[0][1] for making in SCRIPTS.values() if making is not overwrite]
    assert [found for text in texts for found in BY_NAME.findall(text)] == []
