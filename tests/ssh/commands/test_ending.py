"""Our shell scripts clear up, whichever of their steps a signal comes in.

Each tool that a script calls is a shim that can send the script's shell a SIGTERM before it does its work: at each step
in turn, and from then on at every later one, as whatever ends a job may say so more than once. What a signal kills
besides the shell may die first; the script then ends by itself, and the signal finds it clearing up.
"""

import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hpcgate.filesystem import compress, extract, unpacking
from hpcgate.schedulers import many, submitting
from hpcgate.schedulers.pbs.script import composed
from hpcgate.ssh.commands.ending import CUT_OFF, ENDING
from hpcgate.ssh.files import command_scripts
from hpcgate.transfers import s3_jobs, streamer, wormhole
from hpcgate.transfers.base import Script
from hpcgate.transfers.script import job_script
from tests.schedulers.described import described
from tests.sites.shells import shell_program
from tests.ssh.stepping import Shims
from tests.transfers import asked

SIGNAL = """\
if [ "$n" -ge "$AT" ]; then
  if (set -C; : >"$STEPS/begun") 2>/dev/null; then
    case $FIRST in tool) kill -s TERM $$ ;; shell) kill -s TERM "$MAIN" ;; esac
  else
    kill -s TERM "$MAIN" 2>/dev/null
  fi
fi
"""
# An object store in a directory: `object` and, while there is a multipart upload, `multipart`.
CURL = """\
#!/bin/dash
method=GET out= head= code= range= from=
read -r _ _ url </dev/fd/3
url=${url#?} url=${url%?}
while [ $# -gt 0 ]; do
  case $1 in
    --head) method=HEAD ;;
    --request | -X) method=$2; shift ;;
    --output) out=$2; shift ;;
    --dump-header) head=$2; shift ;;
    --write-out) code=yes; shift ;;
    --range) range=$2; shift ;;
    --upload-file) method=PUT from=$2; shift ;;
  esac
  shift
done
part=${url#*partNumber=} part=${part%%&*}
answer() {
  if [ -n "$out" ]; then exec >"$out"; fi
  cat
}
case $method in
  HEAD)
    if [ ! -e "$STORE/object" ]; then [ -z "$code" ] || echo 404; exit 22; fi
    if [ -n "$code" ]; then echo 200; exit; fi
    printf 'HTTP/1.1 200\\r\\nContent-Length: %s\\r\\n' "$(stat -c %s "$STORE/object")" | answer ;;
  GET)
    begin=${range%-*} count=$((${range#*-} - begin + 1))
    printf 'Content-Length: %s\\r\\nContent-Range: bytes %s/%s\\r\\n' $count "$range" \\
      "$(stat -c %s "$STORE/object")" >"$head"
    tail -c "+$((begin + 1))" "$STORE/object" | head -c "$count" ;;
  PUT)
    [ -e "$STORE/multipart" ] || exit 22
    case $from in -) from=/dev/stdin ;; esac
    cat "$from" >"$STORE/part.$part"
    printf 'ETag: "%s"\\r\\n' "$(md5sum <"$STORE/part.$part" | cut -c 1-32)" >"$head" ;;
  POST)
    [ -e "$STORE/multipart" ] || exit 22
    cat "$STORE"/part.* >"$STORE/object"
    rm -f "$STORE/multipart"
    echo CompleteMultipartUploadResult | answer ;;
  DELETE)
    case $url in delete) rm -f "$STORE/object" ;; *) rm -f "$STORE/multipart" ;; esac ;;
esac
"""
# A Python that can make a virtual environment, and whose every program receives a file.
PYTHON = """\
#!/bin/dash
[ "$1" != -I ] || shift
case "$1 $2" in
  '-m venv') mkdir "$4/bin" && cp "$SHIMS/python" "$4/bin/python" ;;
  '-m pip') ;;
  *)
    [ -n "$RECEIVES" ] || exit 0
    printf %s "$RECEIVES" >./new
    [ -z "$HPCGATE_TARGET" ] || mv -f -T ./new "$HPCGATE_TARGET" ;;
esac
"""
OLD, NEW = b"old", b"0123456789" * 3
"""What a target holds before, and after."""


