"""/compute/{system}/submissions: what has become of a submission whose answer was lost."""

from fastapi import APIRouter, Response

from hpcgate.api.access import Access, AccessDep
from hpcgate.api.idempotency import checked, receipts
from hpcgate.api.models import jobs as models
from hpcgate.api.terms import BY_SCHEDULER, Terms, on
from hpcgate.config.groups import Group
from hpcgate.schedulers.once import RETRY_AFTER
from hpcgate.schedulers.receipts import Once

router = APIRouter(prefix="/compute/{system_name}/submissions", tags=["compute"])


async def _fate(access: Access, key: str, response: Response) -> models.GetSubmissionResponse:
    once = Once.of(receipts(access), access.principal.username, access.system.name, checked(key))
    fate = await access.system.scheduler.submission(access.principal, once)
    if fate.state in ("under_way", "unknown"):
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return models.GetSubmissionResponse(state=fate.state, job_id=fate.job_id, reason=fate.reason)


@on(Terms(Group.COMPUTE_READ, BY_SCHEDULER))
@router.get("")
async def find_submission(access: AccessDep, key: str, response: Response) -> models.GetSubmissionResponse:
    """Tell what has become of a submission, for a key that cannot stand in a path (slash, backslash, percent sign)."""
    return await _fate(access, key, response)


@on(Terms(Group.COMPUTE_READ, BY_SCHEDULER))
@router.get("/{key}")
async def get_submission(access: AccessDep, key: str, response: Response) -> models.GetSubmissionResponse:
    """Tell what has become of the request with an Idempotency-Key: submitted, not submitted, under way, or unknown."""
    return await _fate(access, key, response)
