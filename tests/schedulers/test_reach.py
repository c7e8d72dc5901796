"""What a submission names, as a rule with paths sees it."""

from collections.abc import Iterable
from typing import Any

import pytest

from hpcgate.schedulers.base import Scheduler
from hpcgate.schedulers.directives import Directives, Unchecked
from hpcgate.schedulers.job_spec import JobAttributes, Program
from hpcgate.schedulers.pbs.options import OPTIONS as PBS
from hpcgate.schedulers.reach import launched
from hpcgate.schedulers.reach import reach as reach_by
from hpcgate.schedulers.slurm.options import OPTIONS
from hpcgate.ssh.files.remote_path import RemotePath
from tests.schedulers.described import described


def reach(**changes: Any) -> tuple[str, ...]:
    return texts(reach_by(described(**{"working_directory": "/tree/sub", **changes}), OPTIONS))


def texts(paths: Iterable[RemotePath]) -> tuple[str, ...]:
    return tuple(path.text for path in paths)


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


def test_a_program_names_files_too() -> None:
    """The program by its path, and what is sourced before and after it; its arguments are its own affair."""
    program = Program("bin/x", ("/etc/passwd",), pre_launch="/a", post_launch="/b")
    assert texts(launched(described("/tree", program=program))) == ("/a", "/b", "/tree/bin/x")
    assert texts(launched(described("/tree", program=Program("hostname")))) == ()


@pytest.mark.parametrize(
    "options", [{"burst-buffer": "x"}, {"bbf": "/x"}, {"nodelist": "/x"}, {"unheard-of": 1}, {"chdir": "/"}]
)
def test_options_that_may_name_files_are_unchecked(options: dict[str, Any]) -> None:
    assert reach(script="x", attributes=JobAttributes(extra={"slurm": {"nice": 1}})) == ("/tree/sub",)
    with pytest.raises(Unchecked, match=r"extra\.slurm"):
        reach(script="x", attributes=JobAttributes(extra={"slurm": options}))


def test_a_name_that_names_a_file() -> None:
    job = described("/tree", script="true\n", name="../x")
    assert texts(reach_by(job, OPTIONS)) == ("/tree",)
    with pytest.raises(Unchecked):
        reach_by(job, PBS)


class PlugIn:
    """As much of a plug-in as is asked, which says nothing of its own."""

    def directives(self) -> Directives | None:
        return None

    reach, with_script = Scheduler.reach, Scheduler.with_script


def test_a_plug_in_that_does_not_say_what_its_jobs_name_lets_nobody_with_paths_submit() -> None:
    silent: Any = PlugIn()
    for job in (described("/tree", script="true\n"), described("/tree", script="")):
        with pytest.raises(Unchecked):
            silent.reach(job)
    with pytest.raises(Unchecked):
        silent.with_script(described("/tree", script_path="/tree/x"), "true\n")


def test_a_plug_in_that_does_not_say_which_variables_steer_it_takes_none() -> None:
    own = Directives(mark="OWN", naming="name")
    assert texts(reach_by(described("/tree", script="true\n"), own)) == ("/tree",)
    with pytest.raises(Unchecked):
        reach_by(described("/tree", script="true\n", environment={"OMP_NUM_THREADS": "2"}), own)


def test_a_script_that_was_read_keeps_the_name_that_its_path_gives() -> None:
    slurm: Any = PlugIn()
    slurm.directives = lambda: OPTIONS
    at_path = described("/tree", script_path="/tree/run.sh")
    assert slurm.with_script(at_path, "true\n").name == "run.sh"
    assert slurm.with_script(at_path, "#SBATCH -J own\n").name is None
    assert slurm.with_script(at_path, "true\n").script_path is None


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
        {"environment": {"LUA_PATH": "/x/?.lua"}},
        {"environment": {"LUA_CPATH_5_4": "/x/?.so"}},
        {"script": "#SBATCH hetjob\n#SBATCH -J ../../x\n#SBATCH -o %x", "name": "fine"},
        {"script": "#SBATCH hetjob\n#SBATCH --job-name ../x\n#SBATCH -o %x", "name": "fine"},
    ],
)
def test_what_cannot_be_told(changes: dict[str, Any]) -> None:
    with pytest.raises(Unchecked):
        reach(**changes)
