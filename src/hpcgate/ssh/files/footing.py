"""Where a file is written: which links on the way are followed, and whether somebody else can move what we stand on.

Whoever may write in a directory may put a symbolic link there, or swap one for what was there a moment ago. So links
are followed for writing as the kernel's ``fs.protected_symlinks`` (sysctl, Documentation/admin-guide/sysctl/fs.rst)
would have it, and not only where the directory is sticky: in a directory that its group or everybody may write, a
link counts only if it is the user's own, root's, or the directory's owner's. That holds for each component of a path.

What is checked by name may be another thing when it is used. Commands therefore stand in the directory (chdir(2)),
see that it is the one that was checked, and use bare names from then on: `ENTER`. SFTP knows nothing but whole
paths, so it is used where nobody but the user and root can make such a path lead elsewhere, `Footing.fixed`, and
commands are used elsewhere.
"""

import stat
from collections.abc import AsyncIterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic

from hpcgate.errors import PermissionDenied
from hpcgate.sharing.recent import Recent
from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.commands.quoting import Steering, called
from hpcgate.ssh.files.coreutils_errors import error_from_stderr
from hpcgate.ssh.files.protocol import OTHERS_WRITE
from hpcgate.ssh.files.streams import StreamRunner
from hpcgate.ssh.runner import SHORT, Completed, Runner

UNTRUSTED = "is a symbolic link of somebody else's where others may write; it is not followed for writing"
"""What is said of a link that is refused, behind its path."""
MOVED = "has just been put somewhere else"
"""What is said of a directory that another one has taken the place of."""
LASTS = 10.0
"""Seconds that a directory is taken for as safe as it was: only its owner and root could change that."""
MAX_REMEMBERED = 256
"""Directories that are remembered for each user."""

# What is looked at is looked at from the directory that it lies in, in which the shell stands, for any path may lead
# elsewhere a moment later. lstat(2) and readlink(2) are two steps, between which a link may become another one of that
# name: where that can be, it must be the same before and after, and must not have been renamed meanwhile, as the time
# of its last change tells (where that is kept in whole seconds, those have to pass).
FOLLOW = f"""\
refuse() {{ printf '%s\\n' "$1: Permission denied" >&2; exit 1; }}
stands() {{
  # Not the shell's own pwd: bash tells what the path led to a moment ago.
  where=$(env pwd -P && printf x)
  [ "$where" = "$1
x" ] || refuse "$1 {MOVED}"
}}
follow() {{
  left=$1 real= hops=0 lost=
  case $1 in
    /*) cd -P / || exit ;;
    *) real=$(env pwd -P && printf x); real=${{real%
x}}; real=${{real%/}} ;;
  esac
  while [ -n "$left" ]; do
    case $left in
      /*) left=${{left#/}}; continue ;;
      */*) part=${{left%%/*}}; left=${{left#*/}} ;;
      *) part=$left; left= ;;
    esac
    case $part in
      .) continue ;;
      ..)
        real=${{real%/*}}
        if [ -z "$lost" ]; then cd -P .. 2>/dev/null || lost=yes; fi
        continue ;;
    esac
    if [ -n "$lost" ] || [ ! -L "./$part" ]; then
      real=$real/$part
      case $left in *[!/]*) [ -n "$lost" ] || cd -P -- "./$part" 2>/dev/null || lost=yes ;; esac
      continue
    fi
    hops=$((hops + 1))
    [ "$hops" -le 40 ] || {{ printf '%s\\n' "$1: Too many levels of symbolic links" >&2; exit 1; }}
    stands "${{real:-/}}"
    link=$(stat -c '%u %h %d %i %z' -- "./$part") && holder=$(stat -c '0%a %u' .) || exit 1
    swappable=
    if [ $((${{holder% *}} & 022)) -ne 0 ]; then
      me=$(id -u)
      case $link in
        "${{holder#* }} "*) ;;
        "0 1 "* | "$me 1 "*) ;;
        *) refuse "$real/$part {UNTRUSTED}" ;;
      esac
      # A directory's owner may lead others by links in it, without swapping any.
      case ${{holder#* }} in 0 | "$me") [ $((${{holder% *}} & 01000)) -ne 0 ] || swappable=yes ;; esac
    fi
    if [ -n "$swappable" ]; then
      case $link in *.000000000*) sleep 1.1 ;; *) sleep 0.05 ;; esac
      [ "$link" = "$(stat -c '%u %h %d %i %z' -- "./$part")" ] || refuse "$real/$part {MOVED}"
    fi
    to=$(readlink -n -- "./$part" && printf x) || exit 1
    to=${{to%x}}
    if [ -n "$swappable" ] && [ "$link" != "$(stat -c '%u %h %d %i %z' -- "./$part")" ]; then
      refuse "$real/$part {MOVED}"
    fi
    case $to in /*) real=; cd -P / || exit ;; esac
    left=$to${{left:+/$left}}
  done
  real=${{real:-/}}
}}
"""
"""``follow PATH`` sets `real` to the path with its links resolved; what is missing at its end stays as it is. The shell
stands somewhere else then.

A link with several names may be a hard link that somebody else has made, and so counts as nobody's.
"""

