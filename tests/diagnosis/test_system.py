"""What `check --connect` does to a login node, and what it says of one that turns the gateway away."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import asyncssh
import pytest

from hpcgate.auth import Principal
from hpcgate.config import SshSettings
from hpcgate.diagnosis import system
from hpcgate.errors import LoginNodeShut
from hpcgate.ssh import preflight, survey
from hpcgate.ssh.host_keys import Trusted


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


async def test_a_machine_of_several_systems_is_looked_at_once_however_many_expect_something_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key, other = (asyncssh.generate_private_key("ssh-ed25519").convert_to_public() for _ in range(2))
    looked: list[str] = []

    async def shown(host: str, port: int, patience: float) -> list[asyncssh.SSHKey]:
        looked.append(host)
        await asyncio.sleep(0)
        if host == "down":
            raise ConnectionRefusedError("connection refused")
        return [key]

    async def accepted(host: str, port: int, trusted: Trusted, patience: float) -> bool:
        looked.append(f"{host} accepted")
        return key in trusted.keys

    monkeypatch.setattr(survey, "_shown", shown)
    monkeypatch.setattr(survey, "_accepted", accepted)
    surveyor = survey.Surveyor()

    def settings(host: str, expected: asyncssh.SSHKey) -> SshSettings:
        return SshSettings(host=host, host_keys=(expected.export_public_key("openssh").decode().strip(),))

    asked = [("one", key), ("one", key), ("one", other), ("down", key), ("down", key)]
    found = await asyncio.gather(*(surveyor.survey(str(number), settings(*one)) for number, one in enumerate(asked)))
    assert [[finding.good for finding in findings] for findings in found] == [[True], [True], [False], [False], [False]]
    # What another key is expected of is asked once more.
    assert sorted(looked) == ["down", "one", "one accepted", "one accepted"]


def test_a_node_that_punishes_is_told_with_the_setting() -> None:
    assert "PerSourcePenaltyExemptList" in system._advice(LoginNodeShut("takes no new logins from this gateway"))
