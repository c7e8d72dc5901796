from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hpcgate.demo.sshd import Sshd
from hpcgate.errors import (
    BadRequest,
    ConnectionLost,
    GatewayError,
    LoginNodeError,
    NotSupported,
    PoolExhausted,
    TimedOut,
    TooLarge,
)
from hpcgate.ssh.channels import ChannelRefused, Slot
from hpcgate.ssh.connection import Connection
from hpcgate.ssh.files.command_files import CommandFiles
from hpcgate.ssh.files.sftp_files import SftpFiles
from hpcgate.ssh.session import Session
from tests.ssh.conftest import MakePool
from tests.ssh.nodes import LoginNodes, gone, principal, processes, running

ECHO = ["sh", "-c", 'while IFS= read -r line; do printf "<%s>\\0" "$line"; done']


async def test_output_status_and_locale(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    async with make_pool(sshd).lease(principal(nodes.alice)) as session:
        done = await session.run(["sh", "-c", 'echo "$LC_ALL"; echo no >&2; exit 3'])
        assert (done.stdout, done.stderr, done.exit_status, done.ok) == (b"C.UTF-8\n", b"no\n", 3, False)
        assert done.words == "no"
        assert (await session.run(["id", "-un"])).stdout.decode().strip() == nodes.alice.name
        assert (await session.run(["sh", "-c", 'echo "$A"'], env={"A": "b'c"})).stdout == b"b'c\n"
        assert session.username == nodes.alice.name
        assert session.system == "demo"


async def test_arguments_arrive_byte_for_byte(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    arguments: list[bytes] = [b"it's", b"a b", b"$(id)", b"`id`", b"a\nb", b"\xff\xfe", b"", b"-n", b"!x", b"\\", b'"']
    async with make_pool(sshd).lease(principal(nodes.alice)) as session:
        done = await session.run(["printf", "%s\\0", *arguments])
        assert done.stdout == b"".join(argument + b"\0" for argument in arguments)
        with pytest.raises(BadRequest):
            await session.run(["ls", b"a\0b"])
        assert (await session.run(["true"])).ok


async def test_a_signal_is_a_negative_status(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    async with make_pool(sshd).lease(principal(nodes.alice)) as session:
        assert (await session.run(["sh", "-c", "kill -SEGV $$"])).exit_status == -signal.SIGSEGV
        assert (await session.run(["no-such-program-at-all"])).exit_status == 127


async def test_input_always_ends(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    """A command's input always ends, also when there is none."""

    async def blocks() -> AsyncIterator[bytes]:
        for number in range(100):
            yield bytes([number]) * 100_000
        yield b""

    async with make_pool(sshd).lease(principal(nodes.alice)) as session:
        assert (await session.run(["cat"])).stdout == b""
        big = bytes(range(256)) * 40_000
        assert (await session.run(["cat"], stdin=big)).stdout == big
        done = await session.run(["cat"], stdin=blocks())
        assert done.stdout == b"".join([bytes([number]) * 100_000 for number in range(100)])
        assert (await session.run(["true"], stdin=big)).ok, "a command need not read its input"
        assert (await session.run(["head", "-c", "10"], stdin=blocks())).stdout == b"\0" * 10


async def test_an_input_that_breaks_off_ends_the_command(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise RuntimeError("the client hung up")

    async with make_pool(sshd).lease(principal(nodes.alice)) as session:
        with pytest.raises(RuntimeError, match="hung up"):
            await session.run(["sh", "-c", "cat; sleep 4711"], stdin=broken())
        assert await gone(nodes.alice, "4711")


async def test_the_limit_is_met_exactly(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    async with make_pool(sshd).lease(principal(nodes.alice)) as session:
        done = await session.run(["head", "-c", "5000", "/dev/zero"], limit=5000)
        assert done.stdout == bytes(5000)
        with pytest.raises(TooLarge, match="5000"):
            await session.run(["head", "-c", "5001", "/dev/zero"], limit=5000)
        assert (await session.run(["true"], limit=0)).stdout == b""
        with pytest.raises(TooLarge):
            await session.run(["echo"], limit=0)


async def test_output_without_end_is_cut_off_early(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    pool = make_pool(sshd, max_output_size=100_000)
    async with pool.lease(principal(nodes.alice)) as session:
        with pytest.raises(TooLarge):
            await session.run(["yes", "0815"])
        assert await gone(nodes.alice, "0815")
        assert pool.stats.channels == 0


async def test_standard_error_is_bounded(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    async with make_pool(sshd).lease(principal(nodes.alice)) as session:
        done = await session.run(["sh", "-c", "head -c 1000000 /dev/zero >&2; echo ok"])
        assert done.stdout == b"ok\n"
        assert done.stderr == bytes(64 * 1024)


async def test_standard_error_without_end_is_cut_off(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    flood = ["sh", "-c", "exec yes 0816 >&2"]
    async with make_pool(sshd).lease(principal(nodes.alice)) as session:
        with pytest.raises(TooLarge, match="standard error"):
            await session.run(flood, timeout=300)
        async with session.process(flood, stall=300) as process:
            with pytest.raises(TooLarge, match="standard error"):
                await anext(process.output())
        assert await gone(nodes.alice, "0816")


LONG = {
    "plain": ["sleep", "4712"],
    "with children": ["sh", "-c", "sleep 4712 & sleep 4712 & wait"],
    "that ignores TERM": ["sh", "-c", "trap '' TERM; sleep 4712; sleep 4712"],
    "whose child ignores TERM": ["sh", "-c", "(trap '' TERM; sleep 4712) & wait"],
    "that writes": ["sh", "-c", "yes 4712 | cat"],
    "deaf to most signals": ["bash", "-c", "trap '' HUP PIPE INT; while :; do echo 4712; sleep .01; done"],
}  # fmt: skip


@pytest.mark.parametrize("kind", LONG)
async def test_a_time_out_leaves_nothing(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, kind: str) -> None:
    pool = make_pool(sshd)
    async with pool.lease(principal(nodes.bob)) as session:
        with pytest.raises(TimedOut, match=r"Command \w+ timed out after 0.3 s") as caught:
            await session.run(LONG[kind], timeout=0.3, limit=1_000_000_000)
        assert caught.value.status == 408
        assert await gone(nodes.bob, "4712"), processes(nodes.bob)
        assert (await session.run(["true"])).ok


@pytest.mark.parametrize("kind", LONG)
async def test_a_cancellation_leaves_nothing(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, kind: str) -> None:
    pool = make_pool(sshd)

    async def request() -> None:
        async with pool.lease(principal(nodes.bob)) as session:
            await session.run(LONG[kind], limit=1_000_000_000)

    task = asyncio.create_task(request())
    assert await running(nodes.bob, "4712")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gone(nodes.bob, "4712"), processes(nodes.bob)


async def test_cancelled_twice_leaves_nothing_either(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    pool = make_pool(sshd)

    async def request() -> None:
        async with pool.lease(principal(nodes.bob)) as session:
            await session.run(LONG["that ignores TERM"])

    task = asyncio.create_task(request())
    assert await running(nodes.bob, "4712")
    task.cancel()
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await pool.close()
    assert await gone(nodes.bob, "4712"), processes(nodes.bob)


async def test_where_sshd_refuses_signals_the_command_is_killed_all_the_same(
    make_pool: MakePool, nodes: LoginNodes
) -> None:
    forced = nodes.start(match_extra='    ForceCommand eval "$SSH_ORIGINAL_COMMAND"\n')
    async with make_pool(forced, files="commands").lease(principal(nodes.bob)) as session:
        assert (await session.run(["echo", "it's"])).stdout == b"it's\n"
        with pytest.raises(TimedOut):
            await session.run(["sleep", "4713"], timeout=0.3)
        assert await gone(nodes.bob, "4713"), processes(nodes.bob)
    forced.stop()


Operation = Callable[[Session], Awaitable[object]]


async def _stat(session: Session) -> None:
    await (await session.files()).stat(b"/etc/passwd")


OPERATIONS: dict[str, Operation] = {
    "run": lambda session: session.run(["sh", "-c", "sleep 0.02; echo 4714"]),
    "files": _stat,
    "ask": lambda session: session.ask(ECHO, b"x\n"),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("warm", "max_sessions"), [(True, 9999), (True, 1), (False, 9999)])
async def test_cancelled_at_every_point_nothing_leaks(
    make_pool: MakePool, nodes: LoginNodes, sshd: Sshd, name: str, warm: bool, max_sessions: int
) -> None:
    node = sshd if max_sessions == 9999 else nodes.cramped
    who = principal(nodes.bob)
    pool = make_pool(node)

    async def request() -> None:
        async with pool.lease(who) as session:
            await OPERATIONS[name](session)

    if warm:
        await request()
    moments = [(0.0, turns) for turns in range(12)]
    moments += [(tenths / 10_000, turns) for tenths in range(2, 5000, 10 if warm else 150) for turns in (0, 1)]
    for seconds, turns in moments:
        task = asyncio.create_task(request())
        await asyncio.sleep(seconds)
        for _ in range(turns):
            await asyncio.sleep(0)
        completed = task.done()
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
        if completed and seconds:
            break
        if not warm:
            await pool.close()
            pool = make_pool(node)
    # On a slow machine it has not come through in any of these moments.
    await request()
    async with pool.lease(who) as session:
        assert (await session.run(["echo", "ok"])).stdout == b"ok\n"
    async with asyncio.timeout(120):
        # SFTP and one long-lived process at most.
        while (pool.stats.connections, pool.stats.idle, pool.stats.waiting) != (1, 1, 0) or pool.stats.channels > 2:
            await asyncio.sleep(0.01)
    assert await gone(nodes.bob, "4714")


@pytest.mark.parametrize("max_sessions", [1, 2, 10, 9999])
async def test_a_hundred_commands_at_once(make_pool: MakePool, nodes: LoginNodes, max_sessions: int) -> None:
    node = nodes.start(max_sessions=max_sessions)
    pool = make_pool(node)

    async def one(number: int) -> None:
        async with pool.lease(principal(nodes.alice)) as session:
            done = await session.run(["echo", str(number)])
            assert done.stdout == f"{number}\n".encode()

    await asyncio.gather(*(one(number) for number in range(100)))
    assert pool.stats.logins == 1
    assert pool.stats.channels == 0
    node.stop()


@pytest.mark.parametrize("max_sessions", [1, 2, 10])
async def test_files_commands_and_long_lived_processes_share_what_channels_there_are(
    make_pool: MakePool, nodes: LoginNodes, max_sessions: int
) -> None:
    node = nodes.start(max_sessions=max_sessions)
    pool = make_pool(node)
    kinds = set()

    async def files() -> None:
        async with pool.lease(principal(nodes.alice)) as session:
            files = await session.plain_files()
            kinds.add(type(files))
            assert (await files.stat(b"/etc")).mode & 0o40000

    async def ask(number: int) -> None:
        async with pool.lease(principal(nodes.alice)) as session:
            assert await session.ask(ECHO, f"{number}\n".encode()) == f"<{number}>".encode()

    async def run() -> None:
        async with pool.lease(principal(nodes.alice)) as session:
            assert (await session.run(["true"])).ok

    await asyncio.gather(*(work for number in range(15) for work in (files(), ask(number), run())))
    assert kinds == {CommandFiles if max_sessions == 1 else SftpFiles}
    node.stop()


async def test_a_channel_that_does_not_come_free(
    make_pool: MakePool, nodes: LoginNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcgate.ssh.channels.MAX_WAIT", 0.3)
    monkeypatch.setattr("hpcgate.ssh.connection.MAX_WAIT", 0.3)
    async with make_pool(nodes.cramped).lease(principal(nodes.alice)) as session:
        free = nodes.alice.home / "free-4719"
        busy = asyncio.create_task(session.run(["sh", "-c", f"until [ -e {free} ]; do sleep 0.05; done"], timeout=300))
        assert await running(nodes.alice, "free-4719")
        for _ in range(2):  # the first is refused by sshd, the second knows the limit
            with pytest.raises(PoolExhausted) as caught:
                await session.run(["true"], timeout=0.2)
            assert caught.value.headers == {"Retry-After": "1"}
        free.touch()
        assert (await busy).ok
        free.unlink()
        assert (await session.run(["true"])).ok


async def test_waiting_for_a_channel_does_not_count_as_running(make_pool: MakePool, nodes: LoginNodes) -> None:
    pool = make_pool(nodes.cramped)
    async with pool.lease(principal(nodes.alice)) as session:
        # Each has far longer than it takes, on any machine; the last one waits for longer than that.
        many = [session.run(["sleep", "2"], timeout=7) for _ in range(4)]
        many.append(session.run(["true"], timeout=7))
        assert all(done.ok for done in await asyncio.gather(*many))


async def test_a_login_node_that_allows_no_session(make_pool: MakePool, nodes: LoginNodes) -> None:
    node = nodes.start(max_sessions=0)
    async with make_pool(node).lease(principal(nodes.alice)) as session:
        with pytest.raises(LoginNodeError, match="refuses to open a session"):
            await session.run(["true"])
    node.stop()


async def test_files_where_there_is_no_sftp(make_pool: MakePool, nodes: LoginNodes) -> None:
    node = nodes.start(sftp=False)
    pool = make_pool(node)
    async with pool.lease(principal(nodes.alice)) as alice, pool.lease(principal(nodes.bob)) as bob:
        assert isinstance(await alice.plain_files(), CommandFiles)
        before = pool.stats.channels
        assert isinstance(await bob.plain_files(), CommandFiles), "found out once for all"
        assert pool.stats.channels == before
    only = make_pool(node, files="sftp")
    async with only.lease(principal(nodes.alice)) as alice, only.lease(principal(nodes.bob)) as bob:
        for session in (alice, alice, bob):
            with pytest.raises(NotSupported, match="no SFTP"):
                await session.plain_files()
    node.stop()


async def test_one_user_without_sftp_takes_it_from_nobody(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As when the user's limit of processes is reached: sshd cannot start the subsystem.
    open_channel = Connection.open_channel

    async def barred(self: Connection, slot: Slot, *given: Any, **options: Any) -> Any:
        if self.username == nodes.bob.name and options.get("subsystem"):
            slot.release()
            raise ChannelRefused("no")
        return await open_channel(self, slot, *given, **options)

    monkeypatch.setattr(Connection, "open_channel", barred)
    pool = make_pool(sshd, max_clients=1)  # so that each lease is of a new connection
    for _ in range(2):
        async with pool.lease(principal(nodes.alice)) as session:
            assert isinstance(await session.plain_files(), SftpFiles)
        async with pool.lease(principal(nodes.bob)) as session:
            assert isinstance(await session.plain_files(), CommandFiles)
            assert isinstance(await session.plain_files(), CommandFiles)


async def test_an_sftp_server_that_is_broken(make_pool: MakePool, nodes: LoginNodes) -> None:
    for command in ("/no/such/program", "/bin/echo Welcome", "/bin/true"):
        node = nodes.start(sftp=command)
        async with make_pool(node).lease(principal(nodes.alice)) as session:
            assert isinstance(await session.plain_files(), CommandFiles)
            assert (await session.run(["true"])).ok
        node.stop()


async def test_files_are_opened_once_and_again_when_their_channel_has_died(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes
) -> None:
    pool = make_pool(sshd)
    async with pool.lease(principal(nodes.alice)) as session:
        many = await asyncio.gather(*(session.plain_files() for _ in range(20)))
        assert all(files is many[0] for files in many)
        assert pool.stats.channels == 1
        assert await session.plain_files() is many[0]
        assert session._servers._sftp is not None
        session._servers._sftp.close()
        await session._servers._sftp.wait_closed()
        again = await session.plain_files()
        assert again is not many[0]
        assert (await again.stat(b"/etc")).size > 0
    async with make_pool(sshd, files="commands").lease(principal(nodes.alice)) as session:
        assert isinstance(await session.plain_files(), CommandFiles)


async def test_asking_a_process(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    """A process is asked line by line and answers."""
    pool = make_pool(sshd)
    async with pool.lease(principal(nodes.alice)) as session:
        answers = await asyncio.gather(*(session.ask(ECHO, f"{number}\n".encode()) for number in range(50)))
        assert answers == [f"<{number}>".encode() for number in range(50)]
        assert pool.stats.channels == 1
        first = asyncio.create_task(session.ask(ECHO, b"given up\n"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        assert await session.ask(ECHO, b"next\n") == b"<next>", "answers stay with their requests"
        with pytest.raises(BadRequest):
            await session.ask(ECHO, b"a\0b")


async def test_a_process_that_cannot_be_asked(make_pool: MakePool, nodes: LoginNodes, sshd: Sshd) -> None:
    pool = make_pool(sshd, max_output_size=2048, timeout={"command_execution": 300})
    async with pool.lease(principal(nodes.alice)) as session:
        with pytest.raises(NotSupported, match="no-such-program"):
            await session.ask(["no-such-program"], b"x\n")
        with pytest.raises(GatewayError):
            await session.ask(["true"], b"x\n")
        once = ["sh", "-c", 'read -r x; printf "1\\0"; read -r x; exit']
        assert await session.ask(once, b"x\n") == b"1"
        with pytest.raises(ConnectionLost):
            await session.ask(once, b"x\n")
        assert await session.ask(once, b"x\n") == b"1", "a new one is started"
        with pytest.raises(TooLarge):
            await session.ask(["sh", "-c", "cat /dev/zero | tr '\\0' x"], b"x\n")
    async with make_pool(sshd, timeout={"command_execution": 1}).lease(principal(nodes.alice)) as session:
        with pytest.raises(TimedOut):
            await session.ask(["sh", "-c", "sleep 4715; :"], b"x\n")
        assert await gone(nodes.alice, "4715")


async def test_what_start_up_files_print_is_not_output(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    start_up = Path(nodes.bob.home) / ".bashrc"
    start_up.write_text("echo 'Welcome to the cluster!'; echo 'Your quota is low' >&2; printf 'no newline'\n")
    try:
        async with make_pool(sshd).lease(principal(nodes.bob)) as session:
            done = await session.run(["sh", "-c", "echo out; echo err >&2"], limit=4)
            assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
            assert await session.ask(ECHO, b"x\n") == b"<x>"
    finally:
        start_up.unlink()


@pytest.mark.parametrize(
    ("start_up", "words"),
    [
        ("echo 'Out of order'; echo 'Come back tomorrow' >&2; exit 0\n", "Come back tomorrow"),
        ("exit 3\n", "exit 3"),
        ("exec true\n", "exit 0"),
    ],
)
async def test_what_is_no_answer_of_the_command_never_passes_for_one(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, start_up: str, words: str
) -> None:
    file = Path(nodes.bob.home) / ".bashrc"
    file.write_text(start_up)
    try:
        async with make_pool(sshd).lease(principal(nodes.bob)) as session:
            with pytest.raises(LoginNodeError, match=f"ended before the command began.*{words}"):
                await session.run(["true"])
            async with session.process(["true"], stall=5) as process:
                process.feed_end()
                assert [block async for block in process.output()] == []
                with pytest.raises(LoginNodeError, match=f"ended before the command began.*{words}"):
                    await process.ended()
            with pytest.raises(NotSupported):
                await session.ask(ECHO, b"x\n")
    finally:
        file.unlink()


async def test_any_amount_that_start_up_files_print_is_dropped(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes
) -> None:
    file = Path(nodes.bob.home) / ".bashrc"
    file.write_text("head -c 300000 /dev/zero | tr '\\0' x | tee /dev/stderr\n")
    try:
        async with make_pool(sshd).lease(principal(nodes.bob)) as session:
            done = await session.run(["sh", "-c", "echo out; echo err >&2"], limit=4)
            assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
            assert await session.ask(ECHO, b"x\n") == b"<x>"
    finally:
        file.unlink()


async def test_variables_of_the_user_do_not_change_what_tools_say(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes
) -> None:
    file = Path(nodes.bob.home) / ".bashrc"
    file.write_text("export LANGUAGE=de:fr POSIXLY_CORRECT=1 LS_BLOCK_SIZE=1M TAR_OPTIONS=--nonsense\n")
    try:
        async with make_pool(sshd).lease(principal(nodes.bob)) as session:
            assert (await session.run(["chmod", "0700", "--", str(nodes.bob.home)])).ok
            size = Path("/etc/passwd").stat().st_size
            assert f" {size} ".encode() in (await session.run(["ls", "-l", "/etc/passwd"])).stdout
            assert (await session.run(["tar", "-cf", "/dev/null", "-T", "/dev/null"])).ok
            missing = await session.run(["cat", "--", "/nonexistent"])
            assert missing.words == "cat: /nonexistent: No such file or directory"
            printed = await session.run(["sh", "-c", 'printf %s "$LANGUAGE"'])
            assert printed.stdout == b""
    finally:
        file.unlink()
