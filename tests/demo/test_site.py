"""The directory that `hpcgate demo --cluster` writes to."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("directory", ["file", "file/below"])
def test_no_cluster_is_started_for_a_place_that_cannot_be_written_to(tmp_path: Path, directory: str) -> None:
    (tmp_path / "file").write_text("mine")
    argv = [sys.executable, "-m", "hpcgate.cli", "demo", "--no-install", "--cluster", str(tmp_path / directory)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "starting" not in done.stdout
    assert "cannot write to" in done.stdout
    assert (tmp_path / "file").read_text() == "mine"
