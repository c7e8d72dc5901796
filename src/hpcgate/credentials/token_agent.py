"""A program: an ssh-agent, on standard input and output, for the keys of a PKCS#11 token.

The library of a token is foreign code: it may crash, hang, or change what its process holds. Here it takes down a
process that has nothing but the token's PIN, and the gateway begins another.

Protocol: https://datatracker.ietf.org/doc/html/draft-miller-ssh-agent. The first message is not one of it, but a JSON
object with ``provider``, ``pin`` and ``token``; it comes this way because others see command lines and environments.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import BinaryIO

import asyncssh

MAX_MESSAGE = 256 * 1024
"""Bytes of a message, as OpenSSH's agent has it (AGENT_MAX_LEN)."""
_FAILURE, _LIST, _LISTED, _SIGN, _SIGNED = 5, 11, 12, 13, 14
_BY_FLAG = ((4, "rsa-sha2-512"), (2, "rsa-sha2-256"))
"""The algorithms that a flag of a request asks for."""


def read_message(source: BinaryIO) -> bytes | None:
    """Return the next message, None at the end.

    Raises:
        ValueError: It is too long.
    """
    head = source.read(4)
    if len(head) < 4:
        return None
    size = int.from_bytes(head, "big")
    if size > MAX_MESSAGE:
        raise ValueError(f"a message of {size} bytes")
    message = source.read(size)
    return message if len(message) == size else None


def answer_to(message: bytes, keys: Sequence[asyncssh.SSHKeyPair]) -> bytes:
    """Return the answer to a message of the agent's protocol."""
    if message[:1] == bytes((_LIST,)):
        listed = b"".join(_string(key.public_data) + _string(b"") for key in keys)
        return bytes((_LISTED,)) + len(keys).to_bytes(4, "big") + listed
    if message[:1] == bytes((_SIGN,)):
        public, rest = _split(message[1:])
        data, rest = _split(rest)
        flags = int.from_bytes(rest[:4], "big")
        for key in keys:
            if key.public_data == public:
                wanted = next((name for flag, name in _BY_FLAG if flags & flag), None)
                key.set_sig_algorithm(key.algorithm if wanted is None else wanted.encode())
                return bytes((_SIGNED,)) + _string(key.sign(data))
    return bytes((_FAILURE,))


def main() -> None:
    """Serve until standard input ends."""
    source = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever the library prints is no answer.
    os.dup2(2, 1)
    first = read_message(source)
    if first is None:
        return
    asked = json.loads(first)
    try:
        keys = list(
            asyncssh.load_pkcs11_keys(asked["provider"], asked["pin"], load_certs=False, token_label=asked["token"])
        )
    except Exception as error:  # of the library's: what it is, is for who reads this process's log
        sys.exit(f"hpcgate: the PKCS#11 token cannot be used: {type(error).__name__}: {error}")
    while (message := read_message(source)) is not None:
        answer = answer_to(message, keys)
        answers.write(_string(answer))
        answers.flush()


def _string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def _split(data: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(data[:4], "big")
    return data[4 : 4 + size], data[4 + size :]


if __name__ == "__main__":
    main()
