"""The models of the operations are those of the contract."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from hpcgate.config import plugins
from hpcgate.filesystem.base import Operation

CONTRACT = json.loads((Path(__file__).parent / "firecrest-v2.openapi.json").read_text())
SCHEMAS = CONTRACT["components"]["schemas"]
ROUTES = {
    path.rpartition("/")[2]: (method.upper(), route)
    for path, methods in CONTRACT["paths"].items()
    if path.startswith("/filesystem/{system_name}/ops/") and not path.endswith(("/upload", "/download"))
    for method, route in methods.items()
}


ADDED = {"ls": {"limit", "cursor"}}
"""Parameters of ours that the contract does not have; none of them is required."""


def operations() -> list[type[Operation]]:
    return [point.load() for point in plugins("hpcgate.operations").values()]


def bare(schema: Any, known: dict[str, Any]) -> Any:
    """Return a schema without prose, references resolved, a default of null left out."""
    if isinstance(schema, list):
        return [bare(item, known) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: value if key in ("default", "enum", "required") else bare(value, known)
        for key, value in schema.items()
        if key not in ("title", "description", "$defs") and not (key == "default" and value is None)
    }
    if "properties" in schema:
        kept["properties"] = {key: bare(value, known) for key, value in schema["properties"].items()}
    if "$ref" in kept:
        name = kept.pop("$ref").rpartition("/")[2]
        kept = {"name": name, **bare(known[name], known), **kept}
    if "required" in kept:
        kept["required"] = sorted(kept["required"])
    if "enum" in kept:
        kept["enum"] = sorted(kept["enum"])
    return kept


def ours(schema: dict[str, Any]) -> Any:
    return bare(schema, schema.get("$defs", {}))


def test_every_operation_is_there() -> None:
    assert {operation.name for operation in operations()} == set(ROUTES)


@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.name)
def test_an_operation_is_the_contract_s(operation: Any) -> None:
    method, route = ROUTES[operation.name]
    assert operation.method == method
    assert operation.writes == (method != "GET")
    assert str(operation.status) in route["responses"]
    parameters = operation.Parameters.model_json_schema()
    if method in ("GET", "DELETE"):
        queries = [query for query in route["parameters"] if query["in"] == "query"]
        required = sorted(query["name"] for query in queries if query["required"])
        assert sorted(parameters["required"]) == required
        theirs = {query["name"]: bare(query["schema"], SCHEMAS) for query in queries}
        properties = ours(parameters)["properties"]
        added = {name: properties.pop(name) for name in ADDED.get(operation.name, ())}
        assert properties == theirs
        assert not added.keys() & set(required)
    else:
        name = route["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert operation.Parameters.__name__ == name
        assert ours(parameters) == bare(SCHEMAS[name], SCHEMAS)
    if operation.status == 204:
        assert operation.Result is None
    else:
        content = route["responses"][str(operation.status)]["content"]["application/json"]["schema"]
        output = SCHEMAS[content["$ref"].rpartition("/")[2]]["properties"]["output"]["anyOf"][0]
        result = TypeAdapter(operation.Result).json_schema(mode="validation", ref_template="#/$defs/{model}")
        known = result.get("$defs", {})
        assert without_names(bare(result, known)) == without_names(bare(output, SCHEMAS))
        if "$ref" in output:
            assert operation.Result.__name__ == output["$ref"].rpartition("/")[2]


def without_names(schema: Any) -> Any:
    return {key: value for key, value in schema.items() if key != "name"} if isinstance(schema, dict) else schema


@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.name)
def test_every_field_is_taken_in_both_spellings(operation: Any) -> None:
    fields = operation.Parameters.model_fields
    if operation.method in ("GET", "DELETE"):
        return
    values = {"source_path": "/a", "target_path": "/b", "link_path": "/c", "mode": "644"}
    snake = {name: values[name] for name in fields if name in values}
    for source in ("path", "sourcePath", "source_path"):
        given = {source if name == "source_path" else name: value for name, value in snake.items()}
        # Of a symbolic link it is the text that the link holds.
        assert operation.Parameters.model_validate(given).source_path in (b"/a", "/a")
        camel = {to_camel(name): value for name, value in given.items()}
        assert operation.Parameters.model_validate(camel) == operation.Parameters.model_validate(given)


def to_camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)
