"""hpcgate's OpenAPI offers at least what the FirecREST v2 contract does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from hpcgate.api.terms import terms_of
from hpcgate.config import Settings
from hpcgate.server.app import create_app

CONTRACT = json.loads((Path(__file__).parent / "firecrest-v2.openapi.json").read_text())
GENERAL = {
    "auth": {"authentication": {"token_url": "http://127.0.0.1/token"}},
    "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1"},
}


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    return create_app(Settings.model_validate(GENERAL)).openapi()


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        target: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def alternatives(document: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    schema = resolve(document, schema)
    found = []
    for key in ("anyOf", "oneOf"):
        for item in schema.get(key, []):
            found += alternatives(document, item)
    return found or [schema]


def kinds(document: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    found = set()
    for item in alternatives(document, schema):
        if "const" in item or "enum" in item:
            found.add("string")
        elif "type" in item:
            found.add("number" if item["type"] == "integer" else item["type"])
    return found


def enums(document: dict[str, Any], schema: dict[str, Any]) -> set[Any]:
    found: set[Any] = set()
    for item in alternatives(document, schema):
        found |= set(item.get("enum", []))
        if "const" in item:
            found.add(item["const"])
    return found


def free_string(document: dict[str, Any], schema: dict[str, Any]) -> bool:
    return any(
        item.get("type") == "string" and "enum" not in item and "const" not in item
        for item in alternatives(document, schema)
    )


def missing(
    ours: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any], where: str, *, request: bool, depth: int = 0
) -> Iterator[str]:
    """Yield what the contract's schema has and ours lacks."""
    if depth > 8:
        return
    lacking = kinds(CONTRACT, theirs) - kinds(ours, mine) - ({"null"} if not request else set())
    if lacking:
        yield f"{where}: types {sorted(lacking)}"
    if "default" in theirs:
        default = resolve(ours, mine).get("default", "none")
        if default != theirs["default"] and not isinstance(theirs["default"], dict):
            yield f"{where}: default {theirs['default']!r}, ours {default!r}"
    values = enums(CONTRACT, theirs) - enums(ours, mine)
    if values and not free_string(ours, mine):
        yield f"{where}: values {sorted(map(str, values))}"
    properties: dict[str, list[dict[str, Any]]] = {}
    for item in alternatives(ours, mine):
        for name, value in item.get("properties", {}).items():
            properties.setdefault(name, []).append(value)
    for item in alternatives(CONTRACT, theirs):
        for name, value in item.get("properties", {}).items():
            if value.get("writeOnly") and not request:
                continue
            if name not in properties:
                yield f"{where}.{name}: missing"
                continue
            problems = [
                list(missing(ours, candidate, value, f"{where}.{name}", request=request, depth=depth + 1))
                for candidate in properties[name]
            ]
            yield from min(problems, key=len)
        if "items" in item:
            lists = [candidate for candidate in alternatives(ours, mine) if "items" in candidate]
            if lists:
                yield from missing(
                    ours, lists[0]["items"], item["items"], f"{where}[]", request=request, depth=depth + 1
                )
    if request:
        for mine_item, theirs_item in zip(alternatives(ours, mine), alternatives(CONTRACT, theirs), strict=False):
            stricter = set(mine_item.get("required", [])) - set(theirs_item.get("required", []))
            if stricter:
                yield f"{where}: requires {sorted(stricter)}"


def operations() -> list[tuple[str, str]]:
    return [(path, method) for path, methods in CONTRACT["paths"].items() for method in methods]


@pytest.mark.parametrize(("path", "method"), operations(), ids=lambda value: value)
def test_superset(ours: dict[str, Any], path: str, method: str) -> None:
    """Each operation of FirecREST's document is in the gateway's, with at least its parameters and answers."""
    assert path in ours["paths"], "no such path"
    assert method in ours["paths"][path], "no such method"
    mine, theirs = ours["paths"][path][method], CONTRACT["paths"][path][method]
    problems = []
    parameters = {(item["in"], item["name"]): item for item in mine.get("parameters", [])}
    for parameter in theirs.get("parameters", []):
        found = parameters.get((parameter["in"], parameter["name"]))
        if found is None:
            problems.append(f"parameter {parameter['name']} missing")
            continue
        if found.get("required") and not parameter.get("required"):
            problems.append(f"parameter {parameter['name']} required")
        problems += missing(ours, found["schema"], parameter["schema"], parameter["name"], request=True)
    known = {(item["in"], item["name"]) for item in theirs.get("parameters", [])}
    problems += [
        f"parameter {name} required, unknown to the contract"
        for (_, name), item in parameters.items()
        if (_, name) not in known and item.get("required")
    ]
    if "requestBody" in theirs:
        for kind, content in theirs["requestBody"]["content"].items():
            body = mine["requestBody"]["content"][kind]["schema"]
            problems += missing(ours, body, content["schema"], "body", request=True)
    for status, response in theirs["responses"].items():
        if status not in mine["responses"]:
            problems.append(f"status {status} missing")
            continue
        for kind, content in response.get("content", {}).items():
            if content["schema"] == {}:
                continue
            answer = mine["responses"][status]["content"][kind]["schema"]
            problems += missing(ours, answer, content["schema"], f"{status}", request=False)
    assert problems == []


