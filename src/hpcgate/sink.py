"""What clients still send after they were refused: it is read past, so that they come to read the answer."""

import asyncio
from collections import deque
from typing import Protocol

from hpcgate.telemetry.containment import contained

PAUSE = 0.1
"""Seconds between two turns."""
TURN = 8 * 1024 * 1024
"""Bytes that are read in a turn of all of them: reading 80 MiB a second takes a few hundredths of a core."""

_SINK = contained("http.sink")


class Sending(Protocol):
    """A connection that is not read from for now, and is closed after a while."""

    def is_over(self) -> bool:
        """Say whether it has ended meanwhile."""

    def go_on(self, portion: int) -> None:
        """Read so many bytes."""


class Sink:
    """Gives turns to those who send without end, so that all of them together take little of the event loop.

    Args:
        least: Bytes that one reads in its turn; those who are alone read more.
    """

    def __init__(self, least: int) -> None:
        self._at_a_time = max(1, TURN // least)
        self._waiting: deque[Sending] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sending: Sending) -> None:
        """Have a connection wait for its turn."""
        self._waiting.append(sending)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE, self._look)

    @contained("http.sink")
    def _look(self) -> None:
        # The timer first: whatever happens below, it goes on for the others.
        self._timer = asyncio.get_running_loop().call_later(PAUSE, self._look) if self._waiting else None
        turn: list[Sending] = []
        while self._waiting and len(turn) < self._at_a_time:
            sending = self._waiting.popleft()
            if not sending.is_over():
                turn.append(sending)
        for sending in turn:
            with _SINK:
                sending.go_on(TURN // len(turn))
