"""An archive into a directory, while it arrives: every member is checked before the login node gets to see it.

The login node's tar reads headers that are written here, of members that were found harmless, so it cannot be made to
understand an archive in another way than it was checked. All goes to a hidden directory first, which gets its name, or
is merged into an existing directory, once the archive has arrived whole.
"""

import asyncio
import secrets
import stat
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import replace

from hpcgate.errors import BadRequest, GatewayError, NotADirectory, PathNotFound, TooLarge
from hpcgate.filesystem.archive import archive_error
from hpcgate.filesystem.tar_stream import END, Member, TarReader
from hpcgate.ssh.commands.ending import CUT_OFF
from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.files.command_streams import said_in
from hpcgate.ssh.files.coreutils_errors import quote
from hpcgate.ssh.files.footing import OWN
from hpcgate.ssh.files.merging import MERGE
from hpcgate.ssh.files.protocol import temporary_name
from hpcgate.ssh.files.streams import SYNC_PATIENCE
from hpcgate.ssh.runner import Completed
from hpcgate.ssh.session import Session

CLEANING = 60.0
"""Seconds that the login node has to remove what an upload that broke off has left."""
PIECE = 1024 * 1024
"""Bytes that are unpacked at a time."""

# $1 the directory, $2 the name of the hidden one, $3 the name of a member that says that the archive is whole: a broken
# connection is an end of file here too.
UNPACK = (
    OWN
    + MERGE
    + CUT_OFF
    + """\
unpacked=yes
into=
if [ -d "$1" ]; then into=yes; follow "$1"; home=$real; enter "$home"; else settle "$1"; fi
hidden=$2
clear_up() { rmdir -- "./$hidden" 2>/dev/null || rmdir -- "../$hidden" 2>/dev/null; }
# Where new files inherit an access control list, the umask does not count.
mkdir -m 700 -- "./$2" || exit 1
own "$home" "$2"
# Others may have put another directory of the user's there.
[ -z "$(ls -A)" ] || refuse "$1 $2 was moved"
# It may have its name already.
clear_up() {
  [ "../$hidden" -ef . ] || return
  find . -mindepth 1 -delete
  rmdir -- "../$hidden"
}
echo ready
exec 3<&0
# A umask may leave the owner no rights, and new directories of no use.
umask u=rwx
tar -x --no-unquote --no-same-owner -f - <&3 & wait "$!" || exit 1
[ -f "./$3" ] || { echo "tar: the archive is not whole" >&2; exit 1; }
rm -f -- "./$3"
if [ -z "$into" ]; then
  # As of whatever is made there, by the umask or by a list that it inherits.
  mkdir -- "./$3" && mode=$(stat -c %a -- "./$3") && rmdir -- "./$3" && chmod "$mode" . || exit 1
  mv -T -- "../$hidden" "../$base" || exit 1
  exit 0
fi
# What cannot be merged is found before anything is.
find . -mindepth 1 -exec sh -c '
top=$1; shift
refuse() { echo "tar: $top/${f#./}: $1" >&2; exit 1; }
for f; do
  t=../$f; p=${t%/*}
  if [ -d "$f" ] && [ ! -L "$f" ]; then
    if [ -L "$t" ] || { [ -e "$t" ] && [ ! -d "$t" ]; }; then refuse "Not a directory"; fi
    [ ! -d "$t" ] || continue
  elif [ -d "$t" ] && [ ! -L "$t" ]; then
    refuse "Is a directory"
  fi
  if [ -d "$p" ] && { [ ! -w "$p" ] || [ ! -x "$p" ]; }; then refuse "Permission denied"; fi
done' sh "$1" {} + || exit 1
(exec 5<. && enter "$home" && merge "$home") || exit 1
"""
)


class Gatekeeper:
    """Says which members may be unpacked: files, directories and links that stay inside."""

    def __init__(self) -> None:
        self._links: set[bytes] = set()
        self._directories: set[bytes] = set()

    def check(self, member: Member) -> Member | None:
        """Return the member as it may be unpacked, None for the top directory itself.

        Raises:
            BadRequest: It would escape, or is a device, a pipe or the like.
        """
        name = member.name.decode("utf-8", "replace")
        if member.kind == "other":
            raise BadRequest(f"{name!r} in the archive is neither a file nor a directory nor a link.")
        parts = _inside(member.name)
        if parts is None:
            raise BadRequest(f"{name!r} in the archive would escape the directory.")
        if not parts:
            if member.kind == "directory":
                return None
            raise BadRequest("A member of the archive has no name.")
        self._refuse_through_links(parts, name)
        path = b"/".join(parts)
        link = b""
        if member.kind == "symlink":
            if not _stays_inside(member.link, len(parts) - 1) or path in self._directories:
                raise BadRequest(f"The link {name!r} in the archive would lead out of the directory.")
            self._links.add(path)
            link = member.link
        elif member.kind == "hardlink":
            target = _inside(member.link)
            if not target or b"/".join(target) in self._links:
                raise BadRequest(f"The link {name!r} in the archive would lead out of the directory.")
            self._refuse_through_links(target, name)
            link = b"/".join(target)
        elif member.kind == "directory":
            if path in self._links:
                raise BadRequest(f"{name!r} in the archive is a link and a directory.")
            self._directories.add(path)
        for depth in range(1, len(parts)):
            self._directories.add(b"/".join(parts[:depth]))
        mode = member.mode & 0o777 | (0o700 if member.kind == "directory" else 0)
        return replace(member, name=path, link=link, mode=mode)

    def _refuse_through_links(self, parts: list[bytes], name: str) -> None:
        for depth in range(1, len(parts)):
            if b"/".join(parts[:depth]) in self._links:
                raise BadRequest(f"{name!r} in the archive lies behind a link.")


