"""sacct: the jobs that the accounting database knows, with their steps.

``--parsable2`` with a delimiter of one's own, not ``--json``: that of 22.05 reports a job that failed with exit status
3 as SUCCESS with 0. https://slurm.schedmd.com/sacct.html
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hpcgate.schedulers.base import Job, JobStatus, JobTask, JobTime, Usage, usage_of
from hpcgate.schedulers.slurm import values
from hpcgate.schedulers.slurm.delimiters import parse_rows
from hpcgate.schedulers.slurm.job_ids import addressable, arguments
from hpcgate.schedulers.slurm.records import Record, Selection
from hpcgate.schedulers.slurm.states import ENDED, LISTED
from hpcgate.schedulers.slurm.version import PLAIN_SCRIPTS, SACCT_STREAMS

ENVIRONMENT: Mapping[str, str] = {"TZ": "UTC", "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
"""Times in Unix seconds, and the expressions of array tasks in full."""

FIELDS = (
    "JobID", "JobIDRaw", "JobName", "User", "UID", "Group", "Account", "Cluster", "Partition", "State", "ExitCode",
    "Reason", "Submit", "Start", "End", "Suspended", "TimelimitRaw", "AllocNodes", "NodeList", "Priority", "WorkDir",
    "ElapsedRaw",
)  # fmt: skip
"""The last is a number, so that the newline after it is certain to end a row."""
USED = ("TotalCPU", "MaxRSS", "ConsumedEnergyRaw")
"""What jobs have cost, of single jobs only: a list of very many is long enough."""


def columns(selection: Selection) -> tuple[str, ...]:
    """Return the fields that are asked for of the selected jobs."""
    return FIELDS if selection.ids is None else (*FIELDS[:-1], *USED, FIELDS[-1])


def select(selection: Selection) -> list[str]:
    """Return the options that ask for the selected jobs."""
    options = []
    if selection.ids is not None:
        options.append("--jobs=" + arguments(selection.ids))
    elif selection.user is None:
        options.append("--allusers")
    else:
        options.append(f"--user={selection.user}")
    if selection.account is not None:
        options.append(f"--accounts={selection.account}")
    if selection.ids is None and selection.window is not None:
        # The jobs that were in one of the states at some time since: all that had not ended by then.
        states = (*LISTED, "REQUEUED") if selection.duplicates else LISTED
        options += [f"--starttime=now-{selection.window}", "--endtime=now", "--state=" + ",".join(states)]
    if selection.duplicates:
        options.append("--duplicates")
    return options


def command(selection: Selection, mark: str, fields: Sequence[str] = FIELDS, *, steps: bool = True) -> list[str]:
    """Return the command that lists the selected jobs, `mark` between the columns.

    The heading is asked for: by it an empty list is told from words of a program in sacct's place (`answers`).
    """
    options = ["--parsable2", f"--delimiter={mark}", *select(selection)]
    return ["sacct", *options, *([] if steps else ["--allocations"]), "--format=" + ",".join(fields)]


def answers(output: bytes, mark: str) -> bool:
    """Return whether sacct itself has printed this: a row, be it the heading alone."""
    return mark.encode() in output


_NUMBER = re.compile(rb"[0-9][0-9_.+\[\]:,%-]*")


def whole(output: bytes, mark: str) -> bool:
    """Return whether the last line that was begun has an end; a list that breaks off is none.

    Words that a wrapper prints behind the list are none of its lines.
    """
    rest = output.rpartition(b"\n")[2]
    return mark.encode() not in rest and not _NUMBER.fullmatch(rest)


def lists(output: bytes, mark: str) -> bool:
    """Return whether there is any row but the heading, which is one that begins with a number, as jobs' ids do."""
    return any(mark in line and line[0].isdigit() for line in output.decode("utf-8", "replace").split("\n") if line)


