"""Who a user is on the login node, from ``id``."""

import re
from dataclasses import dataclass

from hpcgate.errors import CommandFailed
from hpcgate.ssh.session import Session


@dataclass(frozen=True, slots=True)
class Identified:
    """A user or a group: the number, as text, and the name."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, the primary group and all groups."""

    user: Identified
    group: Identified
    groups: tuple[Identified, ...]


_FIELD = re.compile(r"(\d+)(?:\(([^)]*)\))?")


def parse(line: str) -> Identity:
    """Parse a line of ``id``: ``uid=1000(alice) gid=100(users) groups=100(users),5(domain users)``.

    A group without a name is named by its number (id(1)).

    Raises:
        ValueError: The line is something else.
    """
    match = re.match(r"uid=(?P<user>.*?) gid=(?P<group>.*?) groups=(?P<groups>.*?)(?: context=.*)?$", line.strip())
    if match is None:
        raise ValueError(f"not a line of id: {line!r}")

    def identified(text: str) -> tuple[Identified, ...]:
        return tuple(Identified(number, name or number) for number, name in _FIELD.findall(text))

    return Identity(
        user=identified(match["user"])[0],
        group=identified(match["group"])[0],
        groups=identified(match["groups"]),
    )


async def identity(session: Session) -> Identity:
    """Return who the session's user is on the login node.

    Raises:
        CommandFailed: ``id`` is missing or said something else.
    """
    done = await session.run(["id"])
    try:
        return parse(done.stdout.decode("utf-8", "replace"))
    except (ValueError, IndexError):
        raise CommandFailed(f"id: {done.words or 'unexpected output'}") from None
