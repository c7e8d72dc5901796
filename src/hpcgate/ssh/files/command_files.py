"""Files by plain commands, for login nodes that do not offer SFTP. Each method is one command, run under sh."""

import asyncio
import re
import secrets
import stat
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence

from hpcgate.errors import CommandFailed, GatewayError, NeverBegan, TooLarge
from hpcgate.ssh.commands.command import START_UP_FILES
from hpcgate.ssh.commands.ending import CUT_OFF
from hpcgate.ssh.files.command_attributes import CHMOD, MKDIR, MKDIR_PARENTS, REMOVE, RENAME, SYMLINK, stand_and
from hpcgate.ssh.files.coreutils_errors import (
    NOT_REGULAR,
    error_from_stderr,
    failure,
    not_regular,
    number_in,
    quote,
    stderr_lines,
    unreadable,
)
from hpcgate.ssh.files.footing import ENTER, MOVED, untrusted
from hpcgate.ssh.files.login_node import NodeView
from hpcgate.ssh.files.protocol import ROW, Attributes, Entry, ListingSize, refuse_root, temporary_name, too_large
from hpcgate.ssh.runner import SHORT, Completed, Runner, understanding

BLOCK = 4 * 1024 * 1024
"""Bytes that one command of a stream reads."""
UPLOAD_TIMEOUT = 3600.0
"""Seconds that an upload may take, most of which are the client's."""
TRAILER = 32
"""Bytes behind an upload that say that it is whole: a word, and how long it is."""
PARTLY = "The file has been written in part; all of the new content is in"
"""What is said of a file whose old content is gone and whose new one is not all there, before a path."""
_CUT = 97
"""Exit status of what has taken an upload that is not whole."""
LARGE = 64 * 1024
"""Bytes of a listing whose parsing would keep all other requests waiting for longer than a few milliseconds."""
MAX_NAMED = 16 * 1024
"""Bytes of file names that are put on one command line."""

