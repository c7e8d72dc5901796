"""Many commands of the scheduler's by one command on the login node: one channel, one round trip, some at a time.

All goes as one program, which is whole before it begins (`hpcgate.schedulers.submitting`). It writes each command's
input to a file; inputs and long arguments that several have in common go once. The one shell that runs it does by
itself what a shell can: to run a command it makes that command's process and no other. What each has printed comes
back for some together.
"""

import asyncio
import itertools
import re
import secrets
import shlex
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from hpcgate.errors import GatewayError, NoSpace, SchedulerUnavailable, TimedOut
from hpcgate.schedulers.submitting import Printed, clipped, whole
from hpcgate.ssh.commands.ending import ending_line
from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.commands.quoting import KEEPING_FUNCTIONS, Argv, Steering, as_text, called
from hpcgate.ssh.commands.temporary import SAFE
from hpcgate.ssh.session import Session

MAX: Final = 16 * 1024 * 1024
"""Bytes that all commands together may print; of more nothing is read."""

TOGETHER: Final = 32
"""Of how many that have ended what they have printed is told by one process."""

LONG: Final = 256
"""Characters from which on an argument that several commands have in common is sent once."""

_NO_ROOM = "hpcgate: no room for the input: "

_INTERRUPTED = (
    "kill -s TERM 0; "
    '[ -z "$_hpcgate_keeper" ] || { kill -s USR1 "$_hpcgate_keeper"; wait "$_hpcgate_keeper"; }; _hpcgate_flush'
)

_SCRIPT = (
    f"{KEEPING_FUNCTIONS}cat cd kill ls mktemp printf read rm sh test wait [; set +aefmuC; "
    "exec 2>&1; _hpcgate_place= _hpcgate_queue= _hpcgate_keeper=; "
    f"_hpcgate_flush() {{ :; }}; {SAFE}"
    # What runs would write where it is cleared up.
    + ending_line('[ -z "$_hpcgate_place" ] || rm -rf -- "$_hpcgate_place"', _INTERRUPTED)
    # Nobody reads any more: what has begun comes to its end, and no more is begun.
    + 'trap \'trap "" PIPE; while [ -n "$_hpcgate_queue" ]; do _hpcgate_next; done; _hpcgate_end 1\' PIPE; '
    '_hpcgate_place=$(mktemp -d -p "$(_hpcgate_temporary)" 2>/dev/null) || '
    "_hpcgate_place=$(mktemp -d -p ~ 2>/dev/null) || "
    f'{{ printf "{_NO_ROOM}"; exit 1; }}; '
    "case $_hpcgate_place in (/*) ;; (*) _hpcgate_place=$PWD/$_hpcgate_place ;; esac; "
    "_hpcgate_word=$1 _hpcgate_most=$2 _hpcgate_was=$PWD; "
    f'cat >"$_hpcgate_place/program" || {{ printf "{_NO_ROOM}%s\\n" "$_hpcgate_place"; exit 1; }}; '
    'exec </dev/null; . "$_hpcgate_place/program"'
)

