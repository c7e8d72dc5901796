from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcgate.config import ConfigError, Mistake, Settings, load

EXAMPLES = Path(__file__).parent.parent / "contract" / "firecrest-configs"
SECRETS = ("alice", "alice-passphrase", "bot", "health", "s3", "fire", "fire-passphrase", "srv")

BASE = """
auth:
  authentication:
    token_url: https://idp.example.org/token
    public_certs: [https://idp.example.org/jwks]
ssh_credentials: {type: SSHService, url: https://keys.example.org}
clusters:
  - name: alps
    ssh: {host: login.example.org, port: 22}
    scheduler: {type: slurm, version: 24.05.4}
    service_account: {client_id: health, secret: sesame}
"""


def put(document: Any, key: str, value: Any) -> Any:
    """Set what stands at a key such as ``clusters/0/name``, or take it away by ``...``; return the document."""
    *parents, last = [int(part) if part.isdecimal() else part for part in key.split("/")]
    holder = document
    for parent in parents:
        holder = holder.setdefault(parent, {}) if isinstance(holder, dict) else holder[parent]
    if isinstance(holder, dict) and value is ...:
        holder.pop(last, None)
    else:
        holder[last] = value
    return document


@pytest.fixture
def example(tmp_path: Path) -> Callable[[str], Path]:
    """Write an example configuration with secrets that are really there; return where it is."""
    for name in SECRETS:
        (tmp_path / name).write_text(f"the secret of {name}\n")
    (tmp_path / "alice-cert.pub").write_text("ssh-ed25519-cert-v01@openssh.com AAAA alice\n")

    def write(name: str) -> Path:
        text = (EXAMPLES / name).read_text()
        path = tmp_path / name
        path.write_text(text.replace("@SECRETS@", str(tmp_path)).replace("@CONFIGS@", str(EXAMPLES)))
        return path

    return write


class Writer:
    """Writes configurations into a directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "config.yaml"

    def base(self) -> Any:
        return yaml.safe_load(BASE)

    def load(self, document: Any) -> Settings:
        self.path.write_text(document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False))
        return load(self.path)

    def mistakes(self, document: Any) -> list[Mistake]:
        with pytest.raises(ConfigError) as caught:
            self.load(document)
        return list(caught.value.mistakes)

    def mistake(self, document: Any) -> tuple[str, str]:
        """Load what has exactly one mistake; return its key and message."""
        (only,) = self.mistakes(document)
        assert only.file == self.path
        return only.key, only.message


@pytest.fixture
def config(tmp_path: Path) -> Writer:
    return Writer(tmp_path)