# What is neither a regular file nor a directory is never opened: a FIFO blocks, a device may never end.
REGULAR = f"""\
if [ -e "$1" ] && [ ! -f "$1" ] && [ ! -d "$1" ]; then echo "{NOT_REGULAR}" >&2; exit 1; fi
"""
_READ = (
    REGULAR
    + """\
if [ -d "$1" ]; then echo "Is a directory" >&2; exit 1; fi
if [ -n "$3" ]; then
  exec dd if="$1" bs=65536 iflag=fullblock,skip_bytes,count_bytes skip="$2" count="$3" status=none
fi
exec dd if="$1" bs=65536 iflag=fullblock,skip_bytes skip="$2" status=none
"""
)
# adopt OLD NEW: the new file, which replaces the old one, gets its owner if that may be, its group, mode and access
# control list. Where the user is not in that group, those in the new file's group get no more than all others have. Of
# somebody else's file nothing comes along that would let others act as the user: setuid and setgid. What has become a
# link meanwhile says nothing. With a list, the mode's group bits are its mask, the most that anybody named in it may do
# (acl(5)): on a file without it they would be the group's own, and on one that has inherited another list from the
# directory, that one's mask. So where a list cannot be copied, the file is for its owner alone.
ADOPT = """\
listed() { case $(ls -dlnL -- "$1") in ??????????+*) echo listed ;; esac; }
adopt() {
  m=$(stat -c '%f %u %g' -- "$1") || return
  g=${m##* }
  m=${m% *}
  u=${m#* }
  m=$((0x${m% *}))
  [ $((m & 0170000)) -eq $((0100000)) ] || return 0
  m=$((m & 07777))
  s=$((m & 07000))
  if [ "$u" != "$(stat -L -c %u -- "$2")" ] && ! chown "$u" -- "$2" 2>/dev/null; then m=$((m & 0777)); fi
  chgrp "$g" -- "$2" 2>/dev/null || m=$((m & ~02070 | (m & 07) << 3))
  a=$(listed "$1")
  if [ -n "$a$(listed "$2")" ]; then
    # cp of Debian 13 leaves the list that the new file has inherited where the old one has none.
    [ "$s" -ne "$((m & 07000))" ] ||
      { cp -P --attributes-only --preserve=mode -- "$1" "$2" 2>/dev/null && [ "$a" = "$(listed "$2")" ]; } ||
      { getfacl -cn -- "$1" | setfacl --set-file=- -- "$2"; } 2>/dev/null
    [ "$a" = "$(listed "$2")" ] || m=$((m & 07700))
  fi
  chmod "$(printf %04o "$m")" -- "$2"
}
"""
# stays TARGET: says whether the file is to be written in place, since no other can take its name: the directory cannot
# be written, or is sticky and the file somebody else's, or something is mounted there. It stands in that directory.
# elsewhere NAME: prints a path outside of it, for what is to be written in place.
STAYS = """\
stays() {
  [ -f "$1" ] && [ -w "$1" ] || return
  [ -w . ] || return 0
  if [ -k . ] && [ ! -O . ] && [ ! -O "$1" ] && [ "$(id -u)" -ne 0 ]; then return 0; fi
  # A name that is written with escapes there is not found.
  set -- "${1#./}" "$(pwd -P)"
  grep -qsF -- " ${2%/}/$1 " /proc/self/mountinfo
}
elsewhere() {
  for d in "$HOME" "${TMPDIR:-/tmp}"; do if [ -d "$d" ] && [ -w "$d" ]; then break; fi; done
  printf %s "${d%/}/$1"
}
"""
# fits NAME: says why there cannot be such a name here, before anything is taken for it.
FITS = """\
fits() {
  if [ -e "$1" ] || [ -L "$1" ]; then return; fi
  why=$(stat -- "$1" 2>&1 >/dev/null) && return
  case $why in *"No such file or directory") return ;; esac
  printf '%s\\n' "$why" >&2
  exit 1
}
"""
# shut FILE: opens a new file as descriptor 4 that nobody but its owner can have opened at any time. Where new files
# inherit an access control list, the umask does not count (acl(5)), and whoever opens such a file before its mode is
# changed reads all that is written later. mktemp(1) asks for a mode of 0600, which leaves the list's mask nothing.
SHUT = """\
shut() {
  umask 077
  if [ -n "$(listed "${1%/*}")" ]; then
    blank=$(mktemp -- "$1.XXXXXXXX") || exit 1
    mv -nT -- "$blank" "$1"
    if [ -e "$blank" ]; then rm -f -- "$blank"; echo "File exists" >&2; exit 1; fi
    exec 4<>"$1"
    # Others who write in the directory may have put something else there meanwhile.
    [ "$(stat -L -c '%f %u %h %s' /dev/fd/4)" = "8180 $(id -u) 1 0" ] || { echo "File exists" >&2; exit 1; }
  else
    set -C
    exec 4>"$1"
    set +C
    if [ ! -f /dev/fd/4 ]; then echo "File exists" >&2; exit 1; fi
  fi
  chmod 600 /dev/fd/4 || exit 1
}
"""
# $1 target, $2 temporary name, $3 trailer, $4 its length. Makes the file and takes its content; from then on it is
# descriptor 4, for in a directory that others write its name may soon be that of another one; and ps shows the name, so
# that a FIFO may be there before, which noclobber lets pass. The trailer tells a whole
# upload from one whose connection broke: both are an end of file here. A shell that waits for a command in the
# foreground takes no notice of a signal, hence the background. $6 is a `Replacing`, none for atomic. What is written in
# place is taken first, too, beside it or, where no file can be made, in the home directory or that for temporary files.
TAKE = (
    ENTER
    + ADOPT
    + CUT_OFF
    + FITS
    + STAYS
    + SHUT
    + """\
settle "$1"
t=./$base
case $1 in */) t=$t/ ;; esac
if [ -d "$t" ]; then echo "Is a directory" >&2; exit 1; fi
case $t in */) echo "No such file or directory" >&2; exit 1 ;; esac
if [ -e "$t" ] && [ ! -f "$t" ]; then echo "Not a regular file" >&2; exit 1; fi
fits "$t"
tmp=./$2
place=
case $6 in
  in-place)
    if [ -f "$t" ]; then
      [ -w "$t" ] || { echo "Permission denied" >&2; exit 1; }
      place=yes
    fi ;;
  auto) if stays "$t"; then place=yes; fi ;;
esac
if [ -n "$place" ] && [ ! -w . ]; then tmp=$(elsewhere "$2"); fi
clear_up() { rm -f -- "$tmp"; }
old= bare=
exec 3<&0
if [ -e "$t" ]; then
  old=yes
  shut "$tmp"
else
  set -C
  exec 4>"$tmp"
  set +C
  if [ ! -f /dev/fd/4 ]; then echo "File exists" >&2; exit 1; fi
  # A umask may leave the file with no rights for its owner, who opens it anew below: it has them until it is whole.
  { [ -r /dev/fd/4 ] && [ -w /dev/fd/4 ]; } || bare=$(stat -L -c %a /dev/fd/4)
  [ -z "$bare" ] || chmod 600 /dev/fd/4 || exit 1
fi
dd bs=262144 iflag=fullblock status=none <&3 >&4 & wait "$!" || exit 1
n=$(($(stat -L -c %s /dev/fd/4) - $4))
[ "$n" -ge 0 ] || exit 97
[ "$(tail -c "$4" /dev/fd/4 | tr -d '\\0')" = "$3$(printf %016d "$n")" ] || exit 97
truncate -s "$n" /dev/fd/4 || exit 1
"""
)
# After all that opens the new file once more: what it gets may forbid that.
LIKE_OLD = """\
if [ -e "$t" ]; then old=yes; adopt "$t" /dev/fd/4 || exit 1
elif [ -n "$bare" ]; then chmod "$bare" /dev/fd/4 || exit 1; fi
"""
# overwrite NAME CONTENT INODE SIZE TARGET: writes content that is a file into the file of that name in the directory
# where it stands. INODE is the content's device and inode, TARGET the path for messages. ``drop`` removes the content,
# $path, or does nothing. The file is opened without O_CREAT, which in a sticky directory may be refused
# (fs.protected_regular), and is to be the one of that name. What is longer than the old content goes first: if there is
# no room for it, it is cut off again and nothing has happened. After that no signal is heard, and the new content stays
# where it is if something fails all the same.
OVERWRITING = f"""\
drop() {{ rm -f -- "$path"; }}
overwrite() {{
t=./$1
path=$2
clear_up() {{ drop; }}
exec 5<"$2" 6<"$t"
[ -f /dev/fd/6 ] && [ "$(stat -L -c %d:%i /dev/fd/5)" = "$3" ] &&
  [ "$(stat -L -c %d:%i /dev/fd/6)" = "$(stat -c %d:%i -- "$t")" ] ||
  {{ echo "$5 {MOVED}: Permission denied" >&2; exit 1; }}
was=$(stat -L -c %s /dev/fd/6) || exit 1
clear_up() {{
  [ -z "$!" ] || wait "$!"
  truncate -c -s "$was" /dev/fd/6
  drop
}}
grow() {{
  exec dd if=/dev/fd/5 of=/dev/fd/6 bs=262144 iflag=fullblock,skip_bytes oflag=seek_bytes skip="$was" seek="$was" \
    conv=notrunc,nocreat,fsync status=none
}}
if [ "$4" -gt "$was" ]; then
  grow & wait "$!" || exit 1
fi
trap '' HUP INT TERM
dd if=/dev/fd/5 of=/dev/fd/6 bs=262144 iflag=fullblock,count_bytes count="$was" \
  conv=notrunc,nocreat,fsync status=none && truncate -c -s "$4" /dev/fd/6 ||
  {{ trap - EXIT; printf '%s\n' "{PARTLY} $2" >&2; exit 1; }}
clear_up() {{ drop; }}
}}
"""
OVERWRITE = CUT_OFF + OVERWRITING + 'overwrite "$@"\n'
# $5 the mode of a new file, or nothing.
_WRITE = (
    TAKE
    + LIKE_OLD
    + """\
if [ -z "$old" ] && [ -n "$5" ]; then chmod "$5" /dev/fd/4 || exit 1; fi
mv -fT -- "$tmp" "$t" || exit 1
printf %s "$n"
"""
)
# $1 the file that could not be written, $2 a temporary name: what a full disk says, it says again to a few more bytes.
_PROBE = (
    ENTER
    + CUT_OFF
    + FITS
    + """\
settle "$1"
fits "./$base"
t=./$2
clear_up() { rm -f -- "$t"; }
set -C
exec 4>"$t"
dd if=/dev/zero bs=65536 count=16 status=none >&4
"""
)
# Not --printf, which busybox lacks. It and coreutils before 8.6 have no fractions of seconds, and print none.
STAT = "%f %i %d %h %u %g %s %X %Z %.3Y"
_STAT_FIELDS = 10
_MODE_DIGITS = 8
_SIZE_DIGITS = 24
_LS = ("ls", "-lnU", "--quoting-style=c", "--time-style=+%s", "--color=never", "--indicator-style=none")

