"""What a submission names, as a rule with paths sees it."""

from typing import Any

import pytest

from hpcgate.api.grants import job_reach
from hpcgate.auth.policy import Grant
from hpcgate.errors import Denied
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.pbs.options import OPTIONS as PBS
from hpcgate.schedulers.slurm.options import OPTIONS

GRANT = Grant("tree", (b"/tree",))


def reach(**changes: Any) -> tuple[str, ...]:
    return job_reach(JobDescription(**{"working_directory": "/tree/sub", **changes}), GRANT, OPTIONS).paths


def test_every_file_counts() -> None:
    """The working directory and each of a job's streams are files that it reaches."""
    assert reach(script="x") == ("/tree/sub",)
    streams = {"standard_input": "in", "standard_output": "/elsewhere/out-%j", "standard_error": "../err"}
    assert reach(script="x", **streams) == ("/tree/sub", "/tree/sub/in", "/elsewhere/out-%j", "/tree/sub/../err")


def test_directives_count() -> None:
    """Paths in the directives of a script count as those of the request do."""
    assert reach(script="#!/bin/sh\n#SBATCH -o /x -e err\n") == ("/tree/sub", "/x", "/tree/sub/err")
    # Whichever directory counts, for whichever part of the job.
    assert reach(script="#!/bin/sh\n#SBATCH -D /y\n#SBATCH hetjob\n#SBATCH -o out\n", standard_error="/e") == (
        "/tree/sub",
        "/y",
        "/e",
        "/tree/sub/out",
        "/y/out",
    )


def test_a_name_that_names_a_file() -> None:
    job = JobDescription("/tree", script="true\n", name="../x")
    assert job_reach(job, GRANT, OPTIONS).paths == ("/tree",)
    with pytest.raises(Denied):
        job_reach(job, GRANT, PBS)


def test_a_scheduler_of_which_nothing_is_known() -> None:
    with pytest.raises(Denied):
        job_reach(JobDescription("/tree", script="true\n"), GRANT, None)


def test_the_name_of_the_job_in_a_path() -> None:
    assert reach(standard_output="%x-%j", name="../../x")[1] == "/tree/sub/../../x-%j"
    assert reach(standard_output="%4x", name="a\\1")[1] == "/tree/sub/a\\1"


def test_what_needs_no_look() -> None:
    assert reach(standard_output="/dev/null", standard_error="", environment={"OMP_NUM_THREADS": "2"}) == ("/tree/sub",)


@pytest.mark.parametrize(
    "changes",
    [
        {"script": "#SBATCH --wrap=x"},
        {"script": "#SBATCH -D x"},
        {"script": "#SBATCH -D /tree/%j"},
        {"script": "#SBATCH -o %x"},
        {"script": "#SBATCH -o a:b"},
        {"script": "#SBATCH -o ~/x"},
        {"partition": "queue@elsewhere"},
        {"standard_output": "a\\b"},
        {"standard_error": "host:/etc/x"},
        {"standard_output": "%u/x"},
        {"standard_output": "$HOME/x"},
        {"standard_output": "^array_index^/x"},
        {"standard_output": "%x"},
        {"environment": {"SBATCH_CHDIR": "/"}},
        {"default_environment": {"SBATCH_OUTPUT": "/x"}},
        {"environment": {"LD_PRELOAD": "/x.so"}},
        {"environment": {"GCONV_PATH": "/x"}},
        {"environment": {"OPENSSL_CONF": "/x"}},
        {"environment": {"PBS_CONF_FILE": "/x"}},
    ],
)
def test_what_cannot_be_told(changes: dict[str, Any]) -> None:
    with pytest.raises(Denied) as caught:
        reach(**changes)
    assert caught.value.rule == "tree"
