"""JSON bodies: read within their bounds, and never so costly to parse that others wait for it."""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.routing import BaseRoute

from hpcgate.api.errors import MAX_NAME, MAX_NAMED, InvalidParameters
from hpcgate.api.models.base import BodyParameters
from hpcgate.api.remarks import refuse_dry_runs, remark
from hpcgate.errors import BadRequest, UnsupportedMediaType
from hpcgate.http.body import Body

M = TypeVar("M", bound=BaseModel)

MAX_JOB = 8 * 1024 * 1024
"""Bytes of a job with its script.

Slurm takes scripts of 4 MB (slurm.conf(5), max_script_size), and escapes make it more.
"""

MAX_VALUES = 32 * 1024
"""Most values, names among them and strings counted twice, in a body. Python makes an object of each, in one go."""

MAX_DEPTH = 32
"""Most objects and arrays within each other: no model has more than a few."""

MAX_DIGITS = 100
"""Most digits of a whole number. To read one takes time that grows with their square."""

_UNCOUNTED = 32 * 1024
"""Bytes of a body that cannot hold more values than allowed."""

_STRUCTURE = b'"[]{},:'
_OTHER = bytes(set(range(256)) - set(_STRUCTURE))


async def read_body(request: Request, most: int = MAX_VALUES) -> bytes | bytearray:
    """Read a whole body, within the bounds of its route, with at most so many values.

    Raises:
        TooLarge, TimedOut: It does not keep to them.
        RateLimited, Unavailable: Too much is under way.
        BadRequest: It is JSON with more values or more depth than any model has.
    """
    kept: Body | None = request.scope["state"].get("body")
    first = b""
    body: bytearray | None = None
    shape = Shape(most)
    async for block in request.stream():
        if not first:
            first = block
            continue
        if not block:
            continue
        if body is None:
            body = bytearray(first)
            _keep(kept, len(first))
            shape.feed(first)
        body += block
        _keep(kept, len(block))
        shape.feed(block)
    if body is None:
        if len(first) > _UNCOUNTED:
            _keep(kept, len(first))
            shape.feed(first)
        elif first.count(b"[") + first.count(b"{") > MAX_DEPTH:
            shape.feed(first)
        return first
    return body


def _keep(body: Body | None, size: int) -> None:
    if body is not None:
        body.keep(size)


