"""JSON bodies that are large, costly, late or cut off."""

import asyncio
import gc
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from starlette.requests import ClientDisconnect, Request

from hpcgate.admission.bodies import USER_SHARE, Arrivals
from hpcgate.api import errors
from hpcgate.api.errors import InvalidParameters
from hpcgate.api.json_bodies import MAX_DEPTH, Shape, models_of, read_body, read_json, validated
from hpcgate.api.routes.operations import registered
from hpcgate.config import Settings
from hpcgate.errors import (
    BadRequest,
    GatewayError,
    RateLimited,
    TimedOut,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
)
from hpcgate.http.body import Body, Bounds
from hpcgate.server.app import create_app


def request(
    *blocks: bytes | None, bounds: Bounds | None = None, arrivals: Arrivals | None = None, size: int | None = None
) -> Request:
    """A request whose body comes in blocks; None is a client that sends no more, no last block one that has gone."""
    left = list(blocks)

    async def receive() -> dict[str, Any]:
        if not left:
            return {"type": "http.disconnect"}
        block = left.pop(0)
        if block is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": block, "more_body": block != b"" and bool(left)}

    body = Body(receive, size, awaited=False)
    body.open(bounds or Bounds(10**9, 60), arrivals or Arrivals(2, 10**9), "alice")
    return Request({"type": "http", "method": "POST", "headers": [], "state": {"body": body}}, body.receive)


async def test_a_body_of_exactly_the_limit() -> None:
    assert await read_body(request(b"123", b"45", b"", bounds=Bounds(5, 60))) == b"12345"


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip", "x", "identity, gzip", "Identity", ""])
async def test_a_coding_is_refused(coding: str) -> None:
    asked = request(b"{}")
    asked.scope["headers"] = [(b"content-encoding", coding.encode())]
    if coding.lower() in ("", "identity"):
        assert await read_json(asked) == {}
        return
    with pytest.raises(UnsupportedMediaType) as refused:
        await read_json(asked)
    assert refused.value.headers == {"Accept-Encoding": "identity"}


ODD_TEXT = {
    r'{"a": "\ud800"}': False,
    r'{"\udfff": 1}': False,
    r'["\udc00"]': False,
    '["\ud800"]': False,
    r'["\ud83d\ude00", "\u00e9"]': True,
    r'["/a\udcff"]': True,
}
"""Text, and whether it can be written as bytes: some lone surrogates stand for bytes of file names."""


@pytest.mark.parametrize("text", ODD_TEXT)
async def test_text_that_stands_for_no_bytes_is_refused(text: str) -> None:
    asked = request(text.encode("utf-8", "surrogatepass"))
    if ODD_TEXT[text]:
        assert await read_json(asked)
        return
    with pytest.raises(BadRequest) as refused:
        await read_json(asked)
    assert "not valid Unicode" in refused.value.caused_by[0]


async def test_one_byte_more() -> None:
    """A body of one byte more than its bound is refused."""
    with pytest.raises(TooLarge):
        await read_body(request(b"123", b"456", None, bounds=Bounds(5, 60)))


def test_one_byte_more_announced() -> None:
    with pytest.raises(TooLarge):
        request(None, bounds=Bounds(5, 60), size=6)


async def test_a_client_that_sends_no_more() -> None:
    with pytest.raises(TimedOut, match="did not arrive within"):
        await read_body(request(b"123", None, bounds=Bounds(5, 0.05)))


async def test_a_stream_that_stalls() -> None:
    with pytest.raises(TimedOut, match="sent nothing for"):
        await read_body(request(b"x" * 100, None, bounds=Bounds(None, 0.05, rate=1)))


async def test_a_stream_that_trickles() -> None:
    async def trickle() -> dict[str, Any]:
        await asyncio.sleep(0.04)
        return {"type": "http.request", "body": b"x", "more_body": True}

    body = Body(trickle, None, awaited=False)
    body.open(Bounds(None, 0.5, rate=1000), Arrivals(1, 10**9), "alice")

    async def read() -> None:
        while True:
            await body.receive()

    with pytest.raises(TimedOut, match=r"fewer than 1000 bytes a second|nothing"):
        await read()


async def test_time_in_which_nobody_asks_does_not_count() -> None:
    asked = request(b"1", b"2", b"", bounds=Bounds(None, 0.2, rate=1000))
    found = []
    async for block in asked.stream():
        found.append(block)
        await asyncio.sleep(0.15)
    assert b"".join(found) == b"12"


async def test_a_client_that_has_gone() -> None:
    with pytest.raises(ClientDisconnect):
        await read_body(gone())


def gone() -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    body = Body(receive, None, awaited=False)
    body.open(Bounds(5, 60), Arrivals(1, 10**9), "alice")
    return Request({"type": "http", "method": "POST", "headers": [], "state": {"body": body}}, body.receive)


