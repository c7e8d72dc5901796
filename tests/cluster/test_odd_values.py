"""Whatever a value holds that a client can write, it is an answer: never a 500, on any route, present or future."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from hpcgate.demo.cluster import Cluster, Gateway
from hpcgate.demo.users import User
from tests.pbs.standin import Standin
from tests.routes import at
from tests.transfers.object_store import ObjectStore

PROBLEM = {"errorType", "message", "causedBy", "data", "user"}
ODD = {
    # What stands in a body, as JSON has it.
    "a lone surrogate": '"\\ud800"',
    "a path with a lone surrogate": '"/x\\ud800"',
    "a byte that is not UTF-8": '"/x\\udcff"',
    "NUL": '"/x\\u0000y"',
    "lines": '"/x\\r\\ny"',
    "nothing": '""',
    "a number": "-1",
    "a number without end": "1e999",
    "not a number": "NaN",
    "a whole number that no machine has": "9" * 60,
    "an object": "{}",
    "a list": '[{"x": null}]',
    "a long path": '"' + "/x" * 3000 + '"',
    "a long name": '"/' + "x" * 300 + '"',
}
QUERY = {
    "a byte that is not UTF-8": "/x%ff",
    "a surrogate": "%ed%a0%80",
    "NUL": "/x%00y",
    "lines": "/x%0d%0ay",
    "nothing": "",
    "a digit that is not ASCII": "%D9%A3",
    "a number without end": "1e999",
    "not a number": "NaN",
    "a whole number that no machine has": "9" * 400,
    "below zero": "-1",
    "a long path": "/x" * 3000,
}
TEXT = ("a lone surrogate", "a surrogate", "a byte that is not UTF-8", "NUL", "lines")
"""What is tried on each way to files; the rest is done with before."""
BASE: dict[str, Any] = {"mode": "700", "owner": "nobody", "script": "#!/bin/sh\ntrue", "account": "no-such-account"}
"""Jobs are refused by the scheduler, if by nobody before."""


ROUTES = {
    # Of a system that differs in one thing: the routes where that counts. Of "demo" all are tried.
    "commands": "/filesystem/",
    "ruled": "/filesystem/",
    "pbs": "/compute/",
    "methods": "/transfer/",
}
FILES = ("commands", "ruled")
METHODS = ("s3", "streamer")
"""Ways of large files, beside that of the other systems."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("s3") / "objects") as running:
        yield running


@pytest.fixture(scope="module")
def served(cluster: Cluster, store: ObjectStore) -> Iterator[Gateway]:
    """A gateway where one system is reached by each way to files, one is PBS, and one under a policy's rule."""
    rules = [
        {"name": "ruled", "systems": ["ruled"], "operations": OPERATIONS, "paths": [f"{cluster.homes}/{{username}}"]},
        {"name": "free", "systems": ["demo", "commands", "pbs", "methods"], "operations": OPERATIONS},
    ]
    transfer: dict[str, Any] = {"data_operation": {"data_transfer": {"service_type": "wormhole"}}, "probing": None}
    port = cluster.take_port()
    streamer = {"service_type": "streamer", "host": "127.0.0.1", "port_range": [port, port]}
    methods: dict[str, Any] = {"data_operation": {"data_transfer": [store.settings(), streamer]}, "probing": None}
    config = cluster.write_gateway_config(
        cluster.directory / "odd-values.yaml",
        clusters=[
            cluster.cluster_settings("demo", **transfer),
            cluster.cluster_settings("commands", ssh={"files": "commands"}, **transfer),
            cluster.cluster_settings("ruled", **transfer),
            cluster.cluster_settings("pbs", **Standin.install(cluster, "odd-pbs").settings()),
            cluster.cluster_settings("methods", **methods),
        ],
        auth={"policy": {"rules": rules}},
        audit={"to": str(cluster.directory / "odd-values-audit.log")},
        metrics={"path": "/metrics"},
    )
    running = cluster.start_gateway(config)
    yield running
    running.stop()


OPERATIONS = ["status:read", "compute:read", "compute:submit", "fs:read", "fs:write", "transfer"]


