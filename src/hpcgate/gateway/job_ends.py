"""Jobs whose end somebody waits for: each is asked for once for all of a user who do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hpcgate.auth import Principal
from hpcgate.errors import GatewayError, JobNotFound
from hpcgate.schedulers.base import Job, Scheduler
from hpcgate.sharing.tasks import Tasks

FASTEST = 1.0
"""Seconds until the scheduler is asked again at first."""
SLOWEST = 10.0
SLOWER = 1.5
"""Each time the pause is so many times longer, up to the slowest."""
MAX_LOST = 3
"""So many times in a row must a job that was known be unknown to be taken for one that is over."""


class JobEnd:
    """What is known of a job on its way to its end.

    Attributes:
        job: As it was read last.
        trouble: Why it could not be read last.
        lost: Whether the scheduler does not know it any more: it is over, and nobody says how.
        waiting: How many wait for its end.
        task: Asks for it.
    """

    def __init__(self, principal: Principal, job: Job) -> None:
        self.principal = principal
        self.job = job
        self.trouble: GatewayError | None = None
        self.lost = False
        self.waiting = 0
        self.task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<JobEnd {self.job.job_id} {self.job.status.state}{', over' if self.over else ''}>"

    @property
    def over(self) -> bool:
        """Whether the job is over."""
        return self.lost or self.job.time.end is not None

    @property
    def begun(self) -> bool:
        """Whether the job has started, or never will."""
        return self.over or self.job.time.start is not None

    async def change(self) -> None:
        """Return once the job has been read again and is another one than before."""
        await self._changed.wait()

    def tell(self) -> None:
        """Wake those that wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def run(self, scheduler: Scheduler) -> None:
        """Ask for the job, less and less often, until it is over."""
        pause, lost = FASTEST, 0
        while not self.over:
            await asyncio.sleep(pause)
            pause = min(pause * SLOWER, SLOWEST)
            before = self.job.status, self.job.time, self.trouble is None
            try:
                found = (await scheduler.job(self.principal, self.job.job_id)).jobs
                # A plug-in may tell of others besides: whoever waits would wait for ever behind an error here.
                alone = found[0] if len(found) == 1 else self.job
                self.job = next((job for job in found if job.job_id == self.job.job_id), alone)
                self.trouble, lost = None, 0
            except JobNotFound:
                lost += 1
                self.lost = lost >= MAX_LOST
            except GatewayError as error:
                self.trouble = error
            if self.over or before != (self.job.status, self.job.time, self.trouble is None):
                self.tell()


class JobEnds:
    """The jobs of one system whose ends are waited for.

    Args:
        scheduler: The system's.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._ends: dict[tuple[str, str, str], JobEnd] = {}
        self._tasks = Tasks("gateway.job_ends")

    def __repr__(self) -> str:
        return f"<JobEnds {len(self)}>"

    def __len__(self) -> int:
        return len(self._ends)

    @asynccontextmanager
    async def of(self, principal: Principal, job: Job) -> AsyncIterator[JobEnd]:
        """Wait for the end of a job for as long as the context lasts.

        Args:
            principal: Who waits.
            job: As it has just been read.
        """
        key = principal.username, principal.standing, job.job_id
        end = self._ends.get(key)
        if end is None or end.over:
            end = self._ends[key] = JobEnd(principal, job)
            end.task = self._tasks.spawn(end.run(self._scheduler))
        # The token that came last holds longest, as a rule.
        end.principal = principal
        end.waiting += 1
        try:
            yield end
        finally:
            end.waiting -= 1
            if not end.waiting:
                if self._ends.get(key) is end:
                    del self._ends[key]
                if end.task is not None:
                    end.task.cancel()

    async def close(self) -> None:
        """Wait for nothing any more."""
        await self._tasks.close()
