"""Logging in: which login node is tried, how often, and what becomes of a login that fails."""

import asyncio
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import asyncssh
from asyncssh.public_key import SSHLocalKeyPair

from hpcgate.config import SshSettings
from hpcgate.credentials.base import Credential
from hpcgate.errors import (
    CredentialRefused,
    GatewayError,
    HostKeyRefused,
    LoginNodeError,
    LoginNodeShut,
    LoginNodeUnreachable,
)
from hpcgate.outbound.wording import clipped, one_line
from hpcgate.ssh.errors import connect_error
from hpcgate.ssh.host_keys import HostKeys, Trusted
from hpcgate.ssh.nodes import Nodes, first_words, reach
from hpcgate.ssh.turns import Turns, take_turns
from hpcgate.ssh.unasked import Unasked
from hpcgate.ssh.unsent import Unsent
from hpcgate.telemetry.base import Telemetry

CIPHERS: Final = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
"""In this order: with AES instructions in the CPU, AES-GCM costs half of what ChaCha20 does."""

KEY_EXCHANGES: Final = "-diffie-hellman-group-exchange-*"
"""All that asyncssh knows but those where the login node makes up the numbers to compute with."""

_LOST_KEEP_ALIVES = 3
_PENALISED = b"Not allowed at this time"
"""What sshd says before it drops a connection: from 9.8 on the same where it punishes the address (sshd_config(5),
PerSourcePenalties) as where too many log in (MaxStartups)."""
_PENALTY = "15"
"""Seconds of the shortest punishment, by default."""
_DROPPED_PAUSE = 0.1
_DROPPED_PAUSE_MOST = 0.8
"""Seconds between attempts to connect where sshd has dropped the connection at once; they double up to the most."""
_SHUT_PATIENCE = 2.0
"""Seconds after which an sshd that will not have the connection punishes the address: others log in within that."""
_MAX_SAID = 300
"""Characters of what sshd says in a login that are passed on."""
_MAX_SIGNATURES = 4
"""Signatures of one login: a server asks for one, and each takes milliseconds with a long RSA key."""
LOGIN_BYTES = 1024 * 1024
"""Bytes that may come until somebody is logged in: keys, lists of algorithms, a banner."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect to.

    Attributes:
        system: The name of the system.
        settings: Its SSH settings.
        host_keys: What the login node may show.
        proxy_host_keys: What the jump host may show.
        telemetry: Who is told what takes how long.
        nodes: The login nodes.
    """

    system: str
    settings: SshSettings
    host_keys: HostKeys
    proxy_host_keys: HostKeys
    telemetry: Telemetry
    nodes: Nodes


class _KeyPair(SSHLocalKeyPair):
    """A key pair of which exactly one form is offered.

    asyncssh offers an RSA certificate under its old algorithm name first and under the right one next. With
    ``MaxAuthTries 1`` there is no next.

    Attributes:
        signed: Whether it has signed for a login, which the server asks for once it takes the key.
    """

    signed = False
    _signatures = 0

    def sign(self, data: bytes) -> bytes:
        self.signed = True
        self._signatures += 1
        if self._signatures > _MAX_SIGNATURES:
            raise asyncssh.ProtocolError("The server asks for one signature after the other")
        return super().sign(data)

    def set_sig_algorithm(self, sig_algorithm: bytes) -> None:
        super().set_sig_algorithm(sig_algorithm)
        if self.has_cert and self.algorithm.startswith(b"ssh-rsa-cert-") and self.sig_algorithm != b"ssh-rsa":
            self.algorithm = self.sig_algorithm + b"-cert-v01@openssh.com"


