"""Files that stream, by plain commands, for login nodes that do not offer SFTP. Each stream is one command."""

import asyncio
import errno
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from hpcgate.errors import AlreadyExists, BadAnswer, ConnectionLost, GatewayError, PathNotFound, TimedOut
from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.files.command_files import CommandFiles, Framed, lost, ls, refuse_names_alone, unwritable
from hpcgate.ssh.files.command_output import STAT, parse_rows, parse_stat, size_in
from hpcgate.ssh.files.command_scripts import LIKE_OLD, OVERWRITE, REGULAR, TAKE, TRAILER
from hpcgate.ssh.files.coreutils_errors import (
    NOT_REGULAR,
    error_from_stderr,
    failure,
    naming,
    not_regular,
    number_in,
    quote,
    stderr_lines,
    unreadable,
)
from hpcgate.ssh.files.footing import Pinned, resolve, untrusted
from hpcgate.ssh.files.login_node import NodeView
from hpcgate.ssh.files.private_directory import PRIVATE_MODE, PrivateDirectory, not_private
from hpcgate.ssh.files.protocol import Attributes, Entry, Replacing, temporary_name
from hpcgate.ssh.files.streams import PATIENCE, SYNC_PATIENCE, OpenFile, Ready, StreamRunner
from hpcgate.ssh.runner import SHORT, Completed, Runner, understanding

# Says the attributes of the file that it has opened, then writes the parts that it is asked for. A part of a file that
# has become shorter is its last.
_OPEN = (
    REGULAR
    + """\
if [ -d "$1" ]; then echo "dd: Is a directory" >&2; exit 1; fi
exec 3<&0
dd if="$1" count=0 status=none || exit 1
exec 4<"$1"
"""
    + f"stat -L -c '{STAT}' /dev/fd/4 || exit 1\n"
    + """\
while read -r o n <&3; do
  dd if=/dev/fd/4 bs=262144 iflag=fullblock,skip_bytes,count_bytes skip="$o" ${n:+count="$n"} status=none || exit 1
  [ -n "$n" ] && [ "$(stat -L -c %s /dev/fd/4)" -ge $((o + n)) ] || exit 0
done
"""
)
# $5 "sync" or nothing. What it leaves behind is the temporary file; it says the directory, the name of the file to
# replace and, if that is to be written in place, where the temporary file is and which one it is.
_STAGE = (
    TAKE
    + """\
if [ -n "$5" ]; then sync /dev/fd/4 || exit 1; fi
"""
    + f"""\
if [ -n "$place" ]; then
  trap - EXIT
  case $tmp in ./*) tmp=${{home%/}}/${{tmp#./}} ;; esac
  printf '%s\\0%s\\0%s\\0%s\\0%s' "$n" "$home" "$base" "$tmp" "$(stat -L -c %d:%i /dev/fd/4)"
  exit
fi
{LIKE_OLD}trap - EXIT
printf '%s\\0%s\\0%s\\0\\0' "$n" "$home" "$base"
"""
)
# File systems may say of what was written, when the file is closed, that they have lost some of it, and not which: then
# all of it goes.
_EXTEND = """\
exec 3<&0
dd of="$1" bs=262144 seek="$2" iflag=fullblock oflag=seek_bytes,nofollow conv=notrunc,nocreat status=none <&3 &
wait "$!" && exec stat -c %s -- "$1"
# Without notrunc it cuts, of whole blocks only; a link that has come in its place meanwhile is not followed.
[ ! -f "$1" ] || dd if=/dev/null of="$1" bs=1 seek="$2" oflag=nofollow conv=nocreat status=none
exit 1
"""
_MAX_ROW = 64 * 1024
"""Bytes of a row that ls prints: a name and what a link holds, each byte of which takes up to four."""
_MAX_SAID = 64 * 1024
"""Bytes that a command says before or after a file's content: attributes, a size, two paths."""
# Gives $1 the name $2 if nobody has it. Where there are no hard links, who makes an empty file of that name has it.
_MOVE_NEW = """\
said=$(ln -PT -- "$1" "$2" 2>&1) && exec rm -f -- "$1"
case $said in
  *": Operation not permitted" | *": Operation not supported" | *": Function not implemented" | *": Too many links") ;;
  *) printf '%s\\n' "$said" >&2; exit 1 ;;
esac
set -C
if [ -L "$2" ] || ! : 2>/dev/null >"$2"; then
  [ -e "$2" ] || [ -L "$2" ] || { printf '%s\\n' "$said" >&2; exit 1; }
  echo "ln: failed to create hard link '$2': File exists" >&2
  exit 1
fi
mv -fT -- "$1" "$2" || { rm -f -- "$2"; exit 1; }
"""
_CREATE = '[ -z "$2" ] || umask 077; set -C; : > "$1"'


