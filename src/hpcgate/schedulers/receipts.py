"""Receipts of submissions, in a directory of the user's on the login node: what makes a submission happen once.

A receipt is a directory named by a hash of user, system and key. In it each attempt to submit has a number and a file
of that name, which says who makes it and under which mark. The file is made by link(2), which succeeds for one only, on
NFS too, and is never replaced: whoever holds attempt N+1 has seen attempt N and knows that it is over. So there is no
lock that can be left behind, and none that somebody must break. Beside the file stand what the scheduler's command has
printed, how it ended, what the answer needs besides, and the job's id once it is known; each takes its name when it is
whole.

The command runs in a session of its own and writes to a file: it goes on when the connection, the gateway or the
script that waits for it is gone. Whether it still runs is told by its process id and the time when it began; on another
machine that shares the home directory it is taken to run for `LEASE` seconds.

Old receipts are swept by later claims, in the same way: who makes the next attempt of one may remove it.
"""

import hashlib
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hpcgate.errors import BadAnswer, GatewayError, NoSpace, PermissionDenied, RateLimited
from hpcgate.outbound.wording import clipped
from hpcgate.ssh.commands.quoting import KEEPING_FUNCTIONS
from hpcgate.ssh.runner import understanding

LEASE: Final = 900
"""Seconds after which a command on another machine is taken to have ended; sbatch tries for a few minutes."""

SWEEP_EVERY: Final = 600
"""Seconds between two sweeps of a directory."""

_TOOLS = "cat cd chmod date dd find kill ln ls mkdir mv printf read readlink rm rmdir set setsid sh test [ uname umask"
_BEGIN = f"{KEEPING_FUNCTIONS}{_TOOLS}; set +aefuC; "

_CHILD = (
    _BEGIN
    + """
_hpcgate_started() { read -r _hpcgate_line </proc/$$/stat; set -- ${_hpcgate_line##*) }; shift 19; echo "$1"; }
_hpcgate_fail() { printf '%s failed\\n%s\\n' "$_hpcgate_header" "$1"; exit 97; }
_hpcgate_header=$1 _hpcgate_at=$2 _hpcgate_token=${3%% *} _hpcgate_claim="$3 $$ $(_hpcgate_started)"
_hpcgate_seen=$4 _hpcgate_memo=$5 _hpcgate_umask=$6
shift 6
_hpcgate_said=$( { printf '%s\\n' "$_hpcgate_claim" >"$_hpcgate_at.new.$_hpcgate_token"; } 2>&1 )
_hpcgate_back=
{ IFS= read -r _hpcgate_back <"$_hpcgate_at.new.$_hpcgate_token"; } 2>/dev/null
[ "$_hpcgate_back" = "$_hpcgate_claim" ] || {
  rm -f -- "$_hpcgate_at.new.$_hpcgate_token"
  _hpcgate_fail "${_hpcgate_said:-No space left on device}"
}
_hpcgate_said=$(ln -- "$_hpcgate_at.new.$_hpcgate_token" "$_hpcgate_at" 2>&1)
rm -f -- "$_hpcgate_at.new.$_hpcgate_token"
_hpcgate_back=
{ IFS= read -r _hpcgate_back <"$_hpcgate_at"; } 2>/dev/null
if [ "$_hpcgate_back" != "$_hpcgate_claim" ]; then
  [ -n "$_hpcgate_back" ] && exit 98
  _hpcgate_fail "${_hpcgate_said:-the attempt cannot be read}"
fi
if [ -n "$_hpcgate_seen" ]; then
  # What was seen before has been swept meanwhile: somebody may have begun anew.
  _hpcgate_back=
  { read -r _hpcgate_back _hpcgate_line <"${_hpcgate_at%/*}/${_hpcgate_seen%% *}"; } 2>/dev/null
  [ "$_hpcgate_back" = "${_hpcgate_seen#* }" ] || { rm -f -- "$_hpcgate_at"; exit 98; }
fi
if [ -n "$_hpcgate_memo" ]; then mv -f -- "$_hpcgate_memo" "$_hpcgate_at.memo" || exit 99; fi
umask "$_hpcgate_umask"
_hpcgate_out=$_hpcgate_at.out
# What is there already was put there by somebody else.
( set -C; : >"$_hpcgate_out" ) 2>/dev/null || _hpcgate_fail "$_hpcgate_out: cannot be made"
unset _hpcgate_line
exec "$@" >>"$_hpcgate_out" 2>&1
"""
)
"""Makes the attempt, and becomes the scheduler's command."""

