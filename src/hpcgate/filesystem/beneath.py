"""The program that walks paths beneath those of a rule, run on the login node: `hpcgate.filesystem.beneath_program`."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from hpcgate.auth.policy import Grant
from hpcgate.errors import Denied, NotSupported
from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.files.coreutils_errors import error_from_stderr
from hpcgate.ssh.runner import Completed
from hpcgate.ssh.session import Session

PROGRAM = files("hpcgate.filesystem").joinpath("beneath_program.py").read_bytes()
DENIED = 77
"""The exit status of the program for what the rule does not allow."""
MISSING = 127
"""Its exit status where there is no Python for it."""
WHAT = "Python 3.6 or later (python3), which checks paths under a policy rule that has any"

# Mostly there is a name with the version beside the name without (python3, python3.11), which spares a start of Python.
LAUNCHER = """\
for p in /usr/bin/python3 /usr/libexec/platform-python python3; do
  command -v "$p" >/dev/null 2>&1 || continue; new=
  case $p in /*)
    for q in "$p"*; do case $q in *3.[6-9]|*3.[1-9][0-9]) [ "$p" -ef "$q" ] && new=1 ;; esac; done 2>/dev/null ;;
  esac
  [ -n "$new" ] || "$p" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 6))' </dev/null || continue
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
        return ["sh", "-c", LAUNCHER, words.partition(":")[0], str(len(PROGRAM))], PROGRAM + line

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


def bytes_of(word: str | bytes) -> bytes:
    """Return a word of a command as bytes; what stands for bytes that are no text becomes these again."""
    return word if isinstance(word, bytes) else word.encode("utf-8", "surrogateescape")
