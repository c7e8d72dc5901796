"""The files that directives name: whatever a scheduler would take for an option counts, or the script is refused."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.schedulers.directives import Named, Unchecked, named
from hpcgate.schedulers.pbs.options import OPTIONS as PBS
from hpcgate.schedulers.slurm.options import OPTIONS as SLURM


def script(*lines: str) -> str:
    return "\n".join(["#!/bin/sh", *lines, "true", ""])


@pytest.mark.parametrize(
    ("lines", "streams", "directories"),
    [
        (["#SBATCH --output=/x"], ["/x"], []),
        (["#SBATCH --output /x"], ["/x"], []),
        (["#SBATCH -o /x"], ["/x"], []),
        (["#SBATCH -o/x"], ["/x"], []),
        (["#SBATCH\t-o\t/x"], ["/x"], []),
        (["#SBATCH-o /x"], ["/x"], []),
        (["  #SBATCH -e /x"], ["/x"], []),
        (["#SBATCH -i /x -e y --input=z"], ["/x", "y", "z"], []),
        (["#SBATCH -D /x"], [], ["/x"]),
        (["#SBATCH --chdir=/x"], [], ["/x"]),
        (["#SBATCH -N 1 -n 4 -t 10:00 -p debug", "#SBATCH --mem=1G --exclusive --array=1-3%2"], [], []),
        (["#SBATCH -w node[1-3] --exclude=node4 --nodelist node5 -x node6"], [], []),
        (["#SBATCH -N1 -s -H -vv --exclusive=user"], [], []),
        (["#SBATCH -J -o/x"], ["/x"], []),
        (["#SBATCH --comment=x # --output=/x"], ["/x"], []),
        (["#SBATCH --comment 'a --output=/x'"], ["/x"], []),
        (['#SBATCH --output="/x y/z"'], ["/x", "/x y/z"], []),
        (["#SBATCH '-o' \"/x\""], ["/x"], []),
        (["#SBATCH -'o'/x"], ["/x"], []),
        (["true", "#SBATCH -o /x"], ["/x"], []),
        (["#SBATCH -n 1", "#SBATCH hetjob", "#SBATCH -o /x"], ["/x"], []),
        (["#SBATCH -n 1", "#SBATCH packjob", "#SBATCH -D /x -o y"], ["y"], ["/x"]),
        (["#SBATCH -o /x\r"], ["/x"], []),
        (["# comment #SBATCH -o /x", "##SBATCH -o /x", "# SBATCH -o /x", "echo '#SBATCH -o /x'"], [], []),
        (["# Für die Zeilen mit #SBATCH"], [], []),
    ],
)
def test_what_slurm_reads(lines: list[str], streams: list[str], directories: list[str]) -> None:
    """Streams and directories are found in a script where Slurm finds them."""
    found = named(script(*lines), SLURM)
    assert (sorted(found.streams), list(found.directories)) == (sorted(streams), directories)


@pytest.mark.parametrize(
    ("lines", "streams"),
    [
        (["#PBS -o /x"], ["/x"]),
        (["#PBS -e/x -o y"], ["/x", "y"]),
        (["  \t#PBS -e /x"], ["/x"]),
        (["#PBS -N n # -o /x"], ["/x"]),
        (["#PBS -l select=1:ncpus=4,walltime=1:00:00 -A a -q q -j oe -m abe -M a@b.example -r y -V"], []),
        (["#PBS -M a@b.example -o '/x y'"], ["/x", "/x y"]),
        # Behind a backslash the line goes on.
        (["# \\", "#PBS -o /x"], ["/x"]),
        (["#P\\", "BS -o /x"], ["/x"]),
        (["#P\\ \t", "BS -o \\", "/x"], ["/x"]),
    ],
)
def test_what_pbs_reads(lines: list[str], streams: list[str]) -> None:
    """Streams are found in a script where PBS finds them."""
    assert sorted(named(script(*lines), PBS).streams) == sorted(streams)


@pytest.mark.parametrize(
    "line",
    [
        "#SBATCH --out=/x",  # getopt takes what begins an option for it
        "#SBATCH --chd=/x",
        "#SBATCH --output=",
        "#SBATCH -o",
        "#SBATCH -o=/x",  # a relative path to sbatch
        "#SBATCH -so /x",
        "#SBATCH -ko /x",
        "#SBATCH -vo /x",
        "#SBATCH -Ho/x",
        "#SBATCH --export-file=/x",
        "#SBATCH --get-user-env",
        "#SBATCH --wrap=x",
        "#SBATCH --bbf /x",
        "#SBATCH -F /x",
        "#SBATCH --container=/x",
        "#SBATCH --uid=0",
        "#SBATCH -M other",
        "#SBATCH --nodelist=/x",  # a file with the names of nodes
        "#SBATCH --nodelist /x",
        "#SBATCH -w./x",
        "#SBATCH -x ../x",
        "#SBATCH --exclude='/x'",
        "#SBATCH --clusters=other",
        "#SBATCH script.sh",
        "#SBATCHX -o /x",
        "#SBATCH -o $HOME/x",
        "#SBATCH -o `pwd`/x",
        "#SBATCH -o /x\\",
        "#SBATCH -J a\\ -o",
        "#SBATCH --comment='a",
        "#SBATCH -J a\x0b-o /x",
        "#SBATCH -J a\x0c-o /x",
        "#SBATCH -J a\r-o /x",
        "#SBATCH -o\xa0/x",
        "#SBATCH -J a\u2003-o/x",
        "#SBATCH -J a\u2028-o/x",
        "# a\r#SBATCH -o /x",
        "\x0b#SBATCH -o /x",
        "\0#SBATCH -o /x",
        "# " + "x" * 5000 + "#SBATCH -o /x",
        "#PBS -o /x",
        "#BSUB -o /x",
        "#SBATCH #PBS -o /x",
        "#DW stage_out type=file source=/y destination=/x",
        "#BB create_persistent name=x",
        "#BB_LUA stage_in /x",
    ],
)
def test_what_slurm_might_read_otherwise(line: str) -> None:
    with pytest.raises(Unchecked):
        named(script(line), SLURM)


@pytest.mark.parametrize(
    "line",
    [
        "#PBS -k oed",
        "#PBS -W stagein=/x@host:/y",
        "#PBS -W sandbox=PRIVATE",
        "#PBS -S /x",
        "#PBS -v PBS_O_WORKDIR=/x",
        "#PBS -C X",
        "#PBS -d /x",
        "#PBS -Ro /x",
        "#PBS -zo /x",
        "#PBS -o=/x",
        "#PBS -q q@other",
        "#PBS -qq@other",
        "#PBS -N ../../x",
        "#PBS -N../x",
        "#PBS --output=/x",
        "#PBS name",
        "# " + "x" * 4096 + "#PBS -o /x",
        "#SBATCH -o /x",
        ":#PBS -k o",
        "#:PBS -k o",
    ],
)
def test_what_pbs_might_read_otherwise(line: str) -> None:
    with pytest.raises(Unchecked):
        named(script(line), PBS)


def test_a_name_is_told() -> None:
    assert named(script("#SBATCH -J n"), SLURM).named
    assert named(script("#SBATCH --job-name=n"), SLURM).named
    assert named(script("#PBS -N n"), PBS).named
    assert named(script("#SBATCH -n 2"), SLURM) == Named((), (), False)


@given(st.lists(st.text(alphabet="-oe=/x \t'\"#JHn\r\v", max_size=12), max_size=4))
def test_no_spelling_of_a_stream_is_missed(words: list[str]) -> None:
    """Whatever is accepted: each path that getopt would find is among those that are checked."""
    line = "#SBATCH " + " ".join(words)
    try:
        found = named(script(line), SLURM)
    except Unchecked:
        return
    rest = iter(shlex.split(line.removeprefix("#SBATCH").removesuffix("\r"), comments=False))
    for word in rest:
        if word.startswith(("--output=", "--error=")):
            assert word.partition("=")[2] in found.streams
        elif word[:2] in ("-o", "-e"):
            value = word[2:] or next(rest, "")
            assert value in found.streams
        elif word in ("-J", "-n"):
            next(rest, "")
