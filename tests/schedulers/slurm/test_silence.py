"""A silent database is asked by one request at a time, after a pause; and what only it knows in part is not shown."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from hpcgate.auth import Principal
from hpcgate.errors import GatewayError, JobNotFound, SchedulerUnavailable, TooLarge
from hpcgate.schedulers.base import JobQuery, Jobs
from hpcgate.schedulers.slurm import scontrol
from hpcgate.schedulers.slurm.doubts import Doubts
from hpcgate.schedulers.slurm.records import Record, Selection
from hpcgate.schedulers.slurm.scheduler import Slurm
from hpcgate.schedulers.slurm.settings import SlurmSettings
from hpcgate.schedulers.slurm.silence import LONGEST, PAUSE, WITNESS, Silence, Silences
from hpcgate.schedulers.slurm.sources import Sources
from tests.schedulers.slurm.test_history_cache import record

ALICE = Principal("alice", token="")
ALLOCATION = replace(record("7", "PENDING").job, name="allocation", partition="", nodes="None assigned")
PARTIAL = Record(ALLOCATION, "7")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _is_on(silence: Silence) -> bool:
    return silence.on


@pytest.mark.parametrize("needed", [False, True])
def test_one_asks_after_a_pause_that_grows_for_those_who_can_do_without(needed: bool) -> None:
    clock = Clock()
    silence = Silence(clock)
    assert not _is_on(silence)
    for pause in (PAUSE, 2 * PAUSE, 4 * PAUSE, LONGEST, LONGEST):
        silence.begin()
        assert _is_on(silence)
        clock.now += (PAUSE if needed else pause) - 0.1
        with silence.turn(needed=needed) as mine:
            assert not mine
        clock.now += 0.2
        with silence.turn(needed=needed) as mine, silence.turn(needed=needed) as other:
            assert (mine, other) == (True, False)
    silence.end()
    assert not silence.on


def test_a_turn_that_is_broken_off_is_the_next_ones() -> None:
    clock = Clock()
    silence = Silence(clock)
    silence.begin()
    clock.now += PAUSE
    with pytest.raises(asyncio.CancelledError), silence.turn(needed=False):
        raise asyncio.CancelledError
    with silence.turn(needed=False) as mine:
        assert mine


def test_what_one_user_finds_silent_is_silent_for_others_once_another_has() -> None:
    """The commands are the user's, and may be the user's own doing."""
    clock = Clock()
    silences = Silences(clock)
    for _ in range(3):
        silences.begin("mallory")
        clock.now += PAUSE
    assert silences.of("mallory").on
    assert not silences.of("alice").on
    silences.begin("alice")
    assert silences.of("bob").on
    assert silences.of("alice") is silences.of("bob") is silences.of("mallory")
    silences.end("bob")
    assert not silences.of("carol").on
    clock.now += WITNESS
    silences.begin("carol")
    assert not silences.of("bob").on


def test_doubt_of_one_is_not_that_of_all() -> None:
    clock = Clock()
    doubts = Doubts(30.0, clock)
    doubts.begin("mallory")
    doubts.begin("mallory")
    assert (doubts.hold("mallory"), doubts.hold("alice")) == (True, False)
    doubts.begin("alice")
    assert doubts.hold("bob")
    doubts.end("bob")
    assert (doubts.hold("bob"), doubts.hold("alice")) == (False, True)
    clock.now += 30.0
    assert not doubts.hold("alice")
    doubts.begin("bob")
    assert not doubts.hold("alice")


async def test_a_history_that_hangs_for_one_user_is_shown_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    made = slurm([], [record("8", "COMPLETED")], patience=0.01)
    forever = asyncio.Event()
    source = Source([], [record("8", "COMPLETED")])

    async def history(principal: Principal, selection: Selection) -> list[Record]:
        if principal.username == "mallory":
            await forever.wait()
        return await Source.history(source, principal, selection)

    monkeypatch.setattr(made._commands, "history", history)
    for _ in range(3):
        hanging = await made.jobs(Principal("mallory", token=""), JobQuery())
        assert hanging.missing == ("history",)
        listed = await made.jobs(ALICE, JobQuery())
        assert (listed.missing, [job.job_id for job in listed.jobs]) == ((), ["8"])


class Source:
    """Stands for the commands; each of its lists may be an error instead."""

    def __init__(self, live: list[Record] | GatewayError, history: list[Record] | GatewayError) -> None:
        self._live, self._history = live, history
        self.asked: list[int] = []

    async def live(self, principal: Principal, selection: Selection) -> list[Record]:
        return self._told(self._live, selection)

    async def history(self, principal: Principal, selection: Selection) -> list[Record]:
        return self._told(self._history, selection)

    async def exits(self, *_: object) -> dict[str, Any]:
        return {}

    def _told(self, what: list[Record] | GatewayError, selection: Selection) -> list[Record]:
        self.asked.append(len(selection.ids or ()))
        if isinstance(what, TooLarge) and len(selection.ids or ()) == 1:
            return [record(job_id.base, "RUNNING") for job_id in selection.ids or () if job_id.base != "9"]
        if isinstance(what, GatewayError):
            raise what
        return what


def slurm(live: list[Record] | GatewayError, history: list[Record] | GatewayError, *, patience: float = 3.0) -> Slurm:
    settings = SlurmSettings(type="slurm", version="22.05.8")
    made = Slurm("demo", settings, None)  # type: ignore[arg-type]
    made._commands = Source(live, history)  # type: ignore[assignment]
    made._sources = Sources("demo", made._commands, made._past, patience)
    return made


async def test_what_the_database_knows_in_part_is_not_shown_and_not_unknown() -> None:
    made = slurm([], [PARTIAL, record("8", "COMPLETED")])
    listed = await made.jobs(ALICE, JobQuery())
    assert [job.job_id for job in listed.jobs] == ["8"]
    assert listed.missing == ("history",)
    with pytest.raises(SchedulerUnavailable, match="a part of it"):
        await made.job(ALICE, "7")
    found = await made.several(ALICE, ("7", "8", "9"))
    assert isinstance(found["7"], SchedulerUnavailable)
    assert isinstance(found["9"], JobNotFound)


async def test_a_job_that_the_controller_knows_needs_no_database() -> None:
    (job,) = (await slurm([record("7", "RUNNING")], [PARTIAL]).job(ALICE, "7")).jobs
    assert (job.name, job.status.state) == ("job", "RUNNING")


async def test_several_jobs_that_are_too_much_at_once_are_asked_for_in_parts() -> None:
    made = slurm(TooLarge("squeue wrote more than 1 bytes"), [])
    ids = ("1", "2", "3", "9")
    found = await made.several(ALICE, ids)
    assert isinstance(found["9"], JobNotFound)
    for job_id in ids[:3]:
        answer = found[job_id]
        assert isinstance(answer, Jobs)
        assert [job.job_id for job in answer.jobs] == [job_id]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("AccountingStorageType   = accounting_storage/slurmdbd\n", True),
        ("AccountingStorageType   = accounting_storage/none\n", False),
        ("AccountingStorageType   = (null)\n", False),
        ("", True),
    ],
)
def test_whether_there_is_a_database(text: str, kept: bool) -> None:
    assert scontrol.parse_accounting(f"Configuration data\nAccountingStorageTRES = cpu\n{text}") is kept
