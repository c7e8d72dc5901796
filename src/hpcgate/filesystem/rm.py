"""rm: remove a file or a whole directory."""

from hpcgate.filesystem.base import Operation, Parameters, Path
from hpcgate.ssh.session import Session


class RmParameters(Parameters):
    """What to remove."""

    path: Path


class Rm(Operation):
    """Remove a file, or a directory with all that is in it, without asking."""

    name = "rm"
    method = "DELETE"
    status = 204
    writes = True
    follows = False
    Parameters = RmParameters
    parameters: RmParameters

    def paths(self) -> tuple[bytes, ...]:
        """Return the path removed."""
        return (self.parameters.path,)

    async def run(self, session: Session) -> None:
        """Remove it."""
        await (await session.files()).remove(self.parameters.path)
