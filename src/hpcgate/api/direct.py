"""The short way to the routes that are asked most: one look into a table, no dependencies to solve, no models to check.

FastAPI knows these routes like all others and documents them; only requests reach them past it. What FastAPI and its
layers of middleware do for a request costs several times what the gateway itself does.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpcgate.api import problems
from hpcgate.api.schemas import query_parameters

M = TypeVar("M", bound=BaseModel)
Handler = Callable[..., Awaitable[Response]]


class DirectRoute(APIRoute):
    """A route whose endpoint takes the request and its path's parameters, reads the rest itself and answers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that calls the endpoint and nothing else."""
        endpoint: Handler = self.endpoint

        async def handle(request: Request) -> Response:
            return await endpoint(request, **request.path_params)

        return handle


def described(model: type[BaseModel]) -> dict[str, Any]:
    """Return what tells OpenAPI of the query that an endpoint reads itself."""
    return {"parameters": query_parameters(model)}


class Direct:
    """Calls the endpoints of direct routes, and hands all other requests on.

    Args:
        app: Where other requests go.
        routes: All routes. Those that are direct begin with a literal and ``{system_name}``; the last part of a path
            may be a parameter, too.
        prefix: What may stand before every path.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], prefix: str = "") -> None:
        self.app = app
        self._prefix = prefix
        self._literal: dict[tuple[str, ...], APIRoute] = {}
        self._open: dict[tuple[str, ...], tuple[APIRoute, str]] = {}
        for route in routes:
            if isinstance(route, DirectRoute):
                self._add(route)

    def _add(self, route: APIRoute) -> None:
        _, first, system, *rest = route.path.split("/")
        if system != "{system_name}":
            raise ValueError(f"not a direct route: {route.path}")
        for method in route.methods or ():
            if rest[-1].startswith("{"):
                self._open[method, first, str(len(rest)), *rest[:-1]] = (route, rest[-1][1:-1])
            else:
                self._literal[method, first, *rest] = route

    def _find(self, scope: Scope) -> tuple[APIRoute, dict[str, str]] | None:
        path: str = scope["path"]
        if self._prefix and path.startswith(self._prefix + "/"):
            path = path[len(self._prefix) :]
        parts = path.split("/")
        if len(parts) < 4 or parts[0] or not parts[2]:
            return None
        _, first, system, *rest = parts
        method = scope["method"]
        route = self._literal.get((method, first, *rest))
        if route is not None:
            return route, {"system_name": system}
        found = self._open.get((method, first, str(len(rest)), *rest[:-1]))
        if found is None or not rest[-1]:
            return None
        return found[0], {"system_name": system, found[1]: rest[-1]}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        found = self._find(scope) if scope["type"] == "http" else None
        if found is None:
            await self.app(scope, receive, send)
            return
        route, parameters = found
        scope["route"] = route
        scope["path_params"] = parameters
        request = Request(scope, receive, send)
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            answer = await route.endpoint(request, **parameters)
            await answer(scope, receive, send if type(answer) is Response else watched_send)
        except Exception as error:
            if started:
                raise  # the server cuts the answer off, so that it cannot pass for a whole one
            await problems.answer_to(request, error)(scope, receive, send)


def read_query(model: type[M], given: Mapping[str, str]) -> M:
    """Return a query as its model.

    Raises:
        InvalidParameters: It does not fit.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise problems.InvalidParameters("query", error) from None
