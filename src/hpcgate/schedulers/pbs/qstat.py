"""qstat: jobs, queues and the server.

With ``-u`` it prints a table before its JSON, or refuses, so a user's jobs are found by qselect. ``TZ`` is set for it,
since it writes times in the zone of whoever runs it. OpenPBS 23.06 Reference Guide, "qstat".

Several ids are asked for by ``-E``: then qstat sends them to the server in one request, which answers for all that it
knows and says nothing of the others (pbs_statjob(3B); req_stat_job of OpenPBS's server). Without it each id is a
request of its own, of which the development head prints the first one's answer only:
https://github.com/openpbs/openpbs/issues/2672
"""

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from hpcgate.schedulers import reading
from hpcgate.schedulers.base import Job, JobMetadata, JobStatus, JobTime, Partition, usage_of
from hpcgate.schedulers.pbs import exits, values
from hpcgate.schedulers.pbs.documents import Attributes, items, text, timestamp
from hpcgate.schedulers.pbs.job_ids import JobId

ENVIRONMENT: Mapping[str, str] = {"TZ": "UTC0"}
"""Times come in UTC, so that none falls into an hour that a time zone has twice."""

FINISHED = frozenset({"F", "M", "X"})
"""States that a job does not leave: finished, moved to another server, a subjob that has ended."""

ENDING = FINISHED | {"E"}
"""States of a job that has ended or is about to."""

STARTED = frozenset({"B", "E", "F", "R", "S", "U", "X"})
"""States in which the start time is one, and no remains of an earlier run."""

SERVER = ("qstat", "-B", "-f", "-F", "json")
QUEUES = ("qstat", "-Q", "-f", "-F", "json")

GONE = (35, 153)
"""Exit statuses that say that one of the jobs asked for has finished or is unknown; the others are printed."""

_OWN = (
    'set -f; user=$1; express=$2; shift 2; ids=$(qselect "$@" -u "$user") || exit; [ -n "$ids" ] || exit 0; '
    'printf "%s\\n" $ids; exec qstat "$@" $express -f -F json $ids'
)
_EACH = 'set -f; while read -r id; do qstat "$@" -f -F json "$id"; done'

Parsed = TypeVar("Parsed")


EXPRESS = "-E"

USAGE = 2
"""Exit status for options that qstat does not know."""


def own_command(user: str, *, history: bool, express: bool) -> list[str]:
    """Return the command that lists a user's jobs: first the ids, a line each, then the documents."""
    return ["sh", "-c", _OWN, "qselect", user, EXPRESS if express else "", *(["-x"] if history else [])]


def all_command(*, history: bool) -> list[str]:
    """Return the command that lists everybody's jobs."""
    return ["qstat", *(["-x"] if history else []), "-f", "-F", "json"]


def jobs_command(ids: Sequence[JobId], *, history: bool, express: bool, subjobs: bool = False) -> list[str]:
    """Return the command that shows jobs by id."""
    options = [*(["-x"] if history else []), *(["-t"] if subjobs else [])]
    options += [EXPRESS] if express and len(ids) > 1 else []
    return ["qstat", *options, "-f", "-F", "json", *(job_id.argument for job_id in ids)]


def each_command(*, history: bool, subjobs: bool = False) -> list[str]:
    """Return the command that shows jobs one by one; it reads their ids, a line each."""
    return ["sh", "-c", _EACH, "qstat", *(["-x"] if history else []), *(["-t"] if subjobs else [])]


_LISTED = re.compile(r"^([0-9]+(?:\[\])?\.\S+)$", re.MULTILINE)


def parse_ids(output: str) -> list[str]:
    """Return the ids that `own_command` printed before the documents."""
    return _LISTED.findall(output.partition("\n{")[0])


_UNKNOWN = re.compile(r"(?:Unknown Job Id|illegally formed job identifier:) (\S+)")


def parse_unknown(words: str) -> list[JobId]:
    """Return the ids that qstat says it does not know."""
    return [job_id for text in _UNKNOWN.findall(words) if (job_id := JobId.read(text)) is not None]


