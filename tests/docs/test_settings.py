"""Every block of YAML or JSON on the pages is what it seems: settings load, the rest is named here."""

import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic.alias_generators import to_snake

from hpcgate.config import Settings, load

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
GENERAL: dict[str, Any] = {
    "auth": {"authentication": {"token_url": "https://login.example.org/token"}},
    "ssh_credentials": {"type": "SSHService", "url": "https://keys.example.org"},
}
CLUSTER: dict[str, Any] = {
    "name": "daint",
    "ssh": {"host": "login.example.org"},
    "scheduler": {"type": "slurm", "version": "24.05.4"},
}
OTHERS = {
    "scrape_configs": "Prometheus' own configuration; tests/cluster/test_monitoring.py",
    "image": "values of the Helm chart; tests/deploy/test_helm.py",
    "on-the-system": "a pipeline of GitLab; test_recipes.py runs it",
    "jobs": "a pipeline of GitHub; test_recipes.py runs it",
}
"""Top-level keys of blocks that are no settings of hpcgate, and who looks at them."""


ELSEWHERE = {
    "docs/extending/scheduler.md": "a scheduler that is not installed here; tests/cluster/test_example_scheduler.py"
}


@dataclass(frozen=True, slots=True)
class Block:
    page: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0][:40]}"


def blocks(kind: str) -> Iterator[Block]:
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for _, found, text in BLOCK.findall(path.read_text()):
            if found == kind:
                yield Block(str(path.relative_to(ROOT)), textwrap.dedent(text))


def whole(document: dict[str, Any]) -> dict[str, Any]:
    """Return a part of a configuration with what else it needs to be one."""
    if not {to_snake(key) for key in document} & set(Settings.model_fields):
        # A part of one system.
        return GENERAL | {"clusters": [CLUSTER | document]}
    if "clusters" in document:
        document = document | {"clusters": [CLUSTER | cluster for cluster in document["clusters"]]}
    authentication = document.get("auth", {}).get("authentication", {})
    if "auth" in document:
        auth = document["auth"] | {"authentication": _with_token_url(authentication)}
        document = document | {"auth": auth}
    # Policies name these.
    systems = [CLUSTER | {"name": name} for name in ("alps", "eiger")]
    return GENERAL | {"clusters": systems} | document


def _with_token_url(authentication: dict[str, Any]) -> dict[str, Any]:
    if "tokenUrl" in authentication:
        return authentication
    general: dict[str, Any] = GENERAL["auth"]["authentication"]
    return general | authentication


@pytest.mark.parametrize("block", list(blocks("yaml")), ids=str)
def test_settings_load(block: Block, tmp_path: Path) -> None:
    """Each piece of configuration on the pages loads."""
    secret = "redis://redis.example.org" if "redis" in block.text else "https://secret.example.org"
    (tmp_path / "file").write_text(secret)
    text = re.sub(r"secret_file:[^\s\"]+", f"secret_file:{tmp_path}/file", block.text)
    text = text.replace("/etc/hpcgate/known_hosts", f"{tmp_path}/file").replace("/var/log/hpcgate", str(tmp_path))
    document = yaml.safe_load(text)
    assert isinstance(document, dict)
    if set(document) & set(OTHERS) or block.page in ELSEWHERE:
        return
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(whole(document)))
    load(tmp_path / "config.yaml")


def test_what_is_not_ours_is_there() -> None:
    keys = {key for block in blocks("yaml") for key in yaml.safe_load(block.text)}
    assert set(OTHERS) <= keys


@pytest.mark.parametrize("block", list(blocks("json")), ids=str)
def test_json_is_json(block: Block) -> None:
    """One document, or one a line."""
    try:
        json.loads(block.text)
    except json.JSONDecodeError:
        for line in block.text.splitlines():
            json.loads(line)
