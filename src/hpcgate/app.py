"""The ASGI application: routes, middleware and lifespan."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from hpcgate import __version__
from hpcgate.api import archive, compute, content, filesystem, problems, schemas, status, transfers, uploads
from hpcgate.config import Settings
from hpcgate.gateway import Gateway
from hpcgate.middleware import Envelope, HangUp, TrailingSlash


def create_app(settings: Settings) -> FastAPI:
    """Return the application. Nothing is opened before its lifespan begins.

    Args:
        settings: A validated configuration.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Gateway.open(settings) as gateway:
            app.state.gateway = gateway
            yield

    app = FastAPI(
        title="hpcgate",
        version=settings.app_version,
        description=f"A FirecREST-compatible HTTP gateway to HPC systems (hpcgate {__version__}).",
        lifespan=lifespan,
        root_path=settings.apis_root_path,
        root_path_in_servers=False,
        servers=[dict(server) for server in settings.doc_servers] if settings.doc_servers else None,
        redirect_slashes=False,
    )
    operations = APIRouter(prefix=filesystem.router.prefix, tags=list(filesystem.router.tags))
    filesystem.add_operations(operations)
    files = (filesystem.router, operations, content.router, uploads.router, archive.router)
    for router in (status.router, compute.router, *files, transfers.router):
        # Not include_router: it keeps the router as it is and matches each request's path twice.
        app.router.routes.extend(router.routes)
    problems.install(app)
    schemas.install(
        app,
        token_url=settings.auth.authentication.token_url,
        scopes=dict(settings.auth.authentication.scopes or {}),
        models=[op.Parameters for op in filesystem.registered() if op.method in ("POST", "PUT")],
    )
    # The last one added is the outermost.
    app.add_middleware(problems.LastResort)
    app.add_middleware(HangUp)
    app.add_middleware(TrailingSlash)
    app.add_middleware(Envelope, app_version=settings.app_version)
    return app
