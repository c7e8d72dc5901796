"""``Idempotency-Key``: what a client calls a submission, so that it happens once.

https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/ (version 07)
"""

import hashlib
import json
import re
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from hpcgate.api.access import Access, gateway
from hpcgate.errors import BadRequest
from hpcgate.schedulers.receipts import Once, Receipts

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"

MAX_KEY = 255

_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_PRINTABLE = re.compile(rf"[\x20-\x7e]{{1,{MAX_KEY}}}")


def checked(key: str) -> str:
    """Return a key.

    Raises:
        BadRequest: It is not one.
    """
    if not _PRINTABLE.fullmatch(key) or key != key.strip():
        raise BadRequest(f"An {HEADER} has 1 to {MAX_KEY} printable characters of ASCII, with no blanks around them")
    return key


def read(value: str) -> str:
    """Return the key of a header: as it is, or a string of structured fields (RFC 9651, section 3.3.3).

    Raises:
        BadRequest: It is not one.
    """
    value = value.strip()
    if value.startswith('"'):
        match = _QUOTED.fullmatch(value)
        if match is None:
            raise BadRequest(f"The {HEADER} begins with a quotation mark, and is not a quoted string")
        return checked(re.sub(r"\\(.)", r"\1", match[1]))
    return checked(value)


async def _key(
    request: Request,
    _: Annotated[
        str | None,
        Header(
            alias=HEADER,
            description="A name of 1 to 255 printable characters that the client gives this request and no other, such"
            " as a UUID: however often it is sent, there is one job, and the same answer. It stands for the request for"
            " 24 hours, or as `idempotency.lifetime` says.",
        ),
    ] = None,
) -> str | None:
    values = request.headers.getlist(HEADER)
    if len(values) > 1:
        raise BadRequest(f"There is more than one {HEADER}")
    return read(values[0]) if values else None


KeyDep = Annotated[str | None, Depends(_key)]


def receipts(access: Access) -> Receipts:
    """Return where a user's receipts lie."""
    settings = gateway(_request(access)).settings.idempotency
    directory = settings.directory.replace("{username}", access.principal.username)
    return Receipts(directory, settings.lifetime, settings.most_receipts)


def _request(access: Access) -> HTTPConnection:
    if access.request is None:
        raise RuntimeError("no request")
    return access.request


def once(access: Access, key: str | None, asked: BaseModel | dict[str, Any]) -> Once | None:
    """Return what a request is to happen once for, None without a key.

    Args:
        access: Who asks.
        key: The key.
        asked: What for.

    Raises:
        BadRequest: There is no key, and the configuration wants one.
    """
    request = _request(access)
    if key is None:
        if gateway(request).settings.idempotency.required and access.system.scheduler.submits_once:
            raise BadRequest(f"An {HEADER} is required")
        return None
    values = asked if isinstance(asked, dict) else asked.model_dump(by_alias=True, exclude_unset=True)
    return _once(access, key, request.scope["route"].path, values, request.scope["method"])


def once_of(access: Access, key: str | None, asked: dict[str, Any]) -> Once | None:
    """Return what one of many jobs is to happen once for: the same as a request for it alone.

    Args:
        access: Who asks.
        key: Its key.
        asked: The body of such a request.

    Raises:
        BadRequest: As `once`.
    """
    if key is None:
        return once(access, None, asked)
    return _once(access, checked(key), JOBS, asked)


JOBS = "/compute/{system_name}/jobs"
"""Where one job is submitted."""


def _once(access: Access, key: str, route: str, values: dict[str, Any], method: str = "POST") -> Once:
    words = [method, route, _said(values)]
    digest = hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode()).hexdigest()
    return Once.of(receipts(access), access.principal.username, access.system.name, key, digest)


def _said(value: Any) -> Any:
    """Return what a body says: a field that is null is one that was not sent."""
    if isinstance(value, dict):
        return {name: _said(inner) for name, inner in value.items() if inner is not None}
    return [_said(inner) for inner in value] if isinstance(value, list) else value


def say_replayed(response: Response, *, replayed: bool) -> None:
    """Say in a header that the answer is that of an earlier request."""
    if replayed:
        response.headers[REPLAYED] = "true"