Making = Callable[[Path], list[str]]
"""Lays out a directory, and returns the words of the shell's command line."""


@dataclass(frozen=True, slots=True)
class Case:
    """A script and its world.

    Attributes:
        make: Lays the world out.
        done: What files hold once the script has done its work; None for an archive. Until then each is what it was.
        fed: Its standard input.
        environment: Variables besides.
    """

    make: Making
    done: dict[str, bytes | None] = field(default_factory=dict)
    fed: bytes = b""
    environment: dict[str, str] = field(default_factory=dict)


def job(script: Callable[[Path], Script], **files: bytes) -> Making:
    """Run a transfer job beside these files."""

    def make(place: Path) -> list[str]:
        lay_out(place, files)
        made = script(place)
        path = place.parent / "script"
        path.write_text(job_script([], made))
        return [str(path)]

    return make


def command(text: str, *words: str, **files: bytes) -> Making:
    """Run a remote command beside these files; ``{}`` in its words is the directory."""

    def make(place: Path) -> list[str]:
        lay_out(place, files)
        return ["-c", text, "sh", *(word.replace("{}", str(place)) for word in words)]

    return make


def lay_out(place: Path, files: dict[str, bytes]) -> None:
    """Make files, directories in which ``into`` has one, a tree and an archive of it."""
    (place / "into").mkdir()
    (place / "into" / "tree").mkdir()
    (place / "tree").mkdir()
    (place / "tree" / "file").write_bytes(NEW)
    (place / "a.tar").write_bytes(archive("tree/file"))
    for name, content in files.items():
        (place / name).write_bytes(content)


def archive(*names: str) -> bytes:
    """Return an archive of files with these names."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(NEW)
            tar.addfile(member, io.BytesIO(NEW))
    return made.getvalue()


def s3_in(place: Path) -> Script:
    """Fetch an object in two parts."""
    (place.parent / "store" / "object").write_bytes(NEW)
    return Script(
        "in",
        {
            **{f"{name}_url": name for name in ("head", "get", "delete", "abort", "list")},
            **{"size": "30", "part_size": "20", "parts": "2", "parallel": "2", "check": ""},
            **{"target": f"{place}/target", "wait": "60", "poll": "1"},
        },
        s3_jobs.INGRESS,
    )


def s3_out(place: Path, split: str = "") -> Script:
    """Send a file in two parts."""
    (place.parent / "store" / "multipart").touch()
    return Script(
        "out",
        {
            **{f"{name}_url": name for name in ("part", "complete", "abort", "head")},
            **{"size": "30", "part_size": "20", "parts": "2", "parallel": "2", "check": "yes", "signatures": "a b"},
            **{"source": f"{place}/source", "split": split, "tmp_folder": f"{place.parent}/tmp"},
        },
        s3_jobs.EGRESS,
    )


def python(body: str) -> Callable[[Path], Script]:
    """Run a program in an environment of its own."""
    values = {"python": "python", "install": "it", "index": "", "arguments": "[]", "code": "1-a", "wait": "1"}
    return lambda place: Script("python", {**values, "target": f"{place}/target"}, body)


def carried(place: Path) -> list[str]:
    """Run a job of PBS that is not for a shell."""
    path = place.parent / "script"
    path.write_bytes(composed(b"#!/usr/bin/env cat\n", described(working_directory=str(place))))
    return [str(path)]


def overwrite(place: Path) -> list[str]:
    """Write in place what is staged beside."""
    staged = place.parent / "tmp" / "staged"
    staged.write_bytes(NEW)
    at = staged.stat()
    words = ("target", str(staged), f"{at.st_dev}:{at.st_ino}", str(len(NEW)), "target")
    return command(command_scripts.OVERWRITE, *words, target=OLD)(place)


def small(body: str) -> Making:
    """Run a script that makes two directories; `clear_up` takes both away, one by one."""
    text = """
