"""Files by SFTP (version 3, draft-ietf-secsh-filexfer-02, with OpenSSH's extensions).

Nothing here forks on the login node as long as all goes well. What SFTP leaves open is asked for elsewhere: inode
numbers and the like by the helper (`hpcgate.ssh.files.helper`), names of owners that a listing does not carry by
``getent``, once. SFTP version 3 has one answer, "Failure", for most errors: whatever fails is done again as a command,
which then says in its own words why, or succeeds.
"""

import asyncio
import stat
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import suppress

import asyncssh

from hpcgate.errors import GatewayError
from hpcgate.ssh.errors import translate
from hpcgate.ssh.files.command_files import CommandFiles
from hpcgate.ssh.files.coreutils_errors import naming, quote
from hpcgate.ssh.files.footing import Footing, Self
from hpcgate.ssh.files.helper import Helper
from hpcgate.ssh.files.login_node import NodeView
from hpcgate.ssh.files.protocol import (
    PRIVATE,
    Attributes,
    Entry,
    Look,
    refuse_root,
    temporary_name,
    without_group,
)
from hpcgate.ssh.files.sftp_content import SftpContent, cancel
from hpcgate.ssh.files.sftp_listing import SftpListing
from hpcgate.ssh.files.sftp_requests import CLEANING, SftpRequests, SftpServer
from hpcgate.ssh.files.sftp_targets import SftpTargets, adopted, unkept
from hpcgate.ssh.runner import Runner