class Client(asyncssh.SSHClient):
    """asyncssh's callbacks of one connection."""

    def __init__(
        self,
        policy: HostKeys,
        trusted: Trusted,
        host: str,
        port: int,
        key: _KeyPair,
        on_auth: Callable[[], None],
    ) -> None:
        self.seen: asyncssh.SSHKey | None = None
        self.authenticating = False
        self.owns_socket = False
        self.flooded = False
        self.key = key
        self.said = ""
        self.turns: Turns | None = None
        self.on_flood: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self._policy = policy
        self._trusted = trusted
        self._host = host
        self._port = port
        self._on_auth = on_auth

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Bound what comes and what goes, from now on."""
        self.owns_socket = True
        self.on_flood = conn.abort
        Unsent(conn, self._flood)
        Unasked(conn, self._flood)
        self.turns = take_turns(conn, self._flood)
        if self.turns is not None:
            self.turns.rest(LOGIN_BYTES)

    def _flood(self) -> None:
        self.flooded = True
        if self.on_flood is not None:
            self.on_flood()

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Say whether a host key is one that may be shown."""
        self.seen = key
        return self._policy.accept(self._host, self._port, key)

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Refuse an authority that asyncssh does not know already."""
        self.seen = key
        return False

    def begin_auth(self, username: str) -> None:
        """The host is the right one: now the credential is sent."""
        self.authenticating = True
        self._on_auth()

    def auth_banner_received(self, msg: str, lang: str) -> None:
        """Keep what is said of the login."""
        # The site's banner comes before the key, what PAM says after it.
        if self.key.signed:
            self.said = clipped(one_line(msg[: 2 * _MAX_SAID]), _MAX_SAID)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever has the connection."""
        self.on_flood = None
        if self.on_lost is not None:
            self.on_lost()

    def refusal(self) -> HostKeyRefused:
        """Return the error for the host key that was shown."""
        return self._policy.refusal(self._host, self._port, self.seen, self._trusted)


@dataclass(frozen=True, slots=True)
class Login:
    """A connection that is logged in, as asyncssh has it.

    Attributes:
        node: The login node, ``host:port``.
        ssh: The connection.
        client: Its callbacks.
        jump: Those of the connection to the jump host, if it goes through one.
    """

    node: str
    ssh: asyncssh.SSHClientConnection
    client: Client
    jump: Client | None


async def log_in(target: Target, username: str, credential: Credential) -> Login:
    """Log in to the user's login node, through the jump host if there is one.

    Raises:
        LoginNodeUnreachable: No connection, or none in time.
        CredentialRefused: The login node or the jump host did not accept the credential.
        HostKeyRefused: One of them showed a host key that is not trusted; the credential was not used.
    """
    settings = target.settings
    if settings.proxy_host is None:
        node, ssh, client = await _first_node(target, username, credential, None)
        return Login(node, ssh, client, None)
    host, port = settings.proxy_host, settings.proxy_port or 22
    proxy, jump = await _connect(target, target.proxy_host_keys, host, port, username, credential, None)
    if jump.turns is not None:
        jump.turns.wake()
    try:
        node, ssh, client = await _first_node(target, username, credential, proxy)
    except BaseException:
        proxy.abort()
        raise
    ssh.set_tunnel(proxy)
    return Login(node, ssh, client, jump)


async def _first_node(
    target: Target, username: str, credential: Credential, proxy: asyncssh.SSHClientConnection | None
) -> tuple[str, asyncssh.SSHClientConnection, Client]:
    """Log in to the user's login node, or to the next one if it cannot be reached."""
    unreachable: LoginNodeUnreachable | None = None
    for host, port in target.nodes.order(username):
        try:
            ssh, client = await _connect(target, target.host_keys, host, port, username, credential, proxy)
        except LoginHangs as error:
            # It may be the user's own account, and others' logins work.
            target.nodes.hung((host, port), username, error.message)
            unreachable = error
        except LoginNodeUnreachable as error:
            target.nodes.failed((host, port), error.message)
            unreachable = error
        else:
            target.nodes.worked((host, port))
            return f"{host}:{port}", ssh, client
    assert unreachable is not None  # noqa: S101 (there is a node, by its settings)
    raise unreachable


async def _connect(
    target: Target,
    policy: HostKeys,
    host: str,
    port: int,
    username: str,
    credential: Credential,
    proxy: asyncssh.SSHClientConnection | None,
) -> tuple[asyncssh.SSHClientConnection, Client]:
    """Connect to one machine and log in; again if it drops the connection before anything was sent of the credential.

    sshd drops connections at random while more than ``MaxStartups`` log in, everybody's counted.
    """
    deadline = time.monotonic() + target.settings.timeout.connection
    pause = _DROPPED_PAUSE
    paused = 0.0
    while True:
        try:
            return await attempt(target, policy, host, port, username, credential, proxy)
        except LoginNodeShut:
            # Its own pauses are counted, and not what a slow machine takes for the attempts between them.
            if paused + pause > _SHUT_PATIENCE or time.monotonic() + pause > deadline:
                raise
        except Dropped as dropped:
            if time.monotonic() + pause > deadline:
                raise connect_error(dropped.error, target.system, policy.role, username) from dropped.error
        await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 (jitter, no secret)
        paused += pause
        pause = min(2 * pause, _DROPPED_PAUSE_MOST)


class LoginHangs(LoginNodeUnreachable):
    """A machine has begun a login, and does not come to its end."""


