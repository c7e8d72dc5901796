"""One user's hold on one system: the only way to touch a login node."""

from collections.abc import AsyncIterable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.commands.quoting import Steering, called
from hpcgate.ssh.connection import Connection
from hpcgate.ssh.file_servers import FileAccess, FileServers
from hpcgate.ssh.files.helped_files import HelpedFiles
from hpcgate.ssh.files.helper import Helper
from hpcgate.ssh.files.login_node import LoginNode
from hpcgate.ssh.files.protocol import RemoteFiles
from hpcgate.ssh.files.streams import Streams
from hpcgate.ssh.residents import Residents
from hpcgate.ssh.runner import Completed
from hpcgate.ssh.shell import Shell


class Session:
    """A lease of a user's connection. Not to be used after the lease has ended.

    Attributes:
        connection: The connection that is leased.
        username: Whose session it is.
        system: The name of the system.
        node: What is known of the login node.
        dedicated: Whether it is the user's second one, for what is large.
    """

    __slots__ = ("_files", "_residents", "_servers", "_shell", "connection", "dedicated", "node", "system", "username")

    def __init__(self, connection: Connection, node: LoginNode, access: FileAccess, *, dedicated: bool = False) -> None:
        self.dedicated = dedicated
        self.username = connection.username
        self.system = connection.system
        self.node = node
        self.connection = connection
        view = node.view(self.username)
        self._shell = Shell(connection)
        self._residents = Residents(connection)
        self._servers = FileServers(connection, self._shell, self, view, access)
        self._files = HelpedFiles(Helper(self, view), self._servers.files, lists=access.mode != "commands")
        connection.make_room = self._make_room

    def __repr__(self) -> str:
        return f"<Session {self.connection!r}>"

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
        """Run a command under ``LC_ALL=C.UTF-8`` and return how it ended, whatever its exit status.

        However this call ends, the command has ended too when it returns, cancellation included.

        Args:
            argv: The command and its arguments; quoted for the shell here and nowhere else.
            stdin: What it reads; it always gets its end of file.
            limit: The most bytes of standard output taken; None is the system's default (32 MiB).
            timeout: Seconds; None is the system's ``command_execution``.
            env: Further environment variables, set on the command line.
            without: Variables of the user's own that the command is not to see.

        Raises:
            BadRequest: An argument cannot be one: it holds a NUL byte, or all of them are too long.
            TooLarge: Standard output went over `limit`, or standard error has no end; the command was ended.
            TimedOut: The command was ended.
            ConnectionLost: The connection broke meanwhile.
            NeverBegan: The user's login shell did not come to the command.
            PoolExhausted: The login node allows no more commands at a time, and none ended in time.
        """
        with self.connection.telemetry.stage("command", self.system, called(argv)):
            return await self._shell.run(argv, stdin, limit, timeout, env, without)

    def process(
        self,
        argv: Sequence[str | bytes],
        *,
        stall: float,
        opening: float | None = None,
        env: dict[str, str] | None = None,
    ) -> AbstractAsyncContextManager[Process]:
        """Start a command to feed and read while it runs; when the context is left, however, it has ended.

        Args:
            argv: The command and its arguments.
            stall: Seconds that it may make no progress.
            opening: Seconds for a channel to be opened, by default as for a command.
            env: Further environment variables, set on the command line.

        Raises:
            BadRequest, TimedOut, ConnectionLost, NeverBegan, PoolExhausted: As `run`.
        """
        return self._shell.process(argv, stall=stall, opening=opening, env=env)

    async def files(self) -> RemoteFiles:
        """Return the files of the system: by the helper, SFTP or commands as the settings and the login node allow."""
        return self._files

    async def plain_files(self) -> RemoteFiles:
        """Return the files by SFTP or by commands."""
        return await self._servers.files()

    def bulk(self) -> AbstractAsyncContextManager[Streams]:
        """Lend the files of the system for what streams, on a channel of its own.

        An SFTP server answers in order: on the same channel a small request would wait behind megabytes, or behind an
        fsync that takes a minute. Where the login node has no channel to spare, streams are commands.
        """
        return self._servers.bulk()

    def ask(self, argv: Sequence[str], request: bytes, *, limit: int | None = None) -> Coroutine[Any, Any, bytes]:
        """Send one request to a long-lived process of this connection and return its answer.

        The process is started by the first request for `argv` and lives as long as the connection. It reads requests
        and writes answers, one each, in order, every one ended by a NUL byte, which is added and taken off here.
        Requests may be sent before earlier ones are answered.

        Args:
            argv: The process.
            request: What to ask it.
            limit: The most bytes of one answer, if this request starts it; None is the system's ``max_output_size``.

        Raises:
            BadRequest: The request holds a NUL byte.
            NotSupported: The process cannot be started or has ended at once (no such program on the login node).
            TimedOut: No answer in time; the process was ended.
            ConnectionLost: The process or the connection ended before the answer.
            TooLarge: The answer went over the limit.
            BadAnswer: It said more than it was asked; it was ended.
        """
        return self._residents.ask(argv, request, limit=limit)

    def dismiss(self, argv: Sequence[str]) -> None:
        """End a long-lived process, whatever is under way."""
        self._residents.dismiss(argv)

    def _make_room(self) -> None:
        """Somebody waits for a channel."""
        self._residents.leave()
        self._servers.make_room()
