"""``?wait=``: a request that is answered when something has become of its jobs, or when its time is up."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field

from hpcgate.api.access import Access
from hpcgate.auth import Principal
from hpcgate.errors import GatewayError, JobNotFound, Unauthenticated
from hpcgate.gateway.watching import Watcher
from hpcgate.schedulers.base import Jobs, Scheduler
from hpcgate.schedulers.snapshot import Mark

AGAIN = 30.0
"""Seconds after which jobs are looked at again of which no watching tells: another user's, or long over."""


class Wait(StrEnum):
    """What is waited for."""

    ENDED = "ended"
    STARTED = "started"
    CHANGED = "changed"


class WaitParameters(BaseModel):
    """Whether to wait."""

    wait: Wait | None = Field(
        None,
        description="Answer when the job has ended, has started (or ended), or its state or reason is another than "
        "when the request came; of several jobs all have to, and for `changed` one. When the time is up the answer is "
        "what holds then.",
    )
    timeout: float = Field(
        60, ge=0, allow_inf_nan=False, description="With wait: most seconds to wait; the system may have a lower bound."
    )


Answers = Mapping[str, Jobs | GatewayError]


async def wait_for(access: Access, job_ids: Sequence[str], asked: WaitParameters) -> None:
    """Return when what a request waits for has happened, its time is up, or the gateway is about to stop.

    Raises:
        RateLimited, Unavailable: As `Streams.hold`.
        Unauthenticated: The token has expired meanwhile, or is not accepted any more.
    """
    watching, scheduler = access.system.watching, access.system.scheduler
    loop = asyncio.get_running_loop()
    end = loop.time() + min(asked.timeout, watching.settings.max_wait)
    ids = tuple(job_ids)
    with access.stream("wait", endless=True) as stream, watching.watch(access.principal) as watcher:
        before: Answers | None = None
        seen: object = None
        look_at = loop.time()
        while not stream.reason and loop.time() < end:
            marks = _marks(access, watcher, ids)
            if before is None or marks != seen or loop.time() >= look_at:
                found = await _look(scheduler, access.principal, ids, first=before is None)
                before = found if before is None else before
                if is_over(asked.wait, before, found):
                    return
                look_at = loop.time() + AGAIN
            seen = marks
            patience = end if marks else min(end, look_at)
            await _first_of(watcher.changed(), stream.closing.wait(), timeout=patience - loop.time())
        if stream.reason in ("expired", "revoked"):
            raise Unauthenticated(
                f"Token {stream.reason}", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}
            )


async def _first_of(*awaited: Coroutine[Any, Any, Any], timeout: float) -> None:
    """Return when the first of them is done, or the seconds are over; the others are ended."""
    waiting = [asyncio.ensure_future(one) for one in awaited]
    try:
        done, _ = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()
    finally:
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _marks(access: Access, watcher: Watcher, ids: tuple[str, ...]) -> tuple[Mark, ...]:
    """Return what differs once something has happened to one of the jobs; nothing if they are not watched."""
    return tuple(seen.mark for seen in watcher.named(ids, access.system.scheduler.names))


async def _look(scheduler: Scheduler, principal: Principal, ids: tuple[str, ...], *, first: bool) -> Answers:
    """Return the jobs; if the scheduler cannot be asked, that is an answer to those who have begun to wait."""
    try:
        return await scheduler.several(principal, ids)
    except GatewayError as error:
        if first:
            raise
        return dict.fromkeys(ids, error)


def is_over(wait: Wait | None, before: Answers, now: Answers) -> bool:
    """Return whether what is waited for has happened; to a job that nobody knows nothing will."""
    if any(isinstance(answer, GatewayError) and not isinstance(answer, JobNotFound) for answer in now.values()):
        return False
    if wait is Wait.CHANGED:
        known = [job_id for job_id, answer in before.items() if isinstance(answer, Jobs)]
        return not known or any(_state(before[job_id]) != _state(now[job_id]) for job_id in known)
    jobs = [job for answer in now.values() if isinstance(answer, Jobs) for job in answer.jobs]
    if wait is Wait.STARTED:
        return all(job.time.start is not None or job.time.end is not None for job in jobs)
    return all(job.time.end is not None for job in jobs)


def _state(answer: Jobs | GatewayError) -> object:
    if isinstance(answer, GatewayError):
        return None
    return {job.job_id: (job.status.state, job.status.state_reason) for job in answer.jobs}
