"""A login node whose sshd lies: it ends its own connections, holds nobody's memory and nobody else's time."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from asyncssh.packet import Boolean, Byte, String, UInt32
from asyncssh.public_key import SSHLocalKeyPair

from hpcgate.demo.sshd import Sshd
from hpcgate.errors import ConnectionLost, GatewayError, LoginNodeError, TimedOut
from hpcgate.ssh import unsent
from hpcgate.ssh.login import LOGIN_BYTES
from tests.ssh.conftest import MakePool
from tests.ssh.lying_server import Act, Liar, lying
from tests.ssh.nodes import LoginNodes, principal
from tests.ssh.test_liars import Told

MIB = 1024 * 1024
IGNORE = struct.pack(">IB", 12, 6) + b"\2\0\0\0\0" + bytes(6)
DEBUG = struct.pack(">IB", 20, 4) + b"\4\0" + String(b"hello") + String(b"") + bytes(4)


Message = tuple[int, bytes]
TRY_A_KEY: Message = (51, String(b"publickey") + Boolean(False))


def early(*messages: Message) -> Liar:
    """Return a server that says something of a login before it is its turn."""

    def say(connection: Any) -> None:
        for kind, payload in messages:
            connection.send_packet(kind, payload)

    return Liar(authenticating=say, asks=True)


def never_content(connection: Any) -> None:
    """Say of a key that it is fine, again and again, and never that this is all."""
    send = connection.send_packet

    def say(kind: int, *payload: bytes, **options: Any) -> None:
        for _ in range({60: 5000, 52: 0}.get(kind, 1)):
            send(kind, *payload, **options)

    connection.send_packet = say


LOGINS = {
    "a key is fine, again and again": Liar(authenticating=never_content, asks=True),
    "a key is fine that was not shown": early(TRY_A_KEY, (60, String(b"ssh-ed25519") + String(b""))),
    "a key that is none": early(TRY_A_KEY, (60, b"")),
    "a failure that is none": early((51, UInt32(99))),
    "failures without end": early(*[TRY_A_KEY] * 5000),
    "a success with more behind it": early((52, b"more")),
    "a success before its time, and then none": early((52, b""), TRY_A_KEY),
    "a banner that is no text": early((53, String(b"\xff") + String(b"\xff"))),
    "extensions without end": early((7, UInt32(0xFFFFFFFF))),
    "a channel that nobody opened": early((91, UInt32(1) * 4)),
    "another exchange of keys, which is none": early((20, bytes(16))),
    "numbers of its own to compute with": Liar(options={"kex_algs": ["diffie-hellman-group-exchange-sha256"]}),
}


async def test_a_login_takes_few_signatures(
    make_pool: MakePool, nodes: LoginNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes milliseconds of everybody's time with a long key."""
    signed = 0
    sign = SSHLocalKeyPair.sign

    def counted(self: SSHLocalKeyPair, data: bytes) -> bytes:
        nonlocal signed
        signed += 1
        return sign(self, data)

    monkeypatch.setattr(SSHLocalKeyPair, "sign", counted)
    async with lying(Liar(authenticating=never_content, asks=True)) as liar:
        with pytest.raises(LoginNodeError):
            async with make_pool(liar).lease(principal(nodes.alice)):
                pass
    # One more is the signature that the server makes with its host key.
    assert 2 <= signed <= 5


@pytest.mark.parametrize("lie", LOGINS)
async def test_a_lie_while_logging_in_is_a_typed_error(make_pool: MakePool, nodes: LoginNodes, lie: str) -> None:
    async with lying(LOGINS[lie]) as liar:
        pool = make_pool(liar)
        with pytest.raises(GatewayError) as caught:
            async with pool.lease(principal(nodes.alice)) as session:
                await session.run(["true"])
        assert caught.value.status in (403, 424, 503)
        assert "object has no" not in caught.value.message


@contextmanager
def flooding(packet: bytes) -> Iterator[tuple[Liar, list[int]]]:
    """Run a server that sends one packet for ever instead of keys; tell how many bytes it got rid of."""
    sent = [0]

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                    while True:
                        sent[0] += connection.send(packet * 4096)
                except OSError:
                    continue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        try:
            key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
            yield Liar(port=listener.getsockname()[1], host_public_key=key), sent
        finally:
            listener.shutdown(socket.SHUT_RDWR)
    server.join()


