"""compress: put a file or a directory into an archive."""

import errno

from pydantic import Field

from hpcgate.errors import BadRequest, CommandFailed
from hpcgate.filesystem.archive import archive_error
from hpcgate.filesystem.base import Operation, Parameters, Path, SourcePath
from hpcgate.filesystem.models import CompressionType
from hpcgate.ssh.commands.ending import CUT_OFF
from hpcgate.ssh.files.command_scripts import ADOPT, OVERWRITING, SHUT, STAYS
from hpcgate.ssh.files.coreutils_errors import failure, quote_if_needed
from hpcgate.ssh.files.footing import ENTER
from hpcgate.ssh.files.protocol import temporary_name
from hpcgate.ssh.files.tar_scripts import PACK
from hpcgate.ssh.session import Session

# The archive grows under a hidden name beside the target and takes the target's only when it is whole; neither it nor
# the old one in its place becomes a member. The work is done in the background because a shell that waits for a command
# in the foreground takes no notice of a signal.
SCRIPT = (
    ENTER
    + ADOPT
    + CUT_OFF
    + STAYS
    + SHUT
    + OVERWRITING
    + """\
unset XZ_DEFAULTS XZ_OPT
source=$1 parent=$2 name=$3 target=$4 hidden=$5 option=$6 follow=$7 pattern=$8 member=$9
"""
    + PACK
    + """\
settle "$target"
target=./$base
if [ -d "$target" ]; then echo "tar: $4: Cannot open: Is a directory" >&2; exit 2; fi
if [ -e "$target" ] && [ ! -f "$target" ]; then echo "Not a regular file" >&2; exit 2; fi
stat -- "$source" >/dev/null || exit 2
temporary=./$hidden
place=
if stays "$target"; then place=yes; fi
if [ -n "$place" ] && [ ! -w . ]; then temporary=$(elsewhere "$hidden"); fi
clear_up() { rm -f -- "$temporary"; }
if [ -e "$target" ]; then
  shut "$temporary"
else
  set -C
  exec 4>"$temporary"
  set +C
  if [ ! -f /dev/fd/4 ]; then echo "tar: $4: Cannot open: File exists" >&2; exit 2; fi
fi
if [ -n "$pattern" ] && [ -d "$source" ]; then parent=$source; stat -- "$source/." >/dev/null || exit 2; fi
work() {
  cd -- "$parent" || return 2
  if [ -z "$pattern" ]; then printf '%s\\0' "$name" | pack; return; fi
  links=; [ -z "$follow" ] || links=-L
  statuses=$({ { find $links . -type f -regex "$pattern" -print0; echo $? >&3; } |
    { pack --no-recursion >&2; echo $? >&3; }; } 3>&1)
  case $statuses in *[1-9]*) return 2 ;; esac
}
work & wait "$!" || exit 2
if [ -n "$place" ]; then
  overwrite "$base" "$temporary" "$(stat -L -c %d:%i /dev/fd/4)" "$(stat -L -c %s /dev/fd/4)" "$4"
  exit
fi
if [ -e "$target" ]; then adopt "$target" /dev/fd/4 || exit 2; fi
mv -fT -- "$temporary" "$target" || exit 2
"""
)


class PostCompressRequest(Parameters):
    """What goes into the archive and where the archive goes.

    `match_pattern` is a regular expression of find(1), matched against the path of each file below the source
    directory, which begins with ``./``.
    """

    source_path: SourcePath
    target_path: Path
    match_pattern: str | None = Field(None, json_schema_extra={"nullable": True})
    dereference: bool = Field(False, json_schema_extra={"nullable": False})
    compression: CompressionType = Field(CompressionType.gzip, json_schema_extra={"nullable": False})


class Compress(Operation):
    """Put a file or a directory into an archive that holds its last component."""

    name = "compress"
    method = "POST"
    status = 204
    writes = True
    Parameters = PostCompressRequest
    parameters: PostCompressRequest

    def paths(self) -> tuple[bytes, ...]:
        """Return what is read and what is written."""
        return (self.parameters.source_path, self.parameters.target_path)

    def trees(self) -> tuple[bytes, ...]:
        """Return what is packed, if the links in it are followed."""
        return (self.parameters.source_path,) if self.parameters.dereference else ()

    async def run(self, session: Session) -> None:
        """Run tar; an existing archive is replaced at once by the whole new one, or not at all."""
        wanted = self.parameters
        source, target = wanted.source_path, wanted.target_path
        if target.endswith(b"/"):
            raise failure(f"tar: {quote_if_needed(target)}: Cannot open", errno.EISDIR)
        pattern = wanted.match_pattern or ""
        if "\0" in pattern:
            raise BadRequest("matchPattern must not hold a NUL character")
        parent, _, name = source.rstrip(b"/").rpartition(b"/")
        temporary = temporary_name()
        done = await session.run(
            [
                "sh",
                "-c",
                SCRIPT,
                "tar",
                source,
                parent or b"/",
                name or b".",
                target,
                temporary,
                wanted.compression.option,
                "-h" if wanted.dereference else "",
                pattern,
                _member(source, name, target, pattern),
            ]
        )
        if not done.ok:
            raise archive_error(done, target, CommandFailed, temporary=temporary)


def _member(source: bytes, name: bytes, target: bytes, pattern: str) -> bytes:
    """Return the name that the target has as a member of the archive, something impossible if it lies elsewhere."""
    top = source.rstrip(b"/") + b"/"
    if not target.startswith(top):
        return b"/"
    return (b"." if pattern else name or b".") + b"/" + target.removeprefix(top)
