"""How Slurm writes values, ids, states and failures, and the options that differ between its versions."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.errors import BadRequest, CommandFailed, Forbidden, GatewayError, JobNotFound, SchedulerUnavailable
from hpcgate.schedulers.slurm import sacct, scancel, scontrol, squeue, srun, values
from hpcgate.schedulers.slurm.failures import NO_ACCOUNTING, UNKNOWN_JOB, UNREACHABLE, failure, says
from hpcgate.schedulers.slurm.job_ids import JobId, addressable, task_ranges
from hpcgate.schedulers.slurm.records import Selection
from hpcgate.schedulers.slurm.states import ENDED, NODE_STATES, WAITING, node_state
from hpcgate.schedulers.slurm.version import version
from hpcgate.ssh.runner import Completed

from .recordings import RELEASES, recordings

VERSIONS = ("21.08.8", "22.05.8", "23.02.7", "23.11.10", "24.05.4", "24.11.0-1", "25.05.2", "25.11.1", "26.05.3")

every_release = pytest.mark.parametrize("release", RELEASES)


# Values


@given(st.integers(0, 10**9), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_durations_come_back(days: int, hours: int, minutes: int, seconds: int) -> None:
    """A duration is read in each form that Slurm writes."""
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if days < 10**9:
        assert values.duration(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == total
    assert values.duration(f"{hours}:{minutes:02}:{seconds:02}.123") == total - days * 86400
    assert values.duration(f"{minutes}:{seconds:02}") == minutes * 60 + seconds


@pytest.mark.parametrize("text", ["UNLIMITED", "NOT_SET", "INVALID", "Partition_Limit", "", "1", "-1:00", "1:2:3:4"])
def test_what_is_no_duration(text: str) -> None:
    assert values.duration(text) is None


@given(st.integers(0, 255), st.integers(0, 127))
def test_exit_statuses_come_back(status: int, signal: int) -> None:
    assert values.exit_code(f"{status}:{signal}") == (status, signal)
    assert values.wait_status(str(status << 8 | signal)) == (status, signal)
    assert values.wait_status(f"{status}:{signal}") == (status, signal)  # squeue 24.11


@given(st.text() | st.text("0123456789-:. ٣²"))
def test_no_value_raises(text: str) -> None:
    """No value, whatever is in it, raises."""
    for parse in (values.text, values.integer, values.number, values.epoch, values.duration, values.minutes,
                  values.priority, values.exit_code, values.wait_status):  # fmt: skip
        parse(text)


def test_times_and_priorities_that_are_none() -> None:
    assert [values.epoch(text) for text in ("Unknown", "None", "N/A", "0", "1700000000")] == [None] * 4 + [1700000000]
    assert [values.priority(text) for text in ("4294967294", "", "0", "7")] == [None, None, 0, 7]
    assert [values.minutes(text) for text in ("UNLIMITED", "Partition_Limit", "5")] == [None, None, 300]


# Job ids


def numbers_of(job_id: JobId) -> set[int]:
    return set(itertools.chain(*(job_id.tasks or ())))


ranges = st.builds(
    lambda first, length, step: f"{first}-{first + length}:{step}",
    st.integers(0, 40), st.integers(0, 40), st.integers(1, 9),
)  # fmt: skip
expressions = st.lists(st.one_of(ranges, st.integers(0, 60).map(str)), min_size=1, max_size=5).map(",".join)


@given(expressions, expressions, st.integers(1, 9))
def test_an_id_matches_the_arrays_with_which_it_shares_a_task(one: str, two: str, most: int) -> None:
    first, second = JobId.parse(f"5_[{one}]"), JobId.parse(f"5_[{two}%{most}]")
    shared = numbers_of(first) & numbers_of(second)
    assert first.matches(f"5_[{two}%{most}]", "9") is bool(shared)
    assert not first.matches(f"6_[{two}]", "9")


@given(st.integers(1, 0xFFFFFFFD), st.integers(0, 99999))
def test_ids_come_back_as_arguments(number: int, part: int) -> None:
    for text in (f"{number}", f"{number}_{part}", f"{number}+{part}"):
        assert JobId.parse(text).argument == text
        assert JobId.parse(text).matches(text, "0")
    assert JobId.parse(f"{number}").matches(f"{number}_{part}", "0")
    assert not JobId.parse(f"{number}_{part}").matches(f"{number}_{part + 1}", "0")


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "00",
        "0_1",
        "0+1",
        "4294967294",
        "9999999999",
        "1_4294967295",
        "1_[4294967295]",
        "1_[2,4294967294-4294967299]",
    ],
)
def test_slurm_counts_from_one_to_what_fits(text: str) -> None:
    with pytest.raises(JobNotFound):
        JobId.parse(text)


@given(st.text() | st.text("0123456789_[]+-,:%"))
def test_any_text_is_an_id_or_not(text: str) -> None:
    found = JobId.read(text)
    task_ranges(text)
    if found is None:
        with pytest.raises(JobNotFound):
            JobId.parse(text)
        return
    assert found.matches(text, "0") or found.tasks is not None
    assert all(part.isascii() for part in found.argument)
    assert found.order
    squeue.command(Selection(ids=(found,)), "m")


@pytest.mark.parametrize("text", ["1;id", "$(id)", "abc", "", "-1", "1_", "1_[", "1 ", "1\n", "1_1_1", "٣", "1" * 11])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(JobNotFound):
        JobId.parse(text)


def test_an_array_of_ten_thousand_scattered_tasks() -> None:
    shown = "5_[" + ",".join(str(number) for number in range(1, 20_000, 2)) + "%4]"
    assert JobId.parse("5_9999").matches(shown, "5000")
    assert JobId.parse("5").matches(shown, "5000")
    assert not JobId.parse("5_10000").matches(shown, "5000")
    with pytest.raises(JobNotFound):
        JobId.parse(shown)


@pytest.mark.parametrize(
    ("shown", "id_"),
    [
        ("5", "5"),
        ("5_3", "5_3"),
        ("5_[1-9]", "5_[1-9]"),
        ("5_[1-9%2]", "5_[1-9]"),
        ("5_[1,4-10:3%12]", "5_[1,4-10:3]"),
        ("5_[1-9%]", "5_[1-9]"),
        ("5+1.batch", "5+1.batch"),
    ],
)
def test_an_id_fits_into_a_path(shown: str, id_: str) -> None:
    assert addressable(shown) == id_


def test_huge_ranges_cost_nothing() -> None:
    huge = JobId.parse("5_[0-9999999999:2]")
    assert huge.matches("5_[1-9999999999:3]", "0")
    assert not huge.matches("5_[1-9999999999:2]", "0")
    assert huge.matches("5_4294967292", "0")
    with pytest.raises(BadRequest):
        scancel.command(huge)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("5", "5"),
        ("5_3", "5_3"),
        ("5_[3]", "5_3"),
        ("5+1", "5+1"),
        ("5_[1-3]", "5_[1-3]"),
        ("5_[1-7:3,9%2]", "5_[1,4,7,9-9]"),
    ],
)
def test_what_scancel_is_told(text: str, target: str) -> None:
    assert scancel.command(JobId.parse(text)) == ["scancel", "--verbose", target]


# States


def test_states_are_of_one_kind_only() -> None:
    assert not ENDED & WAITING
    assert "COMPLETING" not in ENDED | WAITING
    assert "SUSPENDED" not in ENDED | WAITING


@given(st.lists(st.one_of(st.text(), st.sampled_from([*NODE_STATES, "IDLE*", "idle~", "MIXED-", "MIXED+"]))))
def test_any_states_of_a_node_are_the_contracts(names: list[str]) -> None:
    found = node_state(*names)
    assert found
    assert len(set(found)) == len(found)
    assert set(found) <= {*NODE_STATES.values(), "UNKNOWN"} - {None}


def test_states_of_nodes() -> None:
    """A node's states are those of the contract; an unknown one is UNKNOWN."""
    assert node_state("IDLE", "DRAIN") == ("IDLE", "DRAIN")
    assert node_state("DOWN", "NOT_RESPONDING") == ("DOWN",)
    assert node_state("IDLE*") == ("IDLE",)
    assert node_state("IDLE", "CLOUD", "POWERED_DOWN") == ("IDLE", "OFFLINE")
    assert node_state("SOMETHING_NEW") == ("UNKNOWN",)
    assert node_state("PLANNED") == ("UNKNOWN",)


