"""extract: unpack an archive."""

from pydantic import Field

from hpcgate.errors import BadRequest
from hpcgate.filesystem.archive import archive_error
from hpcgate.filesystem.base import Operation, Parameters, Path, SourcePath
from hpcgate.filesystem.models import CompressionType
from hpcgate.ssh.commands.ending import CUT_OFF
from hpcgate.ssh.files.command_scripts import REGULAR
from hpcgate.ssh.files.footing import OWN, untrusted
from hpcgate.ssh.files.merging import MERGE
from hpcgate.ssh.files.protocol import temporary_name
from hpcgate.ssh.files.tar_scripts import CAME
from hpcgate.ssh.session import Session

# $1 the archive, $2 the directory, $3 how it is compressed, $4 the name of a hidden directory: there it is unpacked,
# and becomes one with what is in $2 once it is whole. Without --no-unquote tar takes a backslash in the directory's
# name for an escape, and unpacks into another one.
SCRIPT = (
    REGULAR
    + OWN
    + MERGE
    + CAME
    + CUT_OFF
    + """\
for p in "$1" "${2%/}/."; do
  said=$(stat -L -- "$p" 2>&1 >/dev/null) || { said=${said#*cannot }; printf 'tar: %s\\n' "${said#* }" >&2; exit 2; }
done
unpacked=yes
follow "$2"
home=$real
enter "$home"
hidden=$4
clear_up() { rmdir -- "./$hidden" 2>/dev/null || rmdir -- "../$hidden" 2>/dev/null; }
# Where new files inherit an access control list, the umask does not count.
mkdir -m 700 -- "./$4" || exit 2
own "$home" "$4"
# Others may have put another directory of the user's there.
[ -z "$(ls -A)" ] || refuse "$4 was moved"
clear_up() {
  [ ! -d ./new ] || chmod -R u+rwX ./new 2>/dev/null
  rm -rf ./new
  rmdir -- "../$hidden"
}
# A umask may leave the owner no rights, and new directories of no use.
umask u=rwx
mkdir ./new || exit 2
tar -x --no-unquote $3 --force-local -f "$1" -C ./new & wait "$!" || exit 2
came "$1" "$3" || exit
(exec 5<./new && enter "$home" && merge "$home") & wait "$!" || exit 2
"""
)


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

    def paths(self) -> tuple[bytes, ...]:
        """Return what is read and what is written."""
        return (self.parameters.source_path, self.parameters.target_path)

    def trees(self) -> tuple[bytes, ...]:
        """Return the directory: a link in it may be in the way of a member."""
        return (self.parameters.target_path,)

    async def run(self, session: Session) -> None:
        """Run tar, which takes away leading slashes and refuses ``..`` in the names of members."""
        wanted = self.parameters
        source = wanted.source_path
        words: list[bytes | str] = [source, wanted.target_path, wanted.compression.option, temporary_name()]
        done = await session.run(["sh", "-c", SCRIPT, "tar", *words])
        if not done.ok:
            raise untrusted(done.stderr) or archive_error(done, source, BadRequest, into=wanted.target_path)
