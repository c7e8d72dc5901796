"""/compute/{system}/jobs/{id}: what users do to jobs that they have."""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter

from hpcgate.api import dependencies
from hpcgate.api.access import Access, AccessDep
from hpcgate.api.json_bodies import json_body
from hpcgate.api.models.control import PatchJobRequest, PostJobSignalRequest
from hpcgate.api.terms import BY_SCHEDULER, Terms, on
from hpcgate.config.groups import Group
from hpcgate.errors import BadRequest, Denied
from hpcgate.schedulers.control import Action, JobChanges, signal_number

router = APIRouter(prefix="/compute/{system_name}/jobs/{job_id}", tags=["compute"])

CONTROL = Terms(Group.COMPUTE_SUBMIT, BY_SCHEDULER)

_DOES = {
    Action.HOLD: "Keep a job that waits from being started.",
    Action.RELEASE: "Let a job that is held be started.",
    Action.REQUEUE: "End a job and let it wait for its start again.",
    Action.SUSPEND: "Stop the processes of a running job; most sites let their operators only.",
    Action.RESUME: "Let a suspended job go on.",
}


def _endpoint(action: Action) -> Callable[[AccessDep, str], Awaitable[None]]:
    async def endpoint(access: AccessDep, job_id: str) -> None:
        await access.system.scheduler.act(access.principal, job_id, action)

    endpoint.__doc__ = _DOES[action]
    endpoint.__name__ = f"{action.value}_job"
    return endpoint


for _action in Action:
    router.put(f"/{_action.value}", status_code=204)(on(CONTROL)(_endpoint(_action)))


@on(CONTROL)
@router.post("/signal", status_code=204)
async def signal_job(
    access: AccessDep, job_id: str, request: Annotated[PostJobSignalRequest, json_body(PostJobSignalRequest)]
) -> None:
    """Send a signal to all processes of a running job, its batch script included."""
    await access.system.scheduler.signal(access.principal, job_id, signal_number(request.signal))


@on(CONTROL)
@router.patch("", status_code=204)
async def change_job(
    access: AccessDep, job_id: str, request: Annotated[PatchJobRequest, json_body(PatchJobRequest)]
) -> None:
    """Change a job that has not ended: its time limit, partition, priority, name, comment, dependencies."""
    changes = _changes(request)
    if not changes.given():
        raise BadRequest("Nothing is to be changed: at least one field is required.")
    _admit(access, changes)
    waits = changes.dependencies or ()
    if any(job_id in one.job_ids for one in waits):
        raise BadRequest(f"dependencies: the job {job_id} would wait for itself")
    await dependencies.check(access, waits)
    await access.system.scheduler.change(access.principal, job_id, changes)


def _changes(request: PatchJobRequest) -> JobChanges:
    return JobChanges(
        time_limit=request.time_limit,
        partition=request.partition,
        priority=request.priority,
        name=request.name,
        comment=request.comment,
        dependencies=None if request.dependencies is None else dependencies.dependencies(request.dependencies),
    )


_PLAIN = re.compile(r"[A-Za-z0-9+_-][A-Za-z0-9+_.-]{0,229}")


def _admit(access: Access, changes: JobChanges) -> None:
    """See that a job does not come to write where the policy's rule does not let its user.

    Raises:
        Denied: Its files may be named by its name (``%x``), or another server's queue may lead elsewhere.
    """
    grant = access.grant
    if grant.paths is None:
        return
    named = changes.name is None or _PLAIN.fullmatch(changes.name)
    if not named or "@" in (changes.partition or ""):
        denial = Denied(grant.rule, "the name or partition of the job may name what lies elsewhere")
        access.denied(denial)
        raise denial
