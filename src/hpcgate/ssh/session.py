"""One user's hold on one system: the only way to touch a login node."""

from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, field

from hpcgate.errors import CommandFailed
from hpcgate.ssh.files import RemoteFiles


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


class Session:
    """A lease of a user's connection. Not to be used after the lease has ended."""

    username: str
    system: str

    async def run(
        self,
        argv: Sequence[str | bytes],
        *,
        stdin: bytes | AsyncIterable[bytes] = b"",
        limit: int | None = None,
        timeout: float | None = None,
        env: dict[str, str] | None = None,
    ) -> Completed:
        """Run a command under ``LC_ALL=C.UTF-8`` and return how it ended, whatever its exit status.

        Args:
            argv: The command and its arguments; quoted for the shell here and nowhere else.
            stdin: What it reads; it always gets its end of file.
            limit: The most bytes of standard output taken; None is the system's default (32 MiB).
            timeout: Seconds; None is the system's ``command_execution``.
            env: Further environment variables, set on the command line by ``env``.

        Raises:
            TooLarge: Standard output went over `limit`; the command was ended.
            TimedOut: The command was ended.
            ConnectionLost: The connection broke meanwhile.
        """
        raise CommandFailed("placeholder")

    async def files(self) -> RemoteFiles:
        """Return the files of the system, by SFTP or by commands as the settings and the login node allow."""
        raise CommandFailed("placeholder")

    async def ask(self, argv: Sequence[str], request: bytes) -> bytes:
        """Send one request to a long-lived process of this connection and return its answer.

        The process is started by the first request for `argv` and lives as long as the connection. It reads requests
        and writes answers, one each, in order, every one ended by a NUL byte. Requests may be sent before earlier
        ones are answered.

        Raises:
            NotSupported: The process cannot be started or has ended at once (no such program on the login node).
        """
        raise CommandFailed("placeholder")
