"""The kinds of single values that settings take, each with what is allowed."""

import base64
import binascii
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from hpcgate.config.files import in_time
from hpcgate.config.mistakes import did_you_mean

HOST_KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)

SIGNATURES = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519", "Ed448"),
)
"""The algorithms of RFC 7518, RFC 8037 and RFC 9864 with a public key: what a gateway can verify a token by."""


def _whole(value: float) -> float:
    # Whole numbers go out as they came in: 5, not 5.0.
    return int(value) if value.is_integer() else value


def http_url(value: str) -> str:
    """Return the URL.

    Raises:
        ValueError: It is not an http:// or https:// URL with a host. The message does not repeat it.
    """
    return _url(value, ("http", "https"))


def key_url(value: str) -> str:
    """Return the URL of a key document.

    Raises:
        ValueError: It is neither a file:// URL with an absolute path nor an http(s):// URL with a host.
    """
    return _url(value, ("file", "http", "https"))


def _url(value: str, schemes: tuple[str, ...]) -> str:
    allowed = " or ".join(f"{scheme}://" for scheme in schemes)
    try:
        parts = urlsplit(value)
        usable = parts.port is None or parts.port > 0
    except ValueError:
        usable = False
    else:
        usable = usable and bool(parts.path.startswith("/") if parts.scheme == "file" else parts.hostname)
    if not usable or parts.scheme not in schemes:
        raise ValueError(f"must be a URL that begins with {allowed}")
    return value


def absolute_path(value: str) -> str:
    """Return the path.

    Raises:
        ValueError: It is relative.
    """
    if not value.startswith("/"):
        raise ValueError("must be an absolute path")
    return value


def searched_directory(value: str) -> str:
    """Return a directory that may be in a PATH.

    Raises:
        ValueError: It is relative, or holds a colon or a control character.
    """
    if not value.startswith("/") or ":" in value or not value.isprintable():
        raise ValueError("must be an absolute path without a colon")
    return value


def readable_file(value: str) -> str:
    """Return the path, with a leading ``~`` expanded.

    Raises:
        ValueError: There is no such file, or it cannot be read.
    """
    try:
        path = Path(value).expanduser()
        in_time(lambda: path.open("rb").close())
        return str(path)
    except OSError as error:
        raise ValueError(f"cannot read {value}: {error.strerror}") from None
    except RuntimeError:
        raise ValueError(f"cannot read {value}: there is no such home directory") from None


def regular_expression(value: str) -> str:
    """Return the pattern.

    Raises:
        ValueError: It does not compile.
    """
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return value


def signature(value: str) -> str:
    """Return the name of a signature algorithm.

    Raises:
        ValueError: It is none that is verified with a public key.
    """
    if value not in SIGNATURES:
        raise ValueError(f"must be one of {', '.join(SIGNATURES)}{did_you_mean(value, SIGNATURES)}")
    return value


def host_key(value: str) -> str:
    """Return an OpenSSH public key line: a type, the key in base64, perhaps a comment.

    Host names may stand before it, as in a known_hosts file, and ``@cert-authority`` before all. The base64 must decode
    to the strings of RFC 4253, section 6.6, the first of which repeats the type.

    Raises:
        ValueError: It does not.
    """
    words = value.split()
    if words[:1] == ["@cert-authority"]:
        del words[0]
    if len(words) > 2 and words[0] not in HOST_KEY_TYPES:
        del words[0]
    if len(words) < 2 or words[0] not in HOST_KEY_TYPES:
        raise ValueError(f"must be 'TYPE BASE64', with a type out of {', '.join(HOST_KEY_TYPES)}")
    kind = words[0]
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"is not a valid {kind} key: what follows the type is not base64") from None
    strings = _strings(blob)
    if len(strings) < 2:
        raise ValueError(f"is not a valid {kind} key: it is cut short")
    if strings[0] != kind.encode():
        raise ValueError(f"is not a valid {kind} key: it holds one of another type")
    return value


def _strings(blob: bytes) -> list[bytes]:
    """Split a blob into its length-prefixed strings; nothing if it does not end where the last one does."""
    strings = []
    position = 0
    while position < len(blob):
        start = position + 4
        position = start + int.from_bytes(blob[position:start], "big")
        strings.append(blob[start:position])
    return strings if position == len(blob) else []


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(_whole)]
"""A duration, more than nothing."""

Pause = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_whole)]
"""A duration, perhaps nothing."""


def node_address(value: str) -> tuple[str, int | None]:
    """Return the host and the port of ``host``, ``host:port`` or ``[address]:port``; None if there is no port.

    Raises:
        ValueError: There is no host, or the port is none.
    """
    host, separator, port = value.rpartition(":")
    if not separator or (":" in host and not host.endswith("]")):
        host, port = value, ""  # a name, or a bare IPv6 address
    elif not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError("must be a host, perhaps with a port, such as login1.example.org:2222")
    host = host.removeprefix("[").removesuffix("]")
    if not host or any(character.isspace() or character in ",/" for character in host):
        raise ValueError("must be a host, perhaps with a port, such as login1.example.org:2222")
    return host, int(port) if port else None


def nodes(value: Any) -> Any:
    """Return one login node or a list of several as they are.

    Raises:
        ValueError: It is neither, or one of them is not a host.
    """
    entries = [value] if isinstance(value, str) else value
    if value in ("", [], ()):
        raise ValueError("must not be empty")
    if not isinstance(entries, list | tuple) or not all(isinstance(entry, str) for entry in entries):
        raise ValueError("must be a host, or a list of hosts")
    for entry in entries:
        node_address(entry)
    return value


Port = Annotated[int, Field(ge=1, le=65535)]
HttpUrl = Annotated[str, AfterValidator(http_url)]
KeyUrl = Annotated[str, AfterValidator(key_url)]
AbsolutePath = Annotated[str, AfterValidator(absolute_path)]
SearchedDirectory = Annotated[str, AfterValidator(searched_directory)]
ReadableFile = Annotated[str, AfterValidator(readable_file)]
RegularExpression = Annotated[str, AfterValidator(regular_expression)]
HostKey = Annotated[str, AfterValidator(host_key)]
Signature = Annotated[str, AfterValidator(signature)]
