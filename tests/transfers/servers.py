"""The servers that magic-wormhole needs, and ports for any server."""

import atexit
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from hpcgate.demo.ports import Ports

PORTS = Ports()
atexit.register(PORTS.close)


def free_port(count: int = 1) -> int:
    """Return a port that is this process's own, and that no connection gets by chance until a server takes it.

    Of several in a row it is the first.
    """
    return PORTS.take(count)


def wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    """Return once a server listens."""
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.05)


class WormholeServers:
    """A mailbox server and a transit relay; a context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        mailbox, relay = free_port(), free_port()
        self.relay_url = f"ws://127.0.0.1:{mailbox}/v1"
        self.transit_helper = f"tcp:127.0.0.1:{relay}"
        self._commands = {
            mailbox: ["wormhole-mailbox", f"--port=tcp:{mailbox}:interface=127.0.0.1"],
            relay: ["transitrelay", f"--port=tcp:{relay}:interface=127.0.0.1"],
        }
        self._servers: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What makes the command ``wormhole`` use them."""
        return {"WORMHOLE_RELAY_URL": self.relay_url, "WORMHOLE_TRANSIT_HELPER": self.transit_helper}

    def __enter__(self) -> Self:
        twist = Path(sys.executable).with_name("twist")
        with (self.directory / "servers.log").open("ab") as log:
            self._servers = [
                subprocess.Popen(
                    [str(twist), *command], cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env=dict(os.environ),
                )
                for command in self._commands.values()
            ]  # fmt: skip
        for port, server in zip(self._commands, self._servers, strict=True):
            wait_for_port(port, server)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.kill()
            server.wait()
