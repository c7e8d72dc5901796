"""The one way to every route: found, its token verified and its request counted, and only then called."""

from collections.abc import Awaitable, Iterable
from contextlib import ExitStack

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpcgate.api import errors, sockets
from hpcgate.api.access import authenticate, enter, gateway, refuse_undeclared
from hpcgate.api.fast_path import DirectRoutes, Found
from hpcgate.api.plain_paths import MERGED
from hpcgate.api.remarks import Queries
from hpcgate.api.responses import JsonBytes
from hpcgate.api.terms import Terms, terms_of
from hpcgate.errors import GatewayError
from hpcgate.http.body import Body


class Door:
    """Finds the route of each request and lets in who may come, on the terms of the route.

    FastAPI does not look for a route of its own: it serves the one that the door has found, and no other. So a route
    cannot be reached but through here, whatever it is and whoever has added it.

    Args:
        inner: FastAPI, behind its middleware.
        api: The application that has the routes.
        prefix: What may stand before every path.
    """

    def __init__(self, inner: ASGIApp, api: FastAPI, prefix: str = "") -> None:
        if taken := unguarded(api.routes):
            raise ValueError(f"read their bodies by json_body: {', '.join(taken)}")
        self._inner = inner
        self._router = api.router
        self._direct = DirectRoutes(api.routes, prefix)
        self._root_path = api.root_path
        self._queries = Queries()
        api.router.middleware_stack = self._serve_found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. HEAD is served by the route for GET where it has none of its own.

        The content is made and left out, so that its length and all else of the head are those of GET
        (RFC 9110, section 9.3.2).
        """
        if scope["type"] == "websocket":
            await self._converse(scope, receive, send)
            return
        if scope["method"] != "HEAD" or self._matches(scope):
            await self._serve(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            # From here on streams know that there is nothing to read, and the server that nothing follows.
            scope["method"] = "HEAD"
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope["method"] = "GET"
        try:
            await self._serve(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"

    def _matches(self, scope: Scope) -> bool:
        """Say whether a route has the request's own method."""
        if self._root_path:
            scope["root_path"] = self._root_path
        return any(route.matches(scope)[0] is Match.FULL for route in self._router.routes)

    def find(self, scope: Scope) -> Found | None:
        """Return the route of a request if it is a direct one."""
        return self._direct.find(scope)

    async def answer(self, request: Request, found: Found) -> Response:
        """Admit a request to its direct route, and return the route's answer.

        Raises:
            Exception: It is not admitted, or fails.
        """
        route, terms, parameters = found
        scope = request.scope
        scope["route"] = route
        scope["path_params"] = parameters
        try:
            await admit(request, terms)
            self._queries.look(scope, route)
            answer: Response = await route.endpoint(request, **parameters)
            return answer
        finally:
            # It leads back here.
            scope["state"].pop("access", None)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._direct.find(scope)
        if found is None:
            await self._lead_in(scope, receive, send)
            return
        request = Request(scope, receive, send)
        started = False

        def watched_send(message: Message) -> Awaitable[None]:
            nonlocal started
            started = True
            return send(message)

        try:
            answer = await self.answer(request, found)
            await answer(scope, receive, send if type(answer) in SAID_AT_ONCE else watched_send)
        except Exception as error:
            if started:
                raise  # the server cuts the answer off, so that it cannot pass for a whole one
            await errors.answer_to(request, error)(scope, receive, send)

    async def _converse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit a WebSocket to its route, and count it as a stream for as long as it lasts."""
        if self._root_path:
            scope["root_path"] = self._root_path
        connection = HTTPConnection(scope)
        with ExitStack() as stack:
            try:
                route = self._find(scope)
                await admit(connection, terms_of(route))
                stream = sockets.hold(connection, stack)
            except Exception as error:
                await errors.answer_to(connection, error)(scope, receive, send)
                return
            try:
                await sockets.converse(route, stream, scope, receive, send)
            finally:
                scope["state"].pop("access", None)

    async def _lead_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit a request to a route that FastAPI serves."""
        if self._root_path:
            # FastAPI sets it, too, but routes are found by it.
            scope["root_path"] = self._root_path
        request = Request(scope)
        try:
            route = self._find(scope)
            await admit(request, terms_of(route))
            self._queries.look(scope, route)
        except Exception as error:
            await errors.answer_to(request, error)(scope, receive, send)
        else:
            await self._inner(scope, receive, send)
        finally:
            scope["state"].pop("access", None)

    def _find(self, scope: Scope) -> BaseRoute:
        """Find the route and note it in the scope.

        Raises:
            HTTPException: 404, or 405 with the methods that there are.
        """
        methods: set[str] = set()
        for route in self._router.routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                scope["route"] = route
                return route
            if match is Match.PARTIAL:
                scope["route"] = route
                methods.update(getattr(route, "methods", None) or ())
        if methods:
            if "GET" in methods:
                methods.add("HEAD")
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(methods))})
        raise HTTPException(404)

    async def _serve_found(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stand for FastAPI's router."""
        if scope["type"] == "lifespan":
            await self._router.app(scope, receive, send)
            return
        if not scope["state"].get("admitted"):
            raise RuntimeError("a request has come past the door")
        scope["router"] = self._router
        await scope["route"].handle(scope, receive, send)


SAID_AT_ONCE = frozenset({Response, JsonBytes})
"""Answers of which nothing can fail once they have begun."""


async def admit(request: HTTPConnection, terms: Terms) -> None:
    """Let a request in to a route, or refuse it before anything of its body is read.

    Where its path names a system, it is found here whether the user may use it, and what for.

    Raises:
        Unauthenticated, Forbidden, Unavailable, RateLimited: As `authenticate`.
        SystemNotFound, Denied, UnderMaintenance, Unhealthy: As `enter`.
        TooLarge: Its body is announced to be over the route's limit.
        HTTPException: 404, for everybody, where slashes were merged, or one at the end was left out, to come to it.
    """
    state = request.scope["state"]
    if terms.one_spelling and (state.get(MERGED) or request.scope.get("raw_path", b"").endswith(b"/")):
        # Nothing but a rule of a proxy's may be what keeps others away from here.
        raise HTTPException(404, "Not Found: The path has an empty segment.")
    if not terms.public:
        try:
            principal = state["principal"] = await authenticate(request, terms)
            system_name = request.scope["path_params"].get("system_name")
            if system_name is not None:
                state["access"] = await enter(request, terms, principal, system_name)
            else:
                refuse_undeclared(request, terms, principal)
            body: Body | None = state.get("body")
            if body is not None:
                opened = gateway(request)
                body.open(terms.bounds(opened), opened.arrivals, principal.username)
        except GatewayError as error:
            error.headers |= terms.headers
            raise
    state["admitted"] = True


def unguarded(routes: Iterable[BaseRoute]) -> list[str]:
    """Return the routes whose bodies FastAPI itself would read, of any form and before the policy is asked."""
    return [route.path for route in routes if isinstance(route, APIRoute) and route.body_field is not None]
