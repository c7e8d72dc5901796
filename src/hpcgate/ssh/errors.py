"""asyncssh's errors and the operating system's become ours here and nowhere else."""

import errno
import os
import socket
from collections.abc import Mapping
from typing import Final

import asyncssh

from hpcgate.errors import (
    AlreadyExists,
    BadRequest,
    CommandFailed,
    ConnectionLost,
    CredentialRefused,
    GatewayError,
    HostKeyRefused,
    IsADirectory,
    LoginNodeError,
    LoginNodeUnreachable,
    NoSpace,
    NotADirectory,
    NotSupported,
    PathNotFound,
    PermissionDenied,
    TimedOut,
)

BY_CLASS: Final[Mapping[type[Exception], type[GatewayError]]] = {
    asyncssh.PermissionDenied: CredentialRefused,
    asyncssh.IllegalUserName: CredentialRefused,
    asyncssh.PasswordChangeRequired: CredentialRefused,
    asyncssh.KeyEncryptionError: CredentialRefused,
    asyncssh.KeyImportError: CredentialRefused,
    asyncssh.KeyExportError: CredentialRefused,
    asyncssh.KeyGenerationError: CredentialRefused,
    asyncssh.HostKeyNotVerifiable: HostKeyRefused,
    asyncssh.ConnectionLost: ConnectionLost,
    asyncssh.CompressionError: LoginNodeError,
    asyncssh.KeyExchangeFailed: LoginNodeError,
    asyncssh.MACError: LoginNodeError,
    asyncssh.ProtocolError: LoginNodeError,
    asyncssh.ProtocolNotSupported: LoginNodeError,
    asyncssh.ServiceNotAvailable: LoginNodeError,
    asyncssh.DisconnectError: LoginNodeError,
    asyncssh.ChannelOpenError: LoginNodeError,
    asyncssh.ChannelListenError: LoginNodeError,
    asyncssh.ConfigParseError: LoginNodeError,
    asyncssh.TimeoutError: TimedOut,
    asyncssh.ProcessError: CommandFailed,
    asyncssh.BreakReceived: CommandFailed,
    asyncssh.SignalReceived: CommandFailed,
    asyncssh.TerminalSizeChanged: CommandFailed,
    asyncssh.SFTPNoSuchFile: PathNotFound,
    asyncssh.SFTPNoSuchPath: PathNotFound,
    asyncssh.SFTPPermissionDenied: PermissionDenied,
    asyncssh.SFTPWriteProtect: PermissionDenied,
    asyncssh.SFTPCannotDelete: PermissionDenied,
    asyncssh.SFTPLockConflict: PermissionDenied,
    asyncssh.SFTPByteRangeLockConflict: PermissionDenied,
    asyncssh.SFTPByteRangeLockRefused: PermissionDenied,
    asyncssh.SFTPNoMatchingByteRangeLock: BadRequest,
    asyncssh.SFTPFileAlreadyExists: AlreadyExists,
    asyncssh.SFTPDirNotEmpty: BadRequest,
    asyncssh.SFTPNotADirectory: NotADirectory,
    asyncssh.SFTPFileIsADirectory: IsADirectory,
    asyncssh.SFTPInvalidFilename: BadRequest,
    asyncssh.SFTPInvalidParameter: BadRequest,
    asyncssh.SFTPLinkLoop: BadRequest,
    asyncssh.SFTPUnknownPrincipal: BadRequest,
    asyncssh.SFTPOwnerInvalid: BadRequest,
    asyncssh.SFTPGroupInvalid: BadRequest,
    asyncssh.SFTPNoSpaceOnFilesystem: NoSpace,
    asyncssh.SFTPQuotaExceeded: NoSpace,
    asyncssh.SFTPOpUnsupported: NotSupported,
    asyncssh.SFTPNoConnection: ConnectionLost,
    asyncssh.SFTPConnectionLost: ConnectionLost,
    asyncssh.SFTPBadMessage: ConnectionLost,
    asyncssh.SFTPInvalidHandle: ConnectionLost,
    asyncssh.SFTPDeletePending: CommandFailed,
    asyncssh.SFTPFileCorrupt: CommandFailed,
    asyncssh.SFTPNoMedia: CommandFailed,
    asyncssh.SFTPEOFError: CommandFailed,
    asyncssh.SFTPFailure: CommandFailed,
    asyncssh.SFTPError: CommandFailed,
    asyncssh.Error: LoginNodeError,
}
"""Every exception that asyncssh exports, by the class of ours that it becomes."""

