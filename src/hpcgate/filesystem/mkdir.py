"""mkdir: make a directory."""

from pydantic import Field

from hpcgate.filesystem.base import Operation, Parameters, SourcePath
from hpcgate.filesystem.models import File, file_at, zone_of
from hpcgate.ssh.session import Session


class PostMakeDirRequest(Parameters):
    """Which directory, and whether those above it are made too."""

    source_path: SourcePath
    parent: bool = Field(False, json_schema_extra={"nullable": False})


class Mkdir(Operation):
    """Make a directory and return it."""

    name = "mkdir"
    method = "POST"
    status = 201
    writes = True
    Parameters = PostMakeDirRequest
    Result = File
    parameters: PostMakeDirRequest

    def paths(self) -> tuple[bytes, ...]:
        """Return the path made."""
        return (self.parameters.source_path,)

    async def run(self, session: Session) -> File:
        """Make it."""
        path, zone = self.parameters.source_path, await zone_of(session)
        await (await session.files()).mkdir(path, parents=self.parameters.parent)
        return await file_at(session, path, zone)
