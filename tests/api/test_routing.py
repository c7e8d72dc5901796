"""Who asks is found out before anything else, whichever route it is and whoever has added it."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import PlainTextResponse
from starlette.types import Message

from hpcgate.api import errors
from hpcgate.api.access import AccessDep, GatewayDep, PrincipalDep, access_of
from hpcgate.api.plain_paths import PlainPaths
from hpcgate.api.routing import Door
from hpcgate.api.streaming import Answer, StreamingAnswer
from hpcgate.api.terms import BY_SSH, MONITORED, PUBLIC, Terms, on, terms_of
from hpcgate.auth import Principal
from hpcgate.auth.policy import Grant
from hpcgate.config import Settings
from hpcgate.config.groups import Group
from hpcgate.errors import PathNotFound, Unauthenticated
from hpcgate.http.body import Bodies, Shut
from hpcgate.http.envelope import TrailingSlash
from hpcgate.server.app import create_app

GENERAL = {
    "auth": {"authentication": {"token_url": "http://127.0.0.1/token"}},
    "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1"},
    "metrics": {"path": "/metrics"},
}
FREE = {
    "/", "/status/liveness", "/status/liveness/", "/status/readiness", "/metrics", "/openapi.json", "/docs",
    "/docs/oauth2-redirect", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/redoc.standalone.js",
    "/redoc",
}  # fmt: skip


BODIES = {
    "announced": [(b"content-length", b"67108864")],
    "chunked": [(b"transfer-encoding", b"chunked")],
    "awaited": [(b"content-length", b"67108864"), (b"expect", b"100-continue")],
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_every_route_refuses_a_stranger_before_a_byte_of_the_body(body: Any) -> None:
    """Whatever the program serves is walked, documented or not; to ask for a byte of the body fails."""
    app = create_app(Settings.model_validate(GENERAL))
    app.state.gateway = Nobody()
    routes: list[Any] = list(app.routes)
    found = [(method, route) for route in routes for method in getattr(route, "methods", None) or ("POST",)]
    guarded = [(method, route.path) for method, route in found if not terms_of(route).public]
    assert len(guarded) > 45
    answers = {(method, path): await walk(app, method, path, body) for method, path in guarded}
    assert {route: told for route, told in answers.items() if told != (401, b"close")} == {}


async def walk(app: Any, method: str, path: str, body: Any) -> tuple[int, bytes | None]:
    """Send the head of a request through all of the application; return the status and whether that was its last."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body is read")

    async def send(message: Message) -> None:
        sent.append(message)

    place = re.sub(r"{[^}]*}", "1", path)
    scope = {
        "type": "http", "method": method, "path": place, "raw_path": place.encode(), "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"tus-resumable", b"1.0.0"), *body],
        "client": ("192.0.2.1", 1), "http_version": "1.1", "scheme": "http", "root_path": "", "state": {},
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]).get(b"connection")


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
        self.api_keys = None

    def token(self, outcome: str) -> None: ...

    async def principal(self, token: str) -> Any:
        raise Unauthenticated("no")


def application() -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.gateway = Nobody()
    errors.install(app)
    return app


async def ask(
    app: FastAPI, path: str, method: str = "POST", size: bytes = b"67108864", **scope: Any
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send a request with a token and 64 MiB announced; whoever reads of them fails the test."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body is read")

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", size), (b"authorization", b"Bearer x")]
    await Bodies(Door(app, app))(
        {
            "type": "http", "method": method, "path": path, "headers": headers, "query_string": b"", "app": app,
            "state": {"request_id": "1", "correlation_id": "1"}, "client": None, **scope,
        },
        receive,
        send,
    )  # fmt: skip
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def careless(request: Request) -> Response:
    """Read the body and ask for no token."""
    return PlainTextResponse(await request.body())


@on(Terms(direct=True))
async def careless_direct(request: Request, system_name: str) -> Response:
    return await careless(request)


