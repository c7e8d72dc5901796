"""symlink: make a symbolic link."""

from hpcgate.filesystem.base import Operation, Parameters, Path, SourcePath, raw
from hpcgate.filesystem.models import File, file_at
from hpcgate.ssh.session import Session


class PostFileSymlinkRequest(Parameters):
    """What the link points to, which need not exist, and where the link is made."""

    source_path: SourcePath
    link_path: Path


class Symlink(Operation):
    """Make a symbolic link and return it."""

    name = "symlink"
    method = "POST"
    status = 201
    writes = True
    Parameters = PostFileSymlinkRequest
    Result = File
    parameters: PostFileSymlinkRequest

    def paths(self) -> tuple[str, ...]:
        """Return the link and what it points to."""
        return (self.parameters.source_path, self.parameters.link_path)

    async def run(self, session: Session) -> File:
        """Make it."""
        link = raw(self.parameters.link_path)
        await (await session.files()).symlink(raw(self.parameters.source_path), link)
        return await file_at(session, link)
