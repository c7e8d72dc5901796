"""The parsers of what Slurm's commands print: on true output of two releases, on arbitrary fields, and on anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.errors import BadAnswer
from hpcgate.schedulers.base import Account, AllocatedResource, Allocation, Job, Partition, Usage
from hpcgate.schedulers.slurm import assoc_mgr, sacct, sacctmgr, sbatch, scancel, scontrol, squeue, values
from hpcgate.schedulers.slurm.delimiters import new_mark
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.records import Record, Selection, merged
from hpcgate.schedulers.slurm.scancel import Outcome
from hpcgate.schedulers.slurm.streams import StreamNames, expanded, first_node
from hpcgate.schedulers.slurm.version import version

from .recordings import RELEASES, recordings

MARK = "qzvkwxjyghqzvkwx"
ROW, COLUMN = MARK + ";", MARK + ","
TAG = sbatch.Tag(MARK, "hpcgate:1")

every_release = pytest.mark.parametrize("release", RELEASES)

anything = st.text().map(lambda text: text.replace(MARK, ""))
"""What a field may hold: all but the mark, which nobody knows beforehand."""
numbers = st.integers(0, 4294967295).map(str)


def skipped(logs: Sequence[object]) -> int:
    return sum(1 for log in logs if isinstance(log, dict) and log["event"] == "slurm.row_skipped")


def test_a_mark_is_new_each_time_and_means_nothing_to_a_format() -> None:
    marks = {new_mark() for _ in range(100)}
    assert len(marks) == 100
    assert all(re.fullmatch("[ghjkqvwxyz]{16}", mark) for mark in marks)


# squeue


@every_release
def test_squeue_rows_of_a_real_controller(release: str) -> None:
    jobs = {record.job.job_id: record for record in squeue.parse(_squeue_text(release), MARK, "c")}
    by_name = {record.job.name: record.job for record in jobs.values()}
    assert len(by_name) >= 15

    running = by_name["run"]
    assert (running.status.state, running.status.state_reason, running.allocation_nodes) == ("RUNNING", None, 1)
    assert (running.time.start, running.time.end, running.time.limit) == (1795379734, None, 1800)
    assert running.time.elapsed == 5
    assert (running.user, running.account, running.cluster, running.nodes) == ("lab001", "staff", "c", "vm")

    held = by_name["held"]
    assert (held.status.state, held.status.state_reason, held.priority) == ("PENDING", "JobHeldUser", 0)
    assert (held.time.limit, held.allocation_nodes, held.nodes) == (None, 0, "None assigned")
    assert by_name["dep"].status.state_reason == "Dependency"
    assert by_name["later"].time.start is None, "an estimate is no start"
    assert by_name["unlim"].time.limit is None
    assert by_name["a b|c \"d\" 'e' = é, 日本"].time.limit == 365 * 24 * 3600
    assert by_name["arrpend"].job_id.endswith("_[1,4,7,10]")
    assert {job_id.partition("+")[2] for job_id in jobs if "+" in job_id} == {"0", "1"}
    assert jobs[running.job_id].submitted == 1795379734


def _squeue_text(release: str) -> str:
    """Return the rows of a recorded listing, which has other columns between other marks, as `squeue.command`'s."""
    recorded = recordings(release)["squeue-f7t1"]
    head = re.escape("|").join(["([^|\n]*)"] * 2) + re.escape("|") + "(.*?)"
    tail = re.escape("|").join(["([^|\n]*)"] * 14)
    text = ""
    for row in re.finditer(rf"^{head}\|(lab001\|.*)$", recorded.stdout, re.MULTILINE):
        shown, partition, name, rest = row.groups()
        columns = re.match(tail, rest)
        assert columns is not None
        user, state, elapsed, start, _, count, nodes, end, account, submitted, limit, directory, reason, priority = (
            columns.groups()
        )
        raw = re.split(r"[_+]", shown)[0]
        nodes = "" if nodes.startswith("(") else nodes
        values = (
            shown, raw, state, reason, elapsed, limit, submitted, start, end, count, nodes, priority, user, "grp",
            account, partition, directory, name,
        )  # fmt: skip
        text += ROW + COLUMN.join(values) + "\n"
    return text


@given(st.lists(st.tuples(numbers, anything, anything, anything, anything, anything), max_size=5))
def test_squeue_fields_of_any_text_come_back(rows: list[tuple[str, str, str, str, str, str]]) -> None:
    text = "".join(_squeue_row(*row) for row in rows)
    found = squeue.parse(text, MARK, "c")
    assert [
        (r.raw, r.job.name, r.job.working_directory, r.job.partition, r.job.account, r.job.user) for r in found
    ] == [
        (raw, name, directory, partition, values.text(account), values.text(user))
        for raw, name, directory, partition, account, user in rows
    ]


