"""A session that cannot leave the paths of a rule: what it touches is checked where and when it is touched.

`Confined` stands in for a `Session` where the policy's rule has paths. It runs no command but one: the program
`hpcgate.filesystem.beneath_program`, which walks each path without following links past the rule's paths and works
relative to what it holds open. What the program cannot do is denied, commands of plug-ins among it.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from importlib.resources import files
from typing import Any, TypeVar

from hpcgate.auth import Principal
from hpcgate.auth.policy import Grant
from hpcgate.errors import BadAnswer, ConnectionLost, Denied, GatewayError, NotSupported, PathNotFound
from hpcgate.filesystem import checksum, compress, extract, file_type, unpacking
from hpcgate.filesystem.tus import scripts
from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.commands.quoting import Steering
from hpcgate.ssh.files import command_attributes
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
    RemoteFiles,
    Replacing,
    refuse_root,
    temporary_name,
    too_large,
)
from hpcgate.ssh.files.streams import PATIENCE, SYNC_PATIENCE, OpenFile, Ready, Streams
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.runner import SHORT, Completed, understanding
from hpcgate.ssh.session import Session

T = TypeVar("T")

PROGRAM = files("hpcgate.filesystem").joinpath("beneath_program.py").read_bytes()
_MAX_PART = 16 * 1024 * 1024
"""Bytes of a part of a listing: 500 entries of the longest names and link targets, in JSON."""
DENIED = 77
"""The exit status of the program for what the rule does not allow."""
MISSING = 127
"""Its exit status where there is no Python for it."""
WHAT = "Python 3.6 or later (python3), which checks paths under a policy rule that has any"

_LAUNCHER = """\
for p in /usr/bin/python3 /usr/libexec/platform-python python3; do
  command -v "$p" >/dev/null 2>&1 && "$p" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 6))' </dev/null &&
  exec "$p" -I -S -c 'import sys; exec(compile(sys.stdin.buffer.read(int(sys.argv[1])), "hpcgate", "exec"))' "$1"
