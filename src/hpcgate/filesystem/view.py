"""view: a part of a file as text."""

from hpcgate.errors import BadRequest
from hpcgate.filesystem.base import Operation, Parameters, Path
from hpcgate.filesystem.excerpt import within
from hpcgate.ssh.session import Session

DEFAULT_SIZE = 5 * 1024 * 1024


class ViewParameters(Parameters):
    """A file, how many bytes of it, and from which on."""

    path: Path
    size: int | None = DEFAULT_SIZE
    offset: int | None = 0


class View(Operation):
    """Return a part of a file as text. Offsets count bytes; what is not UTF-8 is replaced by U+FFFD."""

    name = "view"
    method = "GET"
    Parameters = ViewParameters
    Result = str
    parameters: ViewParameters

    def paths(self) -> tuple[bytes, ...]:
        """Return the path read."""
        return (self.parameters.path,)

    async def run(self, session: Session) -> str:
        """Read the part."""
        most = self.limits.max_ops_file_size
        size, offset = self.parameters.size, self.parameters.offset or 0
        if size is None or "size" not in self.parameters.model_fields_set:
            size = min(DEFAULT_SIZE, most)
        if size <= 0:
            raise BadRequest("size must be greater than 0")
        if offset < 0:
            raise BadRequest("offset must not be negative")
        if size > most:
            raise BadRequest(f"size must not be greater than {most}")
        files = await session.files()
        path = self.parameters.path
        offset = await within(files, path, offset, "dd")
        content = await files.read(path, offset=offset, size=size, tool="dd")
        return content.decode("utf-8", "replace")
