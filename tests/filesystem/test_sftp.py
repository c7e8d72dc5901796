"""What only the way by SFTP has to get right."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import asyncssh
import pytest

from hpcgate.demo.sshd import Sshd
from hpcgate.errors import ConnectionLost, PermissionDenied, TimedOut
from hpcgate.filesystem.base import Limits
from hpcgate.filesystem.chmod import Chmod
from hpcgate.ssh.files.sftp_files import SftpFiles
from hpcgate.ssh.files.sftp_streams import SftpStreams
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.session import Session
from tests.filesystem.remote import Place
from tests.ssh.nodes import Keys, LoginNodes, principal, settings


@pytest.fixture
async def session(nodes: LoginNodes, sshd: Sshd, keys: Keys) -> AsyncIterator[Session]:
    pool = Pool("demo", settings(sshd, files="sftp"), keys)
    try:
        async with pool.lease(principal(nodes.alice)) as leased:
            yield leased
    finally:
        await pool.close()


@pytest.fixture
def commands(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that run on the login node, as they come."""
    ran: list[str] = []
    run = Session.run

    async def watched(self: Session, argv: Sequence[str], **options: Any) -> Any:
        ran.append(" ".join(str(word) for word in argv[:3]))
        return await run(self, argv, **options)

    monkeypatch.setattr(Session, "run", watched)
    return ran


async def test_nothing_forks_as_long_as_all_goes_well(session: Session, place: Place, commands: list[str]) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"content"

    files = await session.files()
    path = place / "file"
    await files.write(path, content())
    assert await files.read(path, size=100) == b"content"
    assert b"".join([block async for block in files.stream(path)]) == b"content"
    assert (await files.stat(path)).size == 7
    assert (await files.stat(path)).nlink == 1
    await files.chmod(path, 0o600)
    await files.symlink(path, place / "link")
    await files.mkdir(place / "directory")
    assert len(await files.listing(place / "", recursive=True)) == 3
    assert (await files.entry(place / "link")).user == place.user.name
    await files.rename(path, place / "other")
    await files.remove(place / "other")
    assert commands == []


