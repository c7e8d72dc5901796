"""One who follows a file: where it has come to, and what it is told."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass

from hpcgate.auth import Principal
from hpcgate.errors import GatewayError, PathNotFound
from hpcgate.filesystem.base import Limits
from hpcgate.filesystem.excerpt import Excerpt
from hpcgate.filesystem.following.reader import Reader
from hpcgate.filesystem.following.view import Mark, Output
from hpcgate.ssh.errors import fresh_copy
from hpcgate.ssh.session import Session


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin.

    Attributes:
        offset: The first byte wanted, or so many before the end if negative.
        lines: As many of the last lines instead.
        mark: What was before `offset`.
    """

    offset: int = 0
    lines: int | None = None
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Truncated:
    """The file is shorter than before, or another one: what comes next is from its beginning."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The file is not there, or not yet."""


@dataclass(frozen=True, slots=True)
class Degraded:
    """The login node cannot be asked at the moment; it goes on by itself."""

    message: str


Event = Output | Truncated | Waiting | Degraded


class Follower:
    """One who follows a file.

    Args:
        principal: Who.
        reader: Who looks at it.
        rate: The most bytes a second.

    Attributes:
        offset: The next byte wanted.
    """

    def __init__(self, principal: Principal, reader: Reader, rate: float) -> None:
        self.principal = principal
        self.offset = 0
        self._reader = reader
        self._rate = rate
        self._generation = 0
        self._free_at = 0.0
        self._finishing = False

    def __repr__(self) -> str:
        return f"<Follower of {self._reader.path!r} at {self.offset}>"

    async def begin(self, start: Start, limits: Limits) -> None:
        """Find where to begin.

        Raises:
            GatewayError: The file cannot be followed; that it is not there is no error.
            TooLarge: The lines wanted begin further before the end than may be read.
        """
        reader = self._reader
        await reader.refresh()
        self._generation = reader.view.generation
        if reader.view.missing:
            self.offset = max(0, start.offset)
        elif start.lines is not None:
            self.offset = await self._start_of_lines(start.lines, limits)
        elif start.offset < 0:
            self.offset = max(0, reader.view.end + start.offset)
        else:
            self.offset = start.offset
            if start.mark is not None and not await self._fits(start.mark):
                self._generation = -1
        if self.offset > reader.view.end:
            # It may have grown since.
            await reader.refresh()

    def finish(self) -> None:
        """Have `events` end once it has come to where the file ends from now on."""
        if not self._finishing:
            self._finishing = True
            self._reader.tell()

    async def events(self) -> AsyncGenerator[Event]:
        """Yield what is in the file and what becomes of it, until `finish`.

        Raises:
            GatewayError: It cannot be followed any more.
        """
        reader, view = self._reader, self._reader.view
        told: type[Event] | None = None
        last = False
        while True:
            output = await self._output()
            if output is not None:
                last = False
                self.offset = output.offset + len(output.content)
                yield output
                await self._slow_down(len(output.content))
            elif self.displaced:
                self._generation, self.offset = view.generation, 0
                yield Truncated()
            elif reader.failed is not None:
                raise fresh_copy(reader.failed)
            elif (now := self._impeded) is not told:
                told = now
                if now is Degraded and reader.trouble is not None:
                    yield Degraded(reader.trouble.message)
                elif now is Waiting:
                    yield Waiting()
            elif self.offset < view.end:
                # What should be there could not be read.
                await reader.refresh(hurry=False)
            elif last and reader.trouble is None:
                return
            elif self._finishing:
                await reader.refresh()
                last = True
            else:
                await reader.change()

    @property
    def has_all(self) -> bool:
        """Whether it has had all that has been seen of the file."""
        view = self._reader.view
        return self._generation == view.generation and self.offset >= view.end

    @property
    def displaced(self) -> bool:
        """Whether the file is shorter than where it has come to, or another one."""
        view = self._reader.view
        return self._generation != view.generation or (self.offset > view.end and not view.missing)

    @property
    def _impeded(self) -> type[Event] | None:
        """Why nothing comes, in one word, if that is not for the file's being at rest."""
        if self._reader.trouble is not None:
            return Degraded
        return Waiting if self._reader.view.missing else None

    async def _output(self) -> Output | None:
        view = self._reader.view
        known = view.piece(self._generation, self.offset)
        if known is None and self._generation == view.generation and self.offset < view.end:
            with suppress(GatewayError):
                # If it cannot be read, the next look at the file says why.
                return await self._reader.block(self._generation, self.offset)
        return known

    async def _slow_down(self, size: int) -> None:
        now = time.monotonic()
        self._free_at = max(now, self._free_at) + size / self._rate
        if (delay := self._free_at - now) > 0:
            await asyncio.sleep(delay)

    async def _start_of_lines(self, count: int, limits: Limits) -> int:
        path = self._reader.path

        async def find(session: Session) -> int:
            return await Excerpt(await session.files(), path, "tail", limits).start_of_last_lines(count)

        try:
            return await self._reader.lender.perform(self.principal, find, retry=True)
        except PathNotFound:
            return 0

    async def _fits(self, mark: Mark) -> bool:
        """Say whether the file is the one that a mark is of."""
        view, start = self._reader.view, self.offset - mark.size
        if mark.inode != view.inode or start < 0 or self.offset > view.end:
            return False
        look = await self._reader.part(start, mark.size)
        return look.attributes.ino == mark.inode and Mark.of(mark.inode, look.content) == mark
