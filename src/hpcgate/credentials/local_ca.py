"""Certificates that hpcgate signs by itself, with a key from a file, from an ssh-agent, or from a PKCS#11 token."""

import asyncio
import json
import re
import secrets
import sys
import time
from collections.abc import Hashable
from contextlib import suppress
from typing import Annotated, Literal

import asyncssh
import structlog
from pydantic import Field, IPvAnyNetwork, model_validator

from hpcgate.auth import Principal
from hpcgate.config import PluginSettings, Secret
from hpcgate.config.base import NARROWS
from hpcgate.config.values import AbsolutePath, HostKey
from hpcgate.credentials import token_agent
from hpcgate.credentials.base import Credential
from hpcgate.credentials.certificate_cache import CertificateSource
from hpcgate.credentials.certificates import Expectation, checked, user_certificate
from hpcgate.credentials.issuing import Request, issue
from hpcgate.errors import CredentialRefused, Unavailable
from hpcgate.threads import Threads

log = structlog.get_logger(__name__)

_SKEW = 60
"""Seconds that a certificate begins before now, for clocks that differ."""
_SIGNATURES = {b"ssh-rsa": b"rsa-sha2-512"}
"""The algorithm to sign with where the key's own name is that of one that sshd no longer takes."""
_PATIENCE = 10.0
"""Seconds that an agent or a token may take."""


_TOKEN_AGENT = (sys.executable, "-P", token_agent.__file__)
"""The process that has the library of a token. As a file, for it needs nothing else of the package."""
_MAX_ANSWER = 256 * 1024
"""Bytes of an agent's answer; OpenSSH's own sends and takes no more (AGENT_MAX_LEN)."""
_MAX_PRINCIPALS = 256
"""Names in a certificate; sshd takes no more (SSHKEY_CERT_MAX_PRINCIPALS)."""
_MAX_NAME = 128
"""Characters of a token's or a request's id that go into a key id."""


def _plain(value: str) -> str:
    """Return an id as one word, so that none can pass for another field of the key id."""
    return re.sub(r"[^A-Za-z0-9._:@+/-]", "_", value[:_MAX_NAME])


class _AgentSocket:
    """Where an agent listens, of whose answers so much is read and no more."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def open_agent_connection(self) -> tuple["_AgentAnswers", asyncio.StreamWriter]:
        """Connect, as asyncssh asks of what is not a path."""
        reader, writer = await asyncio.open_unix_connection(self._path)
        return _AgentAnswers(reader), writer


class _AgentAnswers:
    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def readexactly(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            ValueError: The agent announces more than an answer may have.
        """
        if size > _MAX_ANSWER:
            raise ValueError(f"an answer of {size} bytes")
        return await self._reader.readexactly(size)


