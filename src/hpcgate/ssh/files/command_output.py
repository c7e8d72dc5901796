"""What ``ls``, ``stat`` and other commands print of files, read."""

import re
import stat

from hpcgate.ssh.files.protocol import Attributes, Entry
from hpcgate.ssh.runner import understanding

# Not --printf, which busybox lacks. It and coreutils before 8.6 have no fractions of seconds, and print none.
STAT = "%f %i %d %h %u %g %s %X %Z %.3Y"
_STAT_FIELDS = 10
_MODE_DIGITS = 8
_SIZE_DIGITS = 24
LS = ("ls", "-lnU", "--quoting-style=c", "--time-style=+%s", "--color=never", "--indicator-style=none")

# ls(1) with the options above. A device has "major, minor" for its size; a file that cannot be read has "?".
_ROW = re.compile(
    rb"([^\s?])([-rwxsStT]{9})([+.@]?) +(\d{1,20}) +(\d{1,20}) +(\d{1,20}) +(?:(\d{1,20})|\d+, +\d+) +(-?\d{1,20}) "
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
