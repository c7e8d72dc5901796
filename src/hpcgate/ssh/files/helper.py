"""The helper: a small process on the login node that answers at once what SFTP takes several exchanges for, or cannot.

It is a few lines of perl, one process a connection, started as the user like any other command and gone with the
connection. It only reads: attributes (stat(2)), a directory, the beginning of a file. Where there is no perl, or the
settings do not want it, everything goes by SFTP or by commands; and whatever it cannot do, or fails in, is done again
that way, which says in its own words why it fails. So nothing depends on it but speed.
"""

import re
import time
from stat import S_ISLNK

from hpcgate.errors import BadAnswer, NeverReached, NotSupported, TimedOut, TooLarge
from hpcgate.ssh.files.coreutils_errors import failure, quote, unreadable
from hpcgate.ssh.files.login_node import NodeView
from hpcgate.ssh.files.protocol import Attributes, Entry, Look
from hpcgate.ssh.runner import Runner, understanding

MAX_ENTRIES = 1000
"""Entries of a directory. It answers one request after the other, and must not keep the next waiting for long."""
MAX_BYTES = 512 * 1024
"""Bytes of a file, for the same reason."""

MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer: so many entries with the longest names and link targets, each byte of which takes two."""
ABSENT_PAUSE = 300.0
"""Seconds for which the helper is not tried again where there is no perl."""
LYING_PAUSE = 60.0
"""Seconds for which it is not where something else than the helper answered: a PATH of the user's, soon mended."""

_FIELDS = 9
_MAX_DIGITS = 80
"""Characters of all the numbers of a row."""
_ERRNO = re.compile(rb"E[0-9]{1,5}")

# No backslash and no exclamation mark, so that it stays readable on the command line (see `quoting`). $^E is errno.
# 2048 is O_NONBLOCK: what has become a FIFO since the look at it must not block. Time::HiRes, which some sites install
# without, knows of fractions of seconds, to a quarter of a microsecond and from 1970 on; they go out in milliseconds.
# A file that is followed is opened anew at each look that finds no more in the one that is held: only then does a
# client of NFS ask its server (close-to-open consistency, nfs(5)).
_SCRIPT = " ".join(
    line.strip()
    for line in """
    binmode STDIN; binmode STDOUT; my ($z, $o, $in, %u, %g) = (chr 0, chr 1, "");
    sub failed { return "E" . ($^E + 0) }
    sub row {
      my ($n, $p, @s) = @_; my $l = -l _ ? readlink $p : "";
      $u{$s[4]} = getpwuid($s[4]) // $s[4] unless exists $u{$s[4]};
      $g{$s[5]} = getgrgid($s[5]) // $s[5] unless exists $g{$s[5]};
      return ($n, @s[2, 4, 5, 7, 9], $u{$s[4]}, $g{$s[5]}, $l // "");
    }
    sub listing {
      my ($hidden, $most, $p) = split / /, $_[0], 3; my @s = lstat $p or return failed;
      return "=" . join $z, row($p, $p, @s) unless -d _;
      opendir my $d, $p or return failed; my @rows; my $count = 0; $p .= "/" unless substr($p, -1) eq "/";
      while (defined(my $n = readdir $d)) {
        next if $n eq "." or $n eq ".." or (not $hidden and substr($n, 0, 1) eq ".");
        return "E0" if $count++ >= $most;
        unless (@s = lstat "$p$n") { next if $^E == 2; return failed }
        push @rows, row($n, "$p$n", @s);
      }
      return "=" . join $z, @rows;
    }
    sub content {
      my ($at, $left, $p) = split / /, $_[0], 3; stat $p or return failed; return "E0" unless -f _;
      sysopen my $f, $p, 2048 or return failed; stat $f; return "E0" unless -f _;
      sysseek $f, $at, 0 or return failed; my $c = "";
      while ($left > 0) {
        my $got = sysread $f, $c, $left, length $c; return failed unless defined $got; last unless $got; $left -= $got;
      }
      return "=$c";
    }
    my $fine = eval { require Time::HiRes; Time::HiRes->VERSION("1.9726") };
    sub state {
      my ($l, $p) = @_; my @s = $fine ? $l ? Time::HiRes::lstat($p) : Time::HiRes::stat($p) : ();
      return @s && $s[9] < 2**40 && $s[8] < 2**40 && $s[10] < 2**40 ? @s : $l ? lstat $p : stat $p;
    }
    sub whole { my $n = int $_[0]; return $n > $_[0] ? $n - 1 : $n }
    sub attributes {
      return @_ ? join " ", @_[2, 1, 0, 3, 4, 5, 7], map { whole($_) } @_[8, 10], 1000 * $_[9] + 0.0005 : failed;
    }
    my %held;
    sub look {
      my ($at, $above, $left, $inode, $p) = split / /, $_[0], 5; my $f = $held{$p}; my @s = $f ? stat $f : ();
      unless (@s and $s[1] == $inode and $s[7] > $above) {
        delete $held{$p}; undef $f; stat $p or return failed; return "E0" unless -f _;
        sysopen $f, $p, 2048 or return failed; stat $f; return "E0" unless -f _; $held{$p} = $f if keys %held < 64;
      }
      @s = state(0, $f); my $c = ""; sysseek $f, $at, 0 or return failed; $left = 0 unless $s[7] > $above;
      while ($left > 0) {
        my $got = sysread $f, $c, $left, length $c; return failed unless defined $got; last unless $got; $left -= $got;
      }
      return "=" . attributes(@s) . " $c";
    }
    my %ask = (
      S => sub { attributes(state(0, @_)) }, L => sub { attributes(state(1, @_)) }, D => sub { listing(@_) },
      R => sub { content(@_) }, F => sub { look(@_) }, C => sub { delete $held{$_[0]}; "=" },
    );
    my $out = "";
    sub tell {
      while (length $out) { my $n = syswrite STDOUT, $out; exit unless defined $n; substr($out, 0, $n, "") }
    }
    while (sysread STDIN, $in, 65536, length $in) {
      while ((my $end = index $in, $z) >= 0) {
        my $q = substr $in, 0, $end + 1, ""; chop $q; my $a = $ask{substr $q, 0, 1, ""}->($q);
        $a =~ s/$o/${o}A/g; $a =~ s/$z/${o}B/g; $out .= "$a$z"; &tell if length $out > 65536;
      }
      &tell;
    }
    """.splitlines()
).strip()

