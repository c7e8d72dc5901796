"""Who a user is on the login node, from ``id``."""

import re
from dataclasses import dataclass

from hpcgate.errors import BadAnswer, ToolMissing
from hpcgate.outbound.wording import clipped
from hpcgate.ssh.runner import SHORT
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


_FIELD = re.compile(r"(\d{1,20})(?:\(([^)]{0,256})\))?")
"""A number, and a name, which may be long in directories of other systems."""


def parse(line: str) -> Identity:
    """Parse a line of ``id``: ``uid=1000(alice) gid=100(users) groups=100(users),5(domain users)``.

    A group without a name is named by its number (id(1)).

    Raises:
        ValueError: The line is something else.
    """
    user, _, rest = line.strip().partition(" gid=")
    group, found, groups = rest.partition(" groups=")
    if not user.startswith("uid=") or not found or "\n" in line.strip():
        raise ValueError("not a line of id")

    def identified(text: str) -> tuple[Identified, ...]:
        return tuple(Identified(number, name or number) for number, name in _FIELD.findall(text))

    return Identity(
        user=identified(user)[0],
        group=identified(group)[0],
        groups=identified(groups.partition(" context=")[0]),
    )


_NOT_RUN = (126, 127)
"""Exit statuses of a shell that cannot run a command, or does not find it."""


async def identity(session: Session) -> Identity:
    """Return who the session's user is on the login node.

    Raises:
        ToolMissing: There is no ``id`` on the login node.
        BadAnswer: It failed, or said something else.
    """
    done = await session.run(["id"], limit=SHORT)
    try:
        return parse(done.stdout.decode("utf-8", "replace"))
    except (ValueError, IndexError):
        if done.exit_status in _NOT_RUN:
            raise ToolMissing("id") from None
        said = done.words or clipped(done.stdout.decode("utf-8", "replace").strip(), 400)
        raise BadAnswer(f"id: {said or f'nothing, and exit status {done.exit_status}'}") from None
