"""Listing directories by SFTP: names and attributes by READDIR, links by READLINK, and what 32 bits cannot tell."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import cast

import asyncssh
from asyncssh.sftp import SFTPName

from hpcgate.errors import PathNotFound, PermissionDenied
from hpcgate.ssh.files.login_node import NodeView
from hpcgate.ssh.files.protocol import Attributes, Entry, ListingSize
from hpcgate.ssh.files.sftp_requests import SftpRequests
from hpcgate.ssh.runner import Runner

BATCH = 64
"""Requests for links or directories under way at a time."""
LAST_SURE = 2**31 - 1
"""The last time, Unix seconds, that is the same in 32 bits with a sign and without."""
WRAP = 2**32
YEAR = 31_556_952
"""Seconds of a year."""
# What OpenSSH's sftp-server puts into a longname before the file's name: mode, links, user, group, size, date. A name
# of a user or a group with a blank makes it ambiguous; then it does not match.
_LONGNAME = re.compile(rb"[-dlcbpsD?]\S{9}[ +.@]? *(?:\d+|\?) +(\S+) +(\S+) +(\d+) .{12}", re.DOTALL)


class SftpListing:
    """Makes entries of what an SFTP server says of files.

    Args:
        requests: The server.
        runner: For names that a listing does not carry.
        view: What is known of the login node as the user sees it.
        stat: Returns a file's attributes with all of its times, links followed or not.
    """

    def __init__(
        self,
        requests: SftpRequests,
        runner: Runner,
        view: NodeView,
        stat: Callable[[bytes, bool], Awaitable[Attributes]],
    ) -> None:
        self._requests = requests
        self._sftp = requests.server.client
        self._ask = requests.ask
        self._runner = runner
        self._view = view
        self._stat = stat

    async def read(
        self, path: bytes, hidden: bool, recursive: bool, follow: bool, limit: int | None
    ) -> list[Entry] | None:
        """List a directory, or a file; return None if that is for a command, which has the words for it."""
        counter = ListingSize(limit)
        itself, content = await asyncio.gather(
            self._ask(self._entry, path, follow=follow),
            self._directory(path, b"", hidden, follow, counter),
            return_exceptions=True,
        )
        if isinstance(itself, BaseException):
            self._requests.pass_over(itself, path)
            return None
        if not itself.is_directory:
            return [itself]
        if isinstance(content, BaseException):
            self._requests.pass_over(content, path)
            return None
        if recursive:
            await self._descend(path, content, hidden, counter)
        return content

    async def entry(self, path: bytes) -> Entry:
        """Return one file, by LSTAT."""
        return await self._ask(self._entry, path)

    async def _entry(self, path: bytes, *, follow: bool = False) -> Entry:
        entry = _entry(path, await (self._sftp.stat(path) if follow else self._sftp.lstat(path)))
        if entry.is_link:
            entry.link_target = await self._sftp.readlink(path)
        return entry

    async def date(self, top: bytes, entries: list[Entry], follow: bool) -> None:
        """Ask for the times that 32 bits, all that SFTP has for them, may not tell: before 1970 and after 2037."""
        root = top if top.endswith(b"/") else top + b"/"
        unsure = [entry for entry in entries if entry.mtime > LAST_SURE]
        for start in range(0, len(unsure), BATCH):
            batch = unsure[start : start + BATCH]
            paths = [entry.name if entry.name.startswith(b"/") else root + entry.name for entry in batch]
            asked = [self._stat(path, follow and not entry.is_link) for path, entry in zip(paths, batch, strict=True)]
            for entry, answer in zip(batch, await asyncio.gather(*asked, return_exceptions=True), strict=True):
                if isinstance(answer, Attributes):
                    entry.mtime = answer.mtime
                elif not isinstance(answer, PathNotFound | PermissionDenied):
                    raise answer

    async def named(self, entries: list[Entry]) -> list[Entry]:
        """Put the names of owners and groups into entries."""
        view = self._view
        users, groups = view.users, view.groups
        for entry in entries:
            if entry.uid not in users or entry.gid not in groups:
                await view.resolve(self._runner, (e.uid for e in entries), (e.gid for e in entries))
                break
        for entry in entries:
            entry.user = users.get(entry.uid) or str(entry.uid)
            entry.group = groups.get(entry.gid) or str(entry.gid)
        return entries

    async def complete(self, directory: bytes, skip: int, entries: list[Entry], follow: bool) -> None:
        """Ask where links lead, or, if they are followed, what lies there.

        Args:
            directory: Where the entries lie.
            skip: Bytes of their names that are the directory's.
            entries: The entries.
            follow: Whether links are followed.
        """
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

    def listed(self, found: SFTPName, prefix: bytes, hidden: bool) -> Entry | None:
        """Return an entry of a directory, None if it is not to be shown."""
        name, view = found.filename, self._view
        if name in (b".", b"..") or not isinstance(name, bytes) or (not hidden and name.startswith(b".")):
            return None
        entry = _entry(prefix + name, found.attrs)
        if isinstance(longname := found.longname, bytes) and _contradicted(longname, len(name), entry.mtime):
            # Not what 32 bits say: `date` is to ask.
            entry.mtime += WRAP
        if entry.uid not in view.users or entry.gid not in view.groups:
            _learn(view, found, entry)
        return entry

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
                    self._requests.pass_over(result, root + name)
                else:
                    content += result
                    level += (entry.name for entry in result if entry.is_directory)

    async def _directory(
        self, path: bytes, prefix: bytes, hidden: bool, follow: bool, counter: ListingSize
    ) -> list[Entry]:
        entries: list[Entry] = []
        await self._ask(self._scan, path, prefix, hidden, counter, entries)
        await self.complete(path, len(prefix), entries, follow)
        counter.add(sum(len(entry.link_target) for entry in entries if entry.link_target), rows=0)
        return entries

    async def _scan(self, path: bytes, prefix: bytes, hidden: bool, counter: ListingSize, entries: list[Entry]) -> None:
        async with aclosing(cast(AsyncGenerator[SFTPName, None], self._sftp.scandir(path))) as scan:
            empty = True
            async for found in scan:
                empty = False
                entry = self.listed(found, prefix, hidden)
                if entry is not None:
                    counter.add(len(entry.name))
                    entries.append(entry)
        if empty:
            await look_inside(self._sftp, path)

    async def _followed(self, path: bytes) -> Entry | bytes:
        try:
            return await self._ask(self._entry, path, follow=True)
        except asyncssh.SFTPError as error:
            self._requests.check(error, path)
            return await self._readlink(path)

    async def _readlink(self, path: bytes) -> bytes:
        try:
            return await self._ask(self._sftp.readlink, path)
        except asyncssh.SFTPError as error:
            # It has just been removed.
            self._requests.check(error, path)
            return b""


def _entry(name: bytes, attributes: asyncssh.SFTPAttrs) -> Entry:
    return Entry(
        name,
        attributes.permissions or 0,
        attributes.uid or 0,
        attributes.gid or 0,
        attributes.size or 0,
        attributes.mtime or 0,
    )


async def look_inside(sftp: asyncssh.SFTPClient, path: bytes) -> None:
    """Return if what lies in a directory may be looked at: one without even itself and that above it may be empty.

    OpenSSH leaves out what it may not look at: that is a directory whose names alone may be read. Others send no dots.

    Raises:
        asyncssh.SFTPError: It may not.
    """
    await sftp.stat(path.rstrip(b"/") + b"/.")


def _contradicted(longname: bytes, size: int, mtime: int) -> bool:
    """Say whether what OpenSSH puts before the file's name, of this size in bytes, is of another year than the time.

    It prints the year of what is not of the last six months, and nothing where that has no four digits.
    """
    end = len(longname) - size
    date = longname[end - 13 : end]
    if date[7:8] == b" " and (year := date[8:12]).isdigit():
        return abs(int(year) - 1970 - mtime / YEAR) > 2
    return date[11:13] == b"  " and date[10:11].isdigit()


def _learn(view: NodeView, found: SFTPName, entry: Entry) -> None:
    """Take the names of owner and group from what OpenSSH puts into a listing, if it is unmistakable."""
    longname, name = found.longname, found.filename
    if not isinstance(longname, bytes) or not isinstance(name, bytes) or not longname.endswith(b" " + name):
        return
    match = _LONGNAME.fullmatch(longname[: -len(name) - 1])
    if match and int(match[3]) == entry.size:
        view.hear(entry.uid, match[1].decode("utf-8", "replace"), entry.gid, match[2].decode("utf-8", "replace"))
