"""ls: list a directory or one file."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import tzinfo
from operator import attrgetter

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from hpcgate.errors import BadRequest, TimedOut, TooLarge
from hpcgate.filesystem.base import Operation, Page, Parameters, Path
from hpcgate.filesystem.models import File, zone_of
from hpcgate.ssh.files.protocol import Entry, ListingSize
from hpcgate.ssh.files.streams import Streams
from hpcgate.ssh.session import Session

MANY = 1000
"""Entries whose conversion would keep all other requests waiting for longer than a few milliseconds."""
MAX_IN_PAGE = 10_000
"""Entries of a page."""
MAX_SCANNED = 20_000_000
"""Entries that are gone through for a page: more than a directory of a parallel file system holds."""
PAGE_PATIENCE = 900.0
"""Seconds that it may take."""


class LsParameters(Parameters):
    """What to list and how."""

    path: Path
    show_hidden: bool = False
    numeric_uid: bool = False
    recursive: bool = False
    dereference: bool = False
    limit: int | None = Field(
        None,
        ge=1,
        le=MAX_IN_PAGE,
        description="Return a page of at most so many entries, in the order of their names.",
    )
    cursor: str | None = Field(None, description="The `nextCursor` of the page before; with `limit`.")

    @field_validator("cursor")
    @classmethod
    def _decodable(cls, cursor: str | None) -> str | None:
        if cursor is not None:
            try:
                _name_in(cursor)
            except ValueError:
                raise PydanticCustomError("cursor", "not a cursor of a listing") from None
        return cursor


class Ls(Operation):
    """List a directory, or one file."""

    name = "ls"
    method = "GET"
    Parameters = LsParameters
    Result = list[File]
    pages = True
    parameters: LsParameters

    def paths(self) -> tuple[bytes, ...]:
        """Return the path listed."""
        return (self.parameters.path,)

    def trees(self) -> tuple[bytes, ...]:
        """Return the directory, if the links in it are followed."""
        return (self.parameters.path,) if self.parameters.dereference else ()

    async def run(self, session: Session) -> list[File] | Page:
        """List in the order of the names' bytes, as ls does in the C locale; of a page, find the first names there."""
        wanted = self.parameters
        if wanted.limit is not None:
            return await self._page(session, wanted.limit)
        if wanted.cursor is not None:
            raise BadRequest("cursor wants limit, too")
        files = await session.files()
        entries = await files.listing(
            wanted.path,
            hidden=wanted.show_hidden,
            recursive=wanted.recursive,
            follow=wanted.dereference,
            names=not wanted.numeric_uid,
            limit=self.limits.max_ops_file_size,
        )
        zone = await zone_of(session)
        if len(entries) > MANY:
            return await asyncio.to_thread(_shown, entries, zone, wanted.numeric_uid)
        return _shown(entries, zone, wanted.numeric_uid)

    def _scan(self, streams: Streams) -> AsyncGenerator[list[Entry]]:
        wanted = self.parameters
        return streams.scan(
            wanted.path,
            hidden=wanted.show_hidden,
            recursive=wanted.recursive,
            follow=wanted.dereference,
            names=not wanted.numeric_uid,
        )

    async def _page(self, session: Session, most: int) -> Page:
        """Return the next names behind the cursor: what was made or removed meanwhile moves no other."""
        behind = None if self.parameters.cursor is None else _name_in(self.parameters.cursor)
        try:
            async with asyncio.timeout(PAGE_PATIENCE):
                first, more = await self._first(session, behind, most)
        except TimeoutError:
            raise TimedOut(f"ls: the directory was not read within {PAGE_PATIENCE:g} s") from None
        zone = await zone_of(session)
        first.sort(key=attrgetter("name"))
        more |= len(first) > most
        del first[most:]
        ListingSize(self.limits.max_ops_file_size).add_all(first)
        shown = await asyncio.to_thread(_shown, first, zone, self.parameters.numeric_uid)
        return Page(shown, _cursor_behind(first[-1].name) if more and first else None)

    async def _first(self, session: Session, behind: bytes | None, most: int) -> tuple[list[Entry], bool]:
        """Return the first names behind another one, a few more than `most`, and whether there are still others."""
        first: list[Entry] = []
        more = False
        scanned = 0
        async with session.bulk() as streams, aclosing(self._scan(streams)) as scan:
            async for part in scan:
                scanned += len(part)
                if scanned > MAX_SCANNED:
                    raise TooLarge(f"ls: more than {MAX_SCANNED} entries")
                first += (entry for entry in part if behind is None or entry.name > behind)
                if len(first) > 2 * most:
                    first.sort(key=attrgetter("name"))
                    del first[most:]
                    more = True
        return first, more

    async def lines(self, session: Session) -> AsyncGenerator[bytes]:
        """List in no order, an entry a line, as the login node tells of them."""
        if self.parameters.limit is not None or self.parameters.cursor is not None:
            raise BadRequest("lines have no pages: leave out limit and cursor")
        numeric = self.parameters.numeric_uid
        zone = await zone_of(session)
        async with session.bulk() as streams, aclosing(self._scan(streams)) as scan:
            async for part in scan:
                for start in range(0, len(part), MANY):
                    yield b"".join(
                        File.of(entry, zone, numeric=numeric).model_dump_json(by_alias=True).encode() + b"\n"
                        for entry in part[start : start + MANY]
                    )


def _cursor_behind(name: bytes) -> str:
    return base64.urlsafe_b64encode(name).decode()


def _name_in(cursor: str) -> bytes:
    return base64.b64decode(cursor.encode(), altchars=b"-_", validate=True)


def _shown(entries: list[Entry], zone: tzinfo, numeric: bool) -> list[File]:
    entries.sort(key=attrgetter("name"))
    return [File.of(entry, zone, numeric=numeric) for entry in entries]
