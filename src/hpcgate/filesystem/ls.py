"""ls: list a directory or one file."""

import asyncio
from datetime import tzinfo
from operator import attrgetter

from hpcgate.filesystem.base import Operation, Parameters, Path, raw
from hpcgate.filesystem.models import File, zone_of
from hpcgate.ssh.files import Entry
from hpcgate.ssh.session import Session

MANY = 1000
"""Entries whose conversion would keep all other requests waiting for longer than a few milliseconds."""


class LsParameters(Parameters):
    """What to list and how."""

    path: Path
    show_hidden: bool = False
    numeric_uid: bool = False
    recursive: bool = False
    dereference: bool = False


class Ls(Operation):
    """List a directory, or one file."""

    name = "ls"
    method = "GET"
    Parameters = LsParameters
    Result = list[File]
    parameters: LsParameters

    def paths(self) -> tuple[str, ...]:
        """Return the path listed."""
        return (self.parameters.path,)

    def trees(self) -> tuple[str, ...]:
        """Return the directory, if the links in it are followed."""
        return (self.parameters.path,) if self.parameters.dereference else ()

    async def run(self, session: Session) -> list[File]:
        """List in the order of the names' bytes, as ls does in the C locale."""
        wanted = self.parameters
        files = await session.files()
        entries = await files.listing(
            raw(wanted.path),
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


def _shown(entries: list[Entry], zone: tzinfo, numeric: bool) -> list[File]:
    entries.sort(key=attrgetter("name"))
    return [File.of(entry, zone, numeric=numeric) for entry in entries]
