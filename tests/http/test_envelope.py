"""Ids, headers, slashes and hang-ups, on bare ASGI."""

import asyncio
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpcgate.http import disconnect, envelope
from hpcgate.http.body import body_in
from hpcgate.http.disconnect import HangUp
from hpcgate.http.envelope import Envelope, TrailingSlash, accepted_id
from hpcgate.telemetry.containment import FAULTS


def scope(path: str = "/", headers: list[tuple[bytes, bytes]] | None = None) -> Scope:
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "headers": headers or [],
        "client": ("127.0.0.1", 1),
        "state": {},
    }


async def nothing() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def call(app: ASGIApp, asked: Scope, receive: Receive = nothing) -> tuple[int, dict[str, str]]:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    await app(asked, receive, send)
    headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return messages[0]["status"], headers


def answering(seen: Callable[[Scope], None] = lambda _: None) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


async def test_every_answer_has_its_headers() -> None:
    status, headers = await call(Envelope(answering(), app_version="2.5.7"), scope())
    assert status == 200
    assert float(headers["f7t-timestamp"]) > 1.7e9
    assert headers["f7t-appversion"] == "2.5.7"
    assert "f7t-authusername" not in headers
    UUID(headers["x-request-id"])
    UUID(headers["x-correlation-id"])
    assert headers["x-request-id"] != headers["x-correlation-id"]


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: x", b"a\nb", b"a\rb", b"a\0b", b"\x7f", b"\x1b[2J"])
async def test_what_no_header_may_hold_is_replaced_and_counted(value: bytes) -> None:
    """The server would drop the connection without an answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-odd", value), (b"x-fine", b"a\tb")]})
        await send({"type": "http.response.body", "body": b""})

    before = FAULTS.counts["http.header"]
    status, headers = await call(Envelope(app, app_version="2.5.7"), scope())
    assert status == 200
    assert not re.search("[\x00-\x1f\x7f]", headers["x-odd"])
    assert headers["x-fine"] == "a\tb"
    assert FAULTS.counts["http.header"] == before + 1


async def test_user_name_once_authenticated() -> None:
    def authenticate(asked: Scope) -> None:
        asked["state"]["username"] = "alice"

    _, headers = await call(Envelope(answering(authenticate), app_version="2.5.7"), scope())
    assert headers["f7t-authusername"] == "alice"


async def test_the_callers_ids_are_kept() -> None:
    given = [(b"x-request-id", b"my request/1 {x}"), (b"x-correlation-id", b"c" * 128)]
    _, headers = await call(Envelope(answering(), app_version="2.5.7"), scope(headers=given))
    assert headers["x-request-id"] == "my request/1 {x}"
    assert headers["x-correlation-id"] == "c" * 128


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"a\r\nb", b"a\x00", b"caf\xe9", None])
def test_unusable_ids(value: bytes | None) -> None:
    """A request id that is not a plain one is not taken over."""
    assert accepted_id(value) is None


@pytest.mark.parametrize(
    ("path", "seen"),
    [("/status/systems/", "/status/systems"), ("/a//", "/a"), ("/", "/"), ("//", "//"), ("/a", "/a")],
)
async def test_trailing_slash(path: str, seen: str) -> None:
    """A slash at the end of a path is not part of its name."""
    paths: list[str] = []
    await call(TrailingSlash(answering(lambda asked: paths.append(asked["path"]))), scope(path))
    assert paths == [seen]


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(60)


async def test_a_request_whose_client_hangs_up_is_cancelled() -> None:
    cancelled = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError("nothing to say to a client that has gone")

    async with asyncio.timeout(300):
        await HangUp(app)(scope(), receive, send)
    assert cancelled.is_set()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize("when", ["before it begins", "while it runs"])
async def test_a_server_that_tells_needs_no_watch(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    monkeypatch.setattr(disconnect.HangUp, "_look", pytest.fail)
    asked = scope()
    asked["state"][disconnect.CONNECTED] = True
    begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        raise AssertionError("nothing to say to a client that has gone")

    request = asyncio.create_task(HangUp(app)(asked, nothing, send))
    if when == "while it runs":
        await begun.wait()
    before = asyncio.all_tasks()
    # A connection that is lost tells the last request and the one that is served, which may be the same.
    envelope.tell_gone(asked["state"])
    envelope.tell_gone(asked["state"])
    async with asyncio.timeout(300):
        await request
    assert asyncio.all_tasks() == before - {request}
    assert asked["state"] == {disconnect.CONNECTED: False}


async def test_whoever_reads_a_body_is_not_cut_off_by_a_server_that_tells() -> None:
    asked = scope(headers=[(b"content-length", b"6")])
    gone = asyncio.Event()
    kept: list[bytes] = []

    async def receive() -> Message:
        if not kept:
            return {"type": "http.request", "body": b"one", "more_body": True}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kept.append((await receive())["body"])
        assert (await receive())["type"] == "http.disconnect"
        await asyncio.sleep(0)
        kept.append(b"put away")

    async def send(message: Message) -> None: ...

    asked["state"]["body"] = body_in(asked, receive)
    asked["state"][disconnect.CONNECTED] = True
    request = asyncio.create_task(HangUp(app)(asked, receive, send))
    while not kept:
        await asyncio.sleep(0)
    envelope.tell_gone(asked["state"])
    gone.set()
    async with asyncio.timeout(300):
        await request
    assert kept == [b"one", b"put away"]


async def test_whoever_has_not_begun_to_read_a_body_is_told_as_others_are() -> None:
    """A stream whose request brought a body, which no GET reads, went on for a day after its client had left."""
    asked = scope(headers=[(b"content-length", b"6")])
    begun = asyncio.Event()

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def send(message: Message) -> None: ...

    asked["state"]["body"] = body_in(asked, receive)
    asked["state"][disconnect.CONNECTED] = True
    request = asyncio.create_task(HangUp(app)(asked, receive, send))
    await begun.wait()
    envelope.tell_gone(asked["state"])
    async with asyncio.timeout(300):
        await request


async def test_cancellation_from_elsewhere_passes_through() -> None:
    async def send(message: Message) -> None: ...

    task = asyncio.create_task(HangUp(slow)(scope(), nothing, send))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_body_is_read_by_the_application_alone() -> None:
    body: list[bytes] = []
    parts: list[Message] = [
        {"type": "http.request", "body": b"one", "more_body": True},
        {"type": "http.request", "body": b"two", "more_body": False},
    ]

    async def receive() -> Message:
        if parts:
            return parts.pop(0)
        return await nothing()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.1)  # longer than the watch takes to begin
        while True:
            message = await receive()
            body.append(message["body"])
            await asyncio.sleep(0.05)
            if not message["more_body"]:
                break

    async def send(message: Message) -> None: ...

    asked = scope(headers=[(b"content-length", b"6")])
    asked["state"]["body"] = body_in(asked, receive)
    await HangUp(app)(asked, receive, send)
    assert body == [b"one", b"two"]


async def test_who_has_read_of_the_hang_up_may_put_away_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disconnect, "WATCH_AFTER", 0.01)
    parts: list[Message] = [{"type": "http.request", "body": b"one", "more_body": True}]
    kept: list[bytes] = []

    async def receive() -> Message:
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.1)  # longer than the watch takes to begin
        body = (await receive())["body"]
        assert (await receive())["type"] == "http.disconnect"
        await asyncio.sleep(0.1)
        kept.append(body)

    async def send(message: Message) -> None: ...

    asked = scope(headers=[(b"content-length", b"6")])
    asked["state"]["body"] = body_in(asked, receive)
    await HangUp(app)(asked, receive, send)
    assert kept == [b"one"]


async def test_an_empty_body_is_still_there_when_it_is_read_late() -> None:
    parts: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if parts:
            return parts.pop(0)
        return await nothing()

    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.1)
        seen.append(await receive())

    async def send(message: Message) -> None: ...

    await HangUp(app)(scope(), receive, send)
    assert seen == [{"type": "http.request", "body": b"", "more_body": False}]


async def test_no_task_is_left() -> None:
    before = asyncio.all_tasks()

    async def send(message: Message) -> None: ...

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.1)

    await HangUp(app)(scope(), nothing, send)
    assert asyncio.all_tasks() == before
