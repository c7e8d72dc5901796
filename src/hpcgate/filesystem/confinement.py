"""Whether the paths of a request lie where its grant lets them: by real path, as the login node resolves them.

What is checked here is used a moment later, by a job perhaps hours later, and whoever can change links in between, on
the login node or by a job, can lead the request elsewhere: it stays within the user's own rights, no longer within the
grant's paths.
"""

import asyncio
import posixpath
import re
from dataclasses import dataclass

from hpcgate.auth.policy import Grant, inside
from hpcgate.errors import Denied, NotADirectory, PathNotFound
from hpcgate.filesystem.base import encode_path
from hpcgate.ssh.session import Session
from hpcgate.ssh.words import told

_DOTS = re.compile(r"(?:^|/)\.{0,2}$")


@dataclass(frozen=True, slots=True)
class Reach:
    """What a request touches.

    Attributes:
        paths: What it acts on, symbolic links followed.
        links: What it acts on without following a link in the path's last place.
        trees: Directories below which it follows links.
    """

    paths: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    trees: tuple[str, ...] = ()


async def confine(session: Session, grant: Grant, reach: Reach) -> None:
    """Return if all that a request touches lies where the grant lets it.

    Raises:
        Denied: Something lies elsewhere.
        BadRequest: A path is none.
        PermissionDenied: The user may not find out where a path leads.
    """
    paths = [encode_path(path) for path in (*reach.paths, *map(_parent, reach.links))]
    real = await asyncio.gather(*(_real(session, path) for path in paths))
    for path, found in zip((*reach.paths, *reach.links), real, strict=True):
        if not grant.covers(found):
            raise Denied(grant.rule, f"the path {path!r} is, or leads, outside of where it allows")
    for tree in reach.trees:
        await _check_tree(session, grant, tree)


def _parent(path: str) -> str:
    """Return the directory that holds a link; a path that ends in a slash or dots is no link but what it leads to."""
    return path if _DOTS.search(path) else posixpath.dirname(path)


async def _real(session: Session, path: bytes) -> bytes:
    try:
        return await (await session.files()).realpath(path)
    except (PathNotFound, NotADirectory):
        # Of a path to be made, several components may be missing, or not be what they are taken for.
        done = await session.run(["realpath", "-m", "-z", "--", path])
        if not done.ok:
            raise told(done.stderr, "realpath") from None
        return done.stdout.removesuffix(b"\0")


async def _check_tree(session: Session, grant: Grant, tree: str) -> None:
    """Refuse a tree with a link that leads out of it: what the link's target holds is not looked at."""
    top = await _real(session, encode_path(tree))
    # What cannot be read or resolved here cannot be followed later either.
    done = await session.run(["find", top, "-type", "l", "-exec", "realpath", "-m", "-q", "-z", "--", "{}", "+"])
    if not all(inside(target, top) for target in done.stdout.split(b"\0") if target):
        raise Denied(grant.rule, f"a symbolic link in {tree!r} leads out of it and would be followed")
