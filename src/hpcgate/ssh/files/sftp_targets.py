"""What a write by SFTP replaces, and whether SFTP is enough for it: links, owners, lists, and directories."""

import asyncio
import errno
import stat

import asyncssh

from hpcgate.errors import ConnectionLost, GatewayError, LoginNodeError
from hpcgate.ssh.errors import translate
from hpcgate.ssh.files.command_files import CommandFiles
from hpcgate.ssh.files.coreutils_errors import failure, not_regular, quote
from hpcgate.ssh.files.footing import Footing, Self, Step, ancestors, parent, resolve
from hpcgate.ssh.files.login_node import NodeView
from hpcgate.ssh.files.protocol import without_group
from hpcgate.ssh.files.sftp_requests import SftpRequests
from hpcgate.ssh.runner import Runner

# Says something if one of some files has an access control list; a directory has one, too, that files in it get.
_LISTED = 'for f; do case $(ls -dlnL -- "$f") in ??????????+*) echo listed ;; esac; done'
_ATTEMPTS = 5
"""How often links are followed that change meanwhile."""


class SftpTargets:
    """Finds the files that writes are to replace.

    Args:
        requests: The server.
        runner: For what SFTP cannot tell.
        view: What is known of the login node as the user sees it.
        commands: Files by commands.
    """

    def __init__(self, requests: SftpRequests, runner: Runner, view: NodeView, commands: CommandFiles) -> None:
        self._requests = requests
        self._sftp = requests.server.client
        self._ask = requests.ask
        self._runner = runner
        self._view = view
        self._commands = commands

    async def fixed(self, path: bytes, *, kept: bool = False) -> bytes | None:
        """Return the path of a name in a directory that nobody else can put elsewhere, or None: that is for commands.

        Args:
            path: The path, whose last component is not followed.
            kept: Whether, besides, nobody else may rename there what the user has made.

        Raises:
            PermissionDenied: A link on the way is not followed for writing.
        """
        name = path.rpartition(b"/")[2]
        footing = await self.footing(parent(path))
        if footing is None or not (footing.kept if kept else footing.fixed) or name in (b"", b".", b".."):
            return None
        return footing.real.rstrip(b"/") + b"/" + name

    async def footing(self, directory: bytes) -> Footing | None:
        """Say how safe a directory is to write in, links on the way followed if they may be, by LSTATs side by side.

        None is returned of one that is not there, or not to be reached; what is tried there says why.

        Raises:
            PermissionDenied: A link on the way is not followed for writing.
        """
        footings = self._view.footings
        known = footings.get(directory)
        if known is not None:
            return known
        real, turn = directory, footings.turn
        for _ in range(_ATTEMPTS):
            if b".." in real.split(b"/"):
                real = await resolve(self._runner, real)
            paths = ancestors(real)
            # The server begins in the home directory.
            asked = [*paths] if footings.self is not None else [*paths, b"."]
            answers = await asyncio.gather(
                *(self._ask(self._sftp.lstat, path) for path in asked), return_exceptions=True
            )
            if footings.self is None and isinstance(home := answers.pop(), asyncssh.SFTPAttrs):
                footings.self = Self(home.uid or -1)
            steps: list[Step] = []
            for found in answers:
                if isinstance(found, BaseException):
                    self._requests.pass_over(found, directory)
                    return None
                steps.append(Step(found.permissions or 0, -1 if found.uid is None else found.uid, found.gid or 0))
                if stat.S_ISLNK(steps[-1].mode):
                    break
            else:
                return await footings.judge(self._runner, paths[-1], steps, turn)
            real = await resolve(self._runner, real)
        return Footing(real, fixed=False, kept=False)

    async def replaced(self, path: bytes) -> tuple[bytes, asyncssh.SFTPAttrs | None] | None:
        """Return the file that a write replaces, links resolved, and its attributes if it exists.

        None is returned of what is for commands: where others can make a path lead elsewhere while it is used, a file
        that has more to keep than SFTP knows of, another owner or an access control list, and what SFTP cannot tell of.

        Raises:
            PermissionDenied: A link on the way is not followed for writing.
        """
        target = path
        for _ in range(_ATTEMPTS):
            footing, found = await asyncio.gather(
                self.footing(parent(target)), self._ask(self._sftp.lstat, target), return_exceptions=True
            )
            if isinstance(footing, BaseException):
                raise footing
            untold = False
            if isinstance(found, BaseException):
                self._requests.pass_over(found, path)
                attributes, mode = None, 0
                # There may be no such name at all, which is to be said before anything of the content is asked for.
                untold = not isinstance(found, asyncssh.SFTPNoSuchFile)
            else:
                attributes, mode = found, found.permissions or 0
            if stat.S_ISLNK(mode):
                target = await resolve(self._runner, target)
                continue
            if stat.S_ISDIR(mode):
                raise failure(f"cp: cannot create regular file {quote(path)}", errno.EISDIR)
            if attributes is not None and not stat.S_ISREG(mode):
                raise not_regular("cp", path)
            if footing is None and (why := await self._commands.why_not_written(path)) is not None:
                # Before anything of the content is asked for.
                raise why
            if footing is None or untold or not footing.fixed or target.endswith(b"/"):
                return None
            real = footing.real.rstrip(b"/") + b"/" + target.rpartition(b"/")[2]
            if attributes is None:
                return real, None
            kept = await self._keepable(real, footing.real, attributes)
            return None if kept is None else (real, kept)
        return None

    async def _keepable(self, path: bytes, directory: bytes, found: asyncssh.SFTPAttrs) -> asyncssh.SFTPAttrs | None:
        """Return what a file that replaces one is to get of it, None if that is more than SFTP knows of."""
        me = self._view.footings.self
        if me is None or found.uid != me.uid:
            return None
        try:
            done = await self._runner.run(["sh", "-c", _LISTED, "ls", path, directory])
        except ConnectionLost:
            raise
        except LoginNodeError:
            # No command runs here. With a list the group's bits would be its mask, maybe more than the group has.
            found.permissions = without_group(found.permissions or 0)
            return found
        return None if done.stdout else found


def unkept(path: bytes, error: asyncssh.SFTPError) -> GatewayError:
    """Return the error for a file that cannot get the mode of the one that it replaces."""
    words = f"cp: preserving permissions for {quote(path)}"
    return failure(words, errno.EPERM) if isinstance(error, asyncssh.SFTPPermissionDenied) else translate(error, words)


def adopted(old: asyncssh.SFTPAttrs, owner: int | None) -> int:
    """Return the mode that a file gets from the one that it replaces; of somebody else's no setuid and no setgid."""
    return stat.S_IMODE(old.permissions or 0) & (0o7777 if old.uid == owner else 0o777)
