"""Errors to JSON: the one place that knows the error body of the contract."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpcgate.admission.askers import TOKEN_PROTOCOL
from hpcgate.api.models.base import ApiResponseError, ApResponseErrorType
from hpcgate.api.responses import fields, json_of
from hpcgate.errors import GatewayError
from hpcgate.outbound.wording import without
from hpcgate.telemetry.containment import FAULTS

log = structlog.get_logger("hpcgate.api")


def problem(
    request: HTTPConnection,
    status: int,
    message: str,
    *,
    kind: ApResponseErrorType = ApResponseErrorType.error,
    caused_by: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    reason: str | None = None,
) -> JSONResponse:
    """Return the answer to a request that failed."""
    body = ApiResponseError(
        error_type=kind,
        message=message,
        caused_by=list(caused_by) or None,
        data=dict(data) if data is not None else None,
        user=request.scope.get("state", {}).get("username"),
    )
    content = body.model_dump(mode="json", by_alias=True, exclude={"reason"})
    if reason is not None:
        content["reason"] = reason
    return _Problem(content, status, headers=fields(headers or {}))


class _Problem(JSONResponse):
    """JSON whatever the text in it: lone surrogates, which a client may send in JSON, become U+FFFD."""

    def render(self, content: Any) -> bytes:
        """Return the JSON of the body, encoded."""
        try:
            return super().render(content)
        except UnicodeEncodeError:
            return json_of(content)


class InvalidParameters(Exception):
    """A request whose parameters do not fit the model; `location` says where they stood (query, body)."""

    def __init__(self, location: str, error: ValidationError) -> None:
        super().__init__(f"{error.error_count()} parameters of the {location} do not fit")
        self.location = location
        self.error = error


def _fields(errors: Sequence[Any], location: str | None = None) -> list[dict[str, str]]:
    fields = []
    for error in errors:
        place = [str(part) for part in error["loc"]]
        where = location or (place.pop(0) if place else "request")
        message = _UNKNOWN if error["type"] == "extra_forbidden" else error["msg"]
        fields.append({"location": where, "name": ".".join(place), "message": message})
    return fields


_UNKNOWN = "is not a field that is known here"


MAX_TOLD = 100
"""Most fields that one answer complains of."""


MAX_NAMED = 10
"""Most unknown fields in a message."""
MAX_NAME = 64
"""Most characters of the name of one."""


def _first(error: ValidationError) -> list[Any]:
    """Return what is wrong, without what was sent."""
    return error.errors(include_url=False, include_context=False, include_input=False)[:MAX_TOLD]


def _readable(text: str) -> str:
    """Return text that JSON can carry: lone surrogates, which stand for bytes that are not UTF-8, are replaced."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # others stand for nothing: the answer's own encoding replaces them
        return text


def secrets_of(request: HTTPConnection) -> list[str]:
    """Return what a request was sent with, and others may have put into what they say."""
    offered = request.scope.get("subprotocols", ())
    return [
        request.headers.get("Authorization", "").rpartition(" ")[2],
        request.headers.get("X-API-Key", ""),
        *(name.removeprefix(TOKEN_PROTOCOL) for name in offered if name.startswith(TOKEN_PROTOCOL)),
    ]


def answer_to(request: HTTPConnection, error: Exception) -> JSONResponse:
    """Return the answer to an error that a route has raised, whichever it is; what nobody foresaw is a 500, logged."""
    match error:
        case GatewayError():
            shown = secrets_of(request)
            message = without(error.message, *shown)
            if error.status >= 500:
                log.warning("request.failed", status=error.status, message=message, exc_info=error.__cause__)
            return problem(
                request,
                error.status,
                _readable(message),
                caused_by=[_readable(without(line, *shown)) for line in error.caused_by],
                data=error.data,
                headers=error.headers,
                reason=error.reason,
            )
        case RequestValidationError():
            return _invalid(request, _fields(error.errors()))
        case InvalidParameters():
            return _invalid(request, _fields(_first(error.error), error.location))
        case HTTPException():
            return problem(request, error.status_code, str(error.detail), headers=error.headers)
        case ClientDisconnect():
            return problem(request, 400, "The client went away.")
    FAULTS.count("request")
    log.error("request.crashed", exc_info=error)
    return problem(request, 500, "Internal server error")


def _invalid(request: HTTPConnection, fields: list[dict[str, str]]) -> JSONResponse:
    unknown = [field["name"] for field in fields if field["message"] == _UNKNOWN]
    named = [name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..." for name in unknown[:MAX_NAMED]]
    words = f": unknown fields {', '.join(named)}" if named else ""
    return problem(
        request, 400, f"Validation error{words}", kind=ApResponseErrorType.validation, data={"fields": fields}
    )


def install(app: FastAPI) -> None:
    """Have FastAPI answer the errors that a route can raise."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        return answer_to(request, error)

    for kind in (GatewayError, RequestValidationError, InvalidParameters, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, handle)


class LastResort:
    """Turns an error that nobody foresaw into a 500 that says nothing of its inside, and logs it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        except Exception as error:
            if started or scope["type"] != "http":
                raise  # the server cuts the answer off, so that it cannot pass for a whole one
            await answer_to(Request(scope), error)(scope, receive, send)
