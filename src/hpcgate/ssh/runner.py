"""Commands on a login node: what a session gives to those that it is built of."""

import struct
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Protocol

from hpcgate.errors import BadAnswer
from hpcgate.ssh.commands.quoting import Steering

SHORT: Final = 1024 * 1024
"""Bytes of output of a command that is asked for one thing; what is read of it on the event loop has its bound here."""

SENSELESS: Final = (
    ValueError,
    LookupError,
    ArithmeticError,
    RecursionError,
    TypeError,
    AttributeError,
    struct.error,
)
"""What parsers raise for what they cannot read; UnicodeError, JSONDecodeError and asyncssh's PacketDecodeError too."""


class understanding:
    """A context in which what a program on the login node has written is parsed: it may be the user's own doing.

    It raises `BadAnswer` where that cannot be parsed. A context manager by generator would cost several times as much.
    """

    __slots__ = ("_tool",)

    def __init__(self, tool: str) -> None:
        self._tool = tool

    def __enter__(self) -> None:
        """Nothing to be done."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, SENSELESS):
            raise BadAnswer(f"{self._tool}: the login node's answer makes no sense") from error


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that has ended.

    Attributes:
        argv: What was run.
        exit_status: The exit status, or minus the signal's number if one killed it.
        stdout: All of its standard output.
        stderr: The beginning of its standard error, at most 64 KiB.
    """

    argv: tuple[str | bytes, ...]
    exit_status: int
    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether the command succeeded."""
        return self.exit_status == 0

    @property
    def words(self) -> str:
        """What the command said on standard error, for messages."""
        return self.stderr.decode("utf-8", "replace").strip()


class Runner(Protocol):
    """Runs commands as one user on one system; see `hpcgate.ssh.session.Session`, which is one."""

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

    async def ask(self, argv: Sequence[str], request: bytes, *, limit: int | None = None) -> bytes:
        """Ask a long-lived process."""

    def dismiss(self, argv: Sequence[str]) -> None:
        """End a long-lived process, whatever is under way."""
