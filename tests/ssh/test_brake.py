"""Refused logins shut out nobody but those who are refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from hpcgate.auth import Principal
from hpcgate.config import SshSettings
from hpcgate.demo.sshd import Sshd, punishes
from hpcgate.errors import CommandFailed, CredentialRefused, LoginNodeShut
from hpcgate.health.board import HealthBoard, ServiceHealth
from hpcgate.ssh.brake import Brake, Refusals, brake_of
from hpcgate.ssh.pool import Pool
from tests.health.test_prober import make as make
from tests.ssh.conftest import MakePool
from tests.ssh.nodes import Keys, LoginNodes, principal


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def penalties_of(brake: Brake, clock: Clock, steps: list[tuple[float, str]]) -> float:
    """Let users ask who are all refused; return the most seconds of penalty that sshd's defaults come to."""
    ends, most = clock.now, 0.0
    for seconds, user in steps:
        clock.now += seconds
        if brake.wait(user) == 0:
            brake.refused(user)
            ends = max(ends, clock.now) + 5
            most = max(most, ends - clock.now)
    return most


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([(2.0, "eve")] * 300, id="one user every two seconds"),
        pytest.param([(0.01, "eve")] * 3000, id="one user without a pause"),
        pytest.param([(0.5, f"eve{n % 7}") for n in range(600)], id="seven users in turn"),
        pytest.param([(0.5, f"eve{n}") for n in range(600)], id="users never seen before"),
    ],
)
def test_what_is_refused_stays_under_what_sshd_punishes(steps: list[tuple[float, str]]) -> None:
    clock = Clock()
    assert penalties_of(Brake(10, clock), clock, steps) <= 15


def test_who_got_in_the_last_time_waits_for_nothing() -> None:
    clock = Clock()
    brake = Brake(10, clock)
    brake.worked("alice")
    for n in range(10):
        brake.refused(f"eve{n}")
    assert brake.wait("alice") == 0
    assert brake.wait("bob") == pytest.approx(48, abs=1)
    brake.refused("alice")
    assert brake.wait("alice") > 48
    assert Brake(None, clock).wait("bob") == 0


def test_one_refusal_leaves_room_for_those_of_whom_nothing_is_known() -> None:
    clock = Clock()
    brake = Brake(10, clock)
    brake.refused("eve")
    brake.refused("eve")
    clock.now += 1
    assert brake.wait("eve") > 0
    assert brake.wait("bob") == 0


def test_pools_of_one_node_share_its_brake() -> None:
    assert brake_of(("login", 22), 10) is brake_of(("login", 22), 10)
    assert brake_of(("login", 22), 10) is not brake_of(("login", 23), 10)


def test_pauses_grow_and_end_with_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("hpcgate.ssh.brake.time.monotonic", clock)
    refusals = Refusals(2, 10)
    for pause in (2, 4, 8, 10, 10):
        refusals.add("eve", CredentialRefused("no"))
        told = refusals.get("eve")
        assert told is not None
        assert told.headers["Retry-After"] == str(pause)
        clock.now += pause
        assert refusals.get("eve") is None
    refusals.forget("eve")
    refusals.add("eve", CredentialRefused("no"))
    clock.now += 2
    assert refusals.get("eve") is None


