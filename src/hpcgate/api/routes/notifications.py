"""/compute/{system}/notifications: the scheduler's own scripts say that something has become of a job."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from hpcgate.api.access import AccessDep
from hpcgate.api.terms import BY_SCHEDULER, Terms, on
from hpcgate.config.groups import Group

router = APIRouter(prefix="/compute/{system_name}", tags=["compute"])


@on(Terms(Group.COMPUTE_NOTIFY, BY_SCHEDULER))
@router.post("/notifications", status_code=204, response_class=Response)
async def post_notification(
    access: AccessDep,
    user: Annotated[
        str | None, Query(max_length=64, description="Whose job it is; without it all who watch are told")
    ] = None,
) -> Response:
    """Have those who watch jobs look soon: something has become of one. It is at most one query a second."""
    access.system.watching.nudge(user)
    return Response(status_code=204)