class Dropped(Exception):
    """sshd closed the connection before the login began."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


async def attempt(
    target: Target,
    policy: HostKeys,
    host: str,
    port: int,
    username: str,
    credential: Credential,
    proxy: asyncssh.SSHClientConnection | None,
) -> tuple[asyncssh.SSHClientConnection, Client]:
    """Log in once, without another try.

    Raises:
        Dropped: sshd closed the connection before the login began.
        GatewayError: It failed in another way.
    """
    timeouts = target.settings.timeout
    loop = asyncio.get_running_loop()
    deadline = asyncio.timeout(timeouts.connection)

    def login_begins() -> None:
        if not deadline.expired():
            deadline.reschedule(loop.time() + timeouts.login)

    client: Client | None = None
    sock: socket.socket | None = None
    key = _KeyPair(credential.private_key, None, credential.certificate, None)
    try:
        async with deadline:
            trusted = await policy.trusted(host, port)
            client = Client(policy, trusted, host, port, key, login_begins)
            sock = await _reach(target, policy, host, port, username) if proxy is None else None
            options = _options(target.settings, username, trusted, client)
            ssh = await asyncssh.connect(host, port, sock=sock, tunnel=proxy or (), **options)
            # asyncssh takes a connection that was aborted for one that is logged in.
            if client.flooded:
                raise LoginNodeError(f"The {policy.role} of {target.system} sends what nobody asked for")
    except GatewayError:
        raise
    except Exception as error:  # asyncssh takes what a server sends for what it should be
        raise _why_not(error, client, target, policy, username) from error
    finally:
        if sock is not None and (client is None or not client.owns_socket):
            sock.close()
    return ssh, client


async def _reach(target: Target, policy: HostKeys, host: str, port: int, username: str) -> socket.socket:
    """Connect to a machine, unless it says at once that it takes no logins."""
    sock = await reach(host, port, username)
    if first_words(sock).startswith(_PENALISED):
        sock.close()
        raise LoginNodeShut(
            f"The {policy.role} of {target.system} takes no new logins from this gateway for now: "
            "too many were refused",
            headers={"Retry-After": _PENALTY},
        )
    return sock


def _options(settings: SshSettings, username: str, trusted: Trusted, client: Client) -> dict[str, Any]:
    """Return what asyncssh is told besides where to connect to: nothing of the gateway's own account counts."""
    return {
        "config": None,
        "client_factory": lambda: client,
        "client_version": "hpcgate",
        "username": username,
        "client_keys": [client.key],
        "agent_path": None,
        "agent_forwarding": False,
        "pkcs11_provider": None,
        "preferred_auth": ["publickey"],
        "gss_host": None,
        "known_hosts": lambda *_: (list(trusted.keys), list(trusted.authorities), list(trusted.revoked)),
        "server_host_key_algs": trusted.algorithms,
        "x509_trusted_certs": None,
        "x509_trusted_cert_paths": [],
        "kex_algs": KEY_EXCHANGES,
        "encryption_algs": CIPHERS,
        "compression_algs": None,
        "connect_timeout": None,
        "login_timeout": 0,
        "keepalive_interval": settings.timeout.keep_alive,
        "keepalive_count_max": _LOST_KEEP_ALIVES,
        "request_pty": False,
    }


def _why_not(error: Exception, client: Client | None, target: Target, policy: HostKeys, username: str) -> Exception:
    """Return what a login that failed means."""
    match error:
        case asyncssh.HostKeyNotVerifiable() if client is not None:
            return client.refusal()
        case asyncssh.ConnectionLost() if client is not None and client.flooded:
            return LoginNodeError(f"The {policy.role} of {target.system} sends without end what is not a login")
        case asyncssh.ConnectionLost() if client is not None and not client.authenticating:
            return Dropped(error)
        case asyncssh.ConnectionLost() if client is not None and client.key.signed:
            # PAM's account stack says no after the key was accepted, and sshd ends without a word of the protocol.
            return CredentialRefused(
                f"The {policy.role} of {target.system} took the SSH key of {username} and ended the login: "
                + (client.said or "the account may have expired or be locked")
            )
        case ConnectionResetError() | BrokenPipeError():
            return Dropped(error)
        case TimeoutError() if client is not None and client.authenticating:
            return LoginHangs(connect_error(error, target.system, policy.role, username).message)
        case asyncssh.Error() | OSError() | ValueError():
            return connect_error(error, target.system, policy.role, username)
    return LoginNodeError(f"The {policy.role} of {target.system} does not keep to the protocol of SSH")
