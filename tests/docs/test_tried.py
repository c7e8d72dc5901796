"""The page of what was tried names what the tests run on, where that is one of its two systems."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/operations/tried.md"
COLUMNS = {"12": 1, "13": 2}
ROWS = {
    "Slurm": ["slurmd", "-V"],
    "OpenSSH": ["ssh", "-V"],
    "MariaDB, for slurmdbd": ["mariadbd", "--version"],
    "coreutils": ["ls", "--version"],
}


def versions(row: str, column: int) -> list[str]:
    """Return the versions, of two numbers each, that a row of the page has in a column."""
    (line,) = re.findall(rf"^\| {re.escape(row)} \|.*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return re.findall(r"\d+\.\d+", line.split("|")[1:][column])


def installed(row: str) -> str | None:
    """Return the version of what is installed, None where it is not."""
    if row == "Python":
        return platform.python_version()
    program = shutil.which(ROWS[row][0], path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        return None
    done = subprocess.run([program, *ROWS[row][1:]], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[.\d]*", done.stdout + done.stderr)
    return found and found[0]


@pytest.mark.parametrize("row", ["Python", *ROWS])
def test_the_versions_that_the_tests_run_on_are_on_the_page(row: str) -> None:
    release = platform.freedesktop_os_release()
    column = COLUMNS.get(release.get("VERSION_ID", "")) if release.get("ID") == "debian" else None
    version = installed(row)
    if column is None or version is None:
        pytest.skip("not one of the systems of the page, or not installed")
    if row == "Python" and not Path("/usr/bin/python3").resolve().name.endswith(".".join(version.split(".")[:2])):
        pytest.skip("not the system's own Python")
    assert ".".join(version.split(".")[:2]) in versions(row, column)
