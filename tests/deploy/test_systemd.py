"""The unit and what goes with it, by systemd's own tools."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpcgate.demo.cluster import silent
from hpcgate.demo.packages import ensure_installed

DIRECTORY = Path(__file__).parents[2] / "deploy" / "systemd"
DOCS = Path(__file__).parents[2] / "docs" / "operations" / "deployment.md"
MAX_EXPOSED = 1.5
"""systemd's own measure, from 0 (safe) to 10."""


@pytest.fixture(scope="module", autouse=True)
def _systemd() -> None:
    programs = ("systemd-analyze", "systemd-sysusers", "systemd-tmpfiles")
    ensure_installed(dict.fromkeys(programs, "systemd"), silent)


def run(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_unit_is_one(tmp_path: Path) -> None:
    unit = tmp_path / "hpcgate.service"
    text = (DIRECTORY / "hpcgate.service").read_text()
    program = Path(sys.executable).with_name("hpcgate")
    unit.write_text(text.replace("/opt/hpcgate/bin/hpcgate", str(program)))
    said = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)
    assert "hpcgate.service" not in said, said


def test_it_is_shut_in_as_the_docs_say() -> None:
    unit = DIRECTORY / "hpcgate.service"
    said = run("systemd-analyze", "security", "--offline=true", f"--threshold={int(MAX_EXPOSED * 10)}", unit)
    found = re.search(r"exposure level for hpcgate.service: ([\d.]+)", said)
    assert found
    assert float(found[1]) <= MAX_EXPOSED
    assert f"exposure level {found[1]}" in DOCS.read_text()


def test_the_account_and_the_directories(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    run("systemd-sysusers", f"--root={tmp_path}", DIRECTORY / "hpcgate.sysusers.conf")
    account = (tmp_path / "etc" / "passwd").read_text()
    assert re.search(r"^hpcgate:x:\d+:\d+:hpcgate gateway:/var/lib/hpcgate:/usr/sbin/nologin$", account, re.MULTILINE)
    run("systemd-tmpfiles", f"--root={tmp_path}", "--create", DIRECTORY / "hpcgate.tmpfiles.conf")
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("etc/hpcgate", "etc/hpcgate/secrets")}
    assert modes == {"etc/hpcgate": 0o750, "etc/hpcgate/secrets": 0o700}