def _squeue_row(raw: str, name: str, directory: str, partition: str, account: str, user: str, *more: str) -> str:
    columns = (
        raw, raw, "RUNNING", "None", "1-02:03:04", "UNLIMITED", "1700000000", "1700000001", "N/A", "2", "n[1-2]", "1",
        user, "grp", account, partition, directory, name,
    )  # fmt: skip
    return ROW + COLUMN.join([*columns, *more]) + "\n"


good_squeue_row = _squeue_row("7", "fine", "/", "p", "a", "u")


@given(st.lists(anything, max_size=25).filter(lambda row: len(row) != len(squeue.COLUMNS)))
def test_a_squeue_row_with_too_few_or_too_many_columns_costs_one_row(columns: list[str]) -> None:
    bad = ROW + COLUMN.join(columns) + "\n"
    with structlog.testing.capture_logs() as logs:
        found = squeue.parse(good_squeue_row + bad + good_squeue_row, MARK)
    assert [record.job.name for record in found] == ["fine", "fine"]
    assert skipped(logs) == 1


@given(st.lists(anything, min_size=len(squeue.COLUMNS), max_size=len(squeue.COLUMNS)))
def test_a_squeue_row_of_any_columns_costs_at_most_itself(columns: list[str]) -> None:
    with structlog.testing.capture_logs() as logs:
        found = squeue.parse(good_squeue_row + ROW + COLUMN.join(columns) + "\n" + good_squeue_row, MARK)
    assert len(found) + skipped(logs) == 3
    assert (found[0].job.name, found[-1].job.name) == ("fine", "fine")
    merged(found, found)


@pytest.mark.parametrize("raw", ["", "x", "²", "٣", "1 2"])
def test_a_row_whose_number_is_none_is_no_job(raw: str) -> None:
    assert squeue.parse(_squeue_row(raw, "n", "/", "p", "a", "u"), MARK) == []


@given(st.dictionaries(numbers, st.integers(0, 65535), max_size=5))
def test_wait_statuses_of_squeue(statuses: dict[str, int]) -> None:
    text = "".join(f"{raw:<24}{MARK}{status:<24}{MARK}\n" for raw, status in statuses.items())
    assert squeue.parse_exits(text, MARK) == {raw: (status >> 8, status & 127) for raw, status in statuses.items()}


paths = anything.map(lambda text: text.rstrip(" ")).filter(lambda text: len(text.encode()) < 2048)


@given(st.lists(st.tuples(numbers, paths, paths, paths), max_size=4))
def test_paths_of_squeue_come_back(rows: list[tuple[str, str, str, str]]) -> None:
    text = "".join(
        f"{raw:<24}{MARK}" + "".join(path + " " * (2048 - len(path.encode())) + MARK for path in streams) + "\n"
        for raw, *streams in rows
    )
    assert [(one.raw, one.stdin, one.stdout, one.stderr) for one in squeue.parse_streams(text, MARK)] == [
        (raw, *(values.text(path) for path in streams)) for raw, *streams in rows
    ]


def test_a_path_that_does_not_fit_its_column_is_not_told() -> None:
    text = f"1{MARK}" + ("/" * 2048 + MARK) + (" " * 2048 + MARK) + (("é" * 1023 + "\ufffd").ljust(1025) + MARK)
    (one,) = squeue.parse_streams(text, MARK)
    assert (one.stdin, one.stdout, one.stderr) == (None, None, None)


# sacct


F7T2 = (
    "JobID", "AllocNodes", "Cluster", "ExitCode", "Group", "Account", "JobName", "NodeList", "Partition", "Priority",
    "State", "Reason", "Submit", "Start", "End", "Suspended", "TimelimitRaw", "User", "WorkDir", "ElapsedRaw",
)  # fmt: skip
"""The columns of the recorded listings, the elapsed time moved to the end."""


def _sacct(release: str, label: str) -> dict[str, Job]:
    """Return the jobs of a recorded listing, with the marks and the last column of `sacct.command`."""
    text = ""
    for line in recordings(release)[label].stdout.splitlines():
        columns = line.split("|")
        columns[6 : len(columns) - 13] = ["|".join(columns[6 : len(columns) - 13])]
        elapsed = columns.pop(12)
        text += MARK.join([*columns, elapsed]) + "\n"
    with structlog.testing.capture_logs() as logs:
        found = sacct.parse(text, MARK, F7T2)
    assert logs == []
    assert len(found) + sum(len(record.job.tasks or ()) for record in found) == text.count("\n")
    return {record.job.name: record.job for record in found}


