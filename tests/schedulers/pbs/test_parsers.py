"""What PBS's commands print, read: everything that two real servers printed, and everything else."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.schedulers.pbs import documents, pbs_rstat, pbsnodes, qdel, qstat, qsub, values
from hpcgate.schedulers.pbs.documents import blocks, decoded, items
from hpcgate.schedulers.pbs.job_ids import JobId

from .recordings import RELEASES, Recorded, recordings

Shown = Callable[[str], Recorded]


def _option(command: str, option: str) -> str | None:
    words = shlex.split(command.replace("$'", "'"))
    return words[words.index(option) + 1] if option in words else None


def _qstats(release: str) -> list[Recorded]:
    return [one for one in recordings(release) if re.match(r"qstat\b(?!.* -[BQ]).* json", one.command)]


def test_every_job_of_every_recording_is_read(release: str) -> None:
    broken = 0
    for one in _qstats(release):
        printed = re.findall(r'^(?:\t\t| {8})"(.*)":\s*\{$', one.stdout.decode("utf-8", "replace"), re.MULTILINE)
        jobs = qstat.parse_jobs(one.text)
        assert sorted(job.job_id for job in jobs) == sorted(set(printed)), one.label
        assert [item.job_id for item in qstat.parse_metadata(one.text)] == list(dict.fromkeys(printed)), one.label
        for job in jobs:
            assert job.user in ("fireuser", "nobody"), one.label
            assert job.working_directory in ("/home/fireuser/pbs-rec", "/home/fireuser", "/tmp"), one.label
            assert re.fullmatch("[BEFHQRSWX]", job.status.state), one.label
        broken += one.broken and bool(jobs)
    assert broken == (28 if release == "23.06.06" else 0)


def test_names_and_accounts_are_what_was_submitted(release: str) -> None:
    """23.06.06 prints a job's name as a number if it looks like one, valid or not, and mangles quotes and UTF-8."""
    checked = 0
    entries = recordings(release)
    for submitted, printed in itertools.pairwise(entries):
        if not submitted.label.startswith("nasty-") or submitted.exit_status or "qsub" not in submitted.command:
            continue
        account, name = _option(submitted.command, "-A"), _option(submitted.command, "-N")
        if submitted.label.startswith(("nasty-account", "nasty-name")) and printed.command.startswith("qstat"):
            (job,) = qstat.parse_jobs(printed.text)
            expected = account.replace("\\n", "\n") if account and "$'" in submitted.command else account
            assert (job.account, job.name) == (expected or None, name or "STDIN"), printed.label
            checked += 1
    assert checked > 25


def test_one_broken_job_does_not_cost_the_others() -> None:
    listing = next(one for one in recordings("23.06.06") if one.label == "qstat-json-two")
    damaged = listing.text.replace('"Job_Name":"firstjob"', '"Job_Name":inf', 1)
    assert [job.name for job in qstat.parse_jobs(damaged)] == ["inf", "STDIN"]
    for damage in ('"job_state":"R",\n', '"job_state":'):
        hurt = listing.text.replace(damage, "", 1)
        assert [job.name for job in qstat.parse_jobs(hurt)] == ["STDIN"]


def test_a_line_break_in_a_value_forges_no_job() -> None:
    """An account with the byte 0xca is printed as a caret and a newline; what follows must stay in the value."""
    listing = next(one for one in recordings("23.06.06") if one.label == "qstat-json-two")
    forged = b'x^\n        \\"9.vm\\":{\n            \\"job_state\\":\\"R\\",\n'
    text = decoded(listing.stdout.replace(b"proj01", forged, 1))
    jobs = qstat.parse_jobs(text)
    assert [job.job_id for job in jobs] == ["0.vm", "2.vm"]
    assert jobs[0].account == decoded(forged).replace('\\"', '"')


@pytest.mark.parametrize("account", ["hé", "日本", "ʀ“q”", "Ünï Ž"])
def test_characters_beyond_ascii_come_back(account: str) -> None:
    mangled = b"".join(bytes([94, (byte + 64) % 256]) if byte > 127 else bytes([byte]) for byte in account.encode())
    assert decoded(b'"Account_Name":"' + mangled + b'"') == f'"Account_Name":"{account}"'


