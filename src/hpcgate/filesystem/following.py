"""Files that somebody follows: one reader a file and user, however many follow it (docs/decisions/following.md).

A reader looks at the end of its file for as long as a follower has come that far: about four times a second while the
file grows, less and less often while it rests, and never for more than an eighth of the time. A follower takes what it
has not had yet from what the reader remembers, or else from the file itself, at its own pace: nothing waits in a queue
for a slow one, and none holds another up.
"""

import asyncio
import time
import zlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

from hpcgate.auth import Principal
from hpcgate.auth.policy import Grant
from hpcgate.errors import BadRequest, CredentialRefused, GatewayError, HostKeyRefused, PathNotFound, Unavailable
from hpcgate.filesystem.base import Lender, Limits
from hpcgate.filesystem.beneath import ConfinedPool
from hpcgate.filesystem.excerpt import Excerpt
from hpcgate.sharing.flights import Flights
from hpcgate.sharing.recent import Recent
from hpcgate.sharing.tasks import Tasks
from hpcgate.ssh.errors import fresh_copy
from hpcgate.ssh.files.protocol import Look
from hpcgate.ssh.pool import Pool
from hpcgate.ssh.session import Session

FASTEST = 0.25
"""Seconds between two looks at a file that grows."""
SLOWEST = 5.0
"""Most seconds between two looks at a file that rests, or that cannot be reached."""
SLOWER = 1.5
"""Each look that finds nothing new has the next one come so many times later."""
SHARE = 8
"""Looks take at most one part in so many of the time: where each is a process, or the login node is slow."""
BLOCK = 256 * 1024
"""Bytes of one look."""
REMEMBERED = 256 * 1024
"""Bytes of a file's end that are remembered for those who have not had them yet."""
BLOCKS = 2
"""Blocks before that which are remembered, for those who come from further behind."""
BEFORE = 64
"""Bytes before a position by which a file is known again."""
MAX_OFFSET = 2**62


@dataclass(frozen=True, slots=True)
class Mark:
    """What was there before a position, so that a file that has been replaced meanwhile is known to be another one.

    Attributes:
        inode: Of the file.
        size: Bytes before the position that `checksum` is of.
        checksum: Their CRC-32.
    """

    inode: int
    size: int
    checksum: int

    def __str__(self) -> str:
        return f"{self.inode:x}.{self.size:x}.{self.checksum:x}"

    @classmethod
    def of(cls, inode: int, before: bytes) -> Self:
        """Return the mark of a position."""
        before = before[-BEFORE:]
        return cls(inode, len(before), zlib.crc32(before))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return a mark that was given out.

        Raises:
            BadRequest: It is none.
        """
        try:
            if len(text) > BEFORE:
                raise ValueError
            mark = cls(*(int(part, 16) for part in text.split(".")))
            if mark.size > BEFORE or min(mark.inode, mark.size, mark.checksum) < 0:
                raise ValueError
        except (ValueError, TypeError):
            raise BadRequest("mark is not one that was given out with an event") from None
        return mark


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
class Output:
    """A part of the file: `content` from `offset` on. A part that comes next begins where it ends."""

    offset: int
    content: bytes
    inode: int


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


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a file is looked at; seconds."""

    fastest: float = FASTEST
    slowest: float = SLOWEST
    share: float = SHARE

    def after(self, pause: float, took: float, *, grown: bool) -> float:
        """Return how long to wait after a look that took so long, before which the pause was so long."""
        wanted = self.fastest if grown else min(max(pause, self.fastest) * SLOWER, self.slowest)
        return max(wanted, took * self.share)