ENTER = (
    FOLLOW
    + """\
enter() {
  # Not every shell says why. What stat finds has come back meanwhile.
  cd -P -- "$1" 2>/dev/null || { stat -- "$1/." >/dev/null && cd -P -- "$1"; } || exit 1
  stands "$1"
}
settle() {
  case $1 in
    ./*/* | ./ | ./. | ./..) ;;
    ./*) if [ ! -L "$1" ]; then home=. base=${1#./}; return; fi ;;
  esac
  follow "$1"
  base=${real##*/}
  home=${real%/*}
  home=${home:-/}
  enter "$home"
}
beside() {
  base=$1 slash=
  while :; do case $base in ?*/) base=${base%/} slash=/ ;; *) break ;; esac; done
  case $base in
    ./*/*) ;;
    ./*) home=. base=${base#./}; return ;;
  esac
  case $base in */*) follow "${base%/*}/" ;; *) follow ./ ;; esac
  home=$real
  base=${base##*/}
  enter "$home"
}
"""
)
"""``enter DIRECTORY`` goes to a directory whose path has no links. ``settle PATH`` follows a path and goes to the
directory, `home`, that its last component, `base`, lies in; of ``./NAME`` that is the one where the shell stands
already. ``beside PATH`` does so without following a link in the last place; `slash` is a slash if one stood behind it.
From then on nobody can lead bare names astray.
"""

OWN = (
    ENTER
    + """\
strange() { printf '%s\\n' "${real%/}/$1: No such file or directory" >&2; exit 1; }
own() {
  follow "$1"
  [ -d "${real%/}/$2" ] || strange "$2"
  enter "${real%/}/$2"
  mine=$(stat -c '0%a %u' .) && [ $((${mine% *} & 022)) -eq 0 ] && [ "${mine#* }" = "$(id -u)" ] || strange "$2"
}
"""
)
"""``own DIRECTORY NAME`` goes to a directory in it that is the user's alone: `hpcgate.ssh.files.private_directory`."""

_PINNED = ENTER + 'follow "$1"; enter "$real"; shift\nexec "$@"\n'
_OWNED = OWN + 'own "$1" "$2"; shift 2\nexec "$@"\n'
_RESOLVE = FOLLOW + 'follow "$1"\nprintf %s "$real"\n'
# A user or a group without a name is not a failure; `id` says its number then.
_WHO = (
    "id -u && id -g || exit; id -un; id -gn; "
    'getent group "$(id -g)" 2>/dev/null || grep "^$(id -gn):" /etc/group 2>/dev/null || echo; exit 0'
)
# Says something if one of some directories has an access control list: then the group's bits in its mode are the mask.
_LISTED = 'for d; do case $(ls -dln -- "$d") in d?????????+* | "") echo listed; exit ;; esac; done'


@dataclass(frozen=True, slots=True)
class Step:
    """A directory on the way to a file, or the file: what lstat(2) says of it."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Self:
    """Who the user is on the login node.

    Attributes:
        uid: The user's number; -1 if it could not be told, which then nothing belongs to.
        gid: That of the group that is the user's alone, as told by its name and its members, or None.
    """

    uid: int = -1
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Footing:
    """A directory to write in.

    Attributes:
        real: Its path, without links.
        fixed: Whether nobody but the user and root can make the path lead elsewhere.
        kept: Whether, besides, nobody but them can rename or remove what the user makes in it.
    """

    real: bytes
    fixed: bool
    kept: bool


class Footings:
    """What is known of directories, and of who the user is, for a while.

    Attributes:
        self: Who the user is, None until it is known; at first by whose the home directory is. Were that not the
            user, its owner could still do there as they like.
        turn: How often all was forgotten.
    """

    def __init__(self) -> None:
        self.self: Self | None = None
        self._asked = False
        self._known = Recent[bytes, Footing](MAX_REMEMBERED)
        self.turn = 0

    def get(self, directory: bytes) -> Footing | None:
        """Return what is known of a directory."""
        return self._known.get(directory)

    def forget(self) -> None:
        """Remember nothing of what was known, or is being looked at: the user has changed who may write somewhere."""
        self._known = Recent[bytes, Footing](MAX_REMEMBERED)
        self.turn += 1

    def keep(self, footing: Footing, turn: int) -> None:
        """Remember one that is fixed, as it was looked at in a turn; any other may change at any time."""
        if footing.fixed and turn == self.turn:
            self._known.keep(footing.real, footing, monotonic() + LASTS)

    async def who(self, runner: Runner) -> Self:
        """Return who the user is, by one command, once."""
        if not self._asked:
            done = await runner.run(["sh", "-c", _WHO, "id"], limit=SHORT)
            words = done.stdout.decode("utf-8", "replace").split("\n")
            if done.ok and len(words) == 6 and words[0].isdecimal() and words[1].isdecimal():
                named = words[2] == words[3] and not words[2].isdecimal()
                # group(5): the members stand behind the last colon, without those whose first group it is.
                name, _, members = words[4].rpartition(":")
                alone = name.startswith(f"{words[3]}:") and set(members.split(",")) <= {"", words[2]}
                self.self = Self(int(words[0]), int(words[1]) if named and alone else None)
            self._asked = True
        return self.self or Self()

    async def judge(self, runner: Runner, real: bytes, steps: Sequence[Step], turn: int) -> Footing:
        """Say how safe a directory is, and remember it; who the user is, is asked only if it depends on that."""
        me = self.self or Self()
        footing = judge(real, steps, me)
        if not footing.kept and (me.uid <= 0 or any(step.uid == me.uid and step.mode & OTHERS_WRITE for step in steps)):
            me = await self.who(runner)
            footing = judge(real, steps, me)
        strict = judge(real, steps, Self(me.uid))
        if strict != footing and await self._any_listed(runner, real, steps, me):
            footing = strict
        self.keep(footing, turn)
        return footing

    async def _any_listed(self, runner: Runner, real: bytes, steps: Sequence[Step], me: Self) -> bool:
        """Say whether a directory that the user's own group may write has a list, by which others may be meant."""
        shared = [
            directory
            for directory, step in zip(ancestors(real), steps, strict=True)
            if step.mode & stat.S_IWGRP and step.gid == me.gid
        ]
        done = await runner.run(["sh", "-c", _LISTED, "ls", *shared], limit=SHORT)
        return not done.ok or bool(done.stdout)