done
exit 127
"""


def request(grant: Grant, do: str, words: str, **parameters: Any) -> str:
    """Return a request to the program as one line of ASCII.

    Args:
        grant: What holds the roots.
        do: The program's operation.
        words: What an error's message begins with.
        parameters: Of the operation; paths are bytes.
    """
    asked = {"do": do, "words": words, "roots": [_text(path) for path in grant.paths or ()]}
    asked |= {name: _plain(value) for name, value in parameters.items() if value is not None}
    return json.dumps(asked)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return _text(value)
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def check(done: Completed, grant: Grant, system: str) -> None:
    """Return unless the program has said that the rule denies it, or there is no Python.

    Raises:
        Denied, NotSupported: It is so.
    """
    if done.exit_status == DENIED:
        lines = [line for line in done.words.splitlines() if line.startswith("hpcgate: denied: ")]
        raise Denied(grant.rule, lines[-1].removeprefix("hpcgate: denied: ") if lines else "it leads elsewhere")
    if done.exit_status == MISSING:
        raise NotSupported(f"The login node of {system} lacks {WHAT}.")


class Beneath:
    """Runs the program by a session.

    Args:
        session: The user's session.
        grant: What the user may touch.
    """

    def __init__(self, session: Session, grant: Grant) -> None:
        self.session = session
        self.grant = grant

    def _begin(self, do: str, words: str, parameters: dict[str, Any]) -> tuple[list[str | bytes], bytes]:
        line = request(self.grant, do, words, **parameters).encode() + b"\n"
        return ["sh", "-c", _LAUNCHER, words.partition(":")[0], str(len(PROGRAM))], PROGRAM + line

    async def run(
        self, do: str, words: str, *, limit: int | None = None, timeout: float | None = None, **parameters: Any
    ) -> Completed:
        """Have something done, and return how it ended.

        Raises:
            Denied: The rule does not allow it.
            NotSupported: There is no Python on the login node.
        """
        argv, stdin = self._begin(do, words, parameters)
        done = await self.session.run(argv, stdin=stdin, limit=limit, timeout=timeout)
        check(done, self.grant, self.session.system)
        return done

    async def do(self, do: str, words: str, **parameters: Any) -> bytes:
        """Have something done, and return what was answered.

        Raises:
            GatewayError: It failed; which class, the words tell.
        """
        done = await self.run(do, words, **parameters)
        if not done.ok:
            raise error_from_stderr(done.stderr, words.partition(":")[0])
        return done.stdout

    @asynccontextmanager
    async def process(self, do: str, words: str, *, stall: float, **parameters: Any) -> AsyncIterator[Process]:
        """Start something to feed and read."""
        argv, stdin = self._begin(do, words, parameters)
        async with self.session.process(argv, stall=stall) as process:
            await process.feed_block(stdin)
            yield process

    async def ended(self, process: Process, argv: Sequence[str | bytes] = ()) -> Completed:
        """Return how a process ended, whose output has been read.

        Raises:
            Denied, NotSupported: As `run`.
        """
        status = await process.ended()
        done = Completed(tuple(argv), status, b"", bytes(process.stderr.content))
        check(done, self.grant, self.session.system)
        return done


class Confined(Session):
    """A session that is held to the paths of a grant.

    It has nothing of a `Session` but the names: whatever would reach the login node is defined here anew.
    """

    __slots__ = ("_beneath",)

    def __init__(self, session: Session, grant: Grant) -> None:
        self.username = session.username
        self.system = session.system
        self.node = session.node
        self.dedicated = session.dedicated
        self._beneath = Beneath(session, grant)

    @classmethod
    async def of(cls, session: Session, grant: Grant) -> "Confined":
        """Confine a session."""
        # Asked by a command of its own, which is not to be had later.
        await session.node.view(session.username).time_zone(session)
        return cls(session, grant)

    def __repr__(self) -> str:
        return f"<Confined {self._beneath.grant.rule} {self._beneath.session!r}>"

    async def run(
        self,
        argv: Sequence[str | bytes],
        *,
        stdin: bytes | AsyncIterable[bytes] = b"",
        limit: int | None = None,
        timeout: float | None = None,
        env: dict[str, str] | None = None,
        without: Steering | None = None,
    ) -> Completed:
        """Do what one of the gateway's own commands does, beneath the paths; any other is denied."""
        handler = _COMMANDS.get(argv[2]) if list(argv[:2]) == ["sh", "-c"] and isinstance(argv[2], str) else None
        if handler is not None:
            return await handler(self._beneath, [_bytes(word) for word in argv[4:]])
        raise self._denial(argv)

    @asynccontextmanager
    async def process(
        self,
        argv: Sequence[str | bytes],
        *,
        stall: float,
        opening: float | None = None,
        env: dict[str, str] | None = None,
    ) -> AsyncIterator[Process]:
        """Start what one of the gateway's own commands does, beneath the paths; any other is denied."""
        if list(argv[:2]) == ["sh", "-c"] and argv[2] == unpacking.UNPACK:
            path, temporary, mark = map(_bytes, argv[4:])
            started = self._beneath.process(
                "unpack", f"tar: {shown(path)}", stall=stall, path=path, temporary=temporary, mark=mark
            )
        elif list(argv[:2]) == ["tar", "-c"]:
            path = _bytes(argv[argv.index("-C") + 1]).rstrip(b"/") + b"/" + _bytes(argv[-1])
            started = self._beneath.process(
                "pack",
                f"tar: {shown(path)}",
                stall=stall,
                path=path,
                compression="gzip" if "-z" in argv else "none",
                plain="--hard-dereference" in argv,
                skip="--ignore-failed-read" in argv,
            )
        else:
            raise self._denial(argv)
        async with started as process:
            try:
                yield process
            except GatewayError:
                # It may be the denial that ended what the gateway's own command would have gone on with.
                if process.exit_status == DENIED:
                    await self._beneath.ended(process, argv)
                raise

    async def files(self) -> RemoteFiles:
        """Return the files beneath the paths."""
        return ConfinedFiles(self._beneath, self.node.view(self.username), self)

    @asynccontextmanager
    async def bulk(self) -> AsyncIterator[Streams]:
        """Lend the files beneath the paths for what streams."""
        yield ConfinedFiles(self._beneath, self.node.view(self.username), self)

    async def ask(self, argv: Sequence[str], request: bytes, *, limit: int | None = None) -> bytes:
        """Deny: no long-lived process is confined."""
        raise self._denial(argv)

    def dismiss(self, argv: Sequence[str]) -> None:
        """Do nothing: there is no long-lived process."""

    def _denial(self, argv: Sequence[str | bytes]) -> Denied:
        return Denied(self._beneath.grant.rule, f"what {_bytes(argv[0]).decode(errors='replace')} does is not checked")


def _bytes(word: str | bytes) -> bytes:
    return word if isinstance(word, bytes) else word.encode("utf-8", "surrogateescape")


# What the gateway's own scripts do, by their text; their arguments are those of the scripts.


