"""Commands on a login node: what a session gives to those that it is built of."""

from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hpcgate.ssh.quoting import Steering


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

    async def ask(self, argv: Sequence[str], request: bytes) -> bytes:
        """Ask a long-lived process."""