# ls(1) with the options above. A device has "major, minor" for its size; a file that cannot be read has "?".
_ROW = re.compile(
    rb"([^\s?])([-rwxsStT]{9})([+.@]?) +(\d+) +(\d+) +(\d+) +(?:(\d+)|\d+, +\d+) +(-?\d+) "
    rb'"((?:[^"\\]|\\.)*)"(?: -> "((?:[^"\\]|\\.)*)")?',
    re.DOTALL,
)
_UNKNOWN_ROW = re.compile(rb'.[-rwxsStT?]{9}[+.@]? +\?.* "((?:[^"\\]|\\.)*)"', re.DOTALL)
_HEADING = re.compile(rb'"((?:[^"\\]|\\.)*)":', re.DOTALL)
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_NAMED = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_KINDS = {
    b"-": stat.S_IFREG,
    b"d": stat.S_IFDIR,
    b"l": stat.S_IFLNK,
    b"c": stat.S_IFCHR,
    b"b": stat.S_IFBLK,
    b"p": stat.S_IFIFO,
    b"s": stat.S_IFSOCK,
}


def unescape(name: bytes) -> bytes:
    """Undo ``--quoting-style=c`` of a name without its quotes."""
    if b"\\" not in name:
        return name
    return _ESCAPE.sub(lambda match: _plain(match[1]), name)


