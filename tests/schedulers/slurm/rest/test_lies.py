"""A slurmrestd that lies: whatever is asked, its answer costs a typed error of some hundred words, and no thread."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from hpcgate.api.job_bodies import listed
from hpcgate.auth import Principal
from hpcgate.errors import BadAnswer, Forbidden, GatewayError, SchedulerUnavailable, TimedOut
from hpcgate.schedulers.base import JobQuery
from hpcgate.schedulers.control import Action
from hpcgate.schedulers.slurm import Slurm
from hpcgate.schedulers.slurm.doubts import Doubts
from hpcgate.schedulers.slurm.rest import client
from hpcgate.schedulers.slurm.rest.problems import MAX_WORDS
from tests.schedulers.described import described

from .stand_in import StandIn, stand_in
from .test_client import slurm

TOKEN = "eyJhbGciOiJSUzI1NiJ9." + "A1b2C3d4" * 20 + ".signature-signature"
LAB = Principal("lab001", token=TOKEN)
JOB = described("/home/lab001", script="#!/bin/sh\ntrue\n")
LONG = "words " * 50_000 + TOKEN


def nested(levels: int) -> Any:
    return json.loads("[" * levels + "]" * levels)


LIES: Mapping[str, tuple[int, Any]] = MappingProxyType(
    {
        "a refusal of the token without end": (401, LONG),
        "a token in a text": (401, f"not {TOKEN}"),
        "a token in an error": (500, {"errors": [{"error_number": 2002, "error": f"not {TOKEN}"}]}),
        "a limit without end": (500, "Job violates accounting/QOS policy " * 10_000),
        "a controller that is down, without end": (500, "Unable to contact slurm controller " * 10_000),
        "words beside a job without end": (200, {"jobs": [], "status": [{"error": {"code": 9, "string": LONG}}]}),
        "controllers without end": (200, {"pings": [{"hostname": LONG, "status": LONG}]}),
        "errors without end": (500, {"errors": [{"error_number": n, "error": f"error {n}"} for n in range(2000)]}),
        "no path, and a deep answer": (404, nested(900)),
        "deep errors": (500, {"errors": nested(900)}),
        "numbers for names": (200, {name: [7] for name in ("jobs", "nodes", "partitions", "pings", "errors")}),
    }
)

ASKED: Mapping[str, Callable[[Slurm], Awaitable[Any]]] = MappingProxyType(
    {
        "jobs": lambda it: it.jobs(LAB, JobQuery()),
        "job": lambda it: it.job(LAB, "5"),
        "cancel": lambda it: it.cancel(LAB, "5"),
        "submit": lambda it: it.submit(LAB, JOB),
        "hold": lambda it: it.act(LAB, "5", Action.HOLD),
        "nodes": lambda it: it.nodes(LAB),
        "partitions": lambda it: it.partitions(LAB, show_hidden=True),
        "reservations": lambda it: it.reservations(LAB),
        "accounts": lambda it: it.accounts(LAB),
        "ping": lambda it: it.ping(LAB),
    }
)


def says_always(monkeypatch: pytest.MonkeyPatch, status: int, answer: Any) -> None:
    monkeypatch.setattr(StandIn, "_recorded", lambda *_: (status, answer))


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_is_an_error_of_some_hundred_words_without_the_token(
    lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    says_always(monkeypatch, *LIES[lie])
    async with stand_in(42) as server, slurm(42, server.url, timeout=60.0) as scheduler:
        refused = []
        for ask in ASKED.values():
            try:
                await ask(scheduler)
            except GatewayError as error:
                refused.append(error.message)
    assert refused
    assert max(map(len, refused)) <= MAX_WORDS + 100
    assert TOKEN[:40] not in "".join(refused)


async def test_what_no_parser_foresaw_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    says_always(monkeypatch, 200, {"nodes": []})

    def parse(*_: object) -> None:
        raise KeyError("state")

    async with stand_in(42) as server, slurm(42, server.url) as scheduler:
        it: client.RestClient = scheduler._commands.client  # type: ignore[attr-defined]
        with pytest.raises(BadAnswer, match="slurmrestd"):
            await it.controller(LAB, "GET", "nodes", parse)


async def test_half_a_character_costs_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON can carry half of a surrogate pair, which no answer can."""
    job = {"job_id": 5, "name": "half \ud800", "job_state": "RUNNING", "partition": "\udc00", "user_name": "lab001"}
    says_always(monkeypatch, 200, {"jobs": [job]})
    async with stand_in(42) as server, slurm(42, server.url) as scheduler:
        found = await scheduler.jobs(LAB, JobQuery())
    assert json.loads(listed(found.jobs))["jobs"][0]["name"] == "half \N{REPLACEMENT CHARACTER}"


