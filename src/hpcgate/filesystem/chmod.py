"""chmod: change a file's permissions."""

import re
import stat
from contextlib import suppress

from hpcgate.errors import BadRequest, GatewayError
from hpcgate.filesystem.base import Operation, Parameters, SourcePath
from hpcgate.filesystem.models import File, file_at, zone_of
from hpcgate.ssh.files.command_attributes import CHMOD, stand_and
from hpcgate.ssh.session import Session

_OCTAL = re.compile(r"[0-7]{1,5}", re.ASCII)


class PutFileChmodRequest(Parameters):
    """Which file and its new mode: octal, or symbolic as chmod(1) takes it."""

    source_path: SourcePath
    mode: str


class Chmod(Operation):
    """Change a file's permissions and return the file."""

    name = "chmod"
    method = "PUT"
    writes = True
    Parameters = PutFileChmodRequest
    Result = File
    parameters: PutFileChmodRequest

    def paths(self) -> tuple[bytes, ...]:
        """Return the path changed."""
        return (self.parameters.source_path,)

    async def run(self, session: Session) -> File:
        """Set an octal mode directly, leave a symbolic one to chmod."""
        path, mode = self.parameters.source_path, self.parameters.mode
        zone = await zone_of(session)
        try:
            if _OCTAL.fullmatch(mode) and int(mode, 8) <= 0o7777:
                await self._set(session, path, mode)
            else:
                await stand_and(session, CHMOD, "chmod", path, path, mode, otherwise=BadRequest)
        finally:
            session.node.view(session.username).footings.forget()
        return await file_at(session, path, zone)

    async def _set(self, session: Session, path: bytes, mode: str) -> None:
        files = await session.files()
        bits = int(mode, 8)
        if len(mode) < 5:
            # Fewer than five digits leave a directory's setuid and setgid bits set (GNU coreutils manual, 27.6).
            with suppress(GatewayError):
                found = (await files.stat(path)).mode
                if stat.S_ISDIR(found):
                    bits |= found & (stat.S_ISUID | stat.S_ISGID)
        await files.chmod(path, bits)
