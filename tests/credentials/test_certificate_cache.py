"""What two tokens of one user share of a credential, and what they do not."""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Any

import asyncssh
import pytest

from hpcgate.auth import Principal
from hpcgate.credentials.base import Credential
from hpcgate.credentials.certificate_cache import CertificateSource
from hpcgate.credentials.certificates import contents
from hpcgate.credentials.local_ca import LocalCa, LocalCaSettings
from hpcgate.errors import CredentialRefused

CA = asyncssh.generate_private_key("ssh-ed25519")


def token(name: str, **claims: Any) -> Principal:
    return Principal("alice", name, {"jti": name, "iat": 1, "exp": 2, **claims})


async def test_a_token_without_a_project_does_not_get_the_certificate_of_one_with_it() -> None:
    ca = LocalCa(
        LocalCaSettings.model_validate(
            {"type": "LocalCA", "ca_key": CA.export_private_key("openssh").decode(), "principals_claim": "projects"}
        )
    )
    with_it, without = token("t1", projects=["csc1", "alice"]), token("t2", projects=["alice"])
    first = await ca.credential(with_it)
    assert await ca.credential(token("t3", projects=["alice", "csc1"])) is first, "the order of names makes none"
    second = await ca.credential(without)
    assert first.certificate is not None
    assert second.certificate is not None
    assert contents(first.certificate).principals == ("csc1", "alice")
    assert contents(second.certificate).principals == ("alice",)
    with pytest.raises(CredentialRefused):
        await ca.credential(token("t4"))
    with pytest.raises(CredentialRefused, match="more than 256"):
        await ca.credential(token("t5", projects=[f"p{number}" for number in range(257)]))
    await ca.close()


class Source(CertificateSource):
    service = "test"

    def __init__(self, *, judges: bool = True, names: bool = False) -> None:
        super().__init__()
        self.signed: list[str] = []
        self._judges = judges
        self._names = names

    @property
    def judges_tokens(self) -> bool:
        return self._judges

    def standing(self, principal: Principal) -> Hashable:
        return super().standing(principal) if self._names else ()

    async def sign(self, principal: Principal) -> Credential:
        self.signed.append(principal.token)
        return Credential(asyncssh.generate_private_key("ssh-ed25519"), expires_at=time.time() + 600)


@pytest.mark.parametrize(
    ("judges", "names", "count"), [(True, True, 3), (True, False, 3), (False, True, 2), (False, False, 1)]
)
async def test_what_had_a_say_in_a_credential_is_what_it_is_kept_by(judges: bool, names: bool, count: int) -> None:
    source = Source(judges=judges, names=names)
    tokens = [token("t1", groups=["a", "b"]), token("t2", groups=["b", "a"]), token("t3", groups=["a"])]
    for _ in range(2):
        for one in tokens:
            await source.credential(one)
    assert len(source.signed) == count


async def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpcgate.credentials.certificate_cache._MAX_KEPT", 3)
    source = Source()
    for number in range(5):
        await source.credential(token(f"t{number}"))
    assert len(source._kept) == 3
    await source.credential(token("t4"))
    assert len(source.signed) == 5
    await source.credential(token("t0"))
    assert len(source.signed) == 6


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"groups": ["a", "b"]}, {"groups": ["b", "a"]}, True),
        ({"scope": "x y"}, {"scope": "y x"}, True),
        ({"nonce": "2", "uti": "3"}, {"nonce": "5", "uti": "6"}, True),
        ({"realm_access": {"roles": ["r", "s"]}}, {"realm_access": {"roles": ["s", "r"]}}, True),
        ({"groups": ["a"]}, {"groups": ["a", "b"]}, False),
        ({"groups": ["a"]}, {"groups": "a"}, False),
        ({"scope": "x"}, {"scope": "x y"}, False),
        ({"azp": "client-1"}, {"azp": "client-2"}, False),
        ({"acr": "1"}, {"acr": "2"}, False),
        ({"sid": "1"}, {"sid": "4"}, False),
        ({"session_state": "1"}, {"session_state": "4"}, False),
        ({"auth_time": 3}, {"auth_time": 6}, False),
        ({"admin": True}, {"admin": 1}, False),
        ({"aud": ["a"]}, {}, False),
        ({"x": {"exp": 1}}, {"x": {"exp": 2}}, False),
    ],
)
def test_what_tokens_stand_for(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    assert (token("t1", **one).standing == token("t2", **other).standing) is same


def test_a_token_of_which_nothing_is_known_stands_for_itself() -> None:
    assert Principal("alice", "t1").standing != Principal("alice", "t2").standing
    assert Principal("alice", "t1").standing == Principal("alice", "t1", request_id="r").standing