# Failures


def failed(release: str, label: str) -> GatewayError:
    recorded = recordings(release)[label]
    return failure(Completed(("squeue",), recorded.exit_status, recorded.stdout.encode(), recorded.stderr.encode()))


@every_release
@pytest.mark.parametrize(
    "label", ["down-squeue", "down-sacct", "down-sbatch", "down-scancel", "down-sacctmgr", "noconf-squeue"]
)
def test_a_daemon_that_is_down(release: str, label: str) -> None:
    assert says(recordings(release)[label].stderr, UNREACHABLE)
    error = failed(release, label)
    assert isinstance(error, SchedulerUnavailable)
    assert recordings(release)[label].stderr.strip().splitlines()[0] in str(error)


@every_release
def test_other_failures(release: str) -> None:
    """What Slurm tools print is told apart by their own words."""
    assert isinstance(failed(release, "scancel-other"), Forbidden)
    assert isinstance(failed(release, "srun-other"), Forbidden)
    assert isinstance(failed(release, "scancel-abc"), CommandFailed)
    for label in ("squeue-unknown", "srun-unknown"):
        assert says(recordings(release)[label].stderr, UNKNOWN_JOB)
        assert not says(recordings(release)[label].stderr, UNREACHABLE)
    assert not says(recordings(release)["down-sacct"].stderr, NO_ACCOUNTING)


