"""Files that stream, by SFTP: many requests under way at a time, each as large as the server takes."""

import asyncio
import errno
import stat
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import cast

import asyncssh
from asyncssh.sftp import SFTPName

from hpcgate.errors import BadRequest, CommandFailed, GatewayError, PathNotFound
from hpcgate.ssh.errors import translate
from hpcgate.ssh.files.command_streams import CommandStreams, create_by_command, move_new
from hpcgate.ssh.files.coreutils_errors import failure, naming, not_regular, number_in, quote, unreadable
from hpcgate.ssh.files.footing import Pinned, resolve
from hpcgate.ssh.files.private_directory import PRIVATE_MODE, PrivateDirectory, is_private, not_private
from hpcgate.ssh.files.protocol import PRIVATE, Entry, Replacing, temporary_name, without_group
from hpcgate.ssh.files.sftp_bulk import BulkSftp
from hpcgate.ssh.files.sftp_bulk_content import BulkContent, Opened, Writer
from hpcgate.ssh.files.sftp_files import SftpFiles
from hpcgate.ssh.files.sftp_listing import look_inside
from hpcgate.ssh.files.sftp_requests import CLEANING
from hpcgate.ssh.files.sftp_targets import adopted, unkept
from hpcgate.ssh.files.streams import SYNC_PATIENCE, OpenFile, Ready, StreamRunner
from hpcgate.ssh.pace import Pace

_PART = 500
"""Entries of a directory that are told of at a time."""
_ATTEMPTS = 5


