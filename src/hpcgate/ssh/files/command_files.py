"""Files by plain commands, for login nodes that do not offer SFTP. Each method is one command, run under sh."""

import asyncio
import errno
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence

from hpcgate.errors import CommandFailed, GatewayError, NeverBegan, TooLarge
from hpcgate.ssh.commands.command import START_UP_FILES
from hpcgate.ssh.files.command_attributes import CHMOD, MKDIR, MKDIR_PARENTS, REMOVE, RENAME, SYMLINK, stand_and
from hpcgate.ssh.files.command_output import LS, STAT, parse_listing, parse_stat, size_in
from hpcgate.ssh.files.command_scripts import CUT, LOOK, PARTLY, PROBE, READ, TRAILER, WRITE
from hpcgate.ssh.files.coreutils_errors import (
    NOT_REGULAR,
    by_name,
    error_from_stderr,
    failure,
    not_regular,
    number_in,
    quote,
    stderr_lines,
    unreadable,
)
from hpcgate.ssh.files.footing import untrusted
from hpcgate.ssh.files.login_node import NodeView
from hpcgate.ssh.files.protocol import (
    ROW,
    Attributes,
    Entry,
    ListingSize,
    Look,
    refuse_root,
    temporary_name,
    too_large,
)
from hpcgate.ssh.runner import SHORT, Completed, Runner, understanding

BLOCK = 4 * 1024 * 1024
"""Bytes that one command of a stream reads."""
UPLOAD_TIMEOUT = 3600.0
"""Seconds that an upload may take, most of which are the client's."""
LARGE = 64 * 1024
"""Bytes of a listing whose parsing would keep all other requests waiting for longer than a few milliseconds."""
MAX_NAMED = 16 * 1024
"""Bytes of file names that are put on one command line."""


