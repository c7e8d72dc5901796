"""The login node's Python is found whatever it is called, and is started as few times as can be."""

import subprocess
import sys
from pathlib import Path

import pytest

from hpcgate.filesystem import beneath
from tests.sites.shells import shell_program

PROGRAM = b'import sys; sys.stdout.write("it ran\\n")\n'
NEW = f'#!/bin/sh\necho >>"${{0%/*}}/starts"\nexec {sys.executable} "$@"\n'
OLD = '#!/bin/sh\necho >>"${0%/*}/starts"\nexit 1\n'
"""It says of itself that it is too old, and nothing else."""


@pytest.mark.parametrize(
    ("programs", "links", "starts"),
    [
        ({"python3.11": NEW}, {"python3": "python3.11"}, 1),
        ({"python3.6": NEW}, {"python3": "python3.6"}, 1),
        ({"platform-python3.6": NEW}, {"platform-python": "platform-python3.6"}, 1),
        ({"python3": NEW}, {}, 2),
        ({"python3": NEW, "python3.11": NEW}, {}, 2),
        ({"python3": NEW, "python3.5": OLD}, {}, 2),
        ({"python3.5": OLD, "platform-python": NEW}, {"python3": "python3.5"}, 3),
        ({"python3": OLD, "python3.11": NEW, "platform-python": NEW}, {}, 3),
    ],
    ids=lambda value: " ".join(value) or "none" if isinstance(value, dict) else value,
)
@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_a_python_is_started_once_where_its_name_tells_the_version(
    tmp_path: Path, shell: str, programs: dict[str, str], links: dict[str, str], starts: int
) -> None:
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    script = beneath.LAUNCHER.replace("/usr/bin/python3", f"{tmp_path}/python3")
    script = script.replace("/usr/libexec/platform-python", f"{tmp_path}/platform-python")
    assert script.count(str(tmp_path)) == 2
    shell_program(shell)
    argv = [shell, *(["sh"] if shell == "busybox" else []), "-c", script, "hpcgate", str(len(PROGRAM))]
    done = subprocess.run(argv, input=PROGRAM, capture_output=True, check=False, env={"PATH": "/usr/bin:/bin"})
    assert (done.stdout, done.stderr, done.returncode) == (b"it ran\n", b"", 0)
    assert (tmp_path / "starts").read_bytes() == b"\n" * starts