@every_release
def test_sacct_rows_of_a_real_database(release: str) -> None:
    jobs = _sacct(release, "end-sacct-f7t2")
    assert len(jobs) >= 20
    ok = jobs["ok"]
    assert (ok.status.state, ok.status.state_reason) == ("COMPLETED", None)
    assert (ok.status.exit_code, ok.status.interrupt_signal) == (0, 0)
    assert (ok.time.elapsed, ok.time.start, ok.time.end) == (1, 1795379734, 1795379735)
    assert (ok.time.suspended, ok.time.limit) == (0, 300)
    assert [task.id.partition(".")[2] for task in ok.tasks or ()] == ["batch", "0"]
    run = jobs["run"]
    assert (run.status.state, run.kill_request_user) == ("CANCELLED", "root")
    assert [task.status.exit_code for task in run.tasks or ()][-1] == 2
    assert (jobs["selfkill"].status.state, jobs["selfkill"].status.interrupt_signal) == ("FAILED", 9)
    assert jobs["timeout"].status.state == "TIMEOUT"
    assert jobs["cancelpend"].kill_request_user == "1002", "no name without asking"
    assert (jobs["cancelpend"].time.start, jobs["cancelpend"].allocation_nodes) == (None, 0)
    assert jobs["unlim"].time.limit is None
    assert jobs["later"].time.limit is None, "Partition_Limit is no number"
    assert jobs["arrpend"].job_id.partition("_")[2].startswith("[1,")
    assert "a b|c `d` 'e' = é, 日本" in jobs
    (array,) = {job.job_id.partition("_")[0] for job in jobs.values() if job.name == "arr"}
    assert jobs["arr"].job_id == f"{array}_3"
    assert jobs["arr"].tasks is not None
    assert jobs["arr"].tasks[0].id == f"{array}_3.batch"


@every_release
def test_sacct_rows_while_jobs_run(release: str) -> None:
    run = _sacct(release, "sacct-f7t2")["run"]
    assert (run.status.state, run.time.end, run.time.limit) == ("RUNNING", None, 1800)


def _sacct_row(
    raw: str, name: str = "fine", directory: str = "/", partition: str = "p", last: str = "9", state: str = "COMPLETED"
) -> list[str]:
    return [
        raw, raw, name, "u", "1000", "g", "a", "c", partition, state, "0:0", "None", "1700000000", "1700000000",
        "1700000009", "00:00:00", "UNLIMITED", "1", "n1", "1", directory, last,
    ]  # fmt: skip


def _text(*rows: Sequence[str]) -> str:
    return "".join(MARK.join(row) + "\n" for row in rows)


HEADINGS: dict[str, tuple[str, Callable[[str], bool], Callable[[str], list[Record]], str]] = {
    "squeue": (
        ROW + COLUMN.join(["JOBID", "JOBID", *["X"] * (len(squeue.COLUMNS) - 2)]) + "\n",
        lambda text: squeue.answers(text.encode(), MARK),
        lambda text: squeue.parse(text, MARK),
        good_squeue_row,
    ),
    "sacct": (
        MARK.join(sacct.FIELDS) + "\n",
        lambda text: sacct.answers(text.encode(), MARK),
        lambda text: sacct.parse(text, MARK),
        MARK.join(_sacct_row("7")) + "\n",
    ),
}


@pytest.mark.parametrize("tool", HEADINGS)
def test_an_empty_list_is_told_from_words_by_its_heading(tool: str) -> None:
    heading, answers, parse, row = HEADINGS[tool]
    for words in ("", "No jobs today\n", "JOBID\n", "JobID|State\n"):
        assert not answers(words)
    for before in ("", "as of 12 s ago\n\n"):
        assert answers(before + heading)
        with structlog.testing.capture_logs() as logs:
            assert parse(before + heading) == []
            assert [record.raw for record in parse(before + heading + row)] == ["7"]
        assert not skipped(logs)
    assert [record.raw for record in parse(row)] == ["7"]


@given(st.dictionaries(numbers, st.tuples(anything, anything, anything), max_size=5))
def test_sacct_fields_of_any_text_come_back(rows: dict[str, tuple[str, str, str]]) -> None:
    text = _text(*(_sacct_row(raw, *row) for raw, row in rows.items()))
    assert {
        record.raw: (record.job.name, record.job.working_directory, record.job.partition)
        for record in sacct.parse(text, MARK)
    } == rows