class CommandStreams(CommandFiles):
    """`hpcgate.ssh.files.streams.Streams` by commands of a POSIX shell and GNU coreutils."""

    def __init__(self, runner: StreamRunner, view: NodeView) -> None:
        super().__init__(runner, view)
        self._starter = runner

    @asynccontextmanager
    async def open(self, path: bytes) -> AsyncIterator[OpenFile]:
        """Open, in a shell that lives as long as the file is open."""
        async with AsyncExitStack() as stack:
            process = await stack.enter_async_context(
                self._starter.process(["sh", "-c", _OPEN, "cat", path], stall=PATIENCE)
            )
            output = await stack.enter_async_context(aclosing(process.output()))
            line = await said_in(process, output, until=b"\n")
            if b"\n" not in line:
                await process.ended()
                raise _unreadable(process, path)
            with understanding("stat"):
                attributes = parse_stat(line)
            yield OpenByCommand(process, output, path, attributes)

    async def scan(
        self, path: bytes, *, hidden: bool = True, recursive: bool = False, follow: bool = False, names: bool = True
    ) -> AsyncGenerator[list[Entry]]:
        """List, by one ``ls``, which is read while it prints."""
        argv = ls(path, hidden=hidden, recursive=recursive, follow=follow)
        prefix = rest = b""
        empty, told = True, False
        async with (
            self._starter.process(argv, stall=SYNC_PATIENCE) as process,
            aclosing(process.output()) as output,
        ):
            async for block in output:
                empty = False
                lines, newline, rest = (rest + block).rpartition(b"\n")
                if len(rest) > _MAX_ROW:
                    raise BadAnswer("ls on the login node prints a line without end")
                if not newline:
                    continue
                with understanding("ls"):
                    entries, unknown, prefix = await asyncio.to_thread(parse_rows, lines, path, prefix)
                if unknown:
                    entries += await self._links(path, unknown)
                if entries:
                    told = True
                    yield await self._named(entries) if names else entries
            # It also fails for a file below that it could not reach, having told of all others.
            if (status := await process.ended()) not in (0, 1, 2) or (status and empty):
                raise error_from_stderr(bytes(process.stderr.content), "ls")
            if not told:
                refuse_names_alone(status, bytes(process.stderr.content))

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
        """Write atomically, by ``dd`` and ``mv``, or in place, by ``dd`` twice."""
        if exclusive:
            await _refuse_existing(self._runner, path)
        framed = Framed(content)
        name = temporary_name()
        argv: list[str | bytes] = [
            "sh",
            "-c",
            _STAGE,
            "cp",
            path,
            name,
            framed.word,
            str(TRAILER),
            "sync" if sync else "",
            how.value,
        ]
        done = await self._feed(argv, framed.blocks(), patience=SYNC_PATIENCE if sync else PATIENCE)
        if not done.ok:
            raise unwritable(path, done)
        with understanding("dd"):
            written, home, base, staged, inode = done.stdout.split(b"\0", 5)
        size = size_in(written, "stat")
        # Neither may the directory have been swapped meanwhile, unless it is where the commands stand anyway.
        there = self if home == b"." else CommandStreams(Pinned(self._starter, home), self._view)
        if staged:
            await there._overwrite(path, base, staged, inode, size, ready)
            return size
        temporary = b"./" + name
        try:
            if ready is not None:
                await ready(home.rstrip(b"/") + b"/" + name)
            with naming(path):
                await there.move(temporary, b"./" + base, exclusive=exclusive)
        except BaseException:
            await asyncio.shield(there._runner.run(["rm", "-f", "--", temporary]))
            raise
        return size

    async def _overwrite(
        self, path: bytes, base: bytes, staged: bytes, inode: bytes, size: int, ready: Ready | None
    ) -> None:
        """Write content that has been taken into the file that is there. Once begun it is not interrupted."""
        if ready is not None:
            try:
                await ready(b"")
            except BaseException:
                await asyncio.shield(self._runner.run(["rm", "-f", "--", staged]))
                raise
        argv: list[str | bytes] = ["sh", "-c", OVERWRITE, "cp", base, staged, inode, str(size), path]
        done = await asyncio.shield(self._runner.run(argv, timeout=SYNC_PATIENCE))
        if not done.ok:
            raise unwritable(path, done)

    async def overwrite_mounted(self, path: bytes, base: bytes, staged: bytes, size: int) -> None:
        """Write content that has been taken into a file whose name no other can take, as something is mounted there."""
        done = await self._runner.run(["stat", "-c", "%d:%i", "--", staged], limit=SHORT)
        if not done.ok:
            raise unwritable(path, done)
        await self._overwrite(path, base, staged, done.stdout.strip(), size, None)

    async def extend(self, path: bytes, content: AsyncIterable[bytes], *, offset: int) -> int:
        """Write in place, by ``dd``, which ends with what it got."""
        failed: list[Exception] = []
        end = offset

        async def until_failure() -> AsyncIterator[bytes]:
            nonlocal end
            try:
                async for block in content:
                    end += len(block)
                    yield block
            except Exception as error:
                failed.append(error)

        done = await self._feed(["sh", "-c", _EXTEND, "dd", path, str(offset)], until_failure(), patience=PATIENCE)
        if failed:
            raise failed[0]
        if not done.ok:
            raise unwritable(path, done)
        size = size_in(done.stdout, "stat")
        if size < end:
            raise lost(path)
        return size

    async def create(self, path: bytes, *, private: bool = False) -> None:
        """Make an empty file, by ``set -C``."""
        await create_by_command(self._runner, path, private=private)

    async def truncate(self, path: bytes, size: int) -> None:
        """Cut, by ``truncate``."""
        await self.command("truncate", "-s", str(size), "--", path)

    async def sync(self, path: bytes) -> None:
        """Have a file on disk, by ``sync``."""
        done = await self._runner.run(["sync", "--", path], timeout=SYNC_PATIENCE)
        if not done.ok:
            raise error_from_stderr(done.stderr, "sync")

    async def move(self, source: bytes, target: bytes, *, exclusive: bool = False) -> None:
        """Rename, by ``mv -T``, or by ``ln`` and ``rm``, which replace nothing."""
        if not exclusive:
            await self.rename(source, target)
            return
        await move_new(self._runner, source, target)

    async def resolve(self, path: bytes) -> bytes:
        """Follow links, in a shell."""
        return await resolve(self._runner, path)

    async def make_private(self, directory: bytes, name: bytes) -> PrivateDirectory:
        """Make a directory, by ``mkdir -m``."""
        mode = f"{PRIVATE_MODE:o}"
        done = await Pinned(self._starter, directory).run(["mkdir", "-m", mode, "--", b"./" + name])
        if not done.ok:
            raise untrusted(done.stderr) or error_from_stderr(done.stderr, "mkdir")
        try:
            return await self.private(directory, name)
        except PathNotFound:
            await self.remove_private(directory, name)
            raise not_private(directory.rstrip(b"/") + b"/" + name) from None

    async def private(self, directory: bytes, name: bytes) -> PrivateDirectory:
        """Look at a directory, standing in it."""
        inside = Pinned(self._starter, directory, name)
        done = await inside.run(["true"])
        if not done.ok:
            raise untrusted(done.stderr) or error_from_stderr(done.stderr, "stat")
        return PrivateDirectory(CommandStreams(inside, self._view), inside, b"./", b"../")

    async def remove_private(self, directory: bytes, name: bytes) -> None:
        """Remove a directory, by ``rmdir``."""
        await Pinned(self._starter, directory).run(["rmdir", "--", b"./" + name])

    async def _feed(self, argv: list[str | bytes], content: AsyncIterable[bytes], *, patience: float) -> Completed:
        async with self._starter.process(argv, stall=patience) as process:
            async for block in content:
                if not await process.feed_block(block):
                    break
            process.feed_end()
            stdout = await said_in(process, process.output())
            status = await process.ended()
            return Completed(tuple(argv), status, stdout, bytes(process.stderr.content))


