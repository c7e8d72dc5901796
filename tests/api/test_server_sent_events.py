"""Events over HTTP: a client that keeps to the standard reads what is sent, however it asks and whenever it ends."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.api import server_sent_events as sse
from hpcgate.api.server_sent_events import Event, Form
from hpcgate.errors import BadRequest, SchedulerUnavailable
from hpcgate.gateway.streams import Stream

FORMS = pytest.mark.parametrize("form", list(Form))


@dataclass
class Browser:
    """Reads a stream as the standard says (9.2.6, Interpreting an event stream), written from its text."""

    last_id: str = ""
    retry: int | None = None
    events: list[tuple[str, str, str]] = field(default_factory=list)

    def read(self, sent: bytes) -> None:
        name, data, has_data = "", "", False
        for line in re.split(r"\r\n|\n|\r", sent.decode("utf-8")):
            if not line:
                if has_data:
                    self.events.append((name or "message", data.removesuffix("\n"), self.last_id))
                name, data, has_data = "", "", False
            elif not line.startswith(":"):
                key, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if key == "event":
                    name = value
                elif key == "data":
                    data, has_data = data + value + "\n", True
                elif key == "id" and "\0" not in value:
                    self.last_id = value
                elif key == "retry" and value.isdecimal():
                    self.retry = int(value)


NAMES = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1)
IDS = st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8"), min_size=1)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=5,
)


@given(NAMES, DATA, IDS, st.integers(0, 2**31), st.sampled_from([None, 1, "\t"]))
def test_whatever_an_event_holds_a_client_reads_it(
    name: str, data: object, event_id: str, retry: int, indent: int | str | None
) -> None:
    """Data that were written over several lines, too."""
    text = json.dumps(data, ensure_ascii=False, indent=indent)
    event = Event(name, text.encode(), event_id, retry)
    browser = Browser()
    browser.read(sse.encode(event, Form.SSE) + sse.encode(Event("next", b"1"), Form.SSE))
    assert browser.events == [(name, text, event_id), ("next", "1", event_id)]
    assert browser.retry == retry
    line = sse.encode(event, Form.LINES)
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")
    assert json.loads(line) == {"event": name, "id": event_id, "retry": retry, "data": data}


@FORMS
@pytest.mark.parametrize("event", [Event("a\nb", b"1"), Event("a", b"1", "b\rc"), Event("a", b"1", "\0")])
def test_what_would_be_read_otherwise_is_not_sent(event: Event, form: Form) -> None:
    with pytest.raises(ValueError, match="line break"):
        sse.encode(event, form)


def test_a_heartbeat_is_no_event_to_a_browser_and_a_line_of_the_same_shape_to_a_script() -> None:
    browser = Browser()
    browser.read(sse.heartbeat(Form.SSE))
    assert browser.events == []
    assert json.loads(sse.heartbeat(Form.LINES)) == {"event": "heartbeat", "data": None}


ACCEPTED = {
    "": Form.SSE,
    "*/*": Form.SSE,
    "text/*": Form.SSE,
    "text/event-stream": Form.SSE,
    "application/x-ndjson": Form.LINES,
    "Application/X-NDJSON": Form.LINES,
    "application/x-ndjson;q=0.5, text/event-stream": Form.SSE,
    "application/x-ndjson; charset=utf-8, text/event-stream;q=0.9": Form.LINES,
    "application/x-ndjson, */*;q=0.1": Form.LINES,
    "application/*, text/event-stream;q=0.1": Form.LINES,
    "text/event-stream;q=0, */*": Form.LINES,
    "application/json": Form.SSE,
    "application/x-ndjson;q=much": Form.SSE,
    ",;q=1,,": Form.SSE,
}


@pytest.mark.parametrize("accept", ACCEPTED)
def test_a_client_is_sent_what_it_would_rather_have(accept: str) -> None:
    assert sse.form_of(accept) is ACCEPTED[accept]


def test_a_form_of_ones_own_can_be_offered_beside() -> None:
    offered = (*Form, "application/octet-stream")
    assert sse.preferred("application/octet-stream", offered) == "application/octet-stream"
    assert sse.preferred("*/*", offered) == Form.SSE


def test_a_browser_that_comes_back_goes_on_where_it_was_and_not_where_its_address_says() -> None:
    assert sse.resumed_after({"last-event-id": "7"}, "3") == "7"
    assert sse.resumed_after({"last-event-id": ""}, "3") == "3"
    assert sse.resumed_after({}, "") is None
    assert sse.resumed_after({}, None) is None
    with pytest.raises(BadRequest):
        sse.resumed_after({}, "x" * 2000)


class Source:
    """Events that come when they are told to."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        self.closed = False

    async def events(self) -> AsyncGenerator[Event, None]:
        try:
            while (event := await self.coming.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed = True


def stream() -> Stream:
    return Stream("events", "alice", "demo", endless=True)


@FORMS
async def test_events_are_sent_as_they_come_and_end_as_they_end(form: Form) -> None:
    source, sent = Source(), []
    event = Event("job.started", b"{}", "1")
    async for block in sse.body(source.events(), stream(), form):
        sent.append(block)
        if len(sent) == 1:
            source.coming.put_nowait(event)
        elif len(sent) == 2:
            source.coming.put_nowait(None)
    assert sent == [sse.heartbeat(form), sse.encode(event, form)]
    assert source.closed


@FORMS
async def test_while_nothing_comes_there_are_heartbeats_and_nothing_is_lost_behind_one(form: Form) -> None:
    source, sent = Source(), []
    event = Event("job.started", b"{}", "1")
    async for block in sse.body(source.events(), stream(), form, pause=0.001):
        sent.append(block)
        if len(sent) == 4:
            source.coming.put_nowait(event)
            source.coming.put_nowait(None)
    assert sent[:4] == [sse.heartbeat(form)] * 4
    assert [block for block in sent if block != sse.heartbeat(form)] == [sse.encode(event, form)]


@FORMS
@pytest.mark.parametrize(
    ("reason", "name"),
    [
        ("expired", "token.expired"),
        ("revoked", "token.revoked"),
        ("stop", "stream.closing"),
        ("reload", "stream.closing"),
    ],
)
async def test_a_stream_that_is_to_close_says_why_and_when_to_come_back(reason: str, name: str, form: Form) -> None:
    source, held, sent = Source(), stream(), []
    async for block in sse.body(source.events(), held, form):
        sent.append(block)
        # One that has come meanwhile is sent to those who come back.
        source.coming.put_nowait(Event("job.started", b"{}", "1"))
        held.close(reason)
    assert sent[0] == sse.heartbeat(form)
    (last,) = sent[1:]
    assert source.closed
    if form is Form.LINES:
        told = json.loads(last)
        assert (told["event"], "id" in told) == (name, False)
        retry = told.get("retry")
    else:
        browser = Browser()
        browser.read(last)
        assert [(told, event_id) for told, _, event_id in browser.events] == [(name, "")]
        retry = browser.retry
    assert (retry is None) == (reason in ("expired", "revoked"))
    assert retry is None or sse.RECONNECT[0] <= retry <= sse.RECONNECT[1]


async def test_clients_come_back_one_after_another() -> None:
    assert len({sse.farewell("stop").retry for _ in range(100)}) > 10


async def test_an_error_is_passed_on_and_all_is_closed() -> None:
    source = Source()
    source.coming.put_nowait(SchedulerUnavailable("down"))
    with pytest.raises(SchedulerUnavailable):
        async for _ in sse.body(source.events(), stream(), Form.SSE):
            pass
    assert source.closed
    assert len(asyncio.all_tasks()) == 1


async def test_a_client_that_leaves_leaves_nothing_running() -> None:
    source = Source()
    sending = sse.body(source.events(), stream(), Form.SSE)
    await anext(sending)
    waiting = asyncio.ensure_future(anext(sending))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await sending.aclose()  # type: ignore[attr-defined]
    assert len(asyncio.all_tasks()) == 1
