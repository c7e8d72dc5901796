from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcgate.outbound.documents import MAX_DEPTH, decoded, string_at

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
    with pytest.raises(ValueError):  # noqa: PT011
        decoded(data)


def test_what_is_wide_is_not_deep() -> None:
    assert len(decoded(b"[" + b"[]," * 999 + b"[]]")) == 1000
    assert decoded(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


@given(ANY, st.lists(st.text(), max_size=3))
def test_a_string_is_found_or_there_is_none(value: object, path: list[str]) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(string_at(value, *path), str)