@given(st.lists(anything, min_size=20, max_size=20), st.text("0123456789INVALID-+.", max_size=12), numbers)
def test_a_sacct_row_of_any_columns_costs_at_most_itself(columns: list[str], last: str, first: str) -> None:
    with structlog.testing.capture_logs() as logs:
        found = sacct.parse(_text(_sacct_row("7"), [first, *columns, last], _sacct_row("8", "too")), MARK)
    assert len(found) + skipped(logs) == 3 or first in ("7", "8")
    names = [record.job.name for record in found]
    assert (names[0], names[-1]) == ("fine", "too") or first in ("7", "8")
    merged(found, found)


@given(st.lists(anything, max_size=8))
def test_a_sacct_row_with_too_many_columns_costs_one_row(more: list[str]) -> None:
    bad = [*_sacct_row("5"), *more, "1", "2"]
    with structlog.testing.capture_logs() as logs:
        found = sacct.parse(_text(_sacct_row("7"), bad, _sacct_row("8")), MARK)
    assert "7" in {record.raw for record in found}
    assert skipped(logs) >= 1
    if not any("\n" in column for column in more):
        assert ({record.raw for record in found}, skipped(logs)) == ({"7", "8"}, 1)


@pytest.mark.parametrize("state", ["", " by 3"])
def test_a_sacct_row_without_a_state_is_logged_and_skipped(state: str) -> None:
    with structlog.testing.capture_logs() as logs:
        found = sacct.parse(_text(_sacct_row("7"), _sacct_row("8", state=state), _sacct_row("9")), MARK)
    assert ([record.raw for record in found], skipped(logs)) == (["7", "9"], 1)


@pytest.mark.parametrize(
    ("state", "shown", "killer"),
    [
        ("CANCELLED by 1000", "CANCELLED", "u"),
        ("CANCELLED by 0", "CANCELLED", "root"),
        ("CANCELLED by 1002", "CANCELLED", "1002"),
        ("CANCELLED+", "CANCELLED", None),
        ("TIMEOUT", "TIMEOUT", None),
    ],
)
def test_who_cancelled(state: str, shown: str, killer: str | None) -> None:
    """`CANCELLED by 1234` is a state and a user."""
    (record,) = sacct.parse(_text(_sacct_row("7", state=state)), MARK)
    assert (record.job.status.state, record.job.kill_request_user) == (shown, killer)


@given(st.text('ab `"|=- \n', min_size=1), st.sampled_from(["--job-name=", "--job-name ", "-J ", "-J"]))
def test_double_quotes_come_back_from_the_submit_line(name: str, option: str) -> None:
    stored = name.replace('"', "`")
    found = sacct.quoted_name(stored, f"sbatch {option}{name} --parsable")
    assert found.replace('"', "`") == stored
    if not name.startswith((" ", "=")):
        assert found == name
    assert sacct.quoted_name(stored, "sbatch script") == stored


@given(st.dictionaries(numbers, anything, max_size=5))
def test_submit_lines_come_back(lines: dict[str, str]) -> None:
    text = _text(*((raw, line, "5") for raw, line in lines.items()))
    assert sacct.parse_submit_lines(text, MARK) == lines


@given(st.lists(st.tuples(numbers, anything, anything, anything), max_size=5))
def test_paths_of_sacct_come_back(rows: list[tuple[str, str, str, str]]) -> None:
    found = sacct.parse_streams(_text(*((*row, "1") for row in rows)), MARK)
    assert [(one.raw, one.stdin, one.stdout, one.stderr) for one in found] == [
        (raw, *(values.text(path) for path in streams)) for raw, *streams in rows
    ]


@every_release
def test_a_script_is_what_was_submitted_whatever_stands_around_it(release: str) -> None:
    # Newer releases drop the heading on demand; it is asked for, and stands before the same text.
    printed = recordings(release)["sacct-batch-script-nh"].stdout.encode()
    if not printed.startswith(b"Batch Script for "):
        printed = b"Batch Script for 545\n" + b"-" * 80 + b"\n" + printed
    script = sacct.parse_script(printed, version(release))
    assert script is not None
    assert script.startswith(b"#!/bin/bash\n#SBATCH --job-name=ok\n")
    assert script.endswith(b"\nsleep 1\n")
    assert sacct.parse_script(printed.replace(b"for 545", b"for 544") + printed, version(release)) == script
    assert sacct.parse_script(recordings(release)["sacct-batch-script-unknown"].stdout.encode(), (0, 0)) is None