_FUNCTIONS = f"""
_hpcgate_n=0 _hpcgate_running=0 _hpcgate_told= _hpcgate_tells=0 _hpcgate_spare=
_hpcgate_input() {{
  # $1 the input's number, $2 how printf is to write it, and the parts of the input
  _hpcgate_in=$_hpcgate_place/b$1 _hpcgate_as=$2 _hpcgate_written=
  shift 2
  for _hpcgate_part; do
    _hpcgate_written=
    printf "$_hpcgate_as" "$_hpcgate_part" || break
    _hpcgate_written=yes
  done >"$_hpcgate_in"
  [ -n "$_hpcgate_written" ] || {{ printf '{_NO_ROOM}%s\\n' "$_hpcgate_place"; exit 1; }}
}}
_hpcgate_new() {{
  _hpcgate_n=$((_hpcgate_n + 1))
  printf '%s begin %s\\n' "$_hpcgate_word" "$_hpcgate_n"
  printf '%s out %s\\n' "$_hpcgate_word" "$_hpcgate_n" >"$_hpcgate_place/o$_hpcgate_n"
}}
_hpcgate_over() {{
  # $1 the number, $2 how it ended, $3 the path of a file with more of what it has printed, if there is one
  _hpcgate_told="$_hpcgate_told o$1" _hpcgate_tells=$((_hpcgate_tells + 1)) _hpcgate_last=o$1
  [ -z "$3" ] || {{ _hpcgate_told="$_hpcgate_told $3 e$1"; _hpcgate_last=e$1; }}
  printf '\\n%s end %s %s\\n' "$_hpcgate_word" "$1" "$2" >>"$_hpcgate_place/$_hpcgate_last"
  [ "$_hpcgate_tells" -lt {TOGETHER} ] || _hpcgate_flush
}}
_hpcgate_flush() {{
  [ -n "$_hpcgate_told" ] || return 0
  set --
  for _hpcgate_m in $_hpcgate_told; do
    case $_hpcgate_m in */*) set -- "$@" "$_hpcgate_m" ;; *) set -- "$@" "$_hpcgate_place/$_hpcgate_m" ;; esac
  done
  cat -- "$@"
  set -- $_hpcgate_spare
  _hpcgate_told= _hpcgate_tells=0 _hpcgate_spare=
  # What was printed is cleared up with all else: ext4 looks at each file that was deleted in the last seconds before
  # it makes a new one.
  [ "$#" -eq 0 ] || rm -f -- "$@"
}}
_hpcgate_await() {{
  # $1 the process of the newest; the one begun first is waited for if there are as many as may be
  _hpcgate_queue=$_hpcgate_queue$_hpcgate_n:$1, _hpcgate_running=$((_hpcgate_running + 1))
  [ "$_hpcgate_running" -lt "$_hpcgate_most" ] || _hpcgate_next
}}
_hpcgate_next() {{
  _hpcgate_first=${{_hpcgate_queue%%,*}}
  wait "${{_hpcgate_first#*:}}"
  set -- "${{_hpcgate_first%%:*}}" "$?"
  _hpcgate_queue=${{_hpcgate_queue#*,}} _hpcgate_running=$((_hpcgate_running - 1))
  eval "_hpcgate_then=\\${{_hpcgate_then_$1-}}"
  _hpcgate_more=
  [ -z "$_hpcgate_then" ] || $_hpcgate_then "$1" "$2"
  _hpcgate_over "$1" "$2" "$_hpcgate_more"
}}
_hpcgate_lines() {{ :; }}
_hpcgate_run() {{
  # $1 the number of its input, and the command, which nothing sets apart from the others
  _hpcgate_new
  _hpcgate_in=$_hpcgate_place/b$1
  shift
  {{ _hpcgate_apart= && cd -- "$_hpcgate_was" && "$@"; }} <"$_hpcgate_in" >>"$_hpcgate_place/o$_hpcgate_n" 2>&1 &
  _hpcgate_await "$!"
}}
"""
"""Names that no user exports: an exported function or variable that is set here would reach a job."""

_END = """
while [ -n "$_hpcgate_queue" ]; do _hpcgate_next; done
_hpcgate_flush
"""


@dataclass(frozen=True, slots=True)
class Command:
    """One of many.

    Attributes:
        argv: The command and its arguments.
        stdin: What it reads.
        by: The function of the program's that runs it, and words of its own.
    """

    argv: Argv
    stdin: bytes = b""
    by: Sequence[str] = ("_hpcgate_run",)


def composed(commands: Sequence[Command], without: Steering | None = None, prelude: str = "") -> bytes:
    """Return the program that runs commands.

    A prelude may define ``_hpcgate_lines``, which is told where in the program it is called: behind that, each command
    has a line.
    """
    blocks: dict[bytes, int] = {}
    for command in commands:
        blocks.setdefault(command.stdin, len(blocks))
    argvs = [list(map(as_text, command.argv)) for command in commands]
    times = Counter(word for argv in argvs for word in argv if len(word) >= LONG)
    shared = {word: f"_hpcgate_s{number}" for number, (word, count) in enumerate(times.items()) if count > 1}
    lines = [without.unsetting()] if without is not None else []
    inputs = [b"_hpcgate_input %d %b\n" % (number, _literal(block)) for block, number in blocks.items()]
    before = b"".join([_bytes("\n".join([*lines, _FUNCTIONS, prelude, ""])), *inputs])
    runs = [f"_hpcgate_lines {len(before)}", *(f"{name}={shlex.quote(word)}" for word, name in shared.items())]
    for command, argv in zip(commands, argvs, strict=True):
        words = (f'"${shared[word]}"' if word in shared else shlex.quote(word) for word in argv)
        by, *more = command.by
        runs.append(f"{by} {blocks[command.stdin]} {' '.join([*map(shlex.quote, more), *words])}")
    return before + _bytes("\n".join(runs) + _END)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


PART: Final = 16 * 1024
"""Bytes of an input that are written at a time: where printf is a program (mksh), an argument may have 128 KiB."""


def _literal(block: bytes) -> bytes:
    """Return a format of printf's, and the words by which it writes a block."""
    parts = [block[start : start + PART] for start in range(0, len(block), PART)] or [b""]
    if b"\0" in block:
        return b"%b " + b" ".join(b"'%b'" % b"".join(b"\\0%03o" % byte for byte in part) for part in parts)
    return b"%s " + b" ".join(b"'%b'" % part.replace(b"'", b"'\\''") for part in parts)


