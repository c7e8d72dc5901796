"""Checks of the file that a transfer begins or ends with, before a job is queued for it."""

import stat

from hpcgate.auth import Principal
from hpcgate.errors import BadRequest, IsADirectory, NotADirectory, PathNotFound, PermissionDenied
from hpcgate.ssh.files.remote_path import RemotePath
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.session import Session


async def size_of_source(pool: Pool, principal: Principal, path: RemotePath) -> int:
    """Return the size in bytes of a regular file that the user may read.

    Raises:
        PathNotFound, PermissionDenied: In the words of the tools.
        IsADirectory, BadRequest: It is not a regular file.
    """

    async def look(session: Session) -> int:
        files = await session.files()
        attributes = await files.stat(path)
        if stat.S_ISDIR(attributes.mode):
            raise IsADirectory(f"{path.text}: Is a directory")
        if not stat.S_ISREG(attributes.mode):
            raise BadRequest(f"{path.text}: Not a regular file")
        await files.read(path, size=1)
        return attributes.size

    return await pool.perform(principal, look, retry=True)


async def check_target(pool: Pool, principal: Principal, path: RemotePath) -> None:
    """Return if a file can be put at the path: into a directory that exists and may be written.

    Raises:
        PathNotFound, NotADirectory, PermissionDenied: The directory is none for it.
        IsADirectory: The path is a directory itself.
    """

    async def look(session: Session) -> None:
        files = await session.files()
        try:
            attributes = await files.stat(path)
        except PathNotFound:
            attributes = None
        if path.endswith(b"/") or (attributes is not None and stat.S_ISDIR(attributes.mode)):
            raise IsADirectory(f"{path.text}: Is a directory")
        if attributes is not None and not stat.S_ISREG(attributes.mode):
            raise BadRequest(f"{path.text}: Not a regular file")
        resolved = await files.realpath(path)
        parent = resolved.rpartition(b"/")[0] or b"/"
        if not stat.S_ISDIR((await files.stat(parent)).mode):
            raise NotADirectory(f"{path.text}: Not a directory")
        if not (await session.run(["test", "-w", parent, "-a", "-x", parent])).ok:
            raise PermissionDenied(f"{path.text}: Permission denied")

    await pool.perform(principal, look, retry=True)
