"""A directory as an archive, made while it is sent: nothing is written anywhere."""

import asyncio
import stat
import time
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from enum import Enum

import structlog

from hpcgate.auth import Principal
from hpcgate.errors import CommandFailed, ConnectionLost, TooLarge
from hpcgate.filesystem.archive import archive_error
from hpcgate.filesystem.base import Lender
from hpcgate.filesystem.tar_stream import Member, TarReader
from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.files.streams import PATIENCE, cut
from hpcgate.ssh.runner import Completed
from hpcgate.ssh.session import Session

log = structlog.stdlib.get_logger(__name__)

PIECE = 256 * 1024
"""Bytes of an archive that go out at a time."""
MAX_IN_ZIP = 200_000
"""Members of a zip archive, whose index is kept until its end: 1 KiB of memory each."""
_CHANGED = 1
"""tar's exit status where a file was written to meanwhile (GNU tar manual, "Return Values")."""


class Format(Enum):
    """The kinds of archives."""

    tar = "tar"
    tar_gz = "tar.gz"
    zip = "zip"

    @property
    def media_type(self) -> str:
        """The value of Content-Type."""
        return {"tar": "application/x-tar", "tar.gz": "application/gzip", "zip": "application/zip"}[self.value]


_SHRANK = b": File shrank by "
"""What tar says of a file that it fills up with zeros; with --ignore-failed-read it ends with status 0 all the same."""


async def _found(stack: AsyncExitStack, pool: Lender, principal: Principal, path: bytes) -> tuple[Session, bytes]:
    """Return a session, lent until the stack is left, and the real path of what is there."""
    session = await stack.enter_async_context(pool.lease_bulk(principal))
    files = await session.files()
    real = await files.realpath(path)
    await files.stat(real)
    return session, real


def _command(real: bytes, kind: Format, *, skip_unreadable: bool) -> list[str | bytes]:
    """Return tar's command that packs what is at a real path."""
    parent, _, name = real.rstrip(b"/").rpartition(b"/")
    # Without --no-unquote tar takes a backslash in a name for an escape, and packs another directory.
    argv: list[str | bytes] = ["tar", "-c", "--no-unquote", "-b", "128", "--format=gnu"]
    argv += ["-C", parent or b"/", "-f", "-"]
    if kind is Format.tar_gz:
        argv.append("-z")
    if kind is Format.zip:
        argv.append("--hard-dereference")
    if skip_unreadable:
        argv.append("--ignore-failed-read")
    return [*argv, "--", name or b"."]


@asynccontextmanager
async def packed(
    pool: Lender, principal: Principal, path: bytes, kind: Format, *, skip_unreadable: bool
) -> AsyncIterator[AsyncGenerator[bytes]]:
    """Begin an archive of a directory or a file, and give its bytes.

    The members are named from the last component of the path on, links in the path being followed. An archive that
    tar does not finish ends with an error, so that it cannot pass for a whole one.

    Args:
        pool: The system's connections.
        principal: Whose files they are.
        path: The directory.
        kind: Which kind of archive.
        skip_unreadable: Leave out what the user may not read instead of failing.
    """
    async with AsyncExitStack() as stack:
        try:
            session, real = await _found(stack, pool, principal, path)
        except ConnectionLost:
            # The one that lay idle was dead; nothing has been sent yet.
            session, real = await _found(stack, pool, principal, path)
        argv = _command(real, kind, skip_unreadable=skip_unreadable)
        process = await stack.enter_async_context(session.process(argv, stall=PATIENCE))
        process.listen_for(_SHRANK)
        output = await stack.enter_async_context(aclosing(process.output()))
        begin = [await anext(output, b""), await anext(output, b"")]
        if not begin[1]:  # tar has ended; of a file that cannot be read it sends an archive of nothing.
            await _check_end(process, argv, path)
        tar = _whole(process, argv, path, begin, output)
        yield _zipped(tar) if kind is Format.zip else _pieces(tar)


async def _whole(
    process: Process, argv: list[str | bytes], path: bytes, begin: list[bytes], output: AsyncGenerator[bytes]
) -> AsyncGenerator[bytes]:
    for block in filter(None, begin):
        yield block
    async for block in output:
        yield block
    await _check_end(process, argv, path)


async def _check_end(process: Process, argv: list[str | bytes], path: bytes) -> None:
    status = await process.ended()
    if process.said:
        raise CommandFailed("tar: a file became shorter while it was read")
    if status == 0:
        return
    if status == _CHANGED:
        log.info("archive.changed", words=process.words)
        return
    done = Completed(tuple(argv), status, b"", bytes(process.stderr.content))
    raise archive_error(done, path, CommandFailed)


async def _pieces(tar: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(tar):
        async for piece in cut(tar, PIECE):
            yield piece


class _Sink:
    """Collects what zipfile writes. It cannot be rewound, so zipfile does not try."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def write(self, data: bytes, /) -> int:
        self.parts.append(bytes(data))
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def take(self) -> bytes:
        taken = b"".join(self.parts)
        self.parts, self.size = [], 0
        return taken


async def _zipped(tar: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Make a zip archive of a tar archive. What zip does not know, devices and pipes, is left out."""
    sink = _Sink()
    reader = TarReader()
    archive = zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False)
    member: zipfile.ZipExtFile | None = None
    left = count = 0
    try:
        async for block in tar:
            for event in reader.feed(block):
                if isinstance(event, Member):
                    count += 1
                    if count > MAX_IN_ZIP:
                        raise TooLarge(f"A zip archive may have {MAX_IN_ZIP} members here; use tar.")
                    left = event.size
                    member = _begin(archive, event)
                elif member is not None:
                    # In a thread: to compress is work, and others wait for the loop.
                    await asyncio.to_thread(member.write, event)
                    left -= len(event)
                if member is not None and not left:
                    member.close()
                    member = None
                if sink.size >= PIECE:
                    yield sink.take()
        if not reader.whole:
            raise CommandFailed("tar: the archive ended early")
        archive.close()
        yield sink.take()
    finally:
        await tar.aclose()
        with suppress(ValueError):
            if member is not None:
                member.close()
            archive.close()


def _begin(archive: zipfile.ZipFile, member: Member) -> zipfile.ZipExtFile | None:
    """Write the header of a member; return what its content is written to, or None if that is all."""
    # Two names must not become one.
    name = member.name.decode("utf-8", "backslashreplace")
    if member.kind == "other":
        return None
    date = time.gmtime(min(max(member.mtime, _ZIP_BEGIN), _ZIP_END))[:6]
    info = zipfile.ZipInfo(name + "/" if member.kind == "directory" else name, date)
    info.create_system = 3
    kind = {"directory": stat.S_IFDIR, "symlink": stat.S_IFLNK}.get(member.kind, stat.S_IFREG)
    info.external_attr = (kind | member.mode) << 16 | (0x10 if member.kind == "directory" else 0)
    if member.kind == "file":
        info.compress_type = zipfile.ZIP_DEFLATED
        info._compresslevel = 1  # type: ignore[attr-defined]  # open() takes it from nowhere else
        info.file_size = member.size
        content = archive.open(info, "w")
        if member.size:
            return content  # type: ignore[return-value]  # a writer, which typeshed has no name for
        content.close()
        return None
    archive.writestr(info, member.link if member.kind == "symlink" else b"")
    return None


_ZIP_BEGIN = 315532800
"""1980-01-01, before which a zip archive has no dates."""
_ZIP_END = 4354819198
"""2107-12-31."""
