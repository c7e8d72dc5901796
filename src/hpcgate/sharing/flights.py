"""What many ask for at a time is asked for once."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Any, Generic, TypeVar

from hpcgate.telemetry.containment import FAULTS, contained, reaped

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Flights(Generic[K, T]):
    """Asks once for all who want the same at the same time, and forgets the answer once it is there.

    Whoever is cancelled leaves the asking to the others; it goes on although nobody waits any more. All who wait get
    the same error object: who passes it on makes a copy.

    Args:
        place: Where, for the metrics and the log, if it fails while nobody waits.
        expected: Errors that are no faults, besides the gateway's own.
    """

    __slots__ = ("_expected", "_joined", "_place", "_under_way")

    def __init__(self, place: str, *expected: type[BaseException]) -> None:
        self._place = place
        self._expected = expected
        self._under_way: dict[K, asyncio.Future[T]] = {}
        self._joined: dict[asyncio.Future[T], int] = {}
        FAULTS.register(place)

    def __repr__(self) -> str:
        return f"<Flights {self._place} {len(self)} under way>"

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, key: K) -> bool:
        return key in self._under_way

    def start(self, key: K, ask: Callable[[], Awaitable[T]]) -> "asyncio.Future[T]":
        """Return the asking under way, begun now if there is none; it is not to be cancelled by who waits for it."""
        flight = self._under_way.get(key)
        # What is of the whole process may be asked by one event loop after the other.
        if flight is None or flight.get_loop() is not asyncio.get_running_loop():
            flight = self._under_way[key] = asyncio.ensure_future(ask())
            flight.add_done_callback(partial(self._landed, key))
        return flight

    async def share(self, key: K, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer, asked for now unless somebody has."""
        return await asyncio.shield(self.start(key, ask))

    async def join(self, key: K, ask: Callable[[], Awaitable[T]]) -> "asyncio.Future[T]":
        """Wait until the answer is there, and return the asking. It ends when all have left who wait for it.

        For what anybody can have asked for, and go: else there would be no end of what is under way.
        """
        flight = self.start(key, ask)
        self._joined[flight] = self._joined.get(flight, 0) + 1
        try:
            await asyncio.wait((flight,))
        finally:
            self._joined[flight] -= 1
            if not self._joined[flight]:
                del self._joined[flight]
                if not flight.done():
                    # Who comes next begins anew.
                    if self._under_way.get(key) is flight:
                        del self._under_way[key]
                    flight.cancel()
        return flight

    async def close(self) -> None:
        """End what is under way, and wait for its end."""
        flights = list(self._under_way.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    @contained("sharing.flights")
    def _landed(self, key: K, flight: "asyncio.Future[Any]") -> None:
        if self._under_way.get(key) is flight:
            del self._under_way[key]
        reaped(flight, self._place, *self._expected)
