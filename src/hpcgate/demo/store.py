"""An object store for the demo's large files: rclone's S3 server, over a directory."""

from __future__ import annotations

import secrets
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

from hpcgate.demo.ports import HOST
from hpcgate.demo.processes import SYSTEM_PATH, Daemon, Keeper


def rclone() -> str | None:
    """Return the program, which hpcgate's extra ``demo`` has; None if it is not installed."""
    return shutil.which("rclone", path=f"{Path(sys.executable).parent}:{SYSTEM_PATH}")


class Store:
    """A server with keys of its own, on the loopback interface."""

    def __init__(self, keeper: Keeper, program: str, directory: Path, port: int) -> None:
        self._access_key = secrets.token_hex(10)
        self._secret_key = secrets.token_urlsafe(24)
        self._port = port
        self.url = f"http://{HOST}:{port}"
        directory.mkdir(mode=0o700)
        options = ["--addr", f"{HOST}:{port}", "--config", "", "--vfs-cache-mode", "off"]
        options += ["--auth-key", f"{self._access_key},{self._secret_key}"]
        self._daemon = Daemon(
            keeper,
            "store",
            [program, "serve", "s3", *options, str(directory)],
            log=directory.with_name("store.log"),
            ready=lambda _: self._listens(),
        )

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._daemon.start()

    def settings(self) -> dict[str, Any]:
        """Return the transfer method that uses it."""
        return {
            "service_type": "s3",
            "name": "demo",
            "private_url": self.url,
            "public_url": self.url,
            "access_key_id": self._access_key,
            "secret_access_key": self._secret_key,
            "region": "us-east-1",
            "ttl": 3600,
            "poll_interval": 1,
        }

    def _listens(self) -> bool:
        try:
            with socket.create_connection((HOST, self._port), timeout=1):
                return True
        except OSError:
            return False
