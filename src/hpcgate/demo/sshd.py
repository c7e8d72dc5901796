"""OpenSSH servers that play the login nodes of a demo cluster."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hpcgate.demo.keys import Key
from hpcgate.demo.packages import program
from hpcgate.demo.ports import HOST
from hpcgate.demo.problems import DemoError
from hpcgate.demo.processes import Daemon, Keeper
from hpcgate.demo.users import DENIED_GROUPS, User


@dataclass(frozen=True, slots=True)
class SshdOptions:
    """How a login node behaves. The defaults are the settings that FirecREST's documentation asks sites for."""

    max_sessions: int = 9999
    """Channels that one connection may have open (sshd_config(5), MaxSessions)."""
    max_startups: str | None = None
    """Limit of connections that have not logged in yet, for example ``10:30:100``; None is sshd's default."""
    max_auth_tries: int = 1
    allow_tcp_forwarding: bool = False
    """True makes a jump host."""
    sftp: bool | str = True
    """True: sshd's built-in SFTP server; False: none; a string: the command of the subsystem."""
    static_keys: bool = True
    """Whether the users' plain keys open the door, besides certificates of the cluster's authority."""
    certificates: bool = True
    """Whether certificates of the cluster's user authority open the door."""
    penalties: str | None = None
    """What sshd 9.8 and later does to addresses whose logins fail (PerSourcePenalties); None: nothing, as all who come
    come from one address."""
    extra: str = ""
    """Lines for the global part of the configuration, before all others: sshd takes a keyword's first value."""
    match_extra: str = ""
    """Lines for the beginning of the block that holds for connections from this machine."""


class Sshd:
    """One running sshd."""

    def __init__(self, daemon: Daemon, port: int, host_key: Key, options: SshdOptions) -> None:
        self.daemon = daemon
        self.host = HOST
        self.port = port
        self.host_key = host_key
        self.options = options

    def __repr__(self) -> str:
        return f"<Sshd {self.host}:{self.port} {self.daemon!r}>"

    @property
    def host_public_key(self) -> str:
        """Its host key as one line of OpenSSH's format: type, base64, comment."""
        return self.host_key.public_line

    @property
    def known_hosts_line(self) -> str:
        """Its entry for a known_hosts file."""
        return f"[{self.host}]:{self.port} {self.host_public_key}"

    @property
    def pid(self) -> int:
        """Process id of the listener."""
        return self.daemon.pid

    def start(self) -> None:
        """Start it again after `stop`, on the same port with the same host key."""
        self.daemon.start()

    def stop(self) -> None:
        """End the listener and all sessions."""
        self.daemon.stop(grace=1.0)

    def restart(self) -> None:
        """End the listener and all sessions, then listen again."""
        self.stop()
        self.start()

    def suspend(self) -> None:
        """Freeze the listener and all sessions: the login node hangs."""
        self.daemon.suspend()

    def resume(self) -> None:
        """Let the frozen login node go on."""
        self.daemon.resume()

    def log(self) -> str:
        """What it has logged since its last start."""
        return self.daemon.output()


class SshdFactory:
    """Makes login nodes that share the cluster's users, user authority and Slurm."""

    def __init__(
        self,
        keeper: Keeper,
        directory: Path,
        take_port: Callable[[], int],
        users: Sequence[User],
        authority: Key,
    ) -> None:
        """Write what all login nodes share to ``directory``: the authority's public key, the users' keys."""
        self._keeper = keeper
        self._directory = directory
        self._take_port = take_port
        self._count = 0
        self._authority_file = directory / "user_ca.pub"
        self._authority_file.write_text(authority.public_line + "\n")
        self._authorized_keys = directory / "authorized_keys"
        self._authorized_keys.mkdir()
        for user in users:
            (self._authorized_keys / user.name).write_text(user.key.public_line + "\n")

    def start(
        self, options: SshdOptions, environment: Mapping[str, str], host_key: Key | None = None, port: int | None = None
    ) -> Sshd:
        """Start a login node whose sessions get ``environment``; a new Ed25519 host key and port unless given."""
        self._count += 1
        name = f"sshd-{self._count}"
        key = host_key or Key.make(f"{name}.demo")
        key_file = key.write(self._directory / f"{name}.host_key")
        number = port or self._take_port()
        if os.geteuid() == 0:
            self._keeper.share_privilege_separation_directory()
        configuration = self._directory / f"{name}.conf"
        configuration.write_text(self._configuration(options, number, key_file, environment))
        daemon = Daemon(
            self._keeper,
            name,
            # sshd starts itself anew for each connection, and insists on an absolute path for that.
            [program("sshd"), "-D", "-e", "-f", str(configuration)],
            log=self._directory / f"{name}.log",
            ready=lambda daemon: f"Server listening on {HOST} port {number}" in daemon.output(),
            with_tree=True,
        )
        daemon.start()
        return Sshd(daemon, number, key, options)

    def _configuration(self, options: SshdOptions, port: int, host_key: Path, environment: Mapping[str, str]) -> str:
        match options.sftp:
            case True:
                subsystem = "Subsystem sftp internal-sftp\n"
            case False:
                subsystem = ""
            case command:
                subsystem = f"Subsystem sftp {command}\n"
        penalties = f"PerSourcePenalties {options.penalties or 'no'}\n" if punishes() else ""
        startups = f"MaxStartups {options.max_startups}\n" if options.max_startups else ""
        for name, value in environment.items():
            if any(character in value for character in ' \t\n"\\'):
                raise DemoError(f"{name}={value!r} does not fit into sshd's SetEnv")
        settings = " ".join(f"{name}={value}" for name, value in environment.items())
        authority = self._authority_file if options.certificates else "none"
        static = self._authorized_keys / "%u" if options.static_keys else "none"
        return f"""\
{options.extra}
ListenAddress {HOST}
Port {port}
HostKey {host_key}
PidFile none
LogLevel VERBOSE
UsePAM no
UseDNS no
PrintMotd no
PrintLastLog no
# The keys lie outside of the homes, below a temporary directory that anybody may write to.
StrictModes no
{subsystem}{startups}{penalties}
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile none
{f"SetEnv {settings}" if settings else ""}

Match Address 127.0.0.0/8
    {options.match_extra}
    PubkeyAuthentication yes
    AuthorizedKeysFile {static}
    TrustedUserCAKeys {authority}
    PermitRootLogin no
    DenyGroups {" ".join(DENIED_GROUPS)}
    MaxAuthTries {options.max_auth_tries}
    MaxSessions {options.max_sessions}
    AllowTcpForwarding {"yes" if options.allow_tcp_forwarding else "no"}
    X11Forwarding no
"""


@cache
def punishes() -> bool:
    """Say whether the installed sshd knows PerSourcePenalties, which came with OpenSSH 9.8."""
    said = subprocess.run([program("ssh"), "-V"], capture_output=True, text=True, check=False, timeout=30.0).stderr
    version = re.match(r"OpenSSH_(\d+)\.(\d+)", said)
    return version is not None and (int(version[1]), int(version[2])) >= (9, 8)
