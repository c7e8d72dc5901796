"""stat: the attributes of a file."""

from hpcgate.filesystem.base import Operation, Parameters, Path
from hpcgate.filesystem.models import FileStat
from hpcgate.ssh.session import Session


class StatParameters(Parameters):
    """Which file, and whether a symbolic link is followed."""

    path: Path
    dereference: bool = False


class Stat(Operation):
    """Return the attributes of a file."""

    name = "stat"
    method = "GET"
    Parameters = StatParameters
    Result = FileStat
    parameters: StatParameters

    def paths(self) -> tuple[bytes, ...]:
        """Return the path asked about."""
        return (self.parameters.path,)

    async def run(self, session: Session) -> FileStat:
        """Ask for all ten numbers."""
        files = await session.files()
        found = await files.stat(self.parameters.path, follow=self.parameters.dereference)
        return FileStat.of(found)
