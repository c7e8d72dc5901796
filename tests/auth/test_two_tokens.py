"""What two tokens of one user do not share: each cache that docs/security.md says keeps them apart is tried here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import asyncssh
import pytest
from aiohttp import web

from hpcgate.api.job_bodies import Encodings, listed
from hpcgate.auth import Jwks, OpenFga, Principal, TokenVerifier
from hpcgate.config import OidcSettings, OpenFgaSettings, SshSettings
from hpcgate.credentials.base import Credential
from hpcgate.credentials.certificate_cache import CertificateSource
from hpcgate.errors import CredentialRefused, Forbidden, GatewayError, Unauthenticated
from hpcgate.schedulers.base import JobQuery, Jobs
from hpcgate.schedulers.reads import SharedReads
from hpcgate.schedulers.slurm.history_cache import HistoryCache, who
from hpcgate.schedulers.slurm.records import Selection
from hpcgate.ssh.pool import Pool
from tests.auth.idp import MAX_TOKEN
from tests.schedulers.test_reads import Backend, a_job

from .conftest import Serve
from .idp import claims, token

Claims = Mapping[str, Any]
KEY = asyncssh.generate_private_key("ssh-ed25519")


@dataclass(frozen=True, slots=True)
class Site:
    """What the caches are tried with."""

    serve: Serve
    settings: Callable[..., OidcSettings]
    stack: AsyncExitStack


@pytest.fixture
async def site(serve: Serve, settings: Callable[..., OidcSettings]) -> Any:
    async with AsyncExitStack() as stack:
        yield Site(serve, settings, stack)


DIFFERENCES: Mapping[str, tuple[Claims, Claims]] = MappingProxyType(
    {
        "scope": ({"scope": "openid profile"}, {"scope": "openid profile admin"}),
        "no scope": ({"scope": "openid"}, {}),
        "scp": ({"scp": ["read"]}, {"scp": ["read", "write"]}),
        "acr": ({"acr": "mfa"}, {"acr": "pwd"}),
        "amr": ({"amr": ["pwd", "otp"]}, {"amr": ["pwd"]}),
        "azp": ({"azp": "portal"}, {"azp": "notebook"}),
        "client_id": ({"client_id": "portal"}, {"client_id": "notebook"}),
        "sid": ({"sid": "s-1"}, {"sid": "s-2"}),
        "session_state": ({"session_state": "s-1"}, {"session_state": "s-2"}),
        "auth_time": ({"auth_time": 1}, {"auth_time": 2}),
        "groups": ({"groups": ["a", "b"]}, {"groups": ["a"]}),
        "roles": ({"realm_access": {"roles": ["r", "s"]}}, {"realm_access": {"roles": ["r"]}}),
        "entitlements": ({"eduperson_entitlement": ["x"]}, {"eduperson_entitlement": []}),
        "issuer": ({"iss": "https://one.example.org"}, {"iss": "https://two.example.org"}),
        "audience": ({"aud": ["hpcgate", "other"]}, {"aud": ["hpcgate"]}),
        "actor": ({"act": {"sub": "portal"}}, {}),
        "confirmation": ({"cnf": {"jkt": "x"}}, {"cnf": {"jkt": "y"}}),
        "subject": ({"sub": "1"}, {"sub": "2"}),
        "a claim of the site's": ({"project": "csc1"}, {"project": "csc2"}),
    }
)
"""What may differ between two tokens of one user."""


def principals(one: Claims, other: Claims) -> tuple[Principal, Principal]:
    now = int(time.time())
    return (
        Principal("alice", "token-1", {**one, "jti": "1", "iat": now}),
        Principal("alice", "token-2", {**other, "jti": "2", "iat": now}),
    )


async def verified(site: Site, one: Claims, other: Claims) -> None:
    """Each token has its own claims, the first time and from memory; of the second nothing is known by the first."""
    settings = site.settings()
    it = TokenVerifier(settings, await site.stack.enter_async_context(Jwks(settings)), MAX_TOKEN)
    site.stack.push_async_callback(it.close)
    first, second = (token(payload=claims(**said)) for said in (one, other))
    assert (await it.principal(first)).claims.items() >= one.items()
    assert it.remembered(second) is None
    assert it.caller(second) is None
    assert (await it.principal(second)).claims.items() >= other.items()
    for text, said in ((first, one), (second, other)):
        remembered = it.remembered(text)
        assert remembered is not None
        assert {name: remembered.claims.get(name) for name in {*one, *other}} == {
            name: claims(**said).get(name) for name in {*one, *other}
        }


async def introspected(site: Site, one: Claims, other: Claims) -> None:
    """Opaque tokens asked about at the same time and again later have each its own claims, or are not active."""
    said = {"opaque-one": one, "opaque-two": other}
    ended = "opaque-three"

    async def answer(request: web.Request) -> web.StreamResponse:
        text = str((await request.post())["token"])
        await asyncio.sleep(0.01)
        return web.json_response({**claims(), **said.get(text, one), "active": text != ended})

    url = str((await site.serve(answer)).make_url("/introspect"))
    settings = site.settings(
        public_certs=(), introspection={"url": url, "client_id": "c", "client_secret": "s", "cache": 60}
    )
    it = TokenVerifier(settings, await site.stack.enter_async_context(Jwks(settings)), MAX_TOKEN)
    site.stack.push_async_callback(it.close)
    for _ in range(2):
        refused, *found = await asyncio.gather(*map(it.principal, (ended, *said)), return_exceptions=True)
        assert isinstance(refused, Unauthenticated)
        for principal, expected in zip(found, said.values(), strict=True):
            assert isinstance(principal, Principal)
            assert {name: principal.claims.get(name) for name in {*one, *other}} == {
                name: claims(**expected).get(name) for name in {*one, *other}
            }


async def decided(site: Site, one: Claims, other: Claims) -> None:
    """OpenFGA's yes to one token is not a yes to the other."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.01)
        return web.json_response({"allowed": request.headers["Authorization"] == "Bearer token-1"})

    url = str((await site.serve(answer)).make_url("/check"))
    it = OpenFga(OpenFgaSettings(url=url, cache=60))
    site.stack.push_async_callback(it.close)
    for _ in range(2):
        yes, no = await asyncio.gather(
            *(it.authorize(principal, "daint") for principal in principals(one, other)), return_exceptions=True
        )
        assert yes is None
        assert isinstance(no, Forbidden)


