"""What a submission names, as a rule with paths sees it."""

from typing import Any

import pytest

from hpcgate.api.grants import job_reach
from hpcgate.auth.policy import Grant
from hpcgate.errors import Denied
from hpcgate.schedulers.base import JobDescription

GRANT = Grant("tree", (b"/tree",))


def reach(**changes: Any) -> tuple[str, ...]:
    return job_reach(JobDescription(**{"working_directory": "/tree/sub", **changes}), GRANT).paths


def test_every_file_counts() -> None:
    assert reach(script="x") == ("/tree/sub",)
    streams = {"standard_input": "in", "standard_output": "/elsewhere/out-%j", "standard_error": "../err"}
    assert reach(script_path="/x/job.sh", **streams) == (
        "/tree/sub",
        "/x/job.sh",
        "/tree/sub/in",
        "/elsewhere/out-%j",
        "/tree/sub/../err",
    )


def test_the_name_of_the_job_in_a_path() -> None:
    assert reach(standard_output="%x-%j", name="../../x")[1] == "/tree/sub/../../x-%j"
    assert reach(standard_output="%4x", name="a\\1")[1] == "/tree/sub/a\\1"


def test_what_needs_no_look() -> None:
    assert reach(standard_output="/dev/null", standard_error="", environment={"OMP_NUM_THREADS": "2"}) == ("/tree/sub",)


@pytest.mark.parametrize(
    "changes",
    [
        {"script_path": "job.sh"},
        {"standard_output": "a\\b"},
        {"standard_error": "host:/etc/x"},
        {"standard_output": "%u/x"},
        {"standard_output": "$HOME/x"},
        {"standard_output": "^array_index^/x"},
        {"standard_output": "%x"},
        {"environment": {"SBATCH_CHDIR": "/"}},
        {"environment": {"LD_PRELOAD": "/x.so"}},
        {"environment": {"PBS_CONF_FILE": "/x"}},
    ],
)
def test_what_cannot_be_told(changes: dict[str, Any]) -> None:
    with pytest.raises(Denied) as caught:
        reach(**changes)
    assert caught.value.rule == "tree"
