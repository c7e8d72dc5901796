"""What is remembered of a login node has bounds: whoever asks, and whatever names and zones it says it has."""

from datetime import UTC
from typing import Any, cast

from asyncssh.sftp import SFTPAttrs, SFTPName

from hpcgate.errors import TooLarge
from hpcgate.ssh.files.helper import Helper
from hpcgate.ssh.files.login_node import LoginNode, NodeView, _rule_file, parse_zone
from hpcgate.ssh.files.protocol import Entry
from hpcgate.ssh.files.sftp_listing import _learn
from hpcgate.ssh.runner import Completed


class Nameless:
    """Runs commands on a login node where nobody has a name."""

    async def run(self, argv: Any, **_: Any) -> Completed:
        return Completed((), 2, b"\n", b"")


async def test_so_many_names_are_remembered() -> None:
    view = NodeView()
    for start in range(0, 60_000, 2000):
        numbers = range(start, start + 2000)
        await view.resolve(cast("Any", Nameless()), numbers, numbers)
        assert len(view.users) == len(view.groups) <= 22_000
        assert view.users[start] == str(start)


def test_names_that_a_listing_says_have_the_same_bound() -> None:
    """A server that lies lists millions of files, each of somebody else with a long name."""
    view = NodeView()
    for number in range(25_000):
        attributes = SFTPAttrs(uid=number, gid=number, size=1, permissions=0o100644, mtime=0)
        user = b"u" * 1000
        longname = b"-rw-r--r--    1 %b %b         1 Jan  1  1970 file" % (user, user)
        found = SFTPName(b"file", longname, attributes)
        _learn(view, found, Entry(b"file", 0o100644, number, number, 1, 0))
    for known in (view.users, view.groups):
        assert known[0] == "u" * 256
        assert len(known) <= 22_000


def test_so_many_users_views_are_remembered() -> None:
    node = LoginNode()
    last = [node.view(f"user-{number}") for number in range(10_050)][-1]
    assert len(node._views) == 10_000
    assert node.view("user-10049") is last


def test_a_zone_s_file_has_a_bound() -> None:
    zone = _rule_file("CET-1CEST,M3.5.0,M10.5.0/3")
    assert parse_zone("", zone.ljust(256 * 1024)) is not UTC
    assert parse_zone("", zone.ljust(256 * 1024 + 1)) is UTC


async def test_an_answer_of_the_helper_has_a_bound() -> None:
    asked: list[int | None] = []

    class Endless(Nameless):
        async def ask(self, argv: Any, request: bytes, *, limit: int | None = None) -> bytes:
            asked.append(limit)
            raise TooLarge("more than that")

        def dismiss(self, argv: Any) -> None:
            pass

    helper = Helper(cast("Any", Endless()), NodeView())
    assert await helper.listing(b"/", hidden=True) is None
    assert await helper.stat(b"/", follow=True) is None  # not asked again for a while
    assert asked == [16 * 1024 * 1024]