class Framed:
    """Content with the end by which the login node can tell that it has all of it, and nothing but it.

    Attributes:
        word: What the end begins with.
        size: Bytes of the content that have been sent.
    """

    def __init__(self, content: AsyncIterable[bytes]) -> None:
        self.word = secrets.token_hex(TRAILER // 4)
        self.size = 0
        self._content = content

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield the content and its end."""
        async for block in self._content:
            self.size += len(block)
            yield block
        yield f"{self.word}{self.size:016d}".encode()


def refuse_names_alone(status: int | None, stderr: bytes) -> None:
    """See that a listing without entries is that of an empty directory.

    Raises:
        PermissionDenied: The names in the directory may be read, but nothing else of what they stand for.
    """
    if status and number_in(stderr_lines(stderr, "ls")) == errno.EACCES:
        raise error_from_stderr(stderr, "ls")


class CommandFiles:
    """`hpcgate.ssh.files.protocol.RemoteFiles` by commands of a POSIX shell and GNU coreutils."""

    def __init__(self, runner: Runner, view: NodeView) -> None:
        self._runner = runner
        self._view = view

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
        """List as the protocol says, by one ``ls``."""
        argv = ls(path, hidden=hidden, recursive=recursive, follow=follow)
        try:
            done = await self._runner.run(argv, limit=None if limit is None else _most_printed(limit, path, recursive))
        except TooLarge:
            raise too_large(limit or 0) from None
        # It also fails for a file below that it could not reach, having told of all others.
        if done.exit_status not in (0, 1, 2) or (not done.ok and not done.stdout):
            raise error_from_stderr(done.stderr, "ls")
        with understanding("ls"):
            if len(done.stdout) > LARGE:
                entries, unknown = await asyncio.to_thread(parse_listing, done.stdout, path)
            else:
                entries, unknown = parse_listing(done.stdout, path)
        if unknown:
            entries += await self._links(path, unknown)
        if not entries:
            refuse_names_alone(done.exit_status, done.stderr)
        ListingSize(limit).add_all(entries)
        return await self._named(entries) if names else entries

    async def entry(self, path: bytes) -> Entry:
        """Return one file, by ``ls -d``."""
        done = await self._runner.run([*LS, "-d", "--", path], limit=SHORT)
        with understanding("ls"):
            entries, _ = parse_listing(done.stdout, path)
        if not done.ok or len(entries) != 1:
            raise error_from_stderr(done.stderr, "ls")
        return (await self._named(entries))[0]

    async def stat(self, path: bytes, *, follow: bool = True) -> Attributes:
        """Return attributes, by ``stat``."""
        done = await self._runner.run(["stat", *(["-L"] if follow else []), "-c", STAT, "--", path], limit=SHORT)
        if not done.ok:
            raise error_from_stderr(done.stderr, "stat")
        with understanding("stat"):
            return parse_stat(done.stdout)

    async def realpath(self, path: bytes) -> bytes:
        """Resolve links, by ``realpath``."""
        done = await self._runner.run(["realpath", "-z", "--", path], limit=SHORT)
        if not done.ok:
            raise error_from_stderr(done.stderr, "realpath")
        return done.stdout.removesuffix(b"\0")

    async def read(self, path: bytes, *, offset: int = 0, size: int | None = None, tool: str = "cat") -> bytes:
        """Read, by ``dd``."""
        done = await self._runner.run(
            ["sh", "-c", READ, tool, path, str(offset), "" if size is None else str(size)], limit=size
        )
        if not done.ok:
            raise _reading(done, path, tool)
        return done.stdout

    async def look(self, path: bytes, *, start: int, above: int, size: int, inode: int = 0) -> Look:
        """Look into a file, by ``stat`` and ``dd`` on one descriptor. It is not held."""
        argv: list[str | bytes] = ["sh", "-c", LOOK, "cat", path, str(start), str(above), str(size)]
        done = await self._runner.run(argv, limit=SHORT + size)
        if not done.ok:
            raise _reading(done, path, "cat")
        return looked(done.stdout, size, "stat")

    async def release(self, path: bytes) -> None:
        """Nothing is held."""

    async def stream(self, path: bytes, *, offset: int = 0, size: int | None = None) -> AsyncIterator[bytes]:
        """Yield a file's bytes, a command for every `BLOCK`."""
        left = size
        while left is None or left > 0:
            wanted = BLOCK if left is None else min(BLOCK, left)
            block = await self.read(path, offset=offset, size=wanted)
            if block:
                yield block
            if len(block) < wanted:
                return
            offset += len(block)
            left = None if left is None else left - len(block)

    async def write(self, path: bytes, content: AsyncIterable[bytes], *, mode: int | None = None) -> int:
        """Write atomically, by one ``dd`` and ``mv``."""
        framed = Framed(content)
        done = await self._runner.run(
            [
                "sh",
                "-c",
                WRITE,
                "cp",
                path,
                temporary_name(),
                framed.word,
                str(TRAILER),
                "" if mode is None else f"{mode:04o}",
            ],
            stdin=framed.blocks(),
            timeout=UPLOAD_TIMEOUT,
        )
        if not done.ok:
            raise unwritable(path, done)
        return size_in(done.stdout, "stat")

    async def rename(self, source: bytes, target: bytes) -> None:
        """Rename, by ``mv -T``."""
        await stand_and(self._runner, RENAME, "mv", source, source, target)

    async def mkdir(self, path: bytes, *, parents: bool = False) -> None:
        """Make a directory, by ``mkdir``."""
        await stand_and(self._runner, MKDIR_PARENTS if parents else MKDIR, "mkdir", path, path)

    async def symlink(self, target: bytes, link: bytes) -> None:
        """Make a symbolic link, by ``ln -sT``."""
        await stand_and(self._runner, SYMLINK, "ln", link, target, link)

    async def chmod(self, path: bytes, mode: int) -> None:
        """Set permission bits, by ``chmod`` with five digits, which clear a directory's setgid bit too."""
        await stand_and(self._runner, CHMOD, "chmod", path, path, f"{mode:05o}")

    async def remove(self, path: bytes) -> None:
        """Remove a file or a tree, by ``rm -r``."""
        refuse_root(path)
        # Unlike -f this tells of a file that is not there; like it, nothing is ever asked.
        await stand_and(self._runner, REMOVE, "rm", path, path)

    async def command(self, tool: str, *arguments: str | bytes, otherwise: type[GatewayError] = CommandFailed) -> None:
        """Run a tool that only has an effect.

        Args:
            tool: The tool.
            arguments: Its arguments.
            otherwise: The class of an error that is not an errno value.
        """
        done = await self._runner.run([tool, *arguments])
        if not done.ok:
            raise error_from_stderr(done.stderr, tool, otherwise=otherwise)

    async def why_not_written(self, path: bytes) -> GatewayError | None:
        """Return why a file cannot be written, or None if now it can."""
        done = await self._runner.run(["sh", "-c", PROBE, "cp", path, temporary_name()])
        return None if done.ok else unwritable(path, done)

    async def _named(self, entries: list[Entry]) -> list[Entry]:
        view = self._view
        await view.resolve(self._runner, (entry.uid for entry in entries), (entry.gid for entry in entries))
        for entry in entries:
            entry.user = view.users.get(entry.uid) or str(entry.uid)
            entry.group = view.groups.get(entry.gid) or str(entry.gid)
        return entries

    async def _links(self, top: bytes, names: list[bytes]) -> list[Entry]:
        # With -L ls only names what it cannot follow; the links themselves are worth showing.
        root = top if top.endswith(b"/") else top + b"/"
        found: list[Entry] = []
        for paths in _portions([root + name for name in names]):
            done = await self._runner.run([*LS, "-d", "--", *paths], limit=SHORT)
            with understanding("ls"):
                links, _ = parse_listing(done.stdout, top)
            for entry in links:
                entry.name = entry.name.removeprefix(root)
                found.append(entry)
        return found


def ls(path: bytes, *, hidden: bool, recursive: bool, follow: bool) -> list[str | bytes]:
    """Return the command that lists, for `parse_listing`."""
    options = "".join(letter for letter, wanted in (("A", hidden), ("R", recursive), ("L", follow)) if wanted)
    return [*LS, *([f"-{options}"] if options else []), "--", path]


def _most_printed(limit: int, path: bytes, recursive: bool) -> int:
    """Return the most bytes that ls prints of a listing within a limit.

    A byte of a name takes up to four, a row besides up to twice `ROW`; each directory's heading has the whole path.
    """
    return 64 * 1024 + limit * (4 + (len(path) * 4 // ROW + 1 if recursive else 0))


def _portions(names: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    portion: list[bytes] = []
    size = 0
    for name in names:
        if portion and size + len(name) > MAX_NAMED:
            yield portion
            portion, size = [], 0
        portion.append(name)
        size += len(name)
    if portion:
        yield portion


def looked(said: bytes, size: int, tool: str) -> Look:
    """Read what a command has said of a look into a file: a line of attributes, and content of at most `size` bytes.

    Raises:
        BadAnswer: It is something else.
    """
    line, _, content = said.partition(b"\n")
    with understanding(tool):
        if len(content) > size:
            raise ValueError("more than was asked for")
        return Look(parse_stat(line), content)


def _reading(done: Completed, path: bytes, tool: str) -> GatewayError:
    lines = stderr_lines(done.stderr, "dd")
    if NOT_REGULAR in lines:
        return not_regular(tool, path)
    number = number_in(lines)
    return error_from_stderr(done.stderr, "dd") if number is None else unreadable(tool, path, number)


# What has been taken cannot be read again, which is how it is seen to be whole.
_UNREAD = re.compile(r"(?:stat|tail): .*/dev/fd/4")
# dd's words and those of sync and truncate, of file systems that say only then that they have not stored something.
_STORING = re.compile(r"error (?:writ|sync)ing|closing output file|f(?:data)?sync failed|failed to (?:close|truncate)")


def lost(path: bytes) -> NeverBegan:
    """Return the error for an upload that the login node has not got all of although all was sent."""
    return NeverBegan(
        f"cp: {quote(path)}: not all that was sent has arrived. {START_UP_FILES} may have read some of it"
    )


def unwritable(path: bytes, done: Completed) -> GatewayError:
    """Compose the error of an upload that `WRITE` or a probe of it could not carry out, in cp's words."""
    if (refused := untrusted(done.stderr)) is not None:
        return refused
    unread = [line for line in by_name(done.stderr.decode("utf-8", "replace")).splitlines() if _UNREAD.match(line)]
    if done.exit_status == CUT and number_in(unread) is None:
        return lost(path)
    lines = unread if done.exit_status == CUT else stderr_lines(done.stderr, "dd")
    if NOT_REGULAR in lines:
        return not_regular("cp", path)
    number = number_in(lines)
    if number is None:
        return error_from_stderr(done.stderr, "dd")
    partly = [line for line in done.words.splitlines() if line.startswith(PARTLY)]
    if partly:
        return failure(f"{partly[0]}: cp: error writing {quote(path)}", number)
    if any(_STORING.search(line) for line in lines):
        return failure(f"cp: error writing {quote(path)}", number)
    return failure(f"cp: cannot create regular file {quote(path)}", number)
