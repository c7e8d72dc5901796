"""What sbatch is given, and what is read from what it, or a script in its place, prints."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpcgate.errors import BadRequest
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.job_spec import JobAttributes
from hpcgate.schedulers.slurm import sbatch
from hpcgate.schedulers.slurm.sbatch import Candidate, Said, Tag, chosen
from hpcgate.schedulers.submitting import whole
from hpcgate.schedulers.variables import LONGEST
from hpcgate.ssh.commands.quoting import as_text
from tests.schedulers.described import described
from tests.sites.shells import shell_program

from .recordings import RELEASES, recordings

TAG = Tag("sbatch-0123456789abcdef", "hpcgate:fedcba9876543210")
plain = st.text(st.characters(exclude_characters="\0", codec="utf-8"))
numbers = st.integers(1, 4294967295).map(str)
names = st.from_regex(r"[A-Z][A-Z0-9_]{0,9}", fullmatch=True).map(lambda name: f"A_{name}")


def parsed(printed: str, kind: str = "wrapper 1700000000") -> Said:
    return sbatch.parse(f"{TAG.header} {kind}\n{printed}", TAG)


# What sbatch is given


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an sbatch that writes its arguments, environment and input to files."""
    directory = tmp_path_factory.mktemp("sbatch")
    script = directory / "sbatch"
    script.write_text(
        f"""#!/bin/sh
        printf '%s\\0' "$@" >{directory}/arguments
        env -0 >{directory}/environment
        cat >{directory}/input
        echo 4711
        """
    )
    script.chmod(0o755)
    return directory


def submitted(
    stand_in: Path, job: JobDescription, *, tagged: bool = True, **environment: str
) -> tuple[list[str], dict[str, str], str, Said]:
    """Run the command; return what reached the program: arguments, environment, input; and what was printed."""
    content = sbatch.stdin(job)
    done = subprocess.run(
        [as_text(argument).encode() for argument in whole(sbatch.command(job, TAG, tagged=tagged), len(content))],
        input=content,
        env={"PATH": f"{stand_in}:/usr/bin:/bin", **environment},
        capture_output=True,
        check=True,
    )
    arguments, variables = (
        (stand_in / name).read_bytes().decode().split("\0")[:-1] for name in ("arguments", "environment")
    )
    script = (stand_in / "input").read_bytes().decode()
    return arguments, dict(pair.split("=", 1) for pair in variables), script, sbatch.parse(done.stdout.decode(), TAG)


@settings(max_examples=30)
@given(st.dictionaries(names, plain, max_size=4), plain)
@example({"A_NEWLINE": "\n", "A_ENDS": "x\n\n", "A_ESCAPE": "\\n%b\\", "A_EMPTY": ""}, "\n\n")
def test_variables_and_script_reach_sbatch(stand_in: Path, environment: dict[str, str], script: str) -> None:
    job = described("/", script=script, environment=environment)
    arguments, variables, stdin, said = submitted(stand_in, job)
    assert {name: value for name, value in variables.items() if name.startswith("A_")} == environment
    assert stdin == script
    assert ("--export=ALL" in arguments) is bool(environment)
    assert said.jobs == (("4711", None),)
    assert not said.program


@settings(max_examples=30)
@given(plain, plain, plain)
@example("--wrap=x", "-p", "--test-only")
def test_no_value_of_a_submission_becomes_an_option(stand_in: Path, name: str, account: str, path: str) -> None:
    job = described("/", script_path=path, name=name, account=account)
    arguments, _, _, _ = submitted(stand_in, job)
    assert arguments[-2:] == ["--", path]
    assert all(argument.startswith("--") for argument in arguments[:-2])
    assert f"--job-name={name}" in arguments or not name


def test_a_default_variable_leaves_the_scripts_export_alone(stand_in: Path) -> None:
    job = described("/", script="", default_environment={"A_DEFAULT": "1"})
    arguments, variables, _, _ = submitted(stand_in, job)
    assert variables["A_DEFAULT"] == "1"
    assert not [argument for argument in arguments if argument.startswith("--export")]


