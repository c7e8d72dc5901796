"""OpenSSH's own clients, set to trust nothing but what they are told."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hpcgate.demo.sshd import Sshd
from hpcgate.demo.users import User


@contextmanager
def command_line(
    program: str, login: Sshd, user: User, *, key: Path | None = None, options: Sequence[str] = (), name: str = ""
) -> Iterator[list[str]]:
    """Give the command line of ``ssh`` or ``sftp`` up to the host's name, the host key pinned."""
    with tempfile.TemporaryDirectory() as directory:
        known_hosts = Path(directory, "known_hosts")
        known_hosts.write_text(login.known_hosts_line + "\n")
        settings = (
            f"Port={login.port}",
            f"IdentityFile={key or user.private_key}",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            f"UserKnownHostsFile={known_hosts}",
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
            f"User={name or user.name}",
            *options,
        )
        yield [program, "-F", "none", *(part for setting in settings for part in ("-o", setting)), login.host]


def ssh(
    login: Sshd,
    user: User,
    *command: str,
    key: Path | None = None,
    options: Sequence[str] = (),
    name: str = "",
    input: str = "",
) -> subprocess.CompletedProcess[str]:
    """Log in and run a command, its words joined by blanks."""
    with command_line("ssh", login, user, key=key, options=options, name=name) as argv:
        return _run([*argv, *command], input)


def forward(through: Sshd, to: Sshd, user: User) -> subprocess.CompletedProcess[str]:
    """Ask for a connection to another login node through this one; its banner is the output."""
    with command_line("ssh", through, user) as argv:
        return _run([*argv[:-1], "-W", f"{to.host}:{to.port}", through.host], "not ssh\n")


def sftp(login: Sshd, user: User, batch: str) -> subprocess.CompletedProcess[str]:
    """Run a batch of SFTP commands, which are not echoed."""
    with command_line("sftp", login, user, options=("LogLevel=ERROR",)) as argv:
        return _run([argv[0], "-q", "-b", "-", *argv[1:]], batch)


def _run(argv: Sequence[str], input: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        input=input,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"},
    )
