"""Whether the paths of a request lie where its grant lets them, as the login node resolves them, before it begins.

This is for an early and clear answer, and for what the gateway only hands on (a job's working directory). What the
gateway does itself is checked again where it happens: see `hpcgate.filesystem.confined_session`.
"""

from dataclasses import dataclass

from hpcgate.auth.policy import Grant
from hpcgate.filesystem.beneath import Beneath
from hpcgate.ssh.session import Session


@dataclass(frozen=True, slots=True)
class Reach:
    """What a request touches.

    Attributes:
        paths: What it acts on, symbolic links followed.
        links: What it acts on without following a link in the path's last place.
        trees: Directories below which it follows links.
        strict: Whether a path that cannot be resolved is denied, unless nothing is there: the gateway hands it on.
    """

    paths: tuple[bytes, ...] = ()
    links: tuple[bytes, ...] = ()
    trees: tuple[bytes, ...] = ()
    strict: bool = False


async def confine(session: Session, grant: Grant, reach: Reach) -> None:
    """Return if all that a request touches lies where the grant lets it.

    Raises:
        Denied: Something lies elsewhere.
        NotSupported: The login node lacks what checks paths.
    """
    await Beneath(session, grant).do(
        "admit", "hpcgate", paths=reach.paths, links=reach.links, trees=reach.trees, strict=reach.strict
    )
