"""Events of a file that is followed: whole sequences of UTF-8, and positions that miss no byte."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.api import following
from hpcgate.api.following import MAX_TEXT, Transcript, resumed_at
from hpcgate.api.server_sent_events import Event
from hpcgate.errors import BadRequest
from hpcgate.filesystem.following.follower import Truncated, Waiting
from hpcgate.filesystem.following.view import Mark, Output


def told(event: Event) -> tuple[str, str | None, Any]:
    return event.name, event.id, json.loads(event.data)


@given(st.lists(st.binary(max_size=9) | st.text(max_size=4).map(str.encode), max_size=12), st.integers(0, 10**12))
def test_events_tell_each_byte_once_whatever_pieces_it_comes_in(pieces: list[bytes], start: int) -> None:
    """Their text is that of all pieces together, and each begins where the one before has ended."""
    content = b"".join(pieces)
    transcript, at = Transcript(), start
    events: list[Event] = []
    for piece in pieces:
        if piece:
            events += transcript.take(Output(at, piece, 7))
            at += len(piece)
    events += transcript.finish()
    text, position = "", start
    for name, identifier, data in map(told, events):
        assert (name, data["offset"]) == ("output", position)
        assert data["text"]
        text += data["text"]
        position = int(identifier or -1)
        assert Mark.parse(data["mark"]) == Mark.of(7, content[: position - start])
    assert text == content.decode("utf-8", "replace")
    assert position == start + len(content)


@pytest.mark.parametrize("cut", range(1, 7))
def test_an_unaligned_beginning_leaves_out_the_rest_of_a_sequence(cut: int) -> None:
    content = "é€x".encode()[cut - 1 :]
    transcript = Transcript(aligned=False)
    events = [told(event) for event in transcript.take(Output(100, content, 7))]
    whole = content.decode("utf-8", "ignore")
    assert [data["text"] for _, _, data in events] == [whole]
    assert [data["offset"] for _, _, data in events] == [100 + len(content) - len(whole.encode())]


def test_what_is_cut_off_by_another_file_is_told_before_it() -> None:
    transcript = Transcript(more={"stream": "stdout"})
    events = [
        *transcript.take(Waiting()),
        *transcript.take(Output(5, b"caf\xc3", 7)),
        *transcript.take(Truncated()),
        *transcript.take(Output(0, b"new", 8)),
    ]
    assert [told(event)[:2] for event in events] == [
        ("waiting", None),
        ("output", "8"),
        ("output", "9"),
        ("truncated", "0"),
        ("output", "3"),
    ]
    assert [told(event)[2].get("text") for event in events] == [None, "caf", "\ufffd", None, "new"]
    assert {told(event)[2]["stream"] for event in events} == {"stdout"}


def test_much_text_comes_in_several_events() -> None:
    content = "é".encode() * MAX_TEXT
    events = list(Transcript().take(Output(0, content, 7)))
    assert len(events) == 2
    assert "".join(told(event)[2]["text"] for event in events).encode() == content
    assert len(content) > following.MAX_TEXT


@pytest.mark.parametrize(("text", "position"), [(None, None), ("", None), ("0", (0,)), ("17,4", (17, 4))])
def test_a_client_comes_back_at_a_position(text: str | None, position: tuple[int, ...] | None) -> None:
    assert resumed_at({} if text is None else {"last-event-id": text}) == position


@pytest.mark.parametrize("text", ["x", "-1", "1,2,3", "1,", ",", " 1", "1.0", "9" * 19, "9" * 40, "\u0663"])
def test_what_is_not_a_position_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        resumed_at({"last-event-id": text})