clear_up() { rm -rf -- "$TMPDIR/a"; stat / >/dev/null; rm -rf -- "$TMPDIR/b"; }
mkdir "$TMPDIR/a" "$TMPDIR/b"
(exit 3) & wait "$!" || exit 4
"""
    return command(body + text)


UPLOAD = NEW + b"w" * 16 + b"%016d" % len(NEW)
TAKEN = ("{}/target", ".hpcgate-x", "w" * 16, "32", "")
MANY = many.composed([many.Command([tool, *words], NEW) for tool, *words in (["cat"], ["wc"], ["head", "-c", "1"])])
CASES = {
    "mv": Case(job(lambda at: asked.mv(f"{at}/tree", f"{at.parent}/shm/tree")), {"../shm/tree/file": NEW}),
    "cp": Case(job(lambda at: asked.cp(f"{at}/a.tar", f"{at}/target"), target=OLD), {"target": None}),
    "cp of a tree": Case(job(lambda at: asked.cp(f"{at}/tree", f"{at}/into")), {"into/tree/file": NEW}),
    "compress job": Case(job(lambda at: asked.compress(f"{at}/tree", f"{at}/target"), target=OLD), {"target": None}),
    "extract job": Case(
        job(lambda at: asked.extract(f"{at}/a.tar", f"{at}/into", compression="none")), {"into/tree/file": NEW}
    ),
    "s3 in": Case(job(s3_in, target=OLD), {"target": NEW}),
    "s3 out": Case(job(s3_out, source=NEW), {"../store/object": NEW}),
    "s3 out, split": Case(job(lambda at: s3_out(at, "yes"), source=NEW), {"../store/object": NEW}),
    "streamer in": Case(
        job(python(f'{streamer._UPLOAD}"$python"\n{streamer._END}'), target=OLD),
        {"target": NEW},
        environment={"RECEIVES": NEW.decode()},
    ),
    "streamer out": Case(job(python(f'{streamer._DOWNLOAD}"$python"\n{streamer._END}'))),
    "wormhole in": Case(
        job(python(f'{wormhole._UPLOAD}"$python"\n{wormhole._RECEIVED}'), target=OLD),
        {"target": NEW},
        environment={"RECEIVES": NEW.decode()},
    ),
    "carried by PBS": Case(carried, environment={"PBS_O_WORKDIR": "/"}),
    "extract": Case(command(extract.SCRIPT, "{}/a.tar", "{}/into", "", ".hpcgate-x"), {"into/tree/file": NEW}),
    "compress": Case(
        command(compress.SCRIPT, "{}/tree", "{}", "tree", "{}/target", ".hpcgate-x", "", "", "", "/", target=OLD),
        {"target": None},
    ),
    "an archive into a new directory": Case(
        command(unpacking.UNPACK, "{}/new", ".hpcgate-x", "mark"), {"new/file": NEW}, fed=archive("file", "mark")
    ),
    "an archive into a directory": Case(
        command(unpacking.UNPACK, "{}/into", ".hpcgate-x", "mark"), {"into/file": NEW}, fed=archive("file", "mark")
    ),
    "an upload": Case(command(command_scripts.WRITE, *TAKEN, "atomic", target=OLD), {"target": NEW}, fed=UPLOAD),
    "an upload in place": Case(overwrite, {"target": NEW}),
    "a submission": Case(command(submitting._WHOLE, str(len(NEW)), "cat"), fed=NEW),
    "many submissions": Case(command(many._SCRIPT, "header", "2"), fed=MANY),
    "a probe": Case(command(command_scripts.PROBE, "{}/target", ".hpcgate-x")),
}


class World:
    """Runs a case from the beginning, time and again."""

    def __init__(self, directory: Path, shm: Path, case: Case, shell: str) -> None:
        self.case = case
        self._shell = shell
        self._directory = directory
        self._shm = shm
        # A transfer waits before it tries again.
        self._shims = Shims(directory, SIGNAL, curl=CURL, python=PYTHON, sleep="#!/bin/dash\n")

    def run(self, at: int, first: str) -> int:
        """Run it with a signal from step `at` on, look at what is left, and return how many steps there were."""
        for name in ("work", "tmp", "store"):
            shutil.rmtree(self._directory / name, ignore_errors=True)
            (self._directory / name).mkdir()
        for path in self._shm.iterdir():
            shutil.rmtree(path)
        work = self._directory / "work"
        words = self.case.make(work)
        before = {name: self._content(name) for name in self.case.done}
        self._shims.begin()
        done = subprocess.run(
            ["dash", "-c", 'export MAIN=$$; exec "$@"', "sh", *self._shell.split(), *words],
            cwd=work,
            env={
                **self._shims.environment(),
                **{"TMPDIR": f"{self._directory}/tmp", "STORE": f"{self._directory}/store", "HOME": str(work)},
                **{"AT": str(at), "FIRST": first, "LC_ALL": "C.UTF-8"},
                **self.case.environment,
            },
            input=self.case.fed,
            capture_output=True,
            timeout=300,
            start_new_session=True,
        )
        steps = self._shims.steps()
        said = f"{first} {at}: {done.returncode} {done.stdout!r} {done.stderr!r}"
        assert self.left_over() == [], said
        for name, content in self.case.done.items():
            assert self._content(name) in (content, before[name]), said
            if done.returncode == 0:
                assert self._content(name) == content, said
        if at > steps:
            assert done.returncode == 0 or not self.case.done, said
        return steps

    def left_over(self) -> list[str]:
        """Return what should be gone: hidden names, temporary files, uploads that are not over."""
        found = [path for path in (self._directory / "work").rglob(".hpcgate-*")]
        found += (self._directory / "tmp").iterdir()
        found += self._shm.glob(".hpcgate-*")
        found += (self._directory / "store").glob("multipart")
        if "../store/object" not in self.case.done:
            found += (self._directory / "store").glob("object")
        return [str(path) for path in found]

    def _content(self, name: str) -> bytes | None:
        """Return what a file holds, None for an archive that is whole."""
        path = self._shm / name[7:] if name.startswith("../shm/") else self._directory / "work" / name
        if not path.exists():
            return b""
        try:
            with tarfile.open(path) as tar:
                return None if tar.getnames() else b"an empty archive"
        except tarfile.ReadError:
            return path.read_bytes()


@pytest.fixture
def shm() -> Iterator[Path]:
    """A directory on another file system."""
    with tempfile.TemporaryDirectory(prefix="hpcgate-ending-", dir="/dev/shm") as name:
        yield Path(name)


@pytest.mark.parametrize("name", CASES)
def test_a_script_clears_up_whichever_step_a_signal_comes_in(tmp_path: Path, shm: Path, name: str) -> None:
    (tmp_path / "shm").symlink_to(shm)
    world = World(tmp_path, shm, CASES[name], "dash")
    steps = world.run(1_000_000, "none")
    for at in range(1, steps + 1):
        world.run(at, ("tool", "shell")[at % 2])


@pytest.mark.parametrize("shell", ["dash", "bash --posix", "bash", "busybox sh"])
@pytest.mark.parametrize("ending", [ENDING, CUT_OFF], ids=["ending", "cut off"])
def test_every_shell_clears_up(tmp_path: Path, shm: Path, shell: str, ending: str) -> None:
    shell_program(shell.split()[0])
    world = World(tmp_path, shm, Case(small(ending)), shell)
    steps = world.run(1_000_000, "none")
    assert steps == 4
    for at in range(1, steps + 1):
        for first in ("tool", "shell"):
            world.run(at, first)
