"""What of a query is not used is told, whatever the route and whatever the answer."""

from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from hpcgate.api.remarks import Queries
from hpcgate.api.routes.operations import registered
from hpcgate.config import Settings
from hpcgate.errors import BadRequest
from hpcgate.http.envelope import REMARKS
from hpcgate.server.app import Application, create_app

GENERAL = {
    "auth": {"authentication": {"token_url": "http://127.0.0.1/token"}},
    "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1"},
}
APP: Application = create_app(Settings.model_validate(GENERAL))
ROUTES: dict[tuple[str, str], BaseRoute] = {
    (method, route.path): route
    for route in APP.routes
    if isinstance(route, APIRoute)
    for method in sorted(route.methods or ())
}
FILES = "/filesystem/{system_name}"


def told(route: BaseRoute, query: str, method: str = "GET") -> list[str]:
    scope: dict[str, Any] = {"query_string": query.encode(), "state": {}, "method": method}
    Queries().look(scope, route)
    return [words.partition(" is not a parameter")[0] for words in scope["state"].get(REMARKS, [])]


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_each_route_tells_of_what_it_does_not_know_and_of_nothing_else(route: tuple[str, str]) -> None:
    method, path = route
    operation = APP.openapi()["paths"].get(path, {}).get(method.lower(), {})
    names = [each["name"] for each in operation.get("parameters", []) if each["in"] == "query"]
    assert told(ROUTES[route], "&".join([f"{name}=1" for name in names] + ["recursiv=1"])) == ['"recursiv"']


@pytest.mark.parametrize(
    "name",
    [
        f"{operation.name}?{accepted}"
        for operation in registered()
        if operation.method in ("GET", "DELETE")
        for field in operation.Parameters.model_fields
        for accepted in sorted({field, operation.Parameters.model_fields[field].alias or field})
    ],
)
def test_a_name_that_is_accepted_is_not_told_of(name: str) -> None:
    operation, _, accepted = name.partition("?")
    (method,) = (each.method for each in registered() if each.name == operation)
    assert told(ROUTES[method, f"{FILES}/ops/{operation}"], f"{accepted}=1") == []


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", []),
        ("path=/a", []),
        ("p%61th=/a", []),
        ("path", []),
        ("&&path=/a&", []),
        ("PATH=/a", ['"PATH"']),
        ("=1", ['""']),
        ("a+b=1&a%20b=2", ['"a b"']),
        ("a%0d%0aX: 1=1&%22=2", ['"a\\r\\nX: 1"', '"\\""']),
        ("%e2%82%ac=1&%ff=2&\u20ac=3", ['"\\u20ac"', '"\\ufffd"', '"\\u00e2\\u0082\\u00ac"']),
        ("x" * 1000 + "=1", [f'"{"x" * 64}..."']),
        ("&".join(f"{number}=1" for number in range(1000)), [f'"{number}"' for number in range(10)]),
        ("&".join(["path=/a"] * 1000 + ["far=1"]), []),
    ],
)
def test_names_are_told_as_a_header_can_hold_them(query: str, names: list[str]) -> None:
    assert told(ROUTES["GET", f"{FILES}/ops/stat"], query) == names


@pytest.mark.parametrize(
    "query", ["path=/a&path=/b", "path=/a&p%61th=/b", "path&path=/", "path=/a&x=1&path=%2fa", "&&path=&path=/"]
)
def test_a_parameter_with_two_values_is_refused(query: str) -> None:
    """Of a query that can be read in two ways a rule of a proxy's may have seen the other."""
    with pytest.raises(BadRequest, match="path: the query has it twice"):
        told(ROUTES["GET", f"{FILES}/ops/stat"], query)


CHANGING = [(method, path) for method, path in ROUTES if method not in ("GET", "HEAD", "OPTIONS")]


@pytest.mark.parametrize("name", ["dryrun", "dry_run", "DRY-RUN", "dry%52un", "dryRun"])
def test_nothing_is_done_for_who_wants_nothing_done(name: str) -> None:
    """A wish that nothing be done is not left out where it is not known, or spelt otherwise: it is refused."""
    for method, path in CHANGING:
        if (path, name) in (("/compute/{system_name}/jobs", "dryRun"), ("/compute/{system_name}/jobs", "dry%52un")):
            continue
        with pytest.raises(BadRequest, match="it would be done"):
            told(ROUTES[method, path], f"{name}=true", method)
    assert len(CHANGING) > 30
    assert told(ROUTES["GET", f"{FILES}/ops/stat"], f"path=/a&{name}=true")


@pytest.mark.parametrize(
    ("path", "status", "warning"),
    [
        ("/status/liveness", 200, None),
        ("/status/liveness?verbose=1", 200, '"verbose" is not a parameter that is known here'),
        ("/status/readiness?a", 503, '"a" is not a parameter that is known here'),
        ("/docs?theme=dark", 200, None),
        ("/status/systems?all=1", 401, None),
    ],
)
async def test_the_answer_names_them(path: str, status: int, warning: str | None) -> None:
    app = create_app(Settings.model_validate(GENERAL))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
    ):
        answer = await client.get(path)
    assert (answer.status_code, answer.headers.get("X-Hpcgate-Warning")) == (status, warning)
