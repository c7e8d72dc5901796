"""What comes before every route: who asks, and whether for a system that they may use. The door asks it, once."""

from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, replace
from typing import Annotated, Any

import structlog
from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from hpcgate.admission.askers import TOKEN_PROTOCOL
from hpcgate.api.errors import secrets_of
from hpcgate.api.terms import PROTECTED, Terms
from hpcgate.auth import Principal
from hpcgate.auth.api_keys import HEADER
from hpcgate.auth.authorizer import Everyone
from hpcgate.auth.policy import FREE, Grant, Question
from hpcgate.auth.tokens import bearer
from hpcgate.config.groups import Group
from hpcgate.errors import Denied, Forbidden, GatewayError, Unauthenticated, Unavailable
from hpcgate.filesystem.base import Lender, Operation, naming
from hpcgate.filesystem.confined_session import ConfinedPool
from hpcgate.filesystem.confinement import Reach, confine
from hpcgate.filesystem.following.follower import Follower, Start
from hpcgate.gateway.gateway import Gateway
from hpcgate.gateway.streams import Stream
from hpcgate.gateway.system import System
from hpcgate.telemetry import journal
from hpcgate.telemetry.audit import is_behind

audit = structlog.get_logger("hpcgate.audit")


def gateway(request: HTTPConnection) -> Gateway:
    """Return the gateway that the lifespan opened."""
    opened: Gateway = request.scope["app"].state.gateway
    return opened


async def authenticate(request: HTTPConnection, terms: Terms) -> Principal:
    """Verify the request's token or API key, and count the request. The door does, once, before all else.

    Raises:
        Unauthenticated: Neither, or one that is not accepted.
        Unavailable: The IdP's keys have not been loaded yet.
        RateLimited: The user or the client has sent too many requests.
    """
    state = request.scope["state"]
    opened = gateway(request)
    try:
        authorization = _authorization(request)
        keys = opened.api_keys if authorization is None else None
        if keys is not None and (key := request.headers.get(HEADER)) is not None:
            verified = keys.principal(key, _source(request))
        else:
            verified = await opened.tokens.principal(bearer(authorization))
    except GatewayError as error:
        opened.telemetry.token(_outcome(error, request))
        raise
    opened.telemetry.token("accepted")
    state["username"] = verified.username
    if opened.rates.on:
        state["rate_headers"] = {}
        state["rate_headers"] = await opened.rates.take(verified, terms.group)
    return verified.asking(state["request_id"], state["correlation_id"])


def _authorization(request: HTTPConnection) -> str | None:
    """Return the header, of which the server has let at most one in.

    Raises:
        Unauthenticated: There is more than one token, of which another reader may take the other.
    """
    found = None
    for name, value in request.scope["headers"]:
        if name == b"authorization":
            found = str(value, "latin-1")
            break
    # A browser sends no headers of a page's own with a WebSocket, but names of protocols.
    for name in request.scope.get("subprotocols", ()):
        if name.startswith(TOKEN_PROTOCOL):
            if found is not None:
                raise Unauthenticated("More than one token is shown", headers={"WWW-Authenticate": "Bearer"})
            found = f"Bearer {name.removeprefix(TOKEN_PROTOCOL)}"
    return found


@dataclass(slots=True)
class Access:
    """A user on a system that the user may use. Not frozen, which takes ten times as long to make."""

    principal: Principal
    system: System
    grant: Grant = FREE
    request: HTTPConnection | None = None
    terms: Terms = PROTECTED

    @property
    def pool(self) -> Lender:
        """The system's connections, held to the paths of the policy's rule where it has any.

        Routes take them from here only: whatever they do is then checked where it happens.
        """
        return self.system.pool if self.grant.paths is None else ConfinedPool(self.system.pool, self.grant)

    def stream(
        self, kind: str, *, endless: bool = False, longest: float | None = None
    ) -> AbstractContextManager[Stream]:
        """Count as a stream of the user for as long as the context lasts; as `Streams.hold`."""
        if self.request is None:
            raise RuntimeError("no request")
        streams = gateway(self.request).streams
        return streams.hold(kind, self.principal, self.system.name, endless=endless, longest=longest)

    def follow(self, path: bytes, start: Start, rate: float) -> AbstractAsyncContextManager[Follower]:
        """Follow a file for as long as the context lasts, beneath the paths of the policy's rule at each look."""
        return self.system.following.follow(self.principal, self.grant, path, start, rate)

    def perform(self, operation: Operation) -> Awaitable[Any]:
        """Run an operation as the user, beneath the paths of the policy's rule where it has any."""
        if self.grant.paths is None:
            return self.system.perform(self.principal, operation)
        return self._perform_beneath(operation)

    async def _perform_beneath(self, operation: Operation) -> Any:
        try:
            with naming(operation):
                return await self.pool.perform(self.principal, operation.run, retry=not operation.writes)
        except Denied as denial:
            self.denied(denial, *operation.paths())
            raise

    async def admit(self, *paths: bytes) -> None:
        """Check paths that the request acts on, links followed, against the file systems and the policy.

        Raises:
            BadRequest, Unhealthy: As `System.admit`.
            Denied: The policy's rule allows other paths only.
        """
        await self.reach(Reach(paths))

    async def reach(self, reach: Reach) -> None:
        """Check what the request touches; as `admit`."""
        for path in (*reach.paths, *reach.links):
            self.system.admit(path)
        await self.confine(reach)

    async def confine(self, reach: Reach) -> None:
        """Check what the request touches against the policy alone.

        Raises:
            Denied: The policy's rule allows other paths only.
        """
        grant = self.grant
        if grant.paths is None or not (reach.paths or reach.links):
            return
        try:
            await self.system.pool.perform(self.principal, lambda session: confine(session, grant, reach), retry=True)
        except Denied as denial:
            self.denied(denial, *reach.paths, *reach.links)
            raise

    async def operate(self, operation: Operation) -> None:
        """Check what an operation touches, in whatever form its result is wanted; as `admit`."""
        paths = operation.paths()
        if self.grant.paths is None:
            for path in paths:
                self.system.admit(path)
            return
        here = Reach(paths, trees=operation.trees()) if operation.follows else Reach(links=paths)
        await self.reach(here)

    def beside(self, group: Group) -> "Access | None":
        """Return the access to the same system for another group of operations; None if the policy denies that."""
        if self.request is None:
            raise RuntimeError("no request")
        policy = gateway(self.request).policy
        try:
            grant = policy.decide(self.principal, Question(self.system.name, group, _source(self.request)))
        except Denied:
            return None
        return replace(self, grant=grant)

    def denied(self, denial: Denied, *paths: bytes) -> None:
        """Tell the audit log that the policy has denied the request."""
        if self.request is not None:
            _audit_denial(self.request, self.terms, self.principal, self.system.name, denial.rule, *paths)


