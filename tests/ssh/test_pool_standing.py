"""Tokens of one user that stand for different things, before a real login node: who shares a connection with whom."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from hpcgate.auth import Principal
from hpcgate.credentials.base import Credential
from hpcgate.demo.sshd import Sshd
from hpcgate.errors import CredentialRefused, PoolExhausted
from hpcgate.ssh.brake import Refusals
from tests.ssh.conftest import MakePool
from tests.ssh.nodes import Keys, LoginNodes


def token(nodes: LoginNodes, name: str, **claims: Any) -> Principal:
    return Principal(nodes.alice.name, name, {"jti": name, **claims})


class Judging(Keys):
    """Gives no credential for some tokens."""

    def __init__(self, nodes: LoginNodes, *refuses: str) -> None:
        super().__init__(nodes.users)
        self.refuses = refuses
        self.tokens: list[str] = []

    async def credential(self, principal: Principal) -> Credential:
        self.tokens.append(principal.token)
        await asyncio.sleep(0)
        if principal.token in self.refuses:
            raise CredentialRefused(f"not for {principal.token}")
        return await super().credential(principal)


async def test_tokens_share_a_connection_if_they_stand_for_the_same(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes
) -> None:
    keys = Judging(nodes)
    pool = make_pool(sshd, keys)
    async with AsyncExitStack() as stack:
        first, renewed, narrow = [
            await stack.enter_async_context(pool.lease(principal))
            for principal in (
                token(nodes, "1", scope="a b"),
                token(nodes, "2", scope="b a"),
                token(nodes, "3", scope="a"),
            )
        ]
        assert renewed is first
        assert narrow is not first
    assert keys.tokens == ["1", "3"]
    assert pool.stats.connections == 2


async def test_where_the_name_alone_counts_all_share(make_pool: MakePool, sshd: Sshd, nodes: LoginNodes) -> None:
    class ByName(Judging):
        def standing(self, principal: Principal) -> tuple[()]:
            return ()

    pool = make_pool(sshd, ByName(nodes))
    async with pool.lease(token(nodes, "1", scope="a")) as first, pool.lease(token(nodes, "2", scope="b")) as second:
        assert first is second


async def test_what_is_large_goes_by_a_connection_of_the_same_kind_of_token(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes
) -> None:
    keys = Judging(nodes)
    pool = make_pool(sshd, keys, bulk_from=1)
    async with (
        pool.lease_bulk(token(nodes, "1", scope="a"), 10) as first,
        pool.lease_bulk(token(nodes, "2", scope="b"), 10) as second,
    ):
        assert first is not second
    assert keys.tokens.count("1") == keys.tokens.count("2") == 2


async def test_a_token_that_is_refused_says_nothing_of_another(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes
) -> None:
    """Not even of one that stands for the same and waits for the same login."""
    keys = Judging(nodes, "1")
    pool = make_pool(sshd, keys, failed_login_pause=60)

    async def enter(name: str) -> None:
        async with pool.lease(token(nodes, name)):
            pass

    for _ in range(2):
        refused, served = await asyncio.gather(enter("1"), enter("2"), return_exceptions=True)
        assert isinstance(refused, CredentialRefused) or keys.tokens.count("2"), "or it has the other's connection"
        assert served is None
    assert keys.tokens.count("1") == 1


async def test_one_user_has_so_many_kinds_of_tokens_at_a_time(
    make_pool: MakePool, sshd: Sshd, nodes: LoginNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcgate.ssh.standings._MAX", 2)
    pool = make_pool(sshd, Judging(nodes), pool_wait=30)
    async with AsyncExitStack() as stack:
        for name in "12":
            await stack.enter_async_context(pool.lease(token(nodes, name, scope=name)))
        third = pool.lease(token(nodes, "3", scope="3"))
        waiting = asyncio.create_task(third.__aenter__())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert pool.stats.connections == 2
    await waiting
    assert pool.stats.connections == 2, "that of another kind was closed"
    await third.__aexit__(None, None, None)

    pool = make_pool(sshd, Judging(nodes), pool_wait=0.05)
    async with AsyncExitStack() as stack:
        for name in "12":
            await stack.enter_async_context(pool.lease(token(nodes, name, scope=name)))
        with pytest.raises(PoolExhausted, match="2 kinds of tokens") as caught:
            async with pool.lease(token(nodes, "3", scope="3")):
                pass
        assert caught.value.headers == {"Retry-After": "1"}


def test_refused_logins_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpcgate.ssh.brake._MAX_KNOWN", 3)
    refusals = Refusals(60, 60)
    for number in range(10):
        refusals.add(str(number), CredentialRefused("no"))
    assert [key for key in map(str, range(10)) if refusals.get(key) is not None] == ["7", "8", "9"]
