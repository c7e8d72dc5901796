"""What a scheduler's tool prints may be anything: it costs its user an error, in bounded time, memory and log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from hpcgate.auth import Principal
from hpcgate.errors import BadAnswer, CommandFailed
from hpcgate.schedulers import reading
from hpcgate.schedulers.base import Job, JobStatus, JobTime
from hpcgate.schedulers.pbs import command_line as pbs
from hpcgate.schedulers.pbs import pbs_rstat, pbsnodes, qstat
from hpcgate.schedulers.pbs.failures import NO_HISTORY
from hpcgate.schedulers.pbs.settings import PbsSettings
from hpcgate.schedulers.reading import LARGE, MAX_SKIPPED, MAX_TOLD, Reader
from hpcgate.schedulers.slurm import command_line as slurm
from hpcgate.schedulers.slurm import sacct, sacctmgr, scontrol, squeue
from hpcgate.schedulers.slurm.failures import NO_ACCOUNTING
from hpcgate.schedulers.slurm.records import Record, Selection
from hpcgate.schedulers.slurm.settings import SlurmSettings
from hpcgate.ssh.commands.quoting import shell_line
from hpcgate.ssh.runner import Completed

ALICE, BOB = Principal("alice", "a"), Principal("bob", "b")
MARK = "ghjkqvwxyz"
MIB = 1024 * 1024
DEEP = '{"Jobs":' + '{"a":' * 50_000 + "1" + "}" * 50_000 + "}"

LIES: dict[str, tuple[Callable[[str], Any], str]] = {
    "squeue: rows of nothing": (lambda text: squeue.parse(text, MARK), f"{MARK};" * 100_000),
    "squeue: one row of columns": (lambda text: squeue.parse(text, MARK), f"{MARK};" + f"{MARK}," * 100_000),
    "squeue: one huge column": (lambda text: squeue.parse(text, MARK), f"{MARK};" + "x" * MIB),
    "squeue: no exits": (lambda text: squeue.parse_exits(text, MARK), f"{MARK};1\n" * 100_000),
    "squeue: no streams": (lambda text: squeue.parse_streams(text, MARK), f"{MARK};1\n" * 100_000),
    "sacct: marks": (lambda text: sacct.parse(text, MARK), MARK * 100_000),
    "sacct: rows of ones": (
        lambda text: sacct.parse(text, MARK),
        (MARK.join(["1"] * len(sacct.FIELDS)) + "\n") * 5000,
    ),
    "sacct: rows of words": (
        lambda text: sacct.parse(text, MARK),
        (MARK.join(["x"] * len(sacct.FIELDS)) + "\n") * 5000,
    ),
    "sacctmgr: no accounts": (sacctmgr.parse, "x\n" * 100_000),
    "scontrol: nodes of nothing": (scontrol.parse_nodes, "NodeName=x\n" * 100_000),
    "scontrol: one node without end": (scontrol.parse_nodes, "NodeName=x " + "a=b " * MIB),
    "scontrol: no partitions": (scontrol.parse_partitions, "PartitionName=x\n" * 100_000),
    "scontrol: no reservations": (scontrol.parse_reservations, "ReservationName=x\n" * 100_000),
    "qstat: a deep document": (qstat.parse_jobs, DEEP),
    "qstat: documents that are none": (qstat.parse_jobs, "{\n" * 200_000),
    "qstat: documents cut short": (qstat.parse_metadata, '{\n    "Jobs":{\n' * 100_000),
    "qstat: jobs of nothing": (
        qstat.parse_jobs,
        json.dumps({"Jobs": {str(number): {} for number in range(100_000)}}),
    ),
    "qstat: values without end": (qstat.parse_jobs, '{"Jobs":{"1":{"a":[' + "[]," * 3_100_000 + "[]]}}}"),
    "qstat: one line of backslashes": (qstat.parse_jobs, "{\n" + " " * 12 + '"a":"' + "\\" * MIB),
    "pbsnodes: nodes of nothing": (
        pbsnodes.parse,
        json.dumps({"nodes": {str(number): {} for number in range(100_000)}}),
    ),
    "pbs_rstat: reservations of nothing": (pbs_rstat.parse, "Resv ID: x\n" * 100_000),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_tool_that_lies_costs_a_typed_error_and_a_few_lines_of_log(lie: str) -> None:
    parse, text = LIES[lie]
    with structlog.testing.capture_logs() as logs, contextlib.suppress(BadAnswer):
        found = await Reader().read(ALICE, "tool", text.encode(), lambda output: parse(output.decode()))
        assert len(found) <= 5000
    assert len(logs) <= MAX_TOLD + 1
    assert all(len(repr(entry)) < 2000 for entry in logs)


@pytest.mark.parametrize(("length", "names"), [(200_000, ["n1", "n2"]), (300_000, ["n1"])])
def test_a_line_of_a_node_has_a_bound(length: int, names: list[str]) -> None:
    line = "NodeName={} State=IDLE CPUTot=1 RealMemory=1 Comment={}\n"
    with structlog.testing.capture_logs():
        found = scontrol.parse_nodes(line.format("n1", "") + line.format("n2", "x" * length))
    assert [node.name for node in found] == names


def test_a_few_odd_rows_among_many_are_skipped_and_counted() -> None:
    numbers = [str(number) for number in range(2 * MAX_SKIPPED)] + ["x"] * (2 * MAX_SKIPPED - 1)
    with structlog.testing.capture_logs() as logs:
        assert len(reading.rows("skipped", "tool", numbers, int)) == 2 * MAX_SKIPPED
    assert len(logs) == MAX_TOLD + 1
    assert logs[-1]["more"] == 2 * MAX_SKIPPED - 1 - MAX_TOLD
    with pytest.raises(BadAnswer), structlog.testing.capture_logs():
        reading.rows("skipped", "tool", ["x", *numbers, *["x"] * 10], int)


async def test_what_is_large_is_read_in_a_thread() -> None:
    reader = Reader()
    here = threading.get_ident()
    assert await reader.read(ALICE, "tool", bytes(LARGE - 1), lambda _: threading.get_ident()) == here
    assert await reader.read(ALICE, "tool", bytes(LARGE), lambda _: threading.get_ident()) != here


async def test_who_has_one_answer_read_holds_no_other_user() -> None:
    """Nor does somebody who leaves have another one begun meanwhile."""
    reader, held, begun = Reader(), threading.Event(), threading.Semaphore(0)
    count = 0

    def hold(_: bytes) -> None:
        nonlocal count
        count += 1
        begun.release()
        held.wait()

    asking = [asyncio.create_task(reader.read(ALICE, "tool", bytes(LARGE), hold)) for _ in range(3)]
    try:
        await asyncio.to_thread(begun.acquire)
        asking[0].cancel()
        await asyncio.wait([asking[0]])
        assert await reader.read(BOB, "tool", bytes(LARGE), len) == LARGE
        assert count == 1
    finally:
        held.set()
    await asyncio.gather(*asking, return_exceptions=True)
    assert count == 3


def completed(stdout: str = "", stderr: str = "", status: int = 0) -> Completed:
    return Completed(("tool",), status, stdout.encode(), stderr.encode())


async def test_what_one_user_says_of_a_cluster_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    it: Any = slurm.CommandLine("demo", SlurmSettings(type="slurm", version="24.11"), None)  # type: ignore[arg-type]

    async def run(principal: Principal, argv: Any, **_: Any) -> Completed:
        if principal is BOB:
            if argv[0] == "scontrol":
                return completed("ClusterName = demo\n")
            mark = next(word.removeprefix("--delimiter=") for word in argv if word.startswith("--delimiter="))
            return completed(mark.join(sacct.FIELDS) + "\n")
        if argv[0] == "scontrol":
            return completed("ClusterName = evil\nAccountingStorageType = accounting_storage/none\n")
        return completed(stderr=NO_ACCOUNTING[0], status=1)

    monkeypatch.setattr(it.tools, "run", run)
    for _ in range(2):
        with pytest.raises(slurm.NoHistory):
            await it.history(ALICE, Selection())
        assert await it.cluster(ALICE) == "evil"
        assert await it.history(BOB, Selection()) == []
        assert await it.cluster(BOB) == "demo"


@pytest.mark.parametrize("jobs", [1, 1000, 1001, 25_000])
async def test_however_many_jobs_are_asked_for_each_command_line_has_room(
    jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd names in a list, and the tasks of an array of which a client wants the metadata."""
    it: Any = slurm.CommandLine("demo", SlurmSettings(type="slurm", version="24.11"), None)  # type: ignore[arg-type]
    raws = [str(1_000_000_000 + number) for number in range(jobs)]
    asked: dict[str, list[str]] = {"sacct": [], "squeue": []}

    async def run(principal: Principal, argv: list[str], **_: Any) -> Completed:
        if argv[0] in asked:
            shell_line(argv)
            wanted = next(word for word in argv if word.startswith("--jobs=")).removeprefix("--jobs=").split(",")
            mark = next((word for word in argv if word.startswith("--delimiter=")), "").removeprefix("--delimiter=")
            asked[argv[0]] += wanted
            if "SubmitLine" in argv[-1]:
                return completed("".join(f'{raw}{mark}sbatch -J a"b{mark}1\n' for raw in wanted))
        return completed(status=1)

    monkeypatch.setattr(it.tools, "run", run)
    status = JobStatus("COMPLETED", None, 0, None)
    records = [Record(Job(raw, "a`b", status, JobTime(), 1, "demo", "n1", "p", "alice", "/"), raw) for raw in raws]
    renamed = await it._with_quoted_names(ALICE, records)
    assert {record.job.name for record in renamed} == {'a"b'}
    assert asked == {"sacct": raws, "squeue": []}
    asked["sacct"].clear()
    assert await it._submitted._streams(ALICE, records) == ({}, frozenset())
    assert asked == {"sacct": raws, "squeue": raws}


async def test_what_one_user_says_of_a_server_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    it: Any = pbs.CommandLine("demo", PbsSettings(type="pbs", version="23.06"), None)  # type: ignore[arg-type]
    asked: list[tuple[bool, bool]] = []

    async def run(principal: Principal, argv: Any, **_: Any) -> Completed:
        if principal is BOB:
            return completed('{"Jobs":{}}')
        return completed(stderr=NO_HISTORY[0], status=qstat.USAGE)

    def command(history: bool, express: bool) -> list[str]:
        asked.append((history, express))
        return ["qstat"]

    monkeypatch.setattr(it, "_run", run)
    with pytest.raises(CommandFailed):
        await it._qstat(ALICE, command)
    asked.clear()
    await it._qstat(BOB, command)
    assert asked == [(True, True)]
