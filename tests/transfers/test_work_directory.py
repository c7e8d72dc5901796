"""Transfer jobs run in no directory that somebody else has made under the user's name, or under that of a link."""

import os
from pathlib import Path
from typing import Any

import pytest

from hpcgate.errors import BadAnswer, PermissionDenied
from hpcgate.ssh.runner import Completed
from hpcgate.ssh.session import Session
from hpcgate.transfers.work_directory import check_owner
from tests.filesystem.remote import Place, keys, nodes, place, session, sshd
from tests.ssh.nodes import LoginNodes

__all__ = ["keys", "nodes", "place", "session", "sshd"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")

ROOT, USER, OTHER = "root", "user", "other"

PLANTED: dict[str, tuple[bool, str | None, str | None]] = {
    # whether it is used, whose the directory is, and whose the link to it
    "there is none": (True, None, None),
    "the user's": (True, USER, None),
    "root's": (True, ROOT, None),
    "somebody else's": (False, OTHER, None),
    "the user's link": (True, USER, USER),
    "root's link": (True, USER, ROOT),
    "root's link to root's": (True, ROOT, ROOT),
    "somebody else's link to the user's": (False, USER, OTHER),
    "somebody else's link to root's": (False, ROOT, OTHER),
    "somebody else's link to nothing": (False, None, OTHER),
    "root's link to somebody else's": (False, OTHER, ROOT),
    "the user's own link to somebody else's": (True, OTHER, USER),
}


@pytest.fixture
def shared(place: Place) -> Path:
    """A directory in which everybody may make one, as scratch file systems are."""
    path = place.path / "scratch"
    path.mkdir()
    path.chmod(0o1777)
    place.path.chmod(0o755)
    return path


@pytest.mark.parametrize("kind", PLANTED)
async def test_no_job_runs_where_somebody_else_has_been_first(
    session: Session, nodes: LoginNodes, shared: Path, kind: str
) -> None:
    used, owner, linker = PLANTED[kind]
    uids = {ROOT: 0, USER: nodes.alice.uid, OTHER: nodes.bob.uid}
    directory = shared / nodes.alice.name
    made = directory if linker is None else shared / "made"
    if owner is not None:
        made.mkdir(mode=0o777)
        os.chown(made, uids[owner], -1)
    if linker is not None:
        directory.symlink_to(made)
        os.chown(directory, uids[linker], -1, follow_symlinks=False)
    if used:
        await check_owner(session, str(directory))
    else:
        with pytest.raises(PermissionDenied, match="belongs to somebody else"):
            await check_owner(session, str(directory))


SAID = {
    "nothing": "",
    "no directory": "1000\n",
    "the name alone": "1000\n1000 41ed\n",
    "no numbers": "1000\nx y\nx y\n",
    "numbers below zero": "-1\n-1 -1\n-1 -1\n",
    "a mode that is none": "1000\n1000 fffffffff\n1000 0\n",
    "digits of another script": "\u0663\n\u0663 41ed\n\u0663 0\n",
    "one line too many": "1000\n1000 41ed\n1000 0\n1000 0\n",
    "lines without end": "1000 41ed\n" * 100_000,
}


@pytest.mark.parametrize("said", SAID)
async def test_what_cannot_be_told_is_an_error(said: str) -> None:
    """What the commands say may be the user's own doing."""

    class Liar:
        async def run(self, argv: Any, **_: Any) -> Completed:
            return Completed(tuple(argv), 0, SAID[said].encode(), b"")

    session: Any = Liar()
    with pytest.raises(BadAnswer):
        await check_owner(session, "/scratch/alice")