class View:
    """What is known of a file by the looks at it. Looks are noted here; nothing is awaited.

    Attributes:
        generation: Rises when the file turns out to be shorter, or another one.
        inode: Of the file; 0 before it has been seen.
        end: Bytes of it that have been seen, from its beginning.
        before: The last of them, by which it is known again.
        missing: Whether it was not there when it was looked for last.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.inode = 0
        self.end = 0
        self.before = b""
        self.missing = False
        self._modified = (0, 0)
        self._remembered: deque[tuple[int, Output]] = deque()
        self._size = 0

    def __repr__(self) -> str:
        return f"<View generation {self.generation}, {self.end} bytes{', missing' if self.missing else ''}>"

    @property
    def start(self) -> int:
        """Where the next look is to begin, so that it shows whether the file is still the same."""
        return self.end - len(self.before)

    def begin(self, look: Look, start: int) -> None:
        """Note the first look, which was at the last bytes of the file, from `start` on."""
        self.inode = look.attributes.ino
        self.before = look.content
        self.end = start + len(look.content)
        self._modified = look.attributes.mtime, look.attributes.fraction

    def rewritten(self, look: Look) -> bool:
        """Say whether a file may have been written to that is as long as before."""
        attributes = look.attributes
        as_long = attributes.ino == self.inode and attributes.size == self.end
        return as_long and bool(self.before) and (attributes.mtime, attributes.fraction) != self._modified

    def note(self, look: Look) -> bool:
        """Note a look from `start` on, and say whether anything is new."""
        attributes, content, known = look.attributes, look.content, len(self.before)
        if attributes.ino != self.inode or attributes.size < self.end:
            self._replace(attributes.ino)
            return True
        if len(content) < known:
            # It was not read, for it is as long as before; or it has just become shorter, as the next look will show.
            return False
        if content[:known] != self.before:
            self._replace(attributes.ino)
            return True
        self._modified = attributes.mtime, attributes.fraction
        if len(content) == known:
            return False
        self._remember(content[known:])
        return True

    def piece(self, generation: int, offset: int) -> Output | None:
        """Return what is remembered from a position on, None if that is not."""
        for its, output in self._remembered:
            skip = offset - output.offset
            if its == generation and 0 <= skip < len(output.content):
                return Output(offset, output.content[skip:], output.inode) if skip else output
        return None

    def forget(self) -> None:
        """Remember nothing more of what has been seen: all who follow have had it."""
        self._remembered.clear()
        self._size = 0

    def _replace(self, inode: int) -> None:
        self.generation += 1
        self.inode, self.end, self.before = inode, 0, b""

    def _remember(self, content: bytes) -> None:
        self._remembered.append((self.generation, Output(self.end, content, self.inode)))
        self._size += len(content)
        while self._size > REMEMBERED and len(self._remembered) > 1:
            self._size -= len(self._remembered.popleft()[1].content)
        self.end += len(content)
        self.before = (self.before + content)[-BEFORE:]


class Reader:
    """Looks at one file as one user, for all of that user who follow it.

    Args:
        path: The file.
        principal: Who is the first to follow it.
        lender: Lends the user's sessions.
        pace: How often.

    Attributes:
        task: Runs it.
        view: What is known of the file.
        followers: Those who follow it.
        trouble: Why it could not be looked at last, if that may pass.
        failed: Why it is not looked at any more.
        looks: How often it has been looked at, the blocks that are read for those far behind included.
    """

    task: "asyncio.Task[None] | None" = None

    def __init__(self, path: bytes, principal: Principal, lender: Lender, pace: Pace) -> None:
        self.path = path
        self.lender = lender
        self._principal = principal
        self.view = View()
        self.followers: set[Follower] = set()
        self.trouble: GatewayError | None = None
        self.failed: GatewayError | None = None
        self.looks = 0
        self._pace = pace
        self._begun = False
        self._pause = 0.0
        self._earliest = self._next = 0.0
        self._asked = self._answered = 0
        self._waiting = 0
        self._wanted = asyncio.Event()
        self._hurry = asyncio.Event()
        self._changed = asyncio.Event()
        self._blocks: Recent[tuple[int, int], Look] = Recent(BLOCKS)
        self._reading: Flights[tuple[int, int], Look] = Flights("filesystem.following")

    def __repr__(self) -> str:
        return f"<Reader {self.path!r} {len(self.followers)} followers, {self.view!r}>"

    @property
    def principal(self) -> Principal:
        """As whom to look: by the token that holds longest of those who follow."""
        forever = float("inf")
        return max(
            (follower.principal for follower in self.followers),
            key=lambda one: forever if one.expires_at is None else one.expires_at,
            default=self._principal,
        )

    async def run(self) -> None:
        """Look at the file whenever somebody wants to know more, until it cannot be followed."""
        try:
            while self.failed is None:
                await self._wanted.wait()
                await self._rest()
                self._hurry.clear()
                asked, before = self._asked, self._state
                await self._look_once()
                answered, self._answered = self._answered, asked
                if answered < asked or self._state != before:
                    self.tell()
        finally:
            self.failed = self.failed or Unavailable("The file is not followed any more")
            self.tell()
            await self._reading.close()

    async def refresh(self, *, hurry: bool = True) -> None:
        """Return once the file has been looked at, by a look that has yet to begin.

        Args:
            hurry: Have it as early as a file that grows would.

        Raises:
            GatewayError: It cannot be followed, or could not be looked at even once.
        """
        self._asked += 1
        asked = self._asked
        if hurry:
            self._hurry.set()
        while self._answered < asked and self.failed is None:
            await self.change()
        if self.failed is not None:
            raise fresh_copy(self.failed)
        if self.trouble is not None and not self._begun:
            raise fresh_copy(self.trouble)

    async def change(self) -> None:
        """Return once a look has found anything new."""
        if self.failed is not None:
            return
        self._waiting += 1
        self._wanted.set()
        try:
            await self._changed.wait()
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._wanted.clear()

    def tell(self) -> None:
        """Wake those that wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def block(self, generation: int, offset: int) -> Output | None:
        """Return some bytes before the end of the file, from a position on; None if they are not there any more.

        Raises:
            GatewayError: The file cannot be looked at now.
        """
        key = generation, offset // BLOCK
        first = key[1] * BLOCK
        block = self._blocks.get(key)
        if block is None or len(block.content) <= offset - first:
            block = await self._reading.share(key, lambda: self.part(first, BLOCK))
            if self.view.generation != generation or block.attributes.ino != self.view.inode:
                return None
            self._blocks.keep(key, block)
        content = block.content[offset - first : self.view.end - first]
        return Output(offset, content, block.attributes.ino) if content else None

    async def part(self, start: int, size: int) -> Look:
        """Read a part of the file, as long as it is the same."""
        inode, path = self.view.inode, self.path
        self.looks += 1

        async def read(session: Session) -> Look:
            files = await session.files()
            return await files.look(path, start=start, above=start, size=size, inode=inode)

        return await self.lender.perform(self.principal, read, retry=True)

    async def release(self, principal: Principal) -> None:
        """Have the login node hold the file no longer."""
        path = self.path

        async def release(session: Session) -> None:
            await (await session.files()).release(path)

        if self._begun and self.trouble is None:
            await self.lender.perform(principal, release, retry=False)

    @property
    def _state(self) -> tuple[object, ...]:
        return self.view.generation, self.view.end, self.view.missing, self.trouble is None, self.failed

    async def _rest(self) -> None:
        """Wait until the next look is due, which somebody may want sooner meanwhile."""
        while (delay := self._next - time.monotonic()) > 0 and not self._hurry.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._hurry.wait()
        if (delay := self._earliest - time.monotonic()) > 0:
            await asyncio.sleep(delay)

    async def _look_once(self) -> None:
        if all(follower.has_all for follower in self.followers):
            self.view.forget()
            self._blocks = Recent(BLOCKS)
        started = time.monotonic()
        self.looks += 1
        grown = more = False
        try:
            grown, more = await self.lender.perform(self.principal, self._look, retry=True)
            self.trouble = None
            self.view.missing = False
        except PathNotFound:
            self.trouble = None
            self.view.missing = True
        except GatewayError as error:
            if passes(error):
                self.trouble = error
            else:
                self.failed = error
        took = time.monotonic() - started
        self._pause = self._pace.after(self._pause, took, grown=grown)
        self._next = started + took + (0 if more else self._pause)
        self._earliest = started + (0 if more else max(self._pace.fastest, took * self._pace.share))

    async def _look(self, session: Session) -> tuple[bool, bool]:
        """Look at the file. Say whether there is anything new, and whether there is more than one look reads."""
        files, view, path = await session.files(), self.view, self.path
        if not self._begun:
            found = await files.look(path, start=0, above=MAX_OFFSET, size=0)
            start = max(0, found.attributes.size - BEFORE)
            view.begin(await files.look(path, start=start, above=start, size=BEFORE), start)
            self._begun = True
            return True, False
        look = await files.look(path, start=view.start, above=view.end, size=BLOCK, inode=view.inode)
        if view.rewritten(look):
            look = await files.look(path, start=view.start, above=view.start, size=BLOCK, inode=view.inode)
        return view.note(look), len(look.content) == BLOCK