class Anybody(Nobody):
    """A gateway to which everybody has a token."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = self.policy = self.authorizer = self.calendar = self.board = self
        self.on = False
        self.free = self.well = True
        self.name = "demo"

    async def principal(self, token: str) -> Any:
        return Principal("alice", token)

    def system(self, name: str) -> Any:
        return self

    async def authorize(self, principal: Principal, system: str) -> None: ...

    def check(self) -> None: ...


def serving_content(gateway: Nobody) -> FastAPI:
    """An application with routes for GET of each kind, and one that has HEAD as well."""
    app = application()
    app.state.gateway = gateway

    @app.get("/text")
    async def text(request: Request) -> Response:
        return PlainTextResponse("12345", headers={"X-Method": request.method})

    @app.get("/stream")
    async def stream() -> Response:
        return StreamingAnswer(content(), stall=1)

    @app.api_route("/both", methods=["GET", "HEAD"])
    async def both(request: Request) -> Response:
        return PlainTextResponse("12345", headers={"X-Method": request.method})

    @app.get("/missing")
    async def missing() -> Response:
        raise PathNotFound("No such file or directory")

    @app.post("/text")
    @app.post("/posted")
    async def posted() -> None: ...

    @app.get("/a/{system_name}/b", response_model=None)
    @on(Terms(direct=True))
    async def direct(request: Request, system_name: str) -> Response:
        return PlainTextResponse("12345", headers={"X-Method": request.method})

    return app


@asynccontextmanager
async def content(*, read: bool = False) -> AsyncIterator[Answer]:
    async def blocks() -> AsyncIterator[bytes]:
        if read:
            yield b""
        raise AssertionError("the content is read")

    yield Answer(200, {"Content-Length": "5"}, blocks())


@pytest.mark.parametrize(
    ("path", "status", "length", "method"),
    [
        ("/text", 200, b"5", b"GET"),
        ("/stream", 200, b"5", None),
        ("/both", 200, b"5", b"HEAD"),
        ("/a/demo/b", 200, b"5", b"GET"),
        ("/missing", 404, None, None),
        ("/posted", 405, None, None),
        ("/nothing", 404, None, None),
    ],
)
async def test_head_is_get_without_its_content(
    path: str, status: int, length: bytes | None, method: bytes | None
) -> None:
    app = serving_content(Anybody())
    sent: list[tuple[Message, str]] = []
    scope = asking(app, path, "HEAD")

    async def send(message: Message) -> None:
        sent.append((message, scope["method"]))

    await Door(app, app)(scope, nothing, send)
    (start, _), *rest = sent
    headers = dict(start["headers"])
    assert start["status"] == status
    assert headers.get(b"content-length") == length or length is None
    assert headers.get(b"x-method") == method
    if method != b"HEAD" and status == 200:
        assert not any(message["body"] for message, _ in rest)
    # The server that sends it must know that no content follows, and so must the logs.
    assert {seen for _, seen in sent} | {scope["method"]} == {"HEAD"}


async def test_head_is_as_little_for_everybody_as_get() -> None:
    app = serving_content(Nobody())
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    for path in ("/text", "/both", "/a/demo/b", "/stream"):
        sent.clear()
        await Door(app, app)(asking(app, path, "HEAD"), nothing, send)
        assert sent[0]["status"] == 401, path


async def test_what_may_be_done_with_get_may_be_done_with_head() -> None:
    app = serving_content(Anybody())
    status, headers, _ = await ask(app, "/text", "PUT")
    assert (status, headers[b"allow"]) == (405, b"GET, HEAD, POST")


@pytest.mark.parametrize(
    ("path", "merge", "status"),
    [
        ("/text", True, 200),
        ("//text", True, 200),
        ("/a//demo///b", True, 200),
        ("//a/demo/b", True, 200),
        ("//free", True, 200),
        ("/free", True, 200),
        ("/kept", True, 200),
        ("//kept", True, 404),
        ("/kept/", True, 404),
        ("/kept/", False, 404),
        ("/free/", True, 200),
        ("/text/", True, 200),
        ("//free", False, 404),
        ("//text", False, 404),
        ("//nothing", True, 404),
        ("//text/../text", True, 404),
        ("//te%78t", True, 404),
    ],
)
async def test_slashes_in_a_row_are_one_except_where_a_proxy_may_be_the_guard(
    path: str, merge: bool, status: int
) -> None:
    app = serving_content(Anybody())

    @app.get("/free")
    @on(PUBLIC)
    async def free() -> None: ...

    @app.get("/kept")
    @on(MONITORED)
    async def kept() -> None: ...

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = asking(app, unquote(path)) | {"raw_path": path.encode()}
    await PlainPaths(TrailingSlash(Door(app, app)), merge=merge)(scope, nothing, send)
    assert sent[0]["status"] == status


def asking(app: FastAPI, path: str, method: str = "GET") -> dict[str, Any]:
    """Return the scope of a request with a token and no body."""
    return {
        "type": "http", "method": method, "path": path, "headers": [(b"authorization", b"Bearer x")], "app": app,
        "query_string": b"", "state": {"request_id": "1", "correlation_id": "1"},
    }  # fmt: skip


async def nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def test_a_route_that_declares_nothing_is_protected() -> None:
    app = application()
    app.add_route("/added", careless, methods=["POST"])
    door = Door(app, app)
    app.add_route("/later", careless, methods=["POST"])
    app.mount("/mounted", careless_app)
    app.router.routes.append(APIRoute("/a/{system_name}/b", careless_direct, methods=["POST"], response_model=None))
    for path in ("/added", "/later", "/mounted/deep", "/a/demo/b"):
        status, headers, _ = await ask(app, path)
        assert (status, headers[b"connection"]) == (401, b"close"), path
    assert door is not None


async def test_a_route_that_declares_nothing_is_denied_by_any_policy() -> None:
    gateway = Anybody()
    app = application()
    app.state.gateway = gateway

    @app.get("/added")
    @app.get("/a/{system_name}/b")
    async def added() -> str:
        return "here"

    # What a rule could be about, and is not asked about: the name in its path is not the one that is looked for.
    @app.get("/b/{system}/b")
    @app.get("/grouped")
    @on(Terms(Group.COMPUTE_SUBMIT))
    async def misspelt() -> str:
        return "here"

    for path in ("/added", "/a/demo/b", "/b/demo/b", "/grouped"):
        gateway.free = True
        assert (await ask(app, path, "GET", size=b"0"))[0] == 200
        gateway.free = False
        assert (await ask(app, path, "GET", size=b"0"))[0] == 403


def test_what_is_about_no_system_and_for_every_token_is_on_this_list() -> None:
    routes: Any = create_app(Settings.model_validate(GENERAL)).routes
    found = {route.path for route in routes if not terms_of(route).public and "{system_name}" not in route.path}
    assert found == {route.path for route in routes if terms_of(route).no_system} == {"/status/systems"}


class Counting(Anybody):
    """A gateway that takes down what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.on = self.scheduler_by_ssh = True
        self.free = self.well = False

    async def principal(self, token: str) -> Any:
        self.asked.append("token")
        return Principal("alice", token)

    async def take(self, principal: Principal, group: Any) -> dict[str, str]:
        self.asked.append(f"rate {group}")
        return {}

    async def authorize(self, principal: Principal, system: str) -> None:
        self.asked.append("authorization")

    def decide(self, principal: Principal, question: Any) -> Grant:
        self.asked.append(f"policy {question.group}")
        return Grant("default")

    def check(self) -> None:
        self.asked.append("maintenance")

    def require(self, services: Any) -> None:
        self.asked.append(f"health {services}")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/a/demo/1", "/b/demo/b"], ids=["FastAPI", "direct"])