@pytest.mark.parametrize("packet", [IGNORE, DEBUG], ids=["ignore", "debug"])
async def test_a_flood_instead_of_a_login_is_cut_off(make_pool: MakePool, nodes: LoginNodes, packet: bytes) -> None:
    with flooding(packet) as (liar, sent):
        pool = make_pool(liar, timeout={"connection": 60})
        with pytest.raises(LoginNodeError, match="sends what nobody asked for"):
            async with pool.lease(principal(nodes.alice)):
                pass
    # What lay in the sockets' buffers is beside it.
    assert sent[0] < LOGIN_BYTES + 24 * MIB


CHANNELS = {
    "packets of one byte": {"max_pktsize": 1},
    "packets of a few bytes": {"max_pktsize": unsent.LEAST_PACKET - 1},
}


@pytest.mark.parametrize("lie", CHANNELS)
async def test_a_channel_for_crumbs_ends_the_connection(make_pool: MakePool, nodes: LoginNodes, lie: str) -> None:
    told = Told()
    async with lying(Liar(options=CHANNELS[lie])) as liar:
        pool = make_pool(liar, telemetry=told)
        async with pool.lease(principal(nodes.alice)) as session:
            with pytest.raises(ConnectionLost):
                await session.run(["cat"], stdin=b"content")
    assert told.sources == {"connection": 1}


def without_end(kind: int, payload: bytes) -> Act:
    """Send a message again and again from when a command begins, for as long as anybody is there."""
    begun: set[Any] = set()

    def begin(connection: Any) -> None:
        async def say() -> None:
            while not connection.is_closed():
                for _ in range(100):
                    connection.send_packet(kind, payload)
                await asyncio.sleep(0.001)

        if connection not in begun:
            begun.add(connection)
            connection.create_task(say())

    return begin


FLOODS: dict[str, tuple[int, bytes]] = {
    "nothing": (2, String(b"")),
    "much of nothing": (2, String(bytes(30_000))),
    "words": (4, Boolean(False) + String(b"hello") + String(b"")),
    "a message of no known kind": (200, b""),
    "a request without an answer": (80, String(b"nothing@example.org") + Boolean(False)),
    "a request": (80, String(b"nothing@example.org") + Boolean(True)),
    "host keys": (80, String(b"hostkeys-00@openssh.com") + Boolean(False)),
    "a channel to an agent": (90, String(b"auth-agent@openssh.com") + UInt32(7) * 3),
    "a channel to a port": (90, String(b"forwarded-tcpip") + UInt32(7) * 3 + (String(b"x") + UInt32(1)) * 2),
    "a banner": (53, String(b"Welcome") + String(b"")),
}
ANSWERED = ("a request", "a channel to an agent", "a channel to a port")


@pytest.mark.parametrize("flood", FLOODS)
async def test_what_nobody_asked_for_ends_a_connection_that_somebody_has(
    make_pool: MakePool, nodes: LoginNodes, flood: str
) -> None:
    told = Told()
    async with lying(Liar(begun=without_end(*FLOODS[flood]))) as liar:
        pool = make_pool(liar, telemetry=told)
        async with pool.lease(principal(nodes.alice)) as session:
            with suppress(GatewayError):
                await session.run(["echo", "hello"])
            async with asyncio.timeout(600):
                while session.connection.alive:
                    await asyncio.sleep(0.01)
    # To some of it asyncssh answers, which the other asyncssh takes for the end.
    assert told.sources["connection"] == (0 if flood in ANSWERED else 1)


async def test_keys_exchanged_again_and_again_end_the_connection(make_pool: MakePool, nodes: LoginNodes) -> None:
    begun: set[Any] = set()

    def begin(connection: Any) -> None:
        async def exchange() -> None:
            while not connection.is_closed():
                if connection._kex is None and not connection._kexinit_sent:
                    connection._send_kexinit()
                    connection._kexinit_sent = True
                await asyncio.sleep(0.001)

        if connection not in begun:
            begun.add(connection)
            connection.create_task(exchange())

    async with lying(Liar(begun=begin)) as liar, make_pool(liar).lease(principal(nodes.alice)) as session:
        with suppress(GatewayError):
            await session.run(["echo", "hello"])
        async with asyncio.timeout(600):
            while session.connection.alive:
                await asyncio.sleep(0.01)


async def test_keys_exchanged_for_each_four_megabytes_are_fine(make_pool: MakePool, nodes: LoginNodes) -> None:
    """And so is an asyncssh server, which sends something to be ignored beside each message."""
    async with lying(Liar(options={"rekey_bytes": 4 * MIB})) as liar:
        pool = make_pool(liar, max_output_size=64 * MIB)
        async with pool.lease(principal(nodes.alice)) as session:
            done = await session.run(["head", "-c", str(40 * MIB), "/dev/zero"])
            assert len(done.stdout) == 40 * MIB
            for _ in range(100):
                assert (await session.run(["echo", "hello"])).ok


