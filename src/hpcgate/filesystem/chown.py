"""chown: change a file's owner and group."""

from pydantic import Field

from hpcgate.errors import BadRequest
from hpcgate.filesystem.base import Operation, Parameters, SourcePath
from hpcgate.filesystem.models import File, file_at, zone_of
from hpcgate.ssh.files.command_attributes import CHOWN, stand_and
from hpcgate.ssh.session import Session


class PutFileChownRequest(Parameters):
    """Which file, its new owner and group, by name or number; an empty one stays."""

    source_path: SourcePath
    owner: str = Field("", json_schema_extra={"nullable": False})
    group: str = Field("", json_schema_extra={"nullable": False})


class Chown(Operation):
    """Change a file's owner and group and return the file."""

    name = "chown"
    method = "PUT"
    writes = True
    Parameters = PutFileChownRequest
    Result = File
    parameters: PutFileChownRequest

    def paths(self) -> tuple[bytes, ...]:
        """Return the path changed."""
        return (self.parameters.source_path,)

    async def run(self, session: Session) -> File:
        """Run chown unless there is nothing to change."""
        path, zone = self.parameters.source_path, await zone_of(session)
        owner, group = self.parameters.owner, self.parameters.group
        _check("user", owner)
        _check("group", group)
        if owner or group:
            wanted = f"{owner}:{group}" if group else owner
            try:
                await stand_and(session, CHOWN, "chown", path, path, wanted, otherwise=BadRequest)
            finally:
                session.node.view(session.username).footings.forget()
        return await file_at(session, path, zone)


def _check(kind: str, name: str) -> None:
    # chown(1) splits at a colon. What else it cannot find it names itself.
    if ":" in name or not name.isprintable():
        shown = name.encode("unicode_escape").decode("ascii")
        raise BadRequest(f"chown: invalid {kind}: \N{LEFT SINGLE QUOTATION MARK}{shown}\N{RIGHT SINGLE QUOTATION MARK}")
