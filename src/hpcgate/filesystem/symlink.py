"""symlink: make a symbolic link."""

from hpcgate.filesystem.base import LinkTarget, Operation, Parameters, Path
from hpcgate.filesystem.models import File, file_at, zone_of
from hpcgate.ssh.session import Session


class PostFileSymlinkRequest(Parameters):
    """What the link points to, which need not exist, and where the link is made."""

    source_path: LinkTarget
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

    def paths(self) -> tuple[bytes, ...]:
        """Return where the link leads, from the directory that it lies in, and the link."""
        link = self.parameters.link_path
        directory = link.rstrip(b"/").rpartition(b"/")[0]
        target = self.parameters.source_path
        return (target if target.startswith(b"/") else b"%b/%b" % (directory, target), link)

    async def run(self, session: Session) -> File:
        """Make it."""
        link, zone = self.parameters.link_path, await zone_of(session)
        await (await session.files()).symlink(self.parameters.source_path, link)
        return await file_at(session, link, zone)
