"""Files by SFTP (version 3, draft-ietf-secsh-filexfer-02, with OpenSSH's extensions).

Nothing here forks on the login node as long as all goes well. What SFTP leaves open is asked for elsewhere: inode
numbers and the like by the helper (`hpcgate.ssh.files.helper`), names of owners that a listing does not carry by
``getent``, once. SFTP version 3 has one answer, "Failure", for most errors: whatever fails is done again as a command,
which then says in its own words why, or succeeds.
"""

import asyncio
import errno
import re
import stat
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast

import asyncssh
from asyncssh.sftp import SFTPName

from hpcgate.errors import (
    CommandFailed,
    ConnectionLost,
    GatewayError,
    LoginNodeError,
    PathNotFound,
    PermissionDenied,
    TimedOut,
)
from hpcgate.ssh.errors import reason, translate
from hpcgate.ssh.files.command_files import CommandFiles
from hpcgate.ssh.files.coreutils_errors import failure, naming, not_regular, quote
from hpcgate.ssh.files.footing import Footing, Self, Step, ancestors, parent, resolve
from hpcgate.ssh.files.helper import Helper
from hpcgate.ssh.files.login_node import NodeView
from hpcgate.ssh.files.protocol import (
    PRIVATE,
    Attributes,
    Entry,
    ListingSize,
    refuse_root,
    temporary_name,
    without_group,
)
from hpcgate.ssh.files.sftp_bulk import fair_block
from hpcgate.ssh.runner import SENSELESS, Runner

P = ParamSpec("P")
T = TypeVar("T")

WINDOW = 16
"""Requests for data under way at a time."""
BATCH = 64
"""Requests for links or directories under way at a time."""
LAST_SURE = 2**31 - 1
"""The last time, Unix seconds, that is the same in 32 bits with a sign and without."""
# Says something if one of some files has an access control list; a directory has one, too, that files in it get.
_LISTED = 'for f; do case $(ls -dlnL -- "$f") in ??????????+*) echo listed ;; esac; done'
_REQUESTS = {"shield": "open", "_scan": "readdir", "_entry": "stat"}
"""What the requests are called that are sent by functions of other names."""
CLEANING = 5.0
"""Seconds that cleaning up behind a failure may take."""
_ATTEMPTS = 5
"""How often links are followed that change meanwhile."""

