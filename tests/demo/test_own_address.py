"""Slurm listens where the machine's name leads if it can be called back there, whatever /etc/hosts says."""

import socket

import pytest

from hpcgate.demo import ports

NAMES = {
    "as on some machines": ("127.0.0.1", "127.0.0.1"),
    "as Debian is installed": ("127.0.1.1", None),
    "another machine's": ("198.51.100.99", None),
    "nothing, in a bare chroot": (None, None),
}


@pytest.mark.parametrize("case", NAMES)
def test_the_name_stands_for(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address, wanted = NAMES[case]
    real = socket.getaddrinfo

    def resolve(*_: object) -> object:
        if address is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(address, None, socket.AF_INET, socket.SOCK_STREAM)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert ports.own_address() == wanted