async def said_in(process: Process, output: AsyncIterable[bytes], *, until: bytes | None = None) -> bytes:
    """Return the little that a command has to say beside a file's content, up to a mark or to its end.

    Raises:
        BadAnswer: It says more and more.
        TimedOut: It takes longer with all of it than it may with a part.
    """
    said = b""
    try:
        async with asyncio.timeout(process.stall):
            async for block in output:
                said += block
                if until is not None and until in said:
                    break
                if len(said) > _MAX_SAID:
                    raise BadAnswer("A command on the login node that moves a file says more than it was asked")
    except TimeoutError:
        raise TimedOut(f"Command {process.name} timed out after {process.stall:g} s") from None
    return said


async def create_by_command(runner: Runner, path: bytes, *, private: bool = False) -> None:
    """Make an empty file, in a shell.

    Raises:
        AlreadyExists: The path is taken.
    """
    await _refuse_existing(runner, path)
    done = await runner.run(["sh", "-c", _CREATE, "cp", path, "private" if private else ""])
    if not done.ok:
        number = number_in(stderr_lines(done.stderr, "cp"))
        raise failure(f"cp: cannot create regular file {quote(path)}", number or errno.EEXIST)


async def move_new(runner: Runner, source: bytes, target: bytes) -> None:
    """Rename, in a shell, by ``ln`` and ``rm``, which replace nothing.

    Raises:
        AlreadyExists: There is a target.
    """
    done = await runner.run(["sh", "-c", _MOVE_NEW, "ln", source, target])
    if not done.ok:
        raise error_from_stderr(done.stderr, "ln", otherwise=AlreadyExists)