async def test_an_empty_directory_of_a_server_without_dots_is_listed_without_a_command(
    session: Session, place: Place, commands: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dots are for servers to send or not; whether what lies there may be looked at tells the directory itself."""
    scan = asyncssh.SFTPClient.scandir

    async def without_dots(self: asyncssh.SFTPClient, path: bytes) -> AsyncIterator[Any]:
        async for found in scan(self, path):
            if found.filename not in (b".", b".."):
                yield found

    monkeypatch.setattr("hpcgate.ssh.files.helper.HELPER", ("no-such-program",))
    monkeypatch.setattr(asyncssh.SFTPClient, "scandir", without_dots)
    place.run("mkdir", "empty", "full", "closed")
    place.write("full/file")
    files = await session.files()
    assert [entry.name for entry in await files.listing(place / "full")] == [b"file"]
    commands.clear()
    assert await files.listing(place / "empty") == []
    async with session.bulk() as streams:
        assert [part async for part in streams.scan(place / "empty") if part] == []
    assert not [command for command in commands if "ls" in command]
    if os.geteuid() == 0:
        place.write("closed/file")
        place.run("chmod", "444", "closed")
        with pytest.raises(PermissionDenied):
            await files.listing(place / "closed")
        place.run("chmod", "755", "closed")


async def test_without_perl_stat_is_a_command(
    session: Session, place: Place, commands: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcgate.ssh.files.helper.HELPER", ("no-such-program",))
    path = place.write("file", b"123")
    files = await session.files()
    assert (await files.stat(path)).ino == os.stat(path).st_ino
    assert (await files.stat(path)).size == 3
    assert len(commands) == 2
    assert session.node.view(session.username).helper is False


async def test_a_server_that_does_not_answer_is_given_up(session: Session, place: Place) -> None:
    files = await session.plain_files()
    assert isinstance(files, SftpFiles)
    place.run("mkfifo", "fifo")
    files._requests.server = replace(files.server, timeout=0.3)
    # Past the check for a regular file, as happens when one turns into a FIFO in between.
    with pytest.raises(TimedOut):
        async with files._content.open(place / "fifo", asyncssh.FXF_READ):
            pass
    with pytest.raises(ConnectionLost):
        await files.listing(place / "")
    fresh = await session.plain_files()
    assert fresh is not files
    assert len(await fresh.listing(place / "")) == 1


@pytest.mark.parametrize(
    "cause",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
        asyncssh.ConnectionLost("Keepalive timeout"),
        None,
    ],
    ids=repr,
)
@pytest.mark.parametrize("verb", ["listing", "entry", "read", "stream", "write", "chmod", "remove"])
async def test_a_connection_that_breaks_is_known_whatever_broke_it(
    session: Session, place: Place, verb: str, cause: Any
) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"x"
        broken.connection_lost(cause)

    path = place.write("file", b"x")
    files = await session.plain_files()
    broken = session.connection.ssh
    asked: Coroutine[Any, Any, object]
    match verb:
        case "chmod":
            asked = files.chmod(path, 0o600)
        case "read":
            asked = files.read(path, size=10)
        case "stream":
            asked = _all(files.stream(path))
        case "write":
            asked = files.write(path, content())
        case _:
            asked = getattr(files, verb)(path)
    asking = asyncio.create_task(asked)
    await asyncio.sleep(0)
    if verb != "write":
        # As the event loop tells asyncssh of an error of the socket, before the answer can have come.
        broken.connection_lost(cause)
    with pytest.raises(ConnectionLost):
        await asking


async def _all(blocks: AsyncIterator[bytes]) -> bytes:
    return b"".join([block async for block in blocks])


async def test_names_with_blanks_are_looked_up_not_guessed(session: Session, place: Place) -> None:
    from asyncssh.sftp import SFTPAttrs, SFTPName

    from hpcgate.ssh.files.login_node import NodeView
    from hpcgate.ssh.files.sftp_listing import _entry, _learn

    def learned(longname: bytes) -> tuple[dict[int, str], dict[int, str]]:
        view = NodeView()
        attributes = SFTPAttrs(uid=1, gid=2, size=5, permissions=0o100644, mtime=0)
        found = SFTPName(b"a b", longname, attributes)
        _learn(view, found, _entry(b"a b", attributes))
        return view.users, view.groups

    nothing: tuple[dict[int, str], dict[int, str]] = ({}, {})
    clear = ({1: "alice"}, {2: "users"})
    assert learned(b"-rw-r--r--    1 alice    users           5 Nov 24 03:45 a b") == clear
    assert learned(b"-rw-r--r--    ? alice    users           5 Nov 24  2020 a b") == clear
    assert learned(b"-rw-r--r--    1 alice    domain users        5 Nov 24 03:45 a b") == nothing
    assert learned(b"-rw-r--r--    1 alice    users           6 Nov 24 03:45 a b") == nothing
    assert learned(b"-rw-r--r--    1 alice    users           5 Nov 24 03:45 a") == nothing
    assert learned(b"") == nothing


async def test_many_at_a_time_share_one_channel(session: Session, place: Place) -> None:
    paths = [place.write(f"file-{number}", b"x" * number) for number in range(50)]
    files = await session.plain_files()
    contents = await asyncio.gather(*(files.read(path, size=1000) for path in paths))
    assert [len(content) for content in contents] == list(range(50))


@pytest.mark.parametrize(("mode", "fixed"), [("0777", False), ("0755", True)])
async def test_a_directory_is_looked_at_anew_once_a_mode_has_changed(
    session: Session, place: Place, mode: str, fixed: bool
) -> None:
    """What others may write from now on is no longer taken for the user's alone."""
    place.run("mkdir", "-p", "above/here")
    async with session.bulk() as streams:
        assert isinstance(streams, SftpStreams)
        before = await streams.footing(place / "above/here")
        assert before is not None
        assert (before.fixed, before.kept) == (True, True)
        asked = Chmod.Parameters.model_validate({"path": os.fsdecode(place / "above"), "mode": mode})
        await Chmod(asked, Limits(1024)).run(session)
        after = await streams.footing(place / "above/here")
        assert after is not None
        assert (after.fixed, after.kept) == (fixed, fixed)
