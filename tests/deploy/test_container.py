"""The Containerfile, by a linter: no container engine is needed for that. Nobody has built it here."""

import re
import subprocess
import sys
from pathlib import Path

CONTAINERFILE = Path(__file__).parents[2] / "deploy" / "container" / "Containerfile"


def test_it_passes_the_linter() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, CONTAINERFILE], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_runs_as_nobody_in_particular_and_says_whether_it_is_well() -> None:
    text = CONTAINERFILE.read_text()
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE)[-1] == "10001:10001"
    assert "HEALTHCHECK" in text
    assert "/status/liveness/" in text
    assert not re.search(r"(?i)(password|secret|token)\s*=", text)