def _plain(escape: bytes) -> bytes:
    return bytes([int(escape, 8) & 0xFF]) if len(escape) == 3 else _NAMED.get(escape, escape)


def permission_bits(letters: bytes) -> int:
    """Return the twelve permission bits of the nine letters of ls."""
    bits = 0
    for index, letter in enumerate(letters):
        place = 0o400 >> index
        if letter in b"rwxst":
            bits |= place
        if letter in b"sStT":
            bits |= 0o4000 >> index // 3
    return bits


def parse_listing(output: bytes, top: bytes) -> tuple[list[Entry], list[bytes]]:
    """Parse what ls printed for `top`.

    Returns:
        The entries, named as `Entry.name` says, and the names of those that ls could only name.
    """
    entries, unknown, _ = parse_rows(output, top, b"")
    return entries, unknown


def parse_rows(output: bytes, top: bytes, prefix: bytes) -> tuple[list[Entry], list[bytes], bytes]:
    """Parse whole lines of what ls printed for `top`, whose names begin with `prefix` until a heading says otherwise.

    Returns:
        As `parse_listing`, and the prefix of what comes next.
    """
    entries: list[Entry] = []
    unknown: list[bytes] = []
    # ls writes the headings with one slash in place of several at the end of its argument.
    root = top.rstrip(b"/") + b"/"
    for line in output.split(b"\n"):
        match = _ROW.fullmatch(line)
        if match:
            kind, letters, mark, _, uid, gid, size, mtime, name, target = match.groups()
            entries.append(
                Entry(
                    name=prefix + unescape(name),
                    mode=_KINDS.get(kind, 0) | permission_bits(letters),
                    uid=int(uid),
                    gid=int(gid),
                    size=int(size or 0),
                    mtime=int(mtime),
                    link_target=None if target is None else unescape(target),
                    mark=mark.decode(),
                )
            )
        elif heading := _HEADING.fullmatch(line):
            directory = unescape(heading[1])
            prefix = b"" if directory.rstrip(b"/") + b"/" == root else directory.removeprefix(root) + b"/"
        elif nameless := _UNKNOWN_ROW.fullmatch(line):
            unknown.append(prefix + unescape(nameless[1]))
    return entries, unknown, prefix


