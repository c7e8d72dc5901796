"""squeue: the jobs that the controller knows.

The text form with a mark of one's own between the columns, not ``--json``: of 22.05 that ignores ``--jobs`` and
``--user``, so that each read would take the jobs of everybody, and it takes six times as long and prints seven times as
much (benchmarks/listing.md).
https://slurm.schedmd.com/squeue.html
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hpcgate.schedulers.base import Job, JobStatus, JobTime
from hpcgate.schedulers.slurm import values
from hpcgate.schedulers.slurm.delimiters import parse_rows
from hpcgate.schedulers.slurm.job_ids import addressable, arguments
from hpcgate.schedulers.slurm.records import Record, Selection
from hpcgate.schedulers.slurm.states import ENDED, WAITING

ENVIRONMENT: Mapping[str, str] = {"TZ": "UTC", "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
"""Times in Unix seconds, and the expressions of array tasks in full."""

COLUMNS = ("%i", "%A", "%T", "%r", "%M", "%l", "%V", "%S", "%e", "%D", "%N", "%Q", "%u", "%g", "%a", "%P", "%Z", "%j")


def select(selection: Selection) -> list[str]:
    """Return the options that ask for the selected jobs, ended ones that the controller still knows included."""
    options = ["--all", "--states=all"]
    if selection.ids is not None:
        options.append("--jobs=" + arguments(selection.ids))
    if selection.user is not None:
        options.append(f"--user={selection.user}")
    if selection.account is not None:
        options.append(f"--account={selection.account}")
    return options


def command(selection: Selection, mark: str) -> list[str]:
    """Return the command that lists the selected jobs; `mark` stands between its columns.

    The heading is asked for: by it an empty list is told from words of a program in squeue's place (`answers`).
    """
    return ["squeue", *select(selection), "--format=" + format_of(COLUMNS, mark)]


def format_of(columns: Sequence[str], mark: str) -> str:
    """Return the format of a list: each row has a beginning and an end of its own, whatever else is printed."""
    row, column, end = _marks(mark)
    return row + column.join(columns) + end


def answers(output: bytes, mark: str) -> bool:
    """Return whether squeue itself has printed this: a row, be it the heading alone."""
    return _marks(mark)[0].encode() in output


def whole(output: bytes, mark: str) -> bool:
    """Return whether the last row that was begun has an end; a list that breaks off is none."""
    row, _, end = _marks(mark)
    return output.rfind(end.encode()) > output.rfind(row.encode())


def lists(output: bytes, mark: str) -> bool:
    """Return whether there is any row but the heading."""
    return any(True for _ in rows_of(output.decode("utf-8", "replace"), mark))


def rows_of(text: str, mark: str) -> Iterator[Sequence[str]]:
    """Yield the columns of each row but the heading."""
    row, column, end = _marks(mark)
    for place, chunk in enumerate(text.split(row)[1:]):
        columns = chunk.partition(end)[0].removesuffix("\n").split(column)
        if place or columns[0].strip() != _HEADING:
            yield columns


_HEADING = "JOBID"
"""The heading of ``%i`` and ``%A``, one of which each listing begins with."""


def parse(text: str, mark: str, cluster: str = "") -> list[Record]:
    """Return the jobs that `command` printed. `cluster` is the name of the cluster, which squeue does not say."""
    return parse_rows("squeue", rows_of(text, mark), len(COLUMNS), lambda columns: _record(columns, cluster))


def _marks(mark: str) -> tuple[str, str, str]:
    """Return what stands before a row, between its columns and behind it."""
    return mark + ";", mark + ",", mark + "."


def _record(columns: Sequence[str], cluster: str) -> Record:
    (
        shown, raw, state, reason, elapsed, limit, submitted, start, end, count, nodes, priority, user, group, account,
        partition, directory, name,
    ) = columns  # fmt: skip
    if not (raw.isascii() and raw.isdigit()) or not state:
        raise ValueError("no job")
    waiting, ended = state in WAITING, state in ENDED
    status = JobStatus(state=state, state_reason=values.text(reason), exit_code=0 if state == "COMPLETED" else None)
    job = Job(
        job_id=addressable(shown),
        name=name,
        status=status,
        time=JobTime(
            elapsed=values.duration(elapsed) or 0,
            start=None if waiting else values.epoch(start),
            end=values.epoch(end) if ended else None,
            limit=values.duration(limit),
        ),
        allocation_nodes=0 if waiting or not nodes else values.integer(count) or 0,
        cluster=cluster,
        nodes=values.text(nodes) or "None assigned",
        partition=partition,
        user=values.text(user),
        working_directory=directory,
        account=values.text(account),
        group=values.text(group),
        priority=values.priority(priority),
    )
    return Record(job, raw, values.integer(submitted))


# The exit status and the standard streams: columns that only --Format has, of a fixed width.

_NUMBER_WIDTH, _PATH_WIDTH = 24, 2048


def exit_command(selection: Selection, mark: str) -> list[str]:
    """Return the command that tells how ended jobs ended."""
    return ["squeue", "--noheader", *select(selection), "--Format=" + _fixed(mark, ("JobID", "exit_code"), ())]


def parse_exits(text: str, mark: str) -> dict[str, tuple[int | None, int | None]]:
    """Return exit status and signal by the raw id of the job."""

    def exits(columns: Sequence[str]) -> tuple[str, tuple[int | None, int | None]]:
        return columns[0], values.wait_status(columns[1])

    return dict(parse_rows("squeue", _fixed_rows(text, mark, 2), 2, exits))


Ended = tuple[int | None, int | None, int | None]
"""Exit status, signal, and how often a job was requeued."""


def closer_command(selection: Selection, mark: str) -> list[str]:
    """Return the command that tells how jobs ended, and how often they were requeued."""
    columns = ("JobID", "exit_code", "RestartCnt")
    return ["squeue", "--noheader", *select(selection), "--Format=" + _fixed(mark, columns, ())]


def parse_closer(text: str, mark: str) -> dict[str, Ended]:
    """Return what `closer_command` tells by the raw id of the job."""

    def told(columns: Sequence[str]) -> tuple[str, Ended]:
        exit_status, signal = values.wait_status(columns[1])
        return columns[0], (exit_status, signal, values.integer(columns[2].strip()))

    return dict(parse_rows("squeue", _fixed_rows(text, mark, 3), 3, told))


@dataclass(frozen=True, slots=True)
class CurrentStreams:
    """The standard streams of a job as the controller has them; None for a path that does not fit the column."""

    raw: str
    stdin: str | None
    stdout: str | None
    stderr: str | None


def streams_command(selection: Selection, mark: str) -> list[str]:
    """Return the command that tells the standard streams of jobs."""
    return [
        "squeue",
        "--noheader",
        *select(selection),
        "--Format=" + _fixed(mark, ("JobID",), ("STDIN", "STDOUT", "STDERR")),
    ]


def parse_streams(text: str, mark: str) -> list[CurrentStreams]:
    """Return the standard streams that `streams_command` printed."""

    def path(column: str) -> str | None:
        shown = column.rstrip(" ")
        return None if len(shown.encode()) >= _PATH_WIDTH else values.text(shown)

    def streams(columns: Sequence[str]) -> CurrentStreams:
        return CurrentStreams(columns[0], *(path(column) for column in columns[1:]))

    return parse_rows("squeue", _fixed_rows(text, mark, 4), 4, streams)


def _fixed(mark: str, numbers: Sequence[str], paths: Sequence[str]) -> str:
    widths = [(name, _NUMBER_WIDTH) for name in numbers] + [(name, _PATH_WIDTH) for name in paths]
    return ",".join(f"{name}:{width}{mark}" for name, width in widths)


def _fixed_rows(text: str, mark: str, width: int) -> Iterator[Sequence[str]]:
    columns = text.split(mark)[:-1]
    for start in range(0, len(columns), width):
        first, *others = columns[start : start + width]
        number = first.removeprefix("\n").strip()
        if not (number.isascii() and number.isdigit()):
            yield [first]
        else:
            yield [number, *others]
