"""OpenSSH user certificates, written by hand: the key that signs may be one that only an agent or a token can use.

The format is that of PROTOCOL.certkeys in OpenSSH, section "New public key formats".
"""

import asyncio
import base64
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import asyncssh
from asyncssh.agent import SSHAgentKeyPair

_TYPE = b"ssh-ed25519-cert-v01@openssh.com"
_USER = 1


@dataclass(frozen=True, slots=True)
class Request:
    """What a certificate is to say; times are Unix seconds.

    Attributes:
        key: The user's Ed25519 key.
        options: Critical options; sshd refuses a certificate with one that it does not know.
        extensions: What the certificate allows, by name.
    """

    key: asyncssh.SSHKey
    serial: int
    key_id: str
    principals: Sequence[str]
    valid_after: int
    valid_before: int
    options: Mapping[str, str] = field(default_factory=dict)
    extensions: Sequence[str] = ()


async def issue(request: Request, authority: asyncssh.SSHKeyPair, thread: Executor | None = None) -> str:
    """Return the certificate as a line of OpenSSH's format, signed by the authority's key.

    Args:
        request: What it says.
        authority: Whose key signs.
        thread: Where a key that is not an agent's signs; one of the event loop's if None.
    """
    # The public key of an Ed25519 key is a type and 32 bytes, each with its length before it.
    public = request.key.public_data[-32:]
    options = [
        _string(name.encode()) + _string(_string(value.encode())) for name, value in sorted(request.options.items())
    ]
    extensions = [_string(name.encode()) + _string(b"") for name in sorted(request.extensions)]
    unsigned = b"".join(
        (
            _string(_TYPE),
            _string(os.urandom(32)),
            _string(public),
            request.serial.to_bytes(8, "big"),
            _USER.to_bytes(4, "big"),
            _string(request.key_id.encode()),
            _string(b"".join(_string(name.encode()) for name in request.principals)),
            request.valid_after.to_bytes(8, "big"),
            request.valid_before.to_bytes(8, "big"),
            _string(b"".join(options)),
            _string(b"".join(extensions)),
            _string(b""),
            _string(authority.public_data),
        )
    )
    if isinstance(authority, SSHAgentKeyPair):
        signature = await authority.sign_async(unsigned)
    else:
        signature = await asyncio.get_running_loop().run_in_executor(thread, authority.sign, unsigned)
    return f"{_TYPE.decode()} {base64.b64encode(unsigned + _string(signature)).decode()}"


def _string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value
