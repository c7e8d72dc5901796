"""Free TCP ports on the loopback interface that two demos never both take."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from hpcgate.demo.problems import DemoError

HOST = "127.0.0.1"


class Ports:
    """Ports reserved for one demo until `close`.

    They lie below the range that the kernel gives to outgoing connections and to programs that bind port 0, so nobody
    gets one by chance between the reservation and the daemon's start. Against other demos a port is reserved by an
    abstract Unix socket (unix(7)) named after it, which vanishes with the process that holds it.
    """

    def __init__(self) -> None:
        self._reservations: list[socket.socket] = []

    def take(self, count: int = 1) -> int:
        """Reserve a free port, or the first of several in a row; raise DemoError if there are none."""
        ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        low, high = (10_000, ephemeral) if ephemeral > 12_000 else (61_000, 65_535)
        for _ in range(1000):
            first = random.randrange(low, high - count + 1)  # noqa: S311 - not a secret
            reservations: list[socket.socket] = []
            try:
                for port in range(first, first + count):
                    reservations.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                    reservations[-1].bind(f"\0hpcgate-demo-port-{port}")
                    self._try(port)
            except OSError:
                for reservation in reservations:
                    reservation.close()
                continue
            self._reservations += reservations
            return first
        raise DemoError("no free port was found on the loopback interface")

    @staticmethod
    def _try(port: int) -> None:
        for address in (HOST, "0.0.0.0"):  # noqa: S104 - bound for an instant, never listened on
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))

    def close(self) -> None:
        """Give all ports back."""
        for reservation in self._reservations:
            reservation.close()
        self._reservations.clear()


def own_address() -> str | None:
    """Return the address that this machine's own name stands for, or None if Slurm cannot keep to it.

    Slurm's daemons and srun, told not to listen on all addresses, listen on that one, and srun is called back at the
    address that its own call came from. So the name must stand for an address of the machine from which connections to
    it come: 127.0.0.1 on some machines, the one of a container. As Debian is installed it stands for 127.0.1.1, but
    what goes there comes from 127.0.0.1. In a bare chroot it stands for nothing.
    """
    try:
        address = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
        with socket.create_server((str(address), 0)) as server, socket.socket() as call:
            call.connect(server.getsockname())
            comes_from = call.getsockname()[0]
    except OSError:
        return None
    return str(address) if comes_from == address else None


def listens(port: int) -> bool:
    """Tell whether something listens on the port, by the kernel's table (proc_net(5)) and so unnoticed by it."""
    wanted = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and fields[1].endswith(wanted):
                return True
    return False