@given(st.binary().filter(lambda script: script.strip() not in (b"", b"NONE")))
def test_a_script_of_any_bytes_comes_back(script: bytes) -> None:
    headed = b"Batch Script for 5\n" + b"-" * 80 + b"\n" + script + b"\n"
    assert sacct.parse_script(headed, (22, 5)) == script
    assert sacct.parse_script(headed, (24, 11)) == script + b"\n"
    if not script.startswith(b"Batch Script for "):
        assert sacct.parse_script(script, (24, 11)) == script


# scontrol


@every_release
def test_a_real_node(release: str) -> None:
    """A recorded node is read with all that is known of it."""
    (node,) = scontrol.parse_nodes(recordings(release)["show-nodes-epoch"].stdout)
    assert (node.name, node.state, node.cpus, node.alloc_cpus, node.idle_cpus) == ("vm", ("ALLOCATED",), 2, 2, 0)
    assert (node.sockets, node.cores, node.threads, node.weight) == (2, 1, 1, 1)
    assert (node.free_memory, node.alloc_memory) == (23090, 0)
    assert node.cpu_load == pytest.approx(0.095, abs=0.01)
    assert node.features == ()
    assert node.partitions is not None
    assert node.partitions[:2] == ("part01", "xfer")
    assert (node.address, node.hostname) == ("vm", "vm")


def test_a_drained_node_with_a_nasty_reason() -> None:
    (node,) = scontrol.parse_nodes(recordings("26.05")["drain-show-nodes-o"].stdout)
    assert node.state == ("ALLOCATED", "DRAIN")


@every_release
def test_real_partitions(release: str) -> None:
    """Recorded partitions are read with their nodes and state."""
    found = scontrol.parse_partitions(recordings(release)["show-partitions-epoch"].stdout)
    assert found[:2] == (Partition("part01", "UP", 2, 1), Partition("xfer", "UP", 2, 1))
    assert len(found) == (2 if release == "22.05" else 3)


@every_release
def test_real_reservations(release: str) -> None:
    """Recorded reservations are read with their nodes, state and times."""
    found = scontrol.parse_reservations(recordings(release)["show-reservations-epoch"].stdout)
    assert [(one.name, one.node_list, one.state, one.features) for one in found] == [
        ("resv1", "vm", "inactive", None),
        ("maint", "vm", "inactive", None),
    ]
    assert found[0].end_time - found[0].start_time == 3600
    assert scontrol.parse_reservations(recordings(release)["reservations-none"].stdout) == ()


NAMES = ("maint x", "a  b c", "x", "2026 upgrade")


@every_release
@pytest.mark.parametrize("name", NAMES)
def test_reservations_have_names_with_blanks(release: str, name: str) -> None:
    text = recordings(release)["show-reservations-epoch"].stdout.replace("=resv1 ", f"={name} ")
    found = scontrol.parse_reservations(text)
    assert [(one.name, one.node_list, one.features) for one in found] == [(name, "vm", None), ("maint", "vm", None)]


@every_release
def test_a_real_ping_and_name(release: str) -> None:
    assert scontrol.parse_ping(recordings(release)["ping"].stdout)
    assert not scontrol.parse_ping(recordings(release)["down-ping"].stdout)
    assert scontrol.parse_cluster(recordings(release)["show-config"].stdout) in ("demo", "new")


def test_a_backup_controller_that_is_down_is_no_harm() -> None:
    assert scontrol.parse_ping("Slurmctld(primary) at a is UP\nSlurmctld(backup) at b is DOWN\n")
    assert scontrol.parse_ping("Slurmctld(primary) at a is DOWN\nSlurmctld(backup1) at b is UP\n")
    assert not scontrol.parse_ping("Slurmctld(primary) at UP is DOWN\n")


GOOD_LINES: dict[Callable[[str], Sequence[object]], str] = {
    scontrol.parse_nodes: "NodeName=good CPUTot=4 CPUAlloc=1 State=IDLE\n",
    scontrol.parse_partitions: "PartitionName=good State=UP TotalCPUs=4 TotalNodes=1\n",
    scontrol.parse_reservations: "ReservationName=good StartTime=1 EndTime=2 Nodes=n1 State=ACTIVE\n",
}
KEYS = ("CPUTot", "State", "CPUAlloc", "StartTime", "EndTime", "TotalCPUs", "CPULoad", "ActiveFeatures", "Partitions")


