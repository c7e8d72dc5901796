"""A login node in a network namespace of its own, behind a link whose packets the kernel can be told to drop."""

import os
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from hpcgate.demo.cluster import Cluster
from hpcgate.demo.packages import ensure_installed, program

RULES = """\
table inet faults {
    chain input { type filter hook input priority 0; policy drop; }
    chain output { type filter hook output priority 0; policy drop; }
}
"""


class Link:
    """A context manager: the namespace, its link to this side, and an sshd in it. Needs the rights of root.

    Args:
        cluster: Whose users and keys the sshd has.

    Attributes:
        host: The sshd's address.
        port: Its port.
        host_public_key: Its host key.
    """

    def __init__(self, cluster: Cluster) -> None:
        ensure_installed({"ip": "iproute2", "nft": "nftables"}, cluster.progress)
        # 198.18.0.0/15 is for measuring network devices (RFC 2544): nobody has it for anything else.
        number = os.getpid() % 16384
        net = f"198.18.{number // 64}."
        first = number % 64 * 4
        self._near, self.host = f"{net}{first + 1}", f"{net}{first + 2}"
        self._name = f"hpcgate{os.getpid()}"
        self._cluster = cluster

    def __enter__(self) -> Self:
        name, near, far = self._name, f"{self._name[-13:]}-n", f"{self._name[-13:]}-f"
        self._ip("netns", "add", name)
        try:
            self._ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
            self._ip("addr", "add", f"{self._near}/30", "dev", near)
            self._ip("link", "set", near, "up")
            self._ip("-n", name, "addr", "add", f"{self.host}/30", "dev", far)
            self._ip("-n", name, "link", "set", far, "up")
            self._start_sshd()
        except BaseException:
            self._end()
            raise
        return self

    def _start_sshd(self) -> None:
        model = self._cluster.start_sshd(max_startups="10:30:100")
        model.stop()
        self.port, self.host_public_key = model.port, model.host_public_key
        file = Path(model.daemon.argv[-1]).with_suffix(".link")
        text = Path(model.daemon.argv[-1]).read_text()
        text = text.replace(f"ListenAddress {model.host}", f"ListenAddress {self.host}")
        file.write_text(text.replace("Match Address 127.0.0.0/8", f"Match Address {self._near}"))
        log = file.with_suffix(".log")
        with log.open("wb") as output:
            self._sshd = subprocess.Popen(self._inside(program("sshd"), "-D", "-e", "-f", str(file)), stderr=output)
        deadline = time.monotonic() + 120
        while f"listening on {self.host}" not in log.read_text():
            assert self._sshd.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()
        self._sshd.wait()

    def _end(self) -> None:
        argv = [program("ip"), "netns", "pids", self._name]
        for pid in map(int, subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()):
            os.kill(pid, signal.SIGTERM)
        self._ip("netns", "delete", self._name)

    def drop(self) -> None:
        """Drop every packet, in both directions, without a word to anybody."""
        subprocess.run(self._inside(program("nft"), "-f", "-"), input=RULES, text=True, check=True)

    def heal(self) -> None:
        """Let them pass again."""
        subprocess.run(self._inside(program("nft"), "delete", "table", "inet", "faults"), check=True)

    def _inside(self, *argv: str) -> list[str]:
        return [program("ip"), "netns", "exec", self._name, *argv]

    def _ip(self, *argv: str) -> None:
        subprocess.run([program("ip"), *argv], check=True)
