"""The order in which files of tests begin."""

import os
import subprocess
import sys
from pathlib import Path

from tests.order import LONG, LONGER, LONGEST

TESTS = Path(__file__).parent


def test_what_takes_long_is_there() -> None:
    """A file that has been renamed would begin late, and keep all workers waiting."""
    assert [name for name in LONGEST if not (TESTS / f"{name}.py").is_file()] == []
    assert [name for name in LONG if not (TESTS / name).is_dir()] == []
    assert {path.stem for path in TESTS.rglob("test_*.py")} >= LONGER


def test_the_longest_come_first_and_short_ones_last() -> None:
    """In whatever order their names are given."""
    files = ["tests/telemetry/test_tally.py", "tests/demo/test_ports.py", "tests/cli/test_commands.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:randomly", "-p", "no:xdist", *files],
        capture_output=True,
        text=True,
        check=True,
        cwd=TESTS.parent,
        # What the run around it was asked for would change what is shown.
        env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
    )
    found = [line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line]
    assert list(dict.fromkeys(found)) == files[::-1]
