"""What goes on by itself: tasks that a gateway or one of its systems owns, from when they are started to its end."""

import asyncio
from collections.abc import Awaitable, Callable

from hpcgate.auth.service_account import ServiceLogin
from hpcgate.telemetry.containment import kept

Job = Callable[[], Awaitable[None]]


class Background:
    """Keeps jobs running. One that fails is counted and logged under its name, and begins again after a pause.

    Those of a system go on over a reload that leaves the system as it is, for it is handed on to the next gateway;
    otherwise they end with it. Those of a gateway end when it rests.

    Attributes:
        account: Whom jobs of a system may log in as: its service account, if it has one, by the gateway that serves.
    """

    account: ServiceLogin | None = None

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<Background {', '.join(self.running) or 'nothing'}>"

    @property
    def running(self) -> list[str]:
        """The names of the jobs that run."""
        return sorted(name for name, task in self._tasks.items() if not task.done())

    def start(self, name: str, job: Job) -> None:
        """Have a job run until it returns or is stopped; nothing if one of this name runs, or all is closed.

        Args:
            name: What it is called in metrics and logs, such as ``health.prober``; systems share it.
            job: Runs it.
        """
        if self._closed or name in self.running:
            return
        self._tasks = {other: task for other, task in self._tasks.items() if not task.done()}
        self._tasks[name] = asyncio.create_task(kept(name.partition("/")[0], job))

    async def stop(self, name: str) -> None:
        """End a job, if it runs, and wait for its end."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def rest(self) -> None:
        """Have all end soon, and start none any more."""
        self._closed = True
        for task in self._tasks.values():
            task.cancel()

    async def close(self) -> None:
        """End all of them."""
        self.rest()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