@pytest.mark.parametrize("parse", list(GOOD_LINES), ids=lambda parse: parse.__name__)
@given(pairs=st.lists(st.tuples(st.sampled_from(KEYS), anything)))
def test_a_line_of_any_values_costs_at_most_itself(
    parse: Callable[[str], Sequence[object]], pairs: list[tuple[str, str]]
) -> None:
    good = GOOD_LINES[parse]
    values = " ".join(f"{name}={value}" for name, value in pairs).replace("\n", " ")
    bad = good.partition("=")[0] + "=bad " + values + "\n"
    with structlog.testing.capture_logs() as logs:
        found = parse(good + bad + good)
    assert len(found) + skipped(logs) == 3
    assert found[0] == found[-1] == parse(good)[0]


# The commands that write


@every_release
@pytest.mark.parametrize(
    ("label", "outcome"),
    [
        ("scancel-verbose-pending", Outcome.CANCELLED),
        ("scancel-finished-v", Outcome.ENDED),
        ("scancel-unknown-v", Outcome.UNKNOWN),
        ("scancel-other", Outcome.FORBIDDEN),
        ("down-scancel", Outcome.FAILED),
    ],
)
def test_real_cancellations(release: str, label: str, outcome: Outcome) -> None:
    """What scancel printed tells how it went."""
    recorded = recordings(release)[label]
    assert scancel.parse(recorded.exit_status, recorded.stderr) is outcome


@pytest.mark.parametrize(
    "words",
    [
        "_parse_single_range: Too many hosts in range `1-999999999'\nscancel: error: Invalid job id 1_[1-999999999]",
        "Invalid job id 1_[0-5:1]",
    ],
)
def test_scancel_of_tasks_that_cannot_be(words: str) -> None:
    """What 22.05 says of an id that it does not take."""
    assert scancel.parse(1, f"scancel: error: {words}\n") is scancel.Outcome.UNKNOWN


KILL = "scancel: error: Kill job error on job id 5: "


@pytest.mark.parametrize(
    ("status", "words", "outcome"),
    [
        (0, "scancel: Terminating job 5\nscancel: error: spank: plugin.so: no such file\n", Outcome.CANCELLED),
        (0, "WARNING: denied budgets are reported as error: monthly\n", Outcome.CANCELLED),
        (0, "Invalid job id formats are an error: see the wiki\nscancel: Terminating job 5\n", Outcome.CANCELLED),
        (1, "error: Access/permission denied by the site\n", Outcome.FORBIDDEN),
        (0, f"{KILL}Access/permission denied\n", Outcome.FORBIDDEN),
        (1, f"note\n{KILL}Job can not be altered now, try again later\n", Outcome.FAILED),
        (1, f"{KILL}Cannot cancel scrontab jobs without --cron flag.\n", Outcome.FAILED),
        (1, "", Outcome.FAILED),
    ],
)
def test_what_stands_beside_scancels_own_words(status: int, words: str, outcome: Outcome) -> None:
    assert scancel.parse(status, words) is outcome


@given(st.lists(st.text(st.characters(exclude_characters="|\n"), min_size=1), min_size=1, unique=True))
def test_accounts_come_back(names: list[str]) -> None:
    """Accounts are read once each, and the default one is known."""
    text = "".join(f"{names[0]}|{name}\n" for name in [*names, names[0]])
    assert sacctmgr.parse(text) == tuple(Account(name, default=name == names[0]) for name in names)


def test_a_bad_row_of_accounts_costs_one_row() -> None:
    with structlog.testing.capture_logs() as logs:
        found = sacctmgr.parse("a|a\na|\nonly\na|b|c\na|b\n")
    assert found == (Account("a", default=True), Account("b", default=False))
    assert skipped(logs) == 3


# Anything at all

marked = st.lists(st.one_of(st.text(), st.sampled_from([MARK, ROW, COLUMN, "\n", "1", "NodeName=", "State="]))).map(
    "".join
)


