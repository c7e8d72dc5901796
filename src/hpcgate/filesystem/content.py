"""Upload and download within `max_ops_file_size`: the two operations whose bytes stream."""

import os
from collections.abc import AsyncGenerator, AsyncIterator

from hpcgate.errors import BadRequest, TooLarge
from hpcgate.filesystem.base import Limits
from hpcgate.ssh.session import Session

SMALL = 256 * 1024
"""Files up to this many bytes are read in one go."""


def _too_large(path: bytes, limits: Limits) -> TooLarge:
    return TooLarge(f"{os.fsdecode(path)}: the file is larger than {limits.max_ops_file_size} bytes.")


async def read_small(session: Session, path: bytes, limits: Limits) -> bytes | None:
    """Return a file of at most `SMALL` bytes, or None if it is larger but within the limits.

    Raises:
        TooLarge: It is over the limits.
    """
    files = await session.files()
    most = min(SMALL, limits.max_ops_file_size)
    content = await files.read(path, size=most + 1)
    if len(content) <= most:
        return content
    if (await files.stat(path)).size > limits.max_ops_file_size or most == limits.max_ops_file_size:
        raise _too_large(path, limits)
    return None


async def read_large(session: Session, path: bytes, limits: Limits) -> AsyncGenerator[bytes | int]:
    """Yield the size of a file in bytes, then its content in blocks, never more than that size.

    Raises:
        TooLarge: It is over the limits.
    """
    files = await session.files()
    size = (await files.stat(path)).size
    if size > limits.max_ops_file_size:
        raise _too_large(path, limits)
    yield size
    async for block in files.stream(path, size=size):
        yield block


def upload_target(directory: bytes, filename: bytes | None) -> bytes:
    """Return the path that an upload into a directory writes: only the last component of the name counts.

    Raises:
        BadRequest: No usable file name.
    """
    name = (filename or b"").rpartition(b"/")[2]
    if name in (b"", b".", b"..") or b"\0" in name:
        raise BadRequest("The upload's part needs a file name.")
    return directory.rstrip(b"/") + b"/" + name


async def write(session: Session, target: bytes, content: AsyncIterator[bytes]) -> int:
    """Replace or create a file, whole or not at all, and return its size in bytes."""
    files = await session.files()
    return await files.write(target, content)
