"""The path of a request as the bytes that name the file on a login node."""

from hpcgate.errors import BadRequest

PATH_MAX = 4096
"""Bytes of a path, the NUL at its end included (linux/limits.h)."""


class RemotePath(bytes):
    """An absolute path on a login node, as the bytes that name the file: made once of a request, and checked then.

    It is admitted, confined and acted on as it is; only messages, logs and documents make text of it again.
    """

    __slots__ = ()

    @property
    def text(self) -> str:
        """The path as text, with lone surrogates for bytes that are not UTF-8 (PEP 383)."""
        # Not by os.fsdecode, which goes by the locale of the gateway's own process.
        return self.decode("utf-8", "surrogateescape")

    @property
    def name(self) -> "RemotePath":
        """The last part of the path, trailing slashes aside; empty for the root."""
        return RemotePath(self.rstrip(b"/").rpartition(b"/")[2])


def encode_path(path: str) -> RemotePath:
    """Return a path of a request as the bytes that name the file.

    Characters of bytes that are not UTF-8 are lone surrogates in `path` (PEP 383).

    Raises:
        BadRequest: It is not absolute, holds a NUL character, is longer than Linux takes, or is not Unicode.
    """
    if not path.startswith("/"):
        raise BadRequest("path must be absolute")
    return RemotePath(encode_link(path))


def remote_path(path: bytes) -> RemotePath:
    """Return bytes of a request as a path; as `encode_path`."""
    if not path.startswith(b"/"):
        raise BadRequest("path must be absolute")
    _check(path)
    return RemotePath(path)


def encode_link(path: str) -> bytes:
    """Return what a symbolic link is to hold as bytes: a path, which may be relative; as `encode_path`.

    Raises:
        BadRequest: It is empty, holds a NUL character, or is longer than Linux takes.
    """
    try:
        encoded = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        encoded = path.encode("utf-8", "surrogatepass")
        _check(encoded, most=len(encoded) + 1)
        raise BadRequest("path must be valid Unicode") from None
    _check(encoded)
    return encoded


def _check(path: bytes, most: int | None = None) -> None:
    if not path:
        raise BadRequest("path must not be empty")
    if 0 in path:
        raise BadRequest("path must not hold a NUL character")
    if len(path) >= (most or PATH_MAX):
        raise BadRequest(f"path is too long: File name too long ({len(path)} bytes)")