class SftpFiles:
    """`hpcgate.ssh.files.protocol.RemoteFiles` by SFTP.

    Access control lists do not show in SFTP, so `Entry.mark` is always empty here.

    Args:
        server: The server that is asked.
        runner: For what SFTP cannot do.
        view: What is known of the login node as the user sees it.
        on_senseless: Is told of answers that make no sense.
    """

    def __init__(
        self, server: SftpServer, runner: Runner, view: NodeView, on_senseless: Callable[[], None] | None = None
    ) -> None:
        self.server = server
        self.runner = runner
        self.view = view
        self._sftp = server.client
        self._commands = commands = CommandFiles(runner, view)
        self._helper = Helper(runner, view)
        self._requests = requests = SftpRequests(server, on_senseless)
        self._ask = requests.ask
        self._listing = SftpListing(requests, runner, view, self._stat)
        self._content = SftpContent(requests)
        self._targets = SftpTargets(requests, runner, view, commands)

    async def listing(
        self,
        path: bytes,
        *,
        hidden: bool = True,
        recursive: bool = False,
        follow: bool = False,
        names: bool = True,
        limit: int | None = None,
    ) -> list[Entry]:
        """List as the protocol says, by READDIR; a recursive listing that follows links, by ``ls``."""
        # ls remembers by inode where it has been, which SFTP cannot: links may lead round in circles.
        listed = None if recursive and follow else await self._listing.read(path, hidden, recursive, follow, limit)
        if listed is None:
            return await self._commands.listing(
                path, hidden=hidden, recursive=recursive, follow=follow, names=names, limit=limit
            )
        await self._listing.date(path, listed, follow)
        return await self._listing.named(listed) if names else listed

    async def entry(self, path: bytes) -> Entry:
        """Return one file, by LSTAT."""
        with self._requests.fallback(path):
            entry = await self._listing.entry(path)
            await self._listing.date(path, [entry], follow=False)
            return (await self._listing.named([entry]))[0]
        return await self._commands.entry(path)

    async def stat(self, path: bytes, *, follow: bool = True) -> Attributes:
        """Return attributes, by the helper where there is one, else by ``stat``."""
        found = await self._helper.stat(path, follow=follow)
        return found if found is not None else await self._commands.stat(path, follow=follow)

    async def _stat(self, path: bytes, follow: bool) -> Attributes:
        return await self.stat(path, follow=follow)

    async def footing(self, directory: bytes) -> Footing | None:
        """Say how safe a directory is to write in, None if it is not there or not to be reached.

        Raises:
            PermissionDenied: A link on the way is not followed for writing.
        """
        return await self._targets.footing(directory)

    async def realpath(self, path: bytes) -> bytes:
        """Resolve links, by REALPATH."""
        with self._requests.fallback(path):
            return await self._ask(self._sftp.realpath, path)
        return await self._commands.realpath(path)

    async def read(self, path: bytes, *, offset: int = 0, size: int | None = None, tool: str = "cat") -> bytes:
        """Read, by STAT, OPEN, and READ together with CLOSE."""
        if size is None or size > self._content.read_block:
            return b"".join([block async for block in self.stream(path, offset=offset, size=size, tool=tool)])
        # Once begun it is not interrupted: nobody else would close the file.
        fetching = asyncio.ensure_future(self._content.fetch(path, offset, size, tool))
        with self._requests.fallback(path):
            try:
                return await asyncio.shield(fetching)
            except asyncio.CancelledError:
                await asyncio.wait([fetching], timeout=CLEANING)
                await cancel([fetching])
                raise
        return await self._commands.read(path, offset=offset, size=size, tool=tool)

    async def look(self, path: bytes, *, start: int, above: int, size: int, inode: int = 0) -> Look:
        """Look into a file, by a command: SFTP does not tell of inodes."""
        return await self._commands.look(path, start=start, above=above, size=size, inode=inode)

    async def release(self, path: bytes) -> None:
        """Nothing is held."""

    async def stream(
        self, path: bytes, *, offset: int = 0, size: int | None = None, tool: str = "cat"
    ) -> AsyncIterator[bytes]:
        """Yield a file's bytes, by up to `WINDOW` READs at a time."""
        told = 0
        try:
            length = await self._content.check_regular(path, tool)
            async with self._content.open(path, asyncssh.FXF_READ) as file:
                # A file of the kernel's (/proc) has no length and yet content; one may also grow meanwhile.
                left = length - offset if size is None and length else size
                async for block in self._content.blocks(file, offset, left):
                    yield block
                    told += len(block)
        except asyncssh.SFTPError as error:
            self._requests.check(error, path)
            await self._commands.read(path, offset=offset + told, size=1, tool=tool)
            raise translate(error, f"{tool}: {quote(path)}") from error

    async def write(self, path: bytes, content: AsyncIterable[bytes], *, mode: int | None = None) -> int:
        """Write atomically, by up to `WINDOW` WRITEs at a time and posix-rename@openssh.com."""
        place = await self._targets.replaced(path)
        if place is None:
            return await self._commands.write(path, content, mode=mode)
        target, old = place
        temporary = target[: target.rindex(b"/") + 1] + temporary_name()
        flags = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
        try:
            try:
                # What replaces a file is not for others to read before it has that file's mode.
                async with self._content.open(temporary, flags, None if old is None else PRIVATE) as file:
                    size = await self._content.fill(file, content)
                    if old is not None:
                        mode = await self._adopt_group(file, old, path)
                    if mode is not None:
                        await self._set_mode(file, mode, path)
                with naming(path):
                    await self._move(temporary, target)
            except asyncssh.SFTPError as error:
                self._requests.check(error, path)
                raise await self._why_not_written(path, error) from error
        except BaseException:
            await self._sweep(temporary)
            raise
        return size

    async def rename(self, source: bytes, target: bytes) -> None:
        """Rename, by posix-rename@openssh.com."""
        with self._requests.fallback(source):
            real, other = [await self._targets.fixed(path) for path in (source, target)]
            if real is not None and other is not None:
                await self._ask(self._sftp.posix_rename, real, other)
                return
        await self._commands.rename(source, target)

    async def mkdir(self, path: bytes, *, parents: bool = False) -> None:
        """Make a directory, by MKDIR; with `parents`, as a command unless the one above is there."""
        with self._requests.fallback(path):
            if (real := await self._targets.fixed(path)) is not None:
                await self._ask(self._sftp.mkdir, real)
                return
        await self._commands.mkdir(path, parents=parents)

    async def symlink(self, target: bytes, link: bytes) -> None:
        """Make a symbolic link, by SYMLINK."""
        with self._requests.fallback(link):
            if (real := await self._targets.fixed(link)) is not None:
                await self._ask(self._sftp.symlink, target, real)
                return
        await self._commands.symlink(target, link)

    async def chmod(self, path: bytes, mode: int) -> None:
        """Set permission bits, by SETSTAT, which follows links, where nobody else can put one."""
        with self._requests.fallback(path):
            real, found = await asyncio.gather(self._targets.fixed(path, kept=True), self._ask(self._sftp.lstat, path))
            me = self.view.footings.self or Self()
            if real is not None and found.uid == me.uid and not stat.S_ISLNK(found.permissions or 0):
                await self._ask(self._sftp.setstat, real, asyncssh.SFTPAttrs(permissions=mode & 0o7777))
                return
        await self._commands.chmod(path, mode)

    async def remove(self, path: bytes) -> None:
        """Remove a file by REMOVE, in one exchange; a directory by ``rm -r``."""
        refuse_root(path)
        with self._requests.fallback(path):
            if (real := await self._targets.fixed(path)) is not None:
                await self._ask(self._sftp.remove, real)
                return
        await self._commands.remove(path)

    async def _adopt_group(self, file: asyncssh.SFTPClientFile, old: asyncssh.SFTPAttrs, path: bytes) -> int:
        """Put a file into the group of the one that it replaces; return the mode that it should get then."""
        new = await self._ask(file.stat)
        mode = adopted(old, new.uid)
        if old.gid is None or new.gid == old.gid:
            return mode
        try:
            await self._ask(file.setstat, asyncssh.SFTPAttrs(uid=new.uid, gid=old.gid))
        except asyncssh.SFTPError as error:
            self._requests.check(error, path)
            return without_group(mode)
        return mode

    async def _set_mode(self, file: asyncssh.SFTPClientFile, mode: int, path: bytes) -> None:
        try:
            await self._ask(file.setstat, asyncssh.SFTPAttrs(permissions=stat.S_IMODE(mode)))
        except asyncssh.SFTPError as error:
            self._requests.check(error, path)
            raise unkept(path, error) from error

    async def _move(self, temporary: bytes, target: bytes) -> None:
        with self._requests.fallback(target):
            await self._ask(self._sftp.posix_rename, temporary, target)
            return
        await self._commands.rename(temporary, target)

    async def _why_not_written(self, path: bytes, error: asyncssh.SFTPError) -> GatewayError:
        said = await self._commands.why_not_written(path)
        return said if said is not None else translate(error, f"cp: error writing {quote(path)}")

    async def _sweep(self, temporary: bytes) -> None:
        if self._requests.abandoned:
            return
        with suppress(asyncssh.Error, OSError):
            async with asyncio.timeout(CLEANING):
                await self._sftp.remove(temporary)
