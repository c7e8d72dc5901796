"""What is sent to submit a job, and what the answers mean."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.errors import (
    BadRequest,
    Forbidden,
    GatewayError,
    NotSupported,
    SchedulerUnavailable,
    SubmissionRefused,
)
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.slurm import attributes
from hpcgate.schedulers.slurm.rest import submission
from hpcgate.schedulers.slurm.rest.directives import FLAGS, OPTIONAL, directives
from hpcgate.schedulers.slurm.rest.problems import Unclear
from hpcgate.schedulers.slurm.rest.versions import VERSIONS
from tests.schedulers.described import described

from .recordings import RELEASE_OF, recorded

OLD, NEW = VERSIONS[38], VERSIONS[45]
NASTY = {"COMMAS": "a,b=c", "QUOTES": "\"'`", "LINES": "a\nb\n", "EMPTY": "", "UTF8": "é日本"}


def job(script: str | None = "#!/bin/sh\ntrue\n", **more: Any) -> JobDescription:
    return described("/home/alice", script=script, **more)


def fields(script: str, number: int = 38) -> dict[str, Any]:
    """Return the fields that the directives add to those of a job without any."""
    version = VERSIONS[number]
    plain = submission.body(job(), "alice", version)["job"]
    asked = submission.body(job(f"#!/bin/sh\n{script}\ntrue\n"), "alice", version)["job"]
    return {name: value for name, value in asked.items() if plain.get(name) != value}


def test_the_environment_is_an_object_in_38_and_a_list_later() -> None:
    body = submission.body(job(environment=NASTY), "alice", OLD)
    own = {"PATH": submission.DEFAULT_PATH, "USER": "alice", "LOGNAME": "alice"}
    assert body["job"]["environment"] == own | NASTY
    for number in range(39, 46):
        body = submission.body(job(environment=NASTY), "alice", VERSIONS[number])
        assert body["job"]["environment"] == [f"{name}={value}" for name, value in (own | NASTY).items()]


def test_an_environment_is_never_empty_and_the_jobs_own_wins() -> None:
    assert submission.environment({}, "alice", OLD)
    assert "PATH=/x" in submission.environment({"PATH": "/x"}, "alice", NEW)


@pytest.mark.parametrize(
    ("directive", "wanted"),
    [
        ("#SBATCH --export=NONE", {"A_ASKED": "1"}),
        ("#SBATCH --export=nil", {"A_ASKED": "1"}),
        ("#SBATCH --export=ALL", {"A_ASKED": "1", "A_DEFAULT": "1"}),
        ("", {"A_ASKED": "1", "A_DEFAULT": "1"}),
    ],
)
def test_a_default_variable_gives_way_to_the_scripts_export(directive: str, wanted: dict[str, str]) -> None:
    asked = job(f"#!/bin/sh\n{directive}\n", environment={"A_ASKED": "1"}, default_environment={"A_DEFAULT": "1"})
    environment = submission.body(asked, "alice", OLD)["job"]["environment"]
    assert {name: value for name, value in environment.items() if name.startswith("A_")} == wanted


def test_nobody_waits_for_the_end_of_a_job() -> None:
    assert fields("#SBATCH --wait") == fields("#SBATCH -W") == {}


@pytest.mark.parametrize("name", ["", "A B", "A=B", "1A", "A-B", "é"])
def test_names_of_variables_that_are_none(name: str) -> None:
    with pytest.raises(BadRequest, match="env: "):
        submission.body(job(environment={name: "x"}), "alice", OLD)
    with pytest.raises(BadRequest, match="NUL"):
        submission.body(job(environment={"A": "x\0"}), "alice", OLD)


def test_what_is_asked_outweighs_the_directives() -> None:
    script = "#!/bin/sh\n#SBATCH -J mine -p theirs -A theirs -o out --chdir=/elsewhere\n"
    asked = submission.body(job(script, name="asked", partition="normal", standard_error="err"), "alice", OLD)["job"]
    assert (asked["name"], asked["partition"], asked["account"]) == ("asked", "normal", "theirs")
    assert (asked["standard_output"], asked["standard_error"]) == ("out", "err")
    assert asked["current_working_directory"] == "/home/alice"


def test_what_sbatch_refuses_is_refused() -> None:
    for script in ("", "echo hi\n", "\n#!/bin/sh\n"):
        with pytest.raises(SubmissionRefused, match="first line must start with #!"):
            submission.body(job(script), "alice", OLD)
    with pytest.raises(SubmissionRefused, match="DOS line breaks"):
        submission.body(job("#!/bin/sh\r\ntrue\r\n"), "alice", OLD)
    with pytest.raises(SubmissionRefused, match="NUL"):
        submission.body(job("#!/bin/sh\n\0"), "alice", OLD)
    with pytest.raises(SubmissionRefused, match="Unicode"):
        submission.body(job("#!/bin/sh\n\udcff"), "alice", OLD)
    with pytest.raises(BadRequest, match="NUL"):
        submission.body(job(name="a\0b"), "alice", OLD)


def test_a_script_on_the_cluster_cannot_be_submitted() -> None:
    with pytest.raises(NotSupported, match="scriptPath"):
        submission.body(job(None, script_path="/x"), "alice", OLD)


SAME = {
    "#SBATCH --job-name=x": {"name": "x"},
    "#SBATCH -J 'two words' # a comment": {"name": "two words"},
    "#SBATCH --account acct --qos=q": {"account": "acct", "qos": "q"},
    "#SBATCH --ntasks=4\n#SBATCH -c2": {"tasks": 4, "cpus_per_task": 2},
    "#SBATCH --ntasks-per-node 2": {"tasks_per_node": 2},
    "#SBATCH -o %j.out -e %j.err -i /dev/null": {
        "standard_output": "%j.out",
        "standard_error": "%j.err",
        "standard_input": "/dev/null",
    },
    "#SBATCH -a 0-3%2": {"array": "0-3%2"},
    "#SBATCH -d afterok:12": {"dependency": "afterok:12"},
    "#SBATCH -H": {"hold": True},
    "#SBATCH --hold --requeue": {"hold": True, "requeue": True},
    "#SBATCH --nice\n#SBATCH --comment='a b'": {"nice": 100, "comment": "a b"},
    "#SBATCH --nice=-5": {"nice": -5},
    "#SBATCH -C 'fast&large' --reservation=r --mail-user=a@b": {
        "constraints": "fast&large",
        "reservation": "r",
        "mail_user": "a@b",
    },
    "#SBATCH --export=ALL --quiet -v": {},
    "#SBATCH --export=NONE": {},
    "#SBATCH": {},
    "#SBATCHED --nonsense": {},
    "##SBATCH --nonsense": {},
    " #SBATCH --nonsense": {},
    "\n# comment\n#SBATCH -J late": {"name": "late"},
    "true\n#SBATCH -J too-late": {},
}


def test_a_job_that_must_not_start_again_says_so_as_the_version_reads_it() -> None:
    """22.05 takes no notice of ``"requeue": false``, and has a word of its own."""
    assert fields("#SBATCH --no-requeue", 38) == {"no_requeue": True}
    assert fields("#SBATCH --no-requeue", 39) == fields("#SBATCH --no-requeue", 45) == {"requeue": False}


@pytest.mark.parametrize("script", SAME)
@pytest.mark.parametrize("number", [38, 39, 45])
def test_directives_that_are_the_same_everywhere(number: int, script: str) -> None:
    assert fields(script, number) == SAME[script]


def limit(number: int) -> dict[str, Any]:
    return {"set": True, "infinite": False, "number": number}


TYPED = {
    "--time=10": ({"time_limit": "10"}, {"time_limit": limit(10)}),
    "-t 1:30": ({"time_limit": "1:30"}, {"time_limit": limit(2)}),
    "-t 01:30:00": ({"time_limit": "01:30:00"}, {"time_limit": limit(90)}),
    "-t 1-2": ({"time_limit": "1-2"}, {"time_limit": limit(26 * 60)}),
    "-t 1-02:03": ({"time_limit": "1-02:03"}, {"time_limit": limit(26 * 60 + 3)}),
    "-t 1-02:03:04": ({"time_limit": "1-02:03:04"}, {"time_limit": limit(26 * 60 + 4)}),
    "-t UNLIMITED": (
        {"time_limit": "UNLIMITED"},
        {"time_limit": {"set": True, "infinite": True, "number": 0}},
    ),
    "--time-min=5": ({"time_minimum": "5"}, {"time_minimum": limit(5)}),
    "-N 2": ({"nodes": "2"}, {"minimum_nodes": 2, "maximum_nodes": 2}),
    "--nodes=1-4": ({"nodes": "1-4"}, {"minimum_nodes": 1, "maximum_nodes": 4}),
    "--mem=2G": ({"memory_per_node": "2G"}, {"memory_per_node": limit(2048)}),
    "--mem=100": ({"memory_per_node": "100"}, {"memory_per_node": limit(100)}),
    "--mem-per-cpu=1000K": ({"memory_per_cpu": "1000K"}, {"memory_per_cpu": limit(1)}),
    "--gres=gpu:2": ({"gres": "gpu:2"}, {"tres_per_node": "gres/gpu:2"}),
    "-G 3": ({"gpus": "3"}, {"tres_per_job": "gres/gpu:3"}),
    "--gpus-per-node=a100:1": ({"gpus_per_node": "a100:1"}, {"tres_per_node": "gres/gpu:a100:1"}),
    "--exclusive": ({"exclusive": "exclusive"}, {"shared": ["none"]}),
    "--exclusive=user": ({"exclusive": "user"}, {"shared": ["user"]}),
    "--open-mode=append": ({"open_mode": "append"}, {"open_mode": ["APPEND"]}),
    "--mail-type=END,FAIL": ({"mail_type": "END,FAIL"}, {"mail_type": ["END", "FAIL"]}),
    "--mail-type=all": (
        {"mail_type": "all"},
        {"mail_type": ["BEGIN", "END", "FAIL", "REQUEUE", "STAGE_OUT"]},
    ),
}


@pytest.mark.parametrize("option", TYPED)
def test_directives_that_differ(option: str) -> None:
    """A directive is sent in the type that the version takes."""
    old, new = TYPED[option]
    assert fields(f"#SBATCH {option}", 38) == old
    assert fields(f"#SBATCH {option}", 45) == new


@pytest.mark.parametrize("option", sorted({name for row in attributes.TABLE for name in row.options}))
def test_what_a_field_outweighs_may_stand_in_the_script(option: str) -> None:
    """A script that sbatch takes with the field is not refused for the directive."""
    value = "" if option in FLAGS | OPTIONAL else "=1"
    assert set(directives(f"#!/bin/sh\n#SBATCH --{option}{value}\n")) == {option}


def test_what_a_request_cannot_carry_is_refused_by_name() -> None:
    for option in ("--uid=3", "-X", "hetjob", "--export=A,B", "--get-user-env", "--wrap=x"):
        with pytest.raises(NotSupported, match=option.removeprefix("--").partition("=")[0]):
            fields(f"#SBATCH {option}")
    with pytest.raises(NotSupported, match=r"--begin=now\+1hour .* v0\.0\.45"):
        fields("#SBATCH --begin=now+1hour", 45)
    assert fields("#SBATCH --begin=now+1hour", 38) == {"begin_time": "now+1hour"}
    with pytest.raises(NotSupported, match=r"--exclusive .* v0\.0\.40"):
        fields("#SBATCH --exclusive", 40)
    with pytest.raises(NotSupported, match="ARRAY"):
        fields("#SBATCH --mail-type=TIME_LIMIT_ARRAY", 45)


@pytest.mark.parametrize(
    "line",
    ["-n x", "-N 1-x", "--mem=lots", "-t soon", "--time", "-J", "stray", "-J 'open", "--nice=much", "--open-mode=w"],
)
def test_directives_that_mean_nothing_are_refused(line: str) -> None:
    with pytest.raises(SubmissionRefused):
        fields(f"#SBATCH {line}", 45)


@given(st.text(max_size=60), st.sampled_from([38, 39, 45]))
def test_any_script_is_taken_or_refused(text: str, number: int) -> None:
    for script in (text, f"#!/bin/sh\n#SBATCH {text}\n", f"#!{text}"):
        try:
            body = submission.body(job(script), "alice", VERSIONS[number])
        except GatewayError:
            continue
        assert body["script"] == script


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), min_size=1, max_size=30))
def test_any_name_arrives_as_it_is(name: str) -> None:
    assert directives(f"#!/bin/sh\n#SBATCH --job-name={shlex.quote(name)}\n") == {"job-name": name}
    assert submission.body(job(name=name), "alice", OLD)["job"]["name"] == name


# Answers.

every_version = pytest.mark.parametrize("number", tuple(RELEASE_OF))


@every_version
@pytest.mark.parametrize("label", ["submit-good", "submit-good-2", "submit-hold"])
def test_an_id_is_a_success_whatever_stands_beside_it(number: int, label: str) -> None:
    entry = recorded(number, label)
    assert submission.submitted(entry.status, entry.answer).job_id == str(entry.answer["job_id"])


@pytest.mark.parametrize(
    ("number", "label", "words"),
    [
        (38, "submit-hold", "Job is in held state"),
        (38, "submit-too-many-cpus", "Requested partition configuration not available now"),
        (45, "submit-too-many-cpus", "Requested partition configuration not available now"),
        (45, "submit-unknown-field", 'Ignoring unknown field "nosuchfield"'),
        (45, "drained-submit", "Required node not available"),
    ],
)
def test_what_is_said_beside_an_id_is_told(number: int, label: str, words: str) -> None:
    entry = recorded(number, label)
    assert any(words in warning for warning in submission.submitted(entry.status, entry.answer).warnings)


def test_what_a_plug_in_of_the_site_tells_users_is_told() -> None:
    answer = {"job_id": 7, "job_submit_user_msg": "Your quota is low\n", "warnings": [], "errors": []}
    assert submission.submitted(200, answer).warnings == ("Your quota is low",)


@pytest.mark.parametrize(
    ("number", "label"),
    [(38, "submit-too-many-cpus"), (45, "submit-too-many-cpus"), (45, "submit-unknown-field"), (45, "drained-submit")],
)
def test_warnings_are_no_errors(number: int, label: str) -> None:
    entry = recorded(number, label)
    assert submission.submitted(entry.status, entry.answer).job_id.isdigit()


REFUSED = {
    (38, "submit-bad-partition"): "Invalid partition name specified",
    (42, "submit-bad-partition"): "Batch job submission failed: Invalid partition name specified",
    (38, "submit-no-env"): "environment must be set",
    (45, "submit-no-env"): "Environment is missing in job",
    (45, "submit-wrong-type"): 'Expected OpenAPI type=integer .* "many"',
    (38, "submit-wrong-type"): 'Unable to process key "tasks"',
    (38, "submit-unknown-field"): "nosuchfield",
    (38, "submit-as-other-user"): "Disabled key",
    (45, "submit-bad-account"): "Invalid account",
    (45, "submit-memory-too-much"): "Requested node configuration is not available",
    (38, "submit-bad-dependency"): "Job dependency problem",
    (45, "partition-inactive-submit"): "Required partition not available",
    (45, "submit-time-string"): "Expected integer",
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: tuple[int, str]) -> None:
    """A refused submission says why, in slurmrestd's words."""
    entry = recorded(*case)
    with pytest.raises(SubmissionRefused, match=REFUSED[case]):
        submission.submitted(entry.status, entry.answer)


def test_other_failures_of_a_submission() -> None:
    cases: list[tuple[int, str, type[GatewayError]]] = [
        (38, "down-submit", SchedulerUnavailable),
        (45, "down-submit", SchedulerUnavailable),
        (45, "submit-expired-token", Forbidden),
        (38, "submit-expired-token", Unclear),
    ]
    for number, label, kind in cases:
        entry = recorded(number, label)
        with pytest.raises(kind):
            submission.submitted(entry.status, entry.answer)
    over = {"errors": [{"error_code": 2050, "error": "Job violates accounting/QOS policy (job submit limit)"}]}
    with pytest.raises(Forbidden, match="violates"):
        submission.submitted(500, over)
