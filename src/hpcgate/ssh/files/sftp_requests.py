"""Requests of one SFTP server: how long each may take, and what an answer that is none means."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import asyncssh

from hpcgate.errors import ConnectionLost, TimedOut
from hpcgate.ssh.errors import reason, translate
from hpcgate.ssh.files.coreutils_errors import quote
from hpcgate.ssh.runner import SENSELESS

P = ParamSpec("P")
T = TypeVar("T")

CLEANING = 5.0
"""Seconds that cleaning up behind a failure may take."""
_NAMES = {"shield": "open", "_scan": "readdir", "_entry": "stat", "_some": "readdir"}
"""What the requests are called that are sent by functions of other names."""


@dataclass(frozen=True, slots=True)
class SftpServer:
    """One SFTP server on a channel of its own, and what becomes of it if it fails.

    Attributes:
        client: The client; it belongs to the connection and outlives those who use it.
        timeout: Seconds that any single answer may take.
        abandon: Closes the channel of a server that did not answer in time.
        refuse: Closes the channel of a server whose answers make no sense, and says why.
        stage: Returns the context of the request that it is given the name of.
    """

    client: asyncssh.SFTPClient
    timeout: float
    abandon: Callable[[], None]
    refuse: Callable[[str], None]
    stage: Callable[[str], AbstractContextManager[Any]]


class SftpRequests:
    """Sends requests to one SFTP server.

    Args:
        server: The server.
        on_senseless: Is told of answers that make no sense, besides the server's own channel.
    """

    def __init__(self, server: SftpServer, on_senseless: Callable[[], None] | None = None) -> None:
        self.server = server
        self.abandoned = False
        self._on_senseless = on_senseless

    async def ask(self, ask: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Send a request by a method of asyncssh's client and return its answer.

        Raises:
            asyncssh.SFTPError: What the server answered.
            ConnectionLost: The connection has ended, or the server has been given up.
            TimedOut: It did not answer in time, and is given up.
        """
        if self.abandoned:
            raise ConnectionLost("The login node's SFTP server does not answer.")
        deadline = asyncio.timeout(self.server.timeout)
        try:
            with self.server.stage(_NAMES.get(ask.__name__, ask.__name__)):
                async with deadline:
                    return await ask(*args, **kwargs)
        except asyncssh.SFTPBadMessage as error:
            self.server.refuse(f"SFTP: {reason(error)}")
            raise
        except asyncssh.SFTPError:
            raise
        except SENSELESS as error:
            self.server.refuse(f"SFTP: {reason(error)}")
            raise asyncssh.SFTPBadMessage("The SFTP server's answer makes no sense") from error
        except (asyncssh.Error, OSError) as error:
            if not deadline.expired():
                # asyncssh passes on as it is what ended the connection: EPIPE, ECONNRESET, ETIMEDOUT.
                raise ConnectionLost(f"The SSH connection was lost: {reason(error)}") from error
            # The server answers in order: behind this one nothing would be answered either.
            self.abandoned = True
            self.server.abandon()
            raise TimedOut("The login node's SFTP server did not answer in time.") from None

    def check(self, error: asyncssh.SFTPError, path: bytes) -> None:
        """Raise what ended the connection, if that is why a request failed.

        Raises:
            ConnectionLost: It is.
        """
        if self._on_senseless is not None and isinstance(error, asyncssh.SFTPBadMessage):
            self._on_senseless()
        if isinstance(error, asyncssh.SFTPConnectionLost | asyncssh.SFTPNoConnection):
            raise translate(error, f"sftp: {quote(path)}") from error

    def pass_over(self, error: BaseException, path: bytes) -> None:
        """Raise what is not the server's own answer."""
        if not isinstance(error, asyncssh.SFTPError):
            raise error
        self.check(error, path)

    def fallback(self, path: bytes) -> "_Fallback":
        """Return a context that no answer of the server leaves as an error: what follows it does the same otherwise.

        Args:
            path: What is asked about, for messages.
        """
        return _Fallback(self, path)


class _Fallback:
    """See `SftpRequests.fallback`; a context manager by generator would cost several times as much."""

    __slots__ = ("_path", "_requests")

    def __init__(self, requests: SftpRequests, path: bytes) -> None:
        self._requests = requests
        self._path = path

    def __enter__(self) -> None:
        """Nothing to be done."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, asyncssh.SFTPError):
            return False
        self._requests.check(error, self._path)
        return True
