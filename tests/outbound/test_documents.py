from __future__ import annotations

import asyncio
import contextlib
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.outbound import documents
from hpcgate.outbound.documents import MAX_DEPTH, MAX_IN_A_ROW, decoded, decoded_in_turns, string_at

ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(ANY)
def test_json_is_read_as_it_is(value: object) -> None:
    assert decoded(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "data",
    [
        b"", b"nope", b"\xff", b"NaN", b"[Infinity]", b"-Infinity", b"1e999", b'{"exp": -1e400}', b"9" * 5000,
        b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), b'"\xed\xa0\x80"', b"{} {}", b"\xef\xbb\xbf{}",
    ],
)  # fmt: skip
def test_what_is_refused(data: bytes) -> None:
    """Documents that would cost too much, or are not JSON, are refused."""
    with pytest.raises(ValueError):  # noqa: PT011
        decoded(data)


def test_what_is_wide_is_not_deep() -> None:
    assert len(decoded(b"[" + b"[]," * 999 + b"[]]")) == 1000
    assert decoded(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


@given(ANY, st.lists(st.text(), max_size=3))
def test_a_string_is_found_or_there_is_none(value: object, path: list[str]) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(string_at(value, *path), str)


HALVES = {
    # What stands in JSON, and what is read: half of a surrogate pair is no character.
    r"\ud83d\ude00": "\N{GRINNING FACE}",
    r"\uD83D\uDE00\uDE00": "\N{GRINNING FACE}\ufffd",
    r"\ud800": "\ufffd",
    r"\udcff \udfff": "\ufffd \ufffd",
    r"\ud800\ud83d\ude00": "\ufffd\N{GRINNING FACE}",
    r"\\ud800": r"\ud800",
    r"\\\ud800": "\\\ufffd",
    r"\ud83d\\ude00": r"\ufffd\ude00".replace(r"\ufffd", "\ufffd"),
    r"\u00e4\n\"": '\u00e4\n"',
    # More of the others in a row than are matched at a time.
    r"\n" * 2500 + r"\ud800": "\n" * 2500 + "\ufffd",
    r"\\" * 2002 + r"ud800\ud800": "\\" * 2002 + "ud800\ufffd",
}


@pytest.mark.parametrize("written", HALVES, ids=range(len(HALVES)))
def test_half_a_surrogate_pair_is_replaced(written: str) -> None:
    text = f'["{written}"]'
    assert decoded(text.encode()) == decoded_in_turns(text) == [HALVES[written]]


@given(st.text(st.characters(categories=("Cs", "So", "Po")), max_size=8))
def test_whatever_is_decoded_can_be_written(value: str) -> None:
    decoded_in_turns(json.dumps(value)).encode()


MANY = MAX_IN_A_ROW + 2
IN_A_ROW = {
    # What keeps the interpreter to itself for long, were it decoded.
    "numbers": "[" + "1," * MANY + "1]",
    "lists": "[" + "[]," * MANY + "[]]",
    "strings": '["a"' + ',"a"' * MANY + "]",
    "strings that look like objects": '["}"' + ',"{}"' * MANY + "]",
    "strings with quotes": '["}"' + ',"\\"}\\\\"' * MANY + "]",
    "names": "{" + '"a":1,' * MANY + '"a":1}',
    "after objects": "[" + "{}," * 10 + "1," * MANY + "1]",
    "between objects": "[{}," + "1," * MANY + "{}]",
}


@pytest.mark.parametrize("name", IN_A_ROW)
def test_what_would_keep_the_interpreter_to_itself_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="in a row"):
        decoded_in_turns(IN_A_ROW[name])


@given(ANY, st.booleans())
def test_whatever_is_decoded_in_turns_is_what_it_is(value: object, ascii_only: bool) -> None:
    assert decoded_in_turns(json.dumps(value, ensure_ascii=ascii_only)) == value


def test_objects_may_be_as_many_as_there_are() -> None:
    value = [{"a": ["}"] * 100, "b": {"c": 'x"}\\'}}] * 20_000
    assert decoded_in_turns(json.dumps(value)) == value


async def test_others_have_their_turns_while_a_large_answer_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder gives way wherever it calls Python, and it does so for each object."""
    begun, go_on, calls = threading.Event(), threading.Event(), 0

    def hold(value: object) -> object:
        nonlocal calls
        calls += 1
        begun.set()
        assert go_on.wait(300)
        return value

    monkeypatch.setattr(documents, "_as_it_is", hold)
    decoding = asyncio.create_task(asyncio.to_thread(decoded_in_turns, json.dumps([{"a": {}}] * 1000)))
    assert await asyncio.to_thread(begun.wait, 60)
    assert not decoding.done()
    go_on.set()
    assert len(await decoding) == 1000
    assert calls == 2000
