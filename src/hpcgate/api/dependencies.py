"""What every route begins with: who asks, and for which system."""

from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Request

from hpcgate.api.needs import needs
from hpcgate.auth import Principal
from hpcgate.auth.tokens import bearer
from hpcgate.errors import Forbidden, GatewayError, Unauthenticated
from hpcgate.gateway import Gateway, System


def gateway(request: Request) -> Gateway:
    """Return the gateway that the lifespan opened."""
    opened: Gateway = request.app.state.gateway
    return opened


async def authenticate(request: Request) -> Principal:
    """Verify the request's token.

    Raises:
        Unauthenticated: No token, or one that is not accepted.
        Unavailable: The IdP's keys have not been loaded yet.
    """
    state = request.scope["state"]
    opened = gateway(request)
    try:
        verified = await opened.tokens.principal(bearer(request.headers.get("authorization")))
    except GatewayError as error:
        opened.telemetry.token(_outcome(error, request))
        raise
    opened.telemetry.token("accepted")
    state["username"] = verified.username
    return replace(verified, request_id=state["request_id"], correlation_id=state["correlation_id"])


@dataclass(frozen=True, slots=True)
class Access:
    """A user on a system that the user may use."""

    principal: Principal
    system: System


async def enter(request: Request, system_name: str) -> Access:
    """Verify the token, find the system and ask whether the user may use it.

    Raises:
        Unauthenticated, Unavailable: As `authenticate`.
        SystemNotFound: No such system.
        Forbidden: Not for this user.
        UnderMaintenance: The operators have taken the system out of service.
        Unhealthy: A service that the route needs does not work, as the health checks have found.
    """
    principal = await authenticate(request)
    opened = gateway(request)
    system = opened.system(system_name)
    request.scope["state"]["system"] = system.name
    await opened.authorizer.authorize(principal, system.name)
    system.calendar.check()
    if not system.board.well:
        system.board.require(needs(request.scope["route"].path, scheduler_by_ssh=system.scheduler_by_ssh))
    return Access(principal, system)


def _outcome(error: GatewayError, request: Request) -> str:
    """Return the label of a token that was not accepted."""
    match error:
        case Unauthenticated():
            return "refused" if request.headers.get("authorization") else "missing"
        case Forbidden():
            return "forbidden"
        case _:
            return "unavailable"


async def _gateway(request: Request) -> Gateway:
    # FastAPI runs a dependency that is a plain function in a thread, which costs more than the rest of a request.
    return gateway(request)


GatewayDep = Annotated[Gateway, Depends(_gateway)]
PrincipalDep = Annotated[Principal, Depends(authenticate)]
AccessDep = Annotated[Access, Depends(enter)]
