"""What a login node says may be the user's own doing, and nonsense: each lie costs its user an error, and nobody more.

The users' tools are replaced by way of their start-up files, as a user would; the SFTP server is one of sshd's options.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hpcgate.demo.sshd import Sshd
from hpcgate.demo.users import User
from hpcgate.errors import GatewayError, TimedOut
from hpcgate.ssh.session import Session
from hpcgate.telemetry.base import Telemetry
from tests.ssh.conftest import MakePool
from tests.ssh.nodes import LoginNodes, gone, principal

HELPERS = {
    "NUL bytes without end": "exec cat /dev/zero",
    "an answer without end": "exec yes",
    "NUL bytes one at a time": "exec dd if=/dev/zero bs=1 status=none",
    "errors without end": "exec yes >&2",
    "another answer before it was asked": "printf '1\\0002\\0003\\000'; exec cat >/dev/null",
    "no number": "while read -r -d '' x; do printf 'x y z\\000'; done",
    "an empty answer": "while read -r -d '' x; do printf '\\000'; done",
    "an errno that is none": "while read -r -d '' x; do printf 'E%0500d\\000' 1; done",
    "numbers of 1000 digits": "while read -r -d '' x; do printf '%01000d ' 1 2 3 4 5 6 7 8 9; printf '1\\000'; done",
    "numbers below zero": "while read -r -d '' x; do printf -- '-1 -1 -1 -1 -1 -1 -1 -1 -1 -1\\000'; done",
    "a size below zero": "while read -r -d '' x; do printf -- '33188 1 1 1 0 0 -5 1 1 1000\\000'; done",
    "rows that are too short": "while read -r -d '' x; do printf '=a\\001Bb\\001Bc\\000'; done",
    "bytes that are no text": "while read -r -d '' x; do printf '\\377\\376\\000'; done",
    "more of a file than was asked for": "while read -r -d '' x; do printf '=%01000d\\000' 1; done",
    "nothing, and goes": "exit 0",
    "half an answer, and goes": "printf 16877; exit 0",
}

SFTP_SERVERS = {
    "NUL bytes without end": "exec cat /dev/zero",
    "text": "exec yes",
    "errors without end": "exec yes >&2",
    "a version, then NUL bytes": r"printf '\0\0\0\5\2\0\0\0\3'; exec cat /dev/zero",
    "a version, then a huge packet": r"printf '\0\0\0\5\2\0\0\0\3\0\377\377\377\147'; exec cat /dev/zero",
    "a version, then what nobody asked for": r"printf '\0\0\0\5\2\0\0\0\3\0\0\0\5\147\0\0\0\143'; exec cat >/dev/null",
    "versions without end": r"while printf '\0\0\0\5\2\0\0\0\3'; do :; done",
    "a version that is none": r"printf '\0\0\0\5\2\377\377\377\377'; exec cat >/dev/null",
    "nothing, and goes": "exit 0",
}
PACKETS = {
    # What every request is answered with, as perl packs it: $k is its kind (3 OPEN, 5 READ, 11 OPENDIR), $i its id.
    "a status without a code": "pack('CN', 101, $i)",
    "a status of no known code": "pack('CNN', 101, $i, 4711)",
    "a status that tells of the conversation": "pack('CNNN/aN/a', 101, $i, 5 + $i % 3, '', '')",
    "a status whose words are no text": "pack('CNNN/aN/a', 101, $i, 4, chr(255), chr(255))",
    "a handle cut short": "pack('CNN', 102, $i, 99)",
    "an empty handle": "pack('CNN', 102, $i, 0)",
    "data, whatever was asked": "pack('CNN/a', 103, $i, 'x' x 100000)",
    "names without the names": "pack('CNN', 104, $i, 4294967295)",
    "a name with a slash, for ever": "pack('CNNN/aN/aN', 104, $i, 1, '../../etc', 'long', 0)",
    "attributes without the attributes": "pack('CNN', 105, $i, 4294967295)",
    "more names than any server sends at a time": (
        "$k == 11 ? pack('CNN/a', 102, $i, 'h') : $k == 12 ? pack('CNN', 104, $i, 19000) . pack('N/aNN', 'a', 0, 0)"
        " x 19000 : pack('CNNN', 105, $i, 4, 040755)"
    ),
    "names with more attributes than there are": (
        "$k == 11 ? pack('CNN/a', 102, $i, 'h') : $k == 12 ? pack('CNNN/aNNN', 104, $i, 1, 'a', 0, 1 << 31, 32000)"
        " . pack('NN', 0, 0) x 32000 : pack('CNNN', 105, $i, 4, 040755)"
    ),
    "attributes without end": "pack('CNNN', 105, $i, 1 << 31, 32000) . pack('NN', 0, 0) x 32000",
    "words without end": "pack('CNNN/aN/a', 101, $i, 4, 'x' x 200000, '')",
    "an answer of an unknown kind": "pack('CN', 77, $i)",
    "an extended answer": "pack('CN', 201, $i)",
    "more of a file than was asked for": (
        "$k == 3 ? pack('CNN/a', 102, $i, 'h') : $k == 5 ? pack('CNN/a', 103, $i, 'x' x 200000)"
        " : $k == 4 ? pack('CNNNN', 101, $i, 0, 0, 0) : pack('CNNQ>N', 105, $i, 5, 150, 0100644)"
    ),
    "a file, and goes when that is closed": (
        "$k == 3 ? pack('CNN/a', 102, $i, 'h') : $k == 5 ? pack('CNNNN', 101, $i, 1, 0, 0)"
        " : $k == 4 ? exit : pack('CNNQ>N', 105, $i, 5, 150, 0100644)"
    ),
    "a directory without end": (
        "$k == 11 ? pack('CNN/a', 102, $i, 'h') : $k == 12 ? pack('CNNN/aN/aN', 104, $i, 1, 'a' x 90000, 'l', 0)"
        " : pack('CNNN', 105, $i, 4, 040755)"
    ),
}
PACKET_SERVER = """\
#!/usr/bin/perl
binmode STDOUT; $| = 1; sysread STDIN, my $init, 9; print pack "NCN", 5, 2, 3;
my $in = "";
while (sysread STDIN, $in, 65536, length $in) {{
  while (length $in > 8 && length $in >= 4 + unpack "N", $in) {{
    my ($k, $i) = unpack "x4CN", $in; substr($in, 0, 4 + unpack("N", $in), "");
    my $a = {answer}; print pack("N", length $a) . $a;
  }}
}}
"""

TOOLS = (
    "stat",
    "ls",
    "realpath",
    "dd",
    "tail",
    "getent",
    "cat",
    "readlink",
    "mkdir",
    "mv",
    "rm",
    "chmod",
    "ln",
    "sync",
)
LYING_TOOLS = {
    "numbers below zero": "printf -- '-1 -1 -1 -1 -1 -1 -1 -1 -1 -1\\n'",
    "owners of 4000 digits": "for n in $(seq 200); do printf -- '-rw-r--r-- 1 %d%04000d 0 0 1 \"%d\"\\n' $n 1 $n; done",
    "nothing": "exit 0",
    "a word": "echo hello",
    "NUL bytes": "head -c 5000 /dev/zero",
    "numbers": "seq 30",
    "a number of ten thousand digits": "printf '%010000d\\n' 1",
    "bytes that are no text": "printf '\\377\\376\\n\\200'",
    "rows of ls that are none": "printf -- '-rw-r--r-- 1 0 0 %0500d 99999999999999999999 \"a\"\\n' 1",
    "40 MB": "yes | head -c 40000000",
    "a little, for ever": "while echo y; do sleep 0.05; done",
    "errors without end": "exec yes >&2",
    "its death": "kill -KILL $$",
}


@pytest.fixture(autouse=True)
def _short_of_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for uploads and streams that make no progress for seconds, not minutes."""
    monkeypatch.setattr("hpcgate.ssh.files.command_files.UPLOAD_TIMEOUT", 3.0)
    for module in ("command_streams", "sftp_bulk_content"):
        monkeypatch.setattr(f"hpcgate.ssh.files.{module}.PATIENCE", 1.0)


