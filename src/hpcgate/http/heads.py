"""What the head of a request must be like, so that no proxy in front reads another request in it (RFC 9112).

httptools has parsed it and refused what is not HTTP at all: bare CR or LF, folded lines, NUL, two lengths, a length
beside a transfer coding. What is left here is HTTP that two readers may take in two ways.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

MAX_FIELDS = 200
"""Header fields of a request. Clients and proxies send a few dozen."""

# RFC 3986, section 3.2, without what no host's name has: `%` is for the zone of an address (RFC 6874) alone.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\])(?::[0-9]{0,5})?|")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(/[^?]*)?(?:\?.*)?", re.IGNORECASE | re.DOTALL)
# RFC 3986, section 2.3: nobody has to encode these, so who does may want to pass something by a rule of a proxy's.
_UNRESERVED = re.compile(rb"%(?:4[1-9a-f]|5[0-9a]|6[1-9a-f]|7[0-9a]|3[0-9]|2[de]|5f|7e)", re.IGNORECASE)
_NEVER = re.compile(rb"%(?:2f|5c|25|00)", re.IGNORECASE)
_HALF = re.compile(rb"%(?![0-9a-fA-F]{2})")


ONCE = frozenset(
    {b"content-type", b"content-encoding", b"content-range", b"last-event-id", b"range"}
    | {b"if-modified-since", b"if-range", b"if-unmodified-since"}
    | {b"tus-resumable", b"x-http-method-override", b"upload-checksum"}
    | {b"upload-concat", b"upload-defer-length", b"upload-length", b"upload-metadata", b"upload-offset"}
)
"""What decides how a request is read: of two that differ, one reader takes the first and another the last."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused: the status, its phrase, and the message for the client."""

    status: int
    phrase: str
    message: str


def _bad(message: str) -> Refusal:
    return Refusal(400, "Bad Request", message)


HOST = _bad("A request needs exactly one Host header (RFC 9112, section 3.2).")
TOKENS = _bad("A request may have one Authorization header.")
KEYS = _bad("A request may have one X-API-Key header.")
REPEATED = _bad("A header that may come once has come with different values.")
VERSION = _bad("HTTP/1.1 and HTTP/1.0 are spoken here.")
TARGET = _bad("The request's target must be a path that begins with a slash (RFC 9112, section 3.2).")
CODING = _bad("Transfer-Encoding must be chunked, in HTTP/1.1.")
EXPECTATION = Refusal(417, "Expectation Failed", "Only 100-continue can be expected.")
FIELDS = Refusal(431, "Request Header Fields Too Large", f"There are more than {MAX_FIELDS} header fields.")


# Of bytes that are looked for in bytes Python first thinks that they are a number, and makes an error of it: it takes
# ten times as long.
_HASH, _PERCENT, _BACKSLASH = b"#%\\"


def refusal(version: str, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Refusal | None:
    """Return why a head is refused, or None.

    Args:
        version: The version of HTTP, as ``1.1``.
        target: The request's target as it was sent.
        headers: Names, in lower case, and values.
    """
    host: bytes | None = None
    token = key = False
    once: dict[bytes, bytes] = {}
    for name, value in headers:
        if name == b"host":
            if host is not None or not _HOST.fullmatch(value):
                return HOST
            host = value
        elif name == b"authorization":
            if token:
                return TOKENS
            token = True
        elif name == b"x-api-key":
            if key:
                return KEYS
            key = True
        elif name == b"transfer-encoding":
            if value.strip().lower() != b"chunked" or version != "1.1":
                return CODING
        elif name in ONCE:
            if once.setdefault(name, value) != value:
                return REPEATED
        elif name == b"expect" and value.strip().lower() != b"100-continue":
            return EXPECTATION
    if version != "1.1" and version != "1.0":
        return VERSION
    if host is None and version == "1.1":
        return HOST
    if len(headers) > MAX_FIELDS:
        return FIELDS
    if not target.startswith(b"/") or _HASH in target:
        return _absolute(target, host)
    return None


def _absolute(target: bytes, host: bytes | None) -> Refusal | None:
    """Look at a target that is not a path: a whole URL is one if it names the same host (RFC 9112, section 3.2.2)."""
    whole = _ABSOLUTE.fullmatch(target)
    if whole is None or b"#" in target:
        return TARGET
    authority = whole[1]
    if not authority or whole[2] is None or not _HOST.fullmatch(authority):
        return TARGET
    return HOST if host is not None and host.lower() != authority.lower() else None


def may_be_odd(raw: bytes) -> bool:
    """Say whether `odd_path` has to look at a path: most hold nothing that it looks for."""
    return _PERCENT in raw or _BACKSLASH in raw or raw.find(b"//") >= 0 or raw.find(b"/.") >= 0


def odd_path(raw: bytes) -> str:
    """Return what is wrong with a path as it was sent, or nothing.

    A path here has one spelling: what a rule of a proxy's says of it holds for whatever is served. Paths of files are
    in the query, where none of this counts.

    Args:
        raw: The path, without its query.
    """
    if b"//" in raw:
        return "The path has an empty segment."
    if b"\\" in raw:
        return "The path has a backslash."
    if b"%" in raw:
        if _HALF.search(raw):
            return "The path has a percent sign that encodes nothing."
        if _NEVER.search(raw):
            return "The path has an encoded slash, backslash, percent sign or NUL."
        if _UNRESERVED.search(raw):
            return "The path has encoded letters, digits, dots, hyphens, underscores or tildes."
        try:
            unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            return "The path is not UTF-8."
    if b"/." in raw and any(segment in (b".", b"..") for segment in raw.split(b"/")):
        return "The path has a dot segment."
    return ""
