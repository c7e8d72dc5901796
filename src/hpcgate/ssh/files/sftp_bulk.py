"""SFTP version 3 (draft-ietf-secsh-filexfer-02) for megabytes: open, read, write, sync, close.

asyncssh's own client copies each block several times and spends a task on each. This one is nothing but the few
requests that move bytes, over a channel of its own; everything else is asked of asyncssh's client.
"""

import asyncio
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import asyncssh

from hpcgate.ssh.channels import Slot
from hpcgate.ssh.commands.command import MAX_NOISE
from hpcgate.ssh.files.sftp_status import failed

_INIT, _VERSION = 1, 2
_OPEN, _CLOSE, _READ, _WRITE, _FSTAT, _FSETSTAT = 3, 4, 5, 6, 8, 10
_STATUS, _HANDLE, _DATA, _ATTRS = 101, 102, 103, 105
_EXTENDED, _EXTENDED_REPLY = 200, 201
_ATTR_SIZE, _ATTR_OWNERS, _ATTR_PERMISSIONS, _ATTR_TIMES = 1, 2, 4, 8
_ATTR_SIZES = ((_ATTR_SIZE, 8), (_ATTR_OWNERS, 8), (_ATTR_PERMISSIONS, 4), (_ATTR_TIMES, 8))

_DEFAULT_BLOCK = 32768
"""Bytes of a READ or WRITE that every server takes."""
MAX_BLOCK = 256 * 1024
"""Bytes of a READ or WRITE at most, whatever the server takes."""
_MAX_MESSAGE = 256 * 1024
"""Bytes of an answer that is not a file's content."""
_PACKET = 32768
"""Bytes that go into one SSH packet: what OpenSSH takes at a time."""
_HEAD = struct.Struct(">IBI")


def fair_block(told: int) -> int:
    """Return the bytes of a READ or WRITE for a server that says it takes so many; each takes 32 KiB at least."""
    return max(_DEFAULT_BLOCK, min(told, MAX_BLOCK))


@dataclass(frozen=True, slots=True)
class FileState:
    """What FSTAT says of an open file that matters here: bytes, and Unix seconds."""

    size: int
    mtime: int
    uid: int
    gid: int


class _Request:
    """One request under way.

    Attributes:
        answer: The kind and the payload of the answer; of a READ, its content.
        most: Bytes of content asked for.
    """

    __slots__ = ("answer", "most", "pieces")

    def __init__(self, most: int) -> None:
        self.most = most
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self.pieces: list[bytes] = []


