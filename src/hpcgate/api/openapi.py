"""The OpenAPI document: what FastAPI cannot derive by itself."""

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from hpcgate.api import openapi_answers, openapi_examples, openapi_names
from hpcgate.api.models.base import ApiResponseError
from hpcgate.api.terms import terms_of

REF = "#/components/schemas/{model}"


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return a model's fields as the query parameters of an OpenAPI operation."""
    schema = model.model_json_schema(ref_template=REF)
    required = schema.get("required", [])
    kinds = {REF.format(model=name): kind for name, kind in schema.get("$defs", {}).items()}
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "schema": _spelt_out(field, kinds),
        }
        for name, field in schema["properties"].items()
    ]


def _spelt_out(schema: Any, kinds: Mapping[str, dict[str, Any]]) -> Any:
    """Return a schema with what it refers to in its place: the document has the schemas of bodies alone."""
    if isinstance(schema, list):
        return [_spelt_out(each, kinds) for each in schema]
    if not isinstance(schema, dict):
        return schema
    rest = {name: _spelt_out(value, kinds) for name, value in schema.items() if name != "$ref"}
    return kinds.get(schema.get("$ref", ""), {}) | rest


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model as the JSON request body of an OpenAPI operation."""
    reference = {"$ref": REF.format(model=model.__name__)}
    return {"required": True, "content": {"application/json": {"schema": reference}}}


def _components(models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    components: dict[str, Any] = {}
    for model in models:
        schema = model.model_json_schema(ref_template=REF)
        components |= schema.pop("$defs", {})
        components[model.__name__] = schema
    return components


def install(
    app: FastAPI,
    *,
    token_url: str,
    authorization_url: str | None,
    scopes: dict[str, str],
    api_keys: bool,
    models: Iterable[type[BaseModel]],
) -> None:
    """Make the app's OpenAPI complete: errors, security schemes, and the bodies that routes read by themselves."""
    bodies = tuple(models)
    schemes = _schemes(token_url, authorization_url, scopes, api_keys=api_keys)
    ways: list[dict[str, Any]] = [{"HTTPBearer": []}, {"APIAuthDependency": list(scopes)}]
    if api_keys:
        ways.append({"APIKeyHeader": []})

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                servers=app.servers,
            )
            _complete(document, bodies, schemes)
            _protect(document, app, ways)
            openapi_names.name(document)
            openapi_examples.show(document)
            openapi_answers.show(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _schemes(
    token_url: str, authorization_url: str | None, scopes: dict[str, str], *, api_keys: bool
) -> dict[str, Any]:
    """Return the ways to show who asks."""
    flows: dict[str, Any] = {"clientCredentials": {"scopes": scopes, "tokenUrl": token_url}}
    if authorization_url is not None:
        flows["authorizationCode"] = {
            "scopes": scopes,
            "tokenUrl": token_url,
            "authorizationUrl": authorization_url,
        }
    schemes: dict[str, Any] = {
        "HTTPBearer": {"type": "http", "scheme": "bearer"},
        "APIAuthDependency": {
            "type": "oauth2",
            "flows": flows,
        },
    }
    if api_keys:
        schemes["APIKeyHeader"] = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    return schemes


def _complete(document: dict[str, Any], bodies: Iterable[type[BaseModel]], schemes: dict[str, Any]) -> None:
    """Add the schemas of errors and bodies, and the ways to show who asks."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas |= _components((ApiResponseError, *bodies))
    components["securitySchemes"] = schemes


def _protect(document: dict[str, Any], app: FastAPI, ways: list[dict[str, Any]]) -> None:
    """Say of each operation what an error looks like, and of all but the public ones that they want a token."""
    failure = {"$ref": REF.format(model="ApiResponseError")}
    free = {
        (method.lower(), getattr(route, "path", ""))
        for route in app.routes
        if terms_of(route).public
        for method in getattr(route, "methods", None) or ()
    }
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            operation["responses"].pop("422", None)
            for statuses, description in (("4XX", "The request failed"), ("5XX", "The gateway or a system failed")):
                operation["responses"][statuses] = {
                    "description": description,
                    "content": {"application/json": {"schema": failure}},
                }
            if (method, path) not in free:
                operation["security"] = ways
