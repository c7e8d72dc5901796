"""A real Redis, Debian's."""

import subprocess
from pathlib import Path
from typing import Self

from hpcgate.demo.packages import ensure_installed, program
from tests.transfers.servers import free_port, wait_for_port

PASSWORD = "redis-secret-for-tests"


class RedisServer:
    """A server in a directory of its own; a context manager. It can be stopped and started again, empty."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        ensure_installed({"redis-server": "redis-server"}, lambda _: None)
        with (self.directory / "redis.log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1",
                    "--requirepass", PASSWORD, "--save", "", "--appendonly", "no", "--dir", str(self.directory),
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
