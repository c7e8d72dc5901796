"""A directory of the user's alone inside of one that others may write.

It is made exclusively and with mode 0700, and is only used while it is seen to be that: a directory and no link, the
user's own, with nobody else allowed to write. What lies in it cannot be planted, read or swapped by others, whatever
they do beside it. Where others could move it, it is not reached by its path but by commands that stand in it, see that
it is the right one, and use bare names: `hpcgate.ssh.files.footing.Pinned`.
"""

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcgate.errors import PermissionDenied
from hpcgate.ssh.files.coreutils_errors import quote
from hpcgate.ssh.files.protocol import OTHERS_WRITE
from hpcgate.ssh.runner import Runner

if TYPE_CHECKING:
    from hpcgate.ssh.files.streams import Streams

PRIVATE_MODE = 0o700


@dataclass(frozen=True, slots=True)
class PrivateDirectory:
    """How such a directory is reached.

    Attributes:
        streams: The files in it and beside it.
        runner: Runs commands that take their paths.
        inside: What the names in it begin with.
        beside: What the names in the directory that it lies in begin with.
    """

    streams: "Streams"
    runner: Runner
    inside: bytes
    beside: bytes

    @classmethod
    def by_path(cls, streams: "Streams", runner: Runner, directory: bytes, name: bytes) -> "PrivateDirectory":
        """Return one that nobody else can move."""
        beside = directory.rstrip(b"/") + b"/"
        return cls(streams, runner, beside + name + b"/", beside)

    @property
    def has_path(self) -> bool:
        """Whether its path leads to it, and to nothing else."""
        return self.inside.startswith(b"/")


def is_private(mode: int, owner: int | None, user: int) -> bool:
    """Say whether what lstat(2) tells is that of a directory of a user's alone."""
    return stat.S_ISDIR(mode) and not mode & OTHERS_WRITE and owner == user


def not_private(path: bytes) -> PermissionDenied:
    """Return the error of a file system that does not keep a directory for its owner."""
    return PermissionDenied(
        f"{quote(path)} cannot be made a directory of the user's alone: its file system keeps no owners or modes"
    )