def parse_jobs(output: str) -> list[Job]:
    """Return the jobs of the documents, each once, in the order of their ids."""
    now = timestamp(output)
    found = _rows("qstat", items(output, "Jobs"), lambda name, attributes: _job(name, attributes, now))
    return sorted({job.job_id: job for job in found}.values(), key=_order)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job and the command line that submitted it.

    Attributes:
        job_id: Its id.
        arguments: What stood behind ``qsub``, joined by blanks.
    """

    job_id: str
    arguments: str


def parse_submitted(output: str) -> list[Submitted]:
    """Return how the jobs of the documents were submitted."""
    return [Submitted(name, text(attributes, "Submit_arguments") or "") for name, attributes in items(output, "Jobs")]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job and those that it waits for.

    Attributes:
        job_id: Its id.
        others: Their ids.
    """

    job_id: str
    others: tuple[JobId, ...]


def parse_waiting(output: str) -> list[Waiting]:
    """Return what the jobs of the documents wait for: ``afterok:0.vm@vm:1.vm@vm,beforeok:4.vm@vm``."""
    return [Waiting(name, _awaited(text(attributes, "depend") or "")) for name, attributes in items(output, "Jobs")]


def _awaited(depend: str) -> tuple[JobId, ...]:
    kinds = (kind.split(":") for kind in depend.split(",") if kind.startswith("after"))
    found = (JobId.read(one.partition("@")[0]) for _, *ids in kinds for one in ids)
    return tuple(job_id for job_id in found if job_id is not None)


def parse_metadata(output: str) -> list[JobMetadata]:
    """Return the standard streams of the jobs of the documents."""
    found = _rows("qstat", items(output, "Jobs"), _metadata)
    return list({metadata.job_id: metadata for metadata in found}.values())


def parse_server(output: str) -> str | None:
    """Return the server's state, or None if there is no server in the document."""
    for _, attributes in items(output, "Server"):
        return text(attributes, "server_state") or "Unknown"
    return None


_RESERVATION_QUEUE = re.compile(r"[RSM][0-9]+")

STATES = frozenset("BEFHMQRSTUWX")
"""Of jobs: qstat(1B), job states."""

_QUEUE_STATES: Mapping[tuple[bool, bool], str] = {
    (True, True): "UP",
    (True, False): "DOWN",
    (False, True): "DRAIN",
    (False, False): "INACTIVE",
}
"""By whether jobs may be submitted (enabled) and may start (started), in Slurm's words for the same."""


def parse_queues(output: str, *, show_hidden: bool) -> tuple[Partition, ...]:
    """Return the queues. Those that belong to reservations are hidden."""
    found = _rows("qstat", items(output, "Queue"), _queue)
    return tuple(queue for queue in found if show_hidden or not _RESERVATION_QUEUE.fullmatch(queue.name))


def _queue(name: str, attributes: Attributes) -> Partition:
    switches = tuple((text(attributes, switch) or "").lower() for switch in ("enabled", "started"))
    if not all(switch in ("true", "false") for switch in switches):
        raise ValueError("neither enabled nor disabled")
    enabled, started = (switch == "true" for switch in switches)
    return Partition(
        name=name,
        state=_QUEUE_STATES[enabled, started],
        cpus=values.integer(text(attributes, "resources_available", "ncpus")),
        total_nodes=values.integer(text(attributes, "resources_available", "nodect")),
    )


def _rows(
    tool: str, entries: Iterable[tuple[str, Attributes]], parse: Callable[[str, Attributes], Parsed]
) -> list[Parsed]:
    """Parse each entry; one that cannot be parsed is logged and skipped."""
    return reading.rows("pbs.row_skipped", tool, entries, lambda entry: parse(*entry), lambda entry: entry[0])


def _order(job: Job) -> tuple[int, int]:
    job_id = JobId.read(job.job_id)
    return (0, 0) if job_id is None else job_id.order


