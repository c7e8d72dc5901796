"""extract: unpack an archive."""

from pydantic import Field

from hpcgate.errors import BadRequest
from hpcgate.filesystem.archive import archive_error
from hpcgate.filesystem.base import Operation, Parameters, Path, SourcePath, raw
from hpcgate.filesystem.models import CompressionType
from hpcgate.ssh.command_files import REGULAR
from hpcgate.ssh.session import Session

# Without --no-unquote tar takes a backslash in the directory's name for an escape, and unpacks into another one.
SCRIPT = REGULAR + 'exec tar -x --no-unquote $3 --force-local -f "$1" -C "$2"'


class PostExtractRequest(Parameters):
    """Which archive, how it is compressed, and the directory that it is unpacked into, which must exist."""

    source_path: SourcePath
    target_path: Path
    compression: CompressionType = Field(CompressionType.gzip, json_schema_extra={"nullable": False})


class Extract(Operation):
    """Unpack an archive into a directory."""

    name = "extract"
    method = "POST"
    status = 204
    writes = True
    Parameters = PostExtractRequest
    parameters: PostExtractRequest

    def paths(self) -> tuple[str, ...]:
        """Return what is read and what is written."""
        return (self.parameters.source_path, self.parameters.target_path)

    def trees(self) -> tuple[str, ...]:
        """Return the directory: a link in it may be in the way of a member."""
        return (self.parameters.target_path,)

    async def run(self, session: Session) -> None:
        """Run tar, which takes away leading slashes and refuses ``..`` in the names of members."""
        wanted = self.parameters
        source = raw(wanted.source_path)
        done = await session.run(["sh", "-c", SCRIPT, "sh", source, raw(wanted.target_path), wanted.compression.option])
        if not done.ok:
            raise archive_error(done, source, BadRequest)
