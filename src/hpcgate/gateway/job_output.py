"""The output of a job: which file it is, and how it is followed from before the job's start to its end."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from hpcgate.auth import Principal
from hpcgate.errors import BadRequest, JobNotFound, NotFound
from hpcgate.filesystem.following.follower import Degraded, Event, Follower, Start, Waiting
from hpcgate.gateway.job_end import JobEnd
from hpcgate.schedulers.base import Job, JobMetadata, Scheduler
from hpcgate.ssh.files.remote_path import RemotePath, encode_path

MAX_NAMED = 10
"""Most tasks that a message names."""


class JobStream(StrEnum):
    """Which of a job's output."""

    stdout = "stdout"
    stderr = "stderr"
    both = "both"

    @property
    def parts(self) -> tuple["JobStream", ...]:
        """The streams that it stands for."""
        return (JobStream.stdout, JobStream.stderr) if self is JobStream.both else (self,)


@dataclass(frozen=True, slots=True)
class Ended:
    """The job is over, and all of its output has been told."""

    job: Job
    known: bool


Change = tuple[JobStream, Event] | Ended | Waiting | Degraded
"""What becomes of the output: an event of one of the streams, or of the job."""


async def one_job(scheduler: Scheduler, principal: Principal, job_id: str) -> Job:
    """Return the job, array task or component that an id names.

    Raises:
        JobNotFound: There is none, or it is another user's.
        BadRequest: It names several with output of their own.
    """
    found = (await scheduler.job(principal, job_id)).jobs
    own = [job for job in found if job.user in (None, principal.username)]
    if not own:
        raise JobNotFound(job_id)
    if len(own) > 1 and any("+" not in job.job_id for job in own):
        names = ", ".join(job.job_id for job in own[:MAX_NAMED])
        raise BadRequest(f"Several tasks have this id, each with its output; name one: {names}, ...")
    # Of a heterogeneous job the first component runs the script, and its output is that of all.
    return own[0]


async def paths_of(
    scheduler: Scheduler, principal: Principal, job: Job, wanted: JobStream
) -> Mapping[JobStream, RemotePath]:
    """Return where the output of a job goes; standard error is left out where it goes to the same file.

    Raises:
        NotFound: It goes to no file, or the scheduler does not say.
    """
    found = await scheduler.metadata(principal, job.job_id)
    its = next((one for one in found if one.job_id == job.job_id), found[0] if found else JobMetadata(job.job_id))
    paths: dict[str, JobStream] = {}
    for part in wanted.parts:
        path = its.standard_output if part is JobStream.stdout else its.standard_error
        if path is None:
            raise NotFound(f"{part.value} of job {job.job_id} goes to no file, or the scheduler does not know to which")
        paths.setdefault(path, part)
    return {part: encode_path(path) for path, part in paths.items()}


Follow = Callable[[RemotePath, Start], AbstractAsyncContextManager[Follower]]
Places = Callable[[], Awaitable[Mapping[JobStream, RemotePath]]]


class JobOutput:
    """Follows the output of one job, as a context that holds the files.

    Args:
        end: Of the job.
        places: Finds where the output goes, once the job has started.
        follow: Follows a file.
        starts: Where to begin.
        until_end: Whether to go on until the job is over; else what is there is all.

    Attributes:
        followers: Those who follow the files, once the job has started.
        begun_at: Where each has begun.
    """

    def __init__(
        self, end: JobEnd, places: Places, follow: Follow, starts: Mapping[JobStream, Start], *, until_end: bool
    ) -> None:
        self.followers: dict[JobStream, Follower] = {}
        self.begun_at: dict[JobStream, int] = {}
        self._end = end
        self._places = places
        self._follow = follow
        self._starts = starts
        self._until_end = until_end
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Begin to follow the files, if the job has started.

        Raises:
            GatewayError: They cannot be followed.
        """
        try:
            if self._end.begun or not self._until_end:
                await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Follow them no longer."""
        await self._stack.aclose()

    async def changes(self) -> AsyncGenerator[Change]:
        """Yield what becomes of the output, to its end.

        Raises:
            GatewayError: It cannot be followed any more.
        """
        end = self._end
        if not self.followers:
            yield Waiting()
            while not end.begun:
                await end.change()
                if end.trouble is not None:
                    yield Degraded(end.trouble.message)
            await self._open()
        async with aclosing(self._merged()) as merged:
            async for change in merged:
                yield change
        if end.over:
            yield Ended(end.job, known=not end.lost)

    async def _open(self) -> None:
        for part, path in (await self._places()).items():
            follower = await self._stack.enter_async_context(self._follow(path, self._starts[part]))
            self.followers[part], self.begun_at[part] = follower, follower.offset

    async def _merged(self) -> AsyncGenerator[Change]:
        """Yield what becomes of the files, of each in its order, until all have been read to their end."""
        end = self._end
        events = {part: follower.events() for part, follower in self.followers.items()}
        coming: dict[asyncio.Future[Event | None], JobStream] = {}
        changed: asyncio.Future[None] | None = None
        ready = set(events)
        try:
            while ready or coming:
                coming |= {asyncio.ensure_future(_next(events[part])): part for part in ready}
                ready.clear()
                if end.over or not self._until_end:
                    for follower in self.followers.values():
                        follower.finish()
                elif changed is None:
                    changed = asyncio.ensure_future(end.change())
                waiting: set[asyncio.Future[Any]] = {*coming, *filter(None, (changed,))}
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if changed is not None and changed in done:
                    changed.result()
                    changed = None
                    if end.trouble is not None:
                        yield Degraded(end.trouble.message)
                for future in coming.keys() & done:
                    part, event = coming.pop(future), future.result()
                    if event is not None:
                        ready.add(part)
                        yield part, event
        finally:
            left: list[asyncio.Future[Any]] = [*coming, *filter(None, (changed,))]
            for future in left:
                future.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            for each in events.values():
                await each.aclose()


async def _next(events: AsyncGenerator[Event]) -> Event | None:
    return await anext(events, None)