def test_a_running_job(shown: Shown) -> None:
    """A running job is read with its state, place and times."""
    (job,) = qstat.parse_jobs(shown("qstat-json-running").text)
    assert (job.job_id, job.name, job.user, job.account) == ("0.vm", "firstjob", "fireuser", "proj01")
    assert (job.status.state, job.status.exit_code, job.status.interrupt_signal) == ("R", None, None)
    assert job.status.state_reason is not None
    assert job.status.state_reason.startswith("Job run at")
    assert (job.nodes, job.allocation_nodes, job.partition, job.cluster) == ("vm", 1, "workq", "vm")
    assert job.time.start in (1795378616, 1795377593)
    assert (job.time.end, job.time.limit) == (None, 300)
    assert job.time.elapsed is not None
    assert 0 <= job.time.elapsed < 5
    assert job.priority == 0


def test_a_waiting_job_has_no_node_and_no_start(shown: Shown) -> None:
    (job,) = qstat.parse_jobs(shown("qstat-json-queued").text)
    assert (job.status.state, job.nodes, job.allocation_nodes) == ("Q", "None assigned", 0)
    assert job.time == type(job.time)(elapsed=0, limit=600)
    assert job.status.state_reason == "Not Running: Not enough free nodes available"


@pytest.mark.parametrize(
    ("label", "code", "signal"),
    [
        ("qstat-x-json-finished-ok", None, None),
        ("qstat-x-json-exit3", 3, 0),
        ("qstat-x-json-exit255", 255, 0),
        ("qstat-x-json-kill9", 137, 0),
        ("qstat-x-json-ok", 0, 0),
        ("qstat-x-json-deleted-running", 271, 15),
        ("qstat-x-json-signalled", 266, 10),
        ("qstat-x-json-wall", -29, None),
        ("qstat-x-json-deleted-queued", None, None),
    ],
)
def test_how_jobs_ended(shown: Shown, label: str, code: int | None, signal: int | None) -> None:
    """A job that has ended is read with its exit code or signal."""
    (job,) = qstat.parse_jobs(shown(label).text)
    if label == "qstat-x-json-finished-ok":
        code, signal = job.status.exit_code, job.status.interrupt_signal
    assert job.status.state == "F"
    assert (job.status.exit_code, job.status.interrupt_signal) == (code, signal)
    assert job.time.end is not None
    if code is None:
        assert (job.time.start, job.time.elapsed) == (None, 0)
    else:
        assert job.time.start is not None
        assert job.time.end >= job.time.start
    if code == -29:
        assert (job.status.state_reason or "").startswith("JOB_EXEC_KILL_WALLTIME")


def test_an_exit_status_of_an_earlier_run_is_none_of_a_waiting_job(shown: Shown) -> None:
    text = shown("qstat-x-json-exit3").text.replace('"F"', '"Q"')
    (job,) = qstat.parse_jobs(text)
    assert (job.status.exit_code, job.time.start, job.time.end) == (None, None, None)


def test_arrays(shown: Shown) -> None:
    """An array is read with its tasks, and each with its streams."""
    jobs = qstat.parse_jobs(shown("qstat-json-array-t").text)
    base = jobs[0].job_id.partition("[")[0]
    assert [job.job_id for job in jobs] == [f"{base}[{index}].vm" for index in ("", 1, 2, 3)]
    assert [job.status.state for job in jobs] == ["B", "R", "R", "Q"]
    streams = qstat.parse_metadata(shown("qstat-json-array-t").text)
    assert [item.standard_output for item in streams] == [
        f"/home/fireuser/pbs-rec/arr.o{base}.{index}" for index in ("^array_index^", 1, 2, 3)
    ]
    held = qstat.parse_jobs(shown("qstat-json-array-held-t").text)
    assert [JobId.parse(job.job_id).index for job in held] == [None, "0", "5", "10"]


