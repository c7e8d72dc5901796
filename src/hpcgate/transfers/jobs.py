"""Transfer jobs: mv, cp, rm, compress and extract as jobs of the scheduler (contract, transfer).

The exit status of a job is that of the tool that failed, and the sentence that clients look for stands in the output
log of one that succeeded, and only there. What is new takes shape under a hidden name beside its target and takes the
target's name when it is whole; until then the old target stays as it was.
"""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Literal

from hpcgate.auth import Principal
from hpcgate.errors import BadRequest, NotSupported
from hpcgate.ssh.files.command_scripts import ADOPT, OVERWRITING, STAYS
from hpcgate.ssh.files.merging import MERGE
from hpcgate.ssh.files.remote_path import RemotePath, encode_path
from hpcgate.ssh.files.tar_scripts import CAME, PACK
from hpcgate.transfers.base import BatchJob, JobLogs, Script, Submit, TransferJob
from hpcgate.transfers.memo import written
from hpcgate.transfers.script import STAGE, directives_for, job_script

Compression = Literal["none", "gzip", "bzip2", "xz"]

_TAR_OPTIONS: dict[Compression, str] = {"none": "", "gzip": "-z", "bzip2": "-j", "xz": "-J"}

_DESTINATION = """\
case $target in
  *[!/]*/) [ -d "$target" ] || [ -d "$source" ] || fail "$tool: cannot create '$target': Not a directory" ;;
esac
while :; do case $target in ?*/) target=${target%/} ;; *) break ;; esac; done
destination=$target
if [ -d "$target" ]; then destination=${target%/}/$name; fi
"""
"""As for mv and cp: a directory that exists takes the source in."""

_FROM = """\
stat -- "$source" >/dev/null || exit
beside "$source"
if [ -n "$slash" ] && { [ -L "./$base" ] || [ ! -d "./$base" ]; }; then
  fail "$tool: cannot access '$source': Not a directory"
fi
"""
"""Goes to where the source lies, and follows no link in its last place: what is taken away is what has the name."""

_MV = f"""\
tool=mv
{STAGE}
{_FROM}
exec 8<. || exit
from=/proc/self/fd/8/$base
mount=$(stat -L -c '%d %m' .)
{_DESTINATION}
beside "$destination"
# Only within one mount is mv a rename, which never leaves half a target; else mv would remove the old one first.
if [ "$mount" = "$(stat -L -c '%d %m' .)" ]; then
  mv -f -T -- "$from" "./$base" || exit
else
  stage
  cp -a -T -- "$from" ./new || exit
  mv -f -T -- ./new "../$base" || exit
  rm -r -f -- "$from" || exit
fi
echo 'Files were successfully moved.'
"""

_CP = f"""\
tool=cp
stat $follow -- "$source" >/dev/null || exit
{_DESTINATION}
{STAGE}
{MERGE}
{STAYS}
{OVERWRITING}
if [ "$source" -ef "$destination" ]; then fail "cp: '$source' and '$destination' are the same file"; fi
# A link in the target's place is written through, unless it is a link that is copied.
if [ -h "$destination" ] && {{ [ -n "$follow" ] || [ ! -h "$source" ]; }}; then
  settle "$destination"
else
  beside "$destination"
fi
if [ -d "./$base" ] && [ ! -h "./$base" ]; then
  if [ ! -d "$source" ] || {{ [ -h "$source" ] && [ -z "$follow" ]; }}; then
    fail "cp: cannot overwrite directory '$destination' with non-directory"
  fi
  stage
  cp -a $follow -T -- "$source" ./new || exit
  (exec 5<. && enter "$home" && at=$home && descend new "$base") || exit
else
  if [ -e "./$base" ] && [ ! -f "./$base" ]; then fail "cp: '$destination': Not a regular file"; fi
  if [ -f "$source" ] && {{ [ ! -h "$source" ] || [ -n "$follow" ]; }} && stays "./$base"; then
    drop() {{ :; }}
    exec 4<"$source" || exit
    overwrite "$base" "$source" "$(stat -L -c %d:%i /dev/fd/4)" "$(stat -L -c %s /dev/fd/4)" "$destination"
    echo 'Files were successfully copied.'
    exit
  fi
  stage
  cp -a $follow -T -- "$source" ./new || exit
  mv -f -T -- ./new "../$base" || exit
fi
echo 'Files were successfully copied.'
"""

