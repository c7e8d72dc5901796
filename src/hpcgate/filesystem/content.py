"""Whole files in and out: the contract's upload and download within their limit, and files of any size."""

import errno
import stat
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace

from hpcgate.auth import Principal
from hpcgate.errors import AlreadyExists, BadRequest, ConnectionLost, PathNotFound, PreconditionFailed, TooLarge
from hpcgate.filesystem.base import Lender, Limits
from hpcgate.filesystem.conditions import Conditions, Validator
from hpcgate.filesystem.slots import PathLocks
from hpcgate.ssh.files.coreutils_errors import failure, quote
from hpcgate.ssh.files.protocol import Attributes, Replacing
from hpcgate.ssh.files.streams import OpenFile, Streams
from hpcgate.ssh.session import Session

SMALL = 256 * 1024
"""Files up to this many bytes are read in one go."""
PAGE = 64 * 1024
"""Bytes of the largest page of memory, which files of the kernel that hold less may claim to have (sysfs(5))."""


@asynccontextmanager
async def opened(
    pool: Lender, principal: Principal, path: bytes, *, whole: Callable[[OpenFile], bool] = lambda _: True
) -> AsyncIterator[OpenFile]:
    """Open a file on a session that is leased as long; once more if the connection turns out to be dead.

    Args:
        pool: The system's connections.
        principal: Whose file it is.
        path: Where it is.
        whole: Says whether it may be read to its end; a large one is then opened where it keeps nobody waiting.
    """
    async with AsyncExitStack() as stack:
        file, dedicated = await _open(pool, principal, path, stack)
        if not dedicated and pool.is_bulk(size := file.attributes.size) and whole(file):
            await stack.aclose()
            file, _ = await _open(pool, principal, path, stack, size)
        yield file


async def _open(
    pool: Lender, principal: Principal, path: bytes, stack: AsyncExitStack, size: int | None = None
) -> tuple[OpenFile, bool]:
    """Return the file, and whether it is where large ones are."""
    try:
        return await _try_to_open(pool, principal, path, stack, size)
    except ConnectionLost:
        return await _try_to_open(pool, principal, path, stack, size)


async def _try_to_open(
    pool: Lender, principal: Principal, path: bytes, stack: AsyncExitStack, size: int | None
) -> tuple[OpenFile, bool]:
    async with AsyncExitStack() as attempt:
        session = await attempt.enter_async_context(pool.lease_bulk(principal, size))
        streams = await attempt.enter_async_context(session.bulk())
        file = await attempt.enter_async_context(streams.open(path))
        stack.push_async_exit(attempt.pop_all())
        return file, session.dedicated


async def exactly(file: OpenFile, offset: int, size: int) -> AsyncGenerator[bytes]:
    """Yield `size` bytes from `offset`.

    Raises:
        ConnectionLost: The file has become shorter meanwhile. What has been sent must not pass for the whole.
    """
    left = size
    async with aclosing(file.blocks(offset, size)) as blocks:
        async for block in blocks:
            left -= len(block)
            yield block
    if left:
        raise ConnectionLost(f"The file became shorter while it was read: {left} bytes are missing.")


class Held:
    """`hpcgate.ssh.files.streams.OpenFile` of content that has been read."""

    __slots__ = ("_content", "attributes")

    def __init__(self, attributes: Attributes, content: bytes) -> None:
        self.attributes = replace(attributes, size=len(content))
        self._content = content

    async def blocks(self, offset: int, size: int | None) -> AsyncGenerator[bytes]:
        """Yield a part."""
        end = None if size is None else offset + size
        if part := self._content[offset:end]:
            yield part


async def as_long_as_it_says(file: OpenFile) -> OpenFile:
    """Return an open file whose size can be told: one of at most a page is read first, for it may hold less."""
    size = file.attributes.size
    if not 0 < size <= PAGE:
        return file
    content = b""
    # A byte more than there should be: what ends before is seen to end.
    async with aclosing(file.blocks(0, size + 1)) as blocks:
        async for block in blocks:
            content += block
            if len(content) >= size:
                break
    return Held(file.attributes, content[:size])