UNKNOWN: Final = Printed("", None, timed_out=True)
"""What became of a command that may have been begun."""


def parsed(text: str, header: str, count: int) -> list[Printed | None]:
    """Return what became of each command: None of one that was not begun; without a status of one that has no end."""
    found: list[Printed | None] = [None] * count
    marks = list(re.finditer(rf"{header} (begin|out|end) ([0-9]+)(?: ([0-9]+))?\n", text))
    for mark, following in itertools.zip_longest(marks, marks[1:]):
        number = int(mark[2]) - 1
        if mark[1] == "begin" and found[number] is None:
            found[number] = UNKNOWN
        elif mark[1] == "out" and following is not None and following[1] == "end" and following[2] == mark[2]:
            said = text[mark.end() : following.start()].removesuffix("\n")
            found[number] = Printed(clipped(said), int(following[3] or 0))
    return found


async def run_many(
    session: Session,
    commands: Sequence[Command],
    *,
    at_once: int,
    seconds: float,
    env: Mapping[str, str],
    without: Steering | None = None,
    prelude: str = "",
) -> list[Printed | None]:
    """Run commands, some at a time, and return what became of each, in order.

    Those of which it is not known what became of them have no status. Where the connection breaks these are all that
    have not ended: the login node may have gone on. What has taken too long is ended, and has said by then what it has
    begun.

    Args:
        session: Where.
        commands: The commands.
        at_once: How many may run at a time.
        seconds: How long each may take; those that were begun with it wait for it.
        env: Environment variables for them.
        without: Variables of the user's own that they are not to see.
        prelude: Lines of shell that stand before them: functions that run them.

    Raises:
        NoSpace: The login node has no room for what they read; none was run.
        ConnectionLost, TimedOut: They may have been run, and nothing is known of any.
        GatewayError: None was run.
    """
    header = f"many-{secrets.token_hex(8)}"
    content = composed(commands, without, prelude)
    argv = whole(["sh", "-c", _SCRIPT, called(commands[0].argv), header, str(at_once)], len(content))
    output = bytearray()
    process: Process | None = None
    failure: GatewayError | None = None
    try:
        async with session.process(argv, stall=seconds, opening=seconds, env=dict(env)) as process:
            await _follow(process, content, seconds, output)
    except GatewayError as error:
        failure = error
    told_all = process is not None and await _take_rest(process, output)
    text = output.decode("utf-8", "replace")
    if failure is not None and f"{header} begin " not in text:
        raise failure
    if header not in text and _NO_ROOM in text:
        raise NoSpace("The login node has no room for what was sent, and nothing was done")
    found = parsed(text, header, len(commands))
    return found if told_all else [UNKNOWN if one is None else one for one in found]


async def _take_rest(process: Process, output: bytearray) -> bool:
    """Take what a process that was ended has written until then; say whether that is all that it has written."""
    if not process.closed:
        return False
    try:
        async for block in process.output():
            output += block
    except GatewayError:
        return False
    # A status comes from a login node that has seen the end, and behind it nothing is lost but with the connection.
    return process.exit_status is not None and process.error is None


async def _follow(process: Process, content: bytes, seconds: float, output: bytearray) -> None:
    clock = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout_at(clock() + seconds) as limit:
            feeding = asyncio.create_task(_feed(process, content))
            try:
                async for block in process.output():
                    if len(output) > MAX:
                        return
                    output += block
                    limit.reschedule(clock() + seconds)
                await process.ended()
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
    except TimeoutError:
        if not limit.expired():
            raise


async def _feed(process: Process, content: bytes) -> None:
    """Write the input; what becomes of a command that does not take it is told by its output."""
    try:
        if await process.feed_block(content):
            process.feed_end()
    except TimedOut:
        return


def not_begun() -> GatewayError:
    """Return the error for a command that was not run, since one before it took too long or the connection broke."""
    return SchedulerUnavailable("One before it took too long, or the connection broke: nothing was done")


Item = TypeVar("Item")
Result = TypeVar("Result")


async def each(
    items: Sequence[Item], at_once: int, work: Callable[[Item], Coroutine[Any, Any, Result] | Awaitable[Result]]
) -> list[Result | GatewayError]:
    """Do something with each item, some at a time, and return the results or the errors, in order.

    What nobody foresaw is raised once the others have come to their ends: nothing goes on behind the caller's back.
    """
    turns = asyncio.Semaphore(at_once)

    async def one(item: Item) -> Result | GatewayError:
        async with turns:
            try:
                return await work(item)
            except GatewayError as error:
                return error

    found: list[Result | GatewayError] = []
    for outcome in await asyncio.gather(*map(one, items), return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, GatewayError):
            raise outcome
        found.append(outcome)
    return found