_RM = f"""\
tool=rm
{STAGE}
{_FROM}
rm -r -- "./$base" </dev/null || exit
echo 'Files were successfully removed.'
"""

# Neither the new archive nor the old one becomes a member, and what tar says of changed files is in the log.
_COMPRESS = f"""\
{ADOPT}
{STAGE}
case $target in */) fail "tar: $target: Cannot open: Is a directory" 2 ;; esac
settle "$target"
if [ -d "./$base" ]; then fail "tar: $target: Cannot open: Is a directory" 2; fi
if [ -e "./$base" ] && [ ! -f "./$base" ]; then fail "tar: $target: Not a regular file" 2; fi
stat -- "$source" >/dev/null || exit 2
stage
exec 4>./new
{PACK}
if [ -n "$pattern" ]; then
  if [ -d "$source" ]; then directory=$source; fi
  links=
  [ -z "$follow" ] || links=-L
  (
    cd -- "$directory" || exit 2
    exec find $links . -name "$hidden" -prune -o -type f -regex "$pattern" -print0
  ) >./names || exit
  (cd -- "$directory" || exit 2; pack --no-recursion) <./names || exit
else
  printf '%s\\0' "$name" | (cd -- "$directory" || exit 2; pack) || exit
fi
if [ -e "../$base" ]; then adopt "../$base" ./new || exit; fi
mv -f -T -- ./new "../$base" || exit
echo 'Files were successfully compressed.'
"""

# Without --no-unquote tar takes a backslash in the directory's name for an escape, and unpacks into another one.
# It is unpacked beside the files that are there, and they become one directory once it is whole.
_EXTRACT = f"""\
if [ -e "$source" ] && [ ! -f "$source" ]; then fail "tar: $source: Not a regular file" 2; fi
{STAGE}
{MERGE}
{CAME}
stat -L -- "$source" "${{target%/}}/." >/dev/null || exit 2
unpacked=yes
follow "$target"
home=$real
enter "$home"
stage
# A umask may leave the owner no rights, and new directories of no use.
umask u=rwx
mkdir ./new || exit
tar -x --no-unquote $option --force-local -f "$source" -C ./new </dev/null || exit
came "$source" "$option" || exit
(exec 5<./new && enter "$home" && merge "$home") || exit
echo 'Files were successfully extracted.'
"""


# Logs that hpcgate's jobs have left: regular files of the user's with its mark in their names (see `log_mark`).
_SWEEP = """\
find "$log_directory/." -maxdepth 1 -type f -user "$(id -u)" \\
  -name '.f7t_file_handling_job_*????????-????-8???-????-????????????.log' \\
  -mmin "+$log_minutes" -exec rm -f -- {} + </dev/null >/dev/null 2>&1
"""


def log_mark() -> uuid.UUID:
    """Return a new identifier for the logs of a job: a UUID of version 8 (RFC 9562, 5.8), random but for that.

    FirecREST's logs have the same names with UUIDs of version 4, so that ours can be told from them.
    """
    number = uuid.uuid4().int & ~(0xF << 76)
    return uuid.UUID(int=number | 8 << 76)


_HERE = RemotePath(b".")


def _name(path: RemotePath) -> RemotePath:
    return path.name or _HERE


def mv(source: RemotePath, target: RemotePath) -> Script:
    """Move a file, a directory or a link; into the target if that is a directory."""
    return Script("transfer-mv", {}, _MV, {"source": source, "target": target, "name": _name(source)})


def cp(source: RemotePath, target: RemotePath, *, dereference: bool = False) -> Script:
    """Copy a file or a tree with modes and times; into the target if that is a directory.

    Args:
        source: What to copy.
        target: The copy, or the directory to put it into.
        dereference: Copy what symbolic links point to.
    """
    paths = {"source": source, "target": target, "name": _name(source)}
    return Script("transfer-cp", {"follow": "-L" if dereference else ""}, _CP, paths)


def rm(path: RemotePath) -> Script:
    """Remove a file or a tree."""
    return Script("transfer-rm", {}, _RM, {"source": path})


