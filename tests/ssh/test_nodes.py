"""Several login nodes, and several addresses of one name."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop

from hpcgate.config import SshSettings
from hpcgate.demo.sshd import Sshd
from hpcgate.errors import HostKeyRefused, LoginNodeUnreachable
from hpcgate.ssh import login
from hpcgate.ssh import nodes as nodes_module
from hpcgate.ssh.nodes import Nodes, first_words, reach
from hpcgate.ssh.pool import Pool
from tests.ssh.conftest import MakePool
from tests.ssh.nodes import LoginNodes, principal

USERS = [f"user{number}" for number in range(3000)]
THREE = [("a", 22), ("b", 22), ("c", 22)]


def test_users_are_spread_and_stay_where_they_are_when_a_node_comes() -> None:
    three, four = Nodes("x", THREE, 30), Nodes("x", [*THREE, ("d", 22)], 30)
    before = {user: three.order(user)[0] for user in USERS}
    after = {user: four.order(user)[0] for user in USERS}
    assert all(800 < count < 1200 for count in Counter(before.values()).values())
    moved = [user for user in USERS if before[user] != after[user]]
    assert 500 < len(moved) < 1000
    assert {after[user] for user in moved} == {("d", 22)}


def test_a_dead_node_comes_last_and_one_user_makes_trial_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    nodes = Nodes("x", THREE, 30)
    mine = nodes.order("alice")
    nodes.failed(mine[0], "no answer")
    assert nodes.order("alice") == [*mine[1:], mine[0]]
    now += 30
    assert [nodes.order("alice")[0] for _ in range(3)] == [mine[0], mine[1], mine[1]]
    nodes.worked(mine[0])
    assert nodes.order("alice") == mine


def test_a_login_that_hangs_for_one_user_is_not_the_nodes_fault() -> None:
    two = [("one", 22), ("two", 22)]
    it = Nodes("demo", two, 60.0)
    username = next(name for name in map(str, range(100)) if it.home(name) == two[0])
    for _ in range(3):
        it.hung(two[0], "mallory", "timed out")
    assert it.order(username) == two
    it.worked(two[0])
    it.hung(two[0], username, "timed out")
    assert it.order(username) == two
    it.hung(two[0], "mallory", "timed out")
    assert it.order(username) == two[::-1]
    it.worked(two[0])
    it.hung(two[0], "mallory", "timed out")
    it.hung(two[0], username, "timed out")
    assert it.order(username) == two[::-1]


def test_only_a_time_out_after_the_login_began_is_one_of_the_users() -> None:
    target = cast("Any", SimpleNamespace(system="demo"))
    policy = cast("Any", SimpleNamespace(role="login node"))
    for authenticating in (True, False):
        client = cast("Any", SimpleNamespace(authenticating=authenticating, flooded=False))
        error = login._why_not(TimeoutError(), client, target, policy, "alice")
        assert isinstance(error, LoginNodeUnreachable)
        assert isinstance(error, login.LoginHangs) is authenticating


def test_one_node_is_never_dead() -> None:
    nodes = Nodes("x", [("a", 22)], 30)
    nodes.failed(("a", 22), "no answer")
    assert nodes.order("alice") == [("a", 22)]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("login", [("login", 2222)]),
        (
            ["a", "b:23", "::1", "[::1]:24", "[fe80::1]"],
            [("a", 2222), ("b", 23), ("::1", 2222), ("::1", 24), ("fe80::1", 2222)],
        ),
    ],
)
def test_settings(host: Any, expected: list[tuple[str, int]]) -> None:
    """Several login nodes are read from the settings."""
    assert list(SshSettings.model_validate({"host": host, "port": 2222}).nodes) == expected


@pytest.mark.parametrize("host", ["", [], [""], 5, ["a", 5], ["a:0"], ["a:x"], ["a b"], ["a,b"]])
def test_settings_of_no_use(host: Any) -> None:
    with pytest.raises(ValueError, match=r"must (be a host|not be empty)"):
        SshSettings.model_validate({"host": host})


def settings(*sshds: Sshd, **changes: Any) -> SshSettings:
    timeout = {"connection": 4, "login": 10}
    hosts = [f"{sshd.host}:{sshd.port}" for sshd in sshds]
    keys = [sshd.host_public_key for sshd in sshds]
    return SshSettings.model_validate({"host": hosts, "host_keys": keys, "timeout": timeout, **changes})


async def used(pool: Pool, user: str) -> str:
    """Log in and return the login node's port."""
    async with pool.lease(principal(user)) as session:
        return (await session.run(["sh", "-c", 'echo "${SSH_CONNECTION##* }"'])).stdout.decode().strip()