LEFT_OUT = {
    "LANGUAGE": "de",
    "SSH_CLIENT": "::1 1 2",
    "SSH_TTY": "/dev/pts/1",
    "SLURM_CLUSTERS": "x",
    "SBATCH_WAIT": "1",
}
COUNTING = {"SBATCH_PARTITION": "debug", "SLURM_MPI_TYPE": "pmix", "LANG": "de_DE.UTF-8", "SSH_AUTH_SOCK": "/tmp/agent"}


def test_which_variables_of_the_login_reach_sbatch(stand_in: Path) -> None:
    _, variables, _, _ = submitted(
        stand_in, described("/", script=""), **cast("dict[str, Any]", {**LEFT_OUT, **COUNTING})
    )
    assert not set(LEFT_OUT) & set(variables)
    assert {name: variables.get(name) for name in COUNTING} == COUNTING


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("#!/bin/sh\n#SBATCH --comment=mine\n", ["--comment=mine"]),
        ("#!/bin/sh\n#SBATCH --comment 'two words' --time=1\n", ["--comment=two words"]),
        ("#!/bin/sh\n#SBATCH --comm=short\n", ["--comment=short"]),
        ("#!/bin/sh\n#SBATCH --comment=first\n#SBATCH --comment=last\n", ["--comment=last"]),
        ("#!/bin/sh\n# a remark\n\n#SBATCH --comment=later # why\n", ["--comment=later"]),
        ("#!/bin/sh\necho\n#SBATCH --comment=too-late\n", ["--comment="]),
        ("#!/bin/sh\n#SBATCH --constraint=x\n", ["--comment="]),
        ("#!/bin/sh\n#SBATCH --comment='open\n", ["--comment="]),
        ("", ["--comment="]),
    ],
)
def test_the_tag_stands_after_the_scripts_own_comment(stand_in: Path, script: str, wanted: list[str]) -> None:
    arguments, _, _, _ = submitted(stand_in, described("/", script=script))
    comments = [argument for argument in arguments if argument.startswith("--comment")]
    assert comments == [f"{text} {TAG.comment}".replace("= ", "=") for text in wanted]


def test_jobs_are_not_tagged_where_the_site_does_not_want_it(stand_in: Path) -> None:
    arguments, _, _, said = submitted(stand_in, described("/", script=""), tagged=False)
    assert not [argument for argument in arguments if argument.startswith("--comment")]
    assert said.jobs == (("4711", None),)


@pytest.mark.parametrize(
    "job",
    [
        described("/d", script="", environment={"A=B": "x"}),
        described("/d", script="", environment={"": "x"}),
        described("/d", script="", environment={"A\n": "x"}),
        described("/d", script="", environment={"A": "\0"}),
        described("/d", script="", environment={"A": "\udc80"}),
        described("/d", script="", default_environment={"A": "x" * (LONGEST - 2)}),
        described("/d", script="\udc80"),
    ],
)
def test_input_that_cannot_be_submitted(job: JobDescription) -> None:
    with pytest.raises(BadRequest):
        sbatch.stdin(job)


def test_a_nul_cannot_be_an_argument() -> None:
    with pytest.raises(BadRequest):
        sbatch.command(described("/d", script="", name="a\0b"), TAG)


# What was printed


@pytest.mark.parametrize("release", RELEASES)
def test_a_real_submission(release: str) -> None:
    """A recorded submission gives its id, and a recorded refusal none."""
    recorded = recordings(release)["sbatch-parsable"]
    said = parsed(recorded.stdout, "program ")
    assert said.program
    assert said.jobs == ((recorded.stdout.strip(), None),)
    refused = recordings(release)["sbatch-bad-partition"]
    said = parsed(refused.stdout + refused.stderr, "program ")
    assert not said.jobs
    assert said.words == refused.stderr.strip()


@given(numbers, st.text(st.characters(exclude_categories=["N"], exclude_characters="\x1b")))
def test_the_id_is_found_among_what_else_is_printed(job_id: str, words: str) -> None:
    for printed in (f"{words}\n{job_id}\n{words}", f"{words}\nSubmitted batch job {job_id}\n{words}"):
        assert parsed(printed).jobs == ((job_id, None),)
    assert parsed(f"{words}\n{job_id};c5\n").jobs == ((job_id, "c5"),)