async def _refuse_existing(runner: Runner, path: bytes) -> None:
    done = await runner.run(["sh", "-c", '[ -e "$1" ] || [ -L "$1" ]', "test", path])
    if done.ok:
        raise failure(f"cp: cannot create regular file {quote(path)}", errno.EEXIST)


class OpenByCommand:
    """`hpcgate.ssh.files.streams.OpenFile` by a shell."""

    __slots__ = ("_output", "_path", "_process", "_rest", "attributes")

    def __init__(self, process: Process, output: AsyncGenerator[bytes], path: bytes, attributes: Attributes) -> None:
        self.attributes = attributes
        self._process = process
        self._output = output
        self._path = path
        self._rest = b""

    async def blocks(self, offset: int, size: int | None) -> AsyncGenerator[bytes]:
        """Ask the shell for a part."""
        if size == 0:
            return
        if not await self._process.feed_block(b"%d %s\n" % (offset, b"" if size is None else b"%d" % size)):
            raise ConnectionLost(f"cat: {quote(self._path)}: the file became shorter while it was read")
        left = size
        while left is None or left > 0:
            block = self._rest or await anext(self._output, b"")
            self._rest = b""
            if not block:
                if await self._process.ended() != 0:
                    raise _unreadable(self._process, self._path)
                return
            if left is not None:
                block, self._rest = block[:left], block[left:]
                left -= len(block)
            yield block


def _unreadable(process: Process, path: bytes) -> GatewayError:
    lines = stderr_lines(bytes(process.stderr.content), "dd")
    if NOT_REGULAR in lines:
        return not_regular("cat", path)
    number = number_in(lines)
    return error_from_stderr(bytes(process.stderr.content), "dd") if number is None else unreadable("cat", path, number)