def test_streams(shown: Shown) -> None:
    """The paths of streams are read, with blanks and directories in them."""
    (streams,) = qstat.parse_metadata(shown("qstat-json-running").text)
    assert streams.standard_output == "/home/fireuser/pbs-rec/first.out"
    assert streams.standard_error == "/home/fireuser/pbs-rec/first.err"
    assert (streams.script, streams.standard_input) == (None, None)
    (streams,) = qstat.parse_metadata(shown("qstat-x-json-outspace").text)
    assert streams.standard_output == streams.standard_error == "/home/fireuser/pbs-rec/out dir/o ut.txt"
    (streams,) = qstat.parse_metadata(shown("qstat-x-json-outdir").text)
    assert streams.standard_output == f"/home/fireuser/pbs-rec/{streams.job_id}.OU"


def test_output_paths_with_a_colon_or_a_backslash(release: str) -> None:
    for one in recordings(release):
        for name in ("a:b.out", "a\\b.out", "a,b.out", "a b.out", 'a"b.out', "a'b.out", "$HOME/x.out"):
            if one.label == f"nasty-json-output {name}":
                (streams,) = qstat.parse_metadata(one.text)
                assert streams.standard_output == f"/home/fireuser/pbs-rec/{name}"


def test_a_directory_that_an_empty_variable_swallowed(shown: Shown) -> None:
    text = shown("qstat-json-running").text
    hidden = re.sub(r'"PBS_O_WORKDIR":\s*"', '"A":",PBS_O_WORKDIR=', text)
    assert hidden != text
    assert [job.working_directory for job in qstat.parse_jobs(hidden)] == ["/home/fireuser/pbs-rec"]


def test_queues(shown: Shown) -> None:
    """A queue is up, draining, inactive or down by what it enables and starts."""
    label = "queues-json-resv"
    queues = {queue.name: queue.state for queue in qstat.parse_queues(shown(label).text, show_hidden=False)}
    assert queues == {
        "workq": "UP",
        "smallq": "UP",
        "closedq": "DRAIN",
        "stoppedq": "DOWN",
        "aclq": "UP",
        "routeq": "UP",
    }
    everything = qstat.parse_queues(shown(label).text, show_hidden=True)
    assert len(everything) == len(queues) + 1
    assert everything[-1].name.startswith("R")
    assert qstat.parse_queues(shown("queues-json-limits").text, show_hidden=False)


@pytest.mark.parametrize(
    ("label", "state", "busy"),
    [
        ("nodes-json", ("IDLE",), 0),
        ("nodes-json-2running", ("ALLOCATED",), 2),
        ("nodes-json-resv-running", ("MIXED",), 1),
        ("nodes-json-offline", ("OFFLINE",), 0),
        ("nodes-json-momdown", None, None),
    ],
)
def test_nodes(shown: Shown, label: str, state: tuple[str, ...] | None, busy: int | None) -> None:
    """A node is read with its state and what of it is busy."""
    (node,) = pbsnodes.parse(shown(label).text)
    assert (node.name, node.address, node.hostname, node.cpus) == ("vm", "vm", "vm", 2)
    if state is None:
        assert "DOWN" in node.state
    else:
        assert (node.state, node.alloc_cpus, node.idle_cpus) == (state, busy, 2 - (busy or 0))
    assert node.free_memory is not None
    assert node.alloc_memory is not None
    assert node.free_memory + node.alloc_memory == 24684096 // 1024


def test_a_node_that_is_unknown_costs_a_row(shown: Shown) -> None:
    assert pbsnodes.parse(shown("node-unknown-json").text) == ()


def test_reservations(shown: Shown) -> None:
    """Reservations are read with their nodes, state and times."""
    (reservation,) = pbs_rstat.parse(shown("confirmed pbs_rstat -F").text)
    assert re.fullmatch(r"R\d+", reservation.name)
    assert (reservation.node_list, reservation.state) == ("vm", "inactive")
    assert reservation.end_time - reservation.start_time == 50
    assert [item.state for item in pbs_rstat.parse(shown("running pbs_rstat -F").text)] == ["active"]
    assert [item.name[0] for item in pbs_rstat.parse(shown("several pbs_rstat -F").text)] == ["R", "S"]
    assert pbs_rstat.parse(shown("pbs_rstat-F-empty").text) == ()