def passes(error: GatewayError) -> bool:
    """Say whether an error is of the way to a file, or of its server, and may pass."""
    if isinstance(error, CredentialRefused | HostKeyRefused):
        return False
    return error.status in _PASSING


_PASSING = frozenset({408, 424, 429, 500, 503})


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


class Following:
    """The files of one system that are followed.

    Args:
        pool: The system's connections.
        limits: What the system allows.
        pace: How often a file is looked at.

    Attributes:
        looks: How often files have been looked at.
    """

    def __init__(self, pool: Pool, limits: Limits, pace: Pace | None = None) -> None:
        self._pool = pool
        self._limits = limits
        self._pace = pace or Pace()
        self._readers: dict[tuple[str, bytes, Grant], Reader] = {}
        self._past_looks = 0
        self._tasks = Tasks("filesystem.following")

    def __repr__(self) -> str:
        return f"<Following {len(self)} files of {self._pool.system}>"

    def __len__(self) -> int:
        return len(self._readers)

    @property
    def looks(self) -> int:
        """How often files have been looked at."""
        return self._past_looks + sum(reader.looks for reader in self._readers.values())

    @asynccontextmanager
    async def follow(
        self, principal: Principal, grant: Grant, path: bytes, start: Start, rate: float
    ) -> AsyncIterator[Follower]:
        """Follow a file for as long as the context lasts.

        Args:
            principal: Who follows it.
            grant: What the user may touch, which holds for each look.
            path: The file.
            start: Where to begin.
            rate: The most bytes a second.

        Raises:
            GatewayError: It cannot be followed; that it is not there is no error.
        """
        key = self._pool.key(principal), path, grant
        reader = self._readers.get(key)
        if reader is None or reader.failed is not None:
            lender: Lender = self._pool if grant.paths is None else ConfinedPool(self._pool, grant)
            reader = self._readers[key] = Reader(path, principal, lender, self._pace)
            reader.task = self._tasks.spawn(reader.run())
        follower = Follower(principal, reader, rate)
        reader.followers.add(follower)
        try:
            await follower.begin(start, self._limits)
            yield follower
        finally:
            reader.followers.discard(follower)
            if not reader.followers:
                self._end(key, reader, principal)

    def _end(self, key: tuple[str, bytes, Grant], reader: Reader, principal: Principal) -> None:
        if self._readers.get(key) is reader:
            del self._readers[key]
        self._past_looks += reader.looks
        if reader.task is not None:
            reader.task.cancel()
        self._tasks.spawn(reader.release(principal))

    async def close(self) -> None:
        """Follow nothing any more."""
        await self._tasks.close()
