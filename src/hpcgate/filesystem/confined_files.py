"""Files beneath the paths of a rule: what `hpcgate.ssh.files` does by commands, done by the program of `beneath`."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any

from hpcgate.auth.policy import Grant
from hpcgate.errors import BadAnswer, ConnectionLost, Denied, GatewayError, PathNotFound
from hpcgate.filesystem.beneath import Beneath, bytes_of
from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.files.command_files import LARGE, looked, unwritable
from hpcgate.ssh.files.command_output import parse_stat, size_in
from hpcgate.ssh.files.command_streams import CommandStreams, OpenByCommand, said_in
from hpcgate.ssh.files.coreutils_errors import (
    NOT_REGULAR,
    error_from_stderr,
    not_regular,
    number_in,
    quote,
    shown,
    stderr_lines,
    unreadable,
)
from hpcgate.ssh.files.login_node import NodeView
from hpcgate.ssh.files.private_directory import PRIVATE_MODE, PrivateDirectory, not_private
from hpcgate.ssh.files.protocol import (
    Attributes,
    Entry,
    Look,
    Replacing,
    refuse_root,
    temporary_name,
    too_large,
)
from hpcgate.ssh.files.streams import PATIENCE, SYNC_PATIENCE, OpenFile, Ready
from hpcgate.ssh.runner import SHORT, Completed, understanding
from hpcgate.ssh.session import Session

MAX_PART = 16 * 1024 * 1024
"""Bytes of a part of a listing: 500 entries of the longest names and link targets, in JSON."""


class ConfinedFiles(CommandStreams):
    """`hpcgate.ssh.files.streams.Streams` by the program: nothing of `CommandStreams` that runs a command is left."""

    def __init__(self, beneath: Beneath, view: NodeView, session: Session) -> None:
        super().__init__(_NoRunner(beneath.grant), view)
        self._beneath = beneath
        self._session = session
        self._names = view

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
        """List as the protocol says."""
        done = await self._beneath.run(
            "list",
            f"ls: cannot access {quote(path)}",
            path=path,
            hidden=hidden,
            recursive=recursive,
            follow=follow or path.endswith(b"/"),
            most=limit,
            # A byte of a name takes up to six in JSON, and what stands beside it less than 200.
            limit=None if limit is None else 64 * 1024 + 6 * limit,
        )
        if not done.ok:
            if done.words.endswith("listing is too large"):
                raise too_large(limit or 0)
            raise error_from_stderr(done.stderr, "ls")
        return await self._shown(done.stdout, names=names)

    async def scan(
        self, path: bytes, *, hidden: bool = True, recursive: bool = False, follow: bool = False, names: bool = True
    ) -> AsyncGenerator[list[Entry]]:
        """List, a part at a time."""
        started = self._beneath.process(
            "list",
            f"ls: cannot access {quote(path)}",
            stall=SYNC_PATIENCE,
            path=path,
            hidden=hidden,
            recursive=recursive,
            follow=follow or path.endswith(b"/"),
            parts=True,
        )
        async with started as process, aclosing(process.output()) as output:
            held, size = [b""], 0
            async for block in output:
                lines = []
                held.append(block)
                size += len(block)
                if b"\n" in block:
                    # Only then is it put together: what has no end would be copied with each block.
                    *lines, rest = b"".join(held).split(b"\n")
                    held, size = [rest], len(rest)
                if size > MAX_PART:
                    raise BadAnswer("python3 on the login node says more than it was asked")
                for line in lines:
                    yield await self._shown(line, names=names)
            done = await self._beneath.ended(process)
        if not done.ok:
            raise error_from_stderr(done.stderr, "ls")

    async def entry(self, path: bytes) -> Entry:
        """Return one file."""
        said = await self._beneath.do("entry", f"ls: cannot access {quote(path)}", path=path)
        with understanding("python3"):
            (entry,) = await self._shown(said, names=True)
        return entry

    async def _shown(self, rows: bytes, *, names: bool) -> list[Entry]:
        with understanding("python3"):
            entries = await asyncio.to_thread(_entries, rows) if len(rows) > LARGE else _entries(rows)
        if not names:
            return entries
        view = self._names
        await view.resolve(self._beneath.session, (entry.uid for entry in entries), (entry.gid for entry in entries))
        for entry in entries:
            entry.user = view.users.get(entry.uid) or str(entry.uid)
            entry.group = view.groups.get(entry.gid) or str(entry.gid)
        return entries

    async def stat(self, path: bytes, *, follow: bool = True) -> Attributes:
        """Return attributes."""
        said = await self._beneath.do("stat", f"stat: cannot statx {quote(path)}", path=path, follow=follow)
        with understanding("python3"):
            return parse_stat(said)

    async def realpath(self, path: bytes) -> bytes:
        """Resolve links."""
        return await self._beneath.do("realpath", f"realpath: {shown(path)}", path=path)

    async def read(self, path: bytes, *, offset: int = 0, size: int | None = None, tool: str = "cat") -> bytes:
        """Read a part."""
        done = await self._beneath.run(
            "read", f"{tool}: {shown(path)}", path=path, offset=offset, size=size, limit=size
        )
        if not done.ok:
            raise _unread(done, path, tool)
        return done.stdout

    async def look(self, path: bytes, *, start: int, above: int, size: int, inode: int = 0) -> Look:
        """Look into a file, whose path is walked anew each time. It is not held."""
        done = await self._beneath.run(
            "look", f"cat: {shown(path)}", path=path, start=start, above=above, size=size, limit=SHORT + size
        )
        if not done.ok:
            raise _unread(done, path, "cat")
        return looked(done.stdout, size, "python3")

    async def release(self, path: bytes) -> None:
        """Nothing is held."""

    async def write(self, path: bytes, content: AsyncIterable[bytes], *, mode: int | None = None) -> int:
        """Write atomically."""
        return await self._replace(path, content, mode=mode)

    async def rename(self, source: bytes, target: bytes) -> None:
        """Rename."""
        await self.move(source, target)

    async def mkdir(self, path: bytes, *, parents: bool = False) -> None:
        """Make a directory."""
        words = f"mkdir: cannot create directory {quote(path)}"
        await self._beneath.do("mkdir", words, path=path, parents=parents)

    async def symlink(self, target: bytes, link: bytes) -> None:
        """Make a symbolic link, whose target must lie beneath the paths."""
        words = f"ln: failed to create symbolic link {quote(link)}"
        await self._beneath.do("symlink", words, path=link, target=target)

    async def chmod(self, path: bytes, mode: int) -> None:
        """Set permission bits."""
        await self._beneath.do("chmod", f"chmod: changing permissions of {quote(path)}", path=path, mode=mode)

    async def remove(self, path: bytes) -> None:
        """Remove a file or a tree."""
        refuse_root(path)
        await self._beneath.do("remove", f"rm: cannot remove {quote(path)}", path=path)

    @asynccontextmanager
    async def open(self, path: bytes) -> AsyncIterator[OpenFile]:
        """Open, in a process that lives as long as the file is open."""
        started = self._beneath.process("open", f"cat: {shown(path)}", stall=PATIENCE, path=path)
        async with started as process, aclosing(process.output()) as output:
            line = await said_in(process, output, until=b"\n")
            if b"\n" not in line:
                raise _unread(await self._beneath.ended(process), path, "cat")
            with understanding("python3"):
                attributes = parse_stat(line)
            yield OpenByCommand(process, output, path, attributes)

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
        """Write atomically, or in place."""
        return await self._replace(path, content, sync=sync, exclusive=exclusive, ready=ready, how=how)

    async def _replace(
        self,
        path: bytes,
        content: AsyncIterable[bytes],
        *,
        mode: int | None = None,
        sync: bool = False,
        exclusive: bool = False,
        ready: Ready | None = None,
        how: Replacing = Replacing.atomic,
    ) -> int:
        words = f"cp: cannot create regular file {quote(path)}"
        started = self._beneath.process(
            "replace",
            words,
            stall=SYNC_PATIENCE if sync else PATIENCE,
            path=path,
            temporary=temporary_name(),
            mode=mode,
            sync=sync,
            exclusive=exclusive,
            ask=ready is not None,
            how=how.value,
        )
        async with started as process, aclosing(process.output()) as output:
            await _feed(process, content)
            said = b""
            if ready is not None:
                said = await said_in(process, output, until=b"\0")
                if said.endswith(b"\0"):
                    await ready(said[:-1])
                    await process.feed_block(b"go\n")
                    said = b""
            process.feed_end()
            said += await said_in(process, output)
            done = await self._beneath.ended(process)
        if not done.ok:
            raise unwritable(path, done)
        return size_in(said, "python3")

    async def extend(self, path: bytes, content: AsyncIterable[bytes], *, offset: int) -> int:
        """Write in place; what came before a failure stays."""
        failed: list[Exception] = []

        async def until_failure() -> AsyncIterator[bytes]:
            try:
                async for block in content:
                    yield block
            except Exception as error:
                failed.append(error)

        words = f"cp: cannot create regular file {quote(path)}"
        started = self._beneath.process("extend", words, stall=PATIENCE, path=path, offset=offset)
        async with started as process, aclosing(process.output()) as output:
            await _feed(process, until_failure())
            process.feed_end()
            said = await said_in(process, output)
            done = await self._beneath.ended(process)
        if failed:
            raise failed[0]
        if not done.ok:
            raise unwritable(path, done)
        return size_in(said, "python3")

    async def create(self, path: bytes, *, private: bool = False) -> None:
        """Make an empty file."""
        words = f"cp: cannot create regular file {quote(path)}"
        await self._beneath.do("create", words, path=path, private=private)

    async def truncate(self, path: bytes, size: int) -> None:
        """Cut."""
        await self._beneath.do("truncate", f"truncate: failed to truncate {quote(path)}", path=path, size=size)

    async def sync(self, path: bytes) -> None:
        """Have a file on disk."""
        await self._beneath.do("sync", f"sync: {quote(path)}", path=path, timeout=SYNC_PATIENCE)

    async def move(self, source: bytes, target: bytes, *, exclusive: bool = False) -> None:
        """Rename, or fail if there is a target."""
        words = f"mv: cannot move {quote(source)} to {quote(target)}"
        await self._beneath.do("rename", words, path=source, target=target, exclusive=exclusive)

    async def resolve(self, path: bytes) -> bytes:
        """Follow links that stay beneath the paths."""
        return await self._beneath.do("realpath", f"realpath: {shown(path)}", path=path, writing=True)

    async def make_private(self, directory: bytes, name: bytes) -> PrivateDirectory:
        """Make a directory of the user's alone."""
        path = directory.rstrip(b"/") + b"/" + name
        words = f"mkdir: cannot create directory {quote(path)}"
        await self._beneath.do("mkdir", words, path=path, parents=False, mode=PRIVATE_MODE)
        try:
            return await self.private(directory, name)
        except PathNotFound:
            await self.remove_private(directory, name)
            raise not_private(path) from None

    async def private(self, directory: bytes, name: bytes) -> PrivateDirectory:
        """Look at a directory. The program does so again whenever it walks through one of that name."""
        path = directory.rstrip(b"/") + b"/" + name
        await self._beneath.do("private", f"stat: cannot statx {quote(path)}", path=path)
        return PrivateDirectory.by_path(self, self._session, directory, name)

    async def remove_private(self, directory: bytes, name: bytes) -> None:
        """Remove a directory if it is empty."""
        path = directory.rstrip(b"/") + b"/" + name
        await self._beneath.run("rmdir", f"rmdir: failed to remove {quote(path)}", path=path)

    async def command(self, tool: str, *arguments: str | bytes, otherwise: type[GatewayError] = GatewayError) -> None:
        """Deny: nothing here is done by commands."""
        raise Denied(self._beneath.grant.rule, f"what {tool} does is not checked")


