"""The pages for people in a real browser that reaches nothing but this machine."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from hpcgate.demo.packages import ensure_installed, find_program
from tests.front import serving

BROWSER = "chromium-headless-shell"


@pytest.mark.parametrize(("page", "drawn"), [("/docs", "opblock-summary-path"), ("/redoc", "menu-content")])
def test_page_is_drawn_without_internet(tmp_path: Path, page: str, drawn: str) -> None:
    ensure_installed({BROWSER: BROWSER}, print)
    program = find_program(BROWSER)
    assert program is not None
    with serving(tmp_path) as front:
        seen = subprocess.run(
            [
                str(program),
                # Chromium's sandbox refuses root.
                *(["--no-sandbox"] if os.geteuid() == 0 else []),
                "--headless",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--enable-logging=stderr",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--virtual-time-budget=15000",
                "--dump-dom",
                f"http://127.0.0.1:{front.port}{page}",
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
    assert drawn in seen.stdout
    assert "/filesystem/{system_name}/ops/ls" in re.sub(r"<wbr>|\u200b", "", seen.stdout)
    # Nothing that the pages ask for is elsewhere, nor stopped by what they are allowed.
    refused = [line for line in seen.stderr.splitlines() if "CONSOLE" in line]
    assert refused == []