def test_the_server(shown: Shown) -> None:
    """The server's state is read, and None where it does not answer."""
    assert qstat.parse_server(shown("server-json").text) == "Active"
    assert qstat.parse_server(shown("server-down qstat -B -f -F json").text) is None


def test_every_submission_gives_its_id(release: str) -> None:
    for one in recordings(release):
        if one.command.startswith("qsub ") and "version" not in one.command:
            assert (qsub.parse(one.text) or "") == one.text.strip(), one.label


@pytest.mark.parametrize(
    ("label", "outcome"),
    [
        ("qdel-running", qdel.Outcome.CANCELLED),
        ("qdel-finished", qdel.Outcome.ENDED),
        ("qdel-array-again", qdel.Outcome.ENDED),
        ("qdel-unknown-full", qdel.Outcome.UNKNOWN),
        ("qdel-subjob-unknown", qdel.Outcome.UNKNOWN),
        ("qdel-otherserver", qdel.Outcome.UNKNOWN),
        ("qdel-badid", qdel.Outcome.UNKNOWN),
        ("qdel-foreign", qdel.Outcome.FORBIDDEN),
        ("qdel-momdown", qdel.Outcome.FAILED),
        ("server-down qdel 0.vm", qdel.Outcome.FAILED),
    ],
)
def test_what_became_of_a_cancellation(shown: Shown, label: str, outcome: qdel.Outcome) -> None:
    assert qdel.parse(shown(label).exit_status, shown(label).stderr) is outcome


@pytest.mark.parametrize("text", ["123", "123.vm", "123[].vm", "123[4].pbs-1.example.org", "123[1-9:2]", "0"])
def test_job_ids(text: str) -> None:
    """A job id goes to the commands as it came."""
    assert JobId.parse(text).argument == text


@pytest.mark.parametrize(
    "text", ["", "abc", "-1", "1;id", "$(id)", "1 2", "1.", "1.-x", "1.vm\n", "1[", "1[a]", "1[]]", "workq@vm", "٣"]
)
def test_what_is_no_job_id(text: str) -> None:
    assert JobId.read(text) is None


@pytest.mark.parametrize(
    ("asked", "shown", "same"),
    [
        ("1", "1.vm", True),
        ("1.vm", "1.vm.example.org", True),
        ("1.other", "1.vm", False),
        ("1", "11.vm", False),
        ("1", "1[].vm", False),
        ("1[]", "1[].vm", True),
        ("1[]", "1[4].vm", True),
        ("1[4]", "1[].vm", False),
        ("1[4]", "1[4].vm", True),
        ("1[2-6:2]", "1[4].vm", True),
        ("1[2-6:2]", "1[5].vm", False),
        ("1[2-6:0]", "1[5].vm", True),
    ],
)
def test_which_jobs_an_id_names(asked: str, shown: str, same: bool) -> None:
    assert JobId.parse(asked).matches(JobId.parse(shown)) is same


def test_ids_that_qstat_does_not_know(shown: Shown) -> None:
    assert qstat.parse_unknown(shown("qstat-json-mixed").stderr) == [JobId("99999", None, "vm")]
    assert qstat.parse_unknown(shown("qstat-json-subjob-unknown").stderr)[0].indices == "9"
    assert qstat.parse_unknown(shown("qstat-json-otherserver").stderr) == [JobId("0", None, "nosuchserver")]


def test_values() -> None:
    """Times, durations and sizes are read as PBS writes them."""
    assert values.epoch("Sun Nov 22 20:16:56 2026") == 1795378616
    assert values.epoch("Thu Jan  1 00:00:00 1970") == 0
    assert values.epoch("Sun Nov 99 20:16:56 2026") is None
    assert values.duration("10:00:00") == 36000
    assert values.duration("90") == 90
    assert values.duration("--") is None
    assert values.mebibytes("100mb") == 100
    assert values.mebibytes("24684096kb") == 24105
    assert values.mebibytes("1gw") == 8192
    assert values.mebibytes("--") is None
    assert values.hosts("n1/0*4+n2/0+n2/1") == ("n1", "n2")
    assert values.path("vm:/a:b") == "/a:b"
    assert values.path("/a:b") == "/a:b"