def parse(text: str, mark: str, fields: Sequence[str] = FIELDS) -> list[Record]:
    """Return the jobs that `command` printed, each with its steps as tasks."""
    places = {name: place for place, name in enumerate(fields)}
    rows = parse_rows("sacct", rows_of(text, mark, len(fields)), len(fields), lambda row: _row(row, places))
    records: dict[tuple[str, int | None], Record] = {}
    steps: dict[tuple[str, int | None], list[_Step]] = {}
    runs: dict[str, tuple[str, int | None]] = {}
    for row in rows:
        if isinstance(row, _Step):
            # Each run of a job that was requeued is followed by its own steps.
            shown = row.task.id.partition(".")[0]
            steps.setdefault(runs.get(shown, (shown, None)), []).append(row)
        else:
            records[row.raw, row.submitted] = row
            runs[row.job.job_id] = row.raw, row.submitted
    return [_with_steps(record, steps.get(key, ())) for key, record in records.items()]


@dataclass(frozen=True, slots=True)
class _Step:
    """A row of a step.

    Attributes:
        memory: Bytes of its task that held most.
        energy: Joules.
    """

    task: JobTask
    memory: int | None
    energy: int | None


def _with_steps(record: Record, steps: Sequence[_Step]) -> Record:
    """Return a job with its steps; memory is recorded of them alone, and energy may be."""
    if not steps:
        return record
    usage = record.job.usage
    if usage is not None:
        peak = max((step.memory for step in steps if step.memory), default=None)
        usage = replace(usage, memory_peak=peak, energy=usage.energy or sum(step.energy or 0 for step in steps) or None)
    return replace(record, job=replace(record.job, tasks=tuple(step.task for step in steps), usage=usage))


_ROW_END = re.compile(r"\d*\n\d[\d_\[\],:%+.a-zA-Z-]*")


def rows_of(text: str, mark: str, width: int) -> Iterator[Sequence[str]]:
    """Yield the columns of each row of sacct's output whose last column is a number.

    Nothing but their number tells a row's columns from the next row's: the last column, a newline and the first column
    of the next row stand between the same two marks. A row with more columns lasts until one ends as it should.
    """
    # The heading goes, and what a wrapper prints before it.
    _, heading, rows = text.partition(f"{mark}{FIELDS[-1]}\n")
    if heading:
        text = rows
    if not text:
        return
    row: list[str] = []
    for token in text.removesuffix("\n").split(mark):
        last, newline, first = token.partition("\n")
        if newline and (len(row) == width - 1 or (len(row) >= width and _ROW_END.fullmatch(token))):
            yield [*row, last]
            row = [first]
        else:
            row.append(token)
    yield row


def _row(row: Sequence[str], places: Mapping[str, int]) -> Record | _Step:
    column = {name: row[place] for name, place in places.items()}
    shown = addressable(column["JobID"])
    if not ("0" <= shown[:1] <= "9"):
        raise ValueError("no job")
    state, _, killer = column["State"].partition(" by ")
    if not state:
        raise ValueError("no state")
    state = state.rstrip("+")
    # What has not ended is shown with 0:0.
    exit_status, signal = values.exit_code(column["ExitCode"]) if state in ENDED else (None, None)
    status = JobStatus(
        state=state,
        state_reason=values.text(column.get("Reason", "")),
        exit_code=exit_status,
        interrupt_signal=signal,
    )
    time = JobTime(
        elapsed=values.integer(column["ElapsedRaw"]),
        start=values.epoch(column["Start"]),
        end=values.epoch(column["End"]),
        suspended=values.duration(column["Suspended"]),
        limit=values.minutes(column["TimelimitRaw"]),
    )
    if "." in shown:
        task = JobTask(id=shown, name=column["JobName"], status=status, time=time)
        return _Step(task, values.size(column.get("MaxRSS", "")), values.integer(column.get("ConsumedEnergyRaw", "")))
    user = values.text(column["User"])
    nodes = values.integer(column["AllocNodes"]) or 0
    job = Job(
        job_id=shown,
        name=column["JobName"],
        status=status,
        time=time,
        allocation_nodes=nodes,
        cluster=column["Cluster"],
        nodes=column["NodeList"],
        partition=column["Partition"],
        user=user,
        working_directory=column["WorkDir"],
        account=values.text(column["Account"]),
        group=values.text(column["Group"]),
        kill_request_user=_killer(killer, user, column.get("UID", "")) if killer else None,
        priority=values.priority(column["Priority"]),
        usage=_usage(column, time, nodes) if "TotalCPU" in column else None,
    )
    return Record(job, column.get("JobIDRaw", shown), values.epoch(column.get("Submit", "")))


