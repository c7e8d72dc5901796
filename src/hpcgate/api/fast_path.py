"""The short way to the routes that are asked most: one look into a table, no dependencies to solve, no models to check.

FastAPI knows these routes like all others and documents them; only requests reach them past it. What FastAPI and its
layers of middleware do for a request costs several times what the gateway itself does.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.routing import BaseRoute
from starlette.types import Scope

from hpcgate.api import errors
from hpcgate.api.openapi import query_parameters
from hpcgate.api.terms import Terms, terms_of

M = TypeVar("M", bound=BaseModel)
Found = tuple[APIRoute, Terms, dict[str, str]]
"""A direct route, its terms, and the parameters of the path."""


def described(model: type[BaseModel]) -> dict[str, Any]:
    """Return what tells OpenAPI of the query that an endpoint reads itself."""
    return {"parameters": query_parameters(model)}


class DirectRoutes:
    """The table of the routes whose terms say that they are direct.

    Args:
        routes: All routes. Those that are direct begin with a literal and ``{system_name}``; the last part of a path
            may be a parameter, too.
        prefix: What may stand before every path.
    """

    def __init__(self, routes: Iterable[BaseRoute], prefix: str = "") -> None:
        self._prefix = prefix
        self._literal: dict[tuple[str, str, str], tuple[APIRoute, Terms]] = {}
        self._open: dict[tuple[str, str, str], tuple[APIRoute, Terms, str]] = {}
        for route in routes:
            terms = terms_of(route)
            if terms.direct and isinstance(route, APIRoute):
                self._add(route, terms)

    def _add(self, route: APIRoute, terms: Terms) -> None:
        _, first, system, rest = route.path.split("/", 3)
        if system != "{system_name}":
            raise ValueError(f"not a direct route: {route.path}")
        before, last = _last_apart(rest)
        for method in route.methods or ():
            if last.startswith("{"):
                self._open[method, first, before] = (route, terms, last[1:-1])
            else:
                self._literal[method, first, rest] = (route, terms)

    def find(self, scope: Scope) -> Found | None:
        """Return the route of a request, its terms and the path's parameters; None if it is not a direct one."""
        path: str = scope["path"]
        if self._prefix and path.startswith(self._prefix + "/"):
            path = path[len(self._prefix) :]
        parts = path.split("/", 3)
        if len(parts) < 4 or parts[0] or not parts[2]:
            return None
        _, first, system, rest = parts
        method = scope["method"]
        known = self._literal.get((method, first, rest))
        if known is not None:
            return *known, {"system_name": system}
        before, last = _last_apart(rest)
        found = self._open.get((method, first, before))
        if found is None or not last:
            return None
        route, terms, name = found
        return route, terms, {"system_name": system, name: last}


def _last_apart(path: str) -> tuple[str, str]:
    """Return a path's last segment, and what is before it with its slash."""
    at = path.rfind("/") + 1
    return path[:at], path[at:]


def read_query(model: type[M], given: Mapping[str, str]) -> M:
    """Return a query as its model.

    Raises:
        InvalidParameters: It does not fit.
    """
    try:
        return model.model_validate(given, extra="ignore")
    except ValidationError as error:
        raise errors.InvalidParameters("query", error) from None