HELPER = ("perl", "-e", _SCRIPT)
_STANDS_FOR = {b"S": "stat", b"L": "stat", b"D": "ls", b"R": "cat", b"F": "cat", b"C": "cat"}
"""Tools by the first byte of a request that spares them, for messages."""


class Helper:
    """Asks the helper. Every method returns None where it cannot help.

    Args:
        runner: Runs it.
        view: Remembers whether it works on the login node.
    """

    __slots__ = ("_runner", "_view")

    def __init__(self, runner: Runner, view: NodeView) -> None:
        self._runner = runner
        self._view = view

    async def stat(self, path: bytes, *, follow: bool) -> Attributes | None:
        """Return the attributes of a file.

        Raises:
            PathNotFound, PermissionDenied, NotADirectory, BadRequest, CommandFailed: In stat's words.
        """
        answer = await self._ask((b"S" if follow else b"L") + path)
        if answer is None:
            return None
        if answer.startswith(b"E") and _ERRNO.fullmatch(answer):
            raise failure(f"stat: cannot statx {quote(path)}", int(answer[1:]))
        try:
            with understanding("perl"):
                mode, *numbers = answer.split(b" ", _FIELDS)
                if len(mode) > 6:
                    raise ValueError("not a mode")
                return Attributes.of(int(mode), numbers)
        except BadAnswer:
            self._give_up(LYING_PAUSE)
            return None

    async def listing(self, path: bytes, *, hidden: bool) -> list[Entry] | None:
        """Return what a directory holds, or the one file."""
        content = await self._content(b"D%d %d %b" % (hidden, MAX_ENTRIES, path))
        if not content:
            return None if content is None else []
        try:
            with understanding("perl"):
                return _entries(content)
        except BadAnswer:
            self._give_up(LYING_PAUSE)
            return None

    async def read(self, path: bytes, *, offset: int, size: int) -> bytes | None:
        """Return up to `size` bytes of a regular file from `offset`."""
        if size > MAX_BYTES:
            return None
        content = await self._content(b"R%d %d %b" % (offset, size, path))
        if content is not None and len(content) > size:
            self._give_up(LYING_PAUSE)
            return None
        return content

    async def look(self, path: bytes, *, start: int, above: int, size: int, inode: int) -> Look | None:
        """Look into a regular file, which is held until `release`, as `RemoteFiles.look` says.

        Raises:
            PathNotFound, PermissionDenied, NotADirectory, BadRequest, CommandFailed: In cat's words.
        """
        if size > MAX_BYTES:
            return None
        answer = await self._ask(b"F%d %d %d %d %b" % (start, above, size, inode, path))
        if answer is None or answer == b"E0":
            # It is none, or nothing of which the helper knows what to say.
            return None
        if answer.startswith(b"E") and _ERRNO.fullmatch(answer):
            raise unreadable("cat", path, int(answer[1:]))
        try:
            with understanding("perl"):
                mode, *numbers, content = answer.removeprefix(b"=").split(b" ", _FIELDS + 1)
                if not answer.startswith(b"=") or len(mode) > 6 or len(content) > size:
                    raise ValueError("not what was asked for")
                return Look(Attributes.of(int(mode), numbers), content)
        except BadAnswer:
            self._give_up(LYING_PAUSE)
            return None

    async def release(self, path: bytes) -> None:
        """Hold a file no longer."""
        if self._view.helper:
            await self._ask(b"C" + path)

    async def _content(self, request: bytes) -> bytes | None:
        answer = await self._ask(request)
        if answer is None or _ERRNO.fullmatch(answer):
            return None
        if not answer.startswith(b"="):
            self._give_up(LYING_PAUSE)
            return None
        return answer[1:]

    async def _ask(self, request: bytes) -> bytes | None:
        view = self._view
        if view.helper is False and time.monotonic() < view.helper_pause:
            return None
        try:
            answer = await self._runner.ask(HELPER, request, limit=MAX_ANSWER)
        except NotSupported:
            self._give_up(ABSENT_PAUSE)
            return None
        except NeverReached:
            self._give_up(LYING_PAUSE)
            raise
        except (BadAnswer, TooLarge):
            self._give_up(LYING_PAUSE)
            return None
        except TimedOut as error:
            self._give_up(LYING_PAUSE)
            tool = _STANDS_FOR[request[:1]]
            raise TimedOut(error.message.replace(f"Command {HELPER[0]} ", f"Command {tool} ", 1)) from None
        view.helper = True
        # Answers end with a NUL byte, so those within are written otherwise.
        return answer.replace(b"\1B", b"\0").replace(b"\1A", b"\1") if 1 in answer else answer

    def _give_up(self, pause: float) -> None:
        """Do without for a while: it cannot be run, or what answers is not the helper."""
        self._view.helper = False
        self._view.helper_pause = time.monotonic() + pause
        self._runner.dismiss(HELPER)


def _entries(content: bytes) -> list[Entry]:
    """Parse a listing.

    Raises:
        ValueError: It is none.
    """
    count = content.count(b"\0") + 1
    if count % _FIELDS or count > _FIELDS * (MAX_ENTRIES + 1):
        raise ValueError("not rows of a listing")
    fields = iter(content.split(b"\0"))
    names: dict[bytes, str] = {}
    entries = []
    for name, mode, uid, gid, size, mtime, user, group, target in zip(*[fields] * _FIELDS, strict=True):
        if len(mode) + len(uid) + len(gid) + len(size) + len(mtime) > _MAX_DIGITS:
            raise ValueError("not numbers of stat(2)")
        if user not in names:
            names[user] = user.decode("utf-8", "replace")
        if group not in names:
            names[group] = group.decode("utf-8", "replace")
        number, bytes_ = int(mode), int(size)
        if bytes_ < 0:
            raise ValueError("not numbers of stat(2)")
        link = target if S_ISLNK(number) else None
        entries.append(Entry(name, number, int(uid), int(gid), bytes_, int(mtime), names[user], names[group], link))
    return entries
