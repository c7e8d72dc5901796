"""Who asks is found out before anything else, whichever route it is and whoever has added it."""

from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.responses import PlainTextResponse
from starlette.types import Message

from hpcgate.api import problems
from hpcgate.api.direct import DirectRoute
from hpcgate.api.door import Door
from hpcgate.api.terms import PUBLIC, on, terms_of
from hpcgate.app import create_app
from hpcgate.body import Bodies, Shut
from hpcgate.config import Settings
from hpcgate.errors import PathNotFound, Unauthenticated

GENERAL = {
    "auth": {"authentication": {"token_url": "http://127.0.0.1/token"}},
    "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1"},
    "metrics": {"path": "/metrics"},
}
FREE = {
    "/status/liveness", "/status/liveness/", "/status/readiness", "/metrics", "/openapi.json", "/docs",
    "/docs/oauth2-redirect", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/redoc.standalone.js",
    "/redoc",
}  # fmt: skip


def test_what_is_free_is_on_this_list() -> None:
    routes: Any = create_app(Settings.model_validate(GENERAL)).routes
    free = {(method, route.path) for route in routes if terms_of(route).public for method in route.methods}
    tus = {path for method, path in free if method == "OPTIONS"}
    assert tus == {f"/filesystem/{{system_name}}/files/uploads{rest}" for rest in ("", "/{upload_id}")}
    assert {path for method, path in free if method in ("GET", "HEAD")} == FREE
    assert {method for method, _ in free} == {"GET", "HEAD", "OPTIONS"}


class Nobody:
    """A gateway to which nobody has a token."""

    def __init__(self) -> None:
        self.telemetry = self.tokens = self

    def token(self, outcome: str) -> None: ...

    async def principal(self, token: str) -> Any:
        raise Unauthenticated("no")


def application() -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.gateway = Nobody()
    problems.install(app)
    return app


async def ask(app: FastAPI, path: str, method: str = "POST", **scope: Any) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send a request with a token and 64 MiB announced; whoever reads of them fails the test."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body is read")

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", b"67108864"), (b"authorization", b"Bearer x")]
    await Bodies(Door(app, app))(
        {
            "type": "http", "method": method, "path": path, "headers": headers, "query_string": b"", "app": app,
            "state": {"request_id": "1", "correlation_id": "1"}, **scope,
        },
        receive,
        send,
    )  # fmt: skip
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def careless(request: Request) -> Response:
    """Read the body and ask for no token."""
    return PlainTextResponse(await request.body())


async def careless_direct(request: Request, system_name: str) -> Response:
    return await careless(request)


async def test_a_route_that_declares_nothing_is_protected() -> None:
    app = application()
    app.add_route("/added", careless, methods=["POST"])
    door = Door(app, app)
    app.add_route("/later", careless, methods=["POST"])
    app.mount("/mounted", careless_app)
    app.router.routes.append(DirectRoute("/a/{system_name}/b", careless_direct, methods=["POST"], response_model=None))
    for path in ("/added", "/later", "/mounted/deep", "/a/demo/b"):
        status, headers, _ = await ask(app, path)
        assert (status, headers[b"connection"]) == (401, b"close"), path
    assert door is not None


async def careless_app(scope: Any, receive: Any, send: Any) -> None:
    await careless(Request(scope, receive, send))


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/nothing", 404), ("DELETE", "/added", 405)])
async def test_what_is_not_there_reads_nothing(method: str, path: str, status: int) -> None:
    app = application()
    app.add_route("/added", careless, methods=["POST"])
    app.add_route("/added", careless, methods=["PUT"])
    found, headers, body = await ask(app, path, method)
    assert (found, headers[b"connection"]) == (status, b"close")
    assert b'"errorType":"error"' in body
    if status == 405:
        assert headers[b"allow"] == b"POST, PUT"


async def test_a_public_route_gets_no_body() -> None:
    app = application()
    app.add_route("/free", on(PUBLIC)(careless), methods=["POST"])
    with pytest.raises(Shut):
        await ask(app, "/free")


async def test_what_comes_past_the_door_is_not_served() -> None:
    app = application()
    app.add_route("/added", careless, methods=["POST"])
    door = Door(app, app)
    scope = {"type": "http", "method": "POST", "path": "/added", "headers": [], "state": {}, "app": app}

    async def send(message: Message) -> None: ...

    async def receive() -> Message:
        raise AssertionError

    with pytest.raises(RuntimeError, match="past the door"):
        await door._inner(scope, receive, send)


def test_fastapi_must_not_read_bodies_itself() -> None:
    class Model(BaseModel):
        name: str

    app = application()

    @app.post("/model")
    async def take(model: Model) -> None: ...

    with pytest.raises(ValueError, match="/model"):
        Door(app, app)


@pytest.mark.parametrize(("error", "status"), [(PathNotFound("no"), 404), (RuntimeError("secret"), 500)])
async def test_errors_become_answers(error: Exception, status: int) -> None:
    async def fails(request: Any, system_name: str) -> Any:
        raise error

    app = application()
    route = DirectRoute("/a/{system_name}/b", on(PUBLIC)(fails), methods=["POST"], response_model=None)
    app.router.routes.append(route)
    found, _, body = await ask(app, "/a/demo/b")
    assert found == status
    assert b"secret" not in body
