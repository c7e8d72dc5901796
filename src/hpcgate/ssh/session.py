"""One user's hold on one system: the only way to touch a login node."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import asyncssh
import structlog
from asyncssh.channel import SSHChannel
from asyncssh.sftp import start_sftp_client
from asyncssh.stream import SSHClientStreamSession, SSHWriter

from hpcgate.errors import BadRequest, NeverBegan, NeverReached, NotSupported, TimedOut, TooLarge
from hpcgate.ssh.channels import ChannelRefused, Slot
from hpcgate.ssh.commands.command import MAX_ERRORS, MAX_NOISE, START_UP_FILES, Command
from hpcgate.ssh.commands.process import Process
from hpcgate.ssh.commands.quoting import Steering, called, new_word, shell_line
from hpcgate.ssh.commands.resident import Worker
from hpcgate.ssh.connection import Connection
from hpcgate.ssh.files.command_files import CommandFiles
from hpcgate.ssh.files.command_streams import CommandStreams
from hpcgate.ssh.files.helped_files import HelpedFiles
from hpcgate.ssh.files.helper import Helper
from hpcgate.ssh.files.login_node import LoginNode
from hpcgate.ssh.files.protocol import RemoteFiles
from hpcgate.ssh.files.sftp_bulk import MAX_BLOCK, BulkSftp
from hpcgate.ssh.files.sftp_files import SftpFiles, SftpServer
from hpcgate.ssh.files.sftp_status import Answers
from hpcgate.ssh.files.sftp_streams import SftpStreams
from hpcgate.ssh.files.streams import Streams
from hpcgate.ssh.pace import Pace
from hpcgate.ssh.runner import Completed
from hpcgate.telemetry.journal import note_command

_LEAST_FOR_BULK = 4
"""Channels that a login node must allow before streams get one of their own."""
_LEAST_ANSWER = 5
_MAX_ANSWER = MAX_BLOCK + 1024
"""Bytes of an answer of an SFTP server: OpenSSH's are up to 256 KiB long."""

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class FileAccess:
    """How the files of a system are reached; found out by the first session that needs to know, shared by all.

    Attributes:
        mode: The setting.
        way: What was found, None until then.
        pace: Has streams give way to small requests.
    """

    mode: Literal["auto", "sftp", "commands"]
    way: Literal["sftp", "commands"] | None = None
    pace: Pace = field(default_factory=Pace)


