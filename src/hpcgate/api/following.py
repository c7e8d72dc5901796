"""A file that is followed, as it is sent: events with text, of whole UTF-8 sequences, or bytes."""

import asyncio
import codecs
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

from hpcgate.api.responses import json_of
from hpcgate.api.server_sent_events import Event, resumed_after
from hpcgate.errors import BadRequest, GatewayError, RangeNotSatisfiable
from hpcgate.filesystem.following.follower import Degraded, Follower, Truncated, Waiting
from hpcgate.filesystem.following.follower import Event as Change
from hpcgate.filesystem.following.view import BEFORE, MAX_OFFSET, Mark, Output
from hpcgate.gateway.streams import Stream

MAX_TEXT = 64 * 1024
"""Most bytes of a file that one event tells."""


class Transcript:
    """Makes events of what becomes of a file. A sequence of UTF-8 that has not come to its end waits for it.

    Args:
        aligned: Whether the first byte begins a sequence; else what does not begin one there is left out.
        more: What each event tells besides.

    Attributes:
        offset: The next byte that no event has told.
    """

    def __init__(self, *, aligned: bool = True, more: Mapping[str, str] | None = None) -> None:
        self.offset: int | None = None
        self._aligned = aligned
        self._more = more or {}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._untold = self._before = b""
        self._inode = 0

    def take(self, change: Change) -> Iterator[Event]:
        """Yield the events that tell of a change, each with the position behind it."""
        match change:
            case Output():
                yield from self._output(change)
            case Truncated():
                yield from self.finish()
                self.offset, self._before, self._aligned = 0, b"", True
                yield self._event("truncated", {"offset": 0})
            case Waiting():
                yield self._event("waiting", {"message": "The file is not there, or not yet"})
            case Degraded():
                yield self._event("system.degraded", {"message": change.message})

    def finish(self) -> Iterator[Event]:
        """Yield what is left: the beginning of a sequence that has no end."""
        if self._untold:
            yield self._text(self._decoder.decode(b"", final=True), self._untold)
            self._untold = b""
        self._decoder.reset()

    def _output(self, output: Output) -> Iterator[Event]:
        content = output.content
        if self.offset is None:
            self.offset = output.offset
        if not self._aligned:
            # No more than belong to one sequence: what is not UTF-8 at all is shown as such.
            inner = len(content[:_MAX_INNER]) - len(content[:_MAX_INNER].lstrip(_INNER))
            content, self._aligned = content[inner:], True
            self.offset += inner
        self._inode = output.inode
        for start in range(0, len(content), MAX_TEXT):
            block = content[start : start + MAX_TEXT]
            text = self._decoder.decode(block)
            seen = self._untold + block
            left = len(self._decoder.getstate()[0])
            told, self._untold = seen[: len(seen) - left], seen[len(seen) - left :]
            if text:
                yield self._text(text, told)

    def _text(self, text: str, told: bytes) -> Event:
        offset = self.offset or 0
        self.offset = offset + len(told)
        self._before = (self._before + told)[-BEFORE:]
        mark = str(Mark.of(self._inode, self._before))
        return self._event("output", {"offset": offset, "text": text, "mark": mark})

    def _event(self, name: str, data: Mapping[str, object]) -> Event:
        position = None if self.offset is None else str(self.offset)
        return Event(name, json_of({**self._more, **data}), id=position)


_INNER = bytes(range(0x80, 0xC0))
"""Bytes that begin no sequence."""
_MAX_INNER = 3


async def events(follower: Follower, transcript: Transcript) -> AsyncGenerator[Event]:
    """Yield the events of a file that is followed.

    Raises:
        GatewayError: It cannot be followed any more.
    """
    async with aclosing(follower.events()) as changes:
        async for change in changes:
            for event in transcript.take(change):
                yield event
    for event in transcript.finish():
        yield event


def failure(error: GatewayError) -> Event:
    """Return the last event of a stream that cannot go on."""
    return Event("failed", json_of({"status": error.status, "message": error.message}))


async def octets(follower: Follower) -> AsyncGenerator[bytes]:
    """Yield the bytes of a file that is followed, until it becomes another one.

    Raises:
        GatewayError: It cannot be followed any more.
    """
    async with aclosing(follower.events()) as changes:
        async for change in changes:
            if isinstance(change, Truncated):
                return
            if isinstance(change, Output):
                yield change.content


def refuse_displaced(*followers: Follower) -> None:
    """Return if all begin within their files: bytes cannot tell of a file that has become another one.

    Raises:
        RangeNotSatisfiable: One does not.
    """
    if any(follower.displaced for follower in followers):
        raise RangeNotSatisfiable("The file is shorter than offset, or another one: begin anew")


async def until_closing(content: AsyncGenerator[bytes], stream: Stream) -> AsyncIterator[bytes]:
    """Yield the content of an answer until there is no more or the stream is to close."""
    closing = asyncio.ensure_future(stream.closing.wait())
    coming: asyncio.Future[bytes | None] | None = None
    try:
        # The head goes out with it, so that a client knows at once that it is heard.
        yield b""
        while True:
            coming = asyncio.ensure_future(_next(content))
            await asyncio.wait((coming, closing), return_when=asyncio.FIRST_COMPLETED)
            if stream.reason:
                return
            block = coming.result()
            if block is None:
                return
            yield block
    finally:
        waiting: list[asyncio.Future[Any]] = [one for one in (coming, closing) if one is not None]
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await content.aclose()


async def _next(content: AsyncIterator[bytes]) -> bytes | None:
    return await anext(content, None)


def resumed_at(headers: Mapping[str, str]) -> tuple[int, ...] | None:
    """Return where a client goes on that has lost its connection, None if it begins: an offset for each file.

    Raises:
        BadRequest: It sends what no event had for its id.
    """
    text = resumed_after(headers, None)
    if text is None:
        return None
    if not _POSITION.fullmatch(text) or max(found := tuple(map(int, text.split(",")))) > MAX_OFFSET:
        raise BadRequest("Last-Event-ID is not the offset of a byte")
    return found


_POSITION = re.compile(r"[0-9]{1,19}(?:,[0-9]{1,19})?")