@given(st.binary(), st.binary(), st.integers(-64, 255))
def test_any_failure_is_an_error_of_ours(stdout: bytes, stderr: bytes, status: int) -> None:
    assert str(failure(Completed(("env", "TZ=UTC", "squeue"), status, stdout, stderr)))


def test_a_command_that_failed_without_a_word_is_named() -> None:
    assert (
        str(failure(Completed(("env", "TZ=UTC", "squeue", "--all"), 3, b"", b""))) == "squeue ended with exit status 3"
    )


# Commands, and what differs between versions


@pytest.mark.parametrize("text", VERSIONS)
def test_options_of_every_version(text: str) -> None:
    year, month = (int(part) for part in text.split(".")[:2])
    release = version(text)
    assert release == (year, month)
    assert bool(sacct.stream_fields(release)) is (release >= (24, 5))
    attach = srun.command(JobId("5"), "true", release)
    assert "--overlap" in attach
    assert "--overlap" not in srun.command(JobId("5"), "true", (20, 2))
    assert attach[-4:] == ["--", "/bin/sh", "-c", "true"]


@pytest.mark.parametrize("text", ["", "slurm", "1", "22", "v22.05"])
def test_a_version_that_cannot_be_read_is_the_oldest(text: str) -> None:
    assert version(text) < (20, 11)
    assert sacct.stream_fields(version("")) == ()


def test_no_command_asks_for_fields_that_a_supported_version_lacks() -> None:
    new = {"StdIn", "StdOut", "StdErr", "Restarts", "Planned", "Reserved"}
    assert not new & set(sacct.FIELDS)
    assert "SubmitLine" in sacct.NAME_FIELDS, "since 21.08"
    assert set(sacct.stream_fields((26, 5))) >= {"StdIn", "StdOut", "StdErr"}


@given(st.text(st.characters(exclude_characters="\0")), st.text(st.characters(exclude_characters="\0")))
def test_users_and_accounts_stay_one_argument(user: str, account: str) -> None:
    selection = Selection(user=user, account=account, window=60)
    live, past = squeue.command(selection, "m"), sacct.command(selection, "m")
    assert live.count(f"--user={user}") == past.count(f"--user={user}") == 1
    assert f"--account={account}" in live
    assert f"--accounts={account}" in past
    assert all(argument.startswith("--") for argument in [*live[1:], *past[1:]])


def test_which_jobs_are_asked_for() -> None:
    ids = tuple(JobId.parse(text) for text in ("5", "5_[1-3]", "6_2", "7+1"))
    assert "--jobs=5,6_2,7+1" in squeue.command(Selection(ids=ids), "m")
    past = sacct.command(Selection(ids=ids, window=60), "m")
    assert "--jobs=5,6_2,7+1" in past
    assert not any(argument.startswith(("--starttime", "--allusers")) for argument in past)
    everybody = sacct.command(Selection(window=3600), "m")
    assert {"--allusers", "--starttime=now-3600", "--endtime=now"} <= set(everybody)
    assert not any(argument.startswith("--user") for argument in squeue.command(Selection(), "m"))
    assert "--all" in scontrol.partitions_command(show_hidden=True)
    assert "--all" not in scontrol.partitions_command(show_hidden=False)
