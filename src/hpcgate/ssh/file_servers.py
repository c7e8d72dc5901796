"""How the files of a system are reached on one connection: which SFTP servers run on it, and when commands stand in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import asyncssh
import structlog
from asyncssh.channel import SSHChannel
from asyncssh.sftp import start_sftp_client
from asyncssh.stream import SSHWriter

from hpcgate.errors import NeverBegan, NeverReached, NotSupported, TimedOut
from hpcgate.ssh.channels import ChannelRefused
from hpcgate.ssh.commands.command import START_UP_FILES
from hpcgate.ssh.connection import Connection
from hpcgate.ssh.files.command_files import CommandFiles
from hpcgate.ssh.files.command_streams import CommandStreams
from hpcgate.ssh.files.login_node import NodeView
from hpcgate.ssh.files.protocol import RemoteFiles
from hpcgate.ssh.files.sftp_bulk import BulkSftp
from hpcgate.ssh.files.sftp_channel import SftpStream
from hpcgate.ssh.files.sftp_files import SftpFiles
from hpcgate.ssh.files.sftp_requests import SftpServer
from hpcgate.ssh.files.sftp_status import Answers
from hpcgate.ssh.files.sftp_streams import SftpStreams
from hpcgate.ssh.files.streams import StreamRunner, Streams
from hpcgate.ssh.pace import Pace
from hpcgate.ssh.shell import Shell

log = structlog.stdlib.get_logger(__name__)

_LEAST_FOR_BULK = 4
"""Channels that a login node must allow before streams get one of their own."""


@dataclass(slots=True)
class FileAccess:
    """How the files of a system are reached; found out by the first sessions that need to know, shared by all.

    That there is SFTP one user finds for all. That there is none may be that user's own doing, as where no further
    process can be started: it counts for all once two users have found it.

    Attributes:
        mode: The setting.
        way: What was found, None until then.
        pace: Has streams give way to small requests.
    """

    mode: Literal["auto", "sftp", "commands"]
    way: Literal["sftp", "commands"] | None = None
    pace: Pace = field(default_factory=Pace)
    _without: str | None = None

    def lack(self, username: str) -> None:
        """Take note that a user was not given SFTP."""
        if self.way is None and self._without not in (None, username):
            self.way = "commands"
        self._without = username


class FileServers:
    """The SFTP servers of one connection, opened when they are needed, and what stands in for them.

    Args:
        connection: The connection.
        shell: Its login shell.
        runner: For what goes by commands: the session.
        view: What is known of the login node as the user sees it.
        access: How the system's files are reached, as far as that has been found out.
    """

    __slots__ = (
        "_access",
        "_bulk",
        "_bulk_opening",
        "_bulk_users",
        "_connection",
        "_files",
        "_hanging",
        "_opening",
        "_refused",
        "_runner",
        "_sftp",
        "_shell",
        "_single_channel",
        "_view",
    )

    def __init__(
        self, connection: Connection, shell: Shell, runner: StreamRunner, view: NodeView, access: FileAccess
    ) -> None:
        self._connection = connection
        self._shell = shell
        self._runner = runner
        self._view = view
        self._access = access
        self._single_channel = False
        self._refused = False
        self._files: RemoteFiles | None = None
        self._sftp: SSHChannel[Any] | None = None
        self._opening: asyncio.Task[RemoteFiles] | None = None
        self._bulk: BulkSftp | None = None
        self._bulk_opening: asyncio.Task[BulkSftp] | None = None
        self._bulk_users = 0
        self._hanging: list[SftpStream | BulkSftp] = []

    def __repr__(self) -> str:
        return f"<FileServers {self._files!r} bulk={self._bulk!r} hanging={len(self._hanging)}>"

    async def files(self) -> RemoteFiles:
        """Return the files by SFTP or by commands."""
        files = self._files
        if files is not None and (self._sftp is None or not self._sftp.is_closing()):
            return files
        if self._opening is None or self._opening.done():
            self._opening = self._connection.spawn(self._open_files())
        opening = self._opening
        self._files = await asyncio.shield(opening)
        return self._files

    @asynccontextmanager
    async def bulk(self) -> AsyncIterator[Streams]:
        """Lend the files of the system for what streams, on a channel of its own.

        An SFTP server answers in order: on the same channel a small request would wait behind megabytes, or behind an
        fsync that takes a minute. Where the login node has no channel to spare, streams are commands.
        """
        files = await self.files()
        self._bulk_users += 1
        try:
            bulk = await self._bulk_client() if isinstance(files, SftpFiles) else None
            if isinstance(files, SftpFiles) and bulk is not None:
                yield SftpStreams(files, bulk, self._runner, partial(self._abandon, bulk), self._access.pace)
            else:
                yield CommandStreams(self._runner, self._view)
        finally:
            self._bulk_users -= 1

    def make_room(self) -> None:
        """Somebody waits for a channel: end what nobody uses.

        SFTP keeps its channel, unless it turns out to be the only one that there is.
        """
        if not self._bulk_users and self._bulk is not None:
            self._bulk.close()
            self._bulk = None
        if self._connection.channels.limit == 1 and self._sftp is not None and not self._single_channel:
            self._single_channel = True
            self._files = None
            self._sftp.close()
            log.warning("ssh.sftp.no_room", system=self._connection.system, user=self._connection.username)

    async def _open_files(self) -> RemoteFiles:
        access, connection = self._access, self._connection
        found = access.way if access.mode == "auto" else access.mode
        without = access.mode == "auto" and (self._refused or self._hangs)
        if found != "commands" and not self._single_channel and not without:
            try:
                client, stream, channel = await self._open_sftp()
                self._sftp = channel
                timeout = connection.settings.timeout.command_execution
                stage = partial(connection.telemetry.stage, "sftp", connection.system)
                server = SftpServer(client, timeout, partial(self._abandon, stream), stream.refuse, stage)
                return SftpFiles(server, self._runner, self._view)
            except _SingleChannel:
                log.warning("ssh.sftp.no_room", system=connection.system, user=connection.username)
            except NeverReached:
                raise
            except (NotSupported, NeverBegan) as refusal:
                if access.mode == "sftp":
                    raise
                log.info(
                    "ssh.sftp.refused",
                    system=connection.system,
                    user=connection.username,
                    reason=refusal.message,
                )
        return CommandFiles(self._runner, self._view)

    async def _bulk_client(self) -> BulkSftp | None:
        if self._hangs:
            return None
        if self._bulk is not None and self._bulk.usable:
            return self._bulk
        limit = self._connection.channels.limit
        if limit is not None and limit < _LEAST_FOR_BULK:
            return None
        if self._bulk_opening is None or self._bulk_opening.done():
            self._bulk_opening = self._connection.spawn(self._open_bulk())
        try:
            self._bulk = await asyncio.shield(self._bulk_opening)
        except ChannelRefused:
            return None
        return self._bulk

    async def _open_bulk(self) -> BulkSftp:
        await self._shell.check()
        connection = self._connection
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

    async def _open_sftp(self) -> "tuple[asyncssh.SFTPClient, SftpStream, SSHChannel[Any]]":
        """Open the SFTP channel.

        Raises:
            NotSupported: The login node has no SFTP, or no channel to spare for it.
            NeverBegan: What answers is not an SFTP server.
            NeverReached: Nothing answers, or the user's start-up files hang.
        """
        connection = self._connection
        if connection.channels.limit == 1:
            self._single_channel = True
            raise _SingleChannel
        await self._shell.check()
        slot = await connection.channels.acquire()
        stream = SftpStream(slot, partial(connection.distrust, "sftp"))
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
                    self._access.lack(connection.username)
                    raise _SingleChannel
        except ChannelRefused as error:
            # Where others have SFTP, it is this user's alone that there is none, or none now.
            self._refused = True
            self._access.lack(connection.username)
            raise NotSupported(f"The login node of {self._connection.system} offers no SFTP") from error
        except TimeoutError:
            stream.close()
            raise self._unstarted() from None
        except (asyncssh.Error, OSError) as error:
            stream.close()
            if not connection.alive:
                raise connection.lost() from error
            raise NeverBegan(
                f"SFTP with {self._connection.system} does not work: its server has ended, or what answers is not one. "
                f"{START_UP_FILES} may print something or end, or the account may not use SFTP"
            ) from error
        except BaseException:
            stream.close()
            raise
        self._access.way = "sftp"
        return client, stream, channel

    def _abandon(self, server: "SftpStream | BulkSftp") -> None:
        """Give up an SFTP server that did not answer in time.

        It may wait for a file server that has stopped, which nothing ends but the file server or SIGKILL, and sshd
        passes on no signal. The next one would join it there: commands, which can be killed, stand in for SFTP until
        it has ended. What it waits for may be the home directory, so the login shell has to show itself anew.
        """
        self._connection.shell_works = False
        self._hanging.append(server)
        server.close()

    @property
    def _hangs(self) -> bool:
        """Whether an SFTP server that was given up is still there."""
        self._hanging = [server for server in self._hanging if not server.closed]
        return bool(self._hanging)

    def _unstarted(self) -> NeverReached:
        """Return the error for an SFTP server that does not answer, which may well still be there."""
        connection = self._connection
        connection.shell_works = False
        connection.spent = True
        return NeverReached(
            f"SFTP with {self._connection.system} did not start within {connection.settings.start_up_timeout:g} s. "
            f"{START_UP_FILES} may read what is meant for it, run something else, hang or take too long, or the home "
            "directory may not answer"
        )

    def _unopened(self) -> TimedOut:
        return TimedOut(f"SFTP with {self._connection.system} could not be started in time")


class _SingleChannel(Exception):
    """The login node allows one channel only (MaxSessions 1), and SFTP would keep it."""