@asynccontextmanager
async def listening(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A server, by its port."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As an sshd does that punishes this address (recorded from OpenSSH 10.0)."""
    writer.write(b"Not allowed at this time\r\n")
    writer.close()


async def test_a_node_that_punishes_is_not_down(nodes: LoginNodes) -> None:
    async with listening(refuse) as port:
        pool = Pool("demo", SshSettings(host="127.0.0.1", port=port), nodes.keys())
        with pytest.raises(LoginNodeShut, match="takes no new logins from this gateway") as told:
            async with pool.lease(principal(nodes.alice)):
                pass
        await pool.close()
    assert told.value.status == 503
    assert int(told.value.headers["Retry-After"]) > 0


async def test_who_is_logged_in_goes_on_while_the_node_punishes(
    nodes: LoginNodes, sshd: Sshd, make_pool: MakePool
) -> None:
    shut, over = False, asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if shut:
            writer.write(b"Not allowed at this time\r\n")
            writer.close()
            return
        behind = await asyncio.open_connection(sshd.host, sshd.port)
        await asyncio.gather(pass_on(reader, behind[1]), pass_on(behind[0], writer))
        over.set()

    async with listening(answer) as port:
        pool = make_pool(sshd, port=port)
        async with pool.lease(principal(nodes.alice)):
            pass
        shut = True
        with pytest.raises(LoginNodeShut):
            async with pool.lease(principal(nodes.bob)):
                pass
        async with pool.lease(principal(nodes.alice)) as session:
            assert (await session.run(["echo", "here"])).stdout == b"here\n"
        await pool.close()
        await over.wait()


async def test_a_node_that_others_crowd_takes_the_login_a_moment_later(
    nodes: LoginNodes, sshd: Sshd, make_pool: MakePool
) -> None:
    """From 9.8 on, sshd says the same where it drops connections by MaxStartups (recorded from OpenSSH 10.0)."""
    came, over = 0, asyncio.Event()

    async def crowded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        if came < 3:
            writer.write(b"Not allowed at this time\r\n")
        else:
            behind = await asyncio.open_connection(sshd.host, sshd.port)
            await asyncio.gather(pass_on(reader, behind[1]), pass_on(behind[0], writer))
            over.set()
        writer.close()

    async with listening(crowded) as port:
        pool = make_pool(sshd, port=port)
        async with pool.lease(principal(nodes.alice)) as session:
            assert (await session.run(["echo", "here"])).stdout == b"here\n"
        await pool.close()
        await over.wait()
    assert came == 3


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while block := await reader.read(65536):
            writer.write(block)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_probe_that_is_punished_says_nothing_of_the_node(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Account:
        async def principal(self) -> Principal:
            return Principal("probe", "token")

    board = HealthBoard("daint")
    prober = make(Account(), board, services={"ssh": {}})
    board.record(ServiceHealth("ssh", True, 0.0))

    monkeypatch.setattr(prober._pool, "lease", lambda _: Entering(LoginNodeShut("takes no new logins")))
    await prober.round()
    board.require(("ssh",))
    assert [(one.service, one.healthy, one.message) for one in board.results] == [
        ("ssh", True, None),
        ("exception", False, "takes no new logins"),
    ]
    monkeypatch.setattr(prober._pool, "lease", lambda _: Entering(CommandFailed("gone")))
    await prober.round()
    assert [(one.service, one.healthy, one.message) for one in board.results] == [("ssh", False, "gone")]


class Entering:
    """A lease that cannot be had."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def __aenter__(self) -> None:
        raise self.error

    async def __aexit__(self, *_: object) -> None:
        pass


async def test_one_refused_user_shuts_out_nobody(make_pool: MakePool, nodes: LoginNodes) -> None:
    # Asked here: while tests are collected, a bare machine has no sshd yet.
    if not punishes():
        pytest.skip("the installed sshd has no PerSourcePenalties (OpenSSH 9.8)")
    node = nodes.start(penalties="yes")
    keys = nodes.keys()
    keys.credentials[nodes.bob.name] = Keys((nodes.alice,)).credentials[nodes.alice.name]
    pool = make_pool(node, keys, timeout={"idle_timeout": 1}, failed_login_pause=0.1, refused_logins=10)
    for _ in range(40):
        with pytest.raises(CredentialRefused):
            async with pool.lease(principal(nodes.bob)):
                pass
        await asyncio.sleep(0.25)
        fresh = make_pool(node, nodes.keys(), refused_logins=10)
        async with fresh.lease(principal(nodes.alice)) as session:
            assert (await session.run(["true"])).ok
        await fresh.close()


async def test_tries_in_one_name_await_each_other() -> None:
    brake = Brake(10)
    tried: list[str] = []

    async def attempt(name: str) -> None:
        async with brake.trying(name):
            tried.append(f"{name} begins")
            await asyncio.sleep(0)
            tried.append(f"{name} ends")
            brake.refused(name)

    await asyncio.gather(attempt("eve"), attempt("eve"))
    assert tried == ["eve begins", "eve ends"] * 2
    tried.clear()
    brake.worked("alice")
    await asyncio.gather(attempt("bob"), attempt("carol"))
    assert tried == ["bob begins", "carol begins", "bob ends", "carol ends"]
