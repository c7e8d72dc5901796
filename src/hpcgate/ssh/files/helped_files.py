"""Files with the helper in front: what it can tell in one exchange is asked of it, all else goes the way behind it."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable

from hpcgate.ssh.files.helper import Helper
from hpcgate.ssh.files.protocol import Attributes, Entry, ListingSize, Look, RemoteFiles


class HelpedFiles:
    """`hpcgate.ssh.files.protocol.RemoteFiles` by the helper where it helps.

    Args:
        helper: The helper.
        behind: Returns the files by SFTP or by commands; SFTP is not opened before it is needed.
        lists: Whether listings may come from it, which knows nothing of access control lists. No more does SFTP.
    """

    def __init__(self, helper: Helper, behind: Callable[[], Awaitable[RemoteFiles]], *, lists: bool) -> None:
        self._helper = helper
        self._behind = behind
        self._lists = lists

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
        """List one directory in one exchange, if it is neither large nor followed further."""
        if self._lists and not recursive and not follow:
            entries = await self._helper.listing(path, hidden=hidden)
            if entries is not None:
                ListingSize(limit).add_all(entries)
                return entries
        behind = await self._behind()
        return await behind.listing(path, hidden=hidden, recursive=recursive, follow=follow, names=names, limit=limit)

    async def entry(self, path: bytes) -> Entry:
        """Return one file."""
        return await (await self._behind()).entry(path)

    async def stat(self, path: bytes, *, follow: bool = True) -> Attributes:
        """Return attributes in one exchange."""
        found = await self._helper.stat(path, follow=follow)
        return found if found is not None else await (await self._behind()).stat(path, follow=follow)

    async def realpath(self, path: bytes) -> bytes:
        """Resolve links."""
        return await (await self._behind()).realpath(path)

    async def read(self, path: bytes, *, offset: int = 0, size: int | None = None, tool: str = "cat") -> bytes:
        """Read in one exchange, if it is not much."""
        if size is not None:
            content = await self._helper.read(path, offset=offset, size=size)
            if content is not None:
                return content
        return await (await self._behind()).read(path, offset=offset, size=size, tool=tool)

    async def look(self, path: bytes, *, start: int, above: int, size: int, inode: int = 0) -> Look:
        """Look into a file in one exchange; the helper holds it."""
        found = await self._helper.look(path, start=start, above=above, size=size, inode=inode)
        if found is not None:
            return found
        return await (await self._behind()).look(path, start=start, above=above, size=size, inode=inode)

    async def release(self, path: bytes) -> None:
        """Have the helper hold a file no longer."""
        await self._helper.release(path)

    async def stream(self, path: bytes, *, offset: int = 0, size: int | None = None) -> AsyncIterator[bytes]:
        """Yield a file's bytes."""
        async for block in (await self._behind()).stream(path, offset=offset, size=size):
            yield block

    async def write(self, path: bytes, content: AsyncIterable[bytes], *, mode: int | None = None) -> int:
        """Write atomically."""
        return await (await self._behind()).write(path, content, mode=mode)

    async def rename(self, source: bytes, target: bytes) -> None:
        """Rename."""
        await (await self._behind()).rename(source, target)

    async def mkdir(self, path: bytes, *, parents: bool = False) -> None:
        """Make a directory."""
        await (await self._behind()).mkdir(path, parents=parents)

    async def symlink(self, target: bytes, link: bytes) -> None:
        """Make a symbolic link."""
        await (await self._behind()).symlink(target, link)

    async def chmod(self, path: bytes, mode: int) -> None:
        """Set permission bits."""
        await (await self._behind()).chmod(path, mode)

    async def remove(self, path: bytes) -> None:
        """Remove a file or a tree."""
        await (await self._behind()).remove(path)