class Session:
    """A lease of a user's connection. Not to be used after the lease has ended.

    Attributes:
        connection: The connection that is leased.
        username: Whose session it is.
        system: The name of the system.
        node: What is known of the login node.
        dedicated: Whether it is the user's second one, for what is large.
    """

    __slots__ = (
        "_access",
        "_behind",
        "_bulk",
        "_bulk_opening",
        "_bulk_users",
        "_files",
        "_hanging",
        "_opening",
        "_refused",
        "_sftp",
        "_single_channel",
        "_workers",
        "connection",
        "dedicated",
        "node",
        "system",
        "username",
    )

    def __init__(self, connection: Connection, node: LoginNode, access: FileAccess, *, dedicated: bool = False) -> None:
        self.dedicated = dedicated
        self.username = connection.username
        self.system = connection.system
        self.node = node
        self.connection = connection
        self._access = access
        self._single_channel = False
        self._refused = False
        self._behind: RemoteFiles | None = None
        self._files = HelpedFiles(
            Helper(self, node.view(self.username)), self.plain_files, lists=access.mode != "commands"
        )
        self._sftp: SSHChannel[Any] | None = None
        self._opening: asyncio.Task[RemoteFiles] | None = None
        self._bulk: BulkSftp | None = None
        self._bulk_opening: asyncio.Task[BulkSftp] | None = None
        self._bulk_users = 0
        self._hanging: list[_SftpStream | BulkSftp] = []
        self._workers: dict[tuple[str, ...], asyncio.Task[Worker]] = {}
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
            return await self._run(argv, stdin, limit, timeout, env, without)

    async def _run(
        self,
        argv: Sequence[str | bytes],
        stdin: bytes | AsyncIterable[bytes],
        limit: int | None,
        timeout: float | None,
        env: dict[str, str] | None,
        without: Steering | None,
    ) -> Completed:
        connection = self.connection
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
            slot = await self.connection.channels.acquire()
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
            log.warning("ssh.output_held", system=self.system, user=self.username, command=called(argv))
        finally:
            if command is not None and not command.closed:
                await self.connection.end(command)
            note_command(argv, None if command is None else command.exit_status)
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
            raise connection.lost() from command.error
        command.check_begun()
        connection.input_works = connection.input_works or fed
        return Completed(tuple(argv), status, command.stdout.written, command.stderr.written)

    @asynccontextmanager
    async def process(
        self,
        argv: Sequence[str | bytes],
        *,
        stall: float,
        opening: float | None = None,
        env: dict[str, str] | None = None,
    ) -> AsyncIterator[Process]:
        """Start a command to feed and read while it runs; when the context is left, however, it has ended.

        Args:
            argv: The command and its arguments.
            stall: Seconds that it may make no progress.
            opening: Seconds for a channel to be opened, by default as for a command.
            env: Further environment variables, set on the command line.

        Raises:
            BadRequest, TimedOut, ConnectionLost, NeverBegan, PoolExhausted: As `run`.
        """
        connection = self.connection
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

    async def _reached(self, command: Command, *, fed: bool = True) -> None:
        """Wait until the login shell has come to a command.

        Args:
            command: The command.
            fed: Whether its input is open meanwhile. The end of the input takes a shell past start-up files that read
                it, which would hang where an SFTP server's client says the first word.

        Raises:
            NeverReached: It does not.
        """
        connection = self.connection
        connection.shell_works = False
        try:
            await command.reached(connection.settings.start_up_timeout)
        except NeverReached:
            connection.shell_waits = False
            raise
        if fed:
            connection.shell_waits = command.stdout.started
        connection.shell_works = command.stdout.started and connection.shell_waits

    async def files(self) -> RemoteFiles:
        """Return the files of the system: by the helper, SFTP or commands as the settings and the login node allow."""
        return self._files

    async def plain_files(self) -> RemoteFiles:
        """Return the files by SFTP or by commands."""
        files = self._behind
        if files is not None and (self._sftp is None or not self._sftp.is_closing()):
            return files
        if self._opening is None or self._opening.done():
            self._opening = self.connection.spawn(self._open_files())
        opening = self._opening
        self._behind = await asyncio.shield(opening)
        return self._behind

    @asynccontextmanager
    async def bulk(self) -> AsyncIterator[Streams]:
        """Lend the files of the system for what streams, on a channel of its own.

        An SFTP server answers in order: on the same channel a small request would wait behind megabytes, or behind an
        fsync that takes a minute. Where the login node has no channel to spare, streams are commands.
        """
        files = await self.plain_files()
        self._bulk_users += 1
        try:
            bulk = await self._bulk_client() if isinstance(files, SftpFiles) else None
            if isinstance(files, SftpFiles) and bulk is not None:
                yield SftpStreams(files, bulk, self, partial(self._abandon, bulk), self._access.pace)
            else:
                yield CommandStreams(self, self.node.view(self.username))
        finally:
            self._bulk_users -= 1

    def _abandon(self, server: "_SftpStream | BulkSftp") -> None:
        """Give up an SFTP server that did not answer in time.

        It may wait for a file server that has stopped, which nothing ends but the file server or SIGKILL, and sshd
        passes on no signal. The next one would join it there: commands, which can be killed, stand in for SFTP until
        it has ended. What it waits for may be the home directory, so the login shell has to show itself anew.
        """
        self.connection.shell_works = False
        self._hanging.append(server)
        server.close()

    @property
    def _hangs(self) -> bool:
        """Whether an SFTP server that was given up is still there."""
        self._hanging = [server for server in self._hanging if not server.closed]
        return bool(self._hanging)

    async def _bulk_client(self) -> BulkSftp | None:
        if self._hangs:
            return None
        if self._bulk is not None and self._bulk.usable:
            return self._bulk
        limit = self.connection.channels.limit
        if limit is not None and limit < _LEAST_FOR_BULK:
            return None
        if self._bulk_opening is None or self._bulk_opening.done():
            self._bulk_opening = self.connection.spawn(self._open_bulk())
        try:
            self._bulk = await asyncio.shield(self._bulk_opening)
        except ChannelRefused:
            return None
        return self._bulk

    async def ask(self, argv: Sequence[str], request: bytes, *, limit: int | None = None) -> bytes:
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
        if b"\0" in request:
            raise BadRequest("A request holds a NUL byte")
        key = tuple(argv)
        worker = self._working(key) or await self._worker(key, limit)
        while worker.leaving and worker.refusal is None:
            worker = await self._worker(key, limit)
        with self.connection.telemetry.stage("resident", self.system, argv[0]):
            return await worker.ask(request)

    def dismiss(self, argv: Sequence[str]) -> None:
        """End a long-lived process, whatever is under way."""
        starting = self._workers.pop(tuple(argv), None)
        if starting is not None and starting.done() and not starting.cancelled() and starting.exception() is None:
            starting.result().abandon()

    def _working(self, key: tuple[str, ...]) -> Worker | None:
        """Return a long-lived process that can be asked."""
        starting = self._workers.get(key)
        if starting is None or not starting.done() or starting.cancelled() or starting.exception() is not None:
            return None
        worker = starting.result()
        return None if worker.closed or worker.leaving else worker

    async def _worker(self, key: tuple[str, ...], most: int | None) -> Worker:
        if (worker := self._working(key)) is not None:
            return worker
        starting = self._workers.get(key)
        if starting is None or starting.done():
            starting = self._workers[key] = self.connection.spawn(self._start_worker(key, most))
        return await asyncio.shield(starting)

    async def _start_worker(self, key: tuple[str, ...], most: int | None) -> Worker:
        connection = self.connection
        settings, channels = connection.settings, connection.channels
        word = new_word()
        line = shell_line(key, word=word, fed=True, thorough=not connection.input_works, path=settings.path)
        slot = await channels.acquire()
        seconds = settings.timeout.command_execution
        limit = settings.max_output_size if most is None else most
        worker = Worker(
            slot,
            key[0],
            limit,
            seconds,
            start_up=settings.start_up_timeout,
            word=word,
            crowded=lambda: channels.waiting > 0,
            began=self._began,
            kill=connection.kill,
            refused=lambda error: connection.distrust("resident", error.message),
        )
        try:
            await connection.open_channel(slot, worker, seconds, command=line)
        except TimeoutError:
            raise TimedOut(f"Command {key[0]} timed out after {seconds:g} s") from None
        return worker

    def _began(self) -> None:
        connection = self.connection
        connection.shell_works = connection.shell_waits = connection.input_works = True

    def _make_room(self) -> None:
        """Somebody waits for a channel: end the long-lived processes, each once it has answered.

        SFTP keeps its channel, unless it turns out to be the only one that there is.
        """
        for key, starting in list(self._workers.items()):
            if starting.done():
                del self._workers[key]
                if not starting.cancelled() and starting.exception() is None:
                    starting.result().leave()
        if not self._bulk_users and self._bulk is not None:
            self._bulk.close()
            self._bulk = None
        if self.connection.channels.limit == 1 and self._sftp is not None and not self._single_channel:
            self._single_channel = True
            self._behind = None
            self._sftp.close()
            log.warning("ssh.sftp.no_room", system=self.system, user=self.username)

    async def _open_files(self) -> RemoteFiles:
        access = self._access
        found = access.way if access.mode == "auto" else access.mode
        without = access.mode == "auto" and (self._refused or self._hangs)
        if found != "commands" and not self._single_channel and not without:
            try:
                client, stream, channel = await self._open_sftp()
                self._sftp = channel
                timeout = self.connection.settings.timeout.command_execution
                stage = partial(self.connection.telemetry.stage, "sftp", self.system)
                server = SftpServer(client, timeout, partial(self._abandon, stream), stream.refuse, stage)
                return SftpFiles(server, self, self.node.view(self.username))
            except _SingleChannel:
                log.warning("ssh.sftp.no_room", system=self.system, user=self.username)
            except NeverReached:
                raise
            except (NotSupported, NeverBegan) as refusal:
                if access.mode == "sftp":
                    raise
                log.info("ssh.sftp.refused", system=self.system, user=self.username, reason=refusal.message)
        return CommandFiles(self, self.node.view(self.username))

    async def _try_shell(self) -> None:
        """See that the login shell comes through its start-up files, unless a command has just shown it.

        An SFTP server may be started by that shell, too, and sshd passes on no signals there: one that hangs would stay
        on the login node, and keep its channel. So would one whose input something else reads.

        Raises:
            NeverReached: It does not.
        """
        connection = self.connection
        if connection.shell_works and connection.input_works:
            return
        try:
            await self._run(["true"], _nothing(), None, None, None, None)
        except NeverReached:
            raise
        except NeverBegan as error:
            # The account may use SFTP and nothing else.
            log.info("ssh.sftp.no_shell", system=self.system, user=self.username, reason=error.message)

    def _unstarted(self) -> NeverReached:
        """Return the error for an SFTP server that does not answer, which may well still be there."""
        connection = self.connection
        connection.shell_works = False
        connection.spent = True
        return NeverReached(
            f"SFTP with {self.system} did not start within {connection.settings.start_up_timeout:g} s. "
            f"{START_UP_FILES} may read what is meant for it, run something else, hang or take too long, or the home "
            "directory may not answer"
        )

    def _unopened(self) -> TimedOut:
        return TimedOut(f"SFTP with {self.system} could not be started in time")

    async def _open_bulk(self) -> BulkSftp:
        await self._try_shell()
        connection = self.connection
        bulk = BulkSftp(await connection.channels.acquire(), partial(connection.distrust, "sftp"))
        timeouts = connection.settings.timeout
        try:
            try:
                await connection.open_channel(bulk.slot, bulk, timeouts.command_execution, subsystem="sftp")
            except TimeoutError:
                bulk.close()
                raise self._unopened() from None
            async with asyncio.timeout(connection.settings.start_up_timeout):
                await bulk.start()
        except TimeoutError:
            bulk.close()
            raise self._unstarted() from None
        except asyncssh.SFTPError as error:
            bulk.close()
            raise connection.lost() from error
        return bulk

    async def _open_sftp(self) -> "tuple[asyncssh.SFTPClient, _SftpStream, SSHChannel[Any]]":
        """Open the SFTP channel.

        Raises:
            NotSupported: The login node has no SFTP, or no channel to spare for it.
            NeverBegan: What answers is not an SFTP server.
            NeverReached: Nothing answers, or the user's start-up files hang.
        """
        connection = self.connection
        if connection.channels.limit == 1:
            self._single_channel = True
            raise _SingleChannel
        await self._try_shell()
        slot = await connection.channels.acquire()
        stream = _SftpStream(slot, partial(connection.distrust, "sftp"))
        try:
            timeouts = connection.settings.timeout
            try:
                channel = await connection.open_channel(slot, stream, timeouts.command_execution, subsystem="sftp")
            except TimeoutError:
                raise self._unopened() from None
            async with asyncio.timeout(connection.settings.start_up_timeout):
                client = await start_sftp_client(
                    connection.ssh,
                    asyncio.get_running_loop(),
                    "replace",
                    Answers(stream, channel),
                    SSHWriter(stream, channel),
                    None,
                    "strict",
                    3,
                )
                if self._access.way != "sftp" and not await connection.has_room():
                    self._single_channel = True
                    self._access.way = "commands"
                    raise _SingleChannel
        except ChannelRefused as error:
            # Where others have SFTP, it is this user's alone that there is none, or none now.
            self._refused = True
            self._access.way = self._access.way or "commands"
            raise NotSupported(f"The login node of {self.system} offers no SFTP") from error
        except TimeoutError:
            stream.close()
            raise self._unstarted() from None
        except (asyncssh.Error, OSError) as error:
            stream.close()
            if not connection.alive:
                raise connection.lost() from error
            raise NeverBegan(
                f"SFTP with {self.system} does not work: its server has ended, or what answers is not one. "
                f"{START_UP_FILES} may print something or end, or the account may not use SFTP"
            ) from error
        except BaseException:
            stream.close()
            raise
        self._access.way = "sftp"
        return client, stream, channel