def test_what_needs_a_token_is_what_says_so(ours: dict[str, Any]) -> None:
    app: Any = create_app(Settings.model_validate(GENERAL))
    public = {(method, route.path) for route in app.routes if terms_of(route).public for method in route.methods}
    open_ = {
        (method, path)
        for path, methods in ours["paths"].items()
        for method, operation in methods.items()
        if "security" not in operation
    }
    assert open_ == {
        ("get", "/status/liveness/"),
        ("get", "/status/readiness"),
        ("options", "/filesystem/{system_name}/files/uploads"),
        ("options", "/filesystem/{system_name}/files/uploads/{upload_id}"),
    }
    assert {(method.upper(), path) for method, path in open_} <= public


def test_operations_have_names_that_a_person_would_give(ours: dict[str, Any]) -> None:
    found = [operation for methods in ours["paths"].values() for operation in methods.values()]
    ids = [operation["operationId"] for operation in found]
    assert len(ids) == len(set(ids))
    # FastAPI's own have the path in them, and its summaries each word with a capital.
    assert [name for name in ids if len(name) > 20 or "__" in name] == []
    assert [operation["summary"] for operation in found if " " not in operation["summary"].strip("?")] == []
    assert [operation["summary"] for operation in found if operation["summary"].istitle()] == []


def test_bodies_have_examples_that_fit(ours: dict[str, Any]) -> None:
    bodies = [
        content["application/json"]
        for methods in ours["paths"].values()
        for operation in methods.values()
        if "application/json" in (content := operation.get("requestBody", {}).get("content", {}))
    ]
    assert bodies
    for body in bodies:
        validator = jsonschema_rs.validator_for({**body["schema"], "components": ours["components"]})
        for example in (
            [each["value"] for each in body["examples"].values()] if "examples" in body else [body["example"]]
        ):
            assert [str(error) for error in validator.iter_errors(example)] == []


def test_answers_have_examples_that_fit(ours: dict[str, Any]) -> None:
    """They name nothing that the answer's model does not have."""
    answers = [
        (f"{method} {path}", content["application/json"])
        for path, methods in ours["paths"].items()
        for method, operation in methods.items()
        for status, response in operation["responses"].items()
        if status.startswith("2") and "application/json" in (content := response.get("content", {}))
    ]
    assert len(answers) > 25
    assert [name for name, answer in answers if "example" not in answer] == []
    for name, answer in answers:
        schema = {**strict(answer["schema"]), "components": strict(ours["components"])}
        validator = jsonschema_rs.validator_for(schema)
        assert [str(error) for error in validator.iter_errors(answer["example"])] == [], name


def strict(part: Any) -> Any:
    """Return a schema that takes no properties but those that it names."""
    if isinstance(part, list):
        return [strict(item) for item in part]
    if not isinstance(part, dict):
        return part
    made = {key: strict(value) for key, value in part.items()}
    if "properties" in made and isinstance(made["properties"], dict) and "allOf" not in made:
        made.setdefault("additionalProperties", False)
    return made


def test_what_a_request_must_name_has_an_example_that_fits(ours: dict[str, Any]) -> None:
    parameters = [
        (path, parameter)
        for path, methods in ours["paths"].items()
        for operation in methods.values()
        for parameter in operation.get("parameters", ())
    ]
    assert [(path, each["name"]) for path, each in parameters if each["required"] and "example" not in each] == []
    for _, each in parameters:
        if "example" in each:
            validator = jsonschema_rs.validator_for({**each["schema"], "components": ours["components"]})
            assert [str(error) for error in validator.iter_errors(each["example"])] == []


def test_security_schemes(ours: dict[str, Any]) -> None:
    """The document has each of FirecREST's security schemes."""
    assert set(CONTRACT["components"]["securitySchemes"]) <= set(ours["components"]["securitySchemes"])


def test_references_resolve(ours: dict[str, Any]) -> None:
    """Each reference in the document leads somewhere."""

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                resolve(ours, node)
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(ours)
    assert "#/$defs" not in json.dumps(ours)


@pytest.mark.parametrize(
    ("settings", "servers"),
    [
        ({}, None),
        ({"apis_root_path": "/hpc/v2"}, [{"url": "/hpc/v2"}]),
        (
            {"apis_root_path": "/hpc/v2", "doc_servers": [{"url": "https://api.example.org"}]},
            [{"url": "https://api.example.org"}],
        ),
    ],
)
def test_the_document_says_where_its_paths_begin(settings: dict[str, Any], servers: Any) -> None:
    document = create_app(Settings.model_validate(GENERAL | settings)).openapi()
    assert document.get("servers") == servers
