"""Events over HTTP: server-sent events, and the same as lines of JSON for scripts.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from hpcgate.api.responses import json_of
from hpcgate.api.streaming import LINES
from hpcgate.errors import BadRequest
from hpcgate.gateway.streams import Stream

HEARTBEAT = 15.0
"""Seconds without an event after which something is sent, so that proxies and clients know that the other is there."""
RECONNECT = (1000, 10_000)
"""Milliseconds within which clients come back after a stop or a reload, each at a time of its own."""
MAX_ID = 1024
"""Most characters of an event's id that a client may come back with."""


class Form(StrEnum):
    """How events are sent; the values are media types."""

    SSE = "text/event-stream"
    LINES = LINES


@dataclass(frozen=True, slots=True)
class Event:
    """What a client is told.

    Attributes:
        name: Its kind, such as ``job.ended``.
        data: JSON text.
        id: Where a client goes on that has this event; None where it goes on as before.
        retry: Milliseconds after which a client that loses the connection comes back; None for as before.
    """

    name: str
    data: bytes
    id: str | None = None
    retry: int | None = None


def encode(event: Event, form: Form) -> bytes:
    """Return an event as it is sent.

    Raises:
        ValueError: Its name or its id cannot be sent.
    """
    if _BREAK.search(event.name) or (event.id is not None and _UNFIT_ID.search(event.id)):
        raise ValueError("a line break or NUL in the name or the id of an event")
    if form is Form.SSE:
        lines = [b"event: " + event.name.encode()]
        if event.id is not None:
            lines.append(b"id: " + event.id.encode())
        if event.retry is not None:
            lines.append(b"retry: %d" % event.retry)
        lines += [b"data: " + line for line in _BREAKS.split(event.data)]
        return b"\n".join(lines) + b"\n\n"
    # Between two tokens of JSON, where alone there can be any, a line break says nothing.
    members = [b'"event":' + json_of(event.name)]
    if event.id is not None:
        members.append(b'"id":' + json_of(event.id))
    if event.retry is not None:
        members.append(b'"retry":%d' % event.retry)
    members.append(b'"data":' + _BREAKS.sub(b" ", event.data))
    return b"{" + b",".join(members) + b"}\n"


_BREAK = re.compile(r"[\r\n]")
_UNFIT_ID = re.compile(r"[\r\n\0]")
_BREAKS = re.compile(rb"\r\n|\r|\n")


def heartbeat(form: Form) -> bytes:
    """Return what says that the stream is alive: a comment, which no client hears of, or a line of an event's shape."""
    return b": heartbeat\n\n" if form is Form.SSE else b'{"event":"heartbeat","data":null}\n'


def farewell(reason: str) -> Event:
    """Return the last event of a stream that the gateway ends.

    Args:
        reason: As in `Stream.reason`.
    """
    if reason == "expired":
        return Event("token.expired", b'{"message":"The token has expired; come back with a new one."}')
    if reason == "revoked":
        return Event("token.revoked", b'{"message":"A new request with this token would be refused."}')
    retry = random.randint(*RECONNECT)  # noqa: S311 (spread, no secret)
    return Event("stream.closing", json_of({"reason": reason}), retry=retry)


async def body(
    events: AsyncGenerator[Event, None], stream: Stream, form: Form, *, pause: float = HEARTBEAT
) -> AsyncIterator[bytes]:
    """Yield events as they are sent, until there are no more or the stream is to close.

    What has come and is not sent when the stream is to close is not: a client goes on behind what it has.

    Args:
        events: The events; closed at the end. Each is waited for in a task of its own.
        stream: As which the answer counts.
        form: How they are sent.
        pause: Seconds without an event until a heartbeat.

    Raises:
        Exception: As `events` does.
    """
    coming: asyncio.Future[Event | None] | None = None
    closing = asyncio.ensure_future(stream.closing.wait())
    try:
        # The head goes out with it, so that a client knows at once that it is heard.
        yield heartbeat(form)
        while True:
            if coming is None:
                coming = asyncio.ensure_future(_next(events))
            await asyncio.wait((coming, closing), timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if stream.reason:
                yield encode(farewell(stream.reason), form)
                return
            if not coming.done():
                yield heartbeat(form)
                continue
            event, coming = coming.result(), None
            if event is None:
                return
            yield encode(event, form)
    finally:
        waiting = [one for one in (coming, closing) if one is not None]
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await events.aclose()


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


def headers(form: Form) -> dict[str, str]:
    """Return the headers of an answer with events: nobody keeps it, and no proxy holds it back (nginx does)."""
    return {"Content-Type": form.value, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def form_of(accept: str) -> Form:
    """Return the form that a client would rather have, by its Accept header."""
    return Form(preferred(accept, tuple(Form)))


def preferred(accept: str, offered: Sequence[str]) -> str:
    """Return which of the media types offered a client would rather have (RFC 9110, section 12.5.1).

    Args:
        accept: The Accept header; empty if there is none.
        offered: Media types; the first is what is sent to a client that does not care, or wants none of them.
    """
    ranges = dict(filter(None, map(_range, accept.split(","))))

    def quality(offer: str) -> float:
        kind = offer.partition("/")[0]
        return next((ranges[each] for each in (offer, f"{kind}/*", "*/*") if each in ranges), 0.0)

    return max(offered, key=quality)


def _range(text: str) -> tuple[str, float] | None:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    weight = next((part[2:].strip() for part in parameters if part.startswith("q=")), "1")
    return (name, float(weight)) if _WEIGHT.fullmatch(weight) else None


_WEIGHT = re.compile(r"[01](?:\.[0-9]{0,3})?")


def resumed_after(given: Mapping[str, str], parameter: str | None) -> str | None:
    """Return the id of the last event that a client has; None if it has none.

    ``Last-Event-ID`` outweighs a parameter of the address: a browser that comes back sends it with the address that it
    began with.

    Args:
        given: The headers of the request, in any case.
        parameter: What the address says.

    Raises:
        BadRequest: It is longer than any id.
    """
    found = given.get("last-event-id") or parameter or None
    if found is not None and len(found) > MAX_ID:
        raise BadRequest("No event has an id as long as the one to go on after")
    return found
