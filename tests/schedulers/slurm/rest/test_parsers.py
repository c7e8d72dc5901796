"""The parsers, on what real servers answered and on anything at all."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.errors import Conflict, Forbidden, GatewayError, JobNotFound
from hpcgate.schedulers.base import Account, JobStatus, Partition, Reservation
from hpcgate.schedulers.control import JobChanges
from hpcgate.schedulers.job_spec import Dependency
from hpcgate.schedulers.slurm.job_ids import JobId
from hpcgate.schedulers.slurm.records import Record, Selection, merged
from hpcgate.schedulers.slurm.rest import cancellation, cluster, control, history, jobs, problems, submission, values
from hpcgate.schedulers.slurm.rest.client import by_database, by_ping
from hpcgate.schedulers.slurm.scancel import Outcome

from .recordings import RELEASE_OF, Recorded, of_version, recorded, recordings

VERSIONS = tuple(RELEASE_OF)
ALL = Selection()
NOW = 1795380400.0

every_version = pytest.mark.parametrize("number", VERSIONS)


def live(number: int, label: str) -> dict[str, Record]:
    return {one.job.job_id: one for one in jobs.parse(recorded(number, label).answer, ALL, NOW)}


def past(number: int, label: str) -> dict[str, Record]:
    return {one.job.job_id: one for one in history.parse(recorded(number, label).answer, ALL)}


@pytest.mark.parametrize("release", ["22.05", "26.05"])
def test_every_job_that_was_recorded_is_read(release: str) -> None:
    count = 0
    for entry in recordings(release):
        rows = values.row(entry.answer).get("jobs")
        if entry.method != "GET" or not isinstance(rows, list):
            continue
        with structlog.testing.capture_logs() as logs:
            if entry.path.startswith("/slurmdb/"):
                found = history.parse(entry.answer, ALL)
            elif "jobs/state" in entry.path:
                continue
            else:
                found = jobs.parse(entry.answer, ALL, NOW)
        assert logs == []
        assert len(found) == len(rows)
        count += len(found)
    assert count > 50


@every_version
def test_a_job_that_failed(number: int) -> None:
    (job,) = (record.job for record in live(number, "job-fail").values())
    assert (job.name, job.user, job.account, job.partition) == ("fail3", "lab001", "staff", "part01")
    assert job.status == JobStatus("FAILED", "NonZeroExitCode", 3, 0)
    assert job.time.limit == 525600 * 60
    assert job.time.end is not None
    assert job.time.start is not None
    assert (job.nodes, job.allocation_nodes, job.working_directory) == ("vm", 1, "/home/lab001")


@every_version
def test_how_a_job_failed_is_not_made_up_from_a_history_that_does_not_know(number: int) -> None:
    (record,) = past(number, "db-job-fail").values()
    assert record.job.status.exit_code == (None if number == 38 else 3)
    (merge,) = merged(live(number, "job-fail").values(), [record])
    assert merge.job.status == JobStatus("FAILED", "NonZeroExitCode", 3, 0)
    assert merge.job.tasks is not None
    assert merge.job.tasks[0].id == f"{record.raw}.batch"


@every_version
def test_waiting_held_and_running_jobs(number: int) -> None:
    (held,) = (record.job for record in live(number, "job-held").values())
    assert held.status == JobStatus("PENDING", "JobHeldUser")
    assert (held.time.start, held.time.end, held.time.limit, held.time.elapsed) == (None, None, None, 0)
    assert (held.nodes, held.allocation_nodes, held.priority) == ("None assigned", 0, 0)
    (running,) = (record.job for record in live(number, "job-run").values())
    assert running.status == JobStatus("RUNNING")
    assert running.time.start is not None
    assert running.time.end is None
    assert running.time.elapsed == int(NOW) - running.time.start
    assert running.time.limit == 1800


@every_version
def test_array_tasks_have_ids_of_their_own(number: int) -> None:
    tasks = live(number, "job-array")
    base = min(record.raw for record in tasks.values())
    assert set(tasks) == {f"{base}_{task}" for task in (1, 2, 3)}
    assert tasks[f"{base}_2"].job.status.exit_code == 4


@pytest.mark.parametrize("number", [38, 45])
def test_names_limits_signals_and_waiting_tasks(number: int) -> None:
    (named,) = live(number, "job-name").values()
    assert named.job.name == 'a b|c "d" é, 日本'
    (stored,) = past(number, "db-job-name").values()
    assert merged([named], [stored])[0].job.name == named.job.name
    (unlimited,) = live(number, "job-unlim").values()
    assert unlimited.job.time.limit is None
    (killed,) = live(number, "job-sig").values()
    assert (killed.job.status.exit_code, killed.job.status.interrupt_signal) == (0, 9)
    assert [name.partition("_")[2] for name in live(number, "job-arraypend")] == ["[1,4,7,10]"]


@pytest.mark.parametrize("number", [38, 45])
def test_the_history_tells_steps_and_who_cancelled(number: int) -> None:
    (done,) = past(number, "db-job-ok").values()
    assert [(task.id.partition(".")[2], task.status.state) for task in done.job.tasks or ()] == [
        ("batch", "COMPLETED"),
        ("0", "COMPLETED"),
    ]
    (cancelled,) = past(number, "db-job-cancelled").values()
    assert cancelled.job.kill_request_user == "lab001"
    assert cancelled.job.tasks is not None
    assert cancelled.job.tasks[0].status.interrupt_signal == 15


def test_jobs_of_others_are_left_out() -> None:
    for number in (38, 45):
        answer = recorded(number, "jobs").answer
        users = {record.job.user for record in jobs.parse(answer, ALL)}
        assert users
        for user in users:
            assert {record.job.user for record in jobs.parse(answer, Selection(user=user))} == {user}
        assert jobs.parse(answer, Selection(user="nobody-else")) == []
        assert jobs.parse(answer, Selection(account="nothing")) == []
        answer = recorded(number, "db-jobs-nofilter").answer
        assert history.parse(answer, Selection(user="lab001"))
        assert history.parse(answer, Selection(user="nobody-else")) == []


@every_version
def test_nodes_partitions_reservations_and_accounts(number: int) -> None:
    (node,) = cluster.nodes(recorded(number, "nodes").answer)
    assert (node.name, node.cpus, node.state[0], node.alloc_cpus, node.idle_cpus) == ("vm", 2, "ALLOCATED", 2, 0)
    assert node.free_memory is not None
    assert node.free_memory > 20000
    assert node.cpu_load is not None
    assert node.cpu_load < 1
    found = cluster.partitions(recorded(number, "partitions").answer, show_hidden=False)
    assert found == (Partition("part01", "UP", 2, 1), Partition("xfer", "UP", 2, 1))
    (reservation,) = cluster.reservations(recorded(number, "reservations").answer, now=NOW)
    end = reservation.start_time + 3600
    assert reservation == Reservation("resv1", "vm", reservation.start_time, end, "inactive")
    (now,) = cluster.reservations(recorded(number, "reservations").answer, now=end - 1)
    assert now.state == "active"
    assert cluster.reservations(recorded(number, "reservations-none").answer) == ()
    assert cluster.accounts(recorded(number, "associations-user").answer, "lab001") == (Account("staff", True),)
    assert cluster.accounts(recorded(number, "associations-unknown-user").answer, "nosuch") == ()


def test_hidden_partitions_and_drained_nodes() -> None:
    answer = recorded(45, "partitions-flags-all").answer
    assert [one.name for one in cluster.partitions(answer, show_hidden=True)] == ["part01", "xfer", "hidden"]
    assert [one.name for one in cluster.partitions(answer, show_hidden=False)] == ["part01", "xfer"]
    for number in (42, 43, 44, 45):
        (node,) = cluster.nodes(recorded(number, "drained-nodes").answer)
        assert node.state == ("ALLOCATED", "DRAIN")


@pytest.mark.parametrize("number", [38, 42, 45])
def test_pings(number: int) -> None:
    """A controller is up if its ping says so."""
    assert cluster.controllers(recorded(number, "ping").answer) == (True, "")
    up, _ = cluster.controllers(recorded(number, "down-ping").answer)
    assert not up


def test_one_controller_of_two_is_enough() -> None:
    up, said = cluster.controllers({"pings": [{"hostname": "a", "pinged": "DOWN"}, {"hostname": "b", "pinged": "UP"}]})
    assert up
    assert "a is down" in said


CANCELLATIONS = {
    "delete-running": (Outcome.CANCELLED, Outcome.CANCELLED),
    "delete-pending": (Outcome.CANCELLED, Outcome.CANCELLED),
    "delete-again": (Outcome.CANCELLED, Outcome.ENDED),
    "delete-finished": (Outcome.CANCELLED, Outcome.ENDED),
    "delete-cancelled": (Outcome.CANCELLED, Outcome.ENDED),
    "delete-unknown": (Outcome.UNKNOWN, Outcome.UNKNOWN),
    "delete-other": (Outcome.FORBIDDEN, Outcome.FORBIDDEN),
    "delete-abc": (Outcome.UNKNOWN, Outcome.UNKNOWN),
}


@every_version
@pytest.mark.parametrize("label", CANCELLATIONS)
def test_what_became_of_a_cancellation(number: int, label: str) -> None:
    entry = recorded(number, label)
    outcome, said = cancellation.outcome(entry.status, entry.answer)
    assert outcome is CANCELLATIONS[label][number > 38]
    if outcome is Outcome.FORBIDDEN:
        assert "Access/permission denied" in said


# Whatever comes, a parser gives an answer or one of the gateway's errors; a row that is none costs itself.

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["RUNNING", "0x17", "0x", "-1", "9" * 30, 2**64, -1, 10**400]),
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def parse_all(status: int, answer: Any) -> None:
    jobs.parse(answer, Selection(user="lab001"))
    jobs.parse(answer, ALL)
    history.parse(answer, ALL)
    cluster.nodes(answer)
    cluster.partitions(answer, show_hidden=False)
    cluster.reservations(answer)
    cluster.accounts(answer, "lab001")
    cluster.controllers(answer)
    by_ping(status, answer)
    by_database(status, answer)
    assert isinstance(problems.failure(status, answer), GatewayError)
    assert isinstance(submission.refusal(status, answer), GatewayError)
    for parse in (submission.submitted, cancellation.outcome):
        with contextlib.suppress(GatewayError):
            parse(status, answer)


@given(st.sampled_from([200, 304, 404, 500, 511]), ANYTHING)
def test_anything_at_all(status: int, answer: Any) -> None:
    """No answer, whatever is in it, raises anything but our errors."""
    parse_all(status, answer)
    parse_all(status, {name: answer for name in ("jobs", "nodes", "partitions", "reservations", "pings", "errors")})
    parse_all(status, {name: [answer] for name in ("jobs", "associations", "nodes", "status", "errors", "warnings")})


ROWS: list[Recorded] = [
    entry
    for number in (38, 45)
    for entry in of_version(number)
    if entry.status == 200 and isinstance(entry.answer, dict) and entry.method == "GET"
]


@given(st.data())
def test_a_broken_field_costs_at_most_its_row(data: st.DataObject) -> None:
    entry = data.draw(st.sampled_from(ROWS))
    answer = copy.deepcopy(entry.answer)
    name = next((key for key, value in answer.items() if isinstance(value, list) and value and key != "errors"), None)
    if name is None:
        return
    rows = answer[name]
    victim = data.draw(st.sampled_from(rows))
    if isinstance(victim, dict):
        field = data.draw(st.sampled_from(sorted(victim)))
        victim[field] = data.draw(ANYTHING)
    parse_all(200, answer)
    if name == "jobs" and "/jobs/state" not in entry.path:
        reader = history.parse if entry.path.startswith("/slurmdb/") else jobs.parse
        assert len(reader(answer, ALL)) >= len(rows) - 1


def test_a_row_that_is_none_is_logged_and_skipped() -> None:
    answer = {"jobs": [None, {"job_id": 1}, *recorded(38, "job-ok").answer["jobs"]]}
    with structlog.testing.capture_logs() as logs:
        (record,) = jobs.parse(answer, ALL)
    assert record.job.name == "ok"
    assert [(entry["event"], entry["tool"]) for entry in logs] == [("slurm.row_skipped", "slurmrestd")] * 2


@given(st.sets(st.integers(0, 300)))
def test_the_bitmap_of_waiting_tasks(tasks: set[int]) -> None:
    expression = history.task_expression(hex(sum(1 << task for task in tasks)))
    found: set[int] = set()
    for part in expression.split(",") if expression else ():
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    assert found == tasks


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5),
        (0, 0),
        (None, None),
        (-1, None),
        (True, None),
        ("26", 26),
        ("x", None),
        (4294967294, None),
        (4294967295, None),
        (2.5, 2),
        (float("nan"), None),
        ({"set": True, "infinite": False, "number": 7}, 7),
        ({"set": False, "infinite": False, "number": 7}, None),
        ({"set": False, "infinite": True, "number": 0}, None),
        ({"set": True, "infinite": True, "number": 0}, None),
        ({}, None),
    ],
)
def test_numbers(value: object, expected: int | None) -> None:
    """A number is read in each shape that slurmrestd gives it."""
    assert values.number(value) == expected


def test_flags_beside_a_state() -> None:
    assert jobs.state("RUNNING") == "RUNNING"
    assert jobs.state(["RUNNING", "COMPLETING"]) == "COMPLETING"
    assert jobs.state(["PENDING", "REQUEUE_HOLD"]) == "REQUEUE_HOLD"
    assert jobs.state(["RUNNING", "LAUNCHED_ELSEWHERE"]) == "RUNNING"


def test_recordings_hold_no_token() -> None:
    for release in ("22.05", "26.05"):
        assert "eyJ" not in json.dumps([entry.answer for entry in recordings(release)])


CONTROLLED: dict[str, type[GatewayError] | None] = {
    "update-job": None,
    "update-job-unknown": JobNotFound,
    "update-job-finished": Conflict,
    "update-job-other": Forbidden,
    "delete-signal-running": None,
    "delete-unknown": JobNotFound,
    "delete-other": Forbidden,
}
"""What was recorded of changes and signals, and what it is taken for."""


@pytest.mark.parametrize("number", VERSIONS)
@pytest.mark.parametrize("label", CONTROLLED)
def test_what_became_of_a_change(number: int, label: str) -> None:
    entry = recorded(number, label)
    wanted = CONTROLLED[label]
    if wanted is None:
        control.check(entry.status, entry.answer, JobId("1"))
        return
    with pytest.raises(wanted):
        control.check(entry.status, entry.answer, JobId("1"))


@pytest.mark.parametrize("number", [version for version in VERSIONS if version > 38])
def test_a_job_is_held_and_released_unless_it_has_ended(number: int) -> None:
    entry = recorded(number, "delete-finished")
    with pytest.raises(Conflict):
        control.check(entry.status, entry.answer, JobId("1"))
    for label in ("update-job-hold", "update-job-release"):
        entry = recorded(number, label)
        control.check(entry.status, entry.answer, JobId("1"))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        (JobChanges(time_limit=61), {"time_limit": {"set": True, "number": 2}}),
        (JobChanges(time_limit=1200), {"time_limit": {"set": True, "number": 20}}),
        (JobChanges(name="renamed", partition="p"), {"name": "renamed", "partition": "p"}),
        (JobChanges(dependencies=()), {"dependency": ""}),
        (
            JobChanges(dependencies=(Dependency("afterok", ("1", "2_3")),)),
            {"dependency": "afterok:1:2_3"},
        ),
    ],
)
def test_what_changes_a_job(changes: JobChanges, wanted: dict[str, Any]) -> None:
    assert control.body(changes) == wanted


@pytest.mark.parametrize("number", [38, 45])
def test_the_history_tells_what_a_job_has_cost_where_one_was_asked_for(number: int) -> None:
    answer = recorded(number, "db-job-ok").answer
    (listed,) = history.parse(answer, ALL)
    assert listed.job.usage is None
    (found,) = history.parse(answer, Selection(ids=(JobId(listed.raw),)))
    usage = found.job.usage
    assert usage is not None
    assert (usage.cpu_seconds is None) == (number == 38), "which tells no processor time"
    assert (usage.node_hours, usage.energy) == (round((found.job.time.elapsed or 0) / 3600, 4), None)


@pytest.mark.parametrize(
    ("tres", "energy", "expected"),
    [
        ([], 0, (None, None)),
        ([{"type": "mem", "count": 4096}, {"type": "cpu", "count": 9999}], 7, (4096, 7)),
        ([{"type": "mem", "count": {"set": True, "infinite": False, "number": 5}}], None, (5, None)),
        ([{"type": "mem", "count": None}, "odd"], {"set": False, "number": 3}, (None, None)),
    ],
    ids=["nothing", "both", "as an object", "odd"],
)
def test_memory_and_energy_of_steps(tres: Any, energy: Any, expected: tuple[int | None, int | None]) -> None:
    step = {
        "step": {"id": "batch", "name": "batch"},
        "tres": {"requested": {"max": tres}},
        "statistics": {"energy": {"consumed": energy}},
    }
    job = {"job_id": 1, "state": {"current": "COMPLETED"}, "allocation_nodes": 2, "steps": [step]}
    job["time"] = {"start": 10, "end": 1810, "elapsed": 1800, "total": {"seconds": 3, "microseconds": 500000}}
    (found,) = history.parse({"jobs": [job]}, Selection(ids=(JobId("1"),)))
    usage = found.job.usage
    assert usage is not None
    assert (usage.cpu_seconds, usage.node_hours) == (3.5, 1.0)
    assert (usage.memory_peak, usage.energy) == expected
