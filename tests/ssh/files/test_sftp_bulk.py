"""The client for megabytes, against a server that answers as it likes."""

import asyncio
import struct
from typing import Any, cast

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.ssh.channels import Channels
from hpcgate.ssh.files.sftp_bulk import BulkSftp, fair_block

STATUS, HANDLE, DATA, ATTRS, EXTENDED_REPLY = 101, 102, 103, 105, 201
LIMITS = b"limits@openssh.com"


class Channel:
    """What asyncssh gives a session to write to."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.closed = False

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.sent += data

    def is_closing(self) -> bool:
        """Tell whether it was closed."""
        return self.closed

    def close(self) -> None:
        """Close it."""
        self.closed = True

    def requests(self) -> list[tuple[int, int, bytes]]:
        """Return kind, id and payload of each request so far."""
        found, position = [], 0
        while position < len(self.sent):
            length, kind, number = struct.unpack_from(">IBI", self.sent, position)
            found.append((kind, number, bytes(self.sent[position + 9 : position + 4 + length])))
            position += 4 + length
        return found


async def client(extensions: bytes = b"") -> tuple[BulkSftp, Channel]:
    """Return a client that has agreed with its server."""
    channels = Channels(None, lambda: None)
    made, channel = BulkSftp(await channels.acquire(), lambda _: None), Channel()
    made.connection_made(cast(Any, channel))
    starting = asyncio.create_task(made.start())
    await asyncio.sleep(0)
    assert channel.sent == struct.pack(">IBI", 5, 1, 3)
    channel.sent.clear()
    made.data_received(message(2, struct.pack(">I", 3) + extensions), None)
    if LIMITS in extensions:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ((_, number, _),) = channel.requests()
        limits = struct.pack(">QQQQ", 300_000, 261_120, 1 << 40, 0)
        made.data_received(message(EXTENDED_REPLY, struct.pack(">I", number) + limits), None)
        channel.sent.clear()
    await starting
    return made, channel


def message(kind: int, payload: bytes) -> bytes:
    """Return one answer as it goes over the wire."""
    return struct.pack(">IB", len(payload) + 1, kind) + payload


def string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def data(number: int, content: bytes) -> bytes:
    return message(DATA, struct.pack(">I", number) + string(content))


def status(number: int, code: int, words: bytes = b"words") -> bytes:
    return message(STATUS, struct.pack(">II", number, code) + string(words) + string(b"en"))


async def test_blocks_are_as_large_as_both_sides_take() -> None:
    made, _ = await client()
    assert (made.read_block, made.write_block) == (32768, 32768)
    made, _ = await client(string(LIMITS) + string(b"1"))
    assert (made.read_block, made.write_block) == (261_120, 256 * 1024)


@pytest.mark.parametrize(
    ("told", "taken"), [(0, 32768), (1, 32768), (32768, 32768), (100_000, 100_000), (1 << 63, 256 * 1024)]
)
def test_no_server_has_a_file_go_byte_by_byte(told: int, taken: int) -> None:
    assert fair_block(told) == taken


@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=6), st.lists(st.integers(1, 60), max_size=80), st.randoms()
)
async def test_answers_in_any_pieces_and_any_order(contents: list[bytes], cuts: list[int], random: Any) -> None:
    made, channel = await client()
    asked = [made.read(b"handle", number, len(content)) for number, content in enumerate(contents)]
    answers = [data(number, content) for (_, number, _), content in zip(channel.requests(), contents, strict=True)]
    random.shuffle(answers)
    stream, position = b"".join(answers), 0
    for size in [*cuts, len(stream)]:
        made.data_received(stream[position : position + size], None)
        position += size
    assert [made.content(one.result()) for one in asked] == contents
    assert not made._requests
    assert made.usable


async def test_a_write_goes_out_whole_whatever_its_size() -> None:
    made, channel = await client()
    for size in (0, 1, 32768, 100_000):
        channel.sent.clear()
        content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        answer = made.write(b"handle", 7, memoryview(content))
        ((kind, number, payload),) = channel.requests()
        assert (kind, payload) == (6, string(b"handle") + struct.pack(">Q", 7) + string(content))
        made.data_received(status(number, 0), None)
        made.written(await answer)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (2, asyncssh.SFTPNoSuchFile),
        (3, asyncssh.SFTPPermissionDenied),
        (4, asyncssh.SFTPFailure),
        (8, asyncssh.SFTPOpUnsupported),
        (99, asyncssh.SFTPFailure),
    ],
)
async def test_errors_of_the_server(code: int, error: type[asyncssh.SFTPError]) -> None:
    made, channel = await client()
    opening = asyncio.create_task(made.open(b"/file", asyncssh.FXF_READ))
    await asyncio.sleep(0)
    made.data_received(status(channel.requests()[0][1], code, b"No, because"), None)
    with pytest.raises(error, match="No, because"):
        await opening
    assert made.usable


async def test_the_end_of_a_file_is_no_content() -> None:
    made, channel = await client()
    asked = made.read(b"handle", 0, 10)
    made.data_received(status(channel.requests()[0][1], 1), None)
    assert made.content(await asked) == b""


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(data(77, b"content"), id="data-nobody-asked-for"),
        pytest.param(status(77, 0), id="a-status-nobody-asked-for"),
        pytest.param(struct.pack(">IB", 1 << 31, STATUS), id="a-huge-status"),
        pytest.param(struct.pack(">IB", 0, STATUS), id="an-empty-message"),
        pytest.param(struct.pack(">IBII", 100, DATA, 1, 50), id="data-of-two-lengths"),
        pytest.param(struct.pack(">IBII", 9, DATA, 1, 0xFFFFFFFF), id="data-longer-than-its-message"),
        pytest.param(data(1, bytes(11)), id="more-data-than-asked-for"),
        pytest.param(struct.pack(">IBII", 9 + (1 << 31), DATA, 1, 1 << 31), id="data-without-end"),
        pytest.param(message(2, struct.pack(">I", 3)), id="a-second-version"),
    ],
)
async def test_an_answer_that_makes_no_sense_ends_the_channel(answer: bytes) -> None:
    made, channel = await client()
    asked = made.read(b"handle", 0, 10)
    made.data_received(answer, None)
    with pytest.raises(asyncssh.SFTPBadMessage):
        await asked
    assert channel.closed
    with pytest.raises(asyncssh.SFTPConnectionLost):
        made.read(b"handle", 0, 10)


@pytest.mark.parametrize("kind", [HANDLE, ATTRS, STATUS])
async def test_an_answer_of_the_wrong_kind_or_cut_short(kind: int) -> None:
    made, channel = await client()
    asked = made.read(b"handle", 0, 10)
    made.data_received(message(kind, struct.pack(">I", channel.requests()[0][1])), None)
    with pytest.raises(asyncssh.SFTPBadMessage):
        made.content(await asked)


async def test_attributes_cut_short() -> None:
    """Attributes that are cut short are an error of the protocol."""
    made, channel = await client()
    asked = asyncio.create_task(made.stat_file(b"handle"))
    await asyncio.sleep(0)
    number = channel.requests()[0][1]
    made.data_received(message(ATTRS, struct.pack(">II", number, 0b1111) + bytes(20)), None)
    with pytest.raises(asyncssh.SFTPBadMessage):
        await asked


async def test_a_server_that_goes_away() -> None:
    made, channel = await client()
    first, second = made.read(b"handle", 0, 10), made.write(b"handle", 0, b"content")
    # In the middle of an answer.
    made.data_received(data(channel.requests()[0][1], b"0123456789")[:-3], None)
    made.connection_lost(None)
    for one in (first, second):
        with pytest.raises(asyncssh.SFTPConnectionLost):
            await one
    assert not made.usable
    await made.room()  # nobody waits for room any more


async def test_what_nobody_waits_for_any_more_is_passed_over() -> None:
    made, channel = await client()
    left, wanted = made.read(b"handle", 0, 3), made.read(b"handle", 3, 3)
    left.cancel()
    numbers = [number for _, number, _ in channel.requests()]
    made.data_received(data(numbers[0], b"abc") + data(numbers[1], b"def"), None)
    assert made.content(await wanted) == b"def"
    assert not made._requests


async def test_room_is_waited_for() -> None:
    made, _ = await client()
    made.pause_writing()
    waiting = asyncio.create_task(made.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    made.resume_writing()
    await waiting


@given(st.lists(st.binary(max_size=40), max_size=10))
async def test_any_bytes_are_survived(pieces: list[bytes]) -> None:
    made, channel = await client()
    asked = [made.read(b"handle", 0, 10) for _ in range(3)]
    for piece in pieces:
        made.data_received(piece, None)
        if channel.closed:
            break
    made.connection_lost(None)
    assert all(one.done() for one in asked)
    for one in asked:
        one.exception()