def compress(
    source: RemotePath,
    target: RemotePath,
    *,
    compression: Compression = "gzip",
    pattern: str | None = None,
    dereference: bool = False,
) -> Script:
    """Put a file or a directory into an archive that holds its last component.

    Args:
        source: What to pack.
        target: The archive; one that exists is replaced.
        compression: How it is compressed.
        pattern: Pack only the files below the source directory whose path, which begins with ``./``, matches this
            regular expression of find(1).
        dereference: Pack what symbolic links point to.
    """
    parent, _, _ = source.rstrip(b"/").rpartition(b"/")
    paths = {
        "source": source,
        "target": target,
        "directory": RemotePath(parent or b"/"),
        "name": _name(source),
        "member": _member(source, target, pattern),
    }
    values = {
        "pattern": pattern or "",
        "option": _TAR_OPTIONS[compression],
        "follow": "-h" if dereference else "",
    }
    return Script("transfer-compress", values, _COMPRESS, paths)


def _member(source: RemotePath, target: RemotePath, pattern: str | None) -> RemotePath:
    """Return the name that the target has as a member of its own archive; no member has the name ``/``."""
    top = source.rstrip(b"/") + b"/"
    if not target.startswith(top):
        return RemotePath(b"/")
    return RemotePath(b"%b/%b" % (_HERE if pattern else _name(source), target.removeprefix(top)))


def extract(source: RemotePath, target: RemotePath, *, compression: Compression = "gzip") -> Script:
    """Unpack an archive into a directory, which must exist."""
    values = {"option": _TAR_OPTIONS[compression]}
    return Script("transfer-extract", values, _EXTRACT, {"source": source, "target": target})


class TransferJobs:
    """Runs scripts as transfer jobs of one system."""

    def __init__(
        self,
        system: str,
        work_root: str | None,
        directives: Sequence[str],
        submit: Submit,
        log_lifetime: float | None = None,
        check: Callable[[Principal, str], Awaitable[None]] | None = None,
    ) -> None:
        """Keep what there is.

        Args:
            system: The system's name.
            work_root: The file system that has ``default_work_dir``; jobs run in its directory of the user.
            directives: The scheduler's directives, ``{account}`` to be filled in.
            submit: How to submit.
            log_lifetime: Seconds after which the logs of a job are removed by a later one, None to keep them.
            check: Raises if jobs of a user must not run in a directory.
        """
        self._system = system
        self._work_root = work_root
        self._directives = tuple(directives)
        self._submit = submit
        self._log_lifetime = log_lifetime
        self._check = check

    async def run(self, principal: Principal, script: Script, account: str | None) -> TransferJob:
        """Submit a script as the user. It is asked for once: after a time-out the job may still run.

        Raises:
            UnderWay: Another request with the key has submitted one meanwhile.
            BadRequest: The directives need an account and there is none, or it cannot be one; or a value is not text.
            NotSupported: No file system of the system has ``default_work_dir``.
            SubmissionRefused: By the scheduler, in its own words.
            PermissionDenied: The directory that it would run in belongs to somebody else.
        """
        if self._work_root is None:
            raise NotSupported(
                f"{self._system} has no file system with default_work_dir, in which transfer jobs would run"
            )
        directives, rest = directives_for(self._directives, account)
        directory = f"{self._work_root.rstrip('/')}/{principal.username}"
        if self._log_lifetime is not None:
            minutes = max(1, int(self._log_lifetime // 60))
            swept = {**script.values, "log_directory": directory, "log_minutes": str(minutes)}
            script = replace(script, values=swept, body=_SWEEP + script.body)
        text = job_script(directives, script)
        if len(text.encode()) > MAX_SCRIPT:
            raise BadRequest(f"The transfer's job script would be larger than {MAX_SCRIPT} bytes.")
        if self._check is not None:
            await self._check(principal, directory)
        mark = log_mark()
        logs = JobLogs(
            output_log=f"{directory}/.f7t_file_handling_job_{mark}.log",
            error_log=f"{directory}/.f7t_file_handling_job_error_{mark}.log",
        )
        job = BatchJob(
            name=script.name,
            script=text,
            working_directory=encode_path(directory),
            standard_output=logs.output_log,
            standard_error=logs.error_log,
            account=rest,
        )
        made = TransferJob("", self._system, directory, logs)
        if (keyed := script.keyed) is not None:
            job = replace(job, key=keyed.key, memo=written(made, keyed.directives))
        return replace(made, job_id=await self._submit(principal, job))


MAX_SCRIPT = 4 * 1024 * 1024 - 1024
"""Bytes. Slurm's max_script_size is 4 MiB by default (slurm.conf, SchedulerParameters)."""
