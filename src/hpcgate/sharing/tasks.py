"""Tasks that outlive the call that begins them, and who ends them."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hpcgate.telemetry.containment import FAULTS, contained, reaped

T = TypeVar("T")


class Tasks:
    """The tasks of one owner.

    Args:
        place: Where, for the metrics and the log, if one fails.
        expected: Errors that are no faults, besides the gateway's own: who waits for the task handles them.
    """

    __slots__ = ("_expected", "_place", "_running")

    def __init__(self, place: str, *expected: type[BaseException]) -> None:
        self._place = place
        self._expected = expected
        self._running: set[asyncio.Task[Any]] = set()
        FAULTS.register(place)

    def __repr__(self) -> str:
        return f"<Tasks {self._place} {len(self)} running>"

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run a coroutine in a task of its own."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._reap)
        return task

    def cancel(self) -> None:
        """Have all of them end soon."""
        for task in self._running:
            task.cancel()

    async def finish(self, patience: float | None = None) -> None:
        """Wait until all have ended, for so many seconds at most; those that begin meanwhile count as well."""
        deadline = None if patience is None else asyncio.get_running_loop().time() + patience
        while self._running:
            left = None if deadline is None else deadline - asyncio.get_running_loop().time()
            if left is not None and left <= 0:
                return
            await asyncio.wait(list(self._running), timeout=left)
            # A task is done a moment before its callback takes it out.
            self._running -= {task for task in self._running if task.done()}

    async def close(self) -> None:
        """End all of them, also those that begin meanwhile, and wait for their end."""
        while self._running:
            self.cancel()
            await asyncio.wait(list(self._running))
            self._running -= {task for task in self._running if task.done()}

    @contained("sharing.tasks")
    def _reap(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        reaped(task, self._place, *self._expected)