class SftpStreams(SftpFiles):
    """`hpcgate.ssh.files.streams.Streams` by SFTP: bytes by a channel of their own, all else as `SftpFiles` does.

    Args:
        files: The files as small requests reach them.
        bulk: The client for bytes; it belongs to the connection and outlives this object.
        runner: For what SFTP cannot do, and for directories in which a path may change what it means.
        give_up: Closes the channel for bytes, whose server did not answer in time.
        pace: Has the blocks wait while somebody else waits for a small answer.
    """

    def __init__(
        self, files: SftpFiles, bulk: BulkSftp, runner: StreamRunner, give_up: Callable[[], None], pace: Pace
    ) -> None:
        super().__init__(files.server, files.runner, files.view, bulk.refuse)
        self._bulk = bulk
        self._starter = runner
        self._bytes = BulkContent(bulk, self._requests, pace, give_up)

    @asynccontextmanager
    async def open(self, path: bytes) -> AsyncIterator[OpenFile]:
        """Open, by OPEN and FSTAT, with the inode number from ``stat`` before and after."""
        try:
            async with AsyncExitStack() as stack:
                try:
                    opened = await self._open_same(path, stack)
                except asyncssh.SFTPError as error:
                    raise await self._why_not_read(path, error) from error
                yield opened
        except asyncssh.SFTPError as error:  # in closing it
            self._requests.check(error, path)
            raise translate(error, f"cat: {quote(path)}") from error

    async def _open_same(self, path: bytes, stack: AsyncExitStack) -> Opened:
        before = await self.stat(path)
        for _ in range(_ATTEMPTS):
            if stat.S_ISDIR(before.mode):
                raise unreadable("cat", path, errno.EISDIR)
            if not stat.S_ISREG(before.mode):
                raise not_regular("cat", path)
            async with AsyncExitStack() as attempt:
                handle = await attempt.enter_async_context(self._bytes.open(path, asyncssh.FXF_READ))
                inside, after = await asyncio.gather(
                    self._bytes.wait(self._bulk.stat_file(handle), self.server.timeout), self.stat(path)
                )
                if (before.dev, before.ino) == (after.dev, after.ino):
                    attributes = replace(after, size=inside.size, mtime=inside.mtime)
                    stack.push_async_exit(attempt.pop_all())
                    return Opened(self._bytes, handle, attributes, partial(self._why_not_read, path))
            before = after
        raise CommandFailed(f"cat: {quote(path)}: the file is replaced too often to be read")

    async def _why_not_read(self, path: bytes, error: asyncssh.SFTPError, offset: int = 0) -> GatewayError:
        self._requests.check(error, path)
        await self._commands.read(path, offset=offset, size=1)
        return translate(error, f"cat: {quote(path)}")

    async def scan(
        self, path: bytes, *, hidden: bool = True, recursive: bool = False, follow: bool = False, names: bool = True
    ) -> AsyncGenerator[list[Entry]]:
        """List one directory by READDIR; what goes further, by ``ls``."""
        begun = False
        try:
            if recursive or follow:
                raise asyncssh.SFTPOpUnsupported("not by SFTP")
            itself = await self._listing.entry(path)
            async with aclosing(cast(AsyncGenerator[SFTPName], self._sftp.scandir(path))) as found:
                part = [itself]
                seen: list[SFTPName] = []
                if itself.is_directory:
                    part = await self._ask(self._some, found, hidden, seen)
                    if not seen:
                        await self._ask(look_inside, self._sftp, path)
                while part:
                    await self._listing.complete(path, 0, part if itself.is_directory else [], False)
                    await self._listing.date(path, part, False)
                    begun = True
                    yield await self._listing.named(part) if names else part
                    part = await self._ask(self._some, found, hidden, seen) if itself.is_directory else []
                return
        except asyncssh.SFTPError as error:
            self._requests.check(error, path)
            if begun:
                raise translate(error, f"ls: reading directory {quote(path)}") from error
        by_command = self._by_command().scan(path, hidden=hidden, recursive=recursive, follow=follow, names=names)
        async with aclosing(by_command):
            async for part in by_command:
                yield part

    async def _some(self, found: AsyncGenerator[SFTPName], hidden: bool, seen: list[SFTPName]) -> list[Entry]:
        """Return the next entries of a directory, none at its end, and tell of the first that was seen at all."""
        entries: list[Entry] = []
        while len(entries) < _PART and (one := await anext(found, None)) is not None:
            if not seen:
                seen.append(one)
            entry = self._listing.listed(one, b"", hidden)
            if entry is not None:
                entries.append(entry)
        return entries

    async def replace(
        self,
        path: bytes,
        content: AsyncIterable[bytes],
        *,
        sync: bool = False,
        exclusive: bool = False,
        ready: Ready | None = None,
        how: Replacing = Replacing.auto,
    ) -> int:
        """Write atomically, by WRITEs side by side, fsync@openssh.com and posix-rename@openssh.com.

        What is to be written in place, and where no file can be made, goes by commands.
        """

        async def by_command() -> int:
            return await self._by_command().replace(path, content, sync=sync, exclusive=exclusive, ready=ready, how=how)

        place = await self._targets.replaced(path)
        if place is None:
            return await by_command()
        target, old = place
        if old is not None and how is Replacing.in_place:
            return await by_command()
        if exclusive and old is not None:
            raise failure(f"cp: cannot create regular file {quote(path)}", errno.EEXIST)
        temporary = target[: target.rindex(b"/") + 1] + temporary_name()
        flags = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
        try:
            try:
                async with AsyncExitStack() as stack:
                    # What replaces a file is not for others to read before it has that file's mode.
                    opening = self._bytes.open(temporary, flags, None if old is None else PRIVATE)
                    try:
                        handle = await stack.enter_async_context(opening)
                    except asyncssh.SFTPPermissionDenied:
                        if old is None or how is Replacing.atomic:
                            raise
                        return await by_command()
                    writer = Writer(self._bytes, handle, 0)
                    await writer.write(content)
                    if old is not None:
                        await self._adopt(handle, old, path)
                    if sync:
                        await self._sync(handle, temporary)
                if ready is not None:
                    await ready(temporary)
                with naming(path):
                    try:
                        await self.move(temporary, target, exclusive=exclusive)
                    except BadRequest as error:
                        mounted = number_in(error.message.splitlines()) == errno.EBUSY
                        if not mounted or old is None or how is not Replacing.auto:
                            raise
                        directory, _, base = target.rpartition(b"/")
                        there = CommandStreams(Pinned(self._starter, directory or b"/"), self.view)
                        staged = b"./" + temporary.rpartition(b"/")[2]
                        await there.overwrite_mounted(path, base, staged, writer.end)
            except asyncssh.SFTPError as error:
                self._requests.check(error, path)
                raise await self._why_not_written(path, error) from error
        except BaseException:
            await self._sweep(temporary)
            raise
        return writer.end

    async def _adopt(self, handle: bytes, old: asyncssh.SFTPAttrs, path: bytes) -> None:
        """Give a file the group and the mode of the one that it replaces."""
        new = await self._bytes.wait(self._bulk.stat_file(handle))
        mode = adopted(old, new.uid)
        if old.gid is not None and new.gid != old.gid:
            try:
                await self._bytes.wait(self._bulk.set_owners(handle, new.uid, old.gid))
            except asyncssh.SFTPError as error:
                self._requests.check(error, path)
                mode = without_group(mode)
        try:
            await self._bytes.wait(self._bulk.set_mode(handle, mode))
        except asyncssh.SFTPError as error:
            self._requests.check(error, path)
            raise unkept(path, error) from error

    async def extend(self, path: bytes, content: AsyncIterable[bytes], *, offset: int) -> int:
        """Write in place, by WRITEs side by side; where one or the closing fails, SETSTAT cuts all of them off."""
        writer: Writer | None = None
        whole = True

        async def settle() -> None:
            nonlocal whole
            whole = writer is None or await self._settle(writer)

        try:
            async with self._bytes.open(path, asyncssh.FXF_WRITE, settle=settle) as handle:
                writer = Writer(self._bytes, handle, offset)
                await writer.write(content)
        except asyncssh.SFTPError as error:
            self._requests.check(error, path)
            await self.stat(path)
            try:
                # Before there is room again.
                raise await self._why_not_written(path, error) from error
            finally:
                if writer is not None:
                    await self._cut(path, offset)
        except BaseException:
            if not whole:
                await asyncio.shield(self._cut(path, offset))
            raise
        return writer.end

    async def _settle(self, writer: Writer) -> bool:
        """Wait for what is under way, close the file, and say whether none of it is known to have failed.

        A file system may say of a write, or when the file is closed, that it has lost what it had taken before, and it
        does not say how much, or where.
        """
        with suppress(TimeoutError, GatewayError):
            async with asyncio.timeout(2 * CLEANING):
                whole = await writer.settle()
                try:
                    await self._bulk.close_file(writer.handle)
                except asyncssh.SFTPError:
                    return False
                return whole
        return True

    async def _cut(self, path: bytes, size: int) -> None:
        """Cut off what may have gaps; if even that fails, it is told of what was done before."""
        with suppress(GatewayError):
            await self.truncate(path, size)

    async def create(self, path: bytes, *, private: bool = False) -> None:
        """Make an empty file, by OPEN."""
        flags = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
        with self._requests.fallback(path):
            async with self._bytes.open(path, flags, PRIVATE if private else None):
                pass
            return
        await create_by_command(self.runner, path, private=private)

    async def truncate(self, path: bytes, size: int) -> None:
        """Cut, by SETSTAT."""
        with self._requests.fallback(path):
            await self._ask(self._sftp.setstat, path, asyncssh.SFTPAttrs(size=size))
            return
        await self._commands.command("truncate", "-s", str(size), "--", path)

    async def sync(self, path: bytes) -> None:
        """Have a file on disk, by fsync@openssh.com."""
        with self._requests.fallback(path):
            async with self._bytes.open(path, asyncssh.FXF_WRITE) as handle:
                await self._sync(handle, path)
            return
        await self._commands.command("sync", "--", path)

    async def _sync(self, handle: bytes, path: bytes) -> None:
        try:
            await self._bytes.wait(self._bulk.sync_file(handle), SYNC_PATIENCE)
        except asyncssh.SFTPOpUnsupported:
            await self._commands.command("sync", "--", path)

    async def move(self, source: bytes, target: bytes, *, exclusive: bool = False) -> None:
        """Rename, by posix-rename@openssh.com, or by RENAME, which replaces nothing."""
        if not exclusive:
            await self.rename(source, target)
            return
        try:
            await self._ask(self._sftp.rename, source, target)
        except asyncssh.SFTPError as error:
            self._requests.check(error, target)
            with suppress(asyncssh.SFTPError):
                await self._ask(self._sftp.lstat, target)
                raise failure(f"cp: cannot create regular file {quote(target)}", errno.EEXIST) from error
            await move_new(self.runner, source, target)

    async def resolve(self, path: bytes) -> bytes:
        """Follow links, by a command."""
        return await resolve(self.runner, path)

    async def make_private(self, directory: bytes, name: bytes) -> PrivateDirectory:
        """Make a directory, by MKDIR where nobody else can move it."""
        real = await self._kept(directory)
        if real is None:
            return await self._by_command().make_private(directory, name)
        path = real + b"/" + name
        try:
            await self._ask(self._sftp.mkdir, path, asyncssh.SFTPAttrs(permissions=PRIVATE_MODE))
        except asyncssh.SFTPError as error:
            self._requests.check(error, path)
            await self._commands.command("mkdir", "-m", f"{PRIVATE_MODE:o}", "--", path)
        try:
            return await self._private_at(real, name)
        except PathNotFound:
            await self.remove_private(directory, name)
            raise not_private(path) from None

    async def private(self, directory: bytes, name: bytes) -> PrivateDirectory:
        """Look at a directory, by LSTAT where nobody else can move it."""
        real = await self._kept(directory)
        if real is None:
            return await self._by_command().private(directory, name)
        return await self._private_at(real, name)

    async def remove_private(self, directory: bytes, name: bytes) -> None:
        """Remove a directory, by RMDIR where nobody else can move it."""
        real = await self._kept(directory)
        if real is None:
            await self._by_command().remove_private(directory, name)
            return
        try:
            await self._ask(self._sftp.rmdir, real + b"/" + name)
        except asyncssh.SFTPError as error:
            self._requests.check(error, real)

    async def _kept(self, directory: bytes) -> bytes | None:
        """Return the real path of a directory if what the user makes in it stays where it is, else None."""
        footing = await self.footing(directory)
        return footing.real.rstrip(b"/") if footing is not None and footing.kept else None

    async def _private_at(self, real: bytes, name: bytes) -> PrivateDirectory:
        path = real + b"/" + name
        user = (await self.view.footings.who(self.runner)).uid
        try:
            found = await self._ask(self._sftp.lstat, path)
        except asyncssh.SFTPError as error:
            self._requests.check(error, path)
            await self._commands.stat(path, follow=False)
            raise translate(error, f"stat: {quote(path)}") from error
        if not is_private(found.permissions or 0, found.uid, user):
            raise failure(f"stat: cannot statx {quote(path)}", errno.ENOENT)
        return PrivateDirectory.by_path(self, self._starter, real, name)

    def _by_command(self) -> CommandStreams:
        return CommandStreams(self._starter, self.view)
