"""What submits a job has all of it, or does nothing."""

import itertools
import os
import subprocess
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from hpcgate.schedulers.pbs import qsub, script
from hpcgate.schedulers.slurm import sbatch
from hpcgate.schedulers.submitting import _follow, whole
from hpcgate.ssh.commands.temporary import SAFE
from tests.schedulers.described import described
from tests.sites.shells import shell_program

SHELLS = {"dash": ["dash"], "bash": ["bash"], "busybox": ["busybox", "sh"]}
SCRIPT = "#!/bin/sh\n" + "echo a line of a script\n" * 4000 + "echo the end"


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    found = SHELLS[request.param]
    shell_program(found[0])
    return found


def submissions(place: Path) -> dict[str, tuple[list[str | bytes], bytes]]:
    """Return how each scheduler's command is called, and what it reads."""
    job = described(str(place), script=SCRIPT, environment={"A": "1", "B": "two\nlines"})
    content = SCRIPT.encode()
    return {
        "sbatch": (sbatch.command(job, sbatch.Tag.new()), sbatch.stdin(job)),
        "qsub": (qsub.command(job, content), script.composed(content, job)),
    }


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with an sbatch and a qsub that keep what they are given."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sbatch", "qsub"):
        tool = tools / name
        tool.write_text(f"#!/bin/sh\ncat >{tmp_path}/submitted\necho 4711\n")
        tool.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    return tmp_path


def run(
    shell: list[str], place: Path, argv: list[str | bytes], given: bytes, **env: str
) -> subprocess.CompletedProcess[bytes]:
    around = {"PATH": f"{place}/tools:{os.environ['PATH']}", "HOME": str(place), "TMPDIR": f"{place}/tmp", **env}
    return subprocess.run([*shell, *argv[1:]], input=given, env=around, capture_output=True, check=False, timeout=300)


@pytest.mark.parametrize("tool", ["sbatch", "qsub"])
def test_what_came_whole_is_submitted(shell: list[str], place: Path, tool: str) -> None:
    argv, given = submissions(place)[tool]
    done = run(shell, place, whole(argv, len(given)), given)
    assert done.returncode == 0, done
    submitted = (place / "submitted").read_text()
    assert submitted.endswith("echo the end")
    assert submitted.count("echo a line of a script") == 4000
    assert list((place / "tmp").iterdir()) == []


@pytest.mark.parametrize("kept", ["nothing", "a byte", "the variables", "half", "all but a byte"])
@pytest.mark.parametrize("tool", ["sbatch", "qsub"])
def test_what_came_in_part_is_not(shell: list[str], place: Path, tool: str, kept: str) -> None:
    argv, given = submissions(place)[tool]
    size = {"nothing": 0, "a byte": 1, "the variables": given.index(b"#!/bin/sh") if tool == "sbatch" else 12}
    size |= {"half": len(given) // 2, "all but a byte": len(given) - 1}
    done = run(shell, place, whole(argv, len(given)), given[: size[kept]])
    assert done.returncode == 1
    assert b"came short" in done.stdout
    assert not (place / "submitted").exists()
    assert list((place / "tmp").iterdir()) == []


def test_a_tmpdir_that_is_not_there(shell: list[str], place: Path) -> None:
    argv, given = submissions(place)["sbatch"]
    done = run(shell, place, whole(argv, len(given)), given, TMPDIR="/nowhere")
    assert done.returncode == 0, done
    done = run(shell, place, whole(argv, len(given)), given, TMPDIR="/nowhere", HOME="/nowhere/either")
    assert done.returncode == 1
    assert done.stdout.startswith(b"hpcgate: no room for the input: mktemp: ")


def test_many_variables_reach_it(shell: list[str], place: Path) -> None:
    environment = {f"BIG{n}": f"it's {n}\n" + "x" * 50_000 for n in range(20)}
    (place / "tools" / "sbatch").write_text(f"#!/bin/sh\nenv -0 >{place}/submitted\n")
    job = described(str(place), script="", environment=environment)
    given = sbatch.stdin(job)
    done = run(shell, place, whole(sbatch.command(job, sbatch.Tag.new()), len(given)), given)
    assert done.returncode == 0, done
    found = dict(pair.split("=", 1) for pair in (place / "submitted").read_text().split("\0")[:-1])
    assert {name: value for name, value in found.items() if name.startswith("BIG")} == environment


@pytest.mark.parametrize(
    ("mode", "used"), [(0o700, True), (0o755, True), (0o1777, True), (0o775, False), (0o777, False)]
)
def test_nobody_else_can_exchange_a_script_before_it_is_submitted(
    shell: list[str], place: Path, mode: int, used: bool
) -> None:
    """Where others may rename what is the user's, nothing of it is kept."""
    (place / "tmp").chmod(mode)
    tool = place / "tools" / "cat"
    tool.write_text(f"#!/bin/sh\nls {place}/tmp >>{place}/seen\nexec /usr/bin/cat\n")
    tool.chmod(0o755)
    argv, given = submissions(place)["sbatch"]
    run(shell, place, whole(argv, len(given)), given)
    assert "a line of a script" in (place / "submitted").read_text()
    assert bool((place / "seen").read_text().strip()) == used


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another account")
def test_a_directory_of_somebody_else_s_is_not_taken(shell: list[str], place: Path) -> None:
    (place / "tmp").chmod(0o1777)
    os.chown(place / "tmp", 12345, 12345)
    words = subprocess.run(
        [*shell, "-c", f"{SAFE}_hpcgate_temporary"],
        env={"PATH": os.environ["PATH"], "HOME": "/home/x", "TMPDIR": f"{place}/tmp"},
        capture_output=True,
        check=True,
    )
    assert words.stdout == b"/home/x"


class Chatter:
    """A command that prints one block after another and ends."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = blocks

    async def output(self) -> AsyncGenerator[bytes]:
        for block in self._blocks:
            yield block

    async def feed_block(self, block: bytes) -> bool:
        return True

    def feed_end(self) -> None:
        pass

    async def ended(self) -> int:
        return 0


@pytest.mark.parametrize(
    "blocks", [[b"x"] * 5000, [b"x" * 70_000, *[b"x"] * 5000]], ids=["byte by byte", "much, and byte by byte"]
)
async def test_what_goes_on_printing_is_not_looked_through_each_time(blocks: list[bytes]) -> None:
    looked: list[int] = []

    def patience(text: str) -> None:
        looked.append(len(text))

    printed = await _follow(cast("Any", Chatter(blocks)), b"", 300, patience)
    assert len(printed.text) == sum(map(len, blocks))
    assert len(looked) <= 1000
    assert max(looked, default=0) <= 64 * 1024


async def test_of_much_output_the_beginning_and_the_end_are_kept() -> None:
    blocks = [b"first ", *[b"x" * 65536] * 40, b" last"]
    printed = await _follow(cast("Any", Chatter(blocks)), b"", 300, lambda _: None)
    assert printed.text.startswith("first x")
    assert printed.text.endswith("x last")
    assert len(printed.text) == 1024 * 1024


@pytest.mark.parametrize("said", [None, 5.0], ids=["nothing of use", "what is to be known"])
async def test_what_prints_without_end_is_ended(said: float | None) -> None:
    """It has had its time if it has not said what is to be known before."""
    printed = await _follow(cast("Any", Chatter(itertools.repeat(bytes(65536)))), b"", 600, lambda _: said)
    assert printed.exit_status is None
    assert printed.timed_out is (said is None)
