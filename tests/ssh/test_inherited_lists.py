"""Scripts in a directory whose new files inherit an access control list, and its group: there no umask counts."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcgate.demo.packages import ensure_installed
from hpcgate.demo.processes import Identity
from hpcgate.filesystem import compress, extract, unpacking
from hpcgate.ssh.files import command_scripts
from tests.ssh.stepping import Shims
from tests.ssh.test_swaps import NEW, UPLOAD, Making, archive, command, job
from tests.transfers import asked
from tests.transfers.shells import NOBODY

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")

GROUP, NAMED = 54323, 54324
HIDDEN = ".hpcgate-0123456789abcdef"
# What holds content that is nobody else's yet.
LOOK = """\
for f in "$SHARED"/.hpcgate-*; do
  if [ -d "$f" ] || [ -s "$f" ]; then
    case $(PATH=$REAL stat -c %a "$f") in *00) ;; *) echo "${0##*/} $f" >>"$STEPS/open" ;; esac
  fi
done
"""
SHARED = "{}/shared"
SCRIPTS: dict[str, tuple[Making, str]] = {
    "extract": (command(extract.SCRIPT, "{}/mine/a.tar", SHARED, "", HIDDEN), "d/key"),
    "an archive into a directory": (
        command(unpacking.UNPACK, SHARED, HIDDEN, "mark", fed=archive("d/key", "mark")),
        "d/key",
    ),
    "an archive into a new one": (
        command(unpacking.UNPACK, f"{SHARED}/new", HIDDEN, "mark", fed=archive("d/key", "mark")),
        "new/d/key",
    ),
    "compress": (
        command(compress.SCRIPT, "{}/mine/d", "{}/mine", "d", f"{SHARED}/key", HIDDEN, "", "", "", "/"),
        "key",
    ),
    "an upload": (command(command_scripts.WRITE, f"{SHARED}/key", HIDDEN, "w" * 16, "32", "", "", fed=UPLOAD), "key"),
    "extract job": (job(lambda top: asked.extract(f"{top}/mine/a.tar", f"{top}/shared", compression="none")), "d/key"),
    "cp job": (job(lambda top: asked.cp(f"{top}/mine/d", f"{top}/shared")), "d/key"),
    "compress job": (job(lambda top: asked.compress(f"{top}/mine/d", f"{top}/shared/key")), "key"),
}


@pytest.fixture
def top() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hpcgate-lists-", dir="/tmp") as name:
        top = Path(name)
        top.chmod(0o755)
        (top / "mine" / "d").mkdir(parents=True)
        (top / "mine" / "d" / "key").write_bytes(NEW)
        (top / "mine" / "a.tar").write_bytes(archive("d/key"))
        (top / "shared").mkdir()
        (top / "shared" / "key").write_bytes(b"private")
        (top / "shared" / "key").chmod(0o600)
        for path in (top / "mine", *top.glob("mine/**/*"), top / "shared" / "key"):
            os.chown(path, NOBODY, NOBODY)
        os.chown(top / "shared", NOBODY, GROUP)
        (top / "shared").chmod(0o2775)
        acl = f"u:{NAMED}:rwx,g::rwx,o::-"
        ensure_installed({"setfacl": "acl"}, lambda _: None)
        subprocess.run(["setfacl", "-d", "-m", acl, top / "shared"], check=True)
        yield top


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_script_makes_for_itself_is_for_nobody_else(top: Path, name: str) -> None:
    making, made = SCRIPTS[name]
    shims = Shims(top, LOOK)
    shims.begin()
    words, fed = making(top)
    done = subprocess.run(
        Identity(NOBODY, NOBODY).command(["dash", *words]),
        cwd=top / "mine",
        env={**shims.environment(), "HOME": f"{top}/mine", "LC_ALL": "C.UTF-8", "SHARED": f"{top}/shared"},
        input=fed,
        capture_output=True,
        timeout=300,
        start_new_session=True,
        umask=0o022,
    )
    assert done.returncode == 0, done
    opened = top / "steps" / "open"
    # A new directory gets its mode when all is in it, just before its name.
    said = opened.read_text().splitlines() if opened.exists() else []
    assert [line for line in said if not (made.startswith("new/") and line.startswith("mv "))] == []
    assert (top / "shared" / made).read_bytes() != b"private"
    # The directory's group comes along, and what its list says of others, but for copies, which keep their own.
    for path in () if name == "cp job" else (top / "shared" / made).parents:
        if path == top / "shared":
            break
        assert path.stat().st_gid == GROUP, path
        assert not path.stat().st_mode & 0o007, path