_SCRIPT = (
    _BEGIN
    + """
exec 2>&1
trap '' HUP INT TERM PIPE
_hpcgate_umask=$(umask)
umask 077
_hpcgate_mode=$1 _hpcgate_header=$2 _hpcgate_directory=$3 _hpcgate_name=$4 _hpcgate_seen=$5 _hpcgate_token=$6
_hpcgate_claim=$7 _hpcgate_ours=$OURS
shift 7
fail() { printf '%s %s\\n%s\\n' "$_hpcgate_header" "$1" "$2"; exit 0; }
case $_hpcgate_directory in '~'/*) _hpcgate_directory=$HOME/${_hpcgate_directory#??} ;; esac
case $_hpcgate_directory in /*) ;; *) fail failed "HOME is not set" ;; esac
if [ ! -d "$_hpcgate_directory" ] && [ ! -h "$_hpcgate_directory" ]; then
  [ "$_hpcgate_mode" = claim ] || fail none
  _hpcgate_said=$(mkdir -p -- "$_hpcgate_directory" 2>&1)
  [ -d "$_hpcgate_directory" ] || fail failed "$_hpcgate_said"
fi
[ ! -h "$_hpcgate_directory" ] || fail failed "$_hpcgate_directory: is a link"
_hpcgate_said=$(cd -- "$_hpcgate_directory" 2>&1) || fail failed "$_hpcgate_said"
cd -- "$_hpcgate_directory" || fail failed "$_hpcgate_directory: cannot be entered"
[ -O . ] || fail failed "$_hpcgate_directory: belongs to somebody else"
case $(ls -ld .) in
  drwx------*) ;;
  *) for _hpcgate_file in * .[!.]* ..?*; do
       case $_hpcgate_file in '*' | '.[!.]*' | '..?*' | .nfs* | swept* | $_hpcgate_ours | $_hpcgate_ours.memo.*) ;;
         *) fail failed "$_hpcgate_directory: is not private, and holds other things than receipts" ;;
       esac
     done
     _hpcgate_said=$(chmod 700 . 2>&1) || fail failed "$_hpcgate_said"
     case $(ls -ld .) in drwx------*) ;; *) fail failed "$_hpcgate_directory: cannot be made private" ;; esac ;;
esac
[ ! -h "$_hpcgate_name" ] || fail failed "$_hpcgate_directory/$_hpcgate_name: is a link"
# Made by somebody else before the directory was private, it may be open in one of their programs.
[ ! -e "$_hpcgate_name" ] || [ -O "$_hpcgate_name" ] ||
  fail failed "$_hpcgate_directory/$_hpcgate_name: belongs to somebody else"
# What has such a name already was put there by somebody else, and could lead elsewhere.
write() { ( set -C; printf '%s\\n' "$2" >"$1" ) 2>/dev/null; }
plain() { [ -f "$1" ] && [ ! -h "$1" ]; }
_hpcgate_now=$(date +%s)
{ read -r _hpcgate_boot </proc/sys/kernel/random/boot_id; } 2>/dev/null || _hpcgate_boot=-
_hpcgate_space=$(readlink /proc/self/ns/pid 2>/dev/null)
_hpcgate_space=${_hpcgate_space#*[}
_hpcgate_machine=$(uname -n)/$_hpcgate_boot/${_hpcgate_space%]}
_hpcgate_apart=$(command -v setsid)
latest() {
  _hpcgate_n=0
  for _hpcgate_file in "$1"/*; do
    _hpcgate_file=${_hpcgate_file##*/}
    case $_hpcgate_file in *[!0-9]*) continue ;; esac
    if [ "$_hpcgate_file" -gt "$_hpcgate_n" ]; then _hpcgate_n=$_hpcgate_file; fi
  done
}
token() {
  _hpcgate_held=
  plain "$1" && { read -r _hpcgate_held _hpcgate_rest <"$1"; } 2>/dev/null
}
runs() {
  # token mark digest since machine pid start
  case $4$6$7 in '' | *[!0-9]*) return 1 ;; esac
  if [ "$5" != "$_hpcgate_machine" ]; then
    [ $((_hpcgate_now - $4)) -lt "$LEASE" ]
    return
  fi
  if { read -r _hpcgate_line </proc/"$6"/stat; } 2>/dev/null; then
    _hpcgate_start=$7 _hpcgate_since=$4
    set -- ${_hpcgate_line##*) }
    # One that nobody has taken leave of yet may have children that go on.
    case $1 in Z | X) [ $((_hpcgate_now - _hpcgate_since)) -lt "$LEASE" ]; return ;; esac
    shift 19
    [ "$1" = "$_hpcgate_start" ]
    return
  fi
  [ -n "$_hpcgate_apart" ] && kill -s 0 -- "-$6" 2>/dev/null && [ $((_hpcgate_now - $4)) -lt "$LEASE" ]
}
report() {
  latest "$_hpcgate_name"
  [ "$_hpcgate_n" -gt 0 ] || fail none
  _hpcgate_at=$_hpcgate_name/$_hpcgate_n
  { plain "$_hpcgate_at" && IFS= read -r _hpcgate_line <"$_hpcgate_at"; } 2>/dev/null || fail swept
  _hpcgate_attempt=$_hpcgate_line
  case $_hpcgate_attempt in swept*) fail swept ;; esac
  _hpcgate_id= _hpcgate_status=- _hpcgate_memo=
  plain "$_hpcgate_at.id" && { read -r _hpcgate_id <"$_hpcgate_at.id"; } 2>/dev/null
  plain "$_hpcgate_at.memo" && { IFS= read -r _hpcgate_memo <"$_hpcgate_at.memo"; } 2>/dev/null
  # Looked at before how it ended: what has ended meanwhile is taken to run, and not the other way round.
  if runs $_hpcgate_attempt; then _hpcgate_state=held; else _hpcgate_state=open; fi
  plain "$_hpcgate_at.end" && { read -r _hpcgate_status <"$_hpcgate_at.end"; } 2>/dev/null && _hpcgate_state=ended
  printf '%s %s\\n%s\\n%s\\n%s\\n%s\\n%s\\n%s\\n' "$_hpcgate_header" "$_hpcgate_state" "$_hpcgate_n" "$_hpcgate_now" \\
    "$_hpcgate_attempt" "$_hpcgate_status" "$_hpcgate_id" "$_hpcgate_memo"
  plain "$_hpcgate_at.out" && { dd bs=262144 count=1 <"$_hpcgate_at.out"; } 2>/dev/null
  exit 0
}
sweep() {
  # $1 minutes
  _hpcgate_count=0 _hpcgate_last=0
  plain swept && { read -r _hpcgate_last _hpcgate_count <swept; } 2>/dev/null
  # What is reckoned with has to be a number: bash does what else stands there.
  case $_hpcgate_last in '' | *[!0-9]*) _hpcgate_last=0 ;; esac
  if [ $((_hpcgate_now - _hpcgate_last)) -ge "$SWEEP_EVERY" ]; then
    for _hpcgate_old in $(find . ! -name . -prune -type d -name "$_hpcgate_ours" -mmin "+$1" 2>/dev/null); do
      [ -O "$_hpcgate_old" ] || continue
      latest "$_hpcgate_old"
      _hpcgate_next=$_hpcgate_old/$((_hpcgate_n + 1))
      printf 'swept %s\\n' "$_hpcgate_token" >"$_hpcgate_next.new.$_hpcgate_token" || continue
      if ln -- "$_hpcgate_next.new.$_hpcgate_token" "$_hpcgate_next" 2>/dev/null; then
        rm -f -- "$_hpcgate_next.new.$_hpcgate_token"
        for _hpcgate_file in "$_hpcgate_old"/[0-9]* "$_hpcgate_old"/memo.*; do
          [ "$_hpcgate_file" = "$_hpcgate_next" ] || rm -f -- "$_hpcgate_file"
        done
        rm -f -- "$_hpcgate_next"
        rmdir -- "$_hpcgate_old" 2>/dev/null
      else
        rm -f -- "$_hpcgate_next.new.$_hpcgate_token"
      fi
    done
    find . ! -name . -prune -type f -name "$_hpcgate_ours.memo.*" -mmin "+$1" -exec rm -f -- {} + 2>/dev/null
    set -- $_hpcgate_ours
    if [ -e "$1" ]; then _hpcgate_count=$#; else _hpcgate_count=0; fi
    {
      printf '%s %s\\n' "$_hpcgate_now" "$_hpcgate_count" >"swept.$_hpcgate_token" &&
        mv -f -- "swept.$_hpcgate_token" swept
    } 2>/dev/null
  fi
}
case $_hpcgate_mode in
  look) report ;;
  settle)
    token "$_hpcgate_name/$1"
    [ "$_hpcgate_held" = "$_hpcgate_token" ] || report
    _hpcgate_at=$_hpcgate_name/$1
    write "$_hpcgate_at.id.$_hpcgate_header" "$2" && mv -f -- "$_hpcgate_at.id.$_hpcgate_header" "$_hpcgate_at.id"
    report ;;
esac
_hpcgate_memo=
if [ "$3" -gt 0 ]; then
  _hpcgate_memo=$_hpcgate_name.memo.$_hpcgate_token
  dd bs="$3" count=1 >"$_hpcgate_memo" 2>/dev/null
  # Its last byte ends a line.
  { read -r _hpcgate_line <"$_hpcgate_memo"; } 2>/dev/null || {
    rm -f -- "$_hpcgate_memo"
    fail failed "No space left on device"
  }
fi
sweep "$1"
_hpcgate_most=$2
shift 3
latest "$_hpcgate_name"
token "$_hpcgate_name/$_hpcgate_n"
case "$_hpcgate_n $_hpcgate_held" in
  "0 " | "$_hpcgate_seen") ;;
  *) [ -z "$_hpcgate_memo" ] || rm -f -- "$_hpcgate_memo"; report ;;
esac
if [ "$_hpcgate_n" -eq 0 ]; then
  _hpcgate_seen=
  if [ "${_hpcgate_count:-0}" -ge "$_hpcgate_most" ]; then
    [ -z "$_hpcgate_memo" ] || rm -f -- "$_hpcgate_memo"
    fail full "$_hpcgate_count"
  fi
fi
_hpcgate_said=$(mkdir -p -- "$_hpcgate_name" 2>&1) || fail failed "$_hpcgate_said"
if [ -n "$_hpcgate_memo" ]; then
  mv -f -- "$_hpcgate_memo" "$_hpcgate_name/memo.$_hpcgate_token" || fail failed "No space left on device"
  _hpcgate_memo=$_hpcgate_name/memo.$_hpcgate_token
fi
_hpcgate_at=$_hpcgate_name/$((_hpcgate_n + 1))
${_hpcgate_apart:+"$_hpcgate_apart"} sh -c "$CHILD" sh "$_hpcgate_header" "$_hpcgate_at" \\
  "$_hpcgate_token $_hpcgate_claim $_hpcgate_now $_hpcgate_machine" "$_hpcgate_seen" "$_hpcgate_memo" \\
  "$_hpcgate_umask" "$@"
_hpcgate_status=$?
token "$_hpcgate_at"
if [ "$_hpcgate_held" = "$_hpcgate_token" ]; then
  {
    write "$_hpcgate_at.end.$_hpcgate_token" "$_hpcgate_status" &&
      mv -f -- "$_hpcgate_at.end.$_hpcgate_token" "$_hpcgate_at.end"
  } 2>/dev/null
elif [ "$_hpcgate_status" -eq 97 ]; then
  exit 0
fi
_hpcgate_now=$(date +%s)
report
"""
)


