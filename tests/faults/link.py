"""A login node in a network namespace of its own, behind a link whose packets the kernel can be told to drop."""

import os
import secrets
import signal
import subprocess
import time
from contextlib import suppress
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
        # 198.18.0.0/15 is for measuring network devices (RFC 2544): nobody has it for anything else. Process ids tell
        # nothing apart: containers have their own, and may share the network.
        chosen = secrets.randbits(40)
        number = chosen % 16384
        net = f"198.18.{number // 64}."
        first = number % 64 * 4
        self._near, self.host = f"{net}{first + 1}", f"{net}{first + 2}"
        self._name = f"hg{chosen:010x}"
        self._cluster = cluster
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        near, far = f"{self._name}-n", f"{self._name}-f"
        # Not by ``ip netns``, which wants to mount: in a chroot it may not.
        holder = subprocess.Popen([program("unshare"), "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._processes.append(holder)
        try:
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdin.write(b"there\n")
            holder.stdin.flush()
            holder.stdout.readline()
            self._ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", str(holder.pid))
            self._ip("addr", "add", f"{self._near}/30", "dev", near)
            self._ip("link", "set", near, "up")
            for argv in (("addr", "add", f"{self.host}/30", "dev", far), ("link", "set", far, "up")):
                subprocess.run(self._inside(program("ip"), *argv), check=True)
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
            sshd = subprocess.Popen(self._inside(program("sshd"), "-D", "-e", "-f", str(file)), stderr=output)
        self._processes.append(sshd)
        deadline = time.monotonic() + 120
        while f"listening on {self.host}" not in log.read_text():
            assert sshd.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        """End all that runs inside; the link goes with the last of it."""
        space = Path(f"/proc/{self._processes[0].pid}/ns/net").readlink()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "ns/net").readlink() == space:
                    os.kill(int(process.name), signal.SIGTERM)
        for one in self._processes:
            one.wait()
            for pipe in filter(None, (one.stdin, one.stdout)):
                pipe.close()

    def drop(self) -> None:
        """Drop every packet, in both directions, without a word to anybody."""
        subprocess.run(self._inside(program("nft"), "-f", "-"), input=RULES, text=True, check=True)

    def heal(self) -> None:
        """Let them pass again."""
        subprocess.run(self._inside(program("nft"), "delete", "table", "inet", "faults"), check=True)

    def _inside(self, *argv: str) -> list[str]:
        return [program("nsenter"), "--net", "--target", str(self._processes[0].pid), *argv]

    def _ip(self, *argv: str) -> None:
        subprocess.run([program("ip"), *argv], check=True)
