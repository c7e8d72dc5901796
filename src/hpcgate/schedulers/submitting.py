"""Running a command that submits a job, and reading what it prints while it runs.

Some submit and then wait for the job's end (``sbatch --wait``, ``qsub -W block=true``), some try for minutes to get a
job in. Both have said by then what is to be known.

A connection that breaks ends the input of what it has started: sbatch and qsub would submit the part of a script that
came. So nothing is submitted before all of it has come.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hpcgate.errors import NoSpace, TimedOut
from hpcgate.ssh.commands.ending import ending_line
from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.commands.quoting import KEEPING_FUNCTIONS, Argv, called
from hpcgate.ssh.commands.temporary import SAFE
from hpcgate.ssh.session import Session

MAX = 1024 * 1024
"""Bytes of output that are kept, of more the first and the last half."""
MAX_PRINTED = 16 * 1024 * 1024
"""Bytes of output that are waited for: what goes on after that is ended, as if its time were up."""
MAX_LOOKED_AT = 64 * 1024
"""Bytes of output in which is looked for what need not be waited for; of more, when the command has ended."""
MAX_LOOKS = 1000
"""How often that is done. Each look goes through all of it, and a command may print byte by byte."""


_NO_ROOM = "hpcgate: no room for the input: "

_WHOLE = (
    f"{KEEPING_FUNCTIONS}mktemp rm cat test wc printf ls [; "
    f"exec 2>&1; _hpcgate_file=; {SAFE}"
    + ending_line('[ -z "$_hpcgate_file" ] || rm -f -- "$_hpcgate_file"')
    + '_hpcgate_file=$(mktemp -p "$(_hpcgate_temporary)" 2>/dev/null) || _hpcgate_file=$(mktemp -p ~ 2>/dev/null) || '
    f'{{ printf "{_NO_ROOM}"; mktemp -p ~; exit 1; }}; '
    f'cat >"$_hpcgate_file" || {{ printf "{_NO_ROOM}%s\\n" "$_hpcgate_file"; exit 1; }}; '
    'test "$(wc -c <"$_hpcgate_file")" -eq "$1" || { printf "The input came short\\n"; exit 1; }; '
    'exec <"$_hpcgate_file" || exit; rm -f -- "$_hpcgate_file" || exit; '
    "trap - EXIT HUP INT TERM; unset _hpcgate_file; "
    'shift; exec "$@"'
)


def whole(argv: Argv, size: int) -> list[str | bytes]:
    """Return a command that takes `size` bytes of input, and then becomes `argv`, which reads them; or does nothing.

    The bytes lie in a file meanwhile that has no name any more once they are read.
    """
    return ["sh", "-c", _WHOLE, called(argv), str(size), *argv]


_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


def uncoloured(text: str) -> str:
    """Return what a terminal would show: without escape sequences, and a line for each carriage return."""
    return _ESCAPES.sub("", text.replace("\r", "\n"))


@dataclass(frozen=True, slots=True)
class Printed:
    """What the command printed on both outputs.

    Attributes:
        text: What it printed.
        exit_status: As of `Completed`; None if it was ended because it had said enough, or because its time was up.
        timed_out: Whether its time was up.
    """

    text: str
    exit_status: int | None
    timed_out: bool = False


async def run_submission(
    session: Session,
    argv: Argv,
    stdin: bytes,
    *,
    env: Mapping[str, str],
    seconds: float,
    patience: Callable[[str], float | None],
) -> Printed:
    """Run a command, whose standard error goes where its standard output goes.

    Args:
        session: Where.
        argv: The command.
        stdin: What it reads.
        env: Environment variables for it.
        seconds: How long it may take in all, once it has begun.
        patience: For what has been printed so far: how many seconds more are to be waited for the command's own end,
            None for as long as there is.

    Raises:
        NeverBegan: The user's login shell did not come to the command.
        NoSpace: The login node has no room for the input; the command was not run.
    """
    argv = whole(argv, len(stdin))
    # What does not come so far as to read its input has submitted nothing: that is an error of its own.
    async with session.process(argv, stall=seconds, opening=seconds, env=dict(env)) as process:
        printed = await _follow(process, stdin, seconds, patience)
    if printed.exit_status == 1 and _NO_ROOM in printed.text:
        words = " ".join(printed.text.replace(_NO_ROOM, "").split())
        raise NoSpace(f"The login node has no room for the job's script, and nothing was submitted: {words}")
    return printed


async def _follow(process: Process, stdin: bytes, seconds: float, patience: Callable[[str], float | None]) -> Printed:
    clock = asyncio.get_running_loop().time
    printed = _Output()
    deadline = clock() + seconds
    enough = False
    looks = 0
    try:
        async with asyncio.timeout_at(deadline) as limit:
            feeding = asyncio.create_task(_feed(process, stdin))
            try:
                async for block in process.output():
                    printed.add(block)
                    if printed.total > MAX_PRINTED:
                        break
                    if enough or printed.size > MAX_LOOKED_AT or looks >= MAX_LOOKS:
                        continue
                    looks += 1
                    wait = patience(printed.text)
                    if wait is not None:
                        enough = True
                        limit.reschedule(min(deadline, clock() + wait))
                else:
                    return Printed(printed.text, await process.ended())
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
    except TimeoutError:
        if not limit.expired():
            raise
    except TimedOut:
        pass
    return Printed(printed.text, None, timed_out=not enough)


def clipped(text: str) -> str:
    """Return the text of an output, without what is over `MAX` characters in its middle."""
    return text if len(text) <= MAX else text[: MAX // 2] + text[-MAX // 2 :]


class _Output:
    """The text of an output, of which what is over `MAX` is dropped from the middle."""

    def __init__(self) -> None:
        self.total = 0
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, block: bytes) -> None:
        self.total += len(block)
        room = MAX // 2 - len(self._head)
        self._head += block[:room]
        self._tail += block[room:]
        del self._tail[: -MAX // 2]

    @property
    def size(self) -> int:
        return len(self._head) + len(self._tail)

    @property
    def text(self) -> str:
        return bytes(self._head + self._tail).decode("utf-8", "replace")


async def _feed(process: Process, stdin: bytes) -> None:
    """Write the input; what becomes of a command that does not take it is told by its output."""
    try:
        if not stdin or await process.feed_block(stdin):
            process.feed_end()
    except TimedOut:
        return