def _written(text: str) -> str:
    """Return a script with its constants in place."""
    text = text.replace('"$LEASE"', str(LEASE)).replace('"$SWEEP_EVERY"', str(SWEEP_EVERY))
    return text.replace("$OURS", "[0-9a-f]" * 32)


SCRIPT: Final = _written(_SCRIPT).replace('"$CHILD"', shlex.quote(_CHILD))

State = Literal["none", "held", "open", "ended", "swept"]


@dataclass(frozen=True, slots=True)
class Receipts:
    """Where receipts lie, and how long they count.

    Attributes:
        directory: On the login node; ``~/`` is the user's home directory.
        lifetime: Seconds for which a key stands for its submission.
        most: Most receipts of a user.
    """

    directory: str
    lifetime: float
    most: int


@dataclass(frozen=True, slots=True)
class Once:
    """What a submission is to happen once for.

    Attributes:
        receipts: Where its receipt lies.
        name: The receipt's name.
        digest: Of all that is to be the same when the key is used again.
        memo: What the answer needs besides the job's id; without line ends.
    """

    receipts: Receipts
    name: str
    digest: str = ""
    memo: str = ""

    @classmethod
    def of(cls, receipts: Receipts, username: str, system: str, key: str, digest: str = "") -> "Once":
        """Return what a user's key stands for on a system."""
        words = "\0".join((username, system.casefold(), key))
        return cls(receipts, hashlib.sha256(words.encode()).hexdigest()[:32], digest)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receipt says of its latest attempt.

    Attributes:
        state: ``none`` if there is no receipt, ``held`` while the command runs, ``ended`` if it has ended, ``open``
            if it is gone and nobody knows how it ended, ``swept`` while the receipt is being removed.
        number: The attempt's number.
        age: Seconds since the attempt began, by the login node's clock.
        token: What tells the attempt from all others.
        mark: What the job is marked with.
        digest: Of the request.
        status: The exit status of the command, None if it is not known.
        job_id: The job's id, where somebody has found it out.
        memo: What the answer needs besides.
        printed: What the command has printed so far.
    """

    state: State
    number: int = 0
    age: int = 0
    token: str = ""
    mark: str = ""
    digest: str = ""
    status: int | None = None
    job_id: str | None = None
    memo: str = ""
    printed: str = ""

    @property
    def seen(self) -> str:
        """What names this attempt to whoever is to make the next one."""
        return f"{self.number} {self.token}" if self.number else ""


def new_header() -> str:
    """Return what stands before what is said of a receipt, and nothing else has printed."""
    return f"receipt-{secrets.token_hex(8)}"


def new_token() -> str:
    """Return what was never used before."""
    return secrets.token_hex(8)


def new_mark(name: str) -> str:
    """Return a mark for a receipt of that name; qsub takes up to 32 characters."""
    return f"{MARKED}{name[:16]}{secrets.token_hex(4)}"


MARKED: Final = "hpcgate:"


def claim(
    once: Once, header: str, token: str, mark: str, seen: str, argv: Sequence[str], *, memo_size: int = 0
) -> list[str]:
    """Return the command that makes an attempt unless somebody else has, and says what the receipt says then.

    Args:
        once: What for.
        header: Stands before what is said.
        token: The attempt's own.
        mark: What the job is marked with.
        seen: The attempt that is known to be over, as `Receipt.seen`; empty if none is known.
        argv: The command of the scheduler.
        memo_size: Bytes of its input that come before the command's, and are the memo.
    """
    minutes = str(int(once.receipts.lifetime // 60) + 60)
    return [
        *_command("claim", once, header, seen, token, f"{mark} {once.digest}", called=_called(argv)),
        *(minutes, str(once.receipts.most), str(memo_size)),
        *argv,
    ]


def look(once: Once, header: str) -> list[str]:
    """Return the command that says what the receipt says."""
    return _command("look", once, header, "", "", "", called="sh")


def settle(once: Once, header: str, receipt: Receipt, job_id: str) -> list[str]:
    """Return the command that writes a job's id into the receipt, and says what it says then."""
    return [*_command("settle", once, header, "", receipt.token, "", called="sh"), str(receipt.number), job_id]


