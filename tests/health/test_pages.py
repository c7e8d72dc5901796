"""The pages about operation: their YAML loads, their commands run."""

import re
import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcgate.config.loading import load
from hpcgate.demo.cluster import merged

NEXT_YEAR = str(datetime.now().year + 1)
PAGES = Path(__file__).parent.parent.parent / "docs" / "operations"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (PAGES / page).read_text(), re.MULTILINE | re.DOTALL)


def write_config(path: Path, *snippets: dict[str, Any]) -> Path:
    settings: dict[str, Any] = {
        "auth": {"authentication": {"token_url": "http://127.0.0.1:9/token"}},
        "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1:9"},
        "state_directory": str(path / "state"),
        "clusters": [
            {
                "name": "alps",
                "ssh": {"host": "127.0.0.1"},
                "scheduler": {"type": "slurm", "version": "22.05.8"},
            }
        ],
    }
    for snippet in snippets:
        clusters = [merged(settings["clusters"][0], cluster) for cluster in snippet.get("clusters", [{}])]
        settings = merged(settings, snippet) | {"clusters": clusters}
    (path / "secret").write_text("s3cret")
    text = re.sub(r"secret_file:/run/secrets/\w+", f"secret_file:{path / 'secret'}", yaml.safe_dump(settings))
    (path / "hpcgate.yaml").write_text(text)
    return path / "hpcgate.yaml"


@pytest.mark.parametrize("page", ["health.md", "metrics.md"])
def test_the_snippets_load(page: str, tmp_path: Path) -> None:
    """Each snippet of the page is a valid configuration."""
    snippets = [yaml.safe_load(block) for block in blocks(page, "yaml")]
    ours = [snippet for snippet in snippets if "scrape_configs" not in snippet]
    assert len(ours) >= 2
    for snippet in ours:
        load(write_config(tmp_path, snippet))


def test_the_commands_run(tmp_path: Path) -> None:
    """The commands of the page do what it shows."""
    config = write_config(tmp_path)
    (block,) = blocks("health.md", "console")
    said = []
    for line in block.splitlines():
        # The page's plans are for a year that will be over one day.
        program, *arguments = shlex.split(line.removeprefix("$ ").replace("2027", NEXT_YEAR))
        assert program == "hpcgate"
        done = subprocess.run(
            [sys.executable, "-m", "hpcgate.cli", *arguments, "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        said.append(done.stdout)
    assert said[0].endswith(": new disks\n")
    assert said[2].startswith(f"alps: planned, from {NEXT_YEAR}-0")
    assert said[3] == "alps: cleared\n"