@pytest.mark.parametrize(
    "parse",
    [
        lambda text: squeue.parse(text, MARK),
        lambda text: squeue.parse_exits(text, MARK),
        lambda text: squeue.parse_streams(text, MARK),
        lambda text: sacct.parse(text, MARK),
        lambda text: sacct.parse_submit_lines(text, MARK),
        lambda text: sacct.parse_streams(text, MARK),
        lambda text: sacct.parse_script(text.encode(), (24, 11)),
        scontrol.parse_nodes,
        scontrol.parse_partitions,
        scontrol.parse_reservations,
        scontrol.parse_ping,
        scontrol.parse_cluster,
        lambda text: sbatch.parse(text, TAG),
        lambda text: sbatch.parse_queue(text, MARK),
        sacctmgr.parse,
        lambda text: scancel.parse(0, text),
        lambda text: scancel.parse(1, text),
        version,
        first_node,
    ],
    ids=lambda parse: getattr(parse, "__qualname__", ""),
)
@given(text=marked)
def test_nothing_raises(parse: Callable[[str], object], text: str) -> None:
    """No text, whatever is in it, raises."""
    parse(text)


def _told(state: str, reason: str, start: int | None) -> Record:
    row = ["5", "n", "u", "1", "g", "a", "c", "p", state, "0:0", reason, "1", str(start or ""), "9", "", "", "1"]
    row = [row[0], row[0], *row[1:]]
    (record,) = sacct.parse(MARK.join([*row, "n1", "1", "/", "0"]) + "\n", MARK)
    return record


REASONS = {
    "ran, after it had waited": (_told("COMPLETED", "Dependency", 5), None),
    "failed, after it had waited": (_told("FAILED", "JobHeldUser", 5), None),
    "never ran": (_told("CANCELLED", "DependencyNeverSatisfied", None), "DependencyNeverSatisfied"),
    "runs": (_told("RUNNING", "BeginTime", 5), "BeginTime"),
}


@pytest.mark.parametrize("case", REASONS)
def test_what_a_job_once_waited_for_is_no_reason_of_its_end(case: str) -> None:
    record, wanted = REASONS[case]
    (found,) = merged([], [record])
    assert found.job.status.state_reason == wanted
    (failed,) = squeue.parse(ROW + COLUMN.join(["5", "5", "FAILED", "NonZeroExitCode", *["1"] * 14]) + "\n", MARK)
    (both,) = merged([failed], [_told("FAILED", "Dependency", 5)])
    assert both.job.status.state_reason == "NonZeroExitCode"


def test_what_has_not_ended_has_no_exit_status() -> None:
    assert _told("RUNNING", "None", 5).job.status.exit_code is None
    assert _told("FAILED", "None", 5).job.status.exit_code == 0


@given(marked, marked)
def test_whatever_was_parsed_can_be_merged(live: str, history: str) -> None:
    records: list[Record] = merged(squeue.parse(live, MARK), sacct.parse(history, MARK))
    assert len({record.raw for record in records}) == len(records)


# Paths with patterns

STREAM_NAMES = StreamNames("26", "25", 3, "alice", "12", "nid001", "/home/alice")


@pytest.mark.parametrize(
    ("path", "full"),
    [
        ("out-%j.txt", "/home/alice/out-26.txt"),
        ("%A_%a.%b", "/home/alice/25_3.3"),
        ("/tmp/%u/%x.%N.%%j", "/tmp/alice/12.nid001.%j"),
        ("%4j-%03a-%0A", "/home/alice/0026-003-25"),
        ("%99j", "/home/alice/0000000026"),
        ("%" + "9" * 5000 + "j", "/home/alice/0000000026"),
        ("%5x %5u %s %t", "/home/alice/12 alice batch 0"),
        ("%", "/home/alice/%"),
        ("%q %", "/home/alice/%q %"),
        ("a\\%j", "/home/alice/a%j"),
        (None, None),
        ("", None),
    ],
)
def test_patterns_of_paths(path: str | None, full: str | None) -> None:
    """Patterns in a stream's path are filled in as Slurm does."""
    assert expanded(path, STREAM_NAMES) == full


@given(st.text("%0123456789AabJjNnstuxgq/\\é \n"))
def test_any_path_is_expanded_to_an_absolute_one(path: str) -> None:
    assert (expanded(path, STREAM_NAMES) or "/").startswith("/")


def test_what_is_not_known_yet_stays() -> None:
    assert expanded("%N-%a", StreamNames("26", "25", None, "u", "n", None, "/d")) == "/d/%N-%a"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("nid[001-004,7],x1", "nid001"), ("vm", "vm"), ("a.b.c,d", "a"), ("r[1-2]n1", "r1n1"), ("", None)],
)
def test_the_first_node(nodes: str, first: str | None) -> None:
    """The first node of an expression is found."""
    assert first_node(nodes) == first


# what jobs have cost