@pytest.mark.parametrize(
    ("printed", "jobs"),
    [
        ("4711", [("4711", None)]),
        ("\x1b[1;32m4711\x1b[0m\r\n", [("4711", None)]),
        ("\x1b]0;title\x074711\n", [("4711", None)]),
        ("Submitted batch job 4711 on cluster c5", [("4711", "c5")]),
        ("1\n2;c5\n1\n", [("1", None), ("2", "c5")]),
        ("cost: 4711", []),
        ("4711 CHF", []),
        ("0", []),
        ("47114711471", []),
        ("-4711", []),
        ("4711_1", []),
    ],
)
def test_what_may_be_an_id(printed: str, jobs: Sequence[tuple[str, str | None]]) -> None:
    assert parsed(printed).jobs == tuple(jobs)


def test_what_stands_before_the_header_is_not_sbatchs() -> None:
    said = sbatch.parse(f"4711\n{TAG.header} program \n12\n", TAG)
    assert said.jobs == (("12", None),)


# What the controller knows

SINCE = 1700000000
TAGGED = Candidate("5", SINCE, "/d", f"mine {TAG.comment}")
UNTAGGED = Candidate("6", SINCE, "/d", "")
OLD = Candidate("7", SINCE - 60, "/d", "")
OTHER = Candidate("8", SINCE, "/d", "hpcgate:0000000000000000")
ELSEWHERE = Candidate("9", SINCE, "/e", "")


@pytest.mark.parametrize(
    ("printed", "queue", "wanted"),
    [
        ("", [TAGGED], "5"),
        ("7", [OLD, TAGGED, UNTAGGED], "5"),
        ("", [UNTAGGED], None),
        ("6", [UNTAGGED], "6"),
        ("6", [OLD, OTHER, UNTAGGED, ELSEWHERE], "6"),
        ("7", [OLD], None),
        ("8", [OTHER], None),
        ("6\n9", [UNTAGGED, ELSEWHERE], None),
        ("The job was submitted", [OLD, OTHER, UNTAGGED, ELSEWHERE], "6"),
        ("Queued.", [UNTAGGED], "6"),
        ("The job was submitted", [UNTAGGED, Candidate("10", SINCE, "/d", "")], None),
        ("6;c5", [UNTAGGED], None),
        ("", [], None),
    ],
)
def test_which_job_was_submitted(printed: str, queue: list[Candidate], wanted: str | None) -> None:
    said = parsed(printed, f"wrapper {SINCE}")
    assert chosen(queue, said, TAG, described("/d", script="")) == wanted


@pytest.mark.parametrize(
    ("printed", "start"),
    [
        # 22.05 and 26.05, as they print with SLURM_TIME_FORMAT=%s, and 26.05 without.
        ("sbatch: Job 579 to start at 1798131600 using 1 processors on nodes vm in partition part01", 1798131600),
        ("sbatch: Job 579 to start at 1798131600 a using 1 processors on nodes vm in partition part01", 1798131600),
        ("sbatch: Job 194 to start at 2026-11-22T21:05:34 a using 1 processors on nodes vm in partition part01", None),
        # 22.05, behind twenty jobs without a time limit.
        ("sbatch: Job 239 to start at 5091332283979 using 1 processors on nodes vm in partition part01", None),
    ],
)
def test_what_sbatch_expects_is_read(printed: str, start: int | None) -> None:
    said = sbatch.parse(f"{TAG.header} program \nsbatch: warning: a word\n{printed}\n", TAG)
    told = sbatch.parse_test(said, described("/", script="x"))
    assert (told.start, told.nodes, told.partition, told.processors) == (start, "vm", "part01", 1)
    assert told.warnings == ("warning: a word",)


