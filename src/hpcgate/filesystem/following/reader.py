"""Looks at one file for all of a user who follow it."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from hpcgate.auth import Principal
from hpcgate.errors import CredentialRefused, GatewayError, HostKeyRefused, PathNotFound, Unavailable
from hpcgate.filesystem.base import Lender
from hpcgate.filesystem.following.view import BEFORE, MAX_OFFSET, Output, View
from hpcgate.sharing.flights import Flights
from hpcgate.sharing.recent import Recent
from hpcgate.ssh.errors import fresh_copy
from hpcgate.ssh.files.protocol import Look
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
BLOCKS = 2
"""Blocks that are kept for those who come from further behind than a view remembers."""


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


class Follows(Protocol):
    """Whoever follows a file."""

    @property
    def principal(self) -> Principal:
        """Who that is."""

    @property
    def has_all(self) -> bool:
        """Whether all that has been seen of the file has been had."""


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
        self.followers: set[Follows] = set()
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
