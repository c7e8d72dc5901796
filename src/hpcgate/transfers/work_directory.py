"""The directory that transfer jobs run in and that their logs lie in: the user's, or root's, and nobody else's.

Its path is computed of the user's name, so that whoever may write above it can make it before the user has one. Its
owner could lead the logs, which the scheduler opens as the user hours later, to any file of the user's, or say in them
that all went well.
"""

import stat

from hpcgate.errors import PathNotFound, PermissionDenied
from hpcgate.ssh.session import Session


async def check_owner(session: Session, directory: str) -> None:
    """Return unless somebody else owns the directory, or a link that stands for it. One that is missing is nobody's.

    Where a link of the user's own leads is the user's own choice.

    Raises:
        PermissionDenied: It is so.
    """
    files = await session.files()
    path = directory.encode("utf-8", "surrogateescape")
    try:
        found = await files.stat(path, follow=False)
        if stat.S_ISLNK(found.mode):
            if await _is_own(session, found.uid):
                return
            _refuse(directory, found.uid)
            found = await files.stat(path)
    except PathNotFound:
        return  # the scheduler has the words for it
    if not await _is_own(session, found.uid):
        _refuse(directory, found.uid)


async def _is_own(session: Session, uid: int) -> bool:
    footings = session.node.view(session.username).footings
    if footings.self is None or footings.self.uid != uid:
        me = (await footings.who(session)).uid
        return uid == me or (me < 0 and uid != 0)  # nobody knows where `id` does not say
    return True


def _refuse(directory: str, uid: int) -> None:
    if uid != 0:
        raise PermissionDenied(f"{directory}, in which transfer jobs run, belongs to somebody else: Permission denied")