def _audit_denial(
    request: HTTPConnection, terms: Terms, principal: Principal, system: str | None, rule: str, *paths: bytes
) -> None:
    audit.warning(
        "denied",
        rule=rule,
        user=principal.username,
        client_id=principal.client_id,
        token_id=principal.token_id,
        source=_source(request),
        system=system,
        group=terms.group,
        method=request.scope["method"],
        route=request.scope["route"].path,
        paths=[journal.readable(path) for path in paths],
        request_id=principal.request_id,
    )


def _source(request: HTTPConnection) -> str | None:
    client = request.scope.get("client")
    return client[0] if client else None


async def enter(request: HTTPConnection, terms: Terms, principal: Principal, system_name: str) -> Access:
    """Find the system of a request and ask whether its user may use it for what the route does. The door does, once.

    Raises:
        SystemNotFound: No such system.
        Forbidden: Not for this user.
        Denied: Not by the policy.
        UnderMaintenance: The operators have taken the system out of service.
        Unhealthy: A service that the route needs does not work, as the health checks have found.
    """
    opened = gateway(request)
    system = opened.system(system_name)
    request.scope["state"]["system"] = system.name
    notes = journal.current.get()
    if notes is not None and notes.paths is not None:
        _require_record(terms, notes)
        _begin_record(request, terms, notes, principal)
    if type(opened.authorizer) is Everyone and opened.policy.free:
        grant = FREE  # there is nobody to ask
    else:
        grant = await _authorize(request, terms, opened, principal, system.name)
    system.calendar.check()
    if not system.board.well:
        system.board.require(terms.services(scheduler_by_ssh=system.scheduler_by_ssh))
    return Access(principal, system, grant, request, terms)


async def _authorize(
    request: HTTPConnection, terms: Terms, opened: Gateway, principal: Principal, system: str
) -> Grant:
    """Ask the authorization service and the policy, and tell the audit log of a no."""
    try:
        await opened.authorizer.authorize(principal, system)
    except Forbidden:
        _audit_denial(request, terms, principal, system, "authorization")
        raise
    if opened.policy.free:
        return FREE
    try:
        if terms.group is None:
            raise Denied("default")
        return opened.policy.decide(principal, Question(system, terms.group, _source(request)))
    except Denied as denial:
        _audit_denial(request, terms, principal, system, denial.rule)
        raise


def refuse_undeclared(request: HTTPConnection, terms: Terms, principal: Principal) -> None:
    """Refuse what no rule can be about, where there is a policy.

    Raises:
        Denied: The route does not say what it is about, or names no system by `system_name`, and not that it is so.
    """
    if (terms.group is None or not terms.no_system) and not gateway(request).policy.free:
        _audit_denial(request, terms, principal, None, "default")
        raise Denied("default")


def _begin_record(request: HTTPConnection, terms: Terms, notes: journal.Journal, principal: Principal) -> None:
    """Note for the audit log who is about to do what."""
    notes.who = {
        "user": principal.username,
        "client_id": principal.client_id,
        "token_id": principal.token_id,
        "source": _source(request),
    }
    notes.operation = (request.scope["method"], request.scope["route"].path)
    notes.group = terms.group
    notes.job_id = request.path_params.get("job_id")


def _require_record(terms: Terms, notes: journal.Journal) -> None:
    """Refuse what could not be recorded, if it has to be. The refusal is not recorded either: it would be in the way.

    Raises:
        Unavailable: The audit log takes no lines.
    """
    if notes.required and is_behind() and (terms.group is None or terms.group in notes.required):
        raise Unavailable("The audit log cannot be written at the moment", headers={"Retry-After": "5"})


def _outcome(error: GatewayError, request: HTTPConnection) -> str:
    """Return the label of a token that was not accepted."""
    match error:
        case Unauthenticated():
            shown = any(secrets_of(request))
            return "refused" if shown else "missing"
        case Forbidden():
            return "forbidden"
        case _:
            return "unavailable"


async def _gateway(request: Request) -> Gateway:
    # FastAPI runs a dependency that is a plain function in a thread, which costs more than the rest of a request.
    return gateway(request)


async def _principal(request: Request) -> Principal:
    principal: Principal = request.scope["state"]["principal"]
    return principal


def access_of(request: HTTPConnection) -> Access:
    """Return what the door has found of a request to a system."""
    access: Access = request.scope["state"]["access"]
    return access


async def _access(request: Request, system_name: str) -> Access:
    # The name is here for the documentation of the path.
    return access_of(request)


GatewayDep = Annotated[Gateway, Depends(_gateway)]
PrincipalDep = Annotated[Principal, Depends(_principal)]
AccessDep = Annotated[Access, Depends(_access)]