def ancestors(directory: bytes) -> list[bytes]:
    """Return the directories on the way to one, the root first and itself last; dots and double slashes are kept out.

    Raises:
        ValueError: The path has ``..`` in it, which only the login node can resolve.
    """
    found = [b"/"]
    path = b""
    for part in directory.split(b"/"):
        if part == b"..":
            raise ValueError("..")
        if part not in (b"", b"."):
            path += b"/" + part
            found.append(path)
    return found


def judge(real: bytes, steps: Sequence[Step], me: Self) -> Footing:
    """Say how safe a directory is, of all that lie on the way to it, the root first and itself last; none is a link."""
    fixed = all(_keeps(above, step, me) for above, step in pairwise(steps))
    return Footing(real, fixed, fixed and _keeps(steps[-1], None, me))


def _keeps(directory: Step, entry: Step | None, me: Self) -> bool:
    """Say whether nobody but the user and root can rename or remove an entry, by default one of the user's."""
    if directory.uid not in (0, me.uid):
        return False
    shared = directory.mode & OTHERS_WRITE
    if directory.gid == me.gid:
        shared &= ~stat.S_IWGRP
    if not shared:
        return True
    return bool(directory.mode & stat.S_ISVTX) and (entry is None or entry.uid in (0, me.uid))


def untrusted(stderr: bytes) -> PermissionDenied | None:
    """Return the error if what a script with `FOLLOW` has said is that it does not follow a link."""
    for line in stderr.decode("utf-8", "replace").splitlines():
        if UNTRUSTED in line or MOVED in line:
            return PermissionDenied(line)
    return None


async def resolve(runner: Runner, path: bytes) -> bytes:
    """Return a path with its links followed as `FOLLOW` does.

    Raises:
        PermissionDenied: A link on it is not followed for writing.
        BadRequest: Its links go round in circles.
    """
    done = await runner.run(["sh", "-c", _RESOLVE, "readlink", path], limit=SHORT)
    if not done.ok:
        raise untrusted(done.stderr) or error_from_stderr(done.stderr, "stat")
    return done.stdout


def parent(path: bytes) -> bytes:
    """Return the directory that a path's last component lies in."""
    directory, slash, _ = path.rstrip(b"/").rpartition(b"/")
    return directory or (b"/" if slash or path.startswith(b"/") else b".")


class Pinned:
    """Runs commands in one directory, which they see to be the right one first; paths are to be bare names.

    Args:
        runner: Runs them.
        directory: The directory.
        owned: The name of a directory in it that is the user's alone, which they are to stand in instead.
    """

    def __init__(self, runner: StreamRunner, directory: bytes, owned: bytes | None = None) -> None:
        self._runner = runner
        self._script = _PINNED if owned is None else _OWNED
        self._places = [directory] if owned is None else [directory, owned]

    def _standing(self, argv: Sequence[str | bytes]) -> list[str | bytes]:
        """Return the command that goes there and becomes another one, whose name it has."""
        return ["sh", "-c", self._script, called(argv), *self._places, *argv]

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
        """Run a command to its end."""
        return await self._runner.run(
            self._standing(argv), stdin=stdin, limit=limit, timeout=timeout, env=env, without=without
        )

    def process(
        self, argv: Sequence[str | bytes], *, stall: float, env: dict[str, str] | None = None
    ) -> AbstractAsyncContextManager[Process]:
        """Start a command to feed and read while it runs."""
        return self._runner.process(self._standing(argv), stall=stall, env=env)

    async def ask(self, argv: Sequence[str], request: bytes, *, limit: int | None = None) -> bytes:
        """Ask a long-lived process, which does not stand there."""
        return await self._runner.ask(argv, request, limit=limit)

    def dismiss(self, argv: Sequence[str]) -> None:
        """End a long-lived process, whatever is under way."""
        self._runner.dismiss(argv)
