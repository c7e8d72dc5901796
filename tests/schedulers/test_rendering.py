"""The script of a program, run by each kind of sh: no word of the request is anything but data."""

import os
import subprocess
from pathlib import Path

import pytest

from hpcgate.errors import BadRequest
from hpcgate.schedulers.job_spec import Program
from hpcgate.schedulers.rendering import MAX_SCRIPT, rendered, with_script
from tests.attack.corpus import corpus
from tests.schedulers.described import described
from tests.transfers.shells import SHELLS

LAUNCHERS = {"none": (), "nice": ("nice", "-n", "1")}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_arguments_are_data(shell: str, launcher: str, tmp_path: Path) -> None:
    """No argument of a program is code for the shell."""
    texts = [text for text in corpus(tmp_path / "canary", tmp_path / "injected", "98765") if "\0" not in text]
    made = rendered(Program("printf", ("%s\\0", *texts)), LAUNCHERS[launcher])
    (tmp_path / "script").write_text(made)
    before = sorted(tmp_path.iterdir())
    done = subprocess.run([shell, "script"], cwd=tmp_path, capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().split("\0")[:-1] == texts
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("shell", SHELLS)
def test_names_are_data(shell: str, tmp_path: Path) -> None:
    """Each as the program, and as what is sourced: there is nothing of that name, and nothing else happens."""
    texts = [text for text in corpus(tmp_path / "canary", tmp_path / "injected", "98765") if "\0" not in text]
    for text in texts[:: len(texts) // 40]:
        for program in (Program(f"/nonexistent/{text}"), Program("true", pre_launch=f"/nonexistent/{text}")):
            (tmp_path / "script").write_text(rendered(program, ()))
            done = subprocess.run([shell, "script"], cwd=tmp_path, capture_output=True, stdin=subprocess.DEVNULL)
            assert done.returncode != 0, text
            assert [path.name for path in tmp_path.iterdir()] == ["script"]


def test_the_program_s_status_is_the_job_s(tmp_path: Path) -> None:
    post = tmp_path / "post.sh"
    post.write_text("echo after\nfalse\n")
    program = Program("sh", ("-c", "exit 3"), post_launch=str(post))
    done = subprocess.run(["sh", "-c", rendered(program, ())], capture_output=True)
    assert (done.returncode, done.stdout) == (3, b"after\n")
    refused = Program("echo", ("ran",), pre_launch=str(post))
    done = subprocess.run(["sh", "-c", rendered(refused, ())], capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"after\n")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("word", ["exit", "exec", "if", "{", "!", "A=b", "_hpcgate_status=1"])
@pytest.mark.parametrize("sourced", [False, True])
def test_a_program_s_name_is_no_word_of_the_shell(shell: str, word: str, sourced: bool, tmp_path: Path) -> None:
    """There is no such program, whether something comes after it or not, and its argument is not run in its place."""
    post = tmp_path / "post.sh"
    post.write_text("echo after\n")
    program = Program(word, ("echo", "ran"), post_launch=str(post) if sourced else None)
    done = subprocess.run([shell, "-c", rendered(program, ())], capture_output=True, env={"PATH": os.environ["PATH"]})
    assert (done.returncode, done.stdout) == (127, b"after\n" if sourced else b"")


def test_what_cannot_be_launched_is_refused_by_its_name() -> None:
    with pytest.raises(BadRequest, match="launcher: 'aprun' is not known here; there are: nice, none"):
        with_script(described("/", program=Program("x", launcher="aprun")), LAUNCHERS)
    with pytest.raises(BadRequest, match="arguments"):
        with_script(described("/", program=Program("x", ("y" * MAX_SCRIPT,))), LAUNCHERS)