def _usage(column: Mapping[str, str], time: JobTime, nodes: int) -> Usage | None:
    """Return what a job's own row says of what it has cost; nothing of one that never began."""
    if time.start is None:
        return None
    return usage_of(
        cpu_seconds=values.seconds(column["TotalCPU"]),
        nodes=nodes,
        elapsed=time.elapsed,
        energy=values.integer(column["ConsumedEnergyRaw"]),
    )


def _killer(killer: str, user: str | None, uid: str) -> str:
    """Return who cancelled a job by name where that is known without asking: its owner or root; else the number."""
    if killer == "0":
        return "root"
    return user if user is not None and killer == uid else killer


# Names: the database turns a double quote in a name into a backtick; the submit line keeps it.

NAME_FIELDS = ("JobIDRaw", "SubmitLine", "ElapsedRaw")


def quoted_name(stored: str, submit_line: str) -> str:
    """Return a job's name with the double quotes that the database took from it, if its submit line shows them.

    >>> quoted_name("a `b`", 'sbatch --job-name=a "b" --parsable')
    'a "b"'
    """
    pattern = "".join('[`"]' if character == "`" else re.escape(character) for character in stored)
    match = re.search(rf" (?:--job-name[= ]|-J ?)({pattern})(?: |$)", submit_line)
    return match[1] if match else stored


def renamed(record: Record, submit_line: str) -> Record:
    """Return the job with its name as `quoted_name` finds it."""
    name = quoted_name(record.job.name, submit_line)
    return replace(record, job=replace(record.job, name=name))


def parse_submit_lines(text: str, mark: str) -> dict[str, str]:
    """Return the submit lines of `NAME_FIELDS` by the raw id of the job."""
    rows = rows_of(text, mark, len(NAME_FIELDS))
    return dict(parse_rows("sacct", rows, len(NAME_FIELDS), lambda row: (row[0], row[1])))


# Standard streams and scripts.


@dataclass(frozen=True, slots=True)
class RecordedStreams:
    """The standard streams of a job as the database has them: relative or not, patterns not expanded."""

    raw: str
    stdin: str | None
    stdout: str | None
    stderr: str | None


def stream_fields(version: tuple[int, int]) -> tuple[str, ...]:
    """Return the fields that tell the standard streams, none before 24.05."""
    return ("JobIDRaw", "StdIn", "StdOut", "StdErr", "ElapsedRaw") if version >= SACCT_STREAMS else ()


def parse_streams(text: str, mark: str) -> list[RecordedStreams]:
    """Return the standard streams of `stream_fields`."""

    def streams(row: Sequence[str]) -> RecordedStreams:
        return RecordedStreams(row[0], *(values.text(column) for column in row[1:4]))

    return parse_rows("sacct", rows_of(text, mark, 5), 5, streams)


def script_command(job_id: str) -> list[str]:
    """Return the command that prints the script of a job, where the site stores scripts.

    Of an array, or of the leader of a heterogeneous job, it prints one for each task or component. Each has a heading,
    by which they are told apart; with ``--noheader`` it had none from 23.11 on.
    """
    return ["sacct", "--parsable2", "--batch-script", f"--jobs={job_id}"]


_SCRIPT_HEAD = re.compile(rb"^Batch Script for [0-9][^\n]{0,200}\n-{80}\n", re.MULTILINE)


def parse_script(output: bytes, release: tuple[int, int]) -> bytes | None:
    """Return the (first) script that `script_command` printed, or None if there is none.

    Up to 23.02 there is an empty line after each.
    """
    body = output
    first = _SCRIPT_HEAD.match(output)
    if first is not None:
        following = _SCRIPT_HEAD.search(output, first.end())
        body = output[first.end() : following.start() if following else None]
        if release < PLAIN_SCRIPTS:
            body = body.removesuffix(b"\n")
    return None if body.strip() in (b"", b"NONE") else body