def _entries(rows: bytes) -> list[Entry]:
    return [_entry(*row) for row in json.loads(rows)]


def _entry(name: str, mode: int, uid: int, gid: int, size: int, mtime: int, link: str | None, mark: str) -> Entry:
    if not all(isinstance(number, int) and abs(number) < 1 << 64 for number in (mode, uid, gid, size, mtime)):
        raise ValueError("not numbers of stat(2)")
    target = None if link is None else bytes_of(link)
    return Entry(bytes_of(name), mode, uid, gid, size, mtime, link_target=target, mark=str(mark))


class _NoRunner:
    """Runs nothing: what of `CommandStreams` has been forgotten here is denied."""

    def __init__(self, grant: Grant) -> None:
        self._grant = grant

    async def run(self, argv: Sequence[str | bytes], **_: Any) -> Completed:
        raise Denied(self._grant.rule, "it is not checked")

    async def ask(self, argv: Sequence[str], request: bytes, *, limit: int | None = None) -> bytes:
        raise Denied(self._grant.rule, "it is not checked")

    def dismiss(self, argv: Sequence[str]) -> None:
        pass

    def process(self, argv: Sequence[str | bytes], **_: Any) -> AbstractAsyncContextManager[Process]:
        raise Denied(self._grant.rule, "it is not checked")


async def _feed(process: Process, content: AsyncIterable[bytes]) -> None:
    """Send content as blocks with their lengths before them; without the end, it counts as broken off."""
    async for block in content:
        if block and not await process.feed_block(b"%x\n" % len(block) + block):
            return
    await process.feed_block(b"0\n")


def _unread(done: Completed, path: bytes, tool: str) -> GatewayError:
    if done.ok:
        return ConnectionLost(f"{tool}: {quote(path)}: the login node said nothing")
    lines = stderr_lines(done.stderr, tool)
    if NOT_REGULAR in lines:
        return not_regular(tool, path)
    number = number_in(lines)
    return error_from_stderr(done.stderr, tool) if number is None else unreadable(tool, path, number)