@pytest.mark.parametrize("place", ["working directory", "comment"])
def test_a_word_of_the_user_s_is_not_taken_for_an_option(place: str) -> None:
    """A dry run finds the options where they are."""
    comment = JobAttributes(extra={"slurm": {"comment": "--parsable"}})
    job = described("--parsable") if place == "working directory" else described("/", attributes=comment)
    chdir = f"--chdir={job.working_directory.text}"
    assert sbatch.options(job) == (chdir,)
    assert sbatch.test_command(job, TAG)[8:] == ["--parsable", "--test-only", chdir.encode()]


def test_a_script_in_sbatchs_place_is_not_asked_for_a_dry_run(stand_in: Path) -> None:
    """It may take no notice of what it is not to do."""
    job = described(str(stand_in.parent), script="#!/bin/sh\n")
    (stand_in / "arguments").unlink(missing_ok=True)
    content = sbatch.stdin(job)
    argv = whole(sbatch.test_command(job, TAG), len(content))
    done = subprocess.run(argv, input=content, env={"PATH": f"{stand_in}:/usr/bin:/bin"}, capture_output=True)
    assert done.returncode == sbatch.NO_PROGRAM
    assert not (stand_in / "arguments").exists()


# What is given among many

SPECIAL = {
    "UID": "0",
    "SECONDS": "7",
    "OPTIND": "x",
    "IFS": "/",
    "BASH_VERSINFO": "no",
    "LC_TIME": "xx_XX",
    "USER_ID": "x",
    "PATH": "/nowhere:/bin",
    "_hpcgate_tool": "/bin/false",
    "_": "x",
}
"""Variables that shells take no values for, or do something at."""
TEXTS = {
    "A_QUOTES": "\"double\" 'single' `back` $(id) $HOME \\",
    "A_LINES": "one\n\ntwo\n",
    "A_TILDE": "~:~root",
    "A_EQUALS": "=a=b",
    "A_EMPTY": "",
    # Of which UTF-8 holds bytes that dash marks its own with.
    "A_UTF8": "é日本\u0081\u0082\u0088\u2041\u2048",
    "OMP_NUM_THREADS": "4",
    "F7T_version": "v2.0.0",
}


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox", "mksh", "ksh93"])
@pytest.mark.parametrize("variables", [{}, TEXTS, SPECIAL, TEXTS | SPECIAL], ids=["none", "texts", "special", "all"])
def test_variables_reach_the_sbatch_of_many(tmp_path: Path, shell: str, variables: dict[str, str]) -> None:
    """Whether the shell sets them itself, or has env do it where it cannot; a process more is that of env."""
    shutil.copy("/usr/bin/env", tmp_path / "sbatch")
    (tmp_path / "env").write_text(f'#!/bin/sh\ntouch {tmp_path}/started\nexec /usr/bin/env "$@"\n')
    (tmp_path / "env").chmod(0o755)
    one = sbatch.many_command(described("/", environment=variables), TAG, tagged=False)
    # The program in sbatch's place is env, which takes one option and prints what it is given.
    size = int(one[5])
    assert one[6] == ("env" if variables.keys() & SPECIAL.keys() else "")
    words = [*one[:3], "", "", "1", one[6], "-0", *one[7 + size :]]
    line = b" ".join(shlex.quote(as_text(word)).encode("utf-8", "surrogateescape") for word in words)
    argv = [shell_program(shell), *(["sh"] if shell == "busybox" else []), "-c", f"{sbatch.PRELUDE}\n_hpcgate_apart="]
    done = subprocess.run(
        [*argv[:-1], argv[-1].encode() + b"; " + line],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "LANGUAGE": "de"},
        capture_output=True,
        check=True,
    )
    head, _, printed = done.stdout.partition(b"\n")
    assert not (tmp_path / "started").exists() or one[6]
    assert head.split() == [TAG.header.encode(), b"program"], done
    found = dict(pair.split("=", 1) for pair in printed.decode().split("\0")[:-1])
    assert {"PATH": f"{tmp_path}:/usr/bin:/bin"} | variables == {
        name: value for name, value in found.items() if name in {"PATH", "LC_ALL", "LANGUAGE", *variables}
    }
