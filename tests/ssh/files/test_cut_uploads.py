"""An upload by commands of which the login node has not got all, or not only that, replaces nothing.

Whatever takes some of a command's input on the way, the end that follows the content tells: by its word, which says
that it is the end, and by the length of what comes before it.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from hpcgate.ssh.files.command_files import Framed
from hpcgate.ssh.files.command_scripts import TRAILER, WRITE

CONTENT = b"".join(b"line %d\n" % number for number in range(1000))
OLD = b"what was there before\n"
ARRIVED: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda sent: b"",
    "the beginning": lambda sent: sent[: len(sent) // 2],
    "the content without its end": lambda sent: sent[:-TRAILER],
    "all but a byte": lambda sent: sent[:-1],
    "all but the first byte": lambda sent: sent[1:],
    "all but the first line": lambda sent: sent.partition(b"\n")[2],
    "all but some of the middle": lambda sent: sent[:1000] + sent[2000:],
    "the end alone": lambda sent: sent[-TRAILER:],
    "more in front": lambda sent: b"Welcome\n" + sent,
    "more behind": lambda sent: sent + b"\n",
    "the end of another": lambda sent: sent[:-TRAILER] + b"0" * TRAILER,
}


async def framed() -> tuple[str, bytes]:
    async def content() -> AsyncIterator[bytes]:
        yield CONTENT

    made = Framed(content())
    return made.word, b"".join([block async for block in made.blocks()])


def write(target: Path, word: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
    argv = ["sh", "-c", WRITE, "sh", str(target), ".hpcgate-0123456789abcdef", word, str(TRAILER), "", ""]
    return subprocess.run(argv, input=given, capture_output=True, check=False)


@pytest.mark.parametrize("there", [False, True], ids=["a new file", "a file that is there"])
@pytest.mark.parametrize("case", ARRIVED)
async def test_what_has_not_arrived_as_it_was_sent_is_not_stored(tmp_path: Path, case: str, there: bool) -> None:
    target = tmp_path / "file"
    if there:
        target.write_bytes(OLD)
    word, sent = await framed()
    assert write(target, word, ARRIVED[case](sent)).returncode == 97
    assert [path.name for path in tmp_path.iterdir()] == ["file"] * there
    assert not there or target.read_bytes() == OLD


async def test_what_has_arrived_is_stored_without_its_end(tmp_path: Path) -> None:
    word, sent = await framed()
    done = write(tmp_path / "file", word, sent)
    assert (done.returncode, done.stdout) == (0, str(len(CONTENT)).encode())
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
