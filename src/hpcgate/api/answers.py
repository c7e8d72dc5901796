"""JSON answers, serialised once and not validated again on the way out."""

from collections.abc import Mapping

from fastapi import Response
from pydantic import BaseModel


def json_answer(body: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a model as a JSON answer, by its wire names."""
    return json_bytes(encoded(body), status, headers)


def encoded(body: BaseModel) -> bytes:
    """Return a model as JSON text, by its wire names."""
    return body.__pydantic_serializer__.to_json(body, by_alias=True)


def json_bytes(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON text as an answer."""
    return Response(body, status, headers=headers, media_type="application/json")
