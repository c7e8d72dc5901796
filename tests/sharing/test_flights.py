"""What many ask for at a time is asked for once, and nobody's leaving harms the others."""

import asyncio

import pytest

from hpcgate.sharing.flights import Flights
from hpcgate.telemetry.containment import FAULTS


class Service:
    """Answers once it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def ask(self) -> int:
        self.asked += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return self.asked


async def test_those_who_ask_meanwhile_share_one_answer_and_those_after_do_not() -> None:
    flights: Flights[str, int] = Flights("test")
    service = Service()
    waiting = [asyncio.ensure_future(flights.share("a", service.ask)) for _ in range(5)]
    other = asyncio.ensure_future(flights.share("b", service.ask))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (service.asked, len(flights), "a" in flights) == (2, 2, True)
    service.go.set()
    assert set(await asyncio.gather(*waiting)) == {2}
    await other
    await asyncio.sleep(0)
    assert len(flights) == 0
    assert await flights.share("a", service.ask) == 3


async def test_who_leaves_leaves_the_asking_to_the_others() -> None:
    flights: Flights[str, int] = Flights("test")
    service = Service()
    first, second = (asyncio.ensure_future(flights.share("a", service.ask)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    service.go.set()
    assert await second == 1


async def test_what_is_joined_ends_with_the_last_who_waits() -> None:
    """Who comes after that begins anew, and has an answer."""
    flights = Flights[str, int]("tests.joined")
    go_on = asyncio.Event()
    begun = 0

    async def ask() -> int:
        nonlocal begun
        begun += 1
        await go_on.wait()
        return begun

    first, second = (asyncio.create_task(flights.join("a", ask)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert (begun, len(flights)) == (1, 1)
    second.cancel()
    await asyncio.wait([second])
    third = asyncio.create_task(flights.join("a", ask))
    await asyncio.sleep(0)
    assert (begun, len(flights)) == (1, 1)
    go_on.set()
    assert (await third).result() == 2
    await asyncio.sleep(0)
    assert len(flights) == 0
    assert not flights._joined


@pytest.mark.parametrize(("expected", "counted"), [((), 1), ((OSError,), 0)])
async def test_an_error_that_nobody_waits_for_is_a_fault_unless_it_is_expected(
    expected: tuple[type[Exception], ...], counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FAULTS, "counts", {})
    flights: Flights[str, int] = Flights("test", *expected)
    service = Service()
    service.error = OSError("no")
    flight = flights.start("a", service.ask)
    service.go.set()
    await asyncio.wait([flight])
    await asyncio.sleep(0)
    assert FAULTS.counts["test"] == counted


async def test_closing_ends_what_is_under_way() -> None:
    flights: Flights[str, int] = Flights("test")
    asking = asyncio.ensure_future(flights.share("a", Service().ask))
    await asyncio.sleep(0)
    await flights.close()
    await asyncio.wait([asking])
    assert asking.cancelled()


def test_what_one_event_loop_has_begun_is_not_waited_for_in_another() -> None:
    flights: Flights[str, int] = Flights("test")

    async def begin() -> None:
        flights.start("a", Service().ask)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())

    async def answer() -> int:
        return 7

    assert asyncio.run(flights.share("a", answer)) == 7
    loop.run_until_complete(flights.close())
    for task in asyncio.all_tasks(loop):
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
    loop.close()