def _everything(output: bytes) -> None:
    text = decoded(output)
    qstat.parse_jobs(text)
    qstat.parse_metadata(text)
    qstat.parse_ids(text)
    qstat.parse_queues(text, show_hidden=True)
    qstat.parse_server(text)
    pbsnodes.parse(text)
    pbs_rstat.parse(text)
    qsub.parse(text)
    blocks(text, "Job Id")
    items(text, "Jobs")
    qdel.parse(1, text)


@given(st.binary())
def test_nothing_breaks_the_parsers(output: bytes) -> None:
    _everything(output)


_SAMPLES = tuple(
    one.stdout
    for release in RELEASES
    for one in recordings(release)
    if one.stdout and len(one.stdout) < 20_000 and re.match(r"(qstat|pbsnodes|pbs_rstat)\b", one.command)
)
_EVIL = (b'"', b"\\", b"\n", b"\t", b"{", b"}", b"[" * 2000, b"^", b"\xca", b"inf", b",", b":", b"\0", b"        ")


@given(st.sampled_from(_SAMPLES), st.data())
def test_no_damage_breaks_the_parsers(output: bytes, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(output)))
        length = data.draw(st.integers(0, 40))
        output = output[:start] + data.draw(st.sampled_from(_EVIL) | st.binary(max_size=8)) + output[start + length :]
    _everything(output)


@given(st.text())
def test_nothing_breaks_the_values(text: str) -> None:
    for read in (values.epoch, values.integer, values.duration, values.mebibytes, values.hosts, values.path):
        read(text)
    JobId.read(text)
    pbsnodes.node_state(text, in_use=True)


@pytest.mark.parametrize("text", ["{" + "," * 3_000_001, "{" + "\n" * 3_000_001], ids=["values", "lines"])
def test_an_answer_of_more_values_than_any_site_has_is_not_looked_at(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_strict", "_salvaged"):
        monkeypatch.setattr(documents, name, lambda *_: pytest.fail("it was looked at"))
    with pytest.raises(ValueError, match="too many values"):
        documents.items(text, "Jobs")


@pytest.mark.parametrize("piece", ["\n", " ", " \n", "1.a.", "1.1", "1[].a ", "1"])
def test_what_a_liar_prints_is_gone_through_once(piece: str) -> None:
    """A megabyte of line ends took the event loop for an hour."""
    assert len(qsub.parse(piece * (1024 * 1024 // len(piece))) or "") <= 300


def test_what_jobs_have_cost_is_told_of_those_that_began(release: str) -> None:
    found = [(job, job.usage) for one in _qstats(release) for job in qstat.parse_jobs(one.text)]
    assert all(usage is None for job, usage in found if job.time.start is None)
    used = [usage for job, usage in found if usage is not None]
    assert all(usage.node_hours is not None for usage in used)
    assert any((usage.memory_peak or 0) > 1024 for usage in used)


@pytest.mark.parametrize(
    ("cput", "seconds"),
    [("00:00:00", None), ("00:00:07", 7), ("00:01:05", 65), ("101:00:01", 363601), ("3", 3), ("soon", None)],
)
def test_the_processor_time_of_a_job_that_took_some(release: str, cput: str, seconds: int | None) -> None:
    """As a job of the recordings shows it, which took none itself."""
    recorded = next(one for one in _qstats(release) if re.search(r'"cput":\s*"', one.text))
    text, count = re.subn(r'("cput":\s*)"[^"]*"', lambda found: f'{found[1]}"{cput}"', recorded.text)
    assert count
    used = [job.usage.cpu_seconds for job in qstat.parse_jobs(text) if job.usage is not None]
    assert set(used) == {seconds}
