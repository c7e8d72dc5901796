"""What login nodes and jump hosts show of themselves before anybody logs in, and whether it would be accepted."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import asyncssh

from hpcgate.config import SshSettings
from hpcgate.errors import HostKeyRefused
from hpcgate.ssh.host_keys import HostKeys, Trusted
from hpcgate.ssh.login import CIPHERS

T = TypeVar("T")

_KINDS = (
    ["ssh-ed25519"],
    ["ecdsa-sha2-nistp256"],
    ["ecdsa-sha2-nistp384"],
    ["ecdsa-sha2-nistp521"],
    ["rsa-sha2-512"],
)
_NOBODY = "hpcgate-check"
"""The user name of the connection that is broken off before the login."""


LONGEST = 60.0
"""Seconds in which what the settings say of a machine has to be read, and its name looked up."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one machine.

    Attributes:
        good: True if all is well, None for a warning, False if the gateway would not connect.
        text: What an operator reads.
        advice: What to do about it, if anything is to be done.
        check: What was looked at, for programs.
    """

    good: bool | None
    text: str
    advice: str = ""
    check: str = "host key"


class Surveyor:
    """Looks at machines by the gateway's own rules; no user's name and no credential is sent.

    Several systems may have the same machine, and its sshd may punish an address that comes too often: what one shows,
    and whether it proves to have what is expected, is asked for once.
    """

    def __init__(self) -> None:
        self._turns: dict[tuple[str, int], asyncio.Lock] = {}
        self._shown: dict[tuple[str, int], Sequence[asyncssh.SSHKey] | Exception] = {}
        self._accepted: dict[tuple[str, int, tuple[tuple[bytes, ...], ...]], bool | Exception] = {}

    async def survey(self, system: str, settings: SshSettings) -> list[Finding]:
        """Look at the machines of a system.

        What lies behind a jump host cannot be seen without logging in there, and is said to be unseen.
        """
        return await _survey(self, system, settings)

    async def shown(self, host: str, port: int, patience: float) -> Sequence[asyncssh.SSHKey]:
        """Return the keys that a machine shows.

        Raises:
            OSError, TimeoutError, asyncssh.Error: It does not answer.
        """
        async with self._turns.setdefault((host, port), asyncio.Lock()):
            found = self._shown.get((host, port))
            if found is None:
                found = self._shown[host, port] = await _or_error(_shown(host, port, patience))
        if isinstance(found, Exception):
            raise found
        return found

    async def accepted(self, host: str, port: int, trusted: Trusted, patience: float) -> bool:
        """Say whether a machine proves to have a key that is trusted.

        Raises:
            OSError, TimeoutError, asyncssh.Error: It does not answer.
        """
        expected = (host, port, trusted.lines)
        async with self._turns.setdefault((host, port), asyncio.Lock()):
            found = self._accepted.get(expected)
            if found is None:
                found = self._accepted[expected] = await _or_error(_accepted(host, port, trusted, patience))
        if isinstance(found, Exception):
            raise found
        return found


async def _or_error(asked: Awaitable[T]) -> T | Exception:
    """Return what comes of it, or why nothing does: others want to know as well."""
    try:
        return await asked
    except (OSError, TimeoutError, asyncssh.Error) as error:
        return error


async def _survey(surveyor: Surveyor, system: str, settings: SshSettings) -> list[Finding]:
    jump = HostKeys(system, "jump host", settings.proxy_host_keys, settings.known_hosts, settings.strict_host_keys)
    node = HostKeys(system, "login node", settings.host_keys, settings.known_hosts, settings.strict_host_keys)
    if settings.proxy_host is None:
        return [found for host, port in settings.nodes for found in await _look(surveyor, node, host, port, settings)]
    found = await _look(surveyor, jump, settings.proxy_host, settings.proxy_port or 22, settings)
    for host, port in settings.nodes:
        text = f"the login node {host}:{port} lies behind the jump host and was not looked at"
        found.append(Finding(None, text))
    return found


async def _look(surveyor: Surveyor, policy: HostKeys, host: str, port: int, settings: SshSettings) -> list[Finding]:
    name = f"{policy.role} {host}:{port}"
    patience = settings.timeout.connection
    try:
        shown = await surveyor.shown(host, port, patience)
    except (OSError, TimeoutError, asyncssh.Error) as error:
        return [_silent(name, error)]
    seen = f"{name} shows {', '.join(f'{key.get_algorithm()} {key.get_fingerprint()}' for key in shown)}"
    lines = [key.export_public_key("openssh").decode().strip() for key in shown]
    option = "ssh.host_keys" if policy.role == "login node" else "ssh.proxy_host_keys"
    if not policy.verifiable:
        text = f"{seen}; nothing says what to expect, so the first one seen is trusted"
        return [Finding(None, text, f"compare with the machine itself, then set {option}: {'; '.join(lines)}")]
    if policy.known_hosts is not None:
        place = host if port == 22 else f"[{host}]:{port}"
        option, lines = policy.known_hosts, [f"{place} {line}" for line in lines]
    add = f"then add to {option}: {'; '.join(lines)}"
    try:
        async with asyncio.timeout(LONGEST):
            trusted = await policy.trusted(host, port)
    except TimeoutError as error:
        return [_silent(name, error)]
    except HostKeyRefused as error:
        return [Finding(False, f"{seen}; refused: {error.message}", f"compare with the machine itself, {add}")]
    try:
        accepted = await surveyor.accepted(host, port, trusted, patience)
    except (OSError, TimeoutError, asyncssh.Error) as error:
        return [_silent(name, error)]
    if accepted:
        return [Finding(True, f"{seen}; expected, and accepted: {trusted.fingerprints}")]
    advice = f"somebody may be in between, or it was installed anew: compare with the machine itself, {add}"
    return [Finding(False, f"{seen}; refused, for this is expected: {trusted.fingerprints}", advice)]


def _silent(name: str, error: Exception) -> Finding:
    text = f"{name} does not answer: {str(error) or 'no answer in time'}"
    return Finding(False, text, "see the name, the port, the firewall and sshd; ssh -v from this machine says more")


async def _shown(host: str, port: int, patience: float) -> Sequence[asyncssh.SSHKey]:
    found: list[asyncssh.SSHKey] = []
    refusal: Exception | None = None
    for algorithms in _KINDS:
        try:
            async with asyncio.timeout(patience):
                key = await asyncssh.get_server_host_key(
                    host, port, config=None, server_host_key_algs=algorithms, client_version="hpcgate"
                )
        except (asyncssh.KeyExchangeFailed, asyncssh.ConnectionLost, ConnectionResetError) as error:
            refusal = error  # sshd hangs up if it has no key of this kind
            continue
        if key is not None:
            found.append(key)
    if not found and refusal is not None:
        raise refusal
    return found


class _Looker(asyncssh.SSHClient):
    """Leaves as soon as the host key was accepted."""

    def __init__(self) -> None:
        self.accepted = False
        self._connection: asyncssh.SSHClientConnection | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> None:
        self.accepted = True
        if self._connection is not None:
            self._connection.abort()


async def _accepted(host: str, port: int, trusted: Trusted, patience: float) -> bool:
    looker = _Looker()
    try:
        async with asyncio.timeout(patience):
            connection = await asyncssh.connect(
                host,
                port,
                config=None,
                client_factory=lambda: looker,
                client_version="hpcgate",
                username=_NOBODY,
                client_keys=None,
                agent_path=None,
                preferred_auth=["publickey"],
                known_hosts=lambda *_: (list(trusted.keys), list(trusted.authorities), list(trusted.revoked)),
                server_host_key_algs=trusted.algorithms,
                x509_trusted_certs=None,
                x509_trusted_cert_paths=[],
                encryption_algs=CIPHERS,
            )
            connection.abort()
    except asyncssh.HostKeyNotVerifiable:
        return False
    except (asyncssh.Error, OSError):
        if not looker.accepted:
            raise
    return looker.accepted
