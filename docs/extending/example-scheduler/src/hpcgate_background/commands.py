"""Pairs: what is run on the login node, and what its output means. No I/O here, so all of it is tested on text.

A job is a directory ``~/.background-jobs/ID`` with the files ``script``, ``description``, ``pid``, ``started`` and,
in the end, ``ended``: the exit status, the Unix time, and ``CANCELLED`` or ``ENDED``.
"""

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hpcgate.errors import BadRequest, JobNotFound
from hpcgate.schedulers.base import Job, JobDescription, JobMetadata, JobStatus, JobTime, Node

_SUBMIT = """\
set -eu
cd -- "$1"
name=$2 out=$3 err=$4 nice=$5
shift 5
mkdir -p -- "$HOME/.background-jobs"
id=$(date +%s%N)
job=$HOME/.background-jobs/$id
mkdir -- "$job"
cat >"$job/script"
chmod 700 "$job/script"
[ -n "$out" ] || out=$name-$id.out
[ -n "$err" ] || err=$out
case $out in /*) ;; *) out=$PWD/$out ;; esac
case $err in /*) ;; *) err=$PWD/$err ;; esac
printf '%s\\0' "$name" "$PWD" "$out" "$err" >"$job/description"
setsid nice -n "$nice" /bin/sh -c '
  job=$1 out=$2 err=$3; shift 3
  date +%s >"$job/started"
  : >"$out" && : >"$err"
  env "$@" "$job/script" >>"$out" 2>>"$err"
  echo "$? $(date +%s) ENDED" >"$job/ended.new" && mv -- "$job/ended.new" "$job/ended"
' sh "$job" "$out" "$err" "$@" </dev/null >/dev/null 2>&1 &
echo "$!" >"$job/pid"
echo "$id"
"""

_LIST = """\
cd -- "$HOME/.background-jobs" 2>/dev/null || exit 0
[ $# -gt 0 ] || set -- *
for id; do
  [ -f "$id/pid" ] || continue
  alive=no; kill -0 "$(cat "$id/pid")" 2>/dev/null && alive=yes
  printf '%s\\0' "$id" "$alive" "$(cat "$id/started" 2>/dev/null)" "$(cat "$id/ended" 2>/dev/null)"
  cat "$id/description"
done
"""

_CANCEL = """\
cd -- "$HOME/.background-jobs/$1" 2>/dev/null || exit 3
[ ! -f ended ] || exit 0
kill -TERM "-$(cat pid)" 2>/dev/null
echo "143 $(date +%s) CANCELLED" >ended.new && mv -- ended.new ended
"""
UNKNOWN = 3
"""Exit status of `cancel_command` for a job that does not exist."""

NODE = ("sh", "-c", "nproc; hostname; cut -d ' ' -f 1 /proc/loadavg")
PING = ("sh", "-c", "command -v setsid")

_FIELDS = 8
_ID = re.compile(r"[0-9]{10,30}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def job_id(text: str) -> str:
    """Return a job id that may stand in a command.

    Raises:
        JobNotFound: It is none.
    """
    if not _ID.fullmatch(text):
        raise JobNotFound(text)
    return text


def submit_command(job: JobDescription, nice: int) -> list[str]:
    """Return the command that starts a job; it reads the script.

    An argument list, never a shell line: hpcgate quotes it. What comes from the user is an argument, never a script.

    Raises:
        BadRequest: The name of an environment variable is none.
    """
    variables = []
    for name, value in job.environment.items():
        if not _VARIABLE.fullmatch(name):
            raise BadRequest(f"Not a valid name of an environment variable: {name!r}")
        variables.append(f"{name}={value}")
    name = (job.name or "job").replace("/", "_")
    streams = [job.standard_output or "", job.standard_error or ""]
    return ["sh", "-c", _SUBMIT, "sh", job.working_directory, name, *streams, str(nice), *variables]


def list_command(ids: Sequence[str] = ()) -> list[str]:
    """Return the command that lists some jobs, or all."""
    return ["sh", "-c", _LIST, "sh", *ids]


def cancel_command(identifier: str) -> list[str]:
    """Return the command that cancels a job."""
    return ["sh", "-c", _CANCEL, "sh", identifier]


def script_command(identifier: str) -> list[str]:
    """Return the command that prints the script of a job."""
    return ["sh", "-c", 'exec cat -- "$HOME/.background-jobs/$1/script"', "sh", identifier]


@dataclass(frozen=True, slots=True)
class Row:
    """A job as `list_command` prints it."""

    id: str
    alive: bool
    started: int | None
    ended: tuple[int, int, str] | None
    name: str
    directory: str
    output: str
    error: str

    def job(self, system: str, user: str, now: float) -> Job:
        """Return the job."""
        status, end, how = self.ended or (None, None, "")
        if self.ended is not None:
            state = "CANCELLED" if how == "CANCELLED" else "FAILED" if status else "COMPLETED"
        elif self.started is None:
            state = "PENDING"
        else:
            state = "RUNNING" if self.alive else "NODE_FAIL"
        elapsed = None if self.started is None else max(0, int(end or now) - self.started)
        return Job(
            job_id=self.id,
            name=self.name,
            status=JobStatus(state, exit_code=status, interrupt_signal=15 if state == "CANCELLED" else None),
            time=JobTime(elapsed=elapsed, start=self.started, end=end),
            allocation_nodes=1,
            cluster=system,
            nodes="localhost",
            partition="background",
            user=user,
            working_directory=self.directory,
        )

    def metadata(self, script: str | None) -> JobMetadata:
        """Return what was submitted."""
        return JobMetadata(
            self.id,
            script=script,
            standard_input="/dev/null",
            standard_output=posixpath.join(self.directory, self.output),
            standard_error=posixpath.join(self.directory, self.error),
        )


def parse_list(output: str) -> Iterator[Row]:
    """Yield the jobs that `list_command` printed; a row that cannot be read is left out."""
    fields = output.split("\0")[:-1]
    for start in range(0, len(fields) - _FIELDS + 1, _FIELDS):
        identifier, alive, started, ended, name, directory, out, err = fields[start : start + _FIELDS]
        try:
            status, _, rest = ended.partition(" ")
            time, _, how = rest.partition(" ")
            end = (int(status), int(time), how) if ended else None
            yield Row(identifier, alive == "yes", int(started) if started else None, end, name, directory, out, err)
        except ValueError:
            continue


def parse_node(output: str) -> tuple[Node, ...]:
    """Return the login node as a compute node."""
    cpus, host, load = [*output.splitlines(), "", "", ""][:3]
    if not cpus.isdigit() or not host:
        return ()
    busy = float(load) if re.fullmatch(r"\d+(\.\d+)?", load) else 0.0
    return (Node(name=host, cpus=int(cpus), state=("MIXED" if busy >= 1 else "IDLE",), cpu_load=busy),)
