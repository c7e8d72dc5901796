"""A gateway process without any system, for what happens before a request reaches one."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.transfers.servers import free_port, wait_for_port


@dataclass(frozen=True, slots=True)
class Front:
    """A running gateway: its port, its log and its process."""

    port: int
    log: Path
    process: subprocess.Popen[bytes]


def write_config(directory: Path, **settings: Any) -> Path:
    """Write a configuration without systems, and without an identity provider that answers."""
    path = directory / "front.yaml"
    general = {
        "auth": {"authentication": {"token_url": "http://127.0.0.1:9/token"}},
        "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1:9"},
    }
    path.write_text(yaml.safe_dump(general | settings))
    return path


def command(config: Path, port: int, *options: str) -> list[str]:
    """Return the command that serves."""
    serve = [sys.executable, "-m", "hpcgate.cli", "serve", "--config", str(config), "--port", str(port)]
    return [*serve, *options]


@contextmanager
def serving(directory: Path, *options: str, env: Mapping[str, str] | None = None, **settings: Any) -> Iterator[Front]:
    """Start a gateway and end it again."""
    port = free_port()
    log = directory / "front.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(write_config(directory, **settings), port, *options),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | dict(env or {}),
        )
    try:
        wait_for_port(port, process)
        yield Front(port, log, process)
    finally:
        process.terminate()
        process.wait(120)