class Signer(CertificateSource):
    """Gives a credential for each token that it sees, and none for those in `refuses`."""

    service = "signer"

    def __init__(self, *refuses: str) -> None:
        super().__init__()
        self.refuses = refuses
        self.given: dict[str, Credential] = {}

    async def sign(self, principal: Principal) -> Credential:
        await asyncio.sleep(0.01)
        if principal.token in self.refuses:
            raise CredentialRefused("no")
        return self.given.setdefault(principal.token, Credential(KEY, None, time.time() + 600))


async def certified(site: Site, one: Claims, other: Claims) -> None:
    """A credential that was signed for one token is not the other's, nor is a refusal."""
    it = Signer()
    for _ in range(2):
        first, second = await asyncio.gather(*map(it.credential, principals(one, other)))
        assert first is it.given["token-1"]
        assert second is it.given["token-2"]
    it = Signer("token-1")
    no, yes = await asyncio.gather(*map(it.credential, principals(one, other)), return_exceptions=True)
    assert isinstance(no, CredentialRefused)
    assert isinstance(yes, Credential)


async def connected(site: Site, one: Claims, other: Claims) -> None:
    """Connections are found, and refused logins remembered, by what shapes the credential; tests/ssh has real ones."""
    pool = Pool("demo", SshSettings(host="127.0.0.1", port=9, failed_login_pause=60), Signer("token-1"))
    site.stack.push_async_callback(pool.close)
    first, second = principals(one, other)
    assert pool.key(first) != pool.key(second)
    assert pool.key(first) == pool.key(replace(first, token="token-3", claims={**first.claims, "jti": "3"}))
    for _ in range(2):
        with pytest.raises(CredentialRefused):
            async with pool.lease(first):
                pass
    with pytest.raises(GatewayError) as caught:
        async with pool.lease(second):
            pass
    assert not isinstance(caught.value, CredentialRefused)


