"""Pages of a browser that a room brings: a directory of built files under a prefix, with what a browser may do in them.

Names with a hash of their content in them never change, and are kept by browsers for a year; all else is asked for anew
each time, which costs a 304. A file may lie compressed beside itself (``app-1f3a.js.br``, ``.gz``). What is served is
found in a table made at the start: no request's path ever becomes the path of a file.
"""

import hashlib
import mimetypes
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse

from hpcgate.api.terms import PUBLIC, on

CODINGS: Mapping[str, str] = MappingProxyType({"br": ".br", "gzip": ".gz"})
"""Content codings with the suffix of their files, the best first."""

STRICT: Mapping[str, str] = MappingProxyType(
    {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "font-src": "'self'",
        "connect-src": "'self'",
        "manifest-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
)
"""What a page may do: load from this server and call it, and nothing else (Content Security Policy Level 3)."""

_HASHED = re.compile(r"[-.](?=[A-Za-z0-9_-]*\d)[A-Za-z0-9_-]{8,}\.\w+(?:\.map)?")
"""The end of a name with a hash in it, as bundlers write them (``app-B3xq91ZT.js``)."""
_FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _Asset:
    path: Path
    media_type: str
    etag: str
    kept: bool
    codings: tuple[str, ...]


class Assets:
    """A directory of files as pages.

    Args:
        directory: Holds them, ``index.html`` among them, which a path without a file leads to where `routed`.
        csp: The directives of the pages' Content-Security-Policy; those of `STRICT` unless they say otherwise.
        routed: Whether the page looks at the rest of its path by itself (an application of one page).

    Raises:
        FileNotFoundError: There is no index.
    """

    def __init__(self, directory: Path, csp: Mapping[str, str] | None = None, *, routed: bool = False) -> None:
        self._csp = "; ".join(" ".join(each).strip() for each in {**STRICT, **(csp or {})}.items())
        self._routed = routed
        files = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
        self._assets = {
            name: _asset(name, path, files) for name, path in files.items() if not _is_compressed(name, files)
        }
        if "index.html" not in self._assets:
            raise FileNotFoundError(f"no index.html in {directory}")

    def install(self, app: FastAPI, prefix: str) -> None:
        """Serve the files under a prefix, such as ``/console``, to everybody."""

        @on(PUBLIC)
        async def page(request: Request) -> Response:
            return self.answer(request, request.path_params.get("rest", ""))

        for path in (prefix, f"{prefix}/{{rest:path}}"):
            app.add_route(path, page, include_in_schema=False)

    def answer(self, request: Request, name: str) -> Response:
        """Return a file in the best coding that the browser takes.

        Raises:
            HTTPException: 404, there is no such file.
        """
        found = self._assets.get(name or "index.html")
        if found is None:
            if not self._routed or "." in name.rpartition("/")[2]:
                raise HTTPException(404)
            found = self._assets["index.html"]
        coding = next((each for each in _accepted(request) if each in found.codings), None)
        etag = f'"{found.etag}{"-" + coding if coding else ""}"'
        headers = {
            "Cache-Control": _FOREVER if found.kept else "no-cache",
            "ETag": etag,
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": self._csp,
        }
        if found.codings:
            headers["Vary"] = "Accept-Encoding"
        path = found.path
        if coding is not None:
            headers["Content-Encoding"] = coding
            path = path.with_name(path.name + CODINGS[coding])
        response = FileResponse(path, headers=headers, media_type=found.media_type)
        known = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
        return NotModifiedResponse(response.headers) if known & {etag, "*"} else response


def _asset(name: str, path: Path, files: Iterable[str]) -> _Asset:
    media_type = _TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    codings = tuple(coding for coding, suffix in CODINGS.items() if name + suffix in files)
    etag = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    return _Asset(path, media_type, etag, bool(_HASHED.search(path.name)), codings)


_TYPES: Mapping[str, str] = MappingProxyType(
    {
        # What this machine's own table of types says of them differs from one to the next.
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".css": "text/css",
        ".html": "text/html",
        ".svg": "image/svg+xml",
        ".json": "application/json",
        ".map": "application/json",
        ".webmanifest": "application/manifest+json",
        ".woff2": "font/woff2",
        ".wasm": "application/wasm",
    }
)


def _is_compressed(name: str, files: Iterable[str]) -> bool:
    return any(name.endswith(suffix) and name.removesuffix(suffix) in files for suffix in CODINGS.values())


def _accepted(request: Request) -> Iterable[str]:
    """Return the codings that a browser takes, the best first (RFC 9110, section 12.5.3)."""
    taken = set()
    for each in request.headers.get("accept-encoding", "").lower().split(","):
        coding, _, weight = each.partition(";")
        if weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            taken.add(coding.strip())
    return [coding for coding in CODINGS if coding in taken]