def _job(name: str, attributes: Attributes, now: int | None) -> Job:
    if JobId.read(name) is None:
        raise ValueError("no job id")
    state = text(attributes, "job_state")
    if state is None:
        raise ValueError("no state")
    owner = text(attributes, "Job_Owner")
    hosts = values.hosts(text(attributes, "exec_host")) if state in STARTED else ()
    ended = state in FINISHED
    status = values.integer(text(attributes, "Exit_status")) if ended else None
    reason = text(attributes, "comment")
    if status is not None and status in exits.REASONS:
        reason = exits.REASONS[status] + (f" ({reason})" if reason else "")
    time = _time(attributes, state, now)
    return Job(
        job_id=name,
        name=text(attributes, "Job_Name") or "",
        status=JobStatus(
            state=state,
            state_reason=reason,
            exit_code=status,
            interrupt_signal=exits.interrupt_signal(status),
        ),
        time=time,
        allocation_nodes=len(hosts),
        cluster=text(attributes, "server") or JobId.parse(name).server or "",
        nodes=",".join(hosts) or "None assigned",
        partition=text(attributes, "queue") or "",
        user=owner.partition("@")[0] if owner else None,
        working_directory=_working_directory(attributes),
        account=text(attributes, "Account_Name"),
        priority=values.integer(text(attributes, "Priority")),
        usage=None
        if time.start is None
        else usage_of(
            cpu_seconds=values.duration(text(attributes, "resources_used", "cput")),
            memory_peak=values.size(text(attributes, "resources_used", "mem")),
            nodes=len(hosts),
            elapsed=time.elapsed,
        ),
    )


def _time(attributes: Attributes, state: str, now: int | None) -> JobTime:
    start = values.epoch(text(attributes, "stime")) if state in STARTED else None
    end = None
    if state in FINISHED:
        end = (
            values.epoch(text(attributes, "obittime"))
            or values.integer(text(attributes, "history_timestamp"))
            or values.epoch(text(attributes, "mtime"))
        )
    used = values.duration(text(attributes, "resources_used", "walltime"))
    until = end if state in FINISHED else now
    elapsed = 0
    if start is not None:
        # The server learns of the time used every few minutes only, but it knows of suspensions.
        counted = state in FINISHED or state in ("S", "U")
        elapsed = used if counted and used is not None else max(0, until - start) if until is not None else used or 0
    return JobTime(
        elapsed=elapsed,
        start=start,
        end=end,
        limit=values.duration(text(attributes, "Resource_List", "walltime")),
    )


_QUOTED = re.compile(r"\\([\"',\\])")
_HIDDEN_DIRECTORY = re.compile(r"(?:^|,)PBS_O_WORKDIR=((?:[^,\\]|\\.)*)", re.DOTALL)


def _working_directory(attributes: Attributes) -> str:
    """Return the directory of the submission, without the backslashes that qsub writes before quotes and commas.

    23.06.06 lets a variable without value swallow the next one.
    """
    directory = text(attributes, "Variable_List", "PBS_O_WORKDIR")
    if directory is not None:
        return _QUOTED.sub(r"\1", directory)
    variables = attributes.get("Variable_List")
    for value in variables.values() if isinstance(variables, dict) else ():
        match = _HIDDEN_DIRECTORY.search(value) if isinstance(value, str) else None
        if match is not None:
            return _QUOTED.sub(r"\1", match[1])
    return ""


def _metadata(name: str, attributes: Attributes) -> JobMetadata:
    job_id = JobId.read(name)
    if job_id is None:
        raise ValueError("no job id")
    output = _stream(attributes, "Output_Path", "OU", job_id)
    error = _stream(attributes, "Error_Path", "ER", job_id)
    joined = text(attributes, "Join_Path") or "n"
    if joined.startswith("oe"):
        error = output
    elif joined.startswith("eo"):
        output = error
    return JobMetadata(name, standard_output=output, standard_error=error)


def _stream(attributes: Attributes, attribute: str, suffix: str, job_id: JobId) -> str | None:
    path = values.path(text(attributes, attribute))
    if path is None:
        return None
    if job_id.index is not None:
        path = path.replace("^array_index^", job_id.index)
    path = posixpath.join(_working_directory(attributes), path)
    if path.endswith("/"):
        # In a directory the file is named after the job: User's Guide, "Paths for output and error files".
        server = text(attributes, "server") or job_id.server
        path += f"{replace(job_id, server=server).argument}.{suffix}"
    return path
