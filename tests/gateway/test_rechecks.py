"""Streams without an end last only as long as a new request by their token would be let in."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hpcgate.auth.principal import Principal
from hpcgate.errors import Forbidden, GatewayError, Unavailable
from hpcgate.gateway.rechecks import Rechecks
from hpcgate.gateway.streams import Stream, Streams
from hpcgate.telemetry.containment import FAULTS
from tests.auth.conftest import idp, logs, serve, settings
from tests.auth.test_introspection import OPAQUE, Make, Service, make, service

__all__ = ["idp", "logs", "make", "serve", "service", "settings"]


class Authorization:
    """Who may use a system: everybody, until it is told otherwise."""

    def __init__(self) -> None:
        self.error: GatewayError | None = None
        self.asked: list[tuple[str, str]] = []

    async def authorize(self, principal: Principal, system: str) -> None:
        self.asked.append((principal.username, system))
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        """Nothing is open."""


async def streaming(streams: Streams, principal: Principal | None, opened: list[Stream], **how: Any) -> str:
    with streams.hold("events", principal, "demo", **how) as stream:
        opened.append(stream)
        await stream.closing.wait()
        return stream.reason


def change(name: str, value: Any) -> Callable[[Service, Authorization], None]:
    def do(service: Service, authorization: Authorization) -> None:
        setattr(service if hasattr(service, name) else authorization, name, value)

    return do


ACTIVE = {"active": True, "preferred_username": "alice"}
CHANGES: dict[str, tuple[Callable[[Service, Authorization], None], bool]] = {
    # what happens, and whether the streams end
    "nothing": (lambda *_: None, False),
    "the token is revoked": (change("body", {"active": False}), True),
    "the token is somebody else's": (change("body", {**ACTIVE, "preferred_username": "bob"}), True),
    "its user is not served any more": (change("body", {**ACTIVE, "preferred_username": "root"}), True),
    "the identity provider is ill": (change("status", 500), False),
    "it talks nonsense": (change("body", b"nonsense"), False),
    "the user may not use the system any more": (change("error", Forbidden("no")), True),
    "nobody knows whether the user may": (change("error", Unavailable("ill")), False),
}


@pytest.mark.parametrize("kind", CHANGES)
async def test_a_stream_ends_once_its_token_would_be_refused(make: Make, service: Service, kind: str) -> None:
    happens, ends = CHANGES[kind]
    verifier = await make({"cache": 0}, public_certs=())
    authorization, streams, opened = Authorization(), Streams(9, 9), list[Stream]()
    principal = await verifier.principal(OPAQUE)
    rechecks = Rechecks(streams, verifier, authorization)
    running = [asyncio.create_task(streaming(streams, principal, opened, endless=True)) for _ in range(3)]
    running.append(asyncio.create_task(streaming(streams, principal, opened)))
    await asyncio.sleep(0)
    happens(service, authorization)
    before = len(service.requests)
    await rechecks.look()
    assert len(service.requests) <= before + 1, "one question for all streams of a token"
    await asyncio.sleep(0)
    # What has an end of its own goes on.
    assert [stream.reason for stream in opened] == ["revoked" if ends else ""] * 3 + [""]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert streams.ended["events", "revoked"] == (3 if ends else 0)


async def test_who_is_spared(make: Make, service: Service) -> None:
    """A token that expires soon, for its stream ends by itself; an API key, for which there is nobody to ask."""
    verifier = await make({"cache": 0}, public_certs=())
    principal = await verifier.principal(OPAQUE)
    service.body = {"active": False}
    spared = [
        replace(principal, token="soon", expires_at=time.time() + 50),
        replace(principal, token="key", api_key="nightly", expires_at=None),
        None,
    ]
    authorization, streams, opened = Authorization(), Streams(9, 9), list[Stream]()
    running = [asyncio.create_task(streaming(streams, one, opened, endless=True)) for one in spared]
    await asyncio.sleep(0)
    await Rechecks(streams, verifier, authorization, spared=60).look()
    assert [stream.reason for stream in opened] == ["", "", ""]
    # Whether they may use the system is asked of each.
    authorization.error = Forbidden("no")
    await Rechecks(streams, verifier, authorization, spared=60).look()
    assert [stream.reason for stream in opened] == ["revoked", "revoked", ""]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_a_fault_with_one_of_them_spares_no_other(make: Make, service: Service) -> None:
    """A revoked token's streams would have gone on for as long as another's could not be judged."""
    verifier = await make({"cache": 0}, public_certs=())
    authorization, streams, opened = Authorization(), Streams(9, 9), list[Stream]()
    principal = await verifier.principal(OPAQUE)
    users = [replace(principal, username=name, token=name, api_key="nightly") for name in ("alice", "mallory", "bob")]
    running = [asyncio.create_task(streaming(streams, one, opened, endless=True)) for one in users]
    await asyncio.sleep(0)

    async def authorize(asker: Principal, system: str) -> None:
        raise ValueError if asker.username == "mallory" else Forbidden("no")

    authorization.authorize = authorize  # type: ignore[method-assign, assignment]
    before = FAULTS.counts.get("gateway.rechecks", 0)
    await Rechecks(streams, verifier, authorization).look()
    assert [stream.reason for stream in opened] == ["revoked", "", "revoked"]
    assert FAULTS.counts["gateway.rechecks"] == before + 1
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_they_are_looked_at_again_and_again(make: Make, service: Service) -> None:
    verifier = await make({"cache": 0}, public_certs=())
    streams, opened = Streams(9, 9), list[Stream]()
    running = asyncio.create_task(streaming(streams, await verifier.principal(OPAQUE), opened, endless=True))
    looking = asyncio.create_task(Rechecks(streams, verifier, Authorization(), every=0.001).run())
    async with asyncio.timeout(600):
        while len(service.requests) < 4:
            await asyncio.sleep(0.001)
        service.body = {"active": False}
        assert await running == "revoked"
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