class Told(Telemetry):
    """Counts what was distrusted."""

    def __init__(self) -> None:
        self.sources: Counter[str] = Counter()

    def distrusted(self, system: str, source: str) -> None:
        self.sources[source] += 1


@contextmanager
def instead_of(user: User, programs: dict[str, str]) -> Iterator[None]:
    """Have a user find programs of their own first."""
    directory, start_up = Path(user.home) / "lies", Path(user.home) / ".bashrc"
    directory.mkdir()
    for name, text in programs.items():
        program = directory / name
        program.write_text(f"#!/bin/bash\nPATH=/usr/bin:/bin\n{text}\n")
        program.chmod(0o755)
    start_up.write_text(f'PATH="{directory}:$PATH"\n')
    try:
        yield
    finally:
        start_up.unlink()
        for name in programs:
            (directory / name).unlink()
        directory.rmdir()


async def content() -> Any:
    yield b"content"


def everything(session: Session, home: bytes) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return the requests of files, each of which must end with a result or a typed error."""

    async def files() -> Any:
        return await session.files()

    async def stream_of() -> None:
        async with session.bulk() as streams, streams.open(b"/etc/passwd") as opened:
            await _begin(opened.blocks(0, None))

    async def replace() -> None:
        async with session.bulk() as streams:
            await streams.replace(home + b"/new", content())

    async def extend() -> None:
        async with session.bulk() as streams:
            await streams.extend(home + b"/new", content(), offset=0)

    async def read_on() -> None:
        await _begin((await files()).stream(b"/etc/passwd"))

    return {
        "stat": lambda: _call(files, "stat", home),
        "entry": lambda: _call(files, "entry", home),
        "listing": lambda: _call(files, "listing", home, limit=1_000_000),
        "tree": lambda: _call(files, "listing", home, recursive=True, limit=1_000_000),
        "realpath": lambda: _call(files, "realpath", home),
        "read": lambda: _call(files, "read", b"/etc/passwd", size=100),
        "read_on": read_on,
        "write": lambda: _call(files, "write", home + b"/new", content()),
        "mkdir": lambda: _call(files, "mkdir", home + b"/directory"),
        "symlink": lambda: _call(files, "symlink", b"/etc", home + b"/link"),
        "rename": lambda: _call(files, "rename", home + b"/new", home + b"/newer"),
        "remove": lambda: _call(files, "remove", home + b"/newer"),
        "stream": stream_of,
        "replace": replace,
        "extend": extend,
    }


async def _begin(blocks: AsyncGenerator[bytes]) -> None:
    """Read on for a while; a file without end is its reader's to leave."""
    async with aclosing(blocks):
        for _ in range(20):
            if not await anext(blocks, b""):
                return


