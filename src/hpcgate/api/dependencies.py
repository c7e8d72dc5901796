"""What every route begins with: who asks, and for which system."""

from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Request

from hpcgate.api.needs import needs
from hpcgate.auth import Principal
from hpcgate.auth.groups import group_of
from hpcgate.auth.tokens import bearer
from hpcgate.errors import Forbidden, GatewayError, Unauthenticated
from hpcgate.gateway import Gateway, System
from hpcgate.telemetry import journal


def gateway(request: Request) -> Gateway:
    """Return the gateway that the lifespan opened."""
    opened: Gateway = request.app.state.gateway
    return opened


async def authenticate(request: Request) -> Principal:
    """Verify the request's token.

    Raises:
        Unauthenticated: No token, or one that is not accepted.
        Unavailable: The IdP's keys have not been loaded yet.
        RateLimited: The user or the client has sent too many requests.
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
    if opened.rates.on and "rate_headers" not in state:
        await _count(request, opened, verified)
    return replace(verified, request_id=state["request_id"], correlation_id=state["correlation_id"])


async def _count(request: Request, opened: Gateway, principal: Principal) -> None:
    """Count the request, once, however often its token is looked at."""
    request.scope["state"]["rate_headers"] = {}
    group = group_of(request.method, request.scope["route"].path)
    if group is not None:
        request.scope["state"]["rate_headers"] = await opened.rates.take(principal, group)


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
    notes = journal.current.get()
    if notes is not None and notes.paths is not None:
        _begin_record(request, notes, principal)
    await opened.authorizer.authorize(principal, system.name)
    system.calendar.check()
    if not system.board.well:
        system.board.require(needs(request.scope["route"].path, scheduler_by_ssh=system.scheduler_by_ssh))
    return Access(principal, system)


def _begin_record(request: Request, notes: journal.Journal, principal: Principal) -> None:
    """Note for the audit log who is about to do what."""
    client = request.client
    notes.who = {
        "user": principal.username,
        "client_id": principal.client_id,
        "token_id": principal.token_id,
        "source": None if client is None else client.host,
    }
    notes.operation = (request.method, request.scope["route"].path)
    notes.job_id = request.path_params.get("job_id")


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
