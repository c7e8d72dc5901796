"""How often a channel waits for the login node before its first answer, counted on the wire: never by the clock.

The yardstick is asyncssh's own client: it waits until sshd has said that a channel is open, and that the command was
started, where the gateway waits until the command itself has said so. Who waits for neither of the latter, and sends
input at once, which start-up files may read, has one round trip less. A channel that is kept waits for its answers
alone. The first SFTP server of a connection is started once a command has shown that the login shell comes to it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import MSG_CHANNEL_CLOSE, MSG_CHANNEL_EOF, MSG_CHANNEL_WINDOW_ADJUST

from hpcgate.demo.sshd import Sshd
from hpcgate.ssh.session import Session
from tests.ssh.conftest import MakePool
from tests.ssh.nodes import LoginNodes, principal

UNCOUNTED = {MSG_CHANNEL_WINDOW_ADJUST, MSG_CHANNEL_EOF, MSG_CHANNEL_CLOSE}
"""Messages that nobody waits for: the flow of data, and the end."""


@dataclass
class Wire:
    """What channels have sent and received.

    Attributes:
        channels: The directions of each channel's messages, ``>`` and ``<``, in the order of the channels' opening.
        counted: How often each had sent something and then waited when the answer came, those that were used at all.
    """

    channels: dict[asyncssh.SSHClientChannel[bytes], str] = field(default_factory=dict)
    counted: list[int] = field(default_factory=list)

    def note(self, channel: asyncssh.SSHClientChannel[bytes], direction: str) -> None:
        self.channels[channel] = self.channels.get(channel, "") + direction

    def answered(self) -> None:
        flights = [len([part for part in text.split("<") if part]) for text in self.channels.values()]
        self.counted = [count for count in flights if count]

    def forget(self) -> None:
        """Count from here on."""
        self.channels = dict.fromkeys(self.channels, "")


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Have asyncssh, which tells each channel what it sends and receives, tell it to us."""
    wire = Wire()
    opened = asyncssh.channel.SSHChannel.process_open_confirmation

    def sent(channel: Any, kind: int, *_: object) -> None:
        if kind not in UNCOUNTED:
            wire.note(channel, ">")

    def received(channel: Any, kind: int, *_: object) -> None:
        if kind not in UNCOUNTED:
            wire.note(channel, "<")

    def confirmed(channel: Any, *args: Any) -> None:
        # The connection itself is told of this one.
        wire.note(channel, "<")
        opened(channel, *args)

    monkeypatch.setattr(asyncssh.channel.SSHChannel, "log_sent_packet", sent)
    monkeypatch.setattr(asyncssh.channel.SSHChannel, "log_received_packet", received)
    monkeypatch.setattr(asyncssh.channel.SSHChannel, "process_open_confirmation", confirmed)
    return wire


INPUT = b"echo hello\n"
Use = Callable[[Session, bytes, Callable[[], None]], Awaitable[None]]
"""Does something, and says when its answer has come."""


async def feed(session: Session, path: bytes, answered: Callable[[], None]) -> None:
    assert (await session.run(["sh"], stdin=INPUT)).stdout == b"hello\n"
    answered()


async def run(session: Session, path: bytes, answered: Callable[[], None]) -> None:
    assert (await session.run(["echo", "hello"])).stdout == b"hello\n"
    answered()


async def process(session: Session, path: bytes, answered: Callable[[], None]) -> None:
    async with session.process(["sh"], stall=60) as started:
        assert await started.feed_block(INPUT)
        assert await anext(started.output()) == b"hello\n"
        answered()


async def ask(session: Session, path: bytes, answered: Callable[[], None]) -> None:
    assert await session.ask(["cat"], b"hello") == b"hello"
    answered()


async def helped(session: Session, path: bytes, answered: Callable[[], None]) -> None:
    assert (await (await session.files()).stat(path)).size == len(INPUT)
    answered()


async def by_sftp(session: Session, path: bytes, answered: Callable[[], None]) -> None:
    assert await (await session.plain_files()).realpath(path) == path
    answered()


async def bare_command(ssh: asyncssh.SSHClientConnection, path: bytes, answered: Callable[[], None]) -> None:
    process = await ssh.create_process("sh", encoding=None)
    process.stdin.write(INPUT)
    assert await process.stdout.read(6) == b"hello\n"
    answered()
    process.close()
    await process.wait_closed()


async def bare_run(ssh: asyncssh.SSHClientConnection, path: bytes, answered: Callable[[], None]) -> None:
    assert (await ssh.run("echo hello", encoding=None)).stdout == b"hello\n"
    answered()


async def bare_sftp(ssh: asyncssh.SSHClientConnection, path: bytes, answered: Callable[[], None]) -> None:
    async with ssh.start_sftp_client() as client:
        assert await client.realpath(path) == path
        answered()


@asynccontextmanager
async def bare(node: Sshd, nodes: LoginNodes) -> AsyncIterator[asyncssh.SSHClientConnection]:
    key = nodes.keys().credentials[nodes.alice.name].private_key
    options: dict[str, Any] = {"username": nodes.alice.name, "client_keys": [key], "agent_path": None, "config": None}
    async with asyncssh.connect(node.host, node.port, known_hosts=None, **options) as ssh:
        yield ssh


@dataclass(frozen=True)
class Case:
    """A use of a connection.

    Attributes:
        use: What is done.
        yardstick: What does the like in asyncssh's own terms.
        files: The setting `ssh.files`.
        before: Channels that are opened before the one that is used, on a new connection.
        kept: Whether the channel is used again.
    """

    use: Use
    yardstick: Callable[[asyncssh.SSHClientConnection, bytes, Callable[[], None]], Awaitable[None]]
    files: str = "commands"
    before: int = 0
    kept: bool = False


CASES = {
    "a command with input": Case(feed, bare_command),
    "a command without input": Case(run, bare_run),
    "a command that is fed while it runs": Case(process, bare_command),
    "a process that is asked": Case(ask, bare_command, kept=True),
    "files by the helper": Case(helped, bare_command, files="auto", kept=True),
    "files by SFTP": Case(by_sftp, bare_sftp, files="sftp", before=1, kept=True),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_new_channel_waits_once_more_at_most_and_one_that_is_kept_never(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, wire: Wire, name: str
) -> None:
    case = CASES[name]
    file = Path(nodes.alice.home) / f"counted {os.getpid()}"
    file.write_bytes(INPUT)
    path = os.fsencode(file)
    try:
        async with bare(sshd, nodes) as ssh:
            await case.yardstick(ssh, path, wire.answered)
        (least,) = wire.counted
        wire.forget()
        pool = make_pool(sshd, files=case.files, max_sessions=10, start_up_timeout=60)
        async with pool.lease(principal(nodes.alice)) as session:
            await case.use(session, path, wire.answered)
            assert len(wire.counted) == case.before + 1
            assert all(count <= least for count in wire.counted), (wire.counted, least)
            wire.forget()
            await case.use(session, path, wire.answered)
            assert len(wire.counted) == 1
            assert wire.counted[0] <= (1 if case.kept else least), (wire.counted, least)
        await pool.close()
    finally:
        file.unlink()