def resolved(spec: Any, schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema, or those of which it is one, without references."""
    if "$ref" in schema:
        yield from resolved(spec, spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        return
    several = [one for kind in ("anyOf", "oneOf", "allOf") for one in schema.get(kind, ())]
    for one in several:
        yield from resolved(spec, one)
    if not several:
        yield schema


def fields(spec: Any, schema: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the place of each field in a body, those of objects within it, too."""
    for one in resolved(spec, schema):
        for name, inner in one.get("properties", {}).items():
            yield (*place, name)
            yield from fields(spec, inner, (*place, name))
        if one.get("additionalProperties"):
            yield (*place, "ANY")


def filled(spec: Any, schema: Any, home: str) -> Any:
    """Return a body with all that is required, which would do what it says to nothing that is there."""
    one = next(resolved(spec, schema))
    body = {}
    for name, inner in one.get("properties", {}).items():
        kind = next(resolved(spec, inner))
        if kind.get("type") == "object" or "properties" in kind:
            body[name] = filled(spec, inner, home)
        elif name in one.get("required", ()) or name in BASE:
            integer = kind.get("type") == "integer"
            body[name] = kind["enum"][0] if "enum" in kind else 1 if integer else BASE.get(name, f"{home}/not/there")
    return body


def put(body: Any, place: tuple[str, ...], mark: str) -> Any:
    """Return a body with a value at a place."""
    name, *rest = place
    inner = body.get(name)
    return {**body, name: put(inner if isinstance(inner, dict) else {}, tuple(rest), mark) if rest else mark}


MARK = "the value"


def bodies(spec: Any, home: str, system: str) -> Iterator[tuple[str, str, str, bytes]]:
    """Yield method, path, what is odd, and the body."""
    values = {name: odd for name, odd in ODD.items() if system not in FILES or name in TEXT}
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if schema is None:
                continue
            for good in variants(filled(spec, schema, home), system):
                for place in dict.fromkeys(fields(spec, schema)):
                    text = json.dumps(put(good, place, MARK))
                    for name, odd in values.items():
                        yield method, path, f"{'.'.join(place)}: {name}", text.replace(json.dumps(MARK), odd).encode()


def variants(body: Any, system: str) -> Iterator[Any]:
    """Yield a body, or those for each way of large files that a system has."""
    if system != "methods" or "transferDirectives" not in body:
        yield body
        return
    for method in METHODS:
        yield {**body, "transferDirectives": {"transferMethod": method, "fileSize": 1}}


def queries(spec: Any, home: str, system: str) -> Iterator[tuple[str, str, str]]:
    """Yield method, path and query."""
    values = [odd for name, odd in QUERY.items() if system not in FILES or name in TEXT]
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            given = [one for one in operation.get("parameters", ()) if one["in"] == "query"]
            required = {one["name"]: f"{home}/not/there" for one in given if one.get("required")}
            for name in (one["name"] for one in given):
                for odd in values:
                    yield method, path, "&".join(f"{key}={value}" for key, value in {**required, name: odd}.items())


@pytest.fixture(scope="module")
def spec(served: Gateway) -> Any:
    return httpx.get(f"{served.url}/openapi.json").json()


ENDLESS = "text/event-stream"
"""What such an answer comes as: nobody waits for its end."""


def complaint(client: httpx.Client, method: str, path: str, what: str, system: str, **sent: Any) -> str:
    """Ask, and return what is wrong with the answer; nothing if all is well."""
    with client.stream(method, at(path, system_name=system, upload_id="0" * 32), **sent) as answer:
        if answer.is_success and answer.headers.get("Content-Type", "").startswith(ENDLESS):
            return ""
        answer.read()
    well = answer.status_code not in (500, 502)
    if answer.is_error and method != "head":
        well = well and answer.json().keys() == PROBLEM
    return "" if well else f"{answer.status_code} {method} {path} {what[:80]}: {answer.text[:300]}"


@pytest.fixture(scope="module")
def ask(served: Gateway, cluster: Cluster) -> Iterator[Callable[..., str]]:
    headers = {"Authorization": f"Bearer {cluster.token(cluster.user('alice'))}", "Tus-Resumable": "1.0.0"}
    with httpx.Client(base_url=served.url, headers=headers, timeout=600) as client:
        yield partial(complaint, client)


@pytest.fixture(scope="module")
def alice_user(cluster: Cluster) -> User:
    return cluster.user("alice")


@pytest.mark.parametrize("system", ["demo", *ROUTES])
def test_any_value_in_a_body_is_answered(system: str, ask: Callable[..., str], spec: Any, alice_user: User) -> None:
    tried, wrong = 0, []
    for method, path, what, body in bodies(spec, str(alice_user.home), system):
        if ROUTES.get(system, "") not in path:
            continue
        wrong.append(ask(method, path, what, system, content=body, headers={"Content-Type": "application/json"}))
        tried += 1
    assert list(filter(None, wrong)) == []
    assert tried > 100


@pytest.mark.parametrize("system", ["demo", *ROUTES])
def test_any_value_in_a_query_is_answered(system: str, ask: Callable[..., str], spec: Any, alice_user: User) -> None:
    tried, wrong = 0, []
    for method, path, query in queries(spec, str(alice_user.home), system):
        if ROUTES.get(system, "") not in path:
            continue
        wrong.append(ask(method, f"{path}?{query}", query, system))
        tried += 1
    assert list(filter(None, wrong)) == []
    assert tried > (5 if system in ("pbs", "methods") else 50)


MANY = {
    # Of lists that hold an odd value, the answer tells of each item, and of the good ones whatever the odd one is.
    "bulk": '{"jobs": [{"job": {"workingDirectory": %s, "script": "x"}}, '
    '{"job": {"workingDirectory": "/no", "script": "x"}}]}',
    "bulk by scriptPath": '{"jobs": [{"job": {"workingDirectory": "/tmp", "scriptPath": %s, "account": %s}}]}',
    "bulk keys": '{"jobs": [{"idempotencyKey": %s, "job": {"workingDirectory": "/tmp", "script": "x"}}]}',
    "bulk with keys": '{"jobs": [{"idempotencyKey": "odd", "job": {"workingDirectory": %s, "script": "x"}}]}',
    "cancel": '{"ids": [%s, "0"]}',
    "cancel by name": '{"name": %s}',
}


@pytest.mark.parametrize("system", ["demo", "pbs"])
@pytest.mark.parametrize("kind", MANY)
def test_any_value_in_a_list_of_jobs_is_answered(kind: str, system: str, ask: Callable[..., str]) -> None:
    path = f"/compute/{{system_name}}/jobs/{kind.partition(' ')[0]}"
    wrong = []
    for name in (*TEXT[:1], *TEXT[2:], "a path with a lone surrogate", "a long path"):
        body = MANY[kind].replace("%s", ODD[name]).encode()
        wrong.append(ask("post", path, name, system, content=body, headers={"Content-Type": "application/json"}))
    assert list(filter(None, wrong)) == []


def test_nothing_of_it_was_a_fault_of_the_gateway(served: Gateway) -> None:
    """The last of this module."""
    lines = httpx.get(f"{served.url}/metrics").text.splitlines()
    assert not [line for line in lines if line.startswith("hpcgate_internal_errors_total") and line[-4:] != " 0.0"]
    assert "request.crashed" not in served.log.read_text()
