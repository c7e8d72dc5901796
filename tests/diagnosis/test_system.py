"""What `check --connect` does to a login node, and what it says of one that turns the gateway away."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hpcgate.auth import Principal
from hpcgate.diagnosis import system
from hpcgate.errors import LoginNodeShut
from hpcgate.ssh import preflight


def pool(node: str) -> Any:
    return cast(Any, SimpleNamespace(settings=SimpleNamespace(nodes=((node, 22),))))


async def test_a_node_of_several_systems_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an sshd that punishes addresses which come too often has nothing to punish."""
    tried: list[str] = []

    async def logins(given: Any, principal: Principal, count: int) -> int:
        tried.append(given.settings.nodes[0][0])
        await asyncio.sleep(0)
        return 3

    monkeypatch.setattr(preflight, "logins", logins)
    crowds, alice = system.Crowds(), Principal("alice", token="")
    asked = (crowds.dropped(pool(node), alice, 8) for node in ("one", "one", "two", "one"))
    assert await asyncio.gather(*asked) == [3] * 4
    assert tried == ["one", "two"]


def test_a_node_that_punishes_is_told_with_the_setting() -> None:
    assert "PerSourcePenaltyExemptList" in system._advice(LoginNodeShut("takes no new logins from this gateway"))
