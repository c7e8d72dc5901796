"""Clients that break the rules do nothing to others, and leave nothing behind."""

import asyncio
from collections.abc import Iterator
from typing import get_args

import httpx
import pytest

from hpcgate.demo.cluster import Cluster
from tests.faults.fuzz import MEMORY, PATIENCE, Moment, Scene, cuts, scene, script

SEED = 12
SCRIPTS = 400
THOUSAND = 1000


@pytest.fixture(scope="module")
def tried(cluster: Cluster) -> Iterator[Scene]:
    with scene(cluster) as running:
        yield running


def test_what_a_connection_does_follows_from_the_seed_and_its_number(tried: Scene) -> None:
    site = tried.fuzz(SEED).site
    assert script(site, SEED, 3) == script(site, SEED, 3)
    assert len({str(script(site, SEED, number)) for number in range(50)}) == 50
    assert len(list(cuts(site))) > 1000


def test_whoever_breaks_the_rules_has_an_answer(tried: Scene) -> None:
    """The requests are cut at every byte, too."""
    found = asyncio.run(tried.fuzz(SEED).round(0, SCRIPTS, cut=True, full=False))
    assert found.wrong == []
    assert found.orderly > 0
    # Which others there are depends on how fast things go.
    assert {200, 204, 400, 401} <= found.answers.keys()
    assert tried.faults() == []


def test_nothing_of_it_stays_or_reaches_others_while_admission_is_full(tried: Scene) -> None:
    fuzz = tried.fuzz(SEED)
    # What is learned and loaded once.
    asyncio.run(fuzz.round(SCRIPTS, SCRIPTS // 4))
    before = tried.rest()
    found = asyncio.run(fuzz.round(2 * SCRIPTS, SCRIPTS))
    after = tried.rest(before)
    assert found.wrong == []
    assert found.orderly > found.late
    assert after.memory < before.memory + MEMORY
    assert tried.faults() == []


@pytest.mark.parametrize("moment", get_args(Moment))
def test_a_thousand_strangers_who_leave_end_nothing(tried: Scene, moment: Moment) -> None:
    fuzz = tried.fuzz(SEED)
    assert asyncio.run(fuzz.orderly()) == 200
    before = tried.rest()
    asyncio.run(fuzz.storm(THOUSAND, moment))
    assert httpx.get(f"{tried.gateway.url}/status/liveness", timeout=PATIENCE).status_code == 200
    assert asyncio.run(fuzz.orderly()) == 200
    tried.rest(before)
    assert tried.faults() == []