def refuse_larger(path: bytes, size: int, limits: Limits) -> None:
    """Hold a file to the limit of the contract's operations.

    Raises:
        TooLarge: It is over the limit.
    """
    if size > limits.max_ops_file_size:
        most = limits.max_ops_file_size
        shown = path.decode("utf-8", "surrogateescape")
        raise TooLarge(f"{shown}: the file is larger than {most} bytes; GET files/content gives any size.")


async def read_small(session: Session, path: bytes, limits: Limits) -> bytes | None:
    """Return a file of at most `SMALL` bytes, or None if it is larger; what is surely over the limits is refused.

    Raises:
        TooLarge: It is over the limits.
    """
    files = await session.files()
    most = min(SMALL, limits.max_ops_file_size)
    content = await files.read(path, size=most + 1)
    if len(content) <= most:
        return content
    refuse_larger(path, len(content), limits)
    return None


def upload_target(directory: bytes, filename: bytes | None) -> bytes:
    """Return the path that an upload into a directory writes: only the last component of the name counts.

    Raises:
        BadRequest: No usable file name.
    """
    name = (filename or b"").rpartition(b"/")[2]
    if name in (b"", b".", b"..") or b"\0" in name:
        raise BadRequest("The upload needs a file name.")
    return directory.rstrip(b"/") + b"/" + name


async def write(session: Session, target: bytes, content: AsyncIterator[bytes], how: Replacing = Replacing.auto) -> int:
    """Replace or create a file, whole or not at all, and return its size in bytes."""
    async with session.bulk() as streams:
        return await streams.replace(target, content, how=how)


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that has been stored.

    Attributes:
        created: Whether there was none before.
        validator: Of the new state.
    """

    created: bool
    validator: Validator


async def current(streams: Streams, path: bytes) -> Validator | None:
    """Return what tells the state of the file that a write would replace, or None if there is none.

    Raises:
        IsADirectory: It is a directory.
    """
    try:
        attributes = await streams.stat(path)
    except PathNotFound:
        return None
    if stat.S_ISDIR(attributes.mode):
        raise failure(f"cp: cannot create regular file {quote(path)}", errno.EISDIR)
    return Validator.of(attributes)


async def _real(streams: Streams, path: bytes) -> bytes:
    """Return the one path of a file, by whichever it is reached; of one that is not there, the path as it is."""
    try:
        return await streams.realpath(path)
    except PathNotFound:
        return path


async def put(
    session: Session,
    path: bytes,
    content: AsyncIterable[bytes],
    conditions: Conditions,
    locks: PathLocks,
    how: Replacing = Replacing.auto,
) -> Stored:
    """Replace or create a file, whole, on disk and under the conditions, or not at all.

    The conditions are judged before anything is read, and again just before the file gets its name. Of writers through
    one gateway that hold the same tag, exactly one gets through; another process may still slip in between the last
    look and the renaming, except where no file may exist yet: that is decided by the login node itself.

    Raises:
        PreconditionFailed: A condition does not hold.
    """
    async with session.bulk() as streams, AsyncExitStack() as held:
        before = await current(streams, path)
        conditions.for_writing(before)
        stored: list[tuple[bool, Attributes | None]] = []

        async def ready(temporary: bytes) -> None:
            attributes = await streams.stat(temporary) if temporary else None
            await held.enter_async_context(locks.hold((session.system, await _real(streams, path))))
            now = await current(streams, path)
            conditions.for_writing(now)
            stored.append((now is None, attributes))

        try:
            await streams.replace(path, content, sync=True, exclusive=conditions.new_file_only, ready=ready, how=how)
        except AlreadyExists as error:
            # Somebody else has made it since the last look.
            raise PreconditionFailed("If-None-Match: there is such a file.") from error
        created, attributes = stored[0]
        return Stored(created, Validator.of(attributes or await streams.stat(path)))