def _called(argv: Sequence[str]) -> str:
    return argv[3] if list(argv[:2]) == ["sh", "-c"] and len(argv) > 3 else argv[0]


def _command(mode: str, once: Once, header: str, seen: str, token: str, claimed: str, *, called: str) -> list[str]:
    return ["sh", "-c", SCRIPT, called, mode, header, once.receipts.directory, once.name, seen, token, claimed]


_STATES: Mapping[str, State] = {"held": "held", "open": "open", "ended": "ended"}
_ROOM = ("No space left on device", "Disk quota exceeded")


def parse(output: str, header: str) -> Receipt:
    """Return what was said of a receipt.

    Raises:
        NoSpace: There is no room for one, and nothing was submitted.
        PermissionDenied: There can be none, and nothing was submitted.
        RateLimited: There are too many.
        BadAnswer: Nothing was said.
    """
    before, found, after = output.partition(header + " ")
    if not found:
        said = clipped(before.strip(), 400)
        raise BadAnswer(f"The receipt of the submission cannot be read: {said}" if said else "No receipt was shown")
    lines = after.split("\n", 7)
    match lines[0]:
        case "none":
            return Receipt("none")
        case "swept":
            return Receipt("swept")
        case "full":
            count = clipped(lines[1] if len(lines) > 1 else "", 20)
            raise RateLimited(
                f"There are receipts of {count} submissions already, which is the most that are kept",
                headers={"Retry-After": str(SWEEP_EVERY)},
            )
        case "failed":
            raise _failure(" ".join(after.split("\n")[1:]).strip())
    with understanding("The receipt of a submission"):
        state, number, now, attempt, status, job_id, memo, printed = lines
        token, mark, digest, since, *_ = attempt.split(" ")
        return Receipt(
            state=_STATES[state],
            number=_number(number),
            age=_number(now) - _number(since),
            token=token,
            mark=mark,
            digest=digest,
            status=None if status == "-" else _number(status),
            job_id=job_id or None,
            memo=memo,
            printed=printed,
        )


def _number(text: str) -> int:
    """Return a number of 18 digits at most; what stands in a receipt may be the user's own doing."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ValueError("not a number")
    return int(text)


def _failure(words: str) -> GatewayError:
    message = f"The receipt of the submission cannot be kept, and nothing was submitted: {clipped(words, 400)}"
    return NoSpace(message) if any(phrase in words for phrase in _ROOM) else PermissionDenied(message)
