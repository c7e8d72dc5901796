"""Which host keys are accepted: pinned ones, those of a known_hosts file, or the first that is seen."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
import structlog

from hpcgate.config.watched import Watched
from hpcgate.errors import HostKeyRefused
from hpcgate.ssh.nodes import look_up

log = structlog.stdlib.get_logger(__name__)

PATIENCE = 10.0
"""Seconds that a login waits for a known_hosts file."""
_CA_MARKER = "@cert-authority"
_PLAIN_ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
_CERTIFICATE_ALGORITHMS = (
    "ssh-ed25519-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com",
    "ecdsa-sha2-nistp521-cert-v01@openssh.com",
    "rsa-sha2-512-cert-v01@openssh.com",
    "rsa-sha2-256-cert-v01@openssh.com",
)


@dataclass(frozen=True, slots=True)
class Trusted:
    """What one host may show.

    Attributes:
        keys: Its own public keys.
        authorities: Keys of authorities that sign its host certificates.
        revoked: Keys that are never accepted, neither as its own nor as an authority's.
    """

    keys: tuple[asyncssh.SSHKey, ...] = ()
    authorities: tuple[asyncssh.SSHKey, ...] = ()
    revoked: tuple[asyncssh.SSHKey, ...] = ()

    @property
    def algorithms(self) -> list[str]:
        """The host key algorithms to offer, those of the trusted keys first, so that sshd shows one of them."""
        known = {key.get_algorithm() for key in self.keys}
        if "ssh-rsa" in known:
            known |= {"rsa-sha2-512", "rsa-sha2-256"}
        plain = sorted(_PLAIN_ALGORITHMS, key=lambda algorithm: algorithm not in known)
        return [*_CERTIFICATE_ALGORITHMS, *plain] if self.authorities else plain

    @property
    def lines(self) -> tuple[tuple[bytes, ...], ...]:
        """All of it in OpenSSH's format, to tell it from others."""
        return tuple(
            tuple(key.export_public_key("openssh") for key in keys)
            for keys in (self.keys, self.authorities, self.revoked)
        )

    @property
    def fingerprints(self) -> str:
        """The fingerprints of what is trusted, for messages."""
        shown = [key.get_fingerprint() for key in self.keys]
        shown += [f"{key.get_fingerprint()} (certificate authority)" for key in self.authorities]
        return ", ".join(shown) or "none"


@dataclass(slots=True)
class HostKeys:
    """The policy for the machines of one role, the login node or the jump host of a system.

    Args:
        system: The name of the system, for messages.
        role: ``login node`` or ``jump host``, for messages.
        lines: Public keys in OpenSSH's format; ``@cert-authority`` before one makes it an authority.
        known_hosts: A known_hosts file (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT), read again when it changes.
        strict: Refuse to connect where neither says what to expect, instead of pinning the first key seen.
    """

    system: str
    role: str
    lines: Sequence[str] = ()
    known_hosts: str | None = None
    strict: bool = False
    _pinned: dict[tuple[str, int], asyncssh.SSHKey] = field(default_factory=dict)
    _file: Watched[asyncssh.SSHKnownHosts] | None = None

    @property
    def verifiable(self) -> bool:
        """Whether the settings say what to expect."""
        return bool(self.lines) or self.known_hosts is not None

    async def trusted(self, host: str, port: int) -> Trusted:
        """Return what a host may show.

        Raises:
            HostKeyRefused: Nothing is expected of this host and first sight is not good enough, or what the settings
                name cannot be read.
        """
        keys: list[asyncssh.SSHKey] = []
        authorities: list[asyncssh.SSHKey] = []
        revoked: list[asyncssh.SSHKey] = []
        for line in self.lines:
            wanted = authorities if line.startswith(_CA_MARKER) else keys
            try:
                wanted.append(_public_key(line))
            except asyncssh.KeyImportError:
                raise HostKeyRefused(
                    f"The host keys configured for the {self.role} of {self.system} cannot be read"
                ) from None
        known_hosts = await self._read()
        if known_hosts is not None:
            found = await _match(known_hosts, host, port)
            keys += found.keys
            authorities += found.authorities
            revoked += found.revoked
        if not self.verifiable:
            pinned = self._pinned.get((host, port))
            if pinned is not None:
                keys.append(pinned)
            elif self.strict:
                raise HostKeyRefused(
                    f"No host key is configured for the {self.role} of {self.system}, and strict_host_keys is set"
                )
        elif not keys and not authorities:
            raise HostKeyRefused(f"The known_hosts file has no key for the {self.role} of {self.system}")
        return Trusted(tuple(keys), tuple(authorities), tuple(revoked))

    def accept(self, host: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Say whether a key that is not among the trusted ones is accepted, which the first one seen may be."""
        if self.verifiable or self.strict:
            return False
        pinned = self._pinned.get((host, port))
        if pinned is None:
            self._pinned[(host, port)] = key
            log.warning("ssh.host_keys.pinned", system=self.system, role=self.role, fingerprint=key.get_fingerprint())
            return True
        return pinned == key

    def refusal(self, host: str, port: int, seen: asyncssh.SSHKey | None, trusted: Trusted) -> HostKeyRefused:
        """Return the error for a key that was not accepted."""
        pinned = self._pinned.get((host, port))
        expected = pinned.get_fingerprint() if pinned is not None else trusted.fingerprints
        shown = seen.get_fingerprint() if seen is not None else "one that is revoked or not valid"
        return HostKeyRefused(
            f"The host key of the {self.role} of {self.system} is not the expected one: seen {shown}, "
            f"expected {expected}"
        )

    async def _read(self) -> asyncssh.SSHKnownHosts | None:
        """Read the file, if there is to be one."""
        if self.known_hosts is None:
            return None
        if self._file is None:
            self._file = Watched("ssh.host_keys", _known_hosts, Path(self.known_hosts))
        try:
            return await self._file.look(PATIENCE)
        except TimeoutError as error:
            raise HostKeyRefused(
                f"The known_hosts file of {self.system} cannot be read: nothing came within {PATIENCE:g} s"
            ) from error
        except (OSError, ValueError) as error:
            raise HostKeyRefused(f"The known_hosts file of {self.system} cannot be read") from error


def _known_hosts(content: bytes) -> asyncssh.SSHKnownHosts:
    return asyncssh.import_known_hosts(content.decode())


def _public_key(line: str) -> asyncssh.SSHKey:
    """Read a public key from an OpenSSH line, from one with a marker, or from a whole known_hosts line."""
    words = line.removeprefix(_CA_MARKER).split()
    try:
        return asyncssh.import_public_key(" ".join(words))
    except asyncssh.KeyImportError:
        return asyncssh.import_public_key(" ".join(words[1:]))


async def _match(known_hosts: asyncssh.SSHKnownHosts, host: str, port: int) -> Trusted:
    """Match by name, and by address where the file has only that."""
    special_port = None if port == 22 else port
    # Each line may be hashed, and a file may have thousands.
    found = await asyncio.to_thread(known_hosts.match, host, "", special_port)
    if not found[0] and not found[1]:
        try:
            addresses = {str(result[4][0]) for result in await look_up(host, port)}
        except OSError:
            addresses = set()
        for address in sorted(addresses):
            found = await asyncio.to_thread(known_hosts.match, host, address, special_port)
            if found[0] or found[1]:
                break
    return Trusted(tuple(found[0]), tuple(found[1]), tuple(found[2]))