async def test_each_question_before_a_route_is_asked_once(method: str, path: str) -> None:
    """One authentication and one count a request, then policy, maintenance and health, whichever way leads there."""
    app = application()
    app.state.gateway = gateway = Counting()

    @app.get("/a/{system_name}/{job}")
    @on(Terms(Group.FS_READ, BY_SSH))
    async def plain(access: AccessDep, principal: PrincipalDep, opened: GatewayDep) -> str:
        gateway.asked.append(f"called {access.principal is principal}")
        return "here"

    @app.get("/b/{system_name}/b", response_model=None)
    @on(Terms(Group.FS_READ, BY_SSH, direct=True))
    async def direct(request: Request, system_name: str) -> Response:
        gateway.asked.append(f"called {access_of(request).principal is request.scope['state']['principal']}")
        return PlainTextResponse("here")

    assert (await ask(app, path, method, size=b"0"))[0] == 200
    assert gateway.asked == [
        "token", "rate fs:read", "authorization", "policy fs:read", "maintenance", "health ('ssh',)", "called True",
    ]  # fmt: skip


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

    @on(PUBLIC)
    async def free(request: Request) -> Response:
        return await careless(request)

    app.add_route("/free", free, methods=["POST"])
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
    """An error in a direct route becomes the answer that it has anywhere else."""

    async def fails(request: Any, system_name: str) -> Any:
        raise error

    app = application()
    terms = Terms(public=True, direct=True)
    route = APIRoute("/a/{system_name}/b", on(terms)(fails), methods=["POST"], response_model=None)
    app.router.routes.append(route)
    found, _, body = await ask(app, "/a/demo/b")
    assert found == status
    assert b"secret" not in body
