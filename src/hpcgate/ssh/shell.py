"""A user's login shell, by which commands go: running them, and seeing whether the shell comes to them at all."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from hpcgate.errors import NeverBegan, NeverReached, TimedOut, TooLarge
from hpcgate.ssh.commands.command import MAX_ERRORS, Command
from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.commands.quoting import Steering, called, new_word, shell_line
from hpcgate.ssh.connection import Connection
from hpcgate.ssh.runner import Completed
from hpcgate.telemetry.journal import note_command

log = structlog.stdlib.get_logger(__name__)


class Shell:
    """The login shell at the other end of a connection.

    Args:
        connection: The connection.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __repr__(self) -> str:
        return f"<Shell {self._connection!r}>"

    async def run(
        self,
        argv: Sequence[str | bytes],
        stdin: bytes | AsyncIterable[bytes],
        limit: int | None,
        timeout: float | None,
        env: dict[str, str] | None,
        without: Steering | None,
    ) -> Completed:
        """Run a command and return how it ended, as `hpcgate.ssh.session.Session.run` says."""
        connection = self._connection
        settings = connection.settings
        word = new_word()
        fed = stdin != b""
        thorough = not connection.input_works
        line = shell_line(argv, env, without, word=word, fed=fed, thorough=thorough, path=settings.path)
        seconds = settings.timeout.command_execution if timeout is None else timeout
        most = settings.max_output_size if limit is None else limit
        command = deadline = None
        opening = False
        try:
            slot = await connection.channels.acquire()
            opening = True
            command = await connection.start(slot, line, most, seconds, word, feeds=fed)
            opening = False
            if not fed:
                await command.write(b"")
            await self._reached(command, fed=fed)
            deadline = asyncio.timeout(seconds)
            async with deadline:
                if fed:
                    await command.write(stdin)
                await command.done
        except TimeoutError:
            if not opening and (deadline is None or not deadline.expired()):
                raise
            if command is None or command.exit_status is None:
                raise TimedOut(f"Command {called(argv)} timed out after {seconds:g} s") from None
            # It has ended in time, and all that it wrote has come; something else has not let go of its output.
            log.warning("ssh.output_held", system=connection.system, user=connection.username, command=called(argv))
        finally:
            if command is not None and not command.closed:
                await connection.end(command)
            note_command(argv, None if command is None else command.exit_status)
        completed = self._completed(command, argv, most)
        connection.input_works = connection.input_works or fed
        return completed

    @asynccontextmanager
    async def process(
        self,
        argv: Sequence[str | bytes],
        *,
        stall: float,
        opening: float | None = None,
        env: dict[str, str] | None = None,
    ) -> AsyncIterator[Process]:
        """Start a command to feed and read while it runs, as `hpcgate.ssh.session.Session.process` says."""
        connection = self._connection
        word = new_word()
        thorough = not connection.input_works
        line = shell_line(argv, env, word=word, fed=True, thorough=thorough, path=connection.settings.path)
        slot = await connection.channels.acquire()
        process = Process(slot, called(argv), stall, connection.lost, word)
        seconds = connection.settings.timeout.command_execution if opening is None else opening
        try:
            await connection.open_channel(slot, process, seconds, command=line)
        except TimeoutError:
            raise TimedOut(f"Command {called(argv)} could not be started in time") from None
        try:
            await self._reached(process)
            await process.greet()
            yield process
        finally:
            if not process.closed:
                await connection.end(process)
            connection.input_works = connection.input_works or process.stdout.fed
            note_command(argv, process.exit_status)

    async def check(self) -> None:
        """See that the login shell comes through its start-up files, unless a command has just shown it.

        An SFTP server may be started by that shell, too, and sshd passes on no signals there: one that hangs would stay
        on the login node, and keep its channel. So would one whose input something else reads.

        Raises:
            NeverReached: It does not.
        """
        connection = self._connection
        if connection.shell_works and connection.input_works:
            return
        try:
            await self.run(["true"], _nothing(), None, None, None, None)
        except NeverReached:
            raise
        except NeverBegan as error:
            # The account may use SFTP and nothing else.
            log.info("ssh.sftp.no_shell", system=connection.system, user=connection.username, reason=error.message)

    def _completed(self, command: Command, argv: Sequence[str | bytes], most: int) -> Completed:
        """Return how a command ended.

        Raises:
            GatewayError: It never began, said too much, or nobody knows how it ended.
        """
        if command.stdout.drowned:
            raise command.stdout.flood()
        if command.unheard is not None:
            command.check_input()
        if command.complains:
            raise TooLarge(f"Command {called(argv)} wrote more than {MAX_ERRORS} bytes on standard error")
        if command.stdout.overflown:
            raise TooLarge(f"Command {called(argv)} wrote more than {most} bytes")
        status = command.exit_status
        if status is None:
            raise self._connection.lost() from command.error
        command.check_begun()
        return Completed(tuple(argv), status, command.stdout.written, command.stderr.written)

    async def _reached(self, command: Command, *, fed: bool = True) -> None:
        """Wait until the login shell has come to a command.

        Args:
            command: The command.
            fed: Whether its input is open meanwhile. The end of the input takes a shell past start-up files that read
                it, which would hang where an SFTP server's client says the first word.

        Raises:
            NeverReached: It does not.
        """
        connection = self._connection
        connection.shell_works = False
        try:
            await command.reached(connection.settings.start_up_timeout)
        except NeverReached:
            connection.shell_waits = False
            raise
        if fed:
            connection.shell_waits = command.stdout.started
        connection.shell_works = command.stdout.started and connection.shell_waits


async def _nothing() -> AsyncIterator[bytes]:
    """Yield nothing: the input of a command that is open until the command has begun."""
    blocks: tuple[bytes, ...] = ()
    for block in blocks:
        yield block