# What OpenSSH's sftp-server puts into a longname before the file's name: mode, links, user, group, size, date. A name
# of a user or a group with a blank makes it ambiguous; then it does not match.
_LONGNAME = re.compile(rb"[-dlcbpsD?]\S{9}[ +.@]? *(?:\d+|\?) +(\S+) +(\S+) +(\d+) .{12}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SftpServer:
    """One SFTP server on a channel of its own, and what becomes of it if it fails.

    Attributes:
        client: The client; it belongs to the connection and outlives those who use it.
        timeout: Seconds that any single answer may take.
        abandon: Closes the channel of a server that did not answer in time.
        refuse: Closes the channel of a server whose answers make no sense, and says why.
        stage: Returns the context of the request that it is given the name of.
    """

    client: asyncssh.SFTPClient
    timeout: float
    abandon: Callable[[], None]
    refuse: Callable[[str], None]
    stage: Callable[[str], AbstractContextManager[Any]]


class SftpFiles:
    """`hpcgate.ssh.files.protocol.RemoteFiles` by SFTP.

    Access control lists do not show in SFTP, so `Entry.mark` is always empty here.

    Args:
        server: The server that is asked.
        runner: For what SFTP cannot do.
        view: What is known of the login node as the user sees it.
    """

    def __init__(self, server: SftpServer, runner: Runner, view: NodeView) -> None:
        self.server = server
        self.runner = runner
        self.view = view
        self._sftp = sftp = server.client
        self._timeout = server.timeout
        self._abandoned = False
        self._commands = CommandFiles(runner, view)
        self._helper = Helper(runner, view)
        self._block = fair_block(sftp.limits.max_read_len)
        self._write_block = fair_block(sftp.limits.max_write_len)

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
        listed = None if recursive and follow else await self._list(path, hidden, recursive, follow, limit)
        if listed is None:
            return await self._commands.listing(
                path, hidden=hidden, recursive=recursive, follow=follow, names=names, limit=limit
            )
        await self._date(path, listed, follow)
        return await self._named(listed) if names else listed

    async def entry(self, path: bytes) -> Entry:
        """Return one file, by LSTAT."""
        try:
            entry = await self._patiently(self._entry, path)
        except asyncssh.SFTPError as error:
            self._connected(error, path)
            return await self._commands.entry(path)
        await self._date(path, [entry], follow=False)
        return (await self._named([entry]))[0]

    async def stat(self, path: bytes, *, follow: bool = True) -> Attributes:
        """Return attributes, by the helper where there is one, else by ``stat``."""
        found = await self._helper.stat(path, follow=follow)
        return found if found is not None else await self._commands.stat(path, follow=follow)

    async def realpath(self, path: bytes) -> bytes:
        """Resolve links, by REALPATH."""
        try:
            return await self._patiently(self._sftp.realpath, path)
        except asyncssh.SFTPError as error:
            self._connected(error, path)
            return await self._commands.realpath(path)

    async def read(self, path: bytes, *, offset: int = 0, size: int | None = None, tool: str = "cat") -> bytes:
        """Read, by STAT, OPEN, and READ together with CLOSE."""
        if size is None or size > self._block:
            return b"".join([block async for block in self.stream(path, offset=offset, size=size, tool=tool)])
        # Once begun it is not interrupted: nobody else would close the file.
        fetching = asyncio.ensure_future(self._fetch(path, offset, size, tool))
        try:
            return await asyncio.shield(fetching)
        except asyncssh.SFTPError as error:
            self._connected(error, path)
            return await self._commands.read(path, offset=offset, size=size, tool=tool)
        except asyncio.CancelledError:
            await asyncio.wait([fetching], timeout=CLEANING)
            await _cancel([fetching])
            raise

    async def stream(
        self, path: bytes, *, offset: int = 0, size: int | None = None, tool: str = "cat"
    ) -> AsyncIterator[bytes]:
        """Yield a file's bytes, by up to `WINDOW` READs at a time."""
        try:
            length = await self._check_regular(path, tool)
            async with self._open(path, asyncssh.FXF_READ) as file:
                # A file of the kernel's (/proc) has no length and yet content; one may also grow meanwhile.
                left = length - offset if size is None and length else size
                async for block in self._blocks(file, offset, left):
                    yield block
        except asyncssh.SFTPError as error:
            self._connected(error, path)
            await self._commands.read(path, offset=offset, size=0, tool=tool)
            raise translate(error, f"{tool}: {quote(path)}") from error

    async def write(self, path: bytes, content: AsyncIterable[bytes], *, mode: int | None = None) -> int:
        """Write atomically, by up to `WINDOW` WRITEs at a time and posix-rename@openssh.com."""
        place = await self._target(path)
        if place is None:
            return await self._commands.write(path, content, mode=mode)
        target, old = place
        temporary = target[: target.rindex(b"/") + 1] + temporary_name()
        flags = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
        try:
            try:
                # What replaces a file is not for others to read before it has that file's mode.
                async with self._open(temporary, flags, None if old is None else PRIVATE) as file:
                    size = await self._fill(file, content)
                    if old is not None:
                        mode = await self._adopt_group(file, old, path)
                    if mode is not None:
                        await self._patiently(file.setstat, asyncssh.SFTPAttrs(permissions=stat.S_IMODE(mode)))
                with naming(path):
                    await self._move(temporary, target)
            except asyncssh.SFTPError as error:
                self._connected(error, path)
                raise await self._why_not_written(path) from error
        except BaseException:
            await self._sweep(temporary)
            raise
        return size

    async def rename(self, source: bytes, target: bytes) -> None:
        """Rename, by posix-rename@openssh.com."""
        try:
            real, other = [await self._fixed(path) for path in (source, target)]
            if real is not None and other is not None:
                await self._patiently(self._sftp.posix_rename, real, other)
                return
        except asyncssh.SFTPError as error:
            self._connected(error, source)
        await self._commands.rename(source, target)

    async def mkdir(self, path: bytes, *, parents: bool = False) -> None:
        """Make a directory, by MKDIR; with `parents`, as a command unless the one above is there."""
        try:
            if (real := await self._fixed(path)) is not None:
                await self._patiently(self._sftp.mkdir, real)
                return
        except asyncssh.SFTPError as error:
            self._connected(error, path)
        await self._commands.mkdir(path, parents=parents)

    async def symlink(self, target: bytes, link: bytes) -> None:
        """Make a symbolic link, by SYMLINK."""
        try:
            if (real := await self._fixed(link)) is not None:
                await self._patiently(self._sftp.symlink, target, real)
                return
        except asyncssh.SFTPError as error:
            self._connected(error, link)
        await self._commands.symlink(target, link)

    async def chmod(self, path: bytes, mode: int) -> None:
        """Set permission bits, by SETSTAT, which follows links, where nobody else can put one."""
        try:
            real, found = await asyncio.gather(self._fixed(path, kept=True), self._patiently(self._sftp.lstat, path))
            me = self.view.footings.self or Self()
            if real is not None and found.uid == me.uid and not stat.S_ISLNK(found.permissions or 0):
                await self._patiently(self._sftp.setstat, real, asyncssh.SFTPAttrs(permissions=mode & 0o7777))
                return
        except asyncssh.SFTPError as error:
            self._connected(error, path)
        await self._commands.chmod(path, mode)

    async def remove(self, path: bytes) -> None:
        """Remove a file by REMOVE, in one exchange; a directory by ``rm -r``."""
        refuse_root(path)
        try:
            if (real := await self._fixed(path)) is not None:
                await self._patiently(self._sftp.remove, real)
                return
        except asyncssh.SFTPError as error:
            self._connected(error, path)
        await self._commands.remove(path)

    async def _fixed(self, path: bytes, *, kept: bool = False) -> bytes | None:
        """Return the path of a name in a directory that nobody else can put elsewhere, or None: that is for commands.

        Args:
            path: The path, whose last component is not followed.
            kept: Whether, besides, nobody else may rename there what the user has made.

        Raises:
            PermissionDenied: A link on the way is not followed for writing.
        """
        name = path.rpartition(b"/")[2]
        footing = await self.footing(parent(path))
        if footing is None or not (footing.kept if kept else footing.fixed) or name in (b"", b".", b".."):
            return None
        return footing.real.rstrip(b"/") + b"/" + name

    async def _patiently(self, ask: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._abandoned:
            raise ConnectionLost("The login node's SFTP server does not answer.")
        deadline = asyncio.timeout(self._timeout)
        try:
            with self.server.stage(_REQUESTS.get(ask.__name__, ask.__name__)):
                async with deadline:
                    return await ask(*args, **kwargs)
        except asyncssh.SFTPBadMessage as error:
            self.server.refuse(f"SFTP: {reason(error)}")
            raise
        except asyncssh.SFTPError:
            raise
        except SENSELESS as error:
            self.server.refuse(f"SFTP: {reason(error)}")
            raise asyncssh.SFTPBadMessage("The SFTP server's answer makes no sense") from error
        except (asyncssh.Error, OSError) as error:
            if not deadline.expired():
                # asyncssh passes on as it is what ended the connection: EPIPE, ECONNRESET, ETIMEDOUT.
                raise ConnectionLost(f"The SSH connection was lost: {reason(error)}") from error
            # The server answers in order: behind this one nothing would be answered either.
            self._abandoned = True
            self.server.abandon()
            raise TimedOut("The login node's SFTP server did not answer in time.") from None

    def _connected(self, error: asyncssh.SFTPError, path: bytes) -> None:
        if isinstance(error, asyncssh.SFTPConnectionLost | asyncssh.SFTPNoConnection):
            raise translate(error, f"sftp: {quote(path)}") from error

    # Listing

    async def _list(
        self, path: bytes, hidden: bool, recursive: bool, follow: bool, limit: int | None
    ) -> list[Entry] | None:
        counter = ListingSize(limit)
        itself, content = await asyncio.gather(
            self._patiently(self._entry, path, follow=follow),
            self._directory(path, b"", hidden, follow, counter),
            return_exceptions=True,
        )
        if isinstance(itself, BaseException):
            self._pass_over(itself, path)
            return None
        if not itself.is_directory:
            return [itself]
        if isinstance(content, BaseException):
            self._pass_over(content, path)
            return None
        if recursive:
            await self._descend(path, content, hidden, counter)
        return content

    def _pass_over(self, error: BaseException, path: bytes) -> None:
        if not isinstance(error, asyncssh.SFTPError):
            raise error
        self._connected(error, path)

    async def _descend(self, path: bytes, content: list[Entry], hidden: bool, counter: ListingSize) -> None:
        root = path if path.endswith(b"/") else path + b"/"
        level = [entry.name for entry in content if entry.is_directory]
        while level:
            batch, level = level[:BATCH], level[BATCH:]
            results = await asyncio.gather(
                *(self._directory(root + name, name + b"/", hidden, False, counter) for name in batch),
                return_exceptions=True,
            )
            for name, result in zip(batch, results, strict=True):
                if isinstance(result, BaseException):
                    self._pass_over(result, root + name)
                else:
                    content += result
                    level += (entry.name for entry in result if entry.is_directory)

    async def _directory(
        self, path: bytes, prefix: bytes, hidden: bool, follow: bool, counter: ListingSize
    ) -> list[Entry]:
        entries: list[Entry] = []
        await self._patiently(self._scan, path, prefix, hidden, counter, entries)
        await self._complete(path, len(prefix), entries, follow)
        counter.add(sum(len(entry.link_target) for entry in entries if entry.link_target), rows=0)
        return entries

    async def _scan(self, path: bytes, prefix: bytes, hidden: bool, counter: ListingSize, entries: list[Entry]) -> None:
        async with aclosing(cast(AsyncGenerator[SFTPName, None], self._sftp.scandir(path))) as scan:
            async for found in scan:
                entry = self._listed(found, prefix, hidden)
                if entry is not None:
                    counter.add(len(entry.name))
                    entries.append(entry)

    def _listed(self, found: SFTPName, prefix: bytes, hidden: bool) -> Entry | None:
        """Return an entry of a directory, None if it is not to be shown."""
        name, view = found.filename, self.view
        if name in (b".", b"..") or not isinstance(name, bytes) or (not hidden and name.startswith(b".")):
            return None
        entry = _entry(prefix + name, found.attrs)
        if entry.uid not in view.users or entry.gid not in view.groups:
            _learn(view, found, entry)
        return entry

    async def _complete(self, directory: bytes, skip: int, entries: list[Entry], follow: bool) -> None:
        root = directory if directory.endswith(b"/") else directory + b"/"
        links = [index for index, entry in enumerate(entries) if entry.is_link]
        for start in range(0, len(links), BATCH):
            batch = links[start : start + BATCH]
            paths = [root + entries[index].name[skip:] for index in batch]
            ask = self._followed if follow else self._readlink
            for index, answer in zip(batch, await asyncio.gather(*map(ask, paths)), strict=True):
                if isinstance(answer, bytes):
                    entries[index].link_target = answer
                else:
                    answer.name = entries[index].name
                    entries[index] = answer

    async def _followed(self, path: bytes) -> Entry | bytes:
        try:
            return await self._patiently(self._entry, path, follow=True)
        except asyncssh.SFTPError as error:
            self._connected(error, path)
            return await self._readlink(path)

    async def _readlink(self, path: bytes) -> bytes:
        try:
            return await self._patiently(self._sftp.readlink, path)
        except asyncssh.SFTPError as error:
            # It has just been removed.
            self._connected(error, path)
            return b""

    async def _entry(self, path: bytes, *, follow: bool = False) -> Entry:
        entry = _entry(path, await (self._sftp.stat(path) if follow else self._sftp.lstat(path)))
        if entry.is_link:
            entry.link_target = await self._sftp.readlink(path)
        return entry

    async def _date(self, top: bytes, entries: list[Entry], follow: bool) -> None:
        """Ask for the times that 32 bits, all that SFTP has for them, may not tell: before 1970 and after 2037."""
        root = top if top.endswith(b"/") else top + b"/"
        unsure = [entry for entry in entries if entry.mtime > LAST_SURE]
        for start in range(0, len(unsure), BATCH):
            batch = unsure[start : start + BATCH]
            paths = [entry.name if entry.name.startswith(b"/") else root + entry.name for entry in batch]
            asked = [
                self.stat(path, follow=follow and not entry.is_link) for path, entry in zip(paths, batch, strict=True)
            ]
            for entry, answer in zip(batch, await asyncio.gather(*asked, return_exceptions=True), strict=True):
                if isinstance(answer, Attributes):
                    entry.mtime = answer.mtime
                elif not isinstance(answer, PathNotFound | PermissionDenied):
                    raise answer

    async def _named(self, entries: list[Entry]) -> list[Entry]:
        view = self.view
        users, groups = view.users, view.groups
        for entry in entries:
            if entry.uid not in users or entry.gid not in groups:
                await view.resolve(self.runner, (e.uid for e in entries), (e.gid for e in entries))
                break
        for entry in entries:
            entry.user = users.get(entry.uid) or str(entry.uid)
            entry.group = groups.get(entry.gid) or str(entry.gid)
        return entries

    # Reading

    async def _check_regular(self, path: bytes, tool: str) -> int:
        # First of all, and not pipelined with the opening: to open a FIFO blocks the whole server.
        attributes = await self._patiently(self._sftp.stat, path)
        mode = attributes.permissions or 0
        if stat.S_ISDIR(mode):
            # Opening one for reading works, it is the reading that fails; a command has the words for it.
            raise asyncssh.SFTPFailure("Is a directory")
        if not stat.S_ISREG(mode):
            raise not_regular(tool, path)
        return attributes.size or 0

    async def _fetch(self, path: bytes, offset: int, size: int, tool: str) -> bytes:
        length = await self._check_regular(path, tool)
        file = await self._patiently(self._sftp.open, path, asyncssh.FXF_READ, encoding=None, block_size=0)
        if length:
            # The server takes requests in order, so the file may be closed in the same go.
            size = max(0, min(size, length - offset))
            content, closed = await asyncio.gather(
                self._read_once(file, offset, size), self._patiently(file.close), return_exceptions=True
            )
        else:
            content = (await asyncio.gather(self._read_block(file, offset, size), return_exceptions=True))[0]
            closed = await self._patiently(file.close)
        for result in (content, closed):
            if isinstance(result, BaseException):
                raise result
        return cast(bytes, content)

    async def _read_once(self, file: asyncssh.SFTPClientFile, offset: int, size: int) -> bytes:
        if not size:
            return b""
        content = cast(bytes, await self._patiently(file.read, size, offset))
        if len(content) > size:
            self.server.refuse("SFTP: more than was asked for")
            raise asyncssh.SFTPBadMessage("The SFTP server sent more than it was asked for")
        return content

    @asynccontextmanager
    async def _open(self, path: bytes, flags: int, mode: int | None = None) -> AsyncIterator[asyncssh.SFTPClientFile]:
        attributes = asyncssh.SFTPAttrs(permissions=mode)
        # block_size=0: every read and write is one request, the window is ours.
        opening = asyncio.ensure_future(self._sftp.open(path, flags, attributes, encoding=None, block_size=0))
        try:
            file = await self._patiently(asyncio.shield, opening)
        except BaseException:
            await (_cancel([opening]) if self._abandoned else _discard(opening))
            raise
        try:
            yield file
        except BaseException:
            if self._abandoned:
                raise
            with suppress(asyncssh.Error, OSError):
                async with asyncio.timeout(CLEANING):
                    await file.close()
            raise
        await self._patiently(file.close)

    async def _read_block(self, file: asyncssh.SFTPClientFile, offset: int, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            part = await self._read_once(file, offset, min(size, self._block))
            if not part:
                break
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _blocks(self, file: asyncssh.SFTPClientFile, offset: int, left: int | None) -> AsyncIterator[bytes]:
        window: deque[tuple[asyncio.Task[bytes], int]] = deque()
        width = 1
        try:
            while True:
                while len(window) < width and (left is None or left > 0):
                    wanted = self._block if left is None else min(self._block, left)
                    window.append((asyncio.create_task(self._read_block(file, offset, wanted)), wanted))
                    offset += wanted
                    left = None if left is None else left - wanted
                if not window:
                    return
                task, wanted = window[0]
                block = await task
                window.popleft()
                if block:
                    yield block
                if len(block) < wanted:
                    return
                width = min(width * 2, WINDOW)
        finally:
            await _cancel([task for task, _ in window])

    # Writing

    async def footing(self, directory: bytes) -> Footing | None:
        """Say how safe a directory is to write in, links on the way followed if they may be, by LSTATs side by side.

        None is returned of one that is not there, or not to be reached; what is tried there says why.

        Raises:
            PermissionDenied: A link on the way is not followed for writing.
        """
        footings = self.view.footings
        known = footings.get(directory)
        if known is not None:
            return known
        real = directory
        for _ in range(_ATTEMPTS):
            if b".." in real.split(b"/"):
                real = await resolve(self.runner, real)
            paths = ancestors(real)
            # The server begins in the home directory.
            asked = [*paths] if footings.self is not None else [*paths, b"."]
            answers = await asyncio.gather(
                *(self._patiently(self._sftp.lstat, path) for path in asked), return_exceptions=True
            )
            if footings.self is None and isinstance(home := answers.pop(), asyncssh.SFTPAttrs):
                footings.self = Self(home.uid or -1)
            steps: list[Step] = []
            for found in answers:
                if isinstance(found, BaseException):
                    self._pass_over(found, directory)
                    return None
                steps.append(Step(found.permissions or 0, -1 if found.uid is None else found.uid, found.gid or 0))
                if stat.S_ISLNK(steps[-1].mode):
                    break
            else:
                return await footings.judge(self.runner, paths[-1], steps)
            real = await resolve(self.runner, real)
        return Footing(real, fixed=False, kept=False)

    async def _adopt_group(self, file: asyncssh.SFTPClientFile, old: asyncssh.SFTPAttrs, path: bytes) -> int:
        """Put a file into the group of the one that it replaces; return the mode that it should get then."""
        new = await self._patiently(file.stat)
        mode = adopted(old, new.uid)
        if old.gid is None or new.gid == old.gid:
            return mode
        try:
            await self._patiently(file.setstat, asyncssh.SFTPAttrs(uid=new.uid, gid=old.gid))
        except asyncssh.SFTPError as error:
            self._connected(error, path)
            return without_group(mode)
        return mode

    async def _target(self, path: bytes) -> tuple[bytes, asyncssh.SFTPAttrs | None] | None:
        """Return the file that a write replaces, links resolved, and its attributes if it exists.

        None is returned of what is for commands: where others can make a path lead elsewhere while it is used, a file
        that has more to keep than SFTP knows of, another owner or an access control list, and what SFTP cannot tell of.

        Raises:
            PermissionDenied: A link on the way is not followed for writing.
        """
        target = path
        for _ in range(_ATTEMPTS):
            footing, found = await asyncio.gather(
                self.footing(parent(target)), self._patiently(self._sftp.lstat, target), return_exceptions=True
            )
            if isinstance(footing, BaseException):
                raise footing
            untold = False
            if isinstance(found, BaseException):
                self._pass_over(found, path)
                attributes, mode = None, 0
                # There may be no such name at all, which is to be said before anything of the content is asked for.
                untold = not isinstance(found, asyncssh.SFTPNoSuchFile)
            else:
                attributes, mode = found, found.permissions or 0
            if stat.S_ISLNK(mode):
                target = await resolve(self.runner, target)
                continue
            if stat.S_ISDIR(mode):
                raise failure(f"cp: cannot create regular file {quote(path)}", errno.EISDIR)
            if attributes is not None and not stat.S_ISREG(mode):
                raise not_regular("cp", path)
            if footing is None and (why := await self._commands.why_not_written(path)) is not None:
                # Before anything of the content is asked for.
                raise why
            if footing is None or untold or not footing.fixed or target.endswith(b"/"):
                return None
            real = footing.real.rstrip(b"/") + b"/" + target.rpartition(b"/")[2]
            if attributes is None:
                return real, None
            kept = await self._keepable(real, footing.real, attributes)
            return None if kept is None else (real, kept)
        return None

    async def _keepable(self, path: bytes, directory: bytes, found: asyncssh.SFTPAttrs) -> asyncssh.SFTPAttrs | None:
        """Return what a file that replaces one is to get of it, None if that is more than SFTP knows of."""
        me = self.view.footings.self
        if me is None or found.uid != me.uid:
            return None
        try:
            done = await self.runner.run(["sh", "-c", _LISTED, "ls", path, directory])
        except ConnectionLost:
            raise
        except LoginNodeError:
            # No command runs here. With a list the group's bits would be its mask, maybe more than the group has.
            found.permissions = without_group(found.permissions or 0)
            return found
        return None if done.stdout else found

    async def _fill(self, file: asyncssh.SFTPClientFile, content: AsyncIterable[bytes]) -> int:
        window: deque[asyncio.Task[int]] = deque()
        offset = 0
        try:
            async for block in content:
                for start in range(0, len(block), self._write_block):
                    part = block[start : start + self._write_block]
                    while len(window) >= WINDOW:
                        await window[0]
                        window.popleft()
                    window.append(asyncio.create_task(self._patiently(file.write, part, offset)))
                    offset += len(part)
            while window:
                await window[0]
                window.popleft()
        finally:
            await _cancel(window)
        return offset

    async def _move(self, temporary: bytes, target: bytes) -> None:
        try:
            await self._patiently(self._sftp.posix_rename, temporary, target)
        except asyncssh.SFTPError as error:
            self._connected(error, target)
            await self._commands.rename(temporary, target)

    async def _why_not_written(self, path: bytes) -> GatewayError:
        said = await self._commands.why_not_written(path)
        return said if said is not None else CommandFailed(f"cp: error writing {quote(path)}")

    async def _sweep(self, temporary: bytes) -> None:
        if self._abandoned:
            return
        with suppress(asyncssh.Error, OSError):
            async with asyncio.timeout(CLEANING):
                await self._sftp.remove(temporary)


def adopted(old: asyncssh.SFTPAttrs, owner: int | None) -> int:
    """Return the mode that a file gets from the one that it replaces; of somebody else's no setuid and no setgid."""
    return stat.S_IMODE(old.permissions or 0) & (0o7777 if old.uid == owner else 0o777)


def _entry(name: bytes, attributes: asyncssh.SFTPAttrs) -> Entry:
    return Entry(
        name,
        attributes.permissions or 0,
        attributes.uid or 0,
        attributes.gid or 0,
        attributes.size or 0,
        attributes.mtime or 0,
    )


def _learn(view: NodeView, found: SFTPName, entry: Entry) -> None:
    """Take the names of owner and group from what OpenSSH puts into a listing, if it is unmistakable."""
    longname, name = found.longname, found.filename
    if not isinstance(longname, bytes) or not isinstance(name, bytes) or not longname.endswith(b" " + name):
        return
    match = _LONGNAME.fullmatch(longname[: -len(name) - 1])
    if match and int(match[3]) == entry.size:
        view.users.setdefault(entry.uid, match[1].decode("utf-8", "replace"))
        view.groups.setdefault(entry.gid, match[2].decode("utf-8", "replace"))


async def _cancel(tasks: Iterable[asyncio.Future[T]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _discard(opening: asyncio.Future[asyncssh.SFTPClientFile]) -> None:
    """Close a file whose opening nobody waits for any more."""
    with suppress(asyncssh.Error, OSError):
        async with asyncio.timeout(CLEANING):
            file = await opening
            await file.close()