_TOO_MANY_ATTEMPTS = "authentication failures"
"""sshd's words when MaxAuthTries is used up; it disconnects with a protocol error instead of a plain refusal."""


def class_of(error: BaseException) -> type[GatewayError]:
    """Return the class of ours that an error of asyncssh or of the operating system becomes."""
    if isinstance(error, GatewayError):
        return type(error)
    for cls in type(error).__mro__:
        if cls in BY_CLASS:
            return BY_CLASS[cls]
    if isinstance(error, TimeoutError):
        return TimedOut
    if isinstance(error, OSError):
        return ConnectionLost
    return LoginNodeError


def translate(error: Exception, what: str) -> GatewayError:
    """Return the error of ours for one of asyncssh or the operating system.

    Args:
        error: What asyncssh raised; one of ours comes back as it is.
        what: What was being done, for the message, such as ``cannot read '/x'``.
    """
    if isinstance(error, GatewayError):
        return error
    return class_of(error)(f"{what}: {reason(error)}")


def connect_error(error: Exception, system: str, node: str, username: str) -> GatewayError:
    """Return the error of ours for a failed attempt to connect and log in.

    Args:
        error: What asyncssh or the operating system raised.
        system: The name of the system.
        node: Which of its machines: ``login node`` or ``jump host``.
        username: Who tried to log in.
    """
    if isinstance(error, GatewayError):
        return error
    place = f"The {node} of {system}"
    cls = class_of(error)
    if cls is CredentialRefused or (
        isinstance(error, asyncssh.DisconnectError) and _TOO_MANY_ATTEMPTS in str(error.reason)
    ):
        return CredentialRefused(f"{place} refused the SSH credential of {username}")
    if isinstance(error, TimeoutError):
        return LoginNodeUnreachable(f"{place} cannot be reached: connection timed out")
    if isinstance(error, asyncssh.ConnectionLost | OSError):
        return LoginNodeUnreachable(f"{place} cannot be reached: {reason(error)}")
    if isinstance(error, asyncssh.ChannelOpenError):
        return LoginNodeUnreachable(f"{place} cannot be reached through the jump host: {reason(error)}")
    return cls(f"{place} ended the SSH connection: {reason(error)}")


def reason(error: BaseException) -> str:
    """Return the bare cause in an error's words, without addresses or ports."""
    if isinstance(error, asyncssh.Error):
        return str(getattr(error, "reason", error)).strip() or type(error).__name__
    if isinstance(error, socket.gaierror):
        return "name or service not known"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError):
        return _os_reason(error)
    return str(error) or type(error).__name__


def fresh_copy(error: GatewayError) -> GatewayError:
    """Return a fresh copy of an error that several wait for, so that each has a traceback of its own."""
    # Not by copy.copy, which calls the constructor with the message: that of JobNotFound puts words before it.
    fresh = type(error).__new__(type(error))
    fresh.__dict__.update(error.__dict__)
    fresh.args = error.args
    fresh.__cause__ = error.__cause__
    return fresh


def _os_reason(error: OSError) -> str:
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    nested = getattr(error, "exceptions", ())
    if nested:
        return reason(nested[0])
    # asyncio joins the errors of several addresses into one text, addresses included.
    for number in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT):
        if f"[Errno {number}]" in str(error):
            return os.strerror(number).lower()
    return "connection failed"
