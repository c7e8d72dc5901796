"""What sbatch has printed is a job, a refusal that is certain to have left none, or in doubt."""

from typing import Any, cast

import pytest

from hpcgate.auth import Principal
from hpcgate.errors import Forbidden, GatewayError, SchedulerUnavailable, SubmissionRefused
from hpcgate.schedulers.once import Doubt
from hpcgate.schedulers.slurm.settings import SlurmSettings
from hpcgate.schedulers.slurm.submitter import Submitter
from hpcgate.schedulers.slurm.tools import Tools
from hpcgate.schedulers.submitting import Printed

MARK = "hpcgate:0123456789abcdef01234567"
FAILED = "sbatch: error: Batch job submission failed: "

CASES: list[tuple[str, int | None, str | type[GatewayError | Doubt]]] = [
    ("4711\n", 0, "4711"),
    ("4711\n", None, "4711"),
    ("sbatch: some advice\n4711\n", 0, "4711"),
    (f"{FAILED}Invalid account or account/partition combination specified\n", 1, SubmissionRefused),
    ("sbatch: error: invalid partition specified: x\n", 1, SubmissionRefused),
    (f"{FAILED}Job violates accounting/QOS policy (job submit limit)\n", 1, Forbidden),
    (f"{FAILED}Unable to contact slurm controller (connect failure)\n", 1, SchedulerUnavailable),
    (f"{FAILED}Connection refused\n", 1, SchedulerUnavailable),
    ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n", 1, SchedulerUnavailable),
    ("sbatch: error: temporarily unable to accept job, sleeping and retrying\n", None, Doubt),
    (f"sbatch: error: sleeping and retrying\n{FAILED}Zero Bytes were transmitted or received\n", 1, Doubt),
    (f"{FAILED}Unable to contact slurm controller (receive failure)\n", 1, Doubt),
    (f"{FAILED}Socket timed out on send/recv operation\n", 1, Doubt),
    (f"{FAILED}Transport endpoint is not connected\n", 1, Doubt),
    (f"{FAILED}Protocol authentication error\n", 1, Doubt),
    ("", None, Doubt),
    ("", 0, Doubt),
    ("", 137, Doubt),
    ("Killed\n", 137, Doubt),
    (f"4711\n{FAILED}Invalid partition\n", 1, Doubt),
]


@pytest.mark.parametrize(("words", "status", "wanted"), CASES)
async def test_of_the_program_itself(words: str, status: int | None, wanted: Any) -> None:
    assert is_a(await judged("program", words, status), wanted)


@pytest.mark.parametrize(
    ("words", "status"),
    [("Your job costs 3\n4711\n", 0), (f"{FAILED}Invalid partition\n", 1), ("thank you\n", 0), ("4711\n", 1)],
)
async def test_a_script_in_its_place_leaves_doubt(words: str, status: int) -> None:
    assert isinstance(await judged("wrapper", words, status), Doubt)


async def test_what_never_came_to_sbatch_is_certain() -> None:
    submitter = Submitter(Tools("demo", settings(), cast("Any", None)))
    printed = Printed("cd: /nowhere: No such file or directory\n", 66)
    assert isinstance(await submitter.judged(Principal("alice", token=""), MARK, printed), SubmissionRefused)


async def test_what_claims_a_job_without_an_id_is_not_taken_for_none() -> None:
    doubt = await judged("program", "", 0)
    assert isinstance(doubt, Doubt)
    assert doubt.claims


async def judged(kind: str, words: str, status: int | None) -> str | GatewayError | Doubt:
    submitter = Submitter(Tools("demo", settings(), cast("Any", None)))
    text = f"sbatch-{MARK.removeprefix('hpcgate:')} {kind} \n{words}"
    return await submitter.judged(Principal("alice", token=""), MARK, Printed(text, status))


def settings() -> SlurmSettings:
    return SlurmSettings(type="slurm", version="22.05.8")


def is_a(found: object, wanted: Any) -> bool:
    return found == wanted if isinstance(wanted, str) else isinstance(found, wanted)