async def _call(files: Callable[[], Awaitable[Any]], name: str, *args: Any, **kwargs: Any) -> object:
    return await getattr(await files(), name)(*args, **kwargs)


async def endure(session: Session, user: User) -> dict[str, str]:
    """Try everything, side by side; anything but an error of ours is a failure. Return what came of it."""
    requests = everything(session, str(user.home).encode())
    results = await asyncio.gather(*(request() for request in requests.values()), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, GatewayError):
            raise result
    return {
        name: type(result).__name__ if isinstance(result, GatewayError) else "done"
        for name, result in zip(requests, results, strict=True)
    }


def peak() -> int:
    """Return the most memory that this process has held, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("text", HELPERS.values(), ids=HELPERS)
async def test_what_is_not_the_helper_is_ended_and_done_without(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, text: str
) -> None:
    told = Told()
    with instead_of(nodes.bob, {"perl": f": 4720\n{text}"}):
        pool = make_pool(sshd, telemetry=told, timeout={"command_execution": 30})
        async with pool.lease(principal(nodes.bob)) as session:
            files = await session.files()
            path = str(nodes.bob.home).encode()
            for attempt in range(2):
                try:
                    assert (await files.stat(path)).uid == nodes.bob.uid
                except TimedOut:
                    assert attempt == 0, "what has not answered in time is not asked again"
                assert b".bashrc" in [entry.name for entry in await files.listing(path)]
                assert (await files.read(b"/etc/passwd", size=4)) == Path("/etc/passwd").read_bytes()[:4]
        assert await gone(nodes.bob, "lies/perl")
        assert told.sources["resident"] <= 1, "it is left alone for a while"
        assert set(told.sources) <= {"resident"}


@pytest.mark.parametrize("answer", [*SFTP_SERVERS, *PACKETS])
async def test_an_sftp_server_that_lies_costs_a_typed_error(
    make_pool: MakePool, nodes: LoginNodes, answer: str
) -> None:
    program = nodes.directory / "lying-sftp"
    program.write_text(
        f"#!/bin/bash\n{SFTP_SERVERS[answer]}\n"
        if answer in SFTP_SERVERS
        else PACKET_SERVER.format(answer=PACKETS[answer])
    )
    program.chmod(0o755)
    node = nodes.start(sftp=str(program))
    before = peak()
    try:
        pool = make_pool(node, timeout={"command_execution": 1}, helper=False)
        async with pool.lease(principal(nodes.alice)) as session:
            print(answer, await endure(session, nodes.alice))
            assert (await session.run(["true"], timeout=60)).ok
            # No more is left than one channel for small requests and one for streams.
            async with asyncio.timeout(300):
                while pool.stats.channels > 2:
                    await asyncio.sleep(0.01)
        assert peak() - before < 64e6
    finally:
        node.stop()
        await asyncio.to_thread(tidy, nodes.alice)


@pytest.mark.parametrize("text", LYING_TOOLS.values(), ids=LYING_TOOLS)
async def test_tools_that_lie_cost_a_typed_error(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, text: str) -> None:
    with instead_of(nodes.bob, dict.fromkeys(TOOLS, text)):
        pool = make_pool(sshd, files="commands", helper=False, timeout={"command_execution": 1})
        async with pool.lease(principal(nodes.bob)) as session:
            print(await endure(session, nodes.bob))
            assert (await session.run(["true"], timeout=60)).ok
            assert pool.stats.channels == 0
    await asyncio.to_thread(tidy, nodes.bob)


def tidy(user: User) -> None:
    """Remove what got through."""
    home = Path(user.home)
    for name in ("new", "newer", "link"):
        (home / name).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        (home / "directory").rmdir()
    for left in home.glob(".hpcgate-*"):
        left.unlink()