def parse_stat(output: bytes) -> Attributes:
    """Parse what ``stat`` printed as it is asked to here.

    Raises:
        ValueError: It is something else.
    """
    mode, *numbers = output.split(maxsplit=_STAT_FIELDS)
    if len(mode) > _MODE_DIGITS:
        raise ValueError("not a mode")
    if numbers and b"." not in numbers[-1]:
        numbers[-1] += b".000"
    return Attributes.of(int(mode, 16), numbers)


def size_in(output: bytes, tool: str) -> int:
    """Return the number of bytes that a command printed.

    Raises:
        BadAnswer: It printed something else.
    """
    with understanding(tool):
        if len(output) > _SIZE_DIGITS:
            raise ValueError("not a size")
        return int(output)


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
        ListingSize(limit).add_all(entries)
        return await self._named(entries) if names else entries

    async def entry(self, path: bytes) -> Entry:
        """Return one file, by ``ls -d``."""
        done = await self._runner.run([*_LS, "-d", "--", path], limit=SHORT)
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
            ["sh", "-c", _READ, tool, path, str(offset), "" if size is None else str(size)], limit=size
        )
        if not done.ok:
            raise _reading(done, path, tool)
        return done.stdout

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
                _WRITE,
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
        done = await self._runner.run(["sh", "-c", _PROBE, "cp", path, temporary_name()])
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
            done = await self._runner.run([*_LS, "-d", "--", *paths], limit=SHORT)
            with understanding("ls"):
                links, _ = parse_listing(done.stdout, top)
            for entry in links:
                entry.name = entry.name.removeprefix(root)
                found.append(entry)
        return found


def ls(path: bytes, *, hidden: bool, recursive: bool, follow: bool) -> list[str | bytes]:
    """Return the command that lists, for `parse_listing`."""
    options = "".join(letter for letter, wanted in (("A", hidden), ("R", recursive), ("L", follow)) if wanted)
    return [*_LS, *([f"-{options}"] if options else []), "--", path]


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


def _reading(done: Completed, path: bytes, tool: str) -> GatewayError:
    lines = stderr_lines(done.stderr, "dd")
    if NOT_REGULAR in lines:
        return not_regular(tool, path)
    number = number_in(lines)
    return error_from_stderr(done.stderr, "dd") if number is None else unreadable(tool, path, number)


def lost(path: bytes) -> NeverBegan:
    """Return the error for an upload that the login node has not got all of although all was sent."""
    return NeverBegan(
        f"cp: {quote(path)}: not all that was sent has arrived. {START_UP_FILES} may have read some of it"
    )


def unwritable(path: bytes, done: Completed) -> GatewayError:
    """Compose the error of an upload that `_WRITE` or a probe of it could not carry out, in cp's words."""
    if (refused := untrusted(done.stderr)) is not None:
        return refused
    if done.exit_status == _CUT:
        return lost(path)
    lines = stderr_lines(done.stderr, "dd")
    if NOT_REGULAR in lines:
        return not_regular("cp", path)
    number = number_in(lines)
    if number is None:
        return error_from_stderr(done.stderr, "dd")
    partly = [line for line in done.words.splitlines() if line.startswith(PARTLY)]
    if partly:
        return failure(f"{partly[0]}: cp: error writing {quote(path)}", number)
    if any("error writing" in line for line in lines):
        return failure(f"cp: error writing {quote(path)}", number)
    return failure(f"cp: cannot create regular file {quote(path)}", number)