class Shape:
    """Counts the values and the depth of JSON while it comes, block by block, by what stands outside of its strings.

    What is not JSON may be counted wrongly, but never costs more.

    Attributes:
        values: Values so far, or up to three times as many.
        depth: How many objects and arrays are open.
        deepest: The most that were.
    """

    def __init__(self, most: int = MAX_VALUES) -> None:
        self._most = most
        self.values = 0
        self.depth = 0
        self.deepest = 0
        self._in_string = False
        self._escaped = b""

    def feed(self, block: bytes) -> None:
        """Take one block.

        Raises:
            BadRequest: There are too many values, or they are nested too deeply, or it closes what it has not opened.
        """
        text = self._escaped + block if self._escaped else block
        if b"\\" in text:
            # Within a string a backslash takes the next character with it: pairs of them first, then quotes.
            text = text.replace(b"\\\\", b"")
            self._escaped = b"\\" if text.endswith(b"\\") else b""
            text = text.replace(b'\\"', b"")
        else:
            self._escaped = b""
        parts = text.translate(None, _OTHER).split(b'"', 2 * self._most)
        outside = b"".join(parts[1 if self._in_string else 0 :: 2])
        self.values += len(parts) // 2 + outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        if self.values > self._most:
            raise BadRequest("The request body has too many values.")
        self._in_string ^= len(parts) % 2 == 0
        for char in outside.translate(None, b",:"):
            self.depth += 1 if char in b"[{" else -1
            if self.depth < 0:
                raise BadRequest("The request body is not JSON.", caused_by=["more is closed than was opened"])
            self.deepest = max(self.deepest, self.depth)
        if self.deepest > MAX_DEPTH:
            raise _too_deep()


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a whole number of more than {MAX_DIGITS} digits")
    return int(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has a name twice, of which one reader takes the first and another the last")
    return value


_JSON = json.JSONDecoder(parse_int=_whole_number, object_pairs_hook=_once)


def _too_deep() -> BadRequest:
    return BadRequest("The request body is nested too deeply.")


async def read_json(request: Request, most: int = MAX_VALUES) -> Any:
    """Read a JSON body with at most so many values.

    Raises:
        TooLarge, TimedOut, RateLimited, Unavailable: As `read_body`.
        UnsupportedMediaType: It is compressed (RFC 9110, section 15.5.16).
        BadRequest: Not JSON, or not of a shape that any model has.
    """
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedMediaType(
            "A JSON body must come as it is, without Content-Encoding.", headers={"Accept-Encoding": "identity"}
        )
    body = await read_body(request, most)
    try:
        # By RFC 8259 it is UTF-8; json would take UTF-16, too.
        text = body.decode("utf-8-sig", "surrogatepass")
        # One character beyond the basic plane, and each takes four bytes.
        if (more := sys.getsizeof(text) - len(body)) > _UNCOUNTED:
            _keep(request.scope["state"].get("body"), more)
        value = _JSON.decode(text)
        if "\\u" in text or not text.isascii():
            _check_text(value)
        return value
    except UnicodeEncodeError as error:
        reason = f"its text is not valid Unicode: {error.reason}"
    except ValueError as error:
        reason = str(error)
    except RecursionError:
        raise _too_deep() from None
    # Not from within: the decoder's error holds the whole body.
    raise BadRequest("The request body is not JSON.", caused_by=[reason])


def _check_text(value: Any) -> None:
    """See that all text can be written as bytes. Some lone surrogates stand for bytes of file names (PEP 383).

    Raises:
        UnicodeEncodeError: There are others, which stand for nothing.
    """
    match value:
        case str():
            value.encode("utf-8", "surrogateescape")
        case dict():
            for name, inner in value.items():
                _check_text(name)
                _check_text(inner)
        case list():
            for inner in value:
                _check_text(inner)


def validated(model: type[M], given: Any) -> tuple[M, list[str]]:
    """Return a body as its model, and what is to be said of fields that are not used.

    Raises:
        BadRequest: It asks in vain for nothing to be done.
        InvalidParameters: It does not fit. A field that is not known is not a reason, except in a strict model.
    """
    try:
        found, unknown = model.model_validate(given), []
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        strict = issubclass(model, BodyParameters) and model.strict
        if strict or any(each["type"] != "extra_forbidden" for each in errors):
            raise InvalidParameters("body", error) from None
        found = model.model_validate(given, extra="ignore")
        refuse_dry_runs(str(each["loc"][-1]) for each in errors)
        unknown = [".".join(map(str, each["loc"]))[:MAX_NAME] for each in errors[:MAX_NAMED]]
    # As JSON writes them, names are what a header can hold.
    remarks = [f"{json.dumps(name)} is not a field that is known here" for name in unknown]
    if isinstance(found, BodyParameters):
        remarks += found.remarks()
    return found, remarks


class _Reader:
    """A dependency that reads a model from the body."""

    def __init__(self, model: type[BaseModel], most: int) -> None:
        self.model = model
        self._most = most

    async def __call__(self, request: Request) -> Any:
        given, remarks = validated(self.model, await read_json(request, self._most))
        remark(request.scope, remarks)
        return given


def json_body(model: type[BaseModel], *, most: int = MAX_VALUES) -> Any:
    """Return the annotation of an endpoint's parameter that is read from a JSON body.

    FastAPI would read a body before it asks who sends it and what the policy says, complain of it first, and keep it
    for as long as the garbage collector lets it.
    """
    return Depends(_Reader(model, most))


def models_of(routes: Iterable[BaseRoute]) -> Iterator[tuple[APIRoute, type[BaseModel]]]:
    """Yield the routes that read a model from their bodies so, for OpenAPI."""
    for route in routes:
        if isinstance(route, APIRoute):
            for dependency in route.dependant.dependencies:
                if isinstance(dependency.call, _Reader):
                    yield route, dependency.call.model
