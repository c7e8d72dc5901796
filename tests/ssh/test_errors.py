from __future__ import annotations

import errno
import inspect
import socket

import asyncssh
import pytest

from hpcgate.errors import (
    ConnectionLost,
    CredentialRefused,
    Denied,
    GatewayError,
    HostKeyRefused,
    JobNotFound,
    LoginNodeError,
    LoginNodeUnreachable,
    SchedulerUnavailable,
    SystemNotFound,
    TimedOut,
    Unhealthy,
)
from hpcgate.ssh.errors import BY_CLASS, class_of, connect_error, fresh_copy, translate

EXCEPTIONS = sorted(
    {value for value in vars(asyncssh).values() if inspect.isclass(value) and issubclass(value, Exception)},
    key=lambda cls: cls.__name__,
)


@pytest.mark.parametrize("cls", EXCEPTIONS, ids=lambda cls: cls.__name__)
def test_every_exception_of_asyncssh_has_one_of_ours(cls: type[Exception]) -> None:
    assert cls in BY_CLASS


def make(cls: type[Exception]) -> Exception:
    for arguments in (("why",), (1, "why"), (1, 2, 3, 4), ("sig", False, "why", "en")):
        try:
            return cls(*arguments)
        except TypeError:
            continue
    return cls.__new__(cls)


@pytest.mark.parametrize("cls", EXCEPTIONS, ids=lambda cls: cls.__name__)
def test_translation_never_fails(cls: type[Exception]) -> None:
    """Each error of the library becomes one of the gateway's."""
    error = make(cls)
    if isinstance(error, asyncssh.ProcessError):
        error = cls(None, "x", None, 1, None, 1, "out", "err")
    assert isinstance(translate(error, "cannot read '/x'"), BY_CLASS.get(cls, GatewayError))
    assert isinstance(connect_error(error, "demo", "login node", "alice"), GatewayError)


def test_ours_pass_as_they_are() -> None:
    error = TimedOut("late")
    assert translate(error, "x") is error
    assert class_of(error) is TimedOut


@pytest.mark.parametrize(
    ("error", "cls", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('10.1.2.3', 22)"), LoginNodeUnreachable,
         "connection refused"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('10.1.2.3', 22)"), LoginNodeUnreachable,
         "connection refused"),
        (OSError(errno.EHOSTUNREACH, "no"), LoginNodeUnreachable, "no route to host"),
        (socket.gaierror(-2, "Name or service not known"), LoginNodeUnreachable, "name or service not known"),
        (TimeoutError(), LoginNodeUnreachable, "timed out"),
        (asyncssh.ConnectionLost("Connection lost"), LoginNodeUnreachable, "Connection lost"),
        (asyncssh.ChannelOpenError(2, "Connect failed"), LoginNodeUnreachable, "jump host"),
        (asyncssh.PermissionDenied("for alice"), CredentialRefused, "refused the SSH credential of alice"),
        (asyncssh.ProtocolError("Too many authentication failures"), CredentialRefused, "refused"),
        (asyncssh.HostKeyNotVerifiable("no"), HostKeyRefused, ""),
        (asyncssh.KeyExchangeFailed("No match"), LoginNodeError, "No match"),
    ],
)  # fmt: skip
def test_what_a_failed_login_tells(error: Exception, cls: type[GatewayError], words: str) -> None:
    ours = connect_error(error, "demo", "login node", "alice")
    assert type(ours) is cls
    assert ours.status == 424
    assert words in ours.message
    assert "demo" in ours.message
    assert "10.1.2.3" not in ours.message


MADE = (
    JobNotFound("4711"),
    SystemNotFound(),
    SchedulerUnavailable("down", retry_after=None),
    Unhealthy("scheduler", "demo", retry_after=7),
    Denied("night", "not at night"),
)


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_a_copy_says_the_same_whatever_the_constructor_makes_of_its_arguments(error: GatewayError) -> None:
    fresh = fresh_copy(fresh_copy(error))
    assert fresh is not error
    assert (type(fresh), str(fresh), vars(fresh)) == (type(error), str(error), vars(error))


def test_a_shared_error_is_copied_for_each() -> None:
    error = ConnectionLost("lost", headers={"Retry-After": "1"})
    copy = fresh_copy(error)
    assert copy is not error
    assert (type(copy), copy.message, copy.headers) == (ConnectionLost, "lost", {"Retry-After": "1"})