async def test_a_user_has_so_many_under_way_and_no_more() -> None:
    arrivals = Arrivals(2, 10**9)
    waiting = [asyncio.create_task(read_body(request(None, arrivals=arrivals))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(RateLimited):
        await read_body(request(b"{}", arrivals=arrivals))
    other = request(b"{}", arrivals=arrivals)
    other.scope["state"]["body"]._username = "bob"
    assert await read_body(other) == b"{}"
    assert arrivals.waiting == 2
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_bodies_take_so_much_memory_and_no_more() -> None:
    arrivals = Arrivals(99, 100 * USER_SHARE)
    first = request(b"x" * 60, b"y" * 30, b"", arrivals=arrivals)
    await read_body(first)
    assert arrivals.kept == 90
    with pytest.raises(RateLimited):
        await read_body(request(b"x" * 10, b"y" * 10, b"", arrivals=arrivals))
    first.scope["state"]["body"].close()
    await read_body(request(b"x" * 10, b"y" * 10, b"", arrivals=arrivals))
    small = Arrivals(99, 100 * USER_SHARE)
    for number in range(USER_SHARE):
        small.keep(f"user{number}", 100)
    with pytest.raises(Unavailable):
        small.keep("one more", 1)


@pytest.mark.parametrize(("character", "width"), [("a", 1), ("\u4e2d", 2), ("\U0001f600", 4)])
async def test_the_memory_of_a_body_is_that_of_its_text(character: str, width: int) -> None:
    arrivals = Arrivals(99, 10**9)
    text = json.dumps({"name": "x" * 10**6 + character}, ensure_ascii=False)
    asked = request(*cut(text.encode(), 65_536), b"", arrivals=arrivals)
    await read_json(asked)
    assert width * 10**6 <= arrivals.kept < (width + 0.1) * 10**6
    asked.scope["state"]["body"].close()
    assert arrivals.kept == 0


class Model(BaseModel):
    name: str


def costly(text: bytes) -> bytes:
    return text[: 4 * 1024 * 1024]


SHAPES = {
    "arrays": costly(b"[" + b"[]," * 10**6),
    "numbers": costly(b"[" + b"1," * 10**7),
    "strings": costly(b"[" + b'"",' * 10**7),
    "pairs": b"{" + b",".join(b'"%d":1' % number for number in range(200_000)) + b"}",
    "within strings that are none": costly(b'[""' + b'[],""' * 10**6),
    "deep": b"[" * 100_000,
    "closed before it is opened": b"]" * 100_000,
    "opened and closed": b"[]" * 100_000,
    "closed too often": b"{}" + b"}" * 100_000,
    "deep and small": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    "deep in a field that nobody asks for": b'{"name": "a", "x": ' + b'{"a":[' * 20 + b"1" + b"]}" * 20 + b"}",
    "long number": b"1" * 10**6,
    "long numbers": b"[" + b",".join([b"1" * 4000] * 1000) + b"]",
    "long fraction": b"[0." + b"1" * 10**6,
    "UTF-16": json.dumps(['"[]'] * 100).encode("utf-16"),
    "a name twice": b'{"name": "a", "name": "b"}',
    "a name twice, spelt in two ways": b'{"x": [{"name": "a", "n\\u0061me": "a"}]}',
    "nothing": b"",
    "half": b'{"name": "',
    "half and long": b'{"name": "' + b"x" * 10**6,
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("block", [10**9, 60_000, 65_537])
async def test_what_no_model_has_is_refused(name: str, block: int) -> None:
    text = SHAPES[name]
    with pytest.raises(BadRequest):
        await read_json(request(*cut(text, block), b""))


def cut(text: bytes, block: int) -> list[bytes]:
    return [text[start : start + block] for start in range(0, len(text), block)]


async def test_a_long_script_is_no_structure() -> None:
    script = '#!/bin/bash\n# [[{{,,:"\\\\' * 150_000
    text = json.dumps({"script": script, "env": {f"V{number}": "x,[\\" for number in range(5000)}}).encode()
    for block in (1000, 65_536, 10**9):
        assert (await read_json(request(*cut(text, block), b"")))["script"] == script


LEAVES = st.none() | st.booleans() | st.floats(allow_nan=False) | st.text('ab"\\[]{},:ä\ud800', max_size=8)
JSON: st.SearchStrategy[Any] = LEAVES
for _ in range(4):
    JSON = LEAVES | st.lists(JSON, max_size=4) | st.dictionaries(st.text('"\\[{,', max_size=4), JSON, max_size=4)


def shape_of(value: Any) -> tuple[int, int]:
    """Return how many values there are, and how deep they lie."""
    if not isinstance(value, list | dict):
        return 1, 0
    inner = [*value, *value.values()] if isinstance(value, dict) else value
    shapes = [shape_of(item) for item in inner]
    return 1 + sum(count for count, _ in shapes), 1 + max((depth for _, depth in shapes), default=0)


@given(value=JSON, block=st.integers(1, 9), pretty=st.booleans(), plain=st.booleans())
def test_values_and_depth_are_counted(value: Any, block: int, pretty: bool, plain: bool) -> None:
    text = json.dumps(value, indent=1 if pretty else None, ensure_ascii=plain).encode("utf-8", "surrogatepass")
    shape = Shape()
    for part in cut(text, block):
        shape.feed(part)
    count, depth = shape_of(value)
    assert shape.depth == 0
    assert shape.deepest == depth
    assert count - 1 <= shape.values <= 3 * count


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[" * 33 + b"]" * 33, "nested too deeply"),
        (b"[" + b"0," * 40_000 + b"0]", "too many values"),
        (b"[" + b'"",' * 40_000 + b"0]", "too many values"),
    ],
    ids=["deep", "wide", "wide with strings"],
)
def test_what_has_too_much_in_it_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        Shape().feed(text)


KINDS = (GatewayError, InvalidParameters, ValidationError, ValueError, Body, Request, bytearray)


@pytest.fixture
def standing() -> Iterator[None]:
    """List what only the garbage collector would free."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("text", [b"x" * 10**6, b'{"name": [' + b'"xx",' * 5000 + b"1]}", b"[" * 10**5, b"[1]", b"{}"])
async def test_what_fails_is_freed_at_once(text: bytes, standing: None) -> None:
    async def fail() -> None:
        asked = request(*cut(text, 60_000), b"")
        try:
            validated(Model, await read_json(asked))
        except (BadRequest, InvalidParameters) as error:
            errors.answer_to(asked, error)
        finally:
            asked.scope["state"]["body"].close()

    await fail()
    gc.collect()
    assert not [item for item in gc.garbage if isinstance(item, KINDS)]


GENERAL = {
    "auth": {"authentication": {"token_url": "http://127.0.0.1/token"}},
    "ssh_credentials": {"type": "SSHService", "url": "http://127.0.0.1"},
}


def body_models() -> Iterator[type[BaseModel]]:
    app = create_app(Settings.model_validate(GENERAL))
    yield from (model for _, model in models_of(app.routes))
    yield from (operation.Parameters for operation in registered() if operation.method in ("POST", "PUT"))


BODIES = {model.__name__: model for model in body_models()}


STRICT: dict[str, dict[str, object]] = {
    "PostJobSubmitRequest": {"job": {"workingDirectory": "/", "script": "#!/bin/sh"}},
    "PostJobsBulkRequest": {"jobs": [{"job": {"workingDirectory": "/", "script": "#!/bin/sh"}}]},
    "PostJobsCancelRequest": {"ids": ["1"]},
    "PostJobSignalRequest": {"signal": "USR1"},
    "PatchJobRequest": {"name": "x"},
}
"""Bodies of which each field must be known."""


@pytest.mark.parametrize("name", STRICT)
def test_a_strict_body_is_refused_for_a_field_that_it_does_not_know(name: str) -> None:
    with pytest.raises(InvalidParameters) as refused:
        validated(BODIES[name], STRICT[name] | {"derefrence": True})
    assert [(error["loc"], error["type"]) for error in refused.value.error.errors()] == [
        (("derefrence",), "extra_forbidden")
    ]


def filled(model: type[BaseModel]) -> dict[str, Any]:
    """Return a body that fits."""
    values: dict[str, Any] = {
        "mode": "755",
        "uid": 1,
        "command": "id",
        "transferDirectives": {"transferMethod": "s3", "fileSize": 1},
    }
    return {
        to_camel(name): values.get(to_camel(name), "/a")
        for name, field in model.model_fields.items()
        if field.is_required() or name in ("command",)
    }


@pytest.mark.parametrize("name", sorted(set(BODIES) - set(STRICT)))
def test_a_body_tells_of_fields_that_it_does_not_know(name: str) -> None:
    given, remarks = validated(BODIES[name], filled(BODIES[name]) | {"derefrence": True, "a\r\nX: \u20ac": 1})
    assert not hasattr(given, "derefrence")
    assert remarks == [
        '"derefrence" is not a field that is known here',
        '"a\\r\\nX: \\u20ac" is not a field that is known here',
    ]


@pytest.mark.parametrize("name", ["dryRun", "dry_run", "DRYRUN"])
def test_a_body_that_wants_nothing_done_is_refused(name: str) -> None:
    """POST jobs has a parameter for that, and nothing else has: what was not meant to be done is not done."""
    for body in sorted(set(BODIES) - set(STRICT)):
        with pytest.raises(BadRequest, match="it would be done"):
            validated(BODIES[body], filled(BODIES[body]) | {name: True})


def test_a_body_that_is_wrong_besides_is_refused_with_all_of_it() -> None:
    with pytest.raises(InvalidParameters) as refused:
        validated(BODIES["MoveRequest"], {"path": "/a", "derefrence": True})
    assert {error["type"] for error in refused.value.error.errors()} == {"missing", "extra_forbidden"}


METHODS: dict[str, dict[str, object]] = {
    "s3": {"fileSize": 1},
    "streamer": {},
    "wormhole": {"wormholeCode": "1-a"},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", ["PostFileUploadRequest", "PostFileDownloadRequest"])
def test_an_unknown_field_within_another_is_named(model: str, method: str) -> None:
    directives = {"transferMethod": method, **(METHODS[method] if "Upload" in model else {}), "size": 1}
    _, remarks = validated(BODIES[model], {"path": "/a", "transferDirectives": directives})
    assert remarks == [f'"transferDirectives.{method}.size" is not a field that is known here']


ODD: tuple[Any, ...] = (
    None,
    True,
    3,
    1.5,
    "x",
    [],
    [None, None],
    {},
    {"": None},
    {"transferMethod": []},
    {"transfer_method": {}},
)


@pytest.mark.parametrize("name", sorted(BODIES))
def test_a_field_of_any_other_kind_is_refused_and_no_fault(name: str) -> None:
    model = BODIES[name]
    for field in model.model_fields:
        for value in ODD:
            with suppress(InvalidParameters):
                validated(model, (filled(model) if name not in STRICT else {}) | {to_camel(field): value})
    for body in ODD:
        with suppress(InvalidParameters):
            validated(model, body)


SIZE = "transferDirectives.fileSize is not used: the sender tells the receiver"
SENT: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "pyfirecrest, mkdir": ("PostMakeDirRequest", {"sourcePath": "/a", "parent": False}, []),
    "pyfirecrest, symlink": ("PostFileSymlinkRequest", {"sourcePath": "/a", "linkPath": "/b"}, []),
    "pyfirecrest, compress": (
        "PostCompressRequest",
        {"source_path": "/a", "target_path": "/b", "dereference": False, "compression": "gzip"},
        [],
    ),
    "pyfirecrest, transfer/compress": (
        "CompressRequest",
        {
            "source_path": "/a",
            "target_path": "/b",
            "dereference": False,
            "compression": "gzip",
            "match_pattern": None,
            "account": "c",
        },
        [],
    ),
    "pyfirecrest, s3": (
        "PostFileUploadRequest",
        {"path": "/a", "transfer_directives": {"file_size": 1, "transfer_method": "s3"}, "account": "c"},
        [],
    ),
    "pyfirecrest, streamer": (
        "PostFileUploadRequest",
        {"path": "/a", "transfer_directives": {"file_size": 1, "transfer_method": "streamer"}},
        [SIZE],
    ),
    "pyfirecrest, wormhole": (
        "PostFileUploadRequest",
        {"path": "/a", "transfer_directives": {"wormholeCode": "1-a", "transfer_method": "wormhole"}},
        [],
    ),
    "pyfirecrest, download": (
        "PostFileDownloadRequest",
        {"source_path": "/a", "transfer_directives": {"transferMethod": "streamer"}},
        [],
    ),
    "a code that a download does not take": (
        "PostFileDownloadRequest",
        {"path": "/a", "transferDirectives": {"transferMethod": "wormhole", "wormholeCode": "1-a"}},
        ["transferDirectives.wormholeCode is not used: the sender, which is the job, makes it"],
    ),
    "firecrest-ui, upload": (
        "PostFileUploadRequest",
        {"sourcePath": "/a/b", "account": None, "transferDirectives": {"fileSize": 1, "transferMethod": "s3"}},
        [],
    ),
    "firecrest-ui, job": (
        "PostJobSubmitRequest",
        {"job": {"name": "a", "script": "#!/bin/sh", "workingDirectory": "/a", "environment": {"A": "b"}}},
        ["job.environment is not used: the job's variables are job.env"],
    ),
    "a method of a plug-in": (
        "PostFileUploadRequest",
        {"path": "/a", "transferDirectives": {"transferMethod": "globus", "endpoint": "x"}},
        [],
    ),
    "nulls": ("MoveRequest", {"path": "/a", "targetPath": "/b", "account": None, "odd": None}, []),
}
"""What clients of FirecREST's send, and what is said of it."""


@pytest.mark.parametrize("sent", SENT)
def test_what_clients_send_is_taken(sent: str) -> None:
    model, body, remarks = SENT[sent]
    assert validated(BODIES[model], body)[1] == remarks
