"""Values and directives in job scripts."""

import os
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcgate.auth import Principal
from hpcgate.config import DataOperation
from hpcgate.errors import BadRequest, NotSupported, PermissionDenied, TimedOut
from hpcgate.ssh.files.remote_path import RemotePath
from hpcgate.transfers import jobs
from hpcgate.transfers.base import BatchJob, Script
from hpcgate.transfers.jobs import TransferJobs
from hpcgate.transfers.script import assignment, directives_for, job_script
from tests.transfers import asked
from tests.transfers.shells import SHELLS

ALICE = Principal("alice", "token")
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(TEXT, min_size=1, max_size=20), shell=st.sampled_from(SHELLS))
def test_values_arrive_as_they_are(values: list[str], shell: str) -> None:
    lines = [assignment(f"v{number}", value) for number, value in enumerate(values)]
    lines += [f"printf '%s\\0' \"$v{number}\"" for number in range(len(values))]
    text = "\n".join(lines)
    assert "\r" not in text
    done = subprocess.run([shell, "-c", text], capture_output=True, check=True)
    assert done.stdout == "".join(f"{value}\0" for value in values).encode()


@settings(max_examples=40, deadline=None)
@given(path=st.binary(max_size=200).filter(lambda path: 0 not in path), shell=st.sampled_from(SHELLS))
def test_paths_arrive_byte_for_byte(path: bytes, shell: str) -> None:
    text = assignment("v", RemotePath(path))
    done = subprocess.run([shell, "-c", f"{text}\nprintf '%s' \"$v\""], capture_output=True, check=True)
    assert done.stdout == path


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
def test_values_that_cannot_be(value: str) -> None:
    with pytest.raises(BadRequest):
        assignment("v", value)


def test_account() -> None:
    """The account of a request stands where the directives want it."""
    lines = ["#SBATCH --nodes=1", "#SBATCH --account={account}"]
    assert directives_for(lines, "project") == (["#SBATCH --nodes=1", "#SBATCH --account=project"], None)
    assert directives_for(lines[:1], "project") == (lines[:1], "project")
    assert directives_for(lines[:1], None) == (lines[:1], None)
    for nothing in (None, ""):
        with pytest.raises(BadRequest, match="account is required"):
            directives_for(lines, nothing)


@pytest.mark.parametrize(
    "account",
    ["a b", "a\nb", "a\n#SBATCH --uid=0", "\t", "a\x00", "a'b", "$(id)", "`id`", "#", "x" * 256, "a,stagein=x@h:/y"],
)
def test_account_that_cannot_be(account: str) -> None:
    with pytest.raises(BadRequest, match="Not a valid account"):
        directives_for(["#SBATCH --account={account}"], account)


def test_no_value_passes_for_a_directive() -> None:
    text = job_script(["#SBATCH --nodes=1"], Script("x", {"source": "/a\n#SBATCH --uid=0"}, "true\n"))
    assert [line for line in text.splitlines() if line.startswith("#")] == ["#!/bin/sh", "#SBATCH --nodes=1"]


class Queue:
    """A scheduler that takes note."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.jobs: list[BatchJob] = []

    async def submit(self, principal: Principal, job: BatchJob) -> str:
        self.jobs.append(job)
        if self.error is not None:
            raise self.error
        return "42"


async def test_job() -> None:
    """A transfer job is submitted with its directives, directory and logs."""
    queue = Queue()
    runner = TransferJobs("Demo", "/scratch/", ["#SBATCH --account={account}"], queue.submit)
    job = await runner.run(ALICE, asked.rm("/scratch/alice/x"), "project")
    assert (job.job_id, job.system, job.working_directory) == ("42", "Demo", "/scratch/alice")
    mark = job.logs.output_log.removeprefix("/scratch/alice/.f7t_file_handling_job_").removesuffix(".log")
    assert len(mark) == 36
    assert job.logs.error_log == f"/scratch/alice/.f7t_file_handling_job_error_{mark}.log"
    submitted = queue.jobs[0]
    assert submitted.working_directory == b"/scratch/alice"
    assert (submitted.standard_output, submitted.standard_error) == (job.logs.output_log, job.logs.error_log)
    assert submitted.script.startswith("#!/bin/sh\n#SBATCH --account=project\n")
    assert submitted.account is None


async def test_time_out_is_not_tried_again() -> None:
    queue = Queue(TimedOut("sbatch"))
    with pytest.raises(TimedOut):
        await TransferJobs("Demo", "/scratch", [], queue.submit).run(ALICE, asked.rm("/x"), None)
    assert len(queue.jobs) == 1


async def test_nowhere_to_run() -> None:
    """Without a directory to run in there is no transfer job."""
    queue = Queue()
    with pytest.raises(NotSupported, match="default_work_dir"):
        await TransferJobs("Demo", None, [], queue.submit).run(ALICE, asked.rm("/x"), None)
    assert queue.jobs == []


async def test_nothing_is_submitted_to_a_directory_that_is_refused() -> None:
    queue, checked = Queue(), []

    async def check(principal: Principal, directory: str) -> None:
        checked.append((principal, directory))
        raise PermissionDenied(directory)

    with pytest.raises(PermissionDenied):
        await TransferJobs("Demo", "/scratch", [], queue.submit, check=check).run(ALICE, asked.rm("/x"), None)
    assert checked == [(ALICE, f"/scratch/{ALICE.username}")]
    assert queue.jobs == []


async def test_script_that_is_too_large() -> None:
    queue = Queue()
    with pytest.raises(BadRequest, match="larger"):
        await TransferJobs("Demo", "/scratch", [], queue.submit).run(
            ALICE, Script("x", {"v": "x" * 5_000_000}, ""), None
        )
    assert queue.jobs == []


async def test_logs_of_earlier_jobs_are_swept_once_they_are_old(tmp_path: Path) -> None:
    """Only logs with our mark, of files in that one directory, and with the age that is set."""
    home = tmp_path / ALICE.username
    (home / "below").mkdir(parents=True)
    queue, made = Queue(), {}
    assert DataOperation().transfer_log_lifetime == 7 * 24 * 3600
    for lifetime in (DataOperation().transfer_log_lifetime, None):
        runner = TransferJobs("Demo", str(tmp_path), [], queue.submit, lifetime)
        made[lifetime] = await runner.run(ALICE, asked.rm(f"{home}/gone"), None)
    logs = [Path(path) for job in made.values() for path in (job.logs.output_log, job.logs.error_log)]
    others = [
        home / f".f7t_file_handling_job_{uuid.uuid4()}.log",  # FirecREST's
        home / ".f7t_file_handling_job_notes.log",
        home / "below" / logs[0].name,
        home / f"x{logs[0].name}",
    ]
    young = home / f".f7t_file_handling_job_{jobs.log_mark()}.log"
    old = time.time() - 7 * 24 * 3600 - 120
    for file in (*logs, *others, young):
        file.write_text("said")
        os.utime(file, (old, old))
    os.utime(young, (old + 300, old + 300))
    link = home / f".f7t_file_handling_job_{jobs.log_mark()}.log"
    link.symlink_to(young)
    os.utime(link, (old, old), follow_symlinks=False)
    for submitted, swept in zip(reversed(queue.jobs), (False, True), strict=True):
        (home / "gone").write_text("")
        done = subprocess.run(["sh"], input=submitted.script, text=True, capture_output=True, check=True)
        assert "Files were successfully" in done.stdout
        assert [file.exists() for file in logs] == [not swept] * len(logs)
    assert all(file.exists() for file in (*others, young))
    assert link.is_symlink()
