"""The directory that transfer jobs run in and that their logs lie in: the user's, or root's, and nobody else's.

Its path is computed of the user's name, so that whoever may write above it can make it before the user has one. Its
owner could lead the logs, which the scheduler opens as the user hours later, to any file of the user's, or say in them
that all went well.
"""

import stat
from typing import NamedTuple

from hpcgate.errors import BadAnswer, PathNotFound, PermissionDenied
from hpcgate.ssh.files.coreutils_errors import error_from_stderr
from hpcgate.ssh.runner import understanding
from hpcgate.ssh.session import Session

_LOOK = 'id -u; stat -c "%u %f" -- "$1" && stat -L -c "%u 0" -- "$1"'
"""Says who the user is, whose the name is and what, and whose the directory is that a link leads to."""
_LOOKS = 2
_MODES = 1 << 32
_MAX_SAID = 200
"""Bytes of all of it."""


class _Owned(NamedTuple):
    uid: int
    mode: int


async def check_owner(session: Session, directory: str, *, timeout: float | None = None) -> None:
    """Return unless somebody else owns the directory, or a link that stands for it. One that is missing is nobody's.

    Where a link of the user's own leads is the user's own choice.

    Args:
        session: The user's.
        directory: Its path.
        timeout: Seconds that the look may take: it is a part of a submission, not of an operation; None is the
            system's ``command_execution``.

    Raises:
        PermissionDenied: It is so.
        GatewayError: It cannot be told.
    """
    done = await session.run(["sh", "-c", _LOOK, "stat", directory.encode("utf-8", "surrogateescape")], timeout=timeout)
    with understanding("stat"):
        own, owned = _read(done.stdout)
    if owned and stat.S_ISLNK(owned[0].mode):
        if _is_own(owned[0].uid, own):
            return
        _refuse_unless_roots(directory, owned[0].uid)
    if not done.ok:
        error = error_from_stderr(done.stderr, "stat")
        if isinstance(error, PathNotFound):
            return  # the scheduler has the words for it
        raise error
    if len(owned) != _LOOKS:
        raise BadAnswer("stat: the login node's answer makes no sense")
    if not _is_own(owned[-1].uid, own):
        _refuse_unless_roots(directory, owned[-1].uid)


def _read(output: bytes) -> tuple[int | None, list[_Owned]]:
    """Return the user's number, None if `id` does not say it, and what was found.

    Raises:
        ValueError: It is something else.
    """
    if len(output) > _MAX_SAID:
        raise ValueError("more than three lines")
    me, *found = output.decode("ascii", "replace").splitlines() or [""]
    owned = [_Owned(int(uid), int(mode, 16)) for uid, _, mode in (line.partition(" ") for line in found)]
    if any(one.uid < 0 or not 0 <= one.mode < _MODES for one in owned):
        raise ValueError("not numbers of stat(2)")
    return int(me) if me.isdecimal() else None, owned


def _is_own(uid: int, own: int | None) -> bool:
    return uid == own or (own is None and uid != 0)  # nobody knows where `id` does not say


def _refuse_unless_roots(directory: str, uid: int) -> None:
    if uid != 0:
        raise PermissionDenied(f"{directory}, in which transfer jobs run, belongs to somebody else: Permission denied")
