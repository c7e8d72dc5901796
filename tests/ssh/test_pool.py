from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import asyncssh
import pytest
import structlog

from hpcgate.auth import Principal
from hpcgate.credentials.base import Credential, CredentialSource
from hpcgate.demo.keys import Key
from hpcgate.demo.sshd import Sshd
from hpcgate.errors import (
    CredentialRefused,
    HostKeyRefused,
    LoginNodeError,
    LoginNodeUnreachable,
    PoolExhausted,
    Unavailable,
)
from hpcgate.ssh.connection import Connection
from hpcgate.ssh.pool import Pool
from tests.ssh.conftest import MakePool
from tests.ssh.nodes import Keys, LoginNodes, principal


class Source(CredentialSource):
    """Signs a certificate for whoever asks, with the lifetime and delay that a test wants."""

    def __init__(self, authority: Key, lifetime: float = 600) -> None:
        self.authority = authority
        self.lifetime = lifetime
        self.delay = 0.0
        self.gate: asyncio.Event | None = None
        self.refuse: str | None = None
        self.asked: list[str] = []
        self.key = Key.make("x")
        self.private = asyncssh.import_private_key(self.key.private_text())

    async def credential(self, principal: Principal) -> Credential:
        self.asked.append(principal.username)
        await asyncio.sleep(self.delay)
        if self.gate is not None:
            await self.gate.wait()
        if self.refuse is not None:
            raise CredentialRefused(self.refuse)
        line = self.authority.certify(self.key, [principal.username], lifetime=max(self.lifetime, 60))
        return Credential(self.private, asyncssh.import_certificate(line), time.time() + self.lifetime)


async def use(pool: Pool, user: Any, argv: tuple[str, ...] = ("true",)) -> None:
    async with pool.lease(principal(user)) as session:
        assert (await session.run(list(argv))).ok


async def settled(pool: Pool, connections: int) -> None:
    deadline = time.monotonic() + 120
    while pool.stats.connections != connections:
        assert time.monotonic() < deadline, pool.stats
        await asyncio.sleep(0.01)