async def test_a_large_answer_keeps_its_place_until_its_thread_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever's time is up leaves; the thread cannot be stopped, and nobody begins another in its place."""
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def parse(*_: object) -> None:
        begun.release()
        go_on.wait()

    says_always(monkeypatch, 200, {"jobs": ["x" * client.LARGE]})
    async with stand_in(42) as server, slurm(42, server.url, timeout=0.5) as scheduler:
        it: client.RestClient = scheduler._commands.client  # type: ignore[attr-defined]
        try:
            for _ in range(client.LARGE_AT_A_TIME + 2):
                with pytest.raises(TimedOut):
                    await it.ask(LAB, "GET", "slurm/v0.0.42/jobs", parse)
            started = 0
            while begun.acquire(blocking=False):
                started += 1
            assert started <= client.LARGE_AT_A_TIME
        finally:
            go_on.set()
            async with asyncio.timeout(60):
                while it._reading._value < client.LARGE_AT_A_TIME:
                    await asyncio.sleep(0.01)


async def test_what_slurmrestd_says_to_one_user_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has said so to another one as well, the controller is taken to be down for everybody."""
    # However slow the machine is, nobody has time to forget it, or to find out that it is not so.
    monkeypatch.setattr(client, "DIAGNOSIS", 600.0)
    monkeypatch.setattr(client, "DOUBT", 600.0)
    down = {"errors": [{"error_number": 1800, "error": "Unable to contact slurm controller"}]}
    carol, others = Principal("carol", token=TOKEN), Principal("lab002", token=TOKEN)
    async with stand_in(45) as server, slurm(45, server.url, timeout=60.0) as scheduler:
        server.say("GET", "/slurm/v0.0.45/nodes", 500, down)
        for _ in range(2):
            with pytest.raises(SchedulerUnavailable):
                await scheduler.nodes(LAB)
        server.received.clear()
        await scheduler.partitions(carol, show_hidden=True)
        assert [one.path.rpartition("/")[2] for one in server.received] == ["partitions"]
        for user in (LAB, others):
            with pytest.raises(SchedulerUnavailable):
                await scheduler.nodes(user)
        with pytest.raises(SchedulerUnavailable, match="slurmctld does not answer"):
            await scheduler.partitions(carol, show_hidden=True)


async def test_what_one_user_has_asked_of_the_controller_answers_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ping that is answered is the end of waiting, and a token that is refused keeps nobody else waiting."""
    monkeypatch.setattr(client, "DIAGNOSIS", 600.0)
    monkeypatch.setattr(client, "DOUBT", 600.0)
    down = {"errors": [{"error_number": 1800, "error": "Unable to contact slurm controller"}]}
    up = {"pings": [{"hostname": "c", "pinged": "UP"}], "errors": []}
    carol = Principal("carol", token=TOKEN)
    async with stand_in(45) as server, slurm(45, server.url, timeout=60.0) as scheduler:
        it: client.RestClient = scheduler._commands.client  # type: ignore[attr-defined]
        server.say("GET", "/slurm/v0.0.45/nodes", 500, down)
        server.say("GET", "/slurm/v0.0.45/ping", 200, up)
        with pytest.raises(SchedulerUnavailable):
            await scheduler.nodes(LAB)
        # carol is in doubt as well, and only she.
        it._doubts = Doubts(600.0)
        for _ in range(2):
            it._doubts.begin(carol.username)
            await scheduler.partitions(carol, show_hidden=True)
        assert sum(one.path.endswith("/ping") for one in server.received) == 2
        # Everybody is in doubt, and one has a token that is refused.
        it._pinged.forget(LAB.username)
        for user in (LAB, carol):
            it._doubts.begin(user.username)
        refused = {"errors": [{"error_number": 1007, "error": "Protocol authentication error"}]}
        server.say("GET", "/slurm/v0.0.45/ping", 500, refused)
        with pytest.raises(Forbidden):
            await scheduler.partitions(LAB, show_hidden=True)
        server.say("GET", "/slurm/v0.0.45/ping", 200, up)
        await scheduler.partitions(carol, show_hidden=True)


async def test_a_database_that_one_user_does_not_reach_is_asked_for_others() -> None:
    carol = Principal("lab002", token=TOKEN)
    async with stand_in(45) as server, slurm(45, server.url) as scheduler:
        server.say("GET", "/slurmdb/v0.0.45/job/5", 404, "Unable to find requested URL.")
        with pytest.raises(GatewayError):
            await scheduler.job(LAB, "5")
        server.received.clear()
        for user in (LAB, carol):
            await scheduler.jobs(user, JobQuery())
        asked = [one.headers["X-SLURM-USER-NAME"] for one in server.received if "/slurmdb/" in one.path]
        assert set(asked) == {"lab002"}