@pytest.fixture
def two(nodes: LoginNodes) -> Iterator[list[Sshd]]:
    started = [nodes.start(), nodes.start()]
    yield started
    for sshd in started:
        if sshd.daemon.running:
            sshd.daemon.resume()
            sshd.stop()


@pytest.mark.parametrize("fault", ["stopped", "frozen"])
async def test_a_user_goes_to_the_next_node(
    nodes: LoginNodes, two: list[Sshd], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = nodes.alice.name
    chosen = settings(*two, dead_node_pause=600)
    pool = Pool("demo", chosen, nodes.keys())
    other = Pool("demo", chosen, nodes.keys())
    home = await used(pool, alice)
    assert await used(other, alice) == home
    await other.close()
    down = next(sshd for sshd in two if str(sshd.port) == home)
    await pool.close()
    if fault == "stopped":
        await asyncio.to_thread(down.stop)
    else:
        down.daemon.suspend()
    failed: list[tuple[str, int]] = []
    note = Nodes.failed

    def noted(self: Nodes, node: tuple[str, int], reason: str) -> None:
        failed.append(node)
        note(self, node, reason)

    monkeypatch.setattr(Nodes, "failed", noted)
    pool = Pool("demo", chosen, nodes.keys())
    assert await used(pool, alice) not in ("", home)
    await pool.close()
    assert failed == [(down.host, down.port)]
    # It is remembered: the next login does not try it first.
    pool._closed = False
    assert await used(pool, alice) != home
    assert len(failed) == 1
    # Whoever is connected stays, and once it is back and the pause is over its users return.
    if fault == "stopped":
        await asyncio.to_thread(down.start)
    else:
        down.daemon.resume()
    assert await used(pool, alice) != home
    await pool.close()
    pool._closed = False
    later = time.monotonic() + 601
    monkeypatch.setattr(nodes_module, "time", SimpleNamespace(monotonic=lambda: later))
    assert await used(pool, alice) == home
    await pool.close()


async def test_all_are_down(nodes: LoginNodes, two: list[Sshd]) -> None:
    """When all login nodes are down that is the error, each time."""
    for sshd in two:
        await asyncio.to_thread(sshd.stop)
    pool = Pool("demo", settings(*two), nodes.keys())
    for _ in range(2):
        with pytest.raises(LoginNodeUnreachable):
            await used(pool, nodes.alice.name)
    await pool.close()


async def test_a_wrong_host_key_is_told_and_not_gone_around(nodes: LoginNodes, two: list[Sshd]) -> None:
    right = settings(*two)
    pool = Pool("demo", right, nodes.keys())
    home = await used(pool, nodes.alice.name)
    await pool.close()
    other = next(sshd for sshd in two if str(sshd.port) != home)
    pool = Pool("demo", settings(*two, host_keys=[other.host_public_key]), nodes.keys())
    with pytest.raises(HostKeyRefused):
        await used(pool, nodes.alice.name)
    await pool.close()


@contextmanager
def silent(port: int) -> Iterator[str]:
    """An address that does not answer at a port: its queue is full, so that the kernel drops what comes."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.2", port))
        listening.listen(0)
        callers = []
        for _ in range(8):
            caller = socket.socket()
            caller.setblocking(False)
            caller.connect_ex(listening.getsockname())
            callers.append(caller)
        yield "127.0.0.2"
        for caller in callers:
            caller.close()


@contextmanager
def frozen(port: int) -> Iterator[str]:
    """An address that takes connections and says nothing, as that of a machine that hangs."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.2", port))
        listening.listen(100)
        yield "127.0.0.2"


@contextmanager
def refusing(port: int) -> Iterator[str]:
    """An address where nobody listens."""
    yield "127.0.0.3"


def resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    async def getaddrinfo(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in hosts]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("dead", [silent, frozen, refusing])
async def test_a_dead_address_of_a_name_costs_a_moment(
    monkeypatch: pytest.MonkeyPatch, sshd: Sshd, dead: Callable[[int], AbstractContextManager[str]]
) -> None:
    with dead(sshd.port) as address:
        resolve_to(monkeypatch, sshd.host, address)
        for user in USERS[:6]:
            # The kernel itself would try for two minutes.
            async with asyncio.timeout(300):
                sock = await reach("login.example.org", sshd.port, user)
            assert sock is not None
            with sock:
                assert sock.getpeername()[0] == sshd.host


@pytest.mark.parametrize("dead", [silent, frozen, refusing])
async def test_everybody_gets_past_a_dead_address(
    monkeypatch: pytest.MonkeyPatch,
    make_pool: MakePool,
    sshd: Sshd,
    nodes: LoginNodes,
    dead: Callable[[int], AbstractContextManager[str]],
) -> None:
    with dead(sshd.port) as address:
        resolve_to(monkeypatch, sshd.host, address)
        # Whichever of the two comes first: the order is the user's.
        monkeypatch.setattr(nodes_module, "_weight", lambda _, host: host.encode())
        assert await used(make_pool(sshd, host="login.example.org"), nodes.alice.name) == str(sshd.port)
        monkeypatch.setattr(nodes_module, "_weight", lambda _, host: bytes(255 - byte for byte in host.encode()))
        assert await used(make_pool(sshd, host="login.example.org"), nodes.alice.name) == str(sshd.port)


def test_what_the_server_says_first_is_left_to_be_read(sshd: Sshd) -> None:
    async def first_line(frozen: str) -> bytes:
        addresses = [(socket.AF_INET, (frozen, sshd.port)), (socket.AF_INET, (sshd.host, sshd.port))]
        reader, writer = await asyncio.open_connection(sock=await nodes_module._first(addresses))
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return line

    with frozen(sshd.port) as address:
        # The event loop that serves is another one than that of most tests.
        assert uvloop.run(first_line(address)).startswith(b"SSH-2.0-")


async def test_no_address_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no address of a name answers the connection is refused."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
        with pytest.raises(ConnectionRefusedError):
            await reach("login.example.org", unused.getsockname()[1], "alice")


async def test_the_first_words_stay_in_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.1")

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(b"SSH-2.0-test\r\n")
        await writer.drain()

    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    sock = await reach("login.example.org", server.sockets[0].getsockname()[1], "alice")
    assert first_words(sock) == b"SSH-2.0-test\r\n"
    assert first_words(sock) == b"SSH-2.0-test\r\n"
    sock.close()
    assert first_words(sock) == b""
    for writer in writers:
        writer.close()
    server.close()


def test_of_the_first_words_no_more_is_looked_at_than_a_line_of_them_has() -> None:
    """RFC 4253, section 4.2: 255 bytes."""
    here, there = socket.socketpair()
    with here, there:
        there.sendall(b"x" * 10_000)
        assert first_words(here) == b"x" * 255


async def test_a_look_up_that_hangs_is_one_however_many_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be stopped, and holds a thread of the few that look up the names of all others."""
    asked: list[str] = []
    answered = asyncio.Event()

    async def getaddrinfo(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        if host != "slow.example.org":
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        await answered.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)
    waiting = [asyncio.create_task(reach("slow.example.org", 22, f"user{number}")) for number in range(20)]
    while not asked:
        await asyncio.sleep(0)
    for one in waiting[:10]:
        one.cancel()
    with pytest.raises(OSError, match="not known"):
        await reach("other.example.org", 22, "alice")
    late = asyncio.create_task(reach("slow.example.org", 22, "alice"))
    await asyncio.sleep(0)
    answered.set()
    for came in await asyncio.gather(*waiting[10:], late, return_exceptions=True):
        assert isinstance(came, socket.gaierror)
    assert asked == ["slow.example.org", "other.example.org"]
    with pytest.raises(OSError, match="try again"):
        await reach("slow.example.org", 22, "alice")
    assert asked[2:] == ["slow.example.org"]