class _TokenProcess:
    """The process that has the library of a PKCS#11 token, and answers as an agent.

    Args:
        settings: Which library, and which token.
    """

    def __init__(self, settings: "LocalCaSettings") -> None:
        pin = settings.pkcs11_pin
        self._first = json.dumps(
            {
                "provider": settings.pkcs11_provider,
                "pin": None if pin is None else pin.get_secret_value(),
                "token": settings.pkcs11_token,
            }
        ).encode()
        self._process: asyncio.subprocess.Process | None = None

    async def open_agent_connection(self) -> tuple["_AgentAnswers", asyncio.StreamWriter]:
        """Begin it, as asyncssh asks of what is not a path."""
        self._process = process = await asyncio.create_subprocess_exec(
            *_TOKEN_AGENT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None  # noqa: S101 (both are pipes)
        assert process.stdout is not None  # noqa: S101
        process.stdin.write(len(self._first).to_bytes(4, "big") + self._first)
        return _AgentAnswers(process.stdout), process.stdin

    def kill(self) -> None:
        """End it, whatever its library does."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()


class LocalCaSettings(PluginSettings):
    """A certificate authority within hpcgate."""

    type: Literal["LocalCA"] = Field("LocalCA", description="LocalCA: certificates that hpcgate signs by itself.")
    ca_key: Secret | None = Field(None, description="The authority's private key, in OpenSSH's or PEM's format.")
    passphrase: Secret | None = Field(None, description="What ca_key is encrypted with.")
    agent_socket: AbsolutePath | None = Field(
        None, description="The socket of an ssh-agent that holds the authority's key, instead of ca_key."
    )
    pkcs11_provider: AbsolutePath | None = Field(
        None, description="The PKCS#11 library of a token that holds the authority's key, instead of ca_key."
    )
    pkcs11_pin: Secret | None = Field(None, description="The token's user PIN.")
    pkcs11_token: str | None = Field(None, description="The token's label, if the library has several.")
    ca_public_key: HostKey | None = Field(
        None, description="The authority's public key, to find it among those of an agent or a token."
    )
    lifetime: int = Field(300, ge=60, le=86400, description="Seconds that a certificate holds.")
    principals: tuple[str, ...] = Field(
        ("{username}",), min_length=1, description="For whom it is valid; {username} is filled in."
    )
    principals_claim: str | None = Field(
        None, min_length=1, description="A claim that holds a name, or a list of names, instead of principals."
    )
    source_address: Annotated[tuple[IPvAnyNetwork, ...], NARROWS] = Field(
        (), description="Networks from which it may be used: the gateway's own, as the login node sees it."
    )
    force_command: str | None = Field(None, min_length=1, description="The one command that it allows.")
    port_forwarding: bool = Field(False, description="Allow forwarding, which a jump host (proxy_host) needs.")

    @model_validator(mode="after")
    def _one_key(self) -> "LocalCaSettings":
        if sum(one is not None for one in (self.ca_key, self.agent_socket, self.pkcs11_provider)) != 1:
            raise ValueError("exactly one of ca_key, agent_socket and pkcs11_provider says where the key is")
        return self


class LocalCa(CertificateSource):
    """Makes an Ed25519 key for each user, which never leaves the process, and signs a short certificate for it.

    The certificate names the token (``jti``) and the request in its key id, so that sshd's log leads back to both.
    """

    Settings = LocalCaSettings
    service = "built-in certificate authority"

    def __init__(self, settings: LocalCaSettings) -> None:
        super().__init__()
        self._settings = settings
        self._agent: asyncssh.SSHAgentClient | None = None
        self._pair: asyncssh.SSHKeyPair | None = None
        self._token: _TokenProcess | None = None
        self._opening = asyncio.Lock()
        self._thread = Threads("local-ca", 1)

    @property
    def judges_tokens(self) -> bool:
        """No: of a token only the names in a claim count, which `standing` tells."""
        return False

    def standing(self, principal: Principal) -> Hashable:
        """Return the names that the certificate is for, if they are the token's; without any there is none."""
        if self._settings.principals_claim is None:
            return ()
        try:
            return tuple(sorted(self._principals(principal)))
        except CredentialRefused:
            return None

    async def sign(self, principal: Principal) -> Credential:
        """Make a key and sign its certificate."""
        settings, now = self._settings, int(time.time())
        key = await asyncio.to_thread(asyncssh.generate_private_key, "ssh-ed25519")
        options = {}
        if settings.force_command is not None:
            options["force-command"] = settings.force_command
        if settings.source_address:
            options["source-address"] = ",".join(str(network) for network in settings.source_address)
        names = {"user": principal.username, "jti": principal.token_id, "request": principal.request_id}
        request = Request(
            key=key,
            serial=secrets.randbits(63),
            key_id=" ".join(("hpcgate", *(f"{name}={_plain(value)}" for name, value in names.items() if value))),
            principals=self._principals(principal),
            valid_after=now - _SKEW,
            valid_before=now + settings.lifetime,
            options=options,
            extensions=("permit-port-forwarding",) if settings.port_forwarding else (),
        )
        text = await self._signed(request)
        what = f"The certificate of the {self.service}"
        certificate = user_certificate(text, key, what)
        # An agent or a token may lie, too.
        checked(certificate, Expectation(tuple(request.principals)), what)
        return Credential(key, certificate, float(request.valid_before))

    async def close(self) -> None:
        """End what is under way and leave the agent."""
        await super().close()
        self._leave()
        self._thread.shutdown(wait=False)

    def _principals(self, principal: Principal) -> list[str]:
        claim = self._settings.principals_claim
        if claim is None:
            return [text.replace("{username}", principal.username) for text in self._settings.principals]
        value = principal.claims.get(claim)
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
            raise CredentialRefused(f"The token of {principal.username} has no names in its claim {claim}")
        if len(names) > _MAX_PRINCIPALS:
            raise CredentialRefused(
                f"The token of {principal.username} has more than {_MAX_PRINCIPALS} names in its claim {claim}"
            )
        return names

    async def _signed(self, request: Request) -> str:
        # An agent may have been restarted since: once more with a new connection to it.
        for last in (False, True):
            try:
                async with asyncio.timeout(_PATIENCE), self._opening:
                    return await self._issued(request)
            except TimeoutError as error:
                raise Unavailable(f"The {self.service} did not sign in time", headers={"Retry-After": "5"}) from error
            except (CredentialRefused, Unavailable):
                raise
            except Exception as error:
                log.warning("local_ca.failed", error=f"{type(error).__name__}: {error}")
                if last:
                    # What an agent or a token says may hold anything: the log has it, the user does not.
                    raise CredentialRefused(f"The {self.service} cannot sign at the moment") from error
        raise AssertionError  # the loop returns or raises

    async def _issued(self, request: Request) -> str:
        try:
            if self._pair is None:
                self._pair = await self._open()
            return await issue(request, self._pair, self._thread)
        except (CredentialRefused, Unavailable):
            raise
        except BaseException:
            # An agent that is broken off while it signs would give that answer to the next who asks.
            self._leave()
            raise

    async def _open(self) -> asyncssh.SSHKeyPair:
        settings = self._settings
        try:
            if settings.ca_key is not None:
                passphrase = None if settings.passphrase is None else settings.passphrase.get_secret_value()
                text = settings.ca_key.get_secret_value().strip() + "\n"
                key = await asyncio.to_thread(asyncssh.import_private_key, text, passphrase)
                pairs = list(asyncssh.load_keypairs([key]))
            elif settings.agent_socket is not None:
                self._agent = await asyncssh.connect_agent(_AgentSocket(settings.agent_socket))
                pairs = list(await self._agent.get_keys())
            else:
                self._token = _TokenProcess(settings)
                self._agent = await asyncssh.connect_agent(self._token)
                pairs = list(await self._agent.get_keys())
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            raise CredentialRefused(f"The key of the {self.service} cannot be read") from error
        pair = self._chosen(pairs)
        pair.set_sig_algorithm(_SIGNATURES.get(pair.algorithm, pair.algorithm))
        return pair

    def _chosen(self, pairs: list[asyncssh.SSHKeyPair]) -> asyncssh.SSHKeyPair:
        wanted = self._settings.ca_public_key
        if wanted is not None:
            public = asyncssh.import_public_key(wanted).public_data
            pairs = [pair for pair in pairs if pair.public_data == public]
        if len(pairs) != 1:
            found = "none" if not pairs else f"{len(pairs)} keys, and ca_public_key does not say which"
            raise CredentialRefused(f"The {self.service} has no key to sign with: there is {found}")
        return pairs[0]

    def _leave(self) -> None:
        agent, self._agent, self._pair = self._agent, None, None
        token, self._token = self._token, None
        if token is not None:
            token.kill()
        if agent is not None:
            with suppress(OSError):
                agent.close()