async def test_first_requests_share_one_login(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    keys: Keys = nodes.keys()
    pool = make_pool(sshd, keys)
    await asyncio.gather(*(use(pool, nodes.alice) for _ in range(30)))
    assert keys.asked == [nodes.alice.name]
    stats = pool.stats
    assert (stats.logins, stats.connections, stats.idle, stats.waiting) == (1, 1, 1, 0)


async def test_a_session_is_the_users_own(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    pool = make_pool(sshd)
    async with pool.lease(principal(nodes.alice)) as alice, pool.lease(principal(nodes.bob)) as bob:
        assert alice is not bob
        for session, user in ((alice, nodes.alice), (bob, nodes.bob)):
            assert (await session.run(["id", "-un"])).stdout.decode().strip() == user.name
        assert alice.node is bob.node is pool.node


async def test_a_refused_login_is_shared_and_not_tried_again_for_a_while(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(nodes.authority)
    source.refuse, source.delay = "The service says no", 0.05
    pool = make_pool(sshd, source, failed_login_pause=600)
    outcomes = await asyncio.gather(*(use(pool, nodes.alice) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(outcome, CredentialRefused) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 20, "each has an error of its own"
    with pytest.raises(CredentialRefused, match="The service says no"):
        await use(pool, nodes.alice)
    assert source.asked == [nodes.alice.name]
    source.refuse = None
    await use(pool, nodes.bob)
    monkeypatch.setattr("hpcgate.ssh.brake.time", SimpleNamespace(monotonic=lambda: time.monotonic() + 600))
    await use(pool, nodes.alice)
    assert pool.stats.logins_failed == 1


async def test_a_failure_to_connect_is_not_remembered(make_pool: MakePool, nodes: LoginNodes) -> None:
    node = nodes.start()
    node.stop()
    pool = make_pool(node, failed_login_pause=60)
    with pytest.raises(LoginNodeUnreachable):
        await use(pool, nodes.alice)
    node.start()
    await use(pool, nodes.alice)
    node.stop()
    mistaken = make_pool(node, failed_login_pause=60, host_keys=(Key.make("x").public_line,))
    node.start()
    for _ in range(2):
        with pytest.raises(HostKeyRefused):
            await use(mistaken, nodes.alice)
    assert mistaken.stats.logins_failed == 2
    node.stop()


async def test_the_cap_is_hard_and_the_longest_idle_goes(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    pool = make_pool(sshd, Source(nodes.authority), max_clients=2)
    names = ["games", "man", "news"]

    async def hold(name: str) -> None:
        async with pool.lease(principal(name)):
            assert pool.stats.connections <= 2

    for name in names:
        await hold(name)
    assert pool.stats.evictions == 1
    await hold("man")
    await hold("news")
    assert pool.stats.logins == 3, "games, idle longest, was the one to go"
    await hold("games")
    assert (pool.stats.logins, pool.stats.evictions) == (4, 2)


async def test_a_full_pool_lets_wait_and_then_refuses(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    pool = make_pool(sshd, max_clients=1, pool_wait=0.3)
    async with pool.lease(principal(nodes.alice)):
        started = time.perf_counter()
        with pytest.raises(PoolExhausted) as caught:
            await use(pool, nodes.bob)
        assert time.perf_counter() - started > 0.25
        assert caught.value.status == 503
        assert caught.value.headers == {"Retry-After": "1"}
    patient = make_pool(sshd, max_clients=1, pool_wait=120)
    async with patient.lease(principal(nodes.alice)):
        waiting = asyncio.create_task(use(patient, nodes.bob))
        async with asyncio.timeout(120):
            while patient.stats.waiting != 1:
                await asyncio.sleep(0.01)
    await waiting
    assert patient.stats.connections == 1


async def test_those_who_wait_are_served_in_turn(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    pool = make_pool(sshd, Source(nodes.authority), max_clients=1, pool_wait=120)
    served: list[str] = []

    async def hold(name: str) -> None:
        async with pool.lease(principal(name)):
            served.append(name)
            assert pool.stats.connections == 1

    names = ["games", "man", "news", "mail", "lp"]
    async with pool.lease(principal(nodes.alice)):
        tasks = []
        for name in names:
            tasks.append(asyncio.create_task(hold(name)))
            await asyncio.sleep(0.01)
        tasks[1].cancel()
        await asyncio.sleep(0.01)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert served == ["games", "news", "mail", "lp"]


async def test_one_who_gives_up_waiting_leaves_room_for_the_same_user(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes
) -> None:
    pool = make_pool(sshd, max_clients=1, pool_wait=120)
    async with pool.lease(principal(nodes.alice)):
        first = asyncio.create_task(use(pool, nodes.bob))
        await asyncio.sleep(0.05)
        first.cancel()
        second = asyncio.create_task(use(pool, nodes.bob))
        await asyncio.sleep(0.05)
        assert first.cancelled()
    await second
    assert pool.stats.logins == 2


async def test_many_users_under_a_small_cap(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    pool = make_pool(sshd, Source(nodes.authority), max_clients=3, pool_wait=120)
    users = ["games", "man", "news", "mail", "lp", "uucp", "proxy", "backup"]

    async def hold(name: str) -> None:
        async with pool.lease(principal(name)) as session:
            assert session.username == name
            assert pool.stats.connections <= 3
            await asyncio.sleep(0.01)

    await asyncio.gather(*(hold(name) for name in users for _ in range(5)))
    assert pool.stats.connections <= 3
    assert pool.stats.waiting == 0


async def test_idle_connections_are_closed(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    idle = 2.0
    pool = make_pool(sshd, timeout={"idle_timeout": idle})
    loop = asyncio.get_running_loop()
    async with pool.lease(principal(nodes.alice)):
        await use(pool, nodes.bob)
        first = loop.time()
        await asyncio.sleep(idle / 2)
        again = time.monotonic()
        await use(pool, nodes.bob)
        await asyncio.sleep(first + idle + 0.1 - loop.time())
        left = pool.stats.connections
        # A machine that stood still may have slept past the end of the second use's time, too.
        if time.monotonic() < again + idle:
            assert left == 2, "each use starts the time anew"
        await settled(pool, 1)
        assert pool.stats.idle == 0, "one in use is not idle"
    await settled(pool, 0)
    await use(pool, nodes.alice)
    assert pool.stats.logins == 3


async def test_an_expired_credential_is_renewed_while_commands_go_on(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes
) -> None:
    source = Source(nodes.authority, lifetime=0.6)
    pool = make_pool(sshd, source)
    async with pool.lease(principal(nodes.alice)) as old:
        command = asyncio.create_task(old.run(["sh", "-c", "sleep 1; echo done"]))
        await asyncio.sleep(0.7)
        source.lifetime = 600
        async with pool.lease(principal(nodes.alice)) as new:
            assert new is not old
            assert pool.stats.connections == 2
        assert (await command).stdout == b"done\n"
    await settled(pool, 1)
    async with pool.lease(principal(nodes.alice)) as session:
        assert session is new
    assert pool.stats.logins == 2


MANY = ["games", "man", "news", "mail", "lp", "uucp", "proxy", "backup", "www-data", "list", "irc"]
"""Accounts that every Debian has and that may log in by certificate, if only to be turned away by their shell."""


async def enter(pool: Pool, name: str) -> None:
    async with pool.lease(principal(name)) as session:
        assert session.username == name


async def test_the_gate_bounds_how_many_log_in_at_a_time(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = most = 0
    real = Connection.open

    async def counted(*arguments: Any) -> Connection:
        nonlocal together, most
        together += 1
        most = max(most, together)
        try:
            return await real(*arguments)
        finally:
            together -= 1

    monkeypatch.setattr(Connection, "open", counted)
    pool = make_pool(sshd, Source(nodes.authority), max_logins=3)
    await asyncio.gather(*(enter(pool, name) for name in MANY))
    assert pool.stats.logins == len(MANY)
    assert most == 3


async def test_sshds_default_max_startups_under_four_gateways_at_once(make_pool: MakePool, nodes: LoginNodes) -> None:
    node = nodes.start()
    pools = [make_pool(node, Source(nodes.authority)) for _ in range(4)]
    await asyncio.gather(*(enter(pool, name) for pool in pools for name in MANY))
    assert [pool.stats.logins for pool in pools] == [len(MANY)] * 4
    for pool in pools:
        await pool.close()
    node.stop()


async def test_connections_that_max_startups_drops_are_tried_again(make_pool: MakePool, nodes: LoginNodes) -> None:
    node = nodes.start(max_startups="2:100:2", extra="LogLevel VERBOSE\n")
    pool = make_pool(node, Source(nodes.authority), max_logins=5)
    await asyncio.gather(*(enter(pool, name) for name in MANY[:5]))
    assert "maxstartups" in node.log().lower()
    assert pool.stats.logins == 5
    node.stop()


async def test_closing_ends_logins_and_refuses_new_leases(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    source = Source(nodes.authority)
    source.delay = 5
    pool = make_pool(sshd, source)
    waiting = [asyncio.create_task(use(pool, nodes.alice)) for _ in range(3)]
    await asyncio.sleep(0.05)
    await pool.close()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes), outcomes
    with pytest.raises(Unavailable):
        await use(pool, nodes.alice)


async def test_closing_is_completed_even_if_it_is_cancelled(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    pool = make_pool(sshd)
    await use(pool, nodes.alice)
    await use(pool, nodes.bob)
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert pool.stats.connections == 0


async def test_a_warm_lease_waits_for_nothing(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    pool = make_pool(sshd)
    await use(pool, nodes.alice)
    other = asyncio.create_task(asyncio.sleep(0))
    async with pool.lease(principal(nodes.alice)):
        pass
    assert not other.done(), "the event loop was not given up"
    await other


async def test_what_is_large_has_a_connection_of_its_own(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    pool = make_pool(sshd, bulk_from=1000)
    who = principal(nodes.alice)
    async with pool.lease_bulk(who, 999) as small, pool.lease_bulk(who) as unknown, pool.lease(who) as plain:
        assert small is unknown is plain
        assert not plain.dedicated
    async with pool.lease_bulk(who, 1000) as large, pool.lease_bulk(who) as unknown, pool.lease(who) as still:
        assert large is unknown, "while there is one, all streams go by it"
        assert large.dedicated
        assert still is plain
        assert (await large.run(["id", "-un"])).stdout.decode().strip() == nodes.alice.name
        assert pool.stats.connections == 2
    assert (pool.stats.logins, pool.stats.idle) == (2, 2)
    async with pool.lease_bulk(principal(nodes.bob), 1000) as others:
        assert others is not large
    await pool.close()
    assert pool.stats.connections == 0


async def test_many_large_ones_share_one_login(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    pool = make_pool(sshd, bulk_from=0)
    await use(pool, nodes.alice)

    async def stream() -> None:
        async with pool.lease_bulk(principal(nodes.alice), 1) as session:
            assert session.dedicated

    await asyncio.gather(*(stream() for _ in range(10)))
    assert pool.stats.logins == 2, "the first connection, and one for all that is large"


async def test_a_second_connection_without_channels_is_closed(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login node that gives the second connection no channel, played by one that refuses."""
    pool = make_pool(sshd, bulk_from=1000)
    await use(pool, nodes.alice)

    async def refuse(*_: Any, **__: Any) -> None:
        raise LoginNodeError("refuses to open a session")

    with monkeypatch.context() as played:
        played.setattr(Connection, "open_channel", refuse)
        async with pool.lease_bulk(principal(nodes.alice), 1000) as session:
            assert not session.dedicated
    await settled(pool, 1)
    await use(pool, nodes.alice)


@pytest.mark.parametrize(("bulk_from", "max_clients"), [(None, 9), (1000, 1)])
async def test_what_is_large_goes_by_the_users_other_connection(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, bulk_from: int | None, max_clients: int
) -> None:
    pool = make_pool(sshd, bulk_from=bulk_from, max_clients=max_clients)
    await use(pool, nodes.alice)
    async with pool.lease_bulk(principal(nodes.alice), 10**9) as session:
        assert not session.dedicated
    stats = pool.stats
    assert (stats.logins, stats.evictions) == (1, 0), "nobody is sent away for a second connection"


async def test_a_second_login_that_is_refused_is_no_error(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    source = Source(nodes.authority)
    pool = make_pool(sshd, source, bulk_from=1000, failed_login_pause=60)
    await use(pool, nodes.alice)
    source.refuse = "One at a time"
    for _ in range(2):
        async with pool.lease_bulk(principal(nodes.alice), 1000) as session:
            assert not session.dedicated
            assert (await session.run(["true"])).ok
    assert len(source.asked) == 2, "it is not tried again for a while"
    await use(pool, nodes.alice)


async def test_a_second_connection_that_serves_nothing_is_no_error(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login node that ends each connection beyond the first, played by cutting them."""
    pool = make_pool(sshd, bulk_from=1000, failed_login_pause=60)
    await use(pool, nodes.alice)
    open_connection = Connection.open

    async def cut(*arguments: Any) -> Connection:
        connection = await open_connection(*arguments)
        connection.ssh.abort()
        return connection

    monkeypatch.setattr(Connection, "open", cut)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            async with pool.lease_bulk(principal(nodes.alice), 1000) as session:
                assert not session.dedicated
                assert (await session.run(["true"])).ok
    assert [line["user"] for line in logs if line["event"] == "ssh.bulk.refused"] == [nodes.alice.name]
    assert (pool.stats.connections, pool.stats.logins) == (1, 2)


async def test_a_second_connection_is_for_when_there_is_plenty_of_room(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes
) -> None:
    pool = make_pool(sshd, bulk_from=1000, max_clients=4)
    await use(pool, nodes.alice)
    await use(pool, nodes.bob)
    async with (
        pool.lease_bulk(principal(nodes.alice), 1000) as alice,
        pool.lease_bulk(principal(nodes.bob), 1000) as bob,
    ):
        assert (alice.dedicated, bob.dedicated) == (True, False)


async def test_the_first_connection_comes_first(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a user may log in once only, what is large must not keep out all that is small."""
    pool = make_pool(sshd, bulk_from=1000, failed_login_pause=60)
    open_connection = Connection.open
    made: list[Connection] = []

    async def once(*arguments: Any) -> Connection:
        if made:
            raise CredentialRefused("Too many logins")
        made.append(await open_connection(*arguments))
        return made[0]

    monkeypatch.setattr(Connection, "open", once)
    async with pool.lease_bulk(principal(nodes.alice), 1000) as session:
        assert not session.dedicated
        await use(pool, nodes.alice)


async def test_who_cannot_log_in_is_told_at_once(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    source = Source(nodes.authority)
    source.refuse = "no"
    pool = make_pool(sshd, source, bulk_from=1000)
    with pytest.raises(CredentialRefused):
        async with pool.lease_bulk(principal(nodes.alice), 1000):
            pass
    assert len(source.asked) == 1, "one request must not count twice for whoever locks users out"


@pytest.mark.parametrize("files", ["auto", "commands"])
async def test_a_second_connection_that_runs_nothing_is_no_error(
    make_pool: MakePool, nodes: LoginNodes, files: str
) -> None:
    """sshd opens channels although PAM refuses the session (pam_limits, maxlogins), and ends each command at once."""
    only = f'"$HOME/only-{files}"'
    node = nodes.start(
        match_extra=f'    ForceCommand test -s {only} || echo "$SSH_CONNECTION" > {only}; '
        f'test "$(cat {only})" = "$SSH_CONNECTION" || exit 254; eval "$SSH_ORIGINAL_COMMAND"\n'
    )
    pool = make_pool(node, bulk_from=1000, files=files)
    await use(pool, nodes.alice)
    async with pool.lease_bulk(principal(nodes.alice), 1000) as session:
        assert not session.dedicated
        assert (await session.run(["true"])).ok
    await settled(pool, 1)


async def test_nobody_gets_a_second_connection_before_it_is_known_to_serve(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(sshd, bulk_from=1000)
    who = principal(nodes.alice)
    await use(pool, nodes.alice)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def refuse(*_: Any, **__: Any) -> None:
        begun.set()
        await go_on.wait()
        raise LoginNodeError("refuses to open a session")

    async def large() -> bool:
        async with pool.lease_bulk(who, 1000) as session:
            return session.dedicated

    with monkeypatch.context() as played:
        played.setattr(Connection, "open_channel", refuse)
        task = asyncio.create_task(large())
        await begun.wait()
        async with pool.lease_bulk(who) as small:
            assert not small.dedicated
        go_on.set()
        assert not await task
    await settled(pool, 1)


async def test_a_second_login_that_hangs_keeps_nobody_for_long(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(nodes.authority)
    pool = make_pool(sshd, source, bulk_from=1000)
    await use(pool, nodes.alice)
    source.gate = asyncio.Event()
    # The first stream waits for a moment, those that come later do not: they would wait for ever.
    for patience in (0.2, 3600.0):
        monkeypatch.setattr("hpcgate.ssh.bulk._PATIENCE", patience)
        async with asyncio.timeout(300), pool.lease_bulk(principal(nodes.alice), 1000) as session:
            assert not session.dedicated
    source.gate.set()
    await settled(pool, 2)
    while pool.stats.idle < 2:
        await asyncio.sleep(0.01)
    async with pool.lease_bulk(principal(nodes.alice), 1000) as session:
        assert session.dedicated, "it serves once it is there"


async def test_a_second_connection_that_has_expired_sends_nobody_away(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes
) -> None:
    source = Source(nodes.authority)
    pool = make_pool(sshd, source, bulk_from=1000, max_clients=3)
    who = principal(nodes.alice)
    await use(pool, nodes.alice)
    async with pool.lease_bulk(who, 1000) as first:
        assert first.dedicated
        await use(pool, nodes.bob)
        first.connection.expires_at = time.time() - 1
        async with pool.lease_bulk(who, 1000) as second:
            assert not second.dedicated
    assert (pool.stats.evictions, pool.stats.connections) == (0, 3)


async def test_a_second_connection_is_to_the_same_login_node(make_pool: MakePool, nodes: LoginNodes) -> None:
    """A file that one login node has of its own must not be looked for on another."""
    both = [nodes.start(), nodes.start()]
    pool = make_pool(
        both[0],
        bulk_from=1000,
        host=tuple(f"{node.host}:{node.port}" for node in both),
        host_keys=tuple(node.host_public_key for node in both),
    )
    who = principal(nodes.alice)
    async with pool.lease(who) as plain:
        at = plain.connection.node
        pool.target.nodes.failed(next(node for node in pool.target.nodes.nodes if at.endswith(f":{node[1]}")), "x")
        async with pool.lease_bulk(who, 1000) as session:
            assert not session.dedicated
    await settled(pool, 1)


@pytest.mark.parametrize("moment", [0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08])
async def test_who_goes_away_leaves_no_lease(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, moment: float) -> None:
    pool = make_pool(sshd, Source(nodes.authority), bulk_from=1000)
    who = principal(nodes.alice)

    async def large() -> None:
        async with pool.lease_bulk(who, 1000) as session, session.bulk():
            pass

    tasks = [asyncio.create_task(large()) for _ in range(3)]
    await asyncio.sleep(moment)
    for task in tasks[:2]:
        task.cancel()
    await asyncio.wait(tasks)
    assert tasks[2].exception() is None
    assert all(not place.leases for place in pool._places.current.values())
    assert (pool.stats.idle, pool.stats.waiting) == (2, 0)


@pytest.mark.parametrize("moment", ["credential", "rehearsal"])
async def test_closing_ends_a_second_login_under_way(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    source = Source(nodes.authority)
    pool = make_pool(sshd, source, bulk_from=1000)
    await use(pool, nodes.alice)
    begun = asyncio.Event()

    async def hang(*_: Any, **__: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    if moment == "credential":
        monkeypatch.setattr(source, "credential", hang)
    else:
        monkeypatch.setattr(Connection, "open_channel", hang)

    async def large() -> bool:
        async with pool.lease_bulk(principal(nodes.alice), 1000) as session:
            return session.dedicated

    task = asyncio.create_task(large())
    await begun.wait()
    async with asyncio.timeout(300):
        await pool.close()
        assert not await task
    assert pool.stats.connections == 0


async def test_a_second_connection_that_has_ended_is_made_again(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes
) -> None:
    pool = make_pool(sshd, bulk_from=1000)
    who = principal(nodes.alice)
    await use(pool, nodes.alice)
    async with pool.lease_bulk(who, 1000) as first:
        first.connection.ssh.abort()
    await settled(pool, 1)
    async with pool.lease_bulk(who) as plain:
        assert not plain.dedicated, "for what may be small none is made"
    async with pool.lease_bulk(who, 1000) as second:
        assert second.dedicated
        assert second is not first
