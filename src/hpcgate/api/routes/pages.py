"""The pages for people, `/docs`, to which `/` leads, and `/redoc`: Swagger UI and ReDoc, all of it from this server."""

import asyncio
import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from functools import cache
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from hpcgate.api.terms import PUBLIC, on
from hpcgate.config.auth import OidcSettings

_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "redoc.standalone.js": "text/javascript",
}
_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def install(app: FastAPI, oidc: OidcSettings) -> None:
    """Add the two pages and what they load, which comes with the fastapi-offline package.

    Args:
        app: The application, made without FastAPI's own pages, which load from the network.
        oidc: Where people log in.
    """
    providers = _origins(oidc)

    @on(PUBLIC)
    async def swagger(request: Request) -> Response:
        return _page(_swagger(app.title, _root(request), oidc), providers)

    @on(PUBLIC)
    async def redirected(request: Request) -> Response:
        return _page(get_swagger_ui_oauth2_redirect_html())

    @on(PUBLIC)
    async def redoc(request: Request) -> Response:
        root = _root(request)
        return _page(
            get_redoc_html(
                openapi_url=f"{root}/openapi.json",
                title=f"{app.title} - ReDoc",
                redoc_js_url=f"{root}/docs/redoc.standalone.js",
                redoc_favicon_url="data:,",
                with_google_fonts=False,
            )
        )

    @on(PUBLIC)
    async def front(request: Request) -> Response:
        return RedirectResponse(f"{_root(request)}/docs")

    app.add_route("/", front, include_in_schema=False)
    app.add_route("/docs", swagger, include_in_schema=False)
    app.add_route("/docs/oauth2-redirect", redirected, include_in_schema=False)
    app.add_route("/redoc", redoc, include_in_schema=False)
    for name, media_type in _ASSETS.items():
        app.add_route(f"/docs/{name}", _asset(name, media_type), include_in_schema=False)


def _swagger(title: str, root: str, oidc: OidcSettings) -> HTMLResponse:
    return get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title=f"{title} - Swagger UI",
        swagger_js_url=f"{root}/docs/swagger-ui-bundle.js",
        swagger_css_url=f"{root}/docs/swagger-ui.css",
        swagger_favicon_url="data:,",
        oauth2_redirect_url=f"{root}/docs/oauth2-redirect",
        init_oauth={
            "clientId": oidc.docs_client_id or "",
            "scopes": " ".join(oidc.scopes),
            "usePkceWithAuthorizationCodeGrant": True,
        },
    )


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")


def _origins(oidc: OidcSettings) -> str:
    """Return where the browser gets tokens."""
    parts = (urlsplit(str(url)) for url in (oidc.token_url, oidc.authorization_url) if url is not None)
    return " ".join(dict.fromkeys(f"{part.scheme}://{part.netloc}" for part in parts))


def _page(page: HTMLResponse, providers: str = "") -> Response:
    """Allow the page its own scripts, this server, and the identity provider's, and nothing else."""
    scripts = _INLINE.findall(bytes(page.body).decode())
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    page.headers["content-security-policy"] = "; ".join(
        (
            "default-src 'none'",
            " ".join(("script-src 'self'", *(f"'sha256-{value}'" for value in hashes))),
            # Both pages make styles as they run.
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "font-src 'self' data:",
            f"connect-src 'self' {providers}".rstrip(),
            # ReDoc indexes its search in a worker.
            "worker-src 'self' blob:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    return page


def _asset(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    path = Path(str(resources.files("fastapi_offline") / "static" / name))

    @on(PUBLIC)
    async def asset(request: Request) -> Response:
        return FileResponse(path, media_type=media_type)

    @on(PUBLIC)
    async def changed(request: Request) -> Response:
        return Response(await asyncio.to_thread(_without_logo, path), media_type=media_type)

    return changed if name.startswith("redoc") else asset


@cache
def _without_logo(path: Path) -> bytes:
    """Return ReDoc without the address of its own logo, which is elsewhere; without a picture it shows none."""
    return path.read_bytes().replace(_LOGO, b"data:,")