async def test_a_channel_that_is_just_large_enough_works(make_pool: MakePool, nodes: LoginNodes) -> None:
    async with lying(Liar(options={"max_pktsize": unsent.LEAST_PACKET})) as liar:
        pool = make_pool(liar)
        async with pool.lease(principal(nodes.alice)) as session:
            done = await session.run(["wc", "-c"], stdin=bytes(100_000))
            assert done.stdout.strip() == b"100000"


async def test_an_answer_about_a_channel_that_makes_no_sense_ends_the_connection(
    make_pool: MakePool, nodes: LoginNodes
) -> None:
    def confuse(connection: Any) -> None:
        confirm = connection.send_channel_open_confirmation
        connection.send_channel_open_confirmation = lambda *numbers: confirm(*numbers, b"more")

    told = Told()
    async with lying(Liar(connected=confuse)) as liar:
        pool = make_pool(liar, telemetry=told)
        async with pool.lease(principal(nodes.alice)) as session:
            with pytest.raises(ConnectionLost):
                await session.run(["true"])
    assert told.sources == {"connection": 1}


async def test_who_grants_gigabytes_and_reads_nothing_is_sent_little(make_pool: MakePool, nodes: LoginNodes) -> None:
    taken = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(64):
            taken += MIB
            yield bytes(MIB)

    def turn_away(connection: Any) -> None:
        connection._transport.pause_reading()

    async with lying(Liar(begun=turn_away, options={"window": 2**31 - 1})) as liar:
        pool = make_pool(liar, timeout={"command_execution": 2})
        async with pool.lease(principal(nodes.alice)) as session:
            with pytest.raises((TimedOut, ConnectionLost)):
                await session.run(["cat"], stdin=content())
    # Most of it is in the sockets' buffers.
    assert taken < 32 * MIB


async def test_who_reads_again_gets_all_of_it(make_pool: MakePool, nodes: LoginNodes) -> None:
    size = 24 * MIB

    async def content() -> AsyncIterator[bytes]:
        for _ in range(size // MIB):
            yield bytes(MIB)

    async def look_away_for_a_while(connection: Any) -> None:
        connection._transport.pause_reading()
        await asyncio.sleep(0.2)
        connection._transport.resume_reading()

    pauses: list[asyncio.Task[None]] = []

    def begun(connection: Any) -> None:
        if not pauses:
            pauses.append(asyncio.create_task(look_away_for_a_while(connection)))

    async with lying(Liar(begun=begun, options={"window": 2**31 - 1})) as liar:
        pool = make_pool(liar)
        async with pool.lease(principal(nodes.alice)) as session:
            done = await session.run(["wc", "-c"], stdin=content())
            assert int(done.stdout) == size
    await pauses[0]


class Connection:
    """Stands in for asyncssh's."""

    def __init__(self) -> None:
        self._transport: Any = self
        self.waiting = 0
        self.packets = 0

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def send_packet(self, kind: int, *args: bytes) -> None:
        self.packets += 1

    def add_channel(self, channel: Any) -> int:
        return 1


def test_answers_that_nobody_takes_end_the_connection() -> None:
    ssh: Any = Connection()
    flooded: list[bool] = []
    unsent.Unsent(ssh, lambda: flooded.append(True))
    ssh.send_packet(2)
    assert not ssh.packets, "messages to ignore are not sent"
    ssh.waiting = unsent.MAX_UNSENT
    ssh.pause_writing()
    ssh.send_packet(81)
    assert not flooded
    ssh.waiting += 1
    ssh.send_packet(81)
    assert flooded == [True]


async def test_a_jump_host_that_sends_what_nobody_asked_for_is_left(
    make_pool: MakePool, nodes: LoginNodes, sshd: Sshd
) -> None:
    told = Told()
    async with lying(Liar()) as jump:
        pool = make_pool(
            sshd,
            telemetry=told,
            proxy_host=jump.host,
            proxy_port=jump.port,
            proxy_host_keys=(jump.host_public_key,),
        )
        async with pool.lease(principal(nodes.alice)) as session:
            assert (await session.run(["true"])).ok
        (connection,) = jump.connections
        async with asyncio.timeout(300):
            while pool.stats.connections:
                for _ in range(16):
                    connection.send_packet(4, Byte(0), String(bytes(30_000)), String(b""))
                await asyncio.sleep(0)
    assert told.sources == {"connection": 1}