def _inside(name: bytes) -> list[bytes] | None:
    """Return the components of a name below the top, None if it leads elsewhere."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    return None if name.startswith(b"/") or b".." in parts or b"\0" in name else parts


def _stays_inside(target: bytes, depth: int) -> bool:
    """Say whether a symbolic link in a directory `depth` below the top leads to below the top.

    ``..`` may only stand at the beginning: behind another link it could lead anywhere.
    """
    if not target or target.startswith(b"/"):
        return False
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    ups = 0
    while ups < len(parts) and parts[ups] == b"..":
        ups += 1
    return ups <= depth and b".." not in parts[ups:]


async def unpack(session: Session, path: bytes, content: AsyncIterable[bytes], *, limit: int | None) -> bool:
    """Unpack a tar archive, compressed by gzip or not, into a directory, which is made if it is not there.

    A member replaces what has its name in the directory; directories are merged.

    Args:
        session: The user's session.
        path: The directory.
        content: The archive.
        limit: The most bytes that the files in it may have together.

    Returns:
        Whether the directory was made.

    Raises:
        BadRequest: The archive is none, is not whole, or would escape; nothing of it is left.
    """
    path = path.rstrip(b"/") or b"/"
    files = await session.files()
    try:
        created = False
        if not stat.S_ISDIR((await files.stat(path)).mode):
            raise NotADirectory(f"tar: {quote(path)}: Not a directory")
    except PathNotFound:
        created = True
    mark = b".hpcgate-whole-" + secrets.token_hex(8).encode()
    argv: list[str | bytes] = ["sh", "-c", UNPACK, "tar", path, temporary_name(), mark]
    async with session.process(argv, stall=SYNC_PATIENCE) as process:
        output = process.output()
        ready = await anext(output, b"")
        if ready:
            try:
                await _feed(process, _checked(content, limit), mark)
            except BaseException:
                await _give_up(process, output)
                raise
        await said_in(process, output)
        if await process.ended() != 0:
            done = Completed(tuple(argv), 1, b"", bytes(process.stderr.content))
            raise archive_error(done, path, BadRequest, into=path)
    return created


async def _feed(process: Process, checked: AsyncGenerator[bytes], mark: bytes) -> None:
    async with aclosing(checked):
        async for block in checked:
            if not await process.feed_block(block):
                return
    await process.feed_block(Member(mark, "file").header() + END)
    process.feed_end()


async def _give_up(process: Process, output: AsyncGenerator[bytes]) -> None:
    """Let the login node notice that no more comes, and clean up in peace."""
    process.feed_end()
    with suppress(TimeoutError, GatewayError):
        async with asyncio.timeout(CLEANING):
            async for _ in output:
                pass


async def _checked(content: AsyncIterable[bytes], limit: int | None) -> AsyncGenerator[bytes]:
    """Yield an archive with the same members, each checked."""
    reader = TarReader()
    keeper = Gatekeeper()
    member = Member(b"", "file")
    left = total = 0
    async for block in _plain(content):
        out: list[bytes] = []
        for event in reader.feed(block):
            if isinstance(event, bytes):
                out.append(event)
                left -= len(event)
                if not left:
                    out.append(member.padding)
                continue
            left = event.size
            total += event.size
            if limit is not None and total > limit:
                raise TooLarge(f"The files in the archive are larger than {limit} bytes.")
            checked = keeper.check(event)
            if checked is not None:
                member = checked
                out.append(member.header())
        if out:
            yield b"".join(out)
    if not reader.whole:
        raise BadRequest("The archive is not whole: its end is missing.")


async def _plain(content: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield an archive without its compression, if it has one."""
    held = b""
    source = aiter(content)
    while len(held) < 2:
        block = await anext(source, None)
        if block is None:
            break
        held += block
    if not held.startswith(b"\x1f\x8b"):
        yield held
        async for block in source:
            yield block
        return
    gzip = zlib.decompressobj(wbits=31)
    ended = False
    while True:
        while held:
            if ended:
                if not held.strip(b"\0"):
                    break
                gzip, ended = zlib.decompressobj(wbits=31), False
            try:
                # In a thread: to unpack is work, and others wait for the loop.
                piece = await asyncio.to_thread(gzip.decompress, held, PIECE)
            except zlib.error as error:
                raise BadRequest("The archive's compression is damaged.", caused_by=[str(error)]) from None
            ended = gzip.eof
            held = gzip.unused_data if ended else gzip.unconsumed_tail
            if piece:
                yield piece
        block = await anext(source, None)
        if block is None:
            break
        held = block
    if not ended:
        raise BadRequest("The archive is not whole: its compression ends early.")