def _used(
    raw: str, cpu: str, memory: str, energy: str, state: str = "COMPLETED", start: str = "1700000000"
) -> list[str]:
    row = _sacct_row(raw, state=state, last="1800")
    row[sacct.FIELDS.index("Start")] = start
    return [*row[:-1], cpu, memory, energy, row[-1]]


@pytest.mark.parametrize(
    ("rows", "usage"),
    [
        ([_used("7", "00:02.517", "", "")], Usage(2.517, None, 0.5)),
        ([_used("7", "1-00:00:01", "", "0"), _used("7.batch", "00:01", "11228K", "0")], Usage(86401.0, 11497472, 0.5)),
        (
            [_used("7", "00:02", "", "9"), _used("7.0", "00:01", "2M", "4"), _used("7.1", "00:01", "1.50G", "5")],
            Usage(2.0, 1610612736, 0.5, 9),
        ),
        (
            [_used("7", "00:02", "", ""), _used("7.0", "", "512", "4"), _used("7.1", "", "0", "5")],
            Usage(2.0, 512, 0.5, 9),
        ),
        ([_used("7", "00:00:00", "", "", "RUNNING")], Usage(None, None, 0.5)),
        ([_used("7", "00:00:00", "", "")], Usage(None, None, 0.5)),
        ([_used("7", "INVALID", "16?", "18446744073709551614")], Usage(None, None, 0.5)),
        ([_used("7", "00:00:00", "", "", "PENDING", "Unknown")], None),
    ],
    ids=["cpu", "memory", "all", "energy of steps", "running", "nothing", "odd", "waiting"],
)
def test_what_sacct_says_that_a_job_has_cost(rows: list[list[str]], usage: Usage | None) -> None:
    fields = sacct.columns(Selection(ids=(JobId("7"),)))
    (record,) = sacct.parse(_text(*rows), MARK, fields)
    assert record.job.usage == usage
    assert merged([replace(record, job=replace(record.job, usage=None, tasks=None))], [record])[0].job.usage == usage


def test_a_list_of_many_jobs_is_not_asked_what_they_have_cost() -> None:
    assert sacct.columns(Selection(user="u", window=60)) == sacct.FIELDS


# scontrol show assoc_mgr


def _association(account: str, user: str, minutes: str, *, default: str = "No", partition: str = "") -> str:
    return (
        f"ClusterName=demo Account={account} UserName={user} Partition={partition} Priority=0 ID=3 "
        "SharesRaw/Norm/Level/Factor=1/18446744073709551616.00/1/0.00 UsageRaw/Norm/Efctv=0.00/1.00/0.00 "
        f"ParentAccount=root(1) Lft=2 DefAssoc={default} GrpJobs=N(0) GrpWall=N(0.00) GrpTRES=cpu=9(1),mem=N(0) "
        f"GrpTRESMins={minutes} GrpTRESRunMins=cpu=7(0),mem=N(0) MaxJobs= MaxTRESPJ= MinPrioThresh=\n"
    )


HEAD = "Current Association Manager state\n\nAssociation Records\n\n"
"""As 22.05 prints it."""


def test_what_is_left_of_accounts() -> None:
    own = assoc_mgr.parse(
        HEAD
        + _association("demo", "alice(1001)", "cpu=N(10),mem=N(0)", default="Yes")
        + _association("demo", "alice(1001)", "cpu=5(0)", partition="debug")
        + _association("extra", "alice(1001)", "cpu=50(60),node=N(3)")
        + _association("third", "alice(1001)", "")
    )
    shared = assoc_mgr.parse(
        HEAD
        + _association("demo", "", "cpu=1000(12),mem=N(0),gres/gpu:a100=7(7),billing=N(4)")
        + _association("demo", "bob(1002)", "cpu=4(2)")
        + "ClusterName=demo Account= UserName=odd\n"
    )
    assert assoc_mgr.allocations("alice", own, shared) == (
        Allocation(
            "demo",
            True,
            (
                AllocatedResource("cpu", "account", 1000, 12, 988),
                AllocatedResource("gres/gpu:a100", "account", 7, 7, 0),
                AllocatedResource("billing", "account", None, 4, None),
            ),
        ),
        Allocation("extra", False, (AllocatedResource("cpu", "user", 50, 60, 0),)),
        Allocation("third", False, ()),
    )


def test_what_is_not_of_the_association_manager() -> None:
    """A site's wrapper in scontrol's place that refuses with exit status 0 is not an empty list."""
    assert assoc_mgr.parse(HEAD) == []
    for text in ("", "Access denied\n"):
        with pytest.raises(BadAnswer):
            assoc_mgr.parse(text)
