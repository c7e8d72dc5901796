"""The ASGI application: routes, middleware and lifespan."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import State
from starlette.routing import Match, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from hpcgate import __version__
from hpcgate.api import errors, openapi
from hpcgate.api.job_bodies import JobBodies
from hpcgate.api.json_bodies import models_of
from hpcgate.api.plain_paths import PlainPaths
from hpcgate.api.routes import (
    archive,
    bulk,
    content,
    control,
    events,
    following,
    jobs,
    notifications,
    output,
    pages,
    status,
    submissions,
    transfers,
    uploads,
)
from hpcgate.api.routes import operations as filesystem
from hpcgate.api.routing import Door
from hpcgate.api.short_way import ShortWay
from hpcgate.api.terms import MONITORED, PUBLIC, on
from hpcgate.config import Settings
from hpcgate.config.http import CorsSettings
from hpcgate.gateway.collector import exposition, monitored
from hpcgate.gateway.reload import Gateways
from hpcgate.http.body import Bodies
from hpcgate.http.disconnect import HangUp
from hpcgate.http.envelope import Envelope, TrailingSlash, security_headers
from hpcgate.http.metrics import Measured, RequestMetrics, Traced
from hpcgate.http.request_log import RequestLines
from hpcgate.telemetry.metrics import Metrics
from hpcgate.telemetry.recorder import Recorder


class _State(State):
    """What an application keeps, found as attributes are: Starlette's own looks each of them up by a call."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        del self.__dict__[name]