async def _nothing() -> AsyncIterator[bytes]:
    """Yield nothing: the input of a command that is open until the command has begun."""
    blocks: tuple[bytes, ...] = ()
    for block in blocks:
        yield block


class _SingleChannel(Exception):
    """The login node allows one channel only (MaxSessions 1), and SFTP would keep it."""


class _SftpStream(SSHClientStreamSession[bytes]):
    """SFTP's channel, which takes one of those that the login node allows.

    Attributes:
        closed: Whether the channel has closed.

    Args:
        slot: The channel's place.
        refused: Is told why the channel was closed, if it was for what the server said.
    """

    def __init__(self, slot: Slot, refused: Callable[[str], None]) -> None:
        super().__init__()
        self._slot = slot
        self._refused = refused
        self._head = bytearray()
        self._left = 0
        self._aside = 0
        self._channel: SSHChannel[Any] | None = None
        self.closed = False

    def connection_made(self, chan: SSHChannel[Any]) -> None:
        super().connection_made(chan)
        self._channel = chan
        self._slot.opened()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed = True
        self._slot.release()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Hand on answers that are no longer than any that the gateway asks for; standard error is of no use."""
        if datatype is not None:
            self._aside += len(data)
            if self._aside > MAX_NOISE:
                self.refuse("the SFTP server writes errors without end")
            return
        position, end = 0, len(data)
        while position < end:
            if self._left:
                taken = min(self._left, end - position)
                self._left -= taken
                position += taken
                continue
            taken = min(4 - len(self._head), end - position)
            self._head += data[position : position + taken]
            position += taken
            if len(self._head) == 4:
                self._left = int.from_bytes(self._head, "big")
                self._head.clear()
                if not _LEAST_ANSWER <= self._left <= _MAX_ANSWER:
                    self.refuse("the SFTP server's answer makes no sense")
                    return
        super().data_received(data, datatype)

    def refuse(self, why: str) -> None:
        """Close the channel for what the server said."""
        if self._channel is not None and not self._channel.is_closing():
            self._refused(why)
            self._channel.close()

    def close(self) -> None:
        """Close the channel if it was opened."""
        if self._channel is not None:
            self._channel.close()
