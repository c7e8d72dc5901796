"""The settings on the pages about logs, TLS and limits load, and are what the pages say."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcgate.config import Settings
from hpcgate.config.audit import AuditSettings
from hpcgate.config.http import HttpSettings
from hpcgate.config.rates import RateLimitSettings, RedisSettings
from hpcgate.demo.packages import ensure_installed, program
from hpcgate.demo.processes import SYSTEM_PATH
from hpcgate.telemetry.audit import AuditFile

DOCS = Path(__file__).parents[2] / "docs"
LOGGING, LIMITS = ((DOCS / name).read_text() for name in ("logging.md", "tls-and-limits.md"))
GENERAL = {
    "auth": {"authentication": {"token_url": "https://login.example.org/token"}},
    "ssh_credentials": {"type": "SSHService", "url": "https://keys.example.org"},
}


def blocks(page: str, kind: str = "yaml") -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", [*blocks(LOGGING), *blocks(LIMITS)])
def test_examples_load(text: str, tmp_path: Path) -> None:
    """Each configuration on the pages loads."""
    secret = tmp_path / "redis-url"
    secret.write_text("redis://redis.example.org")
    text = text.replace("/run/secrets/redis-url", str(secret)).replace("/var/log/hpcgate", str(tmp_path))
    document: dict[str, Any] = yaml.safe_load(text)
    settings = Settings.model_validate(GENERAL | document)
    assert all(getattr(settings, name) != getattr(Settings.model_validate(GENERAL), name) for name in document)


def test_every_setting_is_told_of() -> None:
    for model, prefix, page in (
        (HttpSettings, "http.", LIMITS),
        (RateLimitSettings, "", LIMITS),
        (RedisSettings, "", LIMITS),
        (AuditSettings, "", LOGGING),
    ):
        for name in model.model_fields:
            if name != "prefix":
                assert prefix + name in page or f"{name}:" in page, name


def test_the_defaults_are_as_the_tables_say() -> None:
    settings = Settings.model_validate(GENERAL)
    rows = re.findall(r"\| (\d+)[^|]* \| `(http|streams)\.(\w+)`", LIMITS)
    assert len(rows) >= 5
    for shown, group, name in rows:
        assert getattr(getattr(settings, group), name) in (float(shown), float(shown) * 1024), name


def test_logrotate_loses_nothing(tmp_path: Path) -> None:
    """No line of the log is lost while it is rotated as the page says."""
    ensure_installed({"logrotate": "logrotate"}, lambda _: None)
    path = tmp_path / "audit.jsonl"
    (rules,) = blocks(LOGGING, "conf")
    rules = rules.replace("/var/log/hpcgate/audit.jsonl", str(path))
    assert str(path) in rules
    configuration = tmp_path / "rules"
    configuration.write_text(rules)
    configuration.chmod(0o644)
    file = AuditFile(path)
    for number in range(3):
        file.write(f'{{"number": {number}}}')
        subprocess.run(
            [program("logrotate"), "--force", "--state", str(tmp_path / "state"), str(configuration)],
            check=True,
            env={"PATH": SYSTEM_PATH},
        )
    file.write('{"number": 3}')
    assert path.read_text() == '{"number": 3}\n'
    assert (tmp_path / "audit.jsonl.1").read_text() == '{"number": 2}\n'
    assert len(list(tmp_path.glob("audit.jsonl.*.gz"))) == 2