class BulkSftp(asyncssh.SSHClientSession[bytes]):
    """The client's end of one ``sftp`` subsystem.

    Args:
        slot: The channel's place.
        refused: Is told why the channel was closed, if it was for what the server said.
    """

    def __init__(self, slot: Slot, refused: Callable[[str], None]) -> None:
        self.read_block = self.write_block = _DEFAULT_BLOCK
        self.closed = False
        self.slot = slot
        self._refused = refused
        self._aside = 0
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._requests: dict[int, _Request] = {}
        self._next = 0
        self._version: asyncio.Future[dict[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._extensions: dict[bytes, bytes] = {}
        self._message = bytearray()
        self._wanted = 5
        self._reading: _Request | None = None
        self._left = 0
        self._writable = asyncio.Event()
        self._writable.set()

    # asyncssh's callbacks

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """The login node opened the channel."""
        self._channel = chan
        self.slot.opened()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Take answers apart; the content of files is not copied."""
        if datatype is not None:
            self._aside += len(data)
            if self._aside > MAX_NOISE:
                self._give_up()
            return
        position, end = 0, len(data)
        while position < end:
            if self._reading is not None:
                taken = min(self._left, end - position)
                piece = data if taken == end else data[position : position + taken]
                self._reading.pieces.append(piece)
                self._left -= taken
                position += taken
                if not self._left:
                    self._finish_reading()
                continue
            message = self._message
            taken = min(self._wanted - len(message), end - position)
            message += data[position : position + taken]
            position += taken
            if len(message) == self._wanted and not self._advance():
                return

    def _advance(self) -> bool:
        """Go on with an answer of which as much has come as was wanted; False if it is none."""
        message = self._message
        length, kind = int.from_bytes(message[:4], "big"), message[4]
        if len(message) == 5:
            if kind == _DATA:
                self._wanted = 13
            elif 1 <= length <= _MAX_MESSAGE:
                self._wanted = 4 + length
            else:
                return self._give_up()
            return self._wanted > 5 or self._give_up()
        if kind == _DATA:
            size = int.from_bytes(message[9:13], "big")
            reader = self._requests.get(int.from_bytes(message[5:9], "big"))
            if reader is None or length != size + 9 or size > reader.most:
                return self._give_up()
            del self._requests[int.from_bytes(message[5:9], "big")]
            self._reading, self._left = reader, size
            self._start_over()
            if not size:
                self._finish_reading()
            return True
        payload = bytes(message[5:])
        self._start_over()
        if kind == _VERSION:
            if self._version.done():
                return self._give_up()
            self._version.set_result(_extensions(payload[4:]))
            return True
        request = self._requests.pop(int.from_bytes(payload[:4], "big"), None)
        if request is None:
            return self._give_up()
        if not request.answer.done():
            request.answer.set_result((kind, payload[4:]))
        return True

    def _start_over(self) -> None:
        self._message.clear()
        self._wanted = 5

    def _finish_reading(self) -> None:
        request, self._reading = self._reading, None
        if request is not None and not request.answer.done():
            pieces = request.pieces
            request.answer.set_result((_DATA, pieces[0] if len(pieces) == 1 else b"".join(pieces)))

    def _give_up(self) -> bool:
        self._fail(lambda: asyncssh.SFTPBadMessage("The SFTP server's answer makes no sense"))
        self.refuse()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel has closed, or the whole connection."""
        self.closed = True
        self.slot.release()
        self._writable.set()
        self._fail(lambda: asyncssh.SFTPConnectionLost("The SFTP server has gone"))

    def pause_writing(self) -> None:
        """The server does not read as fast as it is written to."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The server reads again."""
        self._writable.set()

    # Requests

    @property
    def usable(self) -> bool:
        """Whether requests can be sent."""
        return not self.closed and self._channel is not None and not self._channel.is_closing()

    def refuse(self) -> None:
        """Close the channel of a server whose answers make no sense."""
        if self.usable:
            self._refused("the SFTP server's answer makes no sense")
        self.close()

    def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            self._channel.close()

    async def start(self) -> None:
        """Agree on the version and the largest blocks."""
        self._write(struct.pack(">IBI", 5, _INIT, 3))
        self._extensions = await self._version
        if b"limits@openssh.com" not in self._extensions:
            return
        kind, payload = await self._ask(_EXTENDED, _string(b"limits@openssh.com"))
        if kind == _EXTENDED_REPLY and len(payload) >= 24:
            _, read, write = struct.unpack(">QQQ", payload[:24])
            self.read_block, self.write_block = fair_block(read), fair_block(write)

    async def open(self, path: bytes, flags: int, mode: int | None = None) -> bytes:
        """Open a file and return its handle (`asyncssh.FXF_READ` and so on); a new one gets `mode` less the umask."""
        attributes = struct.pack(">I", 0) if mode is None else struct.pack(">II", _ATTR_PERMISSIONS, mode)
        payload = await self._answer(_HANDLE, _OPEN, _string(path), struct.pack(">I", flags), attributes)
        return payload[4:]

    async def close_file(self, handle: bytes) -> None:
        """Close a file."""
        await self._answer(_STATUS, _CLOSE, _string(handle))

    def close_unheard(self, handle: bytes) -> None:
        """Have a file closed, whatever comes of it."""
        self._send(_CLOSE, _string(handle))

    async def stat_file(self, handle: bytes) -> FileState:
        """Return what is known of an open file."""
        payload = await self._answer(_ATTRS, _FSTAT, _string(handle))
        flags, position = int.from_bytes(payload[:4], "big"), 4
        if len(payload) < 4 + sum(size for flag, size in _ATTR_SIZES if flags & flag):
            raise asyncssh.SFTPBadMessage("The SFTP server's attributes are too short")
        size = mtime = uid = gid = 0
        if flags & _ATTR_SIZE:
            size = int.from_bytes(payload[position : position + 8], "big")
            position += 8
        if flags & _ATTR_OWNERS:
            uid, gid = struct.unpack_from(">II", payload, position)
            position += 8
        position += 4 if flags & _ATTR_PERMISSIONS else 0
        if flags & _ATTR_TIMES:
            mtime = int.from_bytes(payload[position + 4 : position + 8], "big")
        return FileState(size, mtime, uid, gid)

    async def resize_file(self, handle: bytes, size: int) -> None:
        """Cut an open file to a size."""
        await self._answer(_STATUS, _FSETSTAT, _string(handle), struct.pack(">IQ", _ATTR_SIZE, size))

    async def set_mode(self, handle: bytes, mode: int) -> None:
        """Set the permission bits of an open file."""
        await self._answer(_STATUS, _FSETSTAT, _string(handle), struct.pack(">II", _ATTR_PERMISSIONS, mode))

    async def set_owners(self, handle: bytes, uid: int, gid: int) -> None:
        """Set the owner and the group of an open file; users can set groups that they are in, and no owner."""
        await self._answer(_STATUS, _FSETSTAT, _string(handle), struct.pack(">III", _ATTR_OWNERS, uid, gid))

    async def sync_file(self, handle: bytes) -> None:
        """Have an open file on disk (fsync@openssh.com).

        Raises:
            asyncssh.SFTPOpUnsupported: The server does not know how.
        """
        if b"fsync@openssh.com" not in self._extensions:
            raise asyncssh.SFTPOpUnsupported("The SFTP server has no fsync")
        await self._answer(_STATUS, _EXTENDED, _string(b"fsync@openssh.com"), _string(handle))

    def read(self, handle: bytes, offset: int, size: int) -> "asyncio.Future[tuple[int, bytes]]":
        """Ask for a part of a file; see `content`."""
        return self._send(_READ, _string(handle), struct.pack(">QI", offset, size), most=size)

    def write(self, handle: bytes, offset: int, data: bytes | memoryview) -> "asyncio.Future[tuple[int, bytes]]":
        """Send a part of a file, at most `write_block` bytes; see `written`."""
        size = len(data)
        head = _string(handle) + struct.pack(">QI", offset, size)
        request = self._begin()
        view = memoryview(data)
        first = max(0, _PACKET - _HEAD.size - len(head))
        self._write(_HEAD.pack(5 + len(head) + size, _WRITE, self._next) + head + view[:first])
        for start in range(first, size, _PACKET):
            self._write(view[start : start + _PACKET])
        return request.answer

    async def room(self) -> None:
        """Wait until the server keeps up with what was sent."""
        if not self._writable.is_set():
            await self._writable.wait()

    @staticmethod
    def content(answer: tuple[int, bytes]) -> bytes:
        """Return what a `read` has brought, nothing at the end of the file."""
        kind, payload = answer
        if kind == _DATA:
            return payload
        with suppress(asyncssh.SFTPEOFError):
            _expect(_DATA, kind, payload)
        return b""

    @staticmethod
    def written(answer: tuple[int, bytes]) -> None:
        """Raise what a `write` has failed with."""
        _expect(_STATUS, *answer)

    async def _answer(self, wanted: int, kind: int, *parts: bytes) -> bytes:
        found, payload = await self._ask(kind, *parts)
        _expect(wanted, found, payload)
        return payload

    async def _ask(self, kind: int, *parts: bytes) -> tuple[int, bytes]:
        return await self._send(kind, *parts)

    def _begin(self, most: int = 0) -> _Request:
        if not self.usable:
            raise asyncssh.SFTPConnectionLost("The SFTP server has gone")
        self._next = (self._next + 1) & 0xFFFFFFFF
        request = self._requests[self._next] = _Request(most)
        return request

    def _send(self, kind: int, *parts: bytes, most: int = 0) -> "asyncio.Future[tuple[int, bytes]]":
        request = self._begin(most)
        body = b"".join(parts)
        self._write(_HEAD.pack(5 + len(body), kind, self._next) + body)
        return request.answer

    def _write(self, data: bytes | memoryview) -> None:
        if self._channel is not None and not self._channel.is_closing():
            with suppress(OSError):  # it is closing: `connection_lost` comes next
                self._channel.write(cast(bytes, data))

    def _fail(self, error: Callable[[], asyncssh.SFTPError]) -> None:
        requests, self._requests = self._requests, {}
        waiting: list[asyncio.Future[Any]] = [request.answer for request in requests.values()]
        if self._reading is not None:
            waiting.append(self._reading.answer)
            self._reading = None
        for answer in (*waiting, self._version):
            if not answer.done():
                answer.set_exception(error())
                answer.exception()  # nobody may be waiting any more


def _string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def _extensions(payload: bytes) -> dict[bytes, bytes]:
    words: list[bytes] = []
    position = 0
    while position + 4 <= len(payload):
        length = int.from_bytes(payload[position : position + 4], "big")
        words.append(payload[position + 4 : position + 4 + length])
        position += 4 + length
    return dict(zip(words[::2], words[1::2], strict=False))


def _expect(wanted: int, kind: int, payload: bytes) -> None:
    if kind == _STATUS and len(payload) >= 4:
        code = int.from_bytes(payload[:4], "big")
        if code == 0 and wanted == _STATUS:
            return
        length = int.from_bytes(payload[4:8], "big")
        words = payload[8 : 8 + length].decode("utf-8", "replace")
        raise failed(code, words)
    if kind != wanted:
        raise asyncssh.SFTPBadMessage(f"The SFTP server answered {kind} instead of {wanted}")