async def _checksum(beneath: Beneath, words: list[bytes]) -> Completed:
    return await beneath.run("checksum", f"sha256sum: {shown(words[0])}", path=words[0])


async def _kind(beneath: Beneath, words: list[bytes]) -> Completed:
    return await beneath.run("kind", f"stat: cannot statx {quote(words[0])}", path=words[0])


_COMPRESSIONS = {b"": "none", b"-z": "gzip", b"-j": "bzip2", b"-J": "xz"}


async def _compress(beneath: Beneath, words: list[bytes]) -> Completed:
    source, _, _, target, _, how, follow, pattern, _ = words
    return await beneath.run(
        "compress",
        f"tar: {shown(source)}",
        path=source,
        target=target,
        compression=_COMPRESSIONS[how],
        dereference=bool(follow),
        pattern=pattern or None,
    )


async def _extract(beneath: Beneath, words: list[bytes]) -> Completed:
    source, target, how, _ = words
    return await beneath.run(
        "extract", f"tar: {shown(target)}", path=source, target=target, compression=_COMPRESSIONS[how]
    )


async def _sweep(beneath: Beneath, words: list[bytes]) -> Completed:
    return await beneath.run("sweep", "find", path=words[0], minutes=int(words[1]))


async def _join(beneath: Beneath, words: list[bytes]) -> Completed:
    private, target, *places = words
    pairs = zip(places[::2], places[1::2], strict=True)
    parts = [directory.rstrip(b"/") + b"/" + name + b"/.hpcgate-content" for directory, name in pairs]
    return await beneath.run(
        "join", f"cat: {shown(target)}", private=bool(private), path=target, parts=parts, timeout=SYNC_PATIENCE
    )


async def _adopt(beneath: Beneath, words: list[bytes]) -> Completed:
    old, new = words
    return await beneath.run("adopt", f"chmod: {shown(new)}", old=old, path=new)


async def _chmod(beneath: Beneath, words: list[bytes]) -> Completed:
    path, mode = words
    return await beneath.run("change", f"chmod: {quote(path)}", tool="chmod", to=mode, path=path)


async def _chown(beneath: Beneath, words: list[bytes]) -> Completed:
    path, owner = words
    return await beneath.run("change", f"chown: {quote(path)}", tool="chown", to=owner, path=path)


_COMMANDS: dict[str, Callable[[Beneath, list[bytes]], Awaitable[Completed]]] = {
    checksum.SCRIPT: _checksum,
    file_type.SCRIPT: _kind,
    compress.SCRIPT: _compress,
    extract.SCRIPT: _extract,
    scripts.SWEEP: _sweep,
    scripts.JOIN: _join,
    scripts.ADOPT_NEW: _adopt,
    command_attributes.CHMOD: _chmod,
    command_attributes.CHOWN: _chown,
}


class ConfinedFiles(CommandStreams):
    """`hpcgate.ssh.files.streams.Streams` by the program: nothing of `CommandStreams` that runs a command is left."""

    def __init__(self, beneath: Beneath, view: NodeView, session: Confined) -> None:
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
                if size > _MAX_PART:
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
    target = None if link is None else _bytes(link)
    return Entry(_bytes(name), mode, uid, gid, size, mtime, link_target=target, mark=str(mark))


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


class ConfinedPool:
    """Lends confined sessions; as `Pool` does.

    Args:
        pool: The system's connections.
        grant: What the user may touch.
    """

    def __init__(self, pool: Pool, grant: Grant) -> None:
        self._pool = pool
        self._grant = grant

    @asynccontextmanager
    async def lease(self, principal: Principal) -> AsyncIterator[Session]:
        """Lend a session."""
        async with self._pool.lease(principal) as session:
            yield await Confined.of(session, self._grant)

    @asynccontextmanager
    async def lease_bulk(self, principal: Principal, size: int | None = None) -> AsyncIterator[Session]:
        """Lend a session to move so many bytes by."""
        async with self._pool.lease_bulk(principal, size) as session:
            yield await Confined.of(session, self._grant)

    def is_bulk(self, size: int | None) -> bool:
        """Say whether so many bytes are to have a connection of their own."""
        return self._pool.is_bulk(size)

    async def perform(self, principal: Principal, work: Callable[[Session], Awaitable[T]], *, retry: bool) -> T:
        """Do some work on a confined session."""
        grant = self._grant

        async def confined(session: Session) -> T:
            return await work(await Confined.of(session, grant))

        return await self._pool.perform(principal, confined, retry=retry)
