"""What is known of a job whose end somebody waits for, as it is watched (`hpcgate.gateway.watching`)."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from hpcgate.auth import Principal
from hpcgate.errors import GatewayError, JobNotFound
from hpcgate.gateway.watching import Watcher, Watching
from hpcgate.schedulers.base import Job, Scheduler
from hpcgate.schedulers.snapshot import Seen

FASTEST = 1.0
"""Seconds until a job of which no watching tells is read again, at first: the controller may have forgotten it."""
SLOWEST = 30.0
SLOWER = 1.5
"""Each time the pause is so many times longer, up to the slowest."""
MAX_LOST = 3
"""So many times in a row must a job that was known be unknown to be taken for one that is over."""


class JobEnd:
    """A job on its way to its end, as a context. Once somebody waits for a change it is watched, and read after each.

    Args:
        scheduler: Tells of the job.
        watching: Tells that something may have become of it.
        principal: Who waits.
        job: As it has just been read.

    Attributes:
        job: As it was read last.
        lost: Whether the scheduler does not know it any more: it is over, and nobody says how.
    """

    def __init__(self, scheduler: Scheduler, watching: Watching, principal: Principal, job: Job) -> None:
        self.job = job
        self.lost = False
        self._scheduler = scheduler
        self._watching = watching
        self._principal = principal
        self._watcher: Watcher | None = None
        self._stack = ExitStack()
        self._trouble: GatewayError | None = None
        self._marks: object = None
        self._missed = 0
        self._pause = FASTEST
        self._read_at = 0.0

    def __repr__(self) -> str:
        return f"<JobEnd {self.job.job_id} {self.job.status.state}{', over' if self.over else ''}>"

    def __enter__(self) -> Self:
        """Return it; nothing is asked yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Watch the job no longer."""
        self._stack.close()

    @property
    def over(self) -> bool:
        """Whether the job is over."""
        return self.lost or self.job.time.end is not None

    @property
    def begun(self) -> bool:
        """Whether the job has started, or never will."""
        return self.over or self.job.time.start is not None

    @property
    def trouble(self) -> GatewayError | None:
        """Why it cannot be told now what becomes of the job."""
        return self._trouble or (None if self._watcher is None else self._watcher.trouble)

    async def change(self) -> None:
        """Return once the job is another one than it was, cannot be read, or can again; at once if it is over."""
        if self._watcher is None:
            self._watcher = self._stack.enter_context(self._watching.watch(self._principal))
        before = self._state()
        while not self.over and self._state() == before:
            if self._is_due(self._watcher):
                await self._read()
            else:
                await self._wait(self._watcher)

    def _state(self) -> object:
        return _told(self.job), self.trouble is None

    def _seen(self, watcher: Watcher) -> list[Seen]:
        return watcher.named((self.job.job_id,), self._scheduler.names)

    def _is_due(self, watcher: Watcher) -> bool:
        """Return whether the job is to be read now."""
        seen = self._seen(watcher)
        marks = tuple(one.mark for one in seen)
        if watcher.ready and marks != self._marks:
            first, self._marks = self._marks is None, marks
            # What was read just before is not read again.
            return not (first and any(_told(one.job) == _told(self.job) for one in seen))
        return self._is_blind(watcher, seen) and asyncio.get_running_loop().time() >= self._read_at

    def _is_blind(self, watcher: Watcher, seen: Sequence[Seen]) -> bool:
        """Return whether no change of the job wakes anybody, or one has and it was read as it had been before."""
        if self.trouble is not None or not watcher.ready:
            return self.trouble is not None
        # It is read by all who wait together: what it is then may be older than what woke one of them.
        ended = all(one.job.time.end is not None for one in seen)
        started = all(one.job.time.start is not None for one in seen)
        return ended or (started and not self.begun)

    async def _wait(self, watcher: Watcher) -> None:
        """Wait until something may have changed."""
        blind = self._is_blind(watcher, self._seen(watcher))
        try:
            async with asyncio.timeout_at(self._read_at if blind else None):
                await watcher.changed()
        except TimeoutError:
            return

    async def _read(self) -> None:
        try:
            found = (await self._scheduler.job(self._principal, self.job.job_id)).jobs
        except JobNotFound:
            self._missed += 1
            self.lost = self._missed >= MAX_LOST
        except GatewayError as error:
            self._trouble = error
        else:
            # A plug-in may tell of others besides: whoever waits would wait for ever behind an error here.
            alone = found[0] if len(found) == 1 else self.job
            self.job = next((job for job in found if job.job_id == self.job.job_id), alone)
            self._trouble, self._missed = None, 0
        self._read_at = asyncio.get_running_loop().time() + self._pause
        self._pause = min(self._pause * SLOWER, SLOWEST)


def _told(job: Job) -> object:
    """Return what differs once something has happened to a job."""
    return job.status, job.time.start, job.time.end
