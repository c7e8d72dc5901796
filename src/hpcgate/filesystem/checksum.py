"""checksum: the SHA-256 of a file."""

import re

from hpcgate.errors import CommandFailed
from hpcgate.filesystem.base import Operation, Parameters, Path
from hpcgate.filesystem.models import FileChecksum
from hpcgate.ssh.files.command_scripts import REGULAR
from hpcgate.ssh.files.coreutils_errors import NOT_REGULAR, error_from_stderr, not_regular, stderr_lines
from hpcgate.ssh.runner import SHORT
from hpcgate.ssh.session import Session

# A name with a backslash or a newline makes sha256sum put a backslash before the digits.
_DIGITS = re.compile(rb"\\?([0-9a-f]{64}) ")
SCRIPT = REGULAR + 'exec sha256sum -- "$1"'


class ChecksumParameters(Parameters):
    """Which file."""

    path: Path


class Checksum(Operation):
    """Return the SHA-256 of a file."""

    name = "checksum"
    method = "GET"
    Parameters = ChecksumParameters
    Result = FileChecksum
    parameters: ChecksumParameters

    def paths(self) -> tuple[bytes, ...]:
        """Return the path read."""
        return (self.parameters.path,)

    async def run(self, session: Session) -> FileChecksum:
        """Run sha256sum."""
        path = self.parameters.path
        done = await session.run(["sh", "-c", SCRIPT, "sha256sum", path], limit=SHORT)
        if not done.ok:
            if NOT_REGULAR in stderr_lines(done.stderr, "sha256sum"):
                raise not_regular("sha256sum", path)
            raise error_from_stderr(done.stderr, "sha256sum")
        match = _DIGITS.match(done.stdout)
        if match is None:
            raise CommandFailed("sha256sum: unexpected output")
        return FileChecksum(algorithm="SHA256", checksum=match[1].decode())