class Application(FastAPI):
    """FastAPI behind the gateway's own middleware, which is around it, not within: there is a way past it.

    Attributes:
        chain: What a request goes through; FastAPI is its end.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.state = _State()
        self.chain: ASGIApp = super().__call__

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        # A WebSocket begins with a request of this method (RFC 6455, section 4.1).
        scope.setdefault("method", "GET")
        await self.chain(scope, receive, send)

    def speaks(self, path: str) -> bool:
        """Say whether a path leads to a WebSocket."""
        scope = {"type": "websocket", "path": path.rstrip("/"), "root_path": self.root_path, "headers": []}
        return any(isinstance(route, WebSocketRoute) and route.matches(scope)[0] is Match.FULL for route in self.routes)


def create_app(settings: Settings) -> Application:
    """Return the application. Nothing is opened before its lifespan begins.

    Args:
        settings: A validated configuration.
    """
    telemetry = _recorder(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if telemetry.tracing is not None:
                stack.push_async_callback(asyncio.to_thread, telemetry.tracing.close)
            app.state.gateways = await stack.enter_async_context(
                Gateways(settings, telemetry, partial(setattr, app.state, "gateway"))
            )
            if telemetry.metrics is not None:
                app.state.metrics = await stack.enter_async_context(
                    monitored(lambda: app.state.gateway, telemetry.metrics, settings.metrics)
                )
            yield

    app = Application(
        title="hpcgate",
        version=settings.app_version,
        description=f"A FirecREST-compatible HTTP gateway to HPC systems (hpcgate {__version__}).",
        lifespan=lifespan,
        root_path_in_servers=False,
        servers=_servers(settings),
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    # As an argument it brings a warning of FastAPI's, which wants it told to the server; the server has no part in it.
    app.root_path = settings.apis_root_path
    app.state.job_bodies = JobBodies()
    _add_routes(app, settings)
    errors.install(app)
    pages.install(app, settings.auth.authentication)
    _describe(app, settings)
    app.add_middleware(errors.LastResort)
    _wrap(app, settings, telemetry)
    return app


def _add_routes(app: Application, settings: Settings) -> None:
    operations = APIRouter(prefix=filesystem.router.prefix, tags=list(filesystem.router.tags))
    filesystem.add_operations(operations)
    files = (filesystem.router, operations, content.router, following.router, uploads.router, archive.router)
    for router in (
        status.router,
        jobs.router,
        events.router,
        notifications.router,
        output.router,
        bulk.router,
        control.router,
        submissions.router,
        *files,
        transfers.router,
    ):
        # Not include_router: it keeps the router as it is and matches each request's path twice.
        app.router.routes.extend(router.routes)
    if settings.metrics.path is not None:
        app.add_route(settings.metrics.path, _metrics, include_in_schema=False)
    for route in app.routes:
        if isinstance(route, Route) and route.path == app.openapi_url:
            on(PUBLIC)(route.endpoint)


def _describe(app: Application, settings: Settings) -> None:
    """Complete the OpenAPI document."""
    authentication = settings.auth.authentication
    for read, model in models_of(app.routes):
        read.openapi_extra = {**(read.openapi_extra or {}), "requestBody": openapi.body_schema(model)}
    openapi.install(
        app,
        token_url=authentication.token_url,
        authorization_url=authentication.authorization_url,
        scopes=dict(authentication.scopes or {}),
        api_keys=bool(settings.auth.api_keys),
        models=[
            *(op.Parameters for op in filesystem.registered() if op.method in ("POST", "PUT")),
            *(model for _, model in models_of(app.routes)),
        ],
    )


def _wrap(app: Application, settings: Settings, telemetry: Recorder) -> None:
    """Put the layers around the routes, each around the one before."""
    door = Door(app.chain, app, settings.apis_root_path.rstrip("/"))
    app.chain = PlainPaths(door, merge=settings.http.merge_slashes)
    requests = None if telemetry.metrics is None else RequestMetrics(telemetry.metrics)
    if requests is not None:
        app.chain = Measured(app.chain, requests=requests)
    if telemetry.tracing is not None:
        app.chain = Traced(app.chain, tracing=telemetry.tracing)
    app.chain = TrailingSlash(HangUp(app.chain), settings.apis_root_path.rstrip("/"))
    if settings.http.cors is not None:
        app.chain = CORSMiddleware(app.chain, **_cross_origin(settings.http.cors))
    envelope = Envelope(
        Bodies(app.chain),
        app_version=settings.app_version,
        extra=security_headers(hsts_max_age=settings.http.hsts_max_age) if settings.http.security_headers else (),
        lines=_request_lines(settings),
    )
    # A span is made by a layer.
    app.chain = envelope if telemetry.tracing is not None else ShortWay(envelope, door, envelope, requests)


def _request_lines(settings: Settings) -> RequestLines:
    return RequestLines(
        access=settings.logger.access_log,
        tracing=settings.logger.enable_tracing_log,
        tracing_headers=[(header.input, header.output) for header in settings.logger.loggable_request_headers],
        audit=settings.audit.to is not None,
        audit_reads=settings.audit.reads,
        audit_required=settings.audit.required,
    )


def _servers(settings: Settings) -> list[dict[str, Any]] | None:
    """Return the servers of the OpenAPI document: generated clients take their paths from there."""
    if settings.doc_servers:
        return [dict(server) for server in settings.doc_servers]
    root = settings.apis_root_path.rstrip("/")
    return [{"url": root}] if root else None


def _cross_origin(settings: CorsSettings) -> dict[str, Any]:
    """Return the arguments of the CORS middleware. Tokens come in a header: no page may send cookies."""
    return {
        "allow_origins": settings.allow_origins,
        "allow_methods": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        "allow_headers": ["*"],
        "allow_credentials": False,
        "expose_headers": _EXPOSED,
        "max_age": settings.max_age,
    }


_EXPOSED = (
    "F7T-Timestamp", "F7T-AppVersion", "F7T-AuthUsername", "X-Request-ID", "X-Correlation-ID", "Retry-After",
    "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "Content-Disposition", "Content-Range", "ETag",
    "Last-Modified", "Location", "Age", "X-Hpcgate-Jobs-Missing", "X-Hpcgate-Warning",
    "Tus-Resumable", "Tus-Version", "Tus-Extension",
    "Tus-Max-Size", "Tus-Checksum-Algorithm", "Upload-Offset", "Upload-Length", "Upload-Defer-Length",
    "Upload-Metadata", "Upload-Concat", "Upload-Expires",
)  # fmt: skip


def _recorder(settings: Settings) -> Recorder:
    """Return what listens: for the metrics and the traces that the settings ask for."""
    wanted = settings.metrics.port is not None or settings.metrics.path is not None
    tracing = settings.tracing
    if tracing.endpoint is None:
        return Recorder(Metrics() if wanted else None)
    # OpenTelemetry is an extra.
    from hpcgate.telemetry.tracing import by_otlp

    return Recorder(
        Metrics() if wanted else None,
        by_otlp(
            tracing.endpoint,
            {name: value.get_secret_value() for name, value in tracing.headers.items()},
            service=tracing.service_name,
            version=__version__,
            ratio=tracing.sample_ratio,
        ),
    )


@on(MONITORED)
async def _metrics(request: Request) -> Response:
    body, media_type = exposition(request.app.state.metrics, request.headers.get("accept", ""))
    return Response(body, media_type=media_type)
