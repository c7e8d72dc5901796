"""ls: list a directory or one file."""

from operator import attrgetter

from hpcgate.filesystem.base import Operation, Parameters, Path, raw
from hpcgate.filesystem.models import File, zone_of
from hpcgate.ssh.session import Session


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
        entries.sort(key=attrgetter("name"))
        zone = await zone_of(session)
        return [File.of(entry, zone, numeric=wanted.numeric_uid) for entry in entries]
