"""file: what kind of content a file has."""

from hpcgate.filesystem.base import Operation, Parameters, Path
from hpcgate.ssh.files.coreutils_errors import error_from_stderr, shown
from hpcgate.ssh.session import Session

# file(1) says "cannot open" as a result, with success; stat(1) says it as an error. The user's own magic file (file(1),
# ENVIRONMENT) need not be there.
SCRIPT = 'unset MAGIC; stat -- "$1" >/dev/null && exec file -b -- "$1"'


class FileTypeParameters(Parameters):
    """Which file."""

    path: Path


class FileType(Operation):
    """Return the words of ``file -b``."""

    name = "file"
    method = "GET"
    Parameters = FileTypeParameters
    Result = str
    parameters: FileTypeParameters

    def paths(self) -> tuple[bytes, ...]:
        """Return the path asked about."""
        return (self.parameters.path,)

    async def run(self, session: Session) -> str:
        """Run file."""
        done = await session.run(["sh", "-c", SCRIPT, "file", self.parameters.path])
        if not done.ok:
            # It says on standard output that it cannot read a file.
            said = done.stderr if done.stderr.strip() or not done.stdout.strip() else b"file: " + done.stdout
            raise error_from_stderr(said, "file" if said is not done.stderr else "stat")
        return shown(done.stdout.rstrip(b"\n"))
