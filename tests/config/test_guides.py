"""The settings on the pages about credentials, host keys and schedulers load, and links lead somewhere."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcgate.config import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in (*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "benchmarks").glob("*.md")))
GENERAL: dict[str, Any] = {
    "auth": {"authentication": {"token_url": "https://login.example.org/token"}},
    "ssh_credentials": {"type": "SSHService", "url": "https://keys.example.org"},
}


def examples(page: str) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", [*examples("credentials.md"), *examples("host-keys.md")])
def test_examples_load(text: str, tmp_path: Path) -> None:
    """Each example of the guides is a valid configuration."""
    (tmp_path / "secret").write_text("a secret")
    text = re.sub(r"secret_file:\S+", f"secret_file:{tmp_path}/secret", text)
    text = text.replace("/etc/hpcgate/known_hosts", f"{tmp_path}/secret")
    Settings.model_validate(GENERAL | yaml.safe_load(text))


def test_the_settings_of_the_page_load() -> None:
    scheduler, file_systems, general = map(yaml.safe_load, examples("schedulers.md"))
    cluster = {"name": "demo", "ssh": {"host": "login.example.org"}} | scheduler | file_systems
    found = Settings.model_validate(GENERAL | {"clusters": [cluster]} | general)
    assert all(one.quota is not None for one in found.clusters[0].file_systems)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each link of the guides leads to a file."""
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