class Telling(Backend):
    """Answers with the token that asked."""

    async def jobs(self, principal: Principal, query: JobQuery) -> Jobs:
        await self._query("jobs", query)
        return Jobs((a_job(principal.token),))

    async def several(self, principal: Principal, job_ids: tuple[str, ...]) -> Mapping[str, Jobs | GatewayError]:
        await self._query("several", job_ids)
        return {job_id: Jobs((a_job(principal.token),)) for job_id in job_ids}


async def read(site: Site, one: Claims, other: Claims) -> None:
    """Reads under way and kept ones, of lists and of single jobs that are gathered, answer the token that asked."""
    reads, encodings = SharedReads(Telling(), read_cache=60), Encodings(1024 * 1024, listed)
    site.stack.push_async_callback(reads.close)
    asking = principals(one, other)
    for _ in range(2):
        for ask in (
            lambda principal: reads.jobs(principal, JobQuery()),
            lambda principal: reads.job(principal, "7"),
        ):
            found = await asyncio.gather(*map(ask, asking))
            assert [jobs.jobs[0].job_id for jobs in found] == ["token-1", "token-2"]
            bodies = [await encodings.of(jobs.jobs) for jobs in found]
            assert b"token-1" in bodies[0]
            assert b"token-2" in bodies[1]


async def past(site: Site, one: Claims, other: Claims) -> None:
    """What sacct has said to one is not said to the other."""
    first, second = map(who, principals(one, other))
    it = HistoryCache(60)
    it.put(first, Selection(), [], [])
    assert it.known(first, Selection())
    assert not it.known(second, Selection())
    assert it.get(second, Selection(), []) is None
    it.forget("alice")
    assert not it.known(first, Selection())


CACHES: Mapping[tuple[str, ...], Callable[[Site, Claims, Claims], Awaitable[None]]] = MappingProxyType(
    {
        ("auth/tokens.py:TokenVerifier._verified", "auth/tokens.py:TokenVerifier._asked"): verified,
        (
            "auth/introspection.py:Introspection._answers",
            "auth/introspection.py:Introspection._refused",
            "auth/introspection.py:Introspection._asking",
        ): introspected,
        ("auth/openfga.py:OpenFga._decided", "auth/openfga.py:OpenFga._asking"): decided,
        (
            "credentials/certificate_cache.py:CertificateSource._kept",
            "credentials/certificate_cache.py:CertificateSource._asking",
        ): certified,
        ("ssh/places.py:Places.current", "ssh/brake.py:Refusals._known"): connected,
        (
            "schedulers/reads.py:SharedReads._users",
            "schedulers/reads.py:_Generation.flights",
            "schedulers/reads.py:_Generation.gathering",
            "schedulers/reads.py:_Generation.leaving",
            "api/job_bodies.py:Encodings._kept",
        ): read,
        ("schedulers/slurm/history_cache.py:HistoryCache._kept",): past,
    }
)
"""How each cache is tried; the names are those of the table in docs/security.md."""


@pytest.mark.parametrize("difference", DIFFERENCES)
@pytest.mark.parametrize("cache", CACHES.values(), ids=lambda cache: cache.__name__)
async def test_what_differs_is_not_shared(
    site: Site, cache: Callable[[Site, Claims, Claims], Awaitable[None]], difference: str
) -> None:
    await cache(site, *DIFFERENCES[difference])


@pytest.mark.parametrize(
    ("needed", "difference"),
    [
        ({"required_scopes": ["admin"]}, "scope"),
        ({"required_claims": {"acr": ["pwd"]}}, "acr"),
        ({"required_claims": {"azp": ["notebook"]}}, "azp"),
        ({"issuer": "https://two.example.org"}, "issuer"),
        ({"audience": "other"}, "audience"),
    ],
)
async def test_a_token_is_judged_by_what_it_says_itself(site: Site, needed: dict[str, Any], difference: str) -> None:
    """However often the user's other token was accepted."""
    settings = site.settings(**needed)
    it = TokenVerifier(settings, await site.stack.enter_async_context(Jwks(settings)), MAX_TOKEN)
    site.stack.push_async_callback(it.close)
    outcomes: list[Hashable] = []
    for _ in range(2):
        for said in DIFFERENCES[difference]:
            try:
                await it.principal(token(payload=claims(**said)))
            except (Forbidden, Unauthenticated):
                outcomes.append(False)
            else:
                outcomes.append(True)
    assert outcomes in ([True, False] * 2, [False, True] * 2)
